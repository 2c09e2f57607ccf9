//! Random sequences of operations on the channel, against a model that is too simple to be wrong.
#![cfg(not(walmend_loom))]

use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use walmend_commit::*;

#[derive(Debug, Clone)]
enum Op {
    TryReserve,
    /// Queue, or get a place at once.
    Reserve,
    /// The index counts modulo what there is.
    PollQueued(usize),
    ExpireQueued(usize),
    DropQueued(usize),
    Send(usize),
    Abort(usize),
    Recv,
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::TryReserve),
        6 => Just(Op::Reserve),
        4 => any::<usize>().prop_map(Op::PollQueued),
        1 => any::<usize>().prop_map(Op::ExpireQueued),
        1 => any::<usize>().prop_map(Op::DropQueued),
        8 => any::<usize>().prop_map(Op::Send),
        4 => any::<usize>().prop_map(Op::Abort),
        8 => Just(Op::Recv),
        1 => Just(Op::Close),
    ]
}

/// The channel as a list.
#[derive(Default)]
struct Model {
    capacity: usize,
    last_number: u64,
    /// Number, and whether it was sent.
    row: Vec<(u64, bool)>,
    waiting: VecDeque<usize>,
    granted: BTreeMap<usize, u64>,
    closed: bool,
}

impl Model {
    fn take(&mut self) -> Option<u64> {
        (self.row.len() < self.capacity).then(|| {
            self.last_number += 1;
            self.row.push((self.last_number, false));
            self.last_number
        })
    }

    fn free(&mut self, number: u64) {
        self.row.retain(|(other, _)| *other != number);
        self.grant();
    }

    fn grant(&mut self) {
        if !self.waiting.is_empty()
            && let Some(number) = self.take()
        {
            let waiter = self.waiting.pop_front().unwrap();
            self.granted.insert(waiter, number);
        }
    }

    fn recv(&mut self) -> Result<u64, RecvError> {
        match self.row.first() {
            Some((number, true)) => {
                let number = *number;
                self.free(number);
                Ok(number)
            }
            Some(_) => Err(RecvError::Empty),
            None if self.closed => Err(RecvError::Disconnected),
            None => Err(RecvError::Empty),
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.row.retain(|(_, sent)| *sent);
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

fn run(capacity: i64, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let (sender, mut receiver) = channel(capacity);
    let mut model = Model {
        capacity: capacity_from_setting(capacity),
        ..Model::default()
    };
    let mut permits: Vec<Permit<u64>> = Vec::new();
    let mut queued: Vec<(usize, Reserve<'_, u64>)> = Vec::new();
    let mut tickets: BTreeMap<u64, Ticket> = BTreeMap::new();
    let mut next_waiter = 0;
    let pick = |index: usize, of: usize| (of > 0).then(|| index % of);

    for op in ops {
        match op {
            Op::TryReserve => {
                let expected = match model.closed {
                    true => Err(TryReserveError::Closed),
                    false => model.take().ok_or(TryReserveError::Full),
                };
                let found = sender.try_reserve();
                prop_assert_eq!(
                    found.as_ref().map(Permit::number).map_err(|error| *error),
                    expected
                );
                permits.extend(found);
            }
            Op::Reserve => {
                let mut reserve = sender.reserve_async();
                match poll(&mut reserve) {
                    Poll::Ready(Ok(permit)) => {
                        prop_assert_eq!(Some(permit.number()), model.take());
                        permits.push(permit);
                    }
                    Poll::Ready(Err(_)) => prop_assert!(model.closed),
                    Poll::Pending => {
                        prop_assert_eq!(model.row.len(), model.capacity);
                        model.waiting.push_back(next_waiter);
                        queued.push((next_waiter, reserve));
                        next_waiter += 1;
                    }
                }
            }
            Op::PollQueued(index) => {
                let Some(place) = pick(index, queued.len()) else {
                    continue;
                };
                let (waiter, reserve) = &mut queued[place];
                match poll(reserve) {
                    Poll::Ready(Ok(permit)) => {
                        prop_assert_eq!(Some(permit.number()), model.granted.remove(waiter));
                        permits.push(permit);
                        drop(queued.remove(place));
                    }
                    Poll::Ready(Err(_)) => {
                        prop_assert!(model.closed);
                        drop(queued.remove(place));
                    }
                    Poll::Pending => prop_assert!(model.waiting.contains(waiter)),
                }
            }
            Op::ExpireQueued(index) => {
                let Some(place) = pick(index, queued.len()) else {
                    continue;
                };
                let (waiter, mut reserve) = queued.remove(place);
                match reserve.expire() {
                    Some(Ok(permit)) => {
                        prop_assert_eq!(Some(permit.number()), model.granted.remove(&waiter));
                        permits.push(permit);
                    }
                    Some(Err(_)) => prop_assert!(model.closed),
                    None => {
                        prop_assert!(model.waiting.contains(&waiter));
                        model.waiting.retain(|other| *other != waiter);
                    }
                }
            }
            Op::DropQueued(index) => {
                let Some(place) = pick(index, queued.len()) else {
                    continue;
                };
                let (waiter, reserve) = queued.remove(place);
                drop(reserve);
                model.waiting.retain(|other| *other != waiter);
                if let Some(number) = model.granted.remove(&waiter) {
                    model.free(number);
                }
            }
            Op::Send(index) => {
                let Some(place) = pick(index, permits.len()) else {
                    continue;
                };
                let permit = permits.swap_remove(place);
                let number = permit.number();
                let entry = model.row.iter_mut().find(|(other, _)| *other == number);
                match (permit.send(request(number)), entry) {
                    (Ok(ticket), Some((_, sent))) => {
                        *sent = true;
                        tickets.insert(number, ticket);
                    }
                    (Err(refused), None) => {
                        prop_assert!(model.closed);
                        prop_assert_eq!(refused.request.payload, number);
                    }
                    (result, entry) => prop_assert!(false, "{:?} but {:?}", result, entry),
                }
            }
            Op::Abort(index) => {
                let Some(place) = pick(index, permits.len()) else {
                    continue;
                };
                let permit = permits.swap_remove(place);
                let number = permit.number();
                permit.abort();
                if model.row.iter().any(|(other, _)| *other == number) {
                    model.free(number);
                }
            }
            Op::Recv => {
                let found = receiver.try_recv();
                prop_assert_eq!(
                    found.as_ref().map(Sent::number).map_err(|error| *error),
                    model.recv()
                );
                if let Ok(sent) = found {
                    let number = sent.number();
                    prop_assert_eq!(sent.request().payload, number);
                    let ticket = tickets.remove(&number).unwrap();
                    prop_assert!(ticket.try_outcome().is_none());
                    drop(sent);
                    prop_assert!(ticket.try_outcome().is_some());
                }
            }
            Op::Close => {
                receiver.close();
                model.close();
            }
        }
        prop_assert_eq!(sender.occupancy(), model.row.len());
        prop_assert!(sender.occupancy() <= sender.capacity());
    }
    drop(receiver);
    prop_assert!(tickets.values().all(|ticket| ticket.try_outcome().is_some()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_occupancy_numbers_and_grants_are_those_of_the_model(
        capacity in 1..5_i64,
        ops in prop::collection::vec(op(), 1..120),
    ) {
        run(capacity, ops)?;
    }
}
