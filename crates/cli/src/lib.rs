//! `walmend`: looks into SQLite write-ahead logs, verifies, protects, heals, recovers, checkpoints and backs them up,
//! drills, and measures.
//!
//! `docs/` and the crate's README tell what the commands are for. The names of commands, options and JSON
//! fields, and the exit codes, are fixed: scripts depend on them.

mod args;
mod backup;
mod bars;
mod bench;
mod checkpoint;
mod commits;
mod database;
mod drill;
mod folder;
mod format;
mod heal;
mod inspect;
mod interrupt;
mod locked;
mod manual;
mod output;
mod progress;
mod protect;
mod recover;
mod report;
mod sidecar;
mod svg;

use args::{Cli, Command};
use clap::Parser;
use output::{Output, Status};
use std::ffi::OsString;
use walmend_error::{Error, Result};

/// Runs the program with its arguments, of which the first is its name; answers its exit status: 0, 1 or 2.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error, &args).code(),
    };
    let out = Output::new(cli.command.json());
    let status = start_log().and_then(|()| run(&cli.command, &out));
    status.unwrap_or_else(|error| out.failure(&error)).code()
}

fn run(command: &Command, out: &Output) -> Result<Status> {
    match command {
        Command::Inspect(args) | Command::Verify(args) => inspect::run(args, out),
        Command::Heal(args) => heal::run(args, out),
        Command::Scrub(args) => heal::scrub(args, out),
        Command::Protect(args) => protect::run(args, out),
        Command::Recover(args) => recover::run(args, out),
        Command::Checkpoint(args) => checkpoint::run(args, out),
        Command::Backup(args) => backup::run(args, out),
        Command::Drill(args) => drill::run(args, out),
        Command::Bench(args) => bench::run(args, out),
        Command::Completions(args) => manual::completions(args, out),
        Command::Man(args) => manual::pages(args),
        Command::DrillChild => drill::child(),
    }
}

/// Sends what the libraries report to standard error, if `WALMEND_LOG` asks for it.
fn start_log() -> Result<()> {
    let Ok(wanted) = std::env::var("WALMEND_LOG") else {
        return Ok(());
    };
    let filter = tracing_subscriber::EnvFilter::try_new(&wanted)
        .map_err(|error| Error::Invalid(format!("WALMEND_LOG={wanted} is not a log filter: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}
