//! Whether a store that commits for long stays as large as it is: memory, threads, descriptors and files, sampled
//! while writers commit and the log is begun anew beside them. Prints a table.
//!
//! `cargo bench -p walmend-benches --bench endurance [-- --commits N] [--writers N] [--repair 0]`; 200,000 commits of 64
//! writers with repair symbols unless told otherwise. With few commits, also the program to count system calls of.
#![allow(clippy::print_stdout, reason = "it is a program that reports")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use walmend::{CommitOutcome, Error, Options, PageNumber, Result, Store};
use walmend_benches::{option, resident};
use walmend_sync::atomic::{AtomicU64, Ordering};
use walmend_sync::thread;

/// Pages of its own that each writer goes around in.
const PAGES: u32 = 64;
/// Lines of the table.
const SAMPLES: u64 = 10;
/// The log is brought into the database at this size, and takes no more commits at four times that.
const CHECKPOINT_AT: u64 = 32 << 20;

/// What the writers have done so far.
#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    commits: AtomicU64,
    /// Commits that were refused because the log was full, and tried again.
    refused: AtomicU64,
}

fn main() -> Result<()> {
    let commits = option("--commits").unwrap_or(200_000);
    let writers = option("--writers").map_or(64, |writers| writers.clamp(1, 1024) as u32);
    let folder =
        tempfile::tempdir_in(std::env::var_os("WALMEND_BENCH_DIR").unwrap_or_else(|| "target".into()))
            .map_err(|error| Error::io("create", Path::new("target"), None, error))?;
    let options = Options::new()
        .repair(option("--repair") != Some(0))
        .checkpoint_at(CHECKPOINT_AT)
        .log_limit(CHECKPOINT_AT * 4);
    let store = Store::open(folder.path().join("a.db"), options)?.0;
    let progress = Progress::default();
    println!(
        "   commits  seconds  commits/s  RSS KiB  threads  files  db KiB  log KiB  sidecar KiB  checkpoints  refused"
    );
    thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|writer| {
                let (store, progress) = (&store, &progress);
                scope.spawn(move || write(store, progress, writer, commits))
            })
            .collect();
        let (mut last, mut line) = ((0, Instant::now()), 1);
        let started = last.1;
        while line <= SAMPLES {
            thread::sleep(Duration::from_millis(20));
            let now = (progress.commits.load(Ordering::Relaxed), Instant::now());
            let stopped = writers.iter().all(|writer| writer.is_finished());
            if now.0 >= commits * line / SAMPLES || stopped {
                let rate = (now.0 - last.0) as f64 / (now.1 - last.1).as_secs_f64();
                sample(&store, folder.path(), &progress, started.elapsed(), rate);
                (last, line) = (now, if stopped { SAMPLES + 1 } else { line + 1 });
            }
        }
        writers
            .into_iter()
            .filter_map(|writer| writer.join().ok())
            .collect::<Result<()>>()
    })?;
    let stats = store.stats();
    println!(
        "batches {}, conflicts {}, failed {}, repair failed {}",
        stats.batches,
        stats.conflicts,
        stats.failed,
        stats.repair.map_or(0, |repair| repair.failed_commits)
    );
    store.close()
}

fn write(store: &Store, progress: &Progress, writer: u32, commits: u64) -> Result<()> {
    let mut round = 0;
    while progress.begun.fetch_add(1, Ordering::Relaxed) < commits {
        let page = PageNumber::new(2 + writer * PAGES + round % PAGES)?;
        round += 1;
        loop {
            let mut txn = store.begin()?;
            txn.write(page, vec![round as u8; 4096])?;
            match txn.commit() {
                // The log is at its limit: the checkpoint is to catch up.
                CommitOutcome::NotCommitted {
                    reason: Error::Busy(_),
                } => {
                    progress.refused.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
                outcome => {
                    outcome.into_result()?;
                    break;
                }
            }
        }
        progress.commits.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn sample(store: &Store, folder: &Path, progress: &Progress, time: Duration, rate: f64) {
    let entries = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
    let kib = |suffix: &str| {
        let path = folder.join(format!("a.db{suffix}"));
        fs::metadata(path).map_or(0, |file| file.len() >> 10)
    };
    println!(
        "{:>10}  {:>7.1}  {rate:>9.0}  {:>7}  {:>7}  {:>5}  {:>6}  {:>7}  {:>11}  {:>11}  {:>7}",
        progress.commits.load(Ordering::Relaxed),
        time.as_secs_f64(),
        resident() >> 10,
        entries("/proc/self/task"),
        entries("/proc/self/fd"),
        kib(""),
        kib("-wal"),
        kib("-wal-fec"),
        store.stats().automatic_checkpoints,
        progress.refused.load(Ordering::Relaxed),
    );
}
