//! Commands and options, and what `--help` says of them.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Looks after SQLite databases and their logs: verifies, protects, heals, recovers, checkpoints, backs up.
///
/// DATABASE is the path of the main file; its log is DATABASE-wal. Works on any SQLite database in WAL mode,
/// whether walmend or sqlite3 wrote it.
#[derive(Debug, Parser)]
#[command(
    name = "walmend",
    version,
    after_help = "Exit status: 0 all well; 1 damage found or left unhealed, or a drill that lost something; 2 it could not run.\n\
                  WALMEND_LOG=debug shows what happens inside. See it work: walmend drill"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the header, frames and commits of a log; changes nothing.
    #[command(after_help = "Example, the commit that each frame belongs to:\n  \
                            walmend inspect app.db --json --frames | jq '.wal.frames[] | [.frame, .page, .commit_seq]'")]
    Inspect(Examine),
    /// Checks every frame of a log; changes nothing. Exits 1 if there is damage.
    #[command(after_help = "Example, before a checkpoint makes damage permanent:\n  \
                            walmend verify app.db && walmend checkpoint app.db")]
    Verify(Examine),
    /// Makes the parity from which `heal` mends the log and the database file, or brings it up to date.
    #[command(
        after_help = "DATABASE-wal-fec gets about a seventh of the log's size, and DATABASE-fec about a seventh of the \
                            database's (at least 4 MB, or as much as the database has). No other file is written. \
                            Interrupted, it goes on where it stopped.\n\n\
                            Example, with no program on the database:\n  \
                            walmend protect app.db"
    )]
    Protect(Protect),
    /// Mends damaged frames of the log and pages of the database file, byte for byte, from the parity that
    /// `protect` made; keeps what was damaged.
    #[command(
        after_help = "The log as it was stays beside it, as DATABASE-wal-damaged-SECONDS-N, and the damaged pages as \
                            DATABASE-damaged-SECONDS-N. What another program has written since is never undone.\n\n\
                            Example, where verify has found damage:\n  \
                            walmend verify app.db || walmend heal app.db"
    )]
    Heal(Heal),
    /// Walks over the log and the database file at a steady rate, verifies all of it, and heals.
    #[command(after_help = "Ctrl-C ends it at any time; what was healed stays so.\n\n\
                            Example, a gigabyte in a minute, once a week:\n  \
                            walmend scrub app.db --rate 17")]
    Scrub(Scrub),
    /// Brings the files to a consistent state after a crash; refuses where commits are at stake.
    #[command(
        after_help = "Example, with a damaged log: first see what is at stake, then keep what precedes the damage:\n  \
                            walmend recover app.db\n  \
                            walmend recover app.db --on-damage salvage"
    )]
    Recover(Recover),
    /// Brings the log into the database file, and reads back from the device what it wrote.
    #[command(after_help = "Example, before copying the main file alone:\n  \
                            walmend checkpoint app.db && cp app.db backup.db")]
    Checkpoint(Checkpoint),
    /// Copies a database and its log into one consistent file, live or not; changes neither.
    #[command(
        after_help = "Works beside a walmend store and beside sqlite3 connections, which go on working. The target must \
                            not exist yet; a database of raw pages also gets a TARGET-wal-meta, which says their size.\n\n\
                            Example, one copy a day:\n  \
                            walmend backup app.db backup-$(date +%F).db"
    )]
    Backup(Backup),
    /// Proves it: writers commit in a child process that is killed again and again, and nothing may be lost.
    #[command(
        after_help = "Examples, with a database of its own and with the pages of a real one:\n  \
                            walmend drill\n  \
                            walmend drill --source app.db --kills 20"
    )]
    Drill(Drill),
    /// Measures durable commits per second by number of writers, beside what the same disk can do at most.
    #[command(
        after_help = "The raw limit: one write of the frames that so many writers would commit at once, and one \
                            fdatasync, again and again, into a file that is there already; buffered and direct, the \
                            better one counts. Commits and raw writes take turns, a tenth of a second at a time.\n\n\
                            Examples, on the disk of a folder, and with a picture:\n  \
                            walmend bench --dir /var/lib/app\n  \
                            walmend bench --writers 1,8,64 --seconds 5 --svg bench.svg"
    )]
    Bench(Bench),
    /// Prints the completions of a shell, made from the same words as this help.
    #[command(after_help = "Examples, for all users, and for one:\n  \
                            walmend completions bash > /usr/share/bash-completion/completions/walmend\n  \
                            walmend completions zsh > ~/.zfunc/_walmend\n  \
                            walmend completions fish > ~/.config/fish/completions/walmend.fish")]
    Completions(Completions),
    /// Writes the man pages, made from the same words as this help: one for each command.
    #[command(after_help = "Examples, for all users, and to look at one:\n  \
                            walmend man /usr/local/share/man/man1\n  \
                            walmend man /tmp/man && man /tmp/man/walmend-heal.1")]
    Man(Man),
    /// The process that `drill` kills.
    #[command(hide = true)]
    DrillChild,
}

