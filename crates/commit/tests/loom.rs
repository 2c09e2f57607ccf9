//! Models of the channel and the ticket. Each one is named after what must hold, and says which race it hunts.
//!
//! `RUSTFLAGS="--cfg walmend_loom" cargo test -p walmend-commit --release --test loom`
//!
//! Planted one at a time, to see that the models can fail, each of these bugs stopped the model named:
//! an abort that grants its slot and wakes nobody: `a_reserver_gets_the_slot_that_an_abort_frees`;
//! an abort of the first slot that leaves the receiver asleep: `a_permit_dropped_between_two_sends_is_skipped`;
//! a receiver that looks and queues in two steps: `two_senders_through_one_slot_are_all_served`;
//! a receiver that takes whatever was sent: `requests_come_out_in_the_order_of_reservation`;
//! a dropped reserve future that forgets its grant: `a_grant_that_nobody_fetched_goes_to_the_next_waiter`;
//! an expired one that stays queued: `a_reservation_that_times_out_uses_no_slot_and_no_number`;
//! futures that keep their first waker: the two `.._wakes_whoever_polled_last`;
//! a last sender that leaves quietly: `the_receiver_learns_that_all_senders_are_gone`;
//! a closed channel that leaves waiters asleep: `nobody_waits_for_a_receiver_that_is_gone`.
#![cfg(walmend_loom)]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use walmend_commit::*;
use walmend_sync::atomic::{AtomicUsize, Ordering};
use walmend_sync::{block_on, model, thread};

