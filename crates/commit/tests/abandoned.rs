//! Writers that go away half-way, by a panic, a dropped future or a forgotten permit: the pipeline goes on, and keeps
//! nothing of theirs.
#![cfg(not(walmend_loom))]

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use walmend_commit::*;
use walmend_sync::thread;

/// What a request carries; its count says who still has it.
type Payload = Arc<&'static str>;
type TestPipeline = Pipeline<Payload, MemoryWriter<Payload>, FirstCommitterWins>;

fn start(capacity: i64, config: GroupConfig) -> (MemoryWriter<Payload>, TestPipeline) {
    let log = MemoryWriter::new();
    let group = GroupCommit::new(log.clone(), FirstCommitterWins::new(0), config);
    (log, Pipeline::start(group, capacity).unwrap())
}

fn request(payload: &Payload, pages: &[u32]) -> CommitRequest<Payload> {
    let pages = pages.iter().map(|page| PageNumber::new(*page).unwrap());
    let writes = WriteSet::new(pages);
    CommitRequest::new(TxnId(1), CommitSeq(0), writes, Arc::clone(payload))
}

fn poll<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// The payloads in the log, and nobody else but `ours`, who holds one of them.
fn held_by_the_log_alone(log: &MemoryWriter<Payload>, ours: &Payload) {
    let logged = log.log();
    let in_log = logged
        .iter()
        .filter(|commit| Arc::ptr_eq(&commit.payload, ours))
        .count();
    drop(logged);
    assert_eq!(Arc::strong_count(ours), 1 + in_log);
}

#[test]
fn a_writer_that_panics_between_its_two_phases_gives_its_place_back() {
    let (log, pipeline) = start(1, GroupConfig::default());
    let payload: Payload = Arc::new("");
    let tracked = pipeline.sender().unwrap().tracked();
    thread::scope(|scope| {
        let panicking = scope.spawn(|| {
            let _permit = tracked.reserve().unwrap();
            let _request = request(&payload, &[1]);
            panic!("the writer was told to panic");
        });
        assert!(panicking.join().is_err());
    });
    assert_eq!((pipeline.occupancy(), tracked.leaked()), (0, Some(1)));
    assert!(pipeline.commit(request(&payload, &[1])).is_committed());
    held_by_the_log_alone(&log, &payload);
}

#[test]
fn a_permit_that_is_forgotten_for_good_costs_its_place_until_the_deadline_and_nothing_else() {
    let config = GroupConfig::default().reservation_deadline(Duration::from_millis(2));
    let (log, pipeline) = start(2, config);
    let payload: Payload = Arc::new("");
    for _ in 0..5 {
        // Both places, so that whoever comes next waits for the deadline.
        for _ in 0..2 {
            std::mem::forget(pipeline.sender().unwrap().reserve().unwrap());
        }
        assert!(pipeline.commit(request(&payload, &[])).is_committed());
        assert_eq!(pipeline.occupancy(), 0);
    }
    assert_eq!(log.published().len(), 5);
    held_by_the_log_alone(&log, &payload);
}

#[test]
fn whatever_becomes_of_a_request_its_payload_is_let_go() {
    let (log, pipeline) = start(4, GroupConfig::default());
    let payload: Payload = Arc::new("");
    let sender = pipeline.sender().unwrap();
    // Never sent; sent with nobody listening; committed; lost; failed in the append.
    sender.reserve().unwrap().abort();
    drop(request(&payload, &[1]));
    drop(sender.reserve().unwrap().send(request(&payload, &[1])).unwrap());
    while log.published().is_empty() {
        thread::yield_now();
    }
    assert!(pipeline.commit(request(&payload, &[2])).is_committed());
    let lost = pipeline.commit(request(&payload, &[2]));
    assert!(matches!(lost, CommitOutcome::Conflict(_)));
    log.fail_next(Failure::Append(Error::io(
        "write",
        Path::new("the log"),
        None,
        std::io::Error::other("planted"),
    )));
    let failed = pipeline.commit(request(&payload, &[3]));
    assert!(matches!(failed, CommitOutcome::NotCommitted { .. }));
    assert_eq!((pipeline.occupancy(), log.log().len()), (0, 2));
    held_by_the_log_alone(&log, &payload);
    // Refused because the pipeline is closed under an open permit.
    let open = sender.reserve().unwrap();
    pipeline.close();
    let refused = open.send(request(&payload, &[4])).unwrap_err();
    assert!(matches!(refused.error, Error::Closed { .. }));
    drop(refused);
    assert!(!pipeline.commit(request(&payload, &[5])).is_committed());
    held_by_the_log_alone(&log, &payload);
    drop(pipeline);
    held_by_the_log_alone(&log, &payload);
}

