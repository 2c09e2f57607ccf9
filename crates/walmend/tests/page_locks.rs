//! `Txn::lock`: held by one transaction, released with it, and never for longer.

mod common;

use common::page;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use walmend::{CheckpointMode, CommitOutcome, Error, LockOwner, LogFate, Options, Store, Vfs};
use walmend_sync::thread;
use walmend_vfs::MemoryVfs;
use walmend_vfs::sim::{CrashKeep, Nth, SimVfs};

const LONG: Duration = Duration::from_secs(600);

fn store() -> Store {
    let options = Options::new().vfs(Arc::new(MemoryVfs::new())).lock_wait(LONG);
    Store::open("/a.db", options).unwrap().0
}

fn is_free(store: &Store, number: u32) -> bool {
    store.begin().unwrap().try_lock(page(number)).unwrap()
}

#[test]
fn a_lock_goes_with_its_transaction_however_that_ends() {
    let store = store();
    let locked = || {
        let mut txn = store.begin().unwrap();
        txn.lock(page(5)).unwrap();
        txn.lock(page(5)).unwrap();
        assert!(!is_free(&store, 5));
        assert!(is_free(&store, 6));
        assert_eq!(store.lock_registry().len(), 1);
        txn
    };
    drop(locked());
    assert!(is_free(&store, 5), "dropped");

    let mut txn = locked();
    txn.write(page(5), vec![1; 4096]).unwrap();
    txn.commit().into_result().unwrap();
    assert!(is_free(&store, 5), "committed");

    locked().commit().into_result().unwrap();
    assert!(is_free(&store, 5), "wrote nothing");

    let mut txn = locked();
    txn.write(page(6), vec![1; 4096]).unwrap();
    let mut other = store.begin().unwrap();
    other.write(page(6), vec![2; 4096]).unwrap();
    other.commit().into_result().unwrap();
    assert!(matches!(txn.commit(), CommitOutcome::Conflict(_)));
    assert!(is_free(&store, 5), "lost");

    let mut txn = locked();
    txn.write(page(6), vec![1; 4096]).unwrap();
    drop(txn.commit_async());
    assert!(is_free(&store, 5), "never polled");
    assert!(store.lock_registry().is_empty());
}

#[test]
fn a_failed_commit_gives_its_locks_back() {
    let vfs = SimVfs::new(1);
    let options = Options::new().vfs(Arc::new(vfs.clone()) as Arc<dyn Vfs>);
    let (store, _) = Store::open("/a.db", options).unwrap();
    let mut txn = store.begin().unwrap();
    txn.lock(page(1)).unwrap();
    txn.write(page(1), vec![1; 4096]).unwrap();
    vfs.fail_sync_at(Nth::call(1).of("-wal"), CrashKeep::All);
    assert!(txn.commit().into_result().is_err());
    assert!(is_free(&store, 1));
}

#[test]
fn whoever_locks_all_that_it_writes_never_conflicts() {
    let store = store();
    let mut txn = store.begin().unwrap();
    txn.write(page(1), vec![0; 4096]).unwrap();
    txn.write(page(2), vec![0; 4096]).unwrap();
    txn.commit().into_result().unwrap();
    thread::scope(|scope| {
        for writer in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..50 {
                    let pages = if writer % 2 == 0 { [1, 2] } else { [2, 1] };
                    let mut txn = store.begin_locked(pages.map(page)).unwrap();
                    for number in [1, 2] {
                        let mut image = txn.read(page(number)).unwrap();
                        let count = u32::from_le_bytes(image[..4].try_into().unwrap()) + 1;
                        image[..4].copy_from_slice(&count.to_le_bytes());
                        txn.write(page(number), image).unwrap();
                    }
                    txn.commit().into_result().unwrap();
                }
            });
        }
    });
    let image = store.snapshot().unwrap().read(page(1)).unwrap();
    assert_eq!(u32::from_le_bytes(image[..4].try_into().unwrap()), 200);
    assert_eq!(store.stats().conflicts, 0);
}