fn explore(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

fn request(txn: u64) -> CommitRequest<()> {
    CommitRequest::new(TxnId(txn), CommitSeq(0), WriteSet::default(), ())
}

fn answer(txn: u64) -> CommitOutcome {
    CommitOutcome::Committed {
        wal_offset: txn,
        commit_seq: CommitSeq(txn),
    }
}

fn sent_as(outcome: &CommitOutcome) -> Option<u64> {
    match outcome {
        CommitOutcome::Committed { commit_seq, .. } => Some(commit_seq.0),
        _ => None,
    }
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Receives everything, checks the order, and answers each request with its own transaction number.
fn receive_all(mut receiver: Receiver<()>) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Ok(sent) = receiver.recv() {
        numbers.push(sent.number());
        let outcome = answer(sent.request().txn.0);
        sent.resolve(outcome);
    }
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert_eq!(receiver.occupancy(), 0);
    numbers
}

/// Race: two open permits are sent in any order, while the receiver looks, waits, or is woken.
#[test]
fn requests_come_out_in_the_order_of_reservation() {
    explore(3, || {
        let (sender, receiver) = channel(2);
        let first = sender.reserve().unwrap();
        let second = sender.reserve().unwrap();
        drop(sender);
        let late = thread::spawn(move || first.send(request(1)).unwrap());
        let early = thread::spawn(move || second.send(request(2)).unwrap());
        assert_eq!(receive_all(receiver), [1, 2]);
        drop(late.join().unwrap());
        drop(early.join().unwrap());
    });
}

fn senders_of_two(capacity: i64, senders: u64) {
    let (sender, receiver) = channel(capacity);
    let threads: Vec<_> = (0..senders)
        .map(|id| {
            let sender = sender.clone();
            thread::spawn(move || {
                for round in 0..2 {
                    let txn = id * 10 + round;
                    let ticket = sender.reserve().unwrap().send(request(txn)).unwrap();
                    drop(ticket);
                }
            })
        })
        .collect();
    drop(sender);
    assert!(receive_all(receiver).into_iter().eq(1..=2 * senders));
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Race: with one slot, every reservation waits for the receiver, and every wake-up counts.
#[test]
fn two_senders_through_one_slot_are_all_served() {
    explore(3, || senders_of_two(1, 2));
}

/// Race: three senders queue for one slot, so that the wait list is longer than one.
#[test]
fn three_senders_through_one_slot_are_all_served() {
    explore(2, || senders_of_two(1, 3));
}

/// Race: with two slots, one sender's reservation overtakes the other's send.
#[test]
fn two_senders_through_two_slots_are_all_served() {
    explore(3, || senders_of_two(2, 2));
}

/// Race: the permit in the middle is dropped while its neighbours are sent and received. The slot must leave
/// the row without tearing it, and a receiver that waits for that slot must wake.
#[test]
fn a_permit_dropped_between_two_sends_is_skipped() {
    explore(3, || {
        let (sender, receiver) = channel(3);
        let first = sender.reserve().unwrap();
        let middle = sender.reserve().unwrap();
        let last = sender.reserve().unwrap();
        drop(sender);
        let sends = thread::spawn(move || (last.send(request(3)).unwrap(), first.send(request(1)).unwrap()));
        let drops = thread::spawn(move || middle.abort());
        assert_eq!(receive_all(receiver), [1, 3]);
        drop(sends.join().unwrap());
        drops.join().unwrap();
    });
}

/// Race: a full channel of one; the reserver queues while the only permit is aborted. The freed slot is
/// either found or granted, never lost.
#[test]
fn a_reserver_gets_the_slot_that_an_abort_frees() {
    explore(3, || {
        let (sender, mut receiver) = channel(1);
        let permit = sender.reserve().unwrap();
        let waiter = thread::spawn(move || {
            let permit = sender.reserve().unwrap();
            assert_eq!(permit.number(), 2);
            permit.send(request(2)).unwrap()
        });
        permit.abort();
        let sent = receiver.recv().unwrap();
        assert_eq!(sent.number(), 2);
        sent.resolve(answer(2));
        assert_eq!(sent_as(&waiter.join().unwrap().wait()), Some(2));
        assert_eq!(receiver.recv().unwrap_err(), RecvError::Disconnected);
    });
}

/// Race: two waiters behind one slot, which is freed by one abort and then by another: a wake-up that reaches
/// the wrong one leaves one waiting for ever.
#[test]
fn each_freed_slot_serves_one_of_two_waiters() {
    explore(2, || {
        let (sender, receiver) = channel::<()>(1);
        let permit = sender.reserve().unwrap();
        let waiters: Vec<_> = [sender.clone(), sender]
            .into_iter()
            .map(|sender| thread::spawn(move || sender.reserve().unwrap().number()))
            .collect();
        drop(permit);
        let mut numbers: Vec<u64> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [2, 3]);
        assert_eq!(receiver.occupancy(), 0);
    });
}

/// Race: the last sender goes while the receiver is about to wait; its request, its open permit and its end
/// must each be noticed.
#[test]
fn the_receiver_learns_that_all_senders_are_gone() {
    explore(3, || {
        let (sender, receiver) = channel(1);
        let other = sender.clone();
        let sends = thread::spawn(move || {
            let permit = sender.reserve().unwrap();
            drop(sender);
            // From here on the permit alone keeps the channel open.
            permit.send(request(1)).unwrap()
        });
        let leaves = thread::spawn(move || drop(other));
        assert_eq!(receive_all(receiver), [1]);
        assert_eq!(sent_as(&sends.join().unwrap().wait()), Some(1));
        leaves.join().unwrap();
    });
}

/// Race: an open permit outlives all senders and is then dropped, while the receiver waits for it.
#[test]
fn the_receiver_learns_that_the_last_permit_is_gone() {
    explore(3, || {
        let (sender, receiver) = channel::<()>(1);
        let permit = sender.reserve().unwrap();
        let leaves = thread::spawn(move || drop(sender));
        let drops = thread::spawn(move || drop(permit));
        assert_eq!(receive_all(receiver), []);
        leaves.join().unwrap();
        drops.join().unwrap();
    });
}

/// Race: the receiver goes while one writer sends and another one waits for a place. Each gets an answer, and
/// the answer is that nothing was committed.
#[test]
fn nobody_waits_for_a_receiver_that_is_gone() {
    explore(3, || {
        let (sender, receiver) = channel(1);
        let permit = sender.reserve().unwrap();
        let waiter = thread::spawn(move || match sender.reserve() {
            Err(error) => assert!(matches!(error, Error::Closed { .. })),
            Ok(permit) => answered_or_handed_back(permit, 2),
        });
        let gone = thread::spawn(move || drop(receiver));
        answered_or_handed_back(permit, 1);
        waiter.join().unwrap();
        gone.join().unwrap();
    });
}

fn answered_or_handed_back(permit: Permit<()>, txn: u64) {
    match permit.send(request(txn)) {
        Ok(ticket) => assert!(matches!(ticket.wait(), CommitOutcome::NotCommitted { .. })),
        Err(refused) => assert_eq!(refused.request.txn, TxnId(txn)),
    }
}

/// Race: closing takes away the place of an open permit while that is sent, and another request stands
/// behind it. What was sent is received exactly once; what was not is handed back.
#[test]
fn closing_loses_nothing_that_was_sent() {
    explore(3, || {
        let (sender, mut receiver) = channel(2);
        let open = sender.reserve().unwrap();
        let ready = sender.reserve().unwrap();
        let _ready = ready.send(request(2)).unwrap();
        let sends = thread::spawn(move || open.send(request(1)).is_ok());
        receiver.close();
        let numbers = receive_all(receiver);
        let was_sent = sends.join().unwrap();
        assert_eq!(numbers, if was_sent { vec![1, 2] } else { vec![2] });
        assert_eq!(sender.try_reserve().unwrap_err(), TryReserveError::Closed);
    });
}

/// Race: time runs out for a reserver exactly when a slot is freed for it. It has the slot, or it used
/// neither slot nor number; no third thing.
#[test]
fn a_reservation_that_times_out_uses_no_slot_and_no_number() {
    explore(3, || {
        let (sender, _receiver) = channel::<()>(1);
        let permit = sender.reserve().unwrap();
        let timed = {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut reserve = sender.reserve_async();
                match poll_once(&mut reserve) {
                    Poll::Ready(permit) => Some(permit.unwrap().number()),
                    Poll::Pending => reserve.expire().map(|permit| permit.unwrap().number()),
                }
            })
        };
        drop(permit);
        let got = timed.join().unwrap();
        assert_eq!(sender.occupancy(), 0);
        let next = sender.try_reserve().unwrap().number();
        match got {
            Some(number) => assert_eq!((number, next), (2, 3)),
            None => assert_eq!(next, 2),
        }
    });
}

