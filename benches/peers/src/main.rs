//! Durable commits per second of walmend and of other embedded stores, side by side: `cargo xtask peers`.
//!
//! One commit is one 4 KiB value replaced, durable on return; T threads commit back to back. All systems take
//! turns, in several rounds; the medians over the rounds count, and only ratios from one run mean anything.

mod engines;
mod load;
mod report;
mod targets;

// The clock, the raw limit, walmend's writers and the chart are those of `walmend bench`, so that both mean the
// same. They belong to a program, which is no dependency that one can have.
#[path = "../../../crates/cli/src/bench/driver.rs"]
mod driver;
#[path = "../../../crates/cli/src/bench/raw.rs"]
mod raw;
#[path = "../../../crates/cli/src/bench/store.rs"]
mod store;
#[path = "../../../crates/cli/src/svg.rs"]
mod svg;

use clap::Parser;
use driver::{Tally, on_threads};
use engines::{Engine, PEERS, VALUE};
use load::Load;
use raw::RawFile;
use report::Report;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use store::Bench;
use walmend::PageSize;
use walmend_error::{Error, Result};

/// Bytes that one commit puts into walmend's log, and one raw write per writer to the file.
const FRAME: usize = VALUE + 24;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask peers", about = "walmend beside other embedded stores")]
struct Options {
    /// How often everything is measured.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each system is measured in each round, for each number of writers.
    #[arg(long, value_name = "S", default_value_t = 0.25)]
    seconds: f64,
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "1,2,4,8,16,64",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    writers: Vec<u32>,
    /// Where to make the folder that is measured in, and removed at the end.
    #[arg(long, value_name = "D")]
    dir: Option<PathBuf>,
    /// Where peers.md, peers.csv and peers.svg go.
    #[arg(long, value_name = "D", default_value = "target/peers-report")]
    out: PathBuf,
    /// One short round, to see that everything runs.
    #[arg(long)]
    smoke: bool,
}

/// A measurement is repeated if others used more than this share of the processors meanwhile.
const CALM: f64 = 0.2;

/// What is measured.
#[derive(Clone, Copy)]
enum Subject {
    Raw {
        direct: bool,
    },
    Walmend {
        tasks: bool,
        repair: bool,
    },
    Peer {
        open: fn(&Path, usize) -> Result<Box<dyn Engine>>,
    },
}

