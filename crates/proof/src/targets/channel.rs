//! Any bytes as a sequence of operations on the channel, against a list.

use super::input::Input;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use walmend_commit::{
    CommitRequest, CommitSeq, Permit, RecvError, Reserve, Ticket, TryReserveError, TxnId, WriteSet, channel,
};

/// The channel as a list: numbers in order of reservation, and whether each was sent.
#[derive(Debug, Default)]
struct Model {
    row: VecDeque<(u64, bool)>,
    last: u64,
    closed: bool,
    /// Those who wait, in order; each with the number that it was given, if it was.
    waiting: Vec<(u32, Option<u64>)>,
}

impl Model {
    fn take(&mut self, capacity: usize) -> Option<u64> {
        (!self.closed && self.row.len() < capacity).then(|| {
            self.last += 1;
            self.row.push_back((self.last, false));
            self.last
        })
    }

    /// Gives free places to those who wait.
    fn grant(&mut self, capacity: usize) {
        for place in 0..self.waiting.len() {
            if self.waiting[place].1.is_none() {
                match self.take(capacity) {
                    Some(number) => self.waiting[place].1 = Some(number),
                    None => break,
                }
            }
        }
    }

    fn free(&mut self, number: u64, capacity: usize) {
        self.row.retain(|(other, _)| *other != number);
        self.grant(capacity);
    }

    fn leave(&mut self, waiter: u32) -> Option<u64> {
        let place = self.waiting.iter().position(|(other, _)| *other == waiter)?;
        self.waiting.remove(place).1
    }
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// The first byte is the capacity; each further pair is an operation and what it is done to.
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let capacity = usize::from(input.byte() % 6) + 1;
    let (sender, mut receiver) = channel::<u64>(capacity as i64);
    let mut model = Model::default();
    let mut permits: Vec<Permit<u64>> = Vec::new();
    let mut queued: Vec<(u32, Reserve<'_, u64>)> = Vec::new();
    let mut tickets: BTreeMap<u64, Ticket> = BTreeMap::new();
    let mut next = 0;
    while !input.is_empty() {
        let (op, index) = (input.byte() % 9, usize::from(input.byte()));
        match op {
            0 => {
                let expected = model.take(capacity);
                match sender.try_reserve() {
                    Ok(permit) => {
                        assert_eq!(Some(permit.number()), expected);
                        permits.push(permit);
                    }
                    Err(TryReserveError::Closed) => assert!(model.closed),
                    Err(TryReserveError::Full) => assert!(!model.closed && expected.is_none()),
                }
            }
            1 => {
                let mut reserve = sender.reserve_async();
                let expected = model.take(capacity);
                match poll(&mut reserve) {
                    Poll::Ready(Ok(permit)) => {
                        assert_eq!(Some(permit.number()), expected);
                        permits.push(permit);
                    }
                    Poll::Ready(Err(_)) => assert!(model.closed),
                    Poll::Pending => {
                        assert!(expected.is_none());
                        model.waiting.push((next, None));
                        queued.push((next, reserve));
                        next += 1;
                    }
                }
            }
            2 if !queued.is_empty() => {
                let place = index % queued.len();
                let waiter = queued[place].0;
                let given = |model: &Model| {
                    model
                        .waiting
                        .iter()
                        .find(|(other, _)| *other == waiter)
                        .and_then(|it| it.1)
                };
                match poll(&mut queued[place].1) {
                    Poll::Ready(Ok(permit)) => {
                        assert_eq!(Some(permit.number()), given(&model));
                        model.leave(waiter);
                        permits.push(permit);
                        drop(queued.remove(place));
                    }
                    Poll::Ready(Err(_)) => {
                        assert!(model.closed);
                        drop(queued.remove(place));
                    }
                    Poll::Pending => assert!(!model.closed && given(&model).is_none()),
                }
            }
            3 if !queued.is_empty() => {
                let (waiter, reserve) = queued.remove(index % queued.len());
                drop(reserve);
                if let Some(number) = model.leave(waiter) {
                    model.free(number, capacity);
                }
            }
            4 | 5 if !permits.is_empty() => {
                let permit = permits.swap_remove(index % permits.len());
                let number = permit.number();
                let request = CommitRequest::new(TxnId(number), CommitSeq(0), WriteSet::default(), number);
                match permit.send(request) {
                    Ok(ticket) => {
                        let entry = model.row.iter_mut().find(|(other, _)| *other == number);
                        entry.expect("a place that was not given up").1 = true;
                        tickets.insert(number, ticket);
                    }
                    Err(refused) => {
                        assert!(model.closed);
                        assert_eq!(refused.request.payload, number, "the request comes back");
                    }
                }
            }
            6 if !permits.is_empty() => {
                let permit = permits.swap_remove(index % permits.len());
                let number = permit.number();
                permit.abort();
                model.free(number, capacity);
            }
            7 => match receiver.try_recv() {
                Ok(sent) => {
                    let number = sent.number();
                    assert_eq!(
                        model.row.front(),
                        Some(&(number, true)),
                        "in order of reservation"
                    );
                    model.free(number, capacity);
                    let ticket = tickets.remove(&number).expect("sent");
                    assert!(ticket.try_outcome().is_none());
                    drop(sent);
                    assert!(ticket.try_outcome().is_some(), "nobody is left without an answer");
                }
                Err(RecvError::Disconnected) => assert!(model.closed && model.row.is_empty()),
                Err(_) => assert!(model.row.front().is_none_or(|(_, sent)| !sent)),
            },
            // Rare, or nothing else would be seen.
            8 if index < 8 => {
                receiver.close();
                model.closed = true;
                model.row.retain(|(_, sent)| *sent);
                model.waiting.clear();
            }
            _ => {}
        }
        assert_eq!(sender.occupancy(), model.row.len());
    }
    drop(receiver);
    assert!(tickets.values().all(|ticket| ticket.try_outcome().is_some()));
}