/// Race: a reserve future is dropped exactly when it is granted the slot, with another one queued behind it.
#[test]
fn a_grant_that_nobody_fetched_goes_to_the_next_waiter() {
    explore(3, || {
        let (sender, _receiver) = channel::<()>(1);
        let permit = sender.reserve().unwrap();
        let fickle = {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut reserve = sender.reserve_async();
                // A permit that it got at once is dropped here as well.
                drop(poll_once(&mut reserve));
            })
        };
        let patient = {
            let sender = sender.clone();
            thread::spawn(move || drop(sender.reserve().unwrap()))
        };
        drop(permit);
        fickle.join().unwrap();
        patient.join().unwrap();
        assert_eq!(sender.occupancy(), 0);
    });
}

/// Race: a queued reserve future moves to another task (another waker) exactly when it is granted the slot.
#[test]
fn a_reserve_future_wakes_whoever_polled_last() {
    explore(3, || {
        let (sender, _receiver) = channel::<()>(1);
        let permit = sender.reserve().unwrap();
        let waiter = thread::spawn(move || {
            let mut reserve = sender.reserve_async();
            match poll_once(&mut reserve) {
                Poll::Ready(permit) => permit.unwrap().number(),
                Poll::Pending => block_on(reserve).unwrap().number(),
            }
        });
        drop(permit);
        assert_eq!(waiter.join().unwrap(), 2);
    });
}

/// Race: the answer comes while the writer is about to wait.
#[test]
fn a_ticket_that_is_waited_for_is_answered() {
    explore(3, || {
        let (sent, ticket) = Sent::new(1, request(7));
        let resolver = thread::spawn(move || sent.resolve(answer(7)));
        assert_eq!(sent_as(&ticket.wait()), Some(7));
        resolver.join().unwrap();
    });
}

