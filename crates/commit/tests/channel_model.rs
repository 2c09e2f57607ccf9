//! Random sequences of operations on the channel, against a model that is too simple to be wrong.
//!
//! Every operation of the channel is one step under one lock, so a sequence of operations is an interleaving of the
//! threads that might have called them. Time is an operation as well: the deadline is far longer than any run, and
//! `revoke_overdue` is told what time it is.
#![cfg(not(walmend_loom))]

use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use walmend_commit::*;

/// Reservations are revoked when a run says so, never by the clock itself.
const DEADLINE: Duration = Duration::from_secs(1_000_000);

#[derive(Debug, Clone)]
enum Op {
    TryReserve,
    /// Queue, or get a place at once.
    Reserve,
    /// A timeout that has passed already.
    ReserveForNoTime,
    /// The index counts modulo what there is.
    PollQueued(usize),
    ExpireQueued(usize),
    DropQueued(usize),
    Send(usize),
    Abort(usize),
    /// Drop without saying so: the place is free all the same, and the tracked sender counts it.
    Leak(usize),
    /// `mem::forget`: only a revocation frees the place.
    Forget(usize),
    /// The deadline passes of what was reserved up to some operation before this one.
    Revoke(usize),
    Recv,
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::TryReserve),
        6 => Just(Op::Reserve),
        1 => Just(Op::ReserveForNoTime),
        4 => any::<usize>().prop_map(Op::PollQueued),
        1 => any::<usize>().prop_map(Op::ExpireQueued),
        1 => any::<usize>().prop_map(Op::DropQueued),
        8 => any::<usize>().prop_map(Op::Send),
        3 => any::<usize>().prop_map(Op::Abort),
        1 => any::<usize>().prop_map(Op::Leak),
        1 => any::<usize>().prop_map(Op::Forget),
        4 => any::<usize>().prop_map(Op::Revoke),
        8 => Just(Op::Recv),
        1 => Just(Op::Close),
    ]
}

/// A place that is taken.
struct Entry {
    number: u64,
    sent: bool,
    /// The operation that took it.
    taken_in: usize,
}

/// The channel as a list.
#[derive(Default)]
struct Model {
    capacity: usize,
    last_number: u64,
    row: Vec<Entry>,
    waiting: VecDeque<usize>,
    /// What a waiter was given and has not fetched. A place that was revoked since is not in the row any more.
    granted: BTreeMap<usize, u64>,
    closed: bool,
    leaked: u64,
    /// The operation under way.
    now: usize,
}

impl Model {
    fn take(&mut self) -> Option<u64> {
        (self.row.len() < self.capacity).then(|| {
            self.last_number += 1;
            self.row.push(Entry {
                number: self.last_number,
                sent: false,
                taken_in: self.now,
            });
            self.last_number
        })
    }

    /// Gives the place back; answers whether it still was its holder's.
    fn free(&mut self, number: u64) -> bool {
        let Some(at) = self.row.iter().position(|entry| entry.number == number) else {
            return false;
        };
        self.row.remove(at);
        if !self.waiting.is_empty()
            && let Some(number) = self.take()
        {
            let waiter = self.waiting.pop_front().unwrap();
            self.granted.insert(waiter, number);
        }
        true
    }

    /// What stands first, is not sent, and was taken in this operation or before; answers how many.
    fn revoke(&mut self, taken_in: usize) -> usize {
        let mut revoked = 0;
        while let Some(first) = self.row.first()
            && !first.sent
            && first.taken_in <= taken_in
        {
            self.free(first.number);
            revoked += 1;
        }
        revoked
    }