impl Command {
    /// Whether the one JSON object is wanted.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Inspect(args) | Self::Verify(args) => args.target.json,
            Self::Heal(args) => args.target.json,
            Self::Scrub(args) => args.target.json,
            Self::Protect(args) => args.target.json,
            Self::Recover(args) => args.target.json,
            Self::Checkpoint(args) => args.target.json,
            Self::Backup(args) => args.target.json,
            Self::Drill(args) => args.json,
            Self::Bench(args) => args.json,
            Self::Completions(_) | Self::Man(_) | Self::DrillChild => false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The main file of the database.
    #[arg(value_name = "DATABASE")]
    pub(crate) database: PathBuf,
    /// Prints one JSON object, for scripts.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Evidence {
    /// The program that wrote the log synced every commit (SQLite with synchronous=FULL). Then whole commits
    /// behind a break were acknowledged, and the break is damage.
    #[arg(long)]
    pub(crate) writer_synced_every_commit: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Examine {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) evidence: Evidence,
    /// Lists every frame as well.
    #[arg(long)]
    pub(crate) frames: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Protect {
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Heal {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) evidence: Evidence,
    /// Pages that another program may have written since they were protected count as damaged. What it wrote
    /// there is undone.
    #[arg(long)]
    pub(crate) trust_sidecar: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Scrub {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Megabytes of the database file that are read in a second, at most. Default: as fast as it goes.
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Recover {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) evidence: Evidence,
    /// What to do where commits are at stake.
    #[arg(long, value_enum, default_value = "refuse")]
    pub(crate) on_damage: Damage,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Damage {
    /// Change nothing, and say what is at stake.
    Refuse,
    /// Copy the damaged log aside, then keep what precedes the damage.
    Salvage,
    /// Keep what precedes the damage and drop the rest, as SQLite does.
    Truncate,
}

#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    pub(crate) target: Target,
    /// How far it goes.
    #[arg(long, value_enum, default_value = "truncate")]
    pub(crate) mode: Mode,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mode {
    /// Copy what can be copied without waiting for anybody.
    Passive,
    /// Copy everything; the log stays as it is.
    Full,
    /// Copy everything; the log is written from its start again.
    Restart,
    /// Copy everything; the log becomes empty.
    Truncate,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The file to make. It must not exist yet.
    #[arg(value_name = "TARGET")]
    pub(crate) copy: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Drill {
    /// A database whose pages are used; it is only read. Without it the drill makes pages of its own.
    #[arg(long, value_name = "DB")]
    pub(crate) source: Option<PathBuf>,
    /// How many threads commit at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) writers: u32,
    /// How often the child is killed.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) kills: u32,
    /// How many bits of the log are flipped and healed, and then as many of the database file: each in a frame or page
    /// of its own, and no more among those that share parity than it can rebuild, so that there may be fewer.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) flips: u32,
    /// A new or empty folder for the files, which are kept. Default: a temporary one.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Makes the same plan as another drill did. Default: a new one.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Draws the lives as a picture as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Prints one JSON object, for scripts.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// How many writers commit at once: one row each.
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "1,2,4,8,16,64",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) writers: Vec<u32>,
    /// How long the commits of each row are measured, in seconds; the raw limit takes as long again.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Pages of its own that each commit writes.
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) pages_per_commit: u32,
    /// Bytes of a page: a power of two, 512 to 65536.
    #[arg(long, value_name = "B", default_value_t = 4096)]
    pub(crate) page_size: u32,
    /// The writers are tasks on a tokio runtime instead of threads.
    #[arg(long = "async")]
    pub(crate) tasks: bool,
    /// Where to make the folder that is measured in, and removed at the end. Default: the system's folder for
    /// temporary files.
    #[arg(long, value_name = "D")]
    pub(crate) dir: Option<PathBuf>,
    /// Draws the result as a picture as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Prints one JSON object, for scripts.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The folder for the pages; made where it is missing.
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number from 0.05 to 3600 is expected".into()),
    }
}
