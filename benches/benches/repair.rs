//! What repair costs: durable commits with it beside the same without, in turns, in one run. Prints a table.
//!
//! `cargo bench -p walmend-benches --bench repair [-- --seconds S] [--overload S]`. `--overload` lets 64 writers commit for
//! so long instead, and prints how much memory the process has meanwhile.
#![allow(clippy::print_stdout, reason = "it is a program that reports")]

use std::path::Path;
use std::time::{Duration, Instant};
use walmend::{CheckpointMode, Options, PageNumber, Result, Store};
use walmend_benches::{option, resident};
use walmend_sync::atomic::{AtomicBool, Ordering};
use walmend_sync::thread;

/// One turn.
const TURN: Duration = Duration::from_millis(200);
/// Repair is waited for after each turn, outside of the measurement.
const LONG: Duration = Duration::from_secs(60);
/// Pages of its own that each writer goes around in.
const PAGES: u32 = 64;

fn main() -> Result<()> {
    let folder =
        tempfile::tempdir_in(std::env::var_os("WALMEND_BENCH_DIR").unwrap_or_else(|| "target".into()))
            .map_err(|error| walmend::Error::io("create", Path::new("target"), None, error))?;
    match option("--overload") {
        Some(seconds) => overload(folder.path(), Duration::from_secs(seconds)),
        None => {
            println!(
                "writers  commits/s with  without  ratio  p50/p99 us with    without  window p50 ms  p99 ms  sidecar/log bytes"
            );
            [1, 8, 64]
                .into_iter()
                .try_for_each(|writers| cost(folder.path(), writers, option("--seconds").unwrap_or(8)))
        }
    }
}

fn open(folder: &Path, name: String, repair: bool) -> Result<Store> {
    Ok(Store::open(folder.join(name), Options::new().repair(repair))?.0)
}

fn cost(folder: &Path, writers: u32, seconds: u64) -> Result<()> {
    let with = open(folder, format!("with-{writers}.db"), true)?;
    let without = open(folder, format!("without-{writers}.db"), false)?;
    let turns = (Duration::from_secs(seconds).as_millis() / TURN.as_millis() / 2).max(2);
    let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    let mut latencies = [Vec::new(), Vec::new()];
    for turn in 0..turns {
        // Who goes first takes turns as well.
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut pair = [0.0; 2];
        for place in order {
            let store = [&with, &without][place];
            let (rate, mut took) = commits(store, writers, TURN)?;
            pair[place] = rate;
            latencies[place].append(&mut took);
            store.wait_for_repair(LONG)?;
        }
        if turn > 0 {
            rates[0].push(pair[0]);
            rates[1].push(pair[1]);
            ratios.push(pair[0] / pair[1]);
        }
        if turn % 8 == 7 {
            with.checkpoint(CheckpointMode::Restart)?;
            without.checkpoint(CheckpointMode::Restart)?;
        }
    }
    let [of_with, of_without] = rates.map(median);
    let [took_with, took_without] = latencies.map(|mut took| {
        took.sort_unstable();
        let quantile = |percent: usize| took.get(took.len() * percent / 100).map_or(0, |ns| ns / 1000);
        format!("{}/{}", quantile(50), quantile(99))
    });
    let repair = with
        .stats()
        .repair
        .unwrap_or_else(|| unreachable!("it was switched on"));
    println!(
        "{writers:>7}  {of_with:>14.0}  {of_without:>7.0}  {:>5.3}  {took_with:>15}  {took_without:>9}  {:>13.1}  {:>6.1}  {:>17.3}",
        median(ratios),
        repair.window_p50.as_secs_f64() * 1e3,
        repair.window_p99.as_secs_f64() * 1e3,
        repair.parity_bytes as f64 / repair.frame_bytes as f64
    );
    Ok(())
}

/// Commits per second of so many writers, each of which commits one page of its own at a time, and how long each commit
/// took, in nanoseconds.
fn commits(store: &Store, writers: u32, time: Duration) -> Result<(f64, Vec<u64>)> {
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let ends: Vec<Result<Vec<u64>>> = thread::scope(|scope| {
        let write = |writer: u32| {
            let stop = &stop;
            move || -> Result<Vec<u64>> {
                let mut took = Vec::new();
                let image: std::sync::Arc<[u8]> = vec![writer as u8; 4096].into();
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut txn = store.begin()?;
                    txn.write(
                        PageNumber::new(2 + writer * PAGES + round % PAGES)?,
                        image.clone(),
                    )?;
                    let began = Instant::now();
                    txn.commit().into_result()?;
                    took.push(began.elapsed().as_nanos() as u64);
                    round += 1;
                }
                Ok(took)
            }
        };
        let threads: Vec<_> = (0..writers).map(|writer| scope.spawn(write(writer))).collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let took = ends.into_iter().collect::<Result<Vec<_>>>()?.concat();
    Ok((took.len() as f64 / seconds, took))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// 64 writers, five seconds at a time, and a checkpoint in between that resets the log.
fn overload(folder: &Path, time: Duration) -> Result<()> {
    let store = open(folder, "overload.db".into(), true)?;
    println!("seconds  RSS MiB  log frames  lag frames  queue  groups");
    let started = Instant::now();
    while started.elapsed() < time {
        let (rate, _) = commits(&store, 64, Duration::from_secs(5))?;
        let stats = store.stats();
        let Some(repair) = stats.repair else { continue };
        println!(
            "{:>7}  {:>7}  {:>10}  {:>10}  {:>5}  {:>6}  ({rate:.0} commits/s, {} failed)",
            started.elapsed().as_secs(),
            resident() >> 20,
            stats.log_frames,
            repair.lag_frames,
            repair.queue_depth,
            repair.groups,
            repair.failed_commits
        );
        store.checkpoint(CheckpointMode::Restart)?;
    }
    Ok(())
}
