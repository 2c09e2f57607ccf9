//! Writers that go away half-way, by a panic or by dropping the future of a commit: the store goes on, and keeps
//! neither their snapshots, nor their locks, nor their places.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use walmend::{CheckpointMode, CommitFuture, LogFate, Options, PageNumber, Store, Txn};
use walmend_sync::thread;
use walmend_vfs::Vfs;
use walmend_vfs::sim::{Call, Nth, SimVfs};

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

/// A store on a simulated disk, which counts who holds on to it.
fn open(capacity: i64) -> (SimVfs, Arc<dyn Vfs>, Store) {
    let sim = SimVfs::new(1);
    let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
    let options = Options::new().capacity(capacity).vfs(Arc::clone(&vfs));
    let store = Store::open("/a.db", options).unwrap().0;
    (sim, vfs, store)
}

fn write(store: &Store, number: u32, byte: u8) -> Txn {
    let mut txn = store.begin().unwrap();
    txn.write(page(number), vec![byte; 4096]).unwrap();
    txn
}

fn read(store: &Store, number: u32) -> u8 {
    let snapshot = store.snapshot().unwrap();
    match number <= snapshot.db_pages() {
        true => snapshot.read(page(number)).unwrap()[0],
        false => 0,
    }
}

fn poll(future: &mut CommitFuture) -> Poll<walmend::CommitOutcome> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn wait(future: CommitFuture) -> bool {
    walmend_sync::block_on(future).is_committed()
}

/// No place, no snapshot and no reference is left of anybody, and the log can be begun anew.
fn nothing_is_left(store: Store, vfs: &Arc<dyn Vfs>) {
    let stats = store.stats();
    assert_eq!((stats.occupancy, stats.readers), (0, 0));
    let report = store.checkpoint(CheckpointMode::Truncate).unwrap();
    assert_eq!(report.log, LogFate::Truncated, "{report:?}");
    store.close().unwrap();
    assert_eq!(Arc::strong_count(vfs), 1, "somebody holds on to the store");
}

#[test]
fn a_commit_future_dropped_at_each_await_point_leaves_nothing_behind_and_what_was_sent_is_committed() {
    let (sim, vfs, store) = open(1);
    assert!(write(&store, 1, 1).commit().is_committed());
    // Never polled.
    drop(write(&store, 1, 2).commit_async());
    assert_eq!((store.stats().readers, read(&store, 1)), (0, 1));

    // One in its sync, one appended behind it at most, one in the only place: the last two of five wait for a place.
    let held = sim.hold_at(Nth::call(1).of("-wal"), Call::Sync);
    let mut commits: Vec<CommitFuture> = (2..=6)
        .map(|number| {
            let mut commit = write(&store, number, 1).commit_async();
            assert!(poll(&mut commit).is_pending());
            commit
        })
        .collect();
    held.wait();
    let (mut waiting, mut granted) = (commits.pop().unwrap(), commits.pop().unwrap());
    assert!(poll(&mut waiting).is_pending() && poll(&mut granted).is_pending());
    // Dropped while it waits for a place.
    drop(waiting);
    assert_eq!(store.stats().readers, 4);
    drop(held);
    assert!(commits.into_iter().all(wait));
    // Dropped when it was given the place, before it knew.
    assert_eq!(store.stats().occupancy, 1);
    thread::scope(|scope| {
        let next = scope.spawn(|| write(&store, 7, 1).commit().is_committed());
        drop(granted);
        assert!(next.join().unwrap());
    });
    assert_eq!([5, 6, 7].map(|number| read(&store, number)), [0, 0, 1]);

    // Dropped while it waits for the answer: it is committed.
    let held = sim.hold_at(Nth::call(1).of("-wal"), Call::Sync);
    let mut sent = write(&store, 8, 1).commit_async();
    assert!(poll(&mut sent).is_pending());
    held.wait();
    drop(sent);
    drop(held);
    while read(&store, 8) == 0 {
        thread::yield_now();
    }
    // Dropped with its answer, and polled behind it.
    let mut answered = write(&store, 9, 1).commit_async();
    while poll(&mut answered).is_pending() {
        thread::yield_now();
    }
    drop(answered);
    assert_eq!(read(&store, 9), 1);
    // The last answer is given before its batch is put away.
    while store.stats().readers > 0 {
        thread::yield_now();
    }
    nothing_is_left(store, &vfs);
}

#[test]
fn a_writer_that_panics_with_an_open_transaction_leaves_neither_its_snapshot_nor_its_locks() {
    let (_, vfs, store) = open(16);
    assert!(write(&store, 2, 1).commit().is_committed());
    thread::scope(|scope| {
        let panicking = scope.spawn(|| {
            let mut txn = store.begin_locked([page(1), page(2)]).unwrap();
            txn.write(page(2), vec![9; 4096]).unwrap();
            panic!("the writer was told to panic");
        });
        assert!(panicking.join().is_err());
    });
    let mut txn = store.begin().unwrap();
    assert!(txn.try_lock(page(1)).unwrap() && txn.try_lock(page(2)).unwrap());
    drop(txn);
    assert_eq!(read(&store, 2), 1);
    nothing_is_left(store, &vfs);
}

#[test]
fn a_task_that_panics_while_it_commits_leaves_nothing_behind() {
    let (sim, vfs, store) = open(1);
    assert!(write(&store, 2, 1).commit().is_committed());
    let held = sim.hold_at(Nth::call(1).of("-wal"), Call::Sync);
    thread::scope(|scope| {
        let panicking = scope.spawn(|| {
            let mut txn = store.begin_locked([page(2)]).unwrap();
            txn.write(page(2), vec![2; 4096]).unwrap();
            let mut commit = txn.commit_async();
            assert!(poll(&mut commit).is_pending());
            held.wait();
            panic!("the task was told to panic");
        });
        assert!(panicking.join().is_err());
    });
    drop(held);
    // The lock goes with the commit, which is seen by whoever gets it.
    let txn = store.begin_locked([page(2)]).unwrap();
    assert_eq!(txn.read(page(2)).unwrap()[0], 2);
    drop(txn);
    while store.stats().readers > 0 {
        thread::yield_now();
    }
    nothing_is_left(store, &vfs);
}
