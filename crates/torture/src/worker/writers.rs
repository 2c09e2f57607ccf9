//! Those who commit: threads that wait for their answers, serializable ones, and tasks of a runtime.

use super::Place;
use crate::protocol::{Line, Pairs};
use std::collections::BTreeSet;
use std::time::Duration;
use walmend::{CommitOutcome, Error, Txn};
use walmend_proof::Random;
use walmend_sync::atomic::Ordering;

/// Cells from 0 up to here belong to those who do not wait for their answers, and nobody else writes them: who comes
/// after an unknown one must cover it whole.
pub(super) const KEPT: u32 = 4;
/// How long a writer rests that was refused for want of room.
const REFUSED: Duration = Duration::from_millis(5);

/// A thread that commits as fast as it can.
pub(super) fn sync(place: &Place<'_>, number: u32, seed: u64) {
    let steps = place
        .bench
        .part(format!("writer {number} of store {}", place.number));
    let mut random = Random(seed);
    while !place.bench.stopped() {
        steps.next();
        let cells = some_cells(place, &mut random);
        let txn = match random.one_in(8) {
            // Locks the first one before it takes its snapshot.
            true => place
                .store
                .begin_locked(cells.first().map(|cell| place.page(*cell))),
            false => place.store.begin(),
        };
        match txn {
            Ok(txn) => {
                if let Some((number, txn)) = fill(place, txn, &cells, &[]) {
                    answer(place, number, &cells, txn.commit());
                }
            }
            Err(Error::PageLocked { .. }) => {}
            Err(error) => refused(place, "begin", &error),
        }
    }
}

/// A thread whose transactions read some cells and write others.
pub(super) fn serializable(place: &Place<'_>, number: u32, seed: u64) {
    let name = format!("serializable writer {number} of store {}", place.number);
    let steps = place.bench.part(name);
    let mut random = Random(seed);
    while !place.bench.stopped() {
        steps.next();
        let txn = match place.store.begin_serializable() {
            Ok(txn) => txn,
            Err(error) => {
                refused(place, "begin", &error);
                continue;
            }
        };
        let mut reads = Pairs::new();
        for _ in 0..1 + random.below(4) {
            // In a narrow part, so that they meet.
            let cell = KEPT + random.below(u64::from((place.layout.len() - KEPT).min(24))) as u32;
            match read(place, &txn, cell) {
                Ok(number) => reads.push((cell, number)),
                Err(()) => break,
            }
        }
        reads.sort_unstable();
        reads.dedup();
        let cells = [KEPT + random.below(u64::from((place.layout.len() - KEPT).min(24))) as u32];
        if let Some((number, txn)) = fill(place, txn, &cells, &reads) {
            answer(place, number, &cells, txn.commit());
        }
    }
}

/// What a transaction sees in a cell.
fn read(place: &Place<'_>, txn: &Txn, cell: u32) -> Result<u64, ()> {
    match txn.read(place.page(cell)) {
        Ok(page) => match place.layout.txn(cell, &page) {
            Ok(number) => Ok(number.unwrap_or(0)),
            Err(text) => {
                place.wrong(format!("a transaction read: {text}"));
                Err(())
            }
        },
        // A raw database that has not grown that far.
        Err(Error::OutOfRange { .. }) => Ok(0),
        Err(error) => {
            refused(place, "read", &error);
            Err(())
        }
    }
}

