//! Checkpoints, reads and commits of a store whose database file is protected, beside one whose is not.

use super::{Random, median};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend::{CheckpointMode, Options, PageNumber, Result, Store};
use walmend_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use walmend_sync::thread;

const PAGE: usize = 4096;
/// Pages of a transaction that fills the database.
const BATCH: u64 = 1000;

fn options(protect: bool) -> Options {
    Options::new()
        .repair(false)
        .protect_database(protect)
        .checkpoint_at(0)
        .log_limit(0)
}

fn commit(store: &Store, pages: &[u32], random: &mut Random) -> Result<()> {
    let mut image = vec![0; PAGE];
    for batch in pages.chunks(BATCH as usize) {
        let mut txn = store.begin()?;
        for &page in batch {
            random.fill(&mut image);
            txn.write(PageNumber::new(page)?, image.clone())?;
        }
        txn.commit().into_result()?;
    }
    Ok(())
}

/// A store whose database file has so many pages of random bytes, opened again so that its protection is made.
fn full(folder: &Path, name: &str, pages: u32, options: impl Fn() -> Options) -> Result<Store> {
    let path = folder.join(name);
    let (store, _) = Store::open(&path, self::options(false))?;
    let all: Vec<u32> = (1..=pages).collect();
    commit(&store, &all, &mut Random(1))?;
    store.checkpoint(CheckpointMode::Truncate)?;
    store.close()?;
    Ok(Store::open(&path, options())?.0)
}

fn pages_of(mb: u64) -> u32 {
    u32::try_from(mb * 1_000_000 / PAGE as u64).unwrap_or(u32::MAX)
}

/// So many different pages of a database, or all of them, ascending.
fn some(random: &mut Random, wanted: u32, of: u32) -> Vec<u32> {
    if wanted >= of {
        return (1..=of).collect();
    }
    let mut pages = std::collections::BTreeSet::new();
    while pages.len() < wanted as usize {
        pages.insert(1 + (random.next() % u64::from(of)) as u32);
    }
    pages.into_iter().collect()
}

