//! Draining the channel, the loop on its thread, and many writers at once.

use crate::common::{Bench, Group, fault, request};
use std::sync::Arc;
use std::time::Duration;
use walmend_commit::*;
use walmend_sync::atomic::{AtomicUsize, Ordering};
use walmend_sync::thread;

const SHORT: Duration = Duration::from_millis(2);
const NEVER: Duration = Duration::from_secs(3600);

fn send(sender: &Sender<u64>, txn: u64, page: u32) -> Ticket {
    sender.reserve().unwrap().send(request(txn, 0, [page])).unwrap()
}

#[test]
fn draining_takes_what_is_there_up_to_the_batch_limit() {
    let mut bench = Bench::with(
        GroupConfig::default()
            .batch_limit(3)
            .drain_timeout(Duration::ZERO),
    );
    let (sender, mut receiver) = channel(16);
    let _tickets: Vec<_> = (1..=7).map(|page| send(&sender, page.into(), page)).collect();
    let mut sizes = Vec::new();
    for _ in 0..3 {
        match bench.group.drain_and_process(&mut receiver) {
            Drained::Processed(report) => sizes.push(report.committed.len()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sizes, [3, 3, 1]);
}

#[test]
fn sixteen_requests_make_a_full_batch_unless_told_otherwise() {
    let mut bench = Bench::new();
    let (sender, mut receiver) = channel(32);
    let _tickets: Vec<_> = (1..=20).map(|page| send(&sender, page.into(), page)).collect();
    let drained = bench.group.drain_and_process(&mut receiver);
    assert!(matches!(drained, Drained::Processed(report) if report.committed.len() == 16));
}

#[test]
fn a_batch_stays_open_for_requests_that_come_within_the_drain_timeout() {
    let config = GroupConfig::default().batch_limit(3).drain_timeout(NEVER);
    let mut bench = Bench::with(config);
    let (sender, mut receiver) = channel(1);
    // With one slot, the second and third request can only come while the batch is open.
    let writer = thread::spawn(move || {
        for page in 1..=3 {
            drop(send(&sender, page.into(), page));
        }
    });
    let drained = bench.group.drain_and_process(&mut receiver);
    assert!(matches!(drained, Drained::Processed(report) if report.committed.len() == 3));
    writer.join().unwrap();
}

#[test]
fn draining_answers_idle_when_nothing_comes_and_disconnected_when_nothing_can() {
    let mut bench = Bench::with(GroupConfig::default().idle_wait(SHORT));
    let (sender, mut receiver) = channel(2);
    assert!(matches!(
        bench.group.drain_and_process(&mut receiver),
        Drained::Idle
    ));
    let _ticket = send(&sender, 1, 1);
    drop(sender);
    assert!(matches!(
        bench.group.drain_and_process(&mut receiver),
        Drained::Processed(_)
    ));
    assert!(matches!(
        bench.group.drain_and_process(&mut receiver),
        Drained::Disconnected
    ));
}

fn spawned(
    config: GroupConfig,
    capacity: i64,
) -> (MemoryWriter<u64>, Sender<u64>, Cx, thread::JoinHandle<LoopReport>) {
    let Bench { log, group, .. } = Bench::with(config);
    let (sender, receiver) = channel(capacity);
    let cx = Cx::new();
    let handle = spawn(group, receiver, cx.clone()).unwrap();
    (log, sender, cx, handle)
}

#[test]
fn a_cancelled_loop_drains_everything_that_was_sent_and_reports() {
    let Bench { log, mut group, .. } = Bench::with(GroupConfig::default().batch_limit(2));
    let (sender, mut receiver) = channel(8);
    let open = sender.reserve().unwrap();
    let tickets: Vec<_> = (1..=5).map(|page| send(&sender, page.into(), page)).collect();
    let cx = Cx::new();
    cx.cancel();
    let report = group.run_loop(&mut receiver, &cx);
    assert_eq!(
        (report.end, report.drained, report.totals.commits),
        (LoopEnd::Cancelled, 5, 5)
    );
    assert_eq!(report.totals.batches, 3, "draining keeps to the batch limit");
    assert!(tickets.into_iter().all(|ticket| ticket.wait().is_committed()));
    assert_eq!(log.published().len(), 5);
    assert!(open.send(request(9, 0, [9])).is_err(), "too late");
    assert_eq!(sender.try_reserve().unwrap_err(), TryReserveError::Closed);
}

#[test]
fn a_waiting_loop_ends_when_it_is_cancelled_or_its_deadline_passes_or_all_senders_are_gone() {
    let (_log, sender, cx, handle) = spawned(GroupConfig::default().idle_wait(NEVER), 1);
    assert!(send(&sender, 1, 1).wait().is_committed());
    cx.cancel();
    assert_eq!(handle.join().unwrap().end, LoopEnd::Cancelled);

    let (_log, sender, _cx, handle) = spawned(GroupConfig::default().idle_wait(NEVER), 1);
    drop(sender);
    assert_eq!(handle.join().unwrap().end, LoopEnd::Disconnected);

    let mut bench = Bench::with(GroupConfig::default().idle_wait(NEVER));
    let (_sender, mut receiver) = channel(1);
    let report = bench.group.run_loop(&mut receiver, &Cx::with_timeout(SHORT));
    assert_eq!(report.end, LoopEnd::Cancelled);
}

#[test]
fn an_idle_loop_lets_the_log_tidy_up_and_a_failure_there_ends_all_writing() {
    let poison = Poison::new();
    let config = GroupConfig::default()
        .idle_wait(Duration::from_micros(50))
        .poison(poison.clone());
    let (log, sender, cx, handle) = spawned(config, 1);
    while log.counters().idles < 2 {
        thread::yield_now();
    }
    log.fail_next(Failure::Idle(fault("tidy")));
    while poison.reason().is_none() {
        thread::yield_now();
    }
    let outcome = send(&sender, 1, 1).wait();
    assert!(matches!(
        outcome,
        CommitOutcome::NotCommitted {
            reason: Error::Poisoned { .. }
        }
    ));
    cx.cancel();
    assert_eq!(handle.join().unwrap().totals.failed, 1);
}

#[test]
fn thirty_two_writers_through_two_places_are_all_served() {
    let (log, sender, cx, handle) = spawned(GroupConfig::default(), 2);
    let most = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..32_u32)
        .map(|writer| {
            let (sender, most) = (sender.clone(), Arc::clone(&most));
            thread::spawn(move || {
                (0..20_u32)
                    .map(|round| {
                        let page = writer * 20 + round + 1;
                        let permit = sender.reserve().unwrap();
                        most.fetch_max(sender.occupancy(), Ordering::Relaxed);
                        let ticket = permit.send(request(page.into(), 0, [page])).unwrap();
                        (page, ticket.wait().into_result().unwrap())
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let answers: Vec<_> = writers
        .into_iter()
        .flat_map(|writer| writer.join().unwrap())
        .collect();
    cx.cancel();
    let report = handle.join().unwrap();
    assert_eq!(
        (
            report.totals.commits,
            report.totals.conflicts,
            report.totals.failed
        ),
        (640, 0, 0)
    );
    assert!(report.totals.largest_batch <= 16);
    assert!(most.load(Ordering::Relaxed) <= 2);
    // Each writer got its own answer: the commit with its number holds its payload.
    let published = log.published();
    assert!(published.iter().map(|commit| commit.commit_seq.0).eq(1..=640));
    for (page, seq) in answers {
        assert_eq!(published[seq.0 as usize - 1].payload, u64::from(page));
    }
}

#[test]
fn of_writers_that_race_for_one_page_each_version_is_won_once() {
    let (log, sender, cx, handle) = spawned(GroupConfig::default(), 4);
    let totals: Vec<_> = (0..8_u64)
        .map(|writer| {
            let sender = sender.clone();
            thread::spawn(move || {
                let (mut snapshot, mut won) = (CommitSeq(0), Vec::new());
                while won.len() < 10 {
                    let ticket = sender
                        .reserve()
                        .unwrap()
                        .send(request(writer, snapshot.0, [1]))
                        .unwrap();
                    match ticket.wait() {
                        CommitOutcome::Committed { commit_seq, .. } => {
                            snapshot = commit_seq;
                            won.push(commit_seq.0);
                        }
                        // Answered once the winner is visible, so its number is a snapshot that exists.
                        CommitOutcome::Conflict(lost) => {
                            assert!(lost.winner_seq > snapshot);
                            snapshot = lost.winner_seq;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                won
            })
        })
        .collect();
    let mut won: Vec<u64> = totals
        .into_iter()
        .flat_map(|writer| writer.join().unwrap())
        .collect();
    won.sort_unstable();
    assert!(won.into_iter().eq(1..=80));
    cx.cancel();
    handle.join().unwrap();
    assert_eq!(log.published().len(), 80);
}

#[test]
fn answers_can_be_awaited_on_tokio() {
    let (_log, sender, cx, handle) = spawned(GroupConfig::default(), 2);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let seqs = runtime.block_on(async {
        let writers: Vec<_> = (1..=40_u32)
            .map(|page| {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let permit = sender.reserve_async().await.unwrap();
                    let ticket = permit.send(request(page.into(), 0, [page])).unwrap();
                    ticket.await.into_result().unwrap().0
                })
            })
            .collect();
        let mut seqs = Vec::new();
        for writer in writers {
            seqs.push(writer.await.unwrap());
        }
        seqs.sort_unstable();
        seqs
    });
    assert!(seqs.into_iter().eq(1..=40));
    cx.cancel();
    assert_eq!(handle.join().unwrap().totals.commits, 40);
}

#[test]
fn dropping_a_ticket_cancels_nothing() {
    let (log, sender, cx, handle) = spawned(GroupConfig::default(), 2);
    drop(send(&sender, 1, 1));
    assert!(send(&sender, 2, 2).wait().is_committed());
    assert_eq!(log.published().len(), 2);
    cx.cancel();
    handle.join().unwrap();
}

#[test]
fn a_panicking_log_fails_its_batch_and_the_loop_goes_on() {
    let (log, sender, cx, handle) = spawned(GroupConfig::default(), 2);
    log.fail_next(Failure::AppendPanics);
    assert!(matches!(
        send(&sender, 1, 1).wait(),
        CommitOutcome::NotCommitted { .. }
    ));
    assert!(send(&sender, 1, 1).wait().is_committed());
    cx.cancel();
    assert_eq!(handle.join().unwrap().end, LoopEnd::Cancelled);
}

/// A waker that panics is the one foreign call that nothing stands in front of.
struct PanickingWaker;

impl std::task::Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        panic!("a waker that was told to panic");
    }
}

#[test]
fn a_panic_in_the_loop_itself_sets_the_latch_and_leaves_no_writer_waiting() {
    let mut bench = Bench::new();
    let (sender, mut receiver) = channel(4);
    let mut first = send(&sender, 1, 1);
    let rest: Vec<_> = (2..=4).map(|page| send(&sender, page.into(), page)).collect();
    let waker = Arc::new(PanickingWaker).into();
    let polled = std::pin::Pin::new(&mut first);
    assert!(std::future::Future::poll(polled, &mut std::task::Context::from_waker(&waker)).is_pending());
    let report = bench.group.run_loop(&mut receiver, &Cx::new());
    assert!(matches!(&report.end, LoopEnd::Panicked(message) if message.contains("told to panic")));
    assert!(
        first.wait().is_committed(),
        "its answer was there before its waker panicked"
    );
    for ticket in rest {
        // Durable, but cut off before they were answered.
        assert!(matches!(
            ticket.try_outcome(),
            Some(CommitOutcome::OutcomeUnknown { token: Some(_), .. })
        ));
    }
    assert!(bench.group.poison().reason().is_some());
    assert_eq!(sender.try_reserve().unwrap_err(), TryReserveError::Closed);
}

#[test]
fn a_group_commit_can_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Group>();
    is_send::<Ticket>();
    is_send::<Permit<u64>>();
    is_send::<Reserve<'static, u64>>();
    is_send::<Sent<u64>>();
}
