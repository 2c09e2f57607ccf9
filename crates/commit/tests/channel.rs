//! The two-phase channel, used from one thread or a few.
#![cfg(not(walmend_loom))]

use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend_commit::*;
use walmend_sync::{Mutex, thread};

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(5);

fn request(txn: u64) -> CommitRequest<u64> {
    CommitRequest::new(TxnId(txn), CommitSeq(0), WriteSet::default(), txn)
}

fn send(permit: Permit<u64>, txn: u64) {
    drop(permit.send(request(txn)).unwrap());
}

fn received(receiver: &mut Receiver<u64>) -> Vec<u64> {
    std::iter::from_fn(|| receiver.try_recv().ok())
        .map(|sent| sent.number())
        .collect()
}

#[test]
fn a_capacity_from_a_setting_lies_between_1_and_65535() {
    assert_eq!(DEFAULT_CAPACITY, 16);
    let clamped = [
        (16, 16),
        (0, 1),
        (-1, 1),
        (i64::MIN, 1),
        (1, 1),
        (65_535, 65_535),
        (65_536, 65_535),
        (i64::MAX, 65_535),
    ];
    for (setting, capacity) in clamped {
        assert_eq!(capacity_from_setting(setting), capacity);
        let (sender, receiver) = channel::<()>(setting);
        assert_eq!((sender.capacity(), receiver.capacity()), (capacity, capacity));
    }
}

#[test]
fn occupancy_counts_what_is_reserved_and_what_is_sent() {
    let (sender, mut receiver) = channel(3);
    let first = sender.reserve().unwrap();
    let _second = sender.reserve().unwrap();
    assert_eq!(sender.occupancy(), 2);
    send(first, 1);
    assert_eq!((sender.occupancy(), receiver.occupancy()), (2, 2));
    drop(receiver.recv().unwrap());
    assert_eq!(sender.occupancy(), 1);
}

#[test]
fn numbers_count_from_1_and_order_what_is_received_whatever_the_order_of_sends() {
    let (sender, mut receiver) = channel(4);
    let mut permits: Vec<_> = (0..4).map(|_| sender.reserve().unwrap()).collect();
    assert_eq!(
        permits.iter().map(Permit::number).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    let second = permits.remove(1);
    for permit in permits.drain(1..).rev() {
        let txn = permit.number();
        send(permit, txn);
    }
    assert_eq!(
        receiver.try_recv().unwrap_err(),
        RecvError::Empty,
        "1 is still open"
    );
    send(permits.remove(0), 1);
    assert_eq!(received(&mut receiver), [1], "2 holds back 3 and 4");
    second.abort();
    assert_eq!(received(&mut receiver), [3, 4]);
}

#[test]
fn a_dropped_second_of_two_places_is_free_at_once_and_order_holds() {
    let (sender, mut receiver) = channel(2);
    let first = sender.reserve().unwrap();
    let second = sender.reserve().unwrap();
    assert_eq!(sender.try_reserve().unwrap_err(), TryReserveError::Full);
    drop(second);
    let third = sender.try_reserve().unwrap();
    assert_eq!((third.number(), sender.occupancy()), (3, 2));
    send(third, 3);
    assert_eq!(
        receiver.try_recv().unwrap_err(),
        RecvError::Empty,
        "1 is still open"
    );
    send(first, 1);
    assert_eq!(received(&mut receiver), [1, 3]);
}

#[test]
fn a_reservation_that_times_out_uses_no_place_and_no_number() {
    let (sender, _receiver) = channel::<u64>(1);
    let permit = sender.reserve().unwrap();
    let error = sender.reserve_for(SHORT).unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
    assert_eq!(sender.occupancy(), 1);
    drop(permit);
    assert_eq!(sender.occupancy(), 0, "nobody is queued any more");
    assert_eq!(sender.reserve_for(Duration::ZERO).unwrap().number(), 2);
    assert_eq!(sender.reserve_for(Duration::MAX).unwrap().number(), 3);
}

#[test]
fn a_reservation_waits_until_a_place_is_free() {
    for timeout in [None, Some(LONG)] {
        let (sender, mut receiver) = channel(1);
        send(sender.reserve().unwrap(), 1);
        let waiter = {
            let sender = sender.clone();
            thread::spawn(move || match timeout {
                None => sender.reserve().unwrap().number(),
                Some(timeout) => sender.reserve_for(timeout).unwrap().number(),
            })
        };
        assert_eq!(receiver.recv().unwrap().number(), 1);
        assert_eq!(waiter.join().unwrap(), 2);
    }
}

#[test]
fn dropping_the_receiver_refuses_reservations_and_answers_what_was_sent() {
    let (sender, receiver) = channel(3);
    let open = sender.reserve().unwrap();
    let ticket = sender.reserve().unwrap().send(request(2)).unwrap();
    let _third = sender.reserve().unwrap();
    let waiter = {
        let sender = sender.clone();
        thread::spawn(move || sender.reserve().map(|permit| permit.number()))
    };
    drop(receiver);
    assert!(matches!(waiter.join().unwrap(), Err(Error::Closed { .. })));
    assert!(matches!(
        ticket.wait(),
        CommitOutcome::NotCommitted {
            reason: Error::Closed { .. }
        }
    ));
    let refused = open.send(request(1)).unwrap_err();
    assert_eq!(refused.request.payload, 1, "the request comes back");
    assert!(matches!(Error::from(refused), Error::Closed { .. }));
    assert_eq!(sender.try_reserve().unwrap_err(), TryReserveError::Closed);
    assert!(matches!(sender.reserve(), Err(Error::Closed { .. })));
    assert!(matches!(sender.reserve_for(LONG), Err(Error::Closed { .. })));
    assert!(sender.is_closed());
}

#[test]
fn the_receiver_drains_what_was_sent_before_it_learns_that_all_senders_are_gone() {
    let (sender, mut receiver) = channel(4);
    send(sender.reserve().unwrap(), 1);
    let open = sender.reserve().unwrap();
    send(sender.clone().reserve().unwrap(), 3);
    drop(sender);
    assert_eq!(receiver.recv().unwrap().number(), 1);
    assert_eq!(
        receiver.recv_for(SHORT).unwrap_err(),
        RecvError::Empty,
        "2 is open"
    );
    send(open, 2);
    assert_eq!(receiver.recv().unwrap().number(), 2);
    assert_eq!(receiver.recv().unwrap().number(), 3);
    assert_eq!(receiver.recv().unwrap_err(), RecvError::Disconnected);
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::Disconnected);
    assert_eq!(receiver.recv_for(LONG).unwrap_err(), RecvError::Disconnected);
}