/// How long checkpoints take.
pub(super) fn checkpoints(folder: &Path, mb: u64, rounds: u64) -> Result<()> {
    let of = pages_of(mb);
    let with = full(folder, "with.db", of, || options(true))?;
    let without = full(folder, "without.db", of, || options(false))?;
    println!("a database of {mb} MB, checkpoints in ms, medians of {rounds} (all pages: 3), least to most");
    println!("  pages  with protection        without                more");
    for wanted in [10, 1000, of] {
        let rounds = if wanted == of { rounds.min(3) } else { rounds };
        let mut times = [Vec::new(), Vec::new()];
        let mut random = Random(u64::from(wanted));
        for round in 0..=rounds {
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            let pages = some(&mut random, wanted, of);
            for place in order {
                let store = [&with, &without][place];
                commit(store, &pages, &mut Random(round))?;
                let started = Instant::now();
                store.checkpoint(CheckpointMode::Restart)?;
                // The first round warms up.
                if round > 0 {
                    times[place].push(started.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        let [with, without] = times;
        println!(
            "{wanted:>7}  {}  {}  {:>6.1} ms",
            spread(&with),
            spread(&without),
            median(with.clone()) - median(without.clone())
        );
    }
    assert!(
        with.stats().protection.is_some_and(|stats| stats.in_step),
        "the protection has failed"
    );
    with.close()?;
    without.close()
}

fn spread(times: &[f64]) -> String {
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let most = times.iter().copied().fold(0.0, f64::max);
    format!("{:>7.1} ({least:.1} to {most:.1})", median(times.to_vec()))
}

/// How long a page of the database file takes to read.
pub(super) fn reads(folder: &Path, mb: u64, rounds: u64) -> Result<()> {
    const READS: u64 = 200_000;
    let of = pages_of(mb);
    let verified = full(folder, "verified.db", of, || options(true))?;
    let unverified = full(folder, "unverified.db", of, || options(false))?;
    println!(
        "a database of {mb} MB in the page cache, one page read at a snapshot in ns, medians of {rounds}"
    );
    println!("threads  order       verified  unverified  more");
    for threads in [1, 2] {
        for in_order in [true, false] {
            let mut times = [Vec::new(), Vec::new()];
            for round in 0..=rounds {
                for place in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                    let store = [&verified, &unverified][place];
                    let per_read = read(store, threads, READS, (of, in_order))?;
                    if round > 0 {
                        times[place].push(per_read);
                    }
                }
            }
            let [verified, unverified] = times.map(median);
            let order = if in_order { "in order" } else { "at random" };
            println!(
                "{threads:>7}  {order:<10}  {verified:>8.0}  {unverified:>10.0}  {:>4.0}",
                verified - unverified
            );
        }
    }
    verified.close()?;
    unverified.close()
}

/// Nanoseconds per read of one thread.
fn read(store: &Store, threads: usize, reads: u64, (of, in_order): (u32, bool)) -> Result<f64> {
    let snapshot = store.snapshot()?;
    let failed = AtomicBool::new(false);
    let time = walmend_benches::timed_threads(threads, |thread| {
        let mut random = Random(thread as u64);
        let mut page = [0; PAGE];
        for number in 0..reads {
            let wanted = if in_order {
                number + thread as u64 * 1000
            } else {
                random.next()
            };
            let wanted = PageNumber::new(1 + (wanted % u64::from(of)) as u32);
            let done = wanted.and_then(|wanted| snapshot.read_into(wanted, &mut page));
            if done.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
        }
    });
    assert!(!failed.into_inner(), "a page could not be read");
    Ok(time.as_secs_f64() * 1e9 / reads as f64)
}

/// Commits per second beside a scrub and without it, in turns.
pub(super) fn scrub(folder: &Path, mb: u64, rate: u64, seconds: u64) -> Result<()> {
    const TURN: Duration = Duration::from_millis(1000);
    const WRITERS: u32 = 8;
    let store = full(folder, "scrubbed.db", pages_of(mb), || {
        Options::new()
            .protect_database(true)
            .scrub(rate * 1_000_000, Duration::ZERO)
    })?;
    let compared = || {
        let stats = store.stats().protection.and_then(|stats| stats.scrub);
        stats.map_or(0, |stats| stats.bytes)
    };
    let (mut rates, mut ratios, before) = ([Vec::new(), Vec::new()], Vec::new(), compared());
    for turn in 0..(seconds * 1000 / TURN.as_millis() as u64 / 2).max(2) {
        let mut pair = [0.0; 2];
        for place in if turn % 2 == 0 { [0, 1] } else { [1, 0] } {
            store.pause_scrub(place == 1);
            pair[place] = commits(&store, WRITERS, TURN)?;
        }
        if turn > 0 {
            rates[0].push(pair[0]);
            rates[1].push(pair[1]);
            ratios.push(pair[0] / pair[1]);
        }
    }
    let [with, without] = rates.map(median);
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    println!("{WRITERS} writers, a database of {mb} MB, a scrub at {rate} MB/s on and off in turns of 1 s");
    println!(
        "commits/s: {with:.0} beside it, {without:.0} without; of the pairs: median {:.3} ({least:.3} to {most:.3}); {} MB compared",
        median(ratios),
        (compared() - before) / 1_000_000
    );
    store.close()
}

fn commits(store: &Store, writers: u32, time: Duration) -> Result<f64> {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    let ends: Vec<Result<()>> = thread::scope(|scope| {
        let write = |writer: u32| {
            let (stop, count) = (&stop, &count);
            move || -> Result<()> {
                let image: Arc<[u8]> = vec![writer as u8; PAGE].into();
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut txn = store.begin()?;
                    // 64 pages of its own each.
                    let page = 2 + writer * 64 + round % 64;
                    txn.write(PageNumber::new(page)?, image.clone())?;
                    txn.commit().into_result()?;
                    count.fetch_add(1, Ordering::Relaxed);
                    round += 1;
                }
                Ok(())
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
    let rate = count.into_inner() as f64 / started.elapsed().as_secs_f64();
    ends.into_iter().collect::<Result<()>>().map(|()| rate)
}
