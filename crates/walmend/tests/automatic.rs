//! Checkpoints that the size of the log asks for, and what keeps it from growing without bound.

mod common;

use common::{page, store_pages};
use std::time::Duration;
use walmend::{CheckpointMode, CommitOutcome, Error, Options, Store};
use walmend_sync::thread;

const FRAME: u64 = 4120;

fn put(store: &Store, number: u32, byte: u8) -> CommitOutcome {
    let mut txn = store.begin().unwrap();
    txn.write(page(number), vec![byte; 4096]).unwrap();
    txn.commit()
}

/// Waits for something that another thread does; if that never comes the test never ends, and is stopped from outside.
fn wait_until(is: impl Fn() -> bool) {
    while !is() {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_log_that_has_grown_is_begun_anew_beside_the_commits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let options = Options::new().checkpoint_at(100 * FRAME);
    let (store, _) = Store::open(&path, options).unwrap();
    thread::scope(|scope| {
        for writer in 0..4u32 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..400u32 {
                    put(store, 1 + writer * 50 + round % 50, (round % 250) as u8)
                        .into_result()
                        .unwrap();
                }
            });
        }
    });
    wait_until(|| store.stats().log_frames < 100);
    let stats = store.stats();
    assert!(stats.automatic_checkpoints >= 2, "{stats:?}");
    assert_eq!((stats.commits, stats.checkpoint_blocked), (1600, None));
    let pages = store_pages(&store);
    store.close().unwrap();
    let (store, _) = Store::open(&path, Options::new()).unwrap();
    common::assert_same_pages(&store_pages(&store), &pages, "after reopening");
}

#[test]
fn a_reader_that_stays_is_named_and_at_the_limit_writers_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new().checkpoint_at(50 * FRAME).log_limit(200 * FRAME);
    let (store, _) = Store::open(folder.path().join("a.db"), options).unwrap();
    put(&store, 1, 1).into_result().unwrap();
    let reader = store.snapshot().unwrap();
    let refused = loop {
        match put(&store, 2, 2) {
            CommitOutcome::Committed { .. } => {}
            CommitOutcome::NotCommitted { reason } => break reason,
            other => panic!("{other:?}"),
        }
        let frames = store.stats().log_frames;
        assert!(frames <= 200, "{frames}");
        // The reader ages: the checkpoints begin to go around it.
        if frames == 100 {
            wait_until(|| store.stats().checkpoint_blocked.is_some());
        }
    };
    assert!(
        matches!(refused, Error::Busy(_)) && refused.is_transient(),
        "{refused}"
    );
    wait_until(|| {
        store
            .stats()
            .checkpoint_blocked
            .is_some_and(|blocked| blocked.by.contains("of commit 1,"))
    });
    let stats = store.stats();
    assert_eq!(stats.oldest_reader.unwrap().commit_seq.0, 1);
    assert_eq!(stats.automatic_checkpoints, 0);
    // Readers and transactions that write nothing are not kept out.
    assert_eq!(store.snapshot().unwrap().read(page(2)).unwrap()[0], 2);
    store.begin().unwrap().commit().into_result().unwrap();
    assert_eq!(reader.read(page(1)).unwrap()[0], 1);
    assert!(store.stats().backfilled_frames >= 1, "what it allows is copied");
    drop(reader);
    wait_until(|| store.stats().log_frames == 0);
    put(&store, 2, 3).into_result().unwrap();
    assert_eq!(store.stats().checkpoint_blocked, None);
}

#[test]
fn switched_off_the_log_grows_until_a_checkpoint_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new().checkpoint_at(0).log_limit(32 + 20 * FRAME);
    let (store, _) = Store::open(folder.path().join("a.db"), options).unwrap();
    for _ in 0..20 {
        put(&store, 1, 1).into_result().unwrap();
    }
    assert!(matches!(
        put(&store, 1, 1),
        CommitOutcome::NotCommitted {
            reason: Error::Busy(_)
        }
    ));
    store.checkpoint(CheckpointMode::Restart).unwrap();
    put(&store, 1, 2).into_result().unwrap();
    assert_eq!(store.stats().log_frames, 1);
}

#[test]
fn a_checkpoint_never_copies_what_an_earlier_one_has_copied() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(folder.path().join("a.db"), Options::new()).unwrap();
    for number in 1..=30 {
        put(&store, number, 1).into_result().unwrap();
    }
    let written = |mode| store.checkpoint(mode).unwrap().pages_written;
    assert_eq!(written(CheckpointMode::Passive), 30);
    assert_eq!(written(CheckpointMode::Passive), 0);
    put(&store, 7, 2).into_result().unwrap();
    put(&store, 7, 3).into_result().unwrap();
    assert_eq!(written(CheckpointMode::Full), 1);
    assert_eq!(written(CheckpointMode::Truncate), 0);
}

#[test]
fn a_limit_below_the_size_for_a_checkpoint_makes_the_checkpoint_come_sooner() {
    let folder = tempfile::tempdir().unwrap();
    // The default for a checkpoint is far above that.
    let options = Options::new().log_limit(32 + 20 * FRAME);
    let (store, _) = Store::open(folder.path().join("a.db"), options).unwrap();
    for _ in 0..20 {
        put(&store, 1, 1).into_result().unwrap();
    }
    wait_until(|| put(&store, 1, 2).is_committed());
    assert!(store.stats().automatic_checkpoints >= 1);
}