#[test]
fn a_transaction_that_could_only_conflict_is_told_when_it_locks() {
    let store = store();
    let mut late = store.begin().unwrap();
    let mut txn = store.begin().unwrap();
    txn.write(page(3), vec![1; 4096]).unwrap();
    txn.commit().into_result().unwrap();
    assert!(matches!(
        late.lock(page(3)),
        Err(Error::StaleSnapshot { page: 3 })
    ));
    late.lock(page(4)).unwrap();
}

#[test]
fn two_that_wait_for_each_other_are_told_apart_at_once() {
    let store = store();
    let mut first = store.begin().unwrap();
    let mut second = store.begin().unwrap();
    first.lock(page(1)).unwrap();
    second.lock(page(2)).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(move || first.lock(page(2)).map(|()| first));
        // Once the other one waits, asking closes the circle. It goes on when this one is gone.
        let refused = loop {
            match second.lock_for(page(1), Duration::ZERO) {
                Err(Error::PageLocked { deadlock: true, .. }) => break true,
                Err(Error::PageLocked { deadlock: false, .. }) if !waiting.is_finished() => {}
                other => panic!("{other:?}"),
            }
        };
        assert!(refused);
        drop(second);
        waiting.join().unwrap().unwrap();
    });
}

/// The holder of the page waits to begin, the checkpoint that holds it up waits for all snapshots, and one of those
/// belongs to whoever asks for the page.
#[test]
fn a_circle_through_a_checkpoint_is_refused_at_once_and_the_others_go_on() {
    let options = Options::new().vfs(Arc::new(MemoryVfs::new())).lock_wait(LONG);
    let (store, _) = Store::open("/a.db", options.checkpoint_wait(Duration::from_secs(20))).unwrap();
    let mut txn = store.begin().unwrap();
    txn.write(page(1), vec![1; 4096]).unwrap();
    txn.commit().into_result().unwrap();
    let mut old = store.begin().unwrap();
    thread::scope(|scope| {
        let checkpoint = scope.spawn(|| store.checkpoint(CheckpointMode::Restart));
        let locked = loop {
            let begins = scope.spawn(|| store.begin_locked([page(7)]));
            while store.lock_registry().is_empty() {
                thread::yield_now();
            }
            let refused = loop {
                match old.lock_for(page(7), Duration::from_millis(5)) {
                    Err(Error::PageLocked { deadlock: true, .. }) => break true,
                    Err(Error::PageLocked { deadlock: false, .. }) if !begins.is_finished() => {}
                    Err(Error::PageLocked { .. }) => break false,
                    other => panic!("{other:?}"),
                }
            };
            if refused {
                break begins;
            }
            // The checkpoint has not come so far yet.
            drop(begins.join().unwrap().unwrap());
            assert!(
                !checkpoint.is_finished(),
                "only the checkpoint's patience ended it"
            );
        };
        assert!(old.try_lock(page(8)).unwrap(), "other pages are free");
        drop(old);
        assert_eq!(checkpoint.join().unwrap().unwrap().log, LogFate::Reset);
        let txn = locked.join().unwrap().unwrap();
        assert!(!is_free(&store, 7));
        drop(txn);
    });
    assert!(is_free(&store, 7) && store.lock_registry().is_empty());
}

#[test]
fn the_locks_of_another_process_count_until_it_is_gone() {
    let store = store();
    let mut child = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let owner = LockOwner {
        pid: child.id(),
        start_time: 0,
        ..LockOwner::current()
    };
    store.lock_registry().register(page(9), owner);
    let mut txn = store.begin().unwrap();
    let refused = txn.lock(page(9)).unwrap_err();
    assert!(matches!(refused, Error::Locked { .. }));
    assert!(refused.to_string().contains(&child.id().to_string()), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
    txn.lock(page(9)).unwrap();
    let locks = store.lock_registry().snapshot();
    assert_eq!(locks.len(), 1);
    assert_eq!(locks[0].owner, LockOwner::current());
}