    fn recv(&mut self) -> Result<u64, RecvError> {
        match self.row.first() {
            Some(first) if first.sent => {
                let number = first.number;
                self.free(number);
                Ok(number)
            }
            None if self.closed => Err(RecvError::Disconnected),
            _ => Err(RecvError::Empty),
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.row.retain(|entry| entry.sent);
        self.waiting.clear();
        self.granted.clear();
    }
}

fn request(number: u64) -> CommitRequest<u64> {
    CommitRequest::new(TxnId(number), CommitSeq(0), WriteSet::default(), number)
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// The channel and its model, side by side.
struct Run<'a> {
    model: Model,
    sender: &'a Sender<u64>,
    receiver: Receiver<u64>,
    permits: Vec<Permit<u64>>,
    queued: Vec<(usize, Reserve<'a, u64>)>,
    tickets: BTreeMap<u64, Ticket>,
    waiters: usize,
    /// When each operation had ended, and the next one had not begun.
    ended: Vec<Instant>,
}

fn pick(index: usize, of: usize) -> Option<usize> {
    (of > 0).then(|| index % of)
}

impl Run<'_> {
    fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::TryReserve => self.try_reserve()?,
            Op::Reserve => self.reserve()?,
            Op::ReserveForNoTime => self.reserve_for_no_time()?,
            Op::PollQueued(index) => {
                if let Some(place) = pick(index, self.queued.len()) {
                    self.poll_queued(place)?;
                }
            }
            Op::ExpireQueued(index) => {
                if let Some(place) = pick(index, self.queued.len()) {
                    self.expire_queued(place)?;
                }
            }
            Op::DropQueued(index) => {
                if let Some(place) = pick(index, self.queued.len()) {
                    let (waiter, reserve) = self.queued.remove(place);
                    drop(reserve);
                    self.model.waiting.retain(|other| *other != waiter);
                    if let Some(number) = self.model.granted.remove(&waiter) {
                        self.model.free(number);
                    }
                }
            }
            Op::Send(index) => {
                if let Some(place) = pick(index, self.permits.len()) {
                    self.send(place)?;
                }
            }
            Op::Abort(index) => {
                if let Some(place) = pick(index, self.permits.len()) {
                    let permit = self.permits.swap_remove(place);
                    self.model.free(permit.number());
                    permit.abort();
                }
            }
            Op::Leak(index) => {
                if let Some(place) = pick(index, self.permits.len()) {
                    let permit = self.permits.swap_remove(place);
                    self.model.leaked += u64::from(self.model.free(permit.number()));
                    drop(permit);
                }
            }
            Op::Forget(index) => {
                if let Some(place) = pick(index, self.permits.len()) {
                    std::mem::forget(self.permits.swap_remove(place));
                }
            }
            Op::Revoke(index) => {
                if let Some(taken_in) = pick(index, self.ended.len()) {
                    let due = self.ended[taken_in] + DEADLINE;
                    prop_assert_eq!(self.receiver.revoke_overdue(due), self.model.revoke(taken_in));
                }
            }
            Op::Recv => self.recv()?,
            Op::Close => {
                self.receiver.close();
                self.model.close();
            }
        }
        prop_assert_eq!(self.sender.occupancy(), self.model.row.len());
        prop_assert!(self.sender.occupancy() <= self.sender.capacity());
        prop_assert_eq!(self.sender.leaked(), Some(self.model.leaked));
        let ended = Instant::now();
        while Instant::now() == ended {}
        self.ended.push(ended);
        self.model.now += 1;
        Ok(())
    }

    fn try_reserve(&mut self) -> Result<(), TestCaseError> {
        let expected = match self.model.closed {
            true => Err(TryReserveError::Closed),
            false => self.model.take().ok_or(TryReserveError::Full),
        };
        let found = self.sender.try_reserve();
        prop_assert_eq!(
            found.as_ref().map(Permit::number).map_err(|error| *error),
            expected
        );
        self.permits.extend(found);
        Ok(())
    }

    fn reserve_for_no_time(&mut self) -> Result<(), TestCaseError> {
        match self.sender.reserve_for(Duration::ZERO) {
            Ok(permit) => {
                prop_assert_eq!(Some(permit.number()), self.model.take());
                self.permits.push(permit);
            }
            Err(Error::DeadlineExceeded { .. }) => {
                prop_assert!(!self.model.closed);
                prop_assert_eq!(self.model.row.len(), self.model.capacity);
            }
            Err(Error::Closed { .. }) => prop_assert!(self.model.closed),
            Err(other) => prop_assert!(false, "{}", other),
        }
        Ok(())
    }

    fn reserve(&mut self) -> Result<(), TestCaseError> {
        let mut reserve = self.sender.reserve_async();
        match poll(&mut reserve) {
            Poll::Ready(Ok(permit)) => {
                prop_assert_eq!(Some(permit.number()), self.model.take());
                self.permits.push(permit);
            }
            Poll::Ready(Err(_)) => prop_assert!(self.model.closed),
            Poll::Pending => {
                prop_assert_eq!(self.model.row.len(), self.model.capacity);
                self.model.waiting.push_back(self.waiters);
                self.queued.push((self.waiters, reserve));
                self.waiters += 1;
            }
        }
        Ok(())
    }

    fn poll_queued(&mut self, place: usize) -> Result<(), TestCaseError> {
        let (waiter, reserve) = &mut self.queued[place];
        match poll(reserve) {
            Poll::Ready(Ok(permit)) => {
                prop_assert_eq!(Some(permit.number()), self.model.granted.remove(waiter));
                self.permits.push(permit);
            }
            Poll::Ready(Err(_)) => prop_assert!(self.model.closed),
            Poll::Pending => {
                prop_assert!(self.model.waiting.contains(waiter));
                return Ok(());
            }
        }
        drop(self.queued.remove(place));
        Ok(())
    }

    fn expire_queued(&mut self, place: usize) -> Result<(), TestCaseError> {
        let (waiter, mut reserve) = self.queued.remove(place);
        match reserve.expire() {
            Some(Ok(permit)) => {
                prop_assert_eq!(Some(permit.number()), self.model.granted.remove(&waiter));
                self.permits.push(permit);
            }
            Some(Err(_)) => prop_assert!(self.model.closed),
            None => {
                prop_assert!(self.model.waiting.contains(&waiter));
                self.model.waiting.retain(|other| *other != waiter);
            }
        }
        Ok(())
    }

    fn send(&mut self, place: usize) -> Result<(), TestCaseError> {
        let permit = self.permits.swap_remove(place);
        let number = permit.number();
        let entry = self.model.row.iter_mut().find(|entry| entry.number == number);
        match (permit.send(request(number)), entry) {
            (Ok(ticket), Some(entry)) => {
                entry.sent = true;
                self.tickets.insert(number, ticket);
            }
            // Its place is gone, whoever has it now.
            (Err(refused), None) => {
                prop_assert_eq!(refused.request.payload, number);
                match refused.error {
                    Error::Closed { .. } => prop_assert!(self.model.closed),
                    Error::Revoked => prop_assert!(!self.model.closed),
                    other => prop_assert!(false, "{}", other),
                }
            }
            (Ok(_), None) => prop_assert!(false, "{} was sent without a place", number),
            (Err(refused), Some(_)) => prop_assert!(false, "{}: {}", number, refused),
        }
        Ok(())
    }

    fn recv(&mut self) -> Result<(), TestCaseError> {
        let found = self.receiver.try_recv();
        prop_assert_eq!(
            found.as_ref().map(Sent::number).map_err(|error| *error),
            self.model.recv()
        );
        if let Ok(sent) = found {
            let number = sent.number();
            prop_assert_eq!(sent.request().payload, number);
            let ticket = self.tickets.remove(&number).unwrap();
            prop_assert!(ticket.try_outcome().is_none());
            drop(sent);
            prop_assert!(ticket.try_outcome().is_some());
        }
        Ok(())
    }
}

fn run(capacity: i64, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let (sender, receiver) = channel_with_deadline(capacity, DEADLINE);
    let sender = sender.tracked();
    let mut run = Run {
        model: Model {
            capacity: capacity_from_setting(capacity),
            ..Model::default()
        },
        sender: &sender,
        receiver,
        permits: Vec::new(),
        queued: Vec::new(),
        tickets: BTreeMap::new(),
        waiters: 0,
        ended: Vec::new(),
    };
    for op in ops {
        run.step(op)?;
    }
    drop(run.receiver);
    prop_assert!(run.tickets.values().all(|ticket| ticket.try_outcome().is_some()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_occupancy_numbers_grants_and_revocations_are_those_of_the_model(
        capacity in 1..5_i64,
        ops in prop::collection::vec(op(), 1..120),
    ) {
        run(capacity, ops)?;
    }
}