fn subjects() -> Vec<(&'static str, Subject)> {
    let mut all = vec![
        (
            report::WALMEND,
            Subject::Walmend {
                tasks: false,
                repair: true,
            },
        ),
        (
            report::TASKS,
            Subject::Walmend {
                tasks: true,
                repair: true,
            },
        ),
        (
            report::NO_REPAIR,
            Subject::Walmend {
                tasks: false,
                repair: false,
            },
        ),
        (report::RAW_BUFFERED, Subject::Raw { direct: false }),
        (report::RAW_DIRECT, Subject::Raw { direct: true }),
    ];
    all.extend(PEERS.iter().map(|&(name, open)| (name, Subject::Peer { open })));
    all
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.smoke {
        options.rounds = 1;
        options.seconds = 0.1;
        options.writers = vec![1, 4];
    }
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<()> {
    let length = Duration::try_from_secs_f64(options.seconds)
        .ok()
        .filter(|length| (Duration::from_millis(10)..=Duration::from_secs(3600)).contains(length))
        .ok_or_else(|| Error::Invalid("--seconds is a number from 0.01 to 3600".into()))?;
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new()
        .prefix("walmend-peers-")
        .tempdir_in(&parent)
        .map_err(|error| Error::io("create a folder in", &parent, None, error))?;
    let started = Instant::now();
    let subjects = subjects();
    let mut report = Report::new(options, folder.path(), &subjects);
    // On a machine that is never calm the run must end all the same: half as long again, at most.
    let mut repeats = options.rounds as usize * options.writers.len() * subjects.len() / 2;
    for round in 0..options.rounds as usize {
        for (column, &writers) in options.writers.iter().enumerate() {
            for turn in 0..subjects.len() {
                // Another neighbour in each round: what one leaves behind does not always hit the same other.
                let number = (turn + round) % subjects.len();
                let (name, subject) = subjects[number];
                let measured = calmest(&mut repeats, || {
                    run(subject, folder.path(), writers as usize, length)
                })
                .map_err(|error| Error::Invalid(format!("{name} with {writers} writers: {error}")))?;
                if let Some(measured) = measured {
                    report.add(number, column, &measured)?;
                }
            }
        }
        eprintln!("round {} of {} done", round + 1, options.rounds);
    }
    report.write(&options.out, started.elapsed())
}

/// What one subject did once.
struct Measured {
    tallies: Vec<Tally>,
    /// Commits that one measured step stands for.
    per_step: f64,
    /// Commits and syncs, where they can be counted.
    syncs: Option<(u64, u64)>,
    /// The share of the machine that others used meanwhile.
    others: f64,
}

impl Measured {
    /// Runs the measured part and nothing else.
    fn of(steps: impl FnOnce() -> Result<Vec<Tally>>, per_step: usize) -> Result<Self> {
        let before = Load::now()?;
        let tallies = steps()?;
        Ok(Self {
            tallies,
            per_step: per_step as f64,
            syncs: None,
            others: before.share_of_others_since()?,
        })
    }
}

/// Measures again where others disturbed it, while there are repeats left, and answers the least disturbed one.
fn calmest(
    repeats: &mut usize,
    mut run: impl FnMut() -> Result<Option<Measured>>,
) -> Result<Option<Measured>> {
    let mut best = run()?;
    while let Some(measured) = &best
        && measured.others > CALM
        && *repeats > 0
    {
        *repeats -= 1;
        let again = run()?;
        if again.as_ref().is_some_and(|again| again.others < measured.others) {
            best = again;
        }
    }
    Ok(best)
}

/// One subject once, in a new folder; `None` if this file system has no such thing.
fn run(subject: Subject, parent: &Path, writers: usize, length: Duration) -> Result<Option<Measured>> {
    let folder =
        tempfile::tempdir_in(parent).map_err(|error| Error::io("create a folder in", parent, None, error))?;
    let folder = folder.path();
    match subject {
        Subject::Raw { direct } => {
            let mut raw = RawFile::create(&folder.join("raw"), writers * FRAME)?;
            if direct && !raw.has_direct() {
                return Ok(None);
            }
            let mut step = || match direct {
                true => raw.write_direct(),
                false => raw.write_buffered(),
            };
            let mut steps = [&mut step];
            Measured::of(|| on_threads(&mut steps, length), writers).map(Some)
        }
        Subject::Walmend { tasks, repair } => {
            let page_size = PageSize::new(VALUE as u32)?;
            let mut bench = Bench::create(&folder.join("a.db"), page_size, writers as u32, 1, tasks, repair)?;
            // The log grows to its length before it counts, as it has in any store that runs for a while.
            bench.run(length)?;
            bench.reset_log()?;
            let before = bench.stats();
            let mut measured = Measured::of(|| bench.run(length), 1)?;
            let after = bench.stats();
            measured.syncs = Some((after.commits - before.commits, after.syncs - before.syncs));
            bench.close()?;
            Ok(Some(measured))
        }
        Subject::Peer { open } => {
            let engine = open(folder, writers)?;
            let commits = |writer| {
                let mut value = vec![writer as u8; VALUE];
                let (engine, mut version) = (&engine, 0_u64);
                move || {
                    version += 1;
                    value[..8].copy_from_slice(&version.to_le_bytes());
                    engine.commit(writer, &value)
                }
            };
            let mut commits: Vec<_> = (0..writers).map(commits).collect();
            on_threads(&mut commits, length / 2)?;
            Measured::of(|| on_threads(&mut commits, length), 1).map(Some)
        }
    }
}
