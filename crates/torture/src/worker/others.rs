//! Those who do not commit: readers, checkpoints, backups; and who looks for leaks.

use super::{Bench, Place};
use crate::protocol::{Line, Pairs};
use std::fs;
use std::path::Path;
use std::time::Duration;
use walmend::{CheckpointMode, Error, Snapshot};
use walmend_proof::Random;
use walmend_sync::atomic::Ordering;
use walmend_sync::thread;

/// Cells that a reader looks at.
const LOOKS_AT: u32 = 100;
/// Threads that have ended may take a moment to be gone.
const SETTLES: Duration = Duration::from_secs(5);

/// What a snapshot shows in a cell; 0 if nobody has written it.
///
/// # Errors
/// What is wrong, or why it cannot be read.
pub(super) fn cell(place: &Place<'_>, snapshot: &Snapshot, cell: u32) -> Result<u64, String> {
    let page = place.page(cell);
    if page.get() > snapshot.db_pages() {
        return Ok(0);
    }
    let bytes = snapshot.read(page).map_err(|error| error.to_string())?;
    let txn = place.layout.txn(cell, &bytes).inspect_err(|text| {
        place.wrong(format!("a snapshot at {} showed: {text}", snapshot.commit_seq()));
    })?;
    Ok(txn.unwrap_or(0))
}

/// A reader: takes a snapshot, looks, holds it while others go on, and looks again.
pub(super) fn read(place: &Place<'_>, number: u32, seed: u64) {
    let steps = place
        .bench
        .part(format!("reader {number} of store {}", place.number));
    let mut random = Random(seed);
    while !place.bench.stopped() {
        steps.next();
        let Ok(snapshot) = place.store.snapshot() else {
            return;
        };
        let cells = place.layout.len();
        let first = random.below(u64::from(cells)) as u32;
        let looked = (0..cells.min(LOOKS_AT)).map(|at| (first + at) % cells);
        let looked: Vec<u32> = looked.collect();
        let seen = look(place, &snapshot, &looked);
        let hold = match random.below(10) {
            0 => 2000,
            1..4 => 200,
            _ => 20,
        };
        place.bench.rest(Duration::from_millis(random.below(hold)));
        steps.next();
        let again = look(place, &snapshot, &looked);
        if let (Some(seen), Some(again)) = (seen, again) {
            if seen != again {
                let differ = seen.iter().zip(&again).find(|(one, other)| one != other);
                place.wrong(format!(
                    "the snapshot at {} changed: {differ:?}",
                    snapshot.commit_seq()
                ));
            }
            place.bench.samples[2].fetch_add(looked.len() as u64 * 2, Ordering::Relaxed);
            if !place.bench.task.soak {
                place.bench.say(&Line::Snapshot {
                    store: place.number,
                    seq: snapshot.commit_seq().0,
                    cells: seen,
                });
            }
        }
        drop(snapshot);
        place.bench.rest(Duration::from_millis(random.below(20)));
    }
}

fn look(place: &Place<'_>, snapshot: &Snapshot, cells: &[u32]) -> Option<Pairs> {
    let mut seen = Pairs::new();
    for number in cells {
        match snapshot_error(place, snapshot, *number) {
            Ok(txn) => seen.push((*number, txn)),
            Err(error) => {
                if !matches!(error, Error::Closed { .. }) {
                    place.bench.fault(place.number, "read", &error);
                }
                return None;
            }
        }
    }
    Some(seen)
}

/// Like [`cell`], telling the error of a read apart from what is wrong.
fn snapshot_error(place: &Place<'_>, snapshot: &Snapshot, number: u32) -> Result<u64, Error> {
    let page = place.page(number);
    if page.get() > snapshot.db_pages() {
        return Ok(0);
    }
    let bytes = snapshot.read(page)?;
    match place.layout.txn(number, &bytes) {
        Ok(txn) => Ok(txn.unwrap_or(0)),
        Err(text) => {
            place.wrong(format!("the snapshot at {}: {text}", snapshot.commit_seq()));
            Err(Error::Closed { what: "this look" })
        }
    }
}

/// Checkpoints in all modes, beside the store's own.
pub(super) fn checkpoint(place: &Place<'_>, seed: u64) {
    const MODES: [CheckpointMode; 4] = [
        CheckpointMode::Passive,
        CheckpointMode::Full,
        CheckpointMode::Restart,
        CheckpointMode::Truncate,
    ];
    let steps = place.bench.part(format!("checkpoints of store {}", place.number));
    let mut random = Random(seed);
    while !place.bench.stopped() {
        steps.next();
        place.bench.rest(Duration::from_millis(random.below(300)));
        if place.bench.stopped() {
            return;
        }
        place.bench.say(&Line::Checkpoint { store: place.number });
        let done = place.store.checkpoint(*random.pick(&MODES));
        place.bench.say(&Line::Checkpointed { store: place.number });
        match done {
            Ok(_) => {
                place.bench.samples[3].fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::Busy(_) | Error::BusyRecovery { .. } | Error::Closed { .. }) => {}
            Err(error) => place.bench.fault(place.number, "checkpoint", &error),
        }
        protection(place);
    }
}

