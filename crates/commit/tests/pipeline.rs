//! The pipeline on real threads: who leads, what overlaps, and what happens when something fails on the way.
#![cfg(not(walmend_loom))]

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use walmend_commit::*;
use walmend_sync::{Mutex, thread};

type TestPipeline<W = MemoryWriter<u64>> = Pipeline<u64, W, FirstCommitterWins>;

fn request(txn: u64, snapshot: u64, pages: &[u32]) -> CommitRequest<u64> {
    let pages = pages.iter().map(|page| PageNumber::new(*page).unwrap());
    CommitRequest::new(TxnId(txn), CommitSeq(snapshot), WriteSet::new(pages), txn)
}

fn start(capacity: i64, config: GroupConfig) -> (MemoryWriter<u64>, TestPipeline) {
    let log = MemoryWriter::new();
    let group = GroupCommit::new(log.clone(), FirstCommitterWins::new(0), config);
    (log, Pipeline::start(group, capacity).unwrap())
}

fn fault(what: &str) -> Error {
    Error::io("sync", Path::new(what), None, std::io::Error::other("planted"))
}

fn send(pipeline: &TestPipeline<impl WalBatchWriter<u64, Sync: 'static> + 'static>, txn: u64) -> Ticket {
    let permit = pipeline.sender().unwrap().reserve().unwrap();
    permit.send(request(txn, 0, &[])).unwrap()
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// A log whose sync says that it has begun, and then waits until it is told how to end.
#[derive(Clone)]
struct Stepped {
    inner: MemoryWriter<u64>,
    begun: mpsc::Sender<()>,
    ends: Arc<Mutex<mpsc::Receiver<Result<()>>>>,
}

struct Steps {
    begun: mpsc::Receiver<()>,
    end: mpsc::Sender<Result<()>>,
}

fn stepped(config: GroupConfig) -> (MemoryWriter<u64>, TestPipeline<Stepped>, Steps) {
    let inner = MemoryWriter::new();
    let (begun, has_begun) = mpsc::channel();
    let (end, ends) = mpsc::channel();
    let log = Stepped {
        inner: inner.clone(),
        begun,
        ends: Arc::new(Mutex::new(ends)),
    };
    let group = GroupCommit::new(log, FirstCommitterWins::new(0), config);
    let steps = Steps {
        begun: has_begun,
        end,
    };
    (inner, Pipeline::start(group, 16).unwrap(), steps)
}

impl WalBatchWriter<u64> for Stepped {
    type Mark = MemoryMark;
    type Sync = Self;

    fn sync_half(&self) -> Self {
        self.clone()
    }

    fn append_batch(&mut self, batch: &[BatchEntry<'_, u64>]) -> Result<Append<MemoryMark>, AppendFailure> {
        self.inner.append_batch(batch)
    }

    fn discard_append(&mut self) -> Result<()> {
        WalBatchWriter::discard_append(&mut self.inner)
    }
}

impl WalBatchSync<MemoryMark> for Stepped {
    fn sync(&self, mark: &MemoryMark) -> Result<()> {
        self.begun.send(()).unwrap();
        self.ends.lock().recv().unwrap()?;
        self.inner.sync(mark)
    }

    fn publish(&self, mark: MemoryMark) {
        self.inner.publish(mark);
    }
}

/// Waits until the log holds this many commits, synced or not.
fn until_appended(log: &MemoryWriter<u64>, commits: usize) {
    while log.log().len() < commits {
        thread::yield_now();
    }
}

#[test]
fn a_lone_writer_commits_on_its_own_thread_alone() {
    struct WhichThread(mpsc::Sender<thread::ThreadId>, MemoryWriter<u64>);
    impl WalBatchWriter<u64> for WhichThread {
        type Mark = MemoryMark;
        type Sync = MemoryWriter<u64>;
        fn sync_half(&self) -> MemoryWriter<u64> {
            self.1.clone()
        }
        fn append_batch(
            &mut self,
            batch: &[BatchEntry<'_, u64>],
        ) -> Result<Append<MemoryMark>, AppendFailure> {
            self.0.send(thread::current().id()).unwrap();
            self.1.append_batch(batch)
        }
        fn discard_append(&mut self) -> Result<()> {
            Ok(())
        }
    }
    let (at_work, threads) = mpsc::channel();
    let log = WhichThread(at_work, MemoryWriter::new());
    let group = GroupCommit::new(log, FirstCommitterWins::new(0), GroupConfig::default());
    let pipeline = Pipeline::start(group, 16).unwrap();
    for txn in 1..=100 {
        assert!(pipeline.commit(request(txn, 0, &[])).is_committed());
    }
    drop(pipeline);
    assert!(threads.iter().all(|at_work| at_work == thread::current().id()));
}

#[test]
fn a_batch_is_appended_while_the_one_before_it_is_in_its_sync_and_published_after_it() {
    let (log, pipeline, steps) = stepped(GroupConfig::default().gather(false));
    let first = send(&pipeline, 1);
    steps.begun.recv().unwrap();
    // The first one's writer is still to be answered, so nobody else is expected.
    let second = send(&pipeline, 2);
    until_appended(&log, 2);
    assert!(log.published().is_empty());
    steps.end.send(Ok(())).unwrap();
    assert!(first.wait().is_committed());
    steps.begun.recv().unwrap();
    assert_eq!(log.published().len(), 1);
    steps.end.send(Ok(())).unwrap();
    assert!(second.wait().is_committed());
    assert_eq!(log.published().len(), 2);
}

#[test]
fn when_a_sync_fails_the_batch_appended_behind_it_is_unknown_and_who_lost_to_it_did_not_commit() {
    let (log, pipeline, steps) = stepped(GroupConfig::default().gather(false).batch_limit(2));
    let sender = pipeline.sender().unwrap();
    let first = sender.reserve().unwrap().send(request(1, 0, &[7])).unwrap();
    steps.begun.recv().unwrap();
    let permits = [sender.reserve().unwrap(), sender.reserve().unwrap()];
    let [behind, loser] = permits;
    let loser = loser.send(request(3, 0, &[7])).unwrap();
    let behind = behind.send(request(2, 0, &[8])).unwrap();
    until_appended(&log, 2);
    steps.end.send(Err(fault("the disk"))).unwrap();
    assert!(matches!(
        first.wait(),
        CommitOutcome::OutcomeUnknown { token: Some(_), .. }
    ));
    assert!(matches!(
        behind.wait(),
        CommitOutcome::OutcomeUnknown { token: Some(_), .. }
    ));
    assert!(matches!(loser.wait(), CommitOutcome::NotCommitted { .. }));
    assert!(
        steps.begun.try_recv().is_err(),
        "nothing is synced after a failed sync"
    );
    assert!(log.published().is_empty());
    let later = pipeline.commit(request(4, 0, &[9]));
    assert!(matches!(
        later,
        CommitOutcome::NotCommitted {
            reason: Error::Poisoned { .. }
        }
    ));
}

#[test]
fn a_failed_append_behind_a_sync_waits_for_that_sync_and_takes_nothing_else_along() {
    let (log, pipeline, steps) = stepped(GroupConfig::default().gather(false));
    let first = send(&pipeline, 1);
    steps.begun.recv().unwrap();
    log.fail_next(Failure::Append(fault("the disk")));
    let second = send(&pipeline, 2);
    while log.counters().appends < 2 {
        thread::yield_now();
    }
    assert_eq!(log.counters().discards, 0, "there is a sync under way");
    steps.end.send(Ok(())).unwrap();
    assert!(first.wait().is_committed());
    assert!(matches!(second.wait(), CommitOutcome::NotCommitted { .. }));
    steps.end.send(Ok(())).unwrap();
    let third = send(&pipeline, 3).wait();
    assert!(
        matches!(
            third,
            CommitOutcome::Committed {
                commit_seq: CommitSeq(2),
                ..
            }
        ),
        "the number of the second is used again: {third:?}"
    );
}

#[test]
fn a_conflict_is_answered_once_the_winner_can_be_seen() {
    let (log, pipeline, steps) = stepped(GroupConfig::default().gather(false));
    let sender = pipeline.sender().unwrap();
    let winner = sender.reserve().unwrap().send(request(1, 0, &[7])).unwrap();
    steps.begun.recv().unwrap();
    let loser = sender.reserve().unwrap().send(request(2, 0, &[7])).unwrap();
    assert!(loser.try_outcome().is_none());
    steps.end.send(Ok(())).unwrap();
    assert!(matches!(loser.wait(), CommitOutcome::Conflict(_)));
    assert_eq!(log.published().len(), 1);
    assert!(winner.wait().is_committed());
}

#[test]
fn a_panicking_log_fails_its_batch_and_the_pipeline_goes_on() {
    let (log, pipeline) = start(16, GroupConfig::default());
    log.fail_next(Failure::AppendPanics);
    assert!(matches!(
        pipeline.commit(request(1, 0, &[])),
        CommitOutcome::NotCommitted { .. }
    ));
    assert!(pipeline.commit(request(2, 0, &[])).is_committed());
    log.fail_next(Failure::SyncPanics);
    assert!(matches!(
        pipeline.commit(request(3, 0, &[])),
        CommitOutcome::OutcomeUnknown { .. }
    ));
    assert!(pipeline.poison().reason().is_some());
    assert!(!pipeline.commit(request(4, 0, &[])).is_committed());
}

/// What wakes a task is not ours, and may panic.
struct Trap;

impl std::task::Wake for Trap {
    fn wake(self: Arc<Self>) {
        panic!("a waker that was told to panic");
    }
}

#[test]
fn a_waker_that_panics_leaves_no_writer_asleep() {
    let (_log, pipeline) = start(4, GroupConfig::default());
    let sender = pipeline.sender().unwrap();
    let first = sender.reserve().unwrap();
    let mut trapped = sender.reserve().unwrap().send(request(1, 0, &[])).unwrap();
    let trap = Waker::from(Arc::new(Trap));
    assert!(
        Pin::new(&mut trapped)
            .poll(&mut Context::from_waker(&trap))
            .is_pending()
    );
    thread::scope(|scope| {
        let writers: Vec<_> = [2, 3]
            .map(|txn| {
                scope.spawn({
                    let pipeline = &pipeline;
                    move || pipeline.commit(request(txn, 0, &[]))
                })
            })
            .into();
        while pipeline.occupancy() < 4 {
            thread::sleep(Duration::from_millis(1));
        }
        // All three in one batch now, and the trap is sprung before the writers are answered.
        first.abort();
        for writer in writers {
            let outcome = writer.join().unwrap();
            assert!(
                matches!(outcome, CommitOutcome::OutcomeUnknown { .. }),
                "{outcome:?}"
            );
        }
    });
    // It is the answers that were lost, not the commits.
    assert_eq!(pipeline.totals().snapshot().commits, 3);
    assert!(pipeline.commit(request(4, 0, &[])).is_committed());
}

/// A payload whose copying panics, and so does dropping what it panics with: no guard around the log stops that.
#[derive(Debug)]
struct Explosive;

impl Clone for Explosive {
    fn clone(&self) -> Self {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("a panic that was told to panic");
            }
        }
        std::panic::panic_any(Bomb)
    }
}

#[test]
fn a_leader_that_panics_ends_all_writing_and_leaves_nobody_waiting() {
    let log = MemoryWriter::new();
    let group = GroupCommit::new(log, FirstCommitterWins::new(0), GroupConfig::default());
    let pipeline = Pipeline::start(group, 16).unwrap();
    let explosive = || CommitRequest::new(TxnId(1), CommitSeq(0), WriteSet::default(), Explosive);
    assert!(matches!(
        pipeline.commit(explosive()),
        CommitOutcome::OutcomeUnknown { .. }
    ));
    assert!(matches!(
        pipeline.commit(explosive()),
        CommitOutcome::NotCommitted {
            reason: Error::Poisoned { .. }
        }
    ));
    pipeline.close();
}

#[test]
fn a_forgotten_permit_is_revoked_at_its_deadline_and_nothing_leaks() {
    let config = GroupConfig::default().reservation_deadline(Duration::from_millis(5));
    let (log, pipeline) = start(2, config);
    std::mem::forget(pipeline.sender().unwrap().reserve().unwrap());
    let late = pipeline.sender().unwrap().reserve().unwrap();
    // Full, with nobody who would ever send: the writers wait for the deadlines only.
    thread::scope(|scope| {
        for txn in 1..=4 {
            let pipeline = &pipeline;
            scope.spawn(move || assert!(pipeline.commit(request(txn, 0, &[])).is_committed()));
        }
    });
    assert_eq!((pipeline.occupancy(), log.published().len()), (0, 4));
    let refused = late.send(request(9, 0, &[])).unwrap_err();
    assert!(matches!(refused.error, Error::Revoked));
    assert_eq!(refused.request.payload, 9);
}

#[test]
fn a_future_dropped_at_any_point_leaks_no_place_and_what_was_sent_is_committed() {
    let (log, pipeline) = start(1, GroupConfig::default());
    let sender = pipeline.sender().unwrap();
    // Never polled; while it waits for a place; when it has been given one.
    drop(sender.reserve_async());
    let permit = sender.reserve().unwrap();
    let mut waiting = sender.reserve_async();
    assert!(poll(&mut waiting).is_pending());
    drop(waiting);
    let mut granted = sender.reserve_async();
    assert!(poll(&mut granted).is_pending());
    drop(permit);
    drop(granted);
    assert_eq!(pipeline.occupancy(), 0);
    // Sent, and polled or not: the ticket cancels nothing.
    drop(send(&pipeline, 1));
    let mut polled = send(&pipeline, 2);
    drop(poll(&mut polled));
    drop(polled);
    pipeline.close();
    let payloads: Vec<u64> = log.published().iter().map(|commit| commit.payload).collect();
    assert_eq!(payloads, [1, 2]);
}

#[test]
fn batches_keep_to_the_limits_in_requests_and_in_bytes() {
    let (_, pipeline, steps) = stepped(
        GroupConfig::default()
            .gather(false)
            .batch_limit(3)
            .batch_bytes(100),
    );
    let sender = pipeline.sender().unwrap();
    let blocker = sender.reserve().unwrap();
    let sized = |txn: u64, bytes: usize| {
        let permit = sender.reserve().unwrap();
        permit.send(request(txn, 0, &[]).with_bytes(bytes)).unwrap()
    };
    // Behind the blocker: three small ones, then two that fit together with nothing, then a pair that just fits.
    let tickets =
        [(1, 0), (2, 0), (3, 0), (4, 60), (5, 1000), (6, 60), (7, 40)].map(|(txn, bytes)| sized(txn, bytes));
    blocker.abort();
    for _ in 0..tickets.len() {
        if steps.begun.recv_timeout(Duration::from_millis(200)).is_ok() {
            steps.end.send(Ok(())).unwrap();
        }
    }
    assert!(tickets.into_iter().all(|ticket| ticket.wait().is_committed()));
    let totals = pipeline.totals().snapshot();
    assert_eq!((totals.batches, totals.largest_batch), (4, 3), "{totals:?}");
}

#[test]
fn many_writers_and_tasks_through_few_places_are_all_served() {
    let (log, pipeline) = start(4, GroupConfig::default());
    log.set_sync_delay(Duration::from_micros(20));
    thread::scope(|scope| {
        for writer in 0..16_u64 {
            let pipeline = &pipeline;
            scope.spawn(move || {
                for round in 0..200 {
                    let txn = writer * 1000 + round;
                    let outcome = match writer % 2 {
                        0 => pipeline.commit(request(txn, 0, &[])),
                        _ => send(pipeline, txn).wait(),
                    };
                    assert!(outcome.is_committed(), "{outcome:?}");
                }
            });
        }
    });
    let published = log.published();
    let in_order = published.iter().map(|commit| commit.commit_seq.0).eq(1..=3200);
    assert!(in_order && pipeline.occupancy() == 0);
    let totals = pipeline.totals().snapshot();
    assert_eq!((totals.commits, totals.syncs), (3200, totals.batches));
}

#[test]
fn the_log_tidies_up_after_the_last_commit_and_not_while_nothing_happens() {
    let (log, pipeline) = start(4, GroupConfig::default().idle_wait(Duration::from_millis(2)));
    thread::sleep(Duration::from_millis(20));
    assert_eq!(log.counters().idles, 0, "nothing has happened yet");
    assert!(pipeline.commit(request(1, 0, &[])).is_committed());
    while log.counters().idles == 0 {
        thread::yield_now();
    }
    thread::sleep(Duration::from_millis(20));
    assert_eq!(log.counters().idles, 1);
    assert!(pipeline.commit(request(2, 0, &[])).is_committed());
    while log.counters().idles == 1 {
        thread::yield_now();
    }
}

#[test]
fn of_conflicting_writers_each_version_is_won_once() {
    const ROUNDS: usize = 10_000;
    let (log, pipeline) = start(64, GroupConfig::default());
    thread::scope(|scope| {
        for writer in 0..8_u64 {
            let (log, pipeline) = (log.clone(), &pipeline);
            scope.spawn(move || {
                let mut snapshot = 0;
                for round in 0..ROUNDS / 8 {
                    let page = (round % 10) as u32 + 1;
                    match pipeline.commit(request(writer, snapshot, &[page])) {
                        CommitOutcome::Committed { commit_seq, .. } => snapshot = commit_seq.0,
                        CommitOutcome::Conflict(lost) => {
                            // Whoever lost finds the winner published.
                            assert!(log.counters().publishes > 0 && lost.winner_seq.0 > snapshot);
                            snapshot = lost.winner_seq.0;
                        }
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    let totals = pipeline.totals().snapshot();
    assert_eq!(totals.commits + totals.conflicts, ROUNDS as u64);
    let published = log.published();
    assert!(
        published
            .iter()
            .map(|commit| commit.commit_seq.0)
            .eq(1..=totals.commits)
    );
}

#[test]
fn a_tracked_sender_counts_leaked_permits_whose_places_are_free_again() {
    let (sender, receiver) = channel::<u64>(4);
    let tracked = sender.tracked();
    drop(tracked.reserve().unwrap());
    drop(tracked.clone().try_reserve().unwrap());
    tracked.reserve().unwrap().abort();
    let _ticket = tracked.reserve().unwrap().send(request(1, 0, &[])).unwrap();
    drop(sender.reserve().unwrap());
    assert_eq!(
        (tracked.leaked(), sender.leaked(), receiver.occupancy()),
        (Some(2), None, 1)
    );
}

#[test]
fn a_receiver_revokes_what_stands_before_others_past_its_deadline() {
    let (sender, mut receiver) = channel_with_deadline::<u64>(4, Duration::from_millis(5));
    let forgotten = sender.reserve().unwrap();
    let _ticket = sender.reserve().unwrap().send(request(2, 0, &[])).unwrap();
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::Empty);
    assert_eq!(receiver.recv().unwrap().number(), 2);
    assert!(matches!(
        forgotten.send(request(1, 0, &[])).unwrap_err().error,
        Error::Revoked
    ));

    // A receiver that waits already learns of a reservation that is made, and forgotten, later.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| receiver.recv().unwrap().number());
        thread::sleep(Duration::from_millis(5));
        std::mem::forget(sender.reserve().unwrap());
        let _ticket = sender.reserve().unwrap().send(request(4, 0, &[])).unwrap();
        assert_eq!(waiting.join().unwrap(), 4);
    });
}