/// An executor that panics when it is told that a task can go on.
struct Bomb;

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {
        panic!("the waker was told to panic");
    }
}

#[test]
fn a_waker_that_panics_leaves_nobody_of_its_batch_without_an_answer_and_the_pipeline_goes_on() {
    let (log, pipeline) = start(4, GroupConfig::default());
    let payload: Payload = Arc::new("");
    let sender = pipeline.sender().unwrap();
    let blocker = sender.reserve().unwrap();
    let mut tickets: Vec<Ticket> = (1..=3)
        .map(|page| {
            let permit = sender.reserve().unwrap();
            permit.send(request(&payload, &[page])).unwrap()
        })
        .collect();
    assert!(poll(&mut tickets[0], &Waker::from(Arc::new(Bomb))).is_pending());
    // All three are one batch now.
    blocker.abort();
    // Polling again would put another waker in its place.
    while tickets.iter().any(|ticket| ticket.try_outcome().is_none()) {
        thread::yield_now();
    }
    let outcomes: Vec<CommitOutcome> = tickets.into_iter().map(Ticket::wait).collect();
    assert!(outcomes[0].is_committed());
    for outcome in &outcomes[1..] {
        // Their answers went down with the waker; that they may be durable is said, and it is so.
        assert!(
            matches!(outcome, CommitOutcome::OutcomeUnknown { token: Some(_), .. }),
            "{outcome:?}"
        );
    }
    assert_eq!(log.published().len(), 3);
    assert!(pipeline.commit(request(&payload, &[4])).is_committed());
    assert!(pipeline.poison().reason().is_none());
    assert_eq!(pipeline.occupancy(), 0);
    held_by_the_log_alone(&log, &payload);
}

/// Polls its future a given number of times at most, and is ready then, without an answer.
struct Dropped<F> {
    future: F,
    polls: u32,
}

impl<F: Future + Unpin> Future for Dropped<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls == 0 {
            return Poll::Ready(None);
        }
        self.polls -= 1;
        let last = self.polls == 0;
        match Pin::new(&mut self.future).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if last => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[test]
fn tasks_that_are_dropped_at_every_await_point_among_others_leak_neither_places_nor_payloads() {
    const TASKS: u32 = 300;
    let (log, pipeline) = start(2, GroupConfig::default());
    log.set_sync_delay(Duration::from_micros(50));
    let payload: Payload = Arc::new("");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let sender = pipeline.sender().unwrap().clone();
    let (sent, answered) = runtime.block_on(async {
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (sender, payload) = (sender.clone(), Arc::clone(&payload));
                // So many polls of the one await point, and then so many of the other.
                let (reserving, waiting) = (task % 4, task / 4 % 4);
                tokio::spawn(async move {
                    let reserved = Dropped {
                        future: sender.reserve_async(),
                        polls: if reserving == 3 { u32::MAX } else { reserving },
                    };
                    let Some(permit) = reserved.await else {
                        return (false, false);
                    };
                    let ticket = permit.unwrap().send(request(&payload, &[])).unwrap();
                    let answer = Dropped {
                        future: ticket,
                        polls: if waiting == 3 { u32::MAX } else { waiting },
                    };
                    let answer = answer.await;
                    assert!(answer.iter().all(CommitOutcome::is_committed));
                    (true, answer.is_some())
                })
            })
            .collect();
        let (mut sent, mut answered) = (0, 0);
        for task in tasks {
            let (was_sent, was_answered) = task.await.unwrap();
            sent += usize::from(was_sent);
            answered += usize::from(was_answered);
        }
        (sent, answered)
    });
    // A place that a dropped future had been given would be missing here.
    let both = [sender.reserve().unwrap(), sender.reserve().unwrap()];
    both.into_iter().for_each(Permit::abort);
    pipeline.close();
    assert!(
        answered > 0 && answered < sent && sent < TASKS as usize,
        "{answered} {sent}"
    );
    assert_eq!(
        (log.published().len(), pipeline.occupancy()),
        (sent, 0),
        "what was sent is committed, whoever listens"
    );
    drop(runtime);
    held_by_the_log_alone(&log, &payload);
}