/// What a store says of its protection must not be worse than what was done to it.
fn protection(place: &Place<'_>) {
    let stats = place.store.stats();
    if let Some(protection) = &stats.protection {
        if !protection.lost_pages.is_empty() {
            place.wrong(format!("pages count as lost: {:?}", protection.lost_pages));
        }
        if !protection.in_step {
            let error = Error::Internal("the protection of the database is not in step".into());
            place.bench.fault(place.number, "protection", &error);
        }
        if let Some(scrub) = &protection.scrub {
            place.bench.samples[5].store(scrub.bytes, Ordering::Relaxed);
        }
    }
    if let Some(repair) = &stats.repair
        && repair.failed_commits > 0
    {
        let text = format!(
            "{} commits are not repairable: {:?}",
            repair.failed_commits, repair.last_failure
        );
        place.bench.fault(place.number, "repair", &Error::Internal(text));
    }
}

/// Backups, each of which is read in full.
pub(super) fn back_up(place: &Place<'_>, seed: u64) {
    let steps = place.bench.part(format!("backups of store {}", place.number));
    let mut random = Random(seed);
    while !place.bench.stopped() {
        steps.next();
        // A large copy again and again would leave the disk to nobody else.
        let pause = if place.bench.task.soak { 20_000 } else { 200 };
        place.bench.rest(Duration::from_millis(pause + random.below(800)));
        if place.bench.stopped() {
            return;
        }
        let copy = place.copy();
        for suffix in crate::files::SUFFIXES {
            let _ = fs::remove_file(crate::files::with(&copy, suffix));
        }
        let low = place.store.stats().commit_seq.0;
        if let Err(error) = place.store.backup(&copy) {
            if !matches!(error, Error::Closed { .. }) {
                place.bench.fault(place.number, "backup", &error);
            }
            continue;
        }
        let high = place.store.stats().commit_seq.0;
        let cells = match crate::files::cells(&copy, place.layout) {
            Ok(cells) => cells,
            Err(text) => {
                // Reading it may fail where descriptors or memory are short.
                if place.bench.task.squeeze.is_some() {
                    continue;
                }
                return place.wrong(format!("a backup: {text}"));
            }
        };
        place.bench.samples[4].fetch_add(1, Ordering::Relaxed);
        let cells: Vec<(u32, u64)> = (0..place.layout.len())
            .map(|cell| (cell, cells.get(&u64::from(cell)).copied().unwrap_or(0)))
            .collect();
        if !place.bench.task.soak {
            // What does not fit into one line is judged in parts: each has to fit by itself.
            for part in cells.chunks(150) {
                place.bench.say(&Line::Backup {
                    store: place.number,
                    low,
                    high,
                    cells: part.to_vec(),
                });
            }
        }
    }
}

/// Adds up what the stores count, for the samples of a soak.
pub(super) fn sample(bench: &Bench, places: &[Place<'_>]) {
    while !bench.stopped() {
        bench.rest(Duration::from_secs(2));
        let syncs = places.iter().map(|place| place.store.stats().syncs).sum();
        bench.samples[1].store(syncs, Ordering::Relaxed);
        let mut values = [0; 6];
        for (value, sample) in values.iter_mut().zip(&bench.samples) {
            *value = sample.load(Ordering::Relaxed);
        }
        bench.say(&Line::Sample(values));
    }
}

/// At the end of a soak: each cell holds its newest commit.
pub(super) fn compare(place: &Place<'_>) {
    let Ok(snapshot) = place.store.snapshot() else {
        return;
    };
    for number in 0..place.layout.len() {
        let (seq, expected) = *place.newest[number as usize].lock();
        match cell(place, &snapshot, number) {
            Ok(found) if found == expected => {}
            Ok(found) => place.wrong(format!(
                "cell {number} holds transaction {found}; the newest commit there is {expected}, under {seq}"
            )),
            Err(text) => place.wrong(format!("cell {number}: {text}")),
        }
    }
}

/// What this process has open, and how many threads it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Census {
    descriptors: Vec<String>,
    threads: usize,
}

pub(super) fn census() -> Census {
    let mut descriptors: Vec<String> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
        // The list itself is open while it is read.
        .filter(|name| !name.starts_with("/proc/"))
        .collect();
    descriptors.sort();
    let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    Census { descriptors, threads }
}

/// Says so if there is more than there was.
pub(super) fn check_census(bench: &Bench, before: &Census) {
    let mut waited = Duration::ZERO;
    let step = Duration::from_millis(20);
    loop {
        let after = census();
        if after.threads <= before.threads && after.descriptors.len() <= before.descriptors.len() {
            return;
        }
        if waited > SETTLES {
            let names: Vec<String> = thread_names();
            return bench.say(&Line::Wrong(format!(
                "leak: before {} threads and {} descriptors, after {names:?} and {:?}",
                before.threads,
                before.descriptors.len(),
                after.descriptors
            )));
        }
        thread::sleep(step);
        waited += step;
    }
}

fn thread_names() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let name = |path: &Path| {
        fs::read_to_string(path.join("comm"))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    tasks.map(|task| name(&task.path())).collect()
}