/// Race: nobody answers, the request is just dropped, while the writer is about to wait.
#[test]
fn a_ticket_is_answered_by_dropping_the_request() {
    explore(3, || {
        let (mut sent, ticket) = Sent::new(1, request(7));
        let dropper = thread::spawn(move || {
            sent.mark_appended(None);
            drop(sent);
        });
        assert!(matches!(ticket.wait(), CommitOutcome::OutcomeUnknown { .. }));
        dropper.join().unwrap();
    });
}

/// Race: a ticket is polled in one task and then, with another waker, in a second one, while the answer comes.
#[test]
fn a_ticket_wakes_whoever_polled_last() {
    explore(3, || {
        let (sent, mut ticket) = Sent::new(1, request(7));
        let resolver = thread::spawn(move || sent.resolve(answer(7)));
        let outcome = match poll_once(&mut ticket) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => block_on(ticket),
        };
        assert_eq!(sent_as(&outcome), Some(7));
        resolver.join().unwrap();
    });
}

/// Race: the ticket is dropped while its answer comes. Nothing is left behind, and the answer is no error.
#[test]
fn dropping_a_ticket_does_not_disturb_its_answer() {
    explore(3, || {
        let (sent, mut ticket) = Sent::new(1, request(7));
        let resolver = thread::spawn(move || sent.resolve(answer(7)));
        drop(poll_once(&mut ticket));
        drop(ticket);
        resolver.join().unwrap();
    });
}

/// Race: a cancellation comes while the receiver is about to wait.
#[test]
fn a_cancelled_receiver_stops_waiting() {
    explore(3, || {
        let (sender, mut receiver) = channel::<()>(1);
        let cx = Cx::new();
        let canceller = {
            let cx = cx.clone();
            thread::spawn(move || cx.cancel())
        };
        assert_eq!(receiver.recv_cx(&cx).unwrap_err(), RecvError::Cancelled);
        canceller.join().unwrap();
        drop(sender);
    });
}

/// Race: wake-ups are exact. With one waiter and one freed slot, the waiter's waker runs once at most, however
/// the slot is freed.
#[test]
fn a_freed_slot_wakes_its_waiter_once() {
    struct Count(AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    explore(3, || {
        let (sender, mut receiver) = channel(1);
        let _first = sender.reserve().unwrap().send(request(1)).unwrap();
        let wakes = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&wakes));
        let mut reserve = sender.reserve_async();
        let polled = Pin::new(&mut reserve).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        let receives = thread::spawn(move || {
            drop(receiver.recv().unwrap());
            receiver
        });
        let mut polls = 0;
        let permit = block_on(poll_fn(|context| {
            polls += 1;
            Pin::new(&mut reserve).poll(context)
        }));
        assert_eq!(permit.unwrap().number(), 2);
        let _receiver = receives.join().unwrap();
        assert!(polls <= 2, "polled {polls} times");
        assert!(wakes.0.load(Ordering::SeqCst) <= 1);
    });
}

/// Race: writers and the whole group commit, through one slot: every writer gets its own answer, once.
#[test]
fn a_group_commit_behind_one_slot_answers_everybody() {
    explore(2, || {
        let (sender, mut receiver) = channel(1);
        let writers: Vec<_> = [(1, sender.clone()), (2, sender)]
            .into_iter()
            .map(|(txn, sender)| {
                thread::spawn(move || {
                    let ticket = sender.reserve().unwrap().send(request(txn)).unwrap();
                    drop(sender);
                    sent_as(&ticket.wait()).unwrap()
                })
            })
            .collect();
        let config = GroupConfig::default().batch_limit(1);
        let log = MemoryWriter::new();
        let mut group = GroupCommit::new(log.clone(), FirstCommitterWins::new(0), config);
        let report = group.run_loop(&mut receiver, &Cx::new());
        assert_eq!((report.end, report.totals.commits), (LoopEnd::Disconnected, 2));
        let mut seqs: Vec<u64> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, [1, 2]);
    });
}