#[test]
fn closing_takes_open_permits_out_of_the_way_of_what_was_sent() {
    let (sender, mut receiver) = channel(3);
    let open = sender.reserve().unwrap();
    send(sender.reserve().unwrap(), 2);
    receiver.close();
    assert_eq!(receiver.occupancy(), 1);
    assert_eq!(received(&mut receiver), [2]);
    assert_eq!(receiver.recv().unwrap_err(), RecvError::Disconnected);
    assert_eq!(open.send(request(1)).unwrap_err().request.txn, TxnId(1));
}

#[test]
fn a_cancellation_or_its_deadline_ends_a_wait_but_not_before_what_is_there() {
    let (sender, mut receiver) = channel(1);
    let cx = Cx::new();
    let canceller = {
        let cx = cx.clone();
        thread::spawn(move || cx.cancel())
    };
    assert_eq!(receiver.recv_cx(&cx).unwrap_err(), RecvError::Cancelled);
    canceller.join().unwrap();
    let passed = Cx::with_timeout(Duration::ZERO);
    assert_eq!(receiver.recv_cx(&passed).unwrap_err(), RecvError::Cancelled);
    send(sender.reserve().unwrap(), 1);
    assert_eq!(receiver.recv_cx(&cx).unwrap().number(), 1);
}

#[test]
fn an_unanswered_request_answers_what_is_true_when_it_is_dropped() {
    let (sent, ticket) = Sent::new(1, request(1));
    assert!(ticket.try_outcome().is_none());
    let ticket = ticket.wait_for(SHORT).unwrap_err();
    drop(sent);
    assert!(matches!(
        ticket.wait_for(LONG),
        Ok(CommitOutcome::NotCommitted { .. })
    ));

    let (mut sent, ticket) = Sent::new(2, request(2));
    let token = OutcomeToken {
        salts: Default::default(),
        frame: 9,
        checksum: (1, 2),
    };
    sent.mark_appended(Some(token));
    drop(sent);
    let outcome = ticket.try_outcome().unwrap();
    assert!(matches!(outcome, CommitOutcome::OutcomeUnknown { token: Some(found), .. } if found == token));
    assert_eq!(ticket.number(), 2);
}