/// Tasks that share one thread. Each commits without blocking it; some do not wait for the answer.
pub(super) fn tasks(place: &Place<'_>, count: u32, seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = Error::io("start", "a runtime".as_ref(), None, error);
            return place.bench.fault(place.number, "runtime", &error);
        }
    };
    let work = |number: u32| {
        let steps = place
            .bench
            .part(format!("task {number} of store {}", place.number));
        let mut random = Random(seed ^ u64::from(number) << 32);
        async move {
            while !place.bench.stopped() {
                steps.next();
                let kept = number == 0 && !place.bench.task.soak;
                let cells = if kept {
                    (0..KEPT).collect()
                } else {
                    some_cells(place, &mut random)
                };
                match place.store.begin() {
                    Ok(txn) => {
                        let Some((number, txn)) = fill(place, txn, &cells, &[]) else {
                            tokio::task::yield_now().await;
                            continue;
                        };
                        let commit = txn.commit_async();
                        if kept && random.one_in(4) {
                            // Dropped before it is polled to its end, or after: only reopening tells which.
                            let patience = Duration::from_micros(random.below(3000));
                            match tokio::time::timeout(patience, commit).await {
                                Ok(outcome) => answer(place, number, &cells, outcome),
                                Err(_) => place.bench.say(&Line::Unknown {
                                    store: place.number,
                                    txn: number,
                                    why: "not waited for".into(),
                                }),
                            }
                        } else {
                            answer(place, number, &cells, commit.await);
                        }
                    }
                    Err(error) => refused(place, "begin", &error),
                }
                tokio::task::yield_now().await;
            }
        }
    };
    runtime.block_on(async {
        let mut all: Vec<_> = (0..count).map(|number| Box::pin(work(number))).collect();
        // All of them on this thread, without the bounds that spawning asks for.
        std::future::poll_fn(|context| {
            all.retain_mut(|one| one.as_mut().poll(context).is_pending());
            match all.is_empty() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    });
}

/// One cell or a few, now and then many; some of them from a hot part, so that transactions meet.
fn some_cells(place: &Place<'_>, random: &mut Random) -> Vec<u32> {
    let all = u64::from(place.layout.len() - KEPT);
    let count = match random.below(40) {
        0 => 30,
        1..10 => 1 + random.below(8),
        _ => 1 + random.below(2),
    };
    let mut cells = BTreeSet::new();
    for _ in 0..count.min(all) {
        let among = if random.one_in(6) { all.min(8) } else { all };
        cells.insert(KEPT + random.below(among) as u32);
    }
    cells.into_iter().collect()
}

/// Announces a transaction and writes its pages.
fn fill(place: &Place<'_>, mut txn: Txn, cells: &[u32], reads: &[(u32, u64)]) -> Option<(u64, Txn)> {
    let number = place
        .bench
        .begin(place.number, txn.snapshot_seq().0, cells, reads);
    for cell in cells {
        if let Err(error) = txn.write(place.page(*cell), place.layout.image(*cell, number)) {
            drop(txn);
            say_refused(place, number, &error);
            refused(place, "write", &error);
            return None;
        }
    }
    Some((number, txn))
}

fn say_refused(place: &Place<'_>, txn: u64, error: &Error) {
    if !place.bench.task.soak {
        place.bench.say(&Line::NotCommitted {
            store: place.number,
            txn,
            why: error.kind().to_string(),
        });
    }
}

/// Reports what a store said of a transaction.
fn answer(place: &Place<'_>, txn: u64, cells: &[u32], outcome: CommitOutcome) {
    match outcome {
        CommitOutcome::Committed { commit_seq, .. } => {
            if place.bench.task.soak {
                place.bench.samples[0].fetch_add(1, Ordering::Relaxed);
                for cell in cells {
                    let mut newest = place.newest[*cell as usize].lock();
                    *newest = (*newest).max((commit_seq.0, txn));
                }
                return;
            }
            place.bench.say(&Line::Committed {
                store: place.number,
                txn,
                seq: commit_seq.0,
            });
        }
        CommitOutcome::Conflict(_) => {
            if !place.bench.task.soak {
                place.bench.say(&Line::NotCommitted {
                    store: place.number,
                    txn,
                    why: "conflict".into(),
                });
            }
        }
        CommitOutcome::NotCommitted { reason } => {
            say_refused(place, txn, &reason);
            refused(place, "commit", &reason);
        }
        CommitOutcome::OutcomeUnknown { token, reason } => {
            if let Some(token) = token {
                place.bench.tokens[place.number].lock().push((txn, token));
            }
            place.bench.say(&Line::Unknown {
                store: place.number,
                txn,
                why: reason.kind().to_string(),
            });
            refused(place, "commit", &reason);
        }
    }
}

/// Reports an error, unless it is one that writers have to live with; rests a little.
fn refused(place: &Place<'_>, what: &str, error: &Error) {
    if place.bench.stopped() {
        return;
    }
    match error {
        // The log has reached its limit: readers hold up its reset.
        Error::Busy(_) | Error::Conflict { .. } => {}
        _ => place.bench.fault(place.number, what, error),
    }
    if place.store.stats().poisoned.is_some() {
        place.bench.start_over();
    }
    walmend_sync::thread::sleep(REFUSED);
}