#[test]
fn a_panicking_consumer_leaves_no_writer_waiting() {
    let (sender, mut receiver) = channel(2);
    let received = sender.reserve().unwrap().send(request(1)).unwrap();
    let waiting = sender.reserve().unwrap().send(request(2)).unwrap();
    let consumer = thread::spawn(move || {
        let _sent = receiver.recv().unwrap();
        panic!("the consumer was told to panic");
    });
    assert!(consumer.join().is_err());
    assert!(!received.wait().is_committed());
    assert!(!waiting.wait().is_committed());
}

#[test]
fn both_phases_and_the_answer_can_be_awaited_on_tokio() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let (sender, mut receiver) = channel(1);
    runtime.block_on(async {
        let writers: Vec<_> = (0..50)
            .map(|txn| {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let permit = sender.reserve_async().await.unwrap();
                    permit.send(request(txn)).unwrap().await
                })
            })
            .collect();
        drop(sender);
        let consumer = tokio::spawn(async move {
            let mut numbers = Vec::new();
            while let Ok(sent) = receiver.recv_async().await {
                numbers.push(sent.number());
                let (wal_offset, txn) = (sent.number(), sent.request().txn.0);
                sent.resolve(CommitOutcome::Committed {
                    wal_offset,
                    commit_seq: CommitSeq(txn),
                });
            }
            numbers
        });
        for (txn, writer) in (0..).zip(writers) {
            assert_eq!(writer.await.unwrap().into_result().unwrap(), CommitSeq(txn));
        }
        assert!(consumer.await.unwrap().into_iter().eq(1..=50));
    });
}

#[test]
fn what_a_payload_holds_is_free_by_the_time_its_writer_is_answered() {
    /// Notes, when it is dropped, whether its writer was answered before.
    struct Witness {
        ticket: Arc<Mutex<Option<Ticket>>>,
        answered_before: Arc<Mutex<Option<bool>>>,
    }

    impl Drop for Witness {
        fn drop(&mut self) {
            let answered = self
                .ticket
                .lock()
                .as_ref()
                .map(|ticket| ticket.try_outcome().is_some());
            *self.answered_before.lock() = answered;
        }
    }

    let (ticket, answered_before) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let payload = Witness {
        ticket: Arc::clone(&ticket),
        answered_before: Arc::clone(&answered_before),
    };
    let request = CommitRequest::new(TxnId(1), CommitSeq(0), WriteSet::default(), payload);
    let (sent, writers_ticket) = Sent::new(1, request);
    *ticket.lock() = Some(writers_ticket);
    sent.resolve(CommitOutcome::Committed {
        wal_offset: 0,
        commit_seq: CommitSeq(1),
    });
    assert_eq!(*answered_before.lock(), Some(false));
}

#[test]
fn a_revoked_permit_neither_sends_into_nor_frees_the_place_that_another_one_has_got_since() {
    const DEADLINE: Duration = Duration::from_secs(1_000_000);
    let (sender, mut receiver) = channel_with_deadline(1, DEADLINE);
    let sender = sender.tracked();
    let late = sender.reserve().unwrap();
    // The only place there is goes from hand to hand.
    assert_eq!(receiver.revoke_overdue(Instant::now() + DEADLINE), 1);
    let later = sender.reserve().unwrap();
    assert_eq!((later.number(), sender.occupancy()), (2, 1));
    let refused = late.send(request(1)).unwrap_err();
    assert!(matches!(refused.error, Error::Revoked));
    assert_eq!(refused.request.payload, 1, "the request comes back");
    assert_eq!(received(&mut receiver), [], "2 is still open");

    assert_eq!(receiver.revoke_overdue(Instant::now() + DEADLINE), 1);
    let third = sender.reserve().unwrap();
    drop(later);
    assert_eq!(
        (sender.occupancy(), sender.leaked()),
        (1, Some(0)),
        "it had nothing left to give back"
    );
    send(third, 3);
    assert_eq!(received(&mut receiver), [3]);
}
