//! What senders, permits and the receiver share, behind one lock.
//!
//! Every transition is a method of [`State`] that answers whom to wake; the callers wake after the lock is
//! released. Two invariants carry the exactness of the wake-ups:
//!
//! - A reserver waits only while all slots are taken. Whoever frees a slot hands it to the first waiter in
//!   the same step, so no slot is ever free while somebody waits, and each freed slot wakes one waiter.
//! - The receiver is woken exactly when the first entry of the row turns from reserved into sent, or when
//!   nothing can come any more.

use super::ring::Ring;
use crate::ticket::Resolver;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use walmend_sync::{Mutex, MutexGuard};
use walmend_types::{CommitRequest, Error};

/// How the channel calls itself in [`Error::Closed`].
const NAME: &str = "the commit channel";

pub(crate) fn closed() -> Error {
    Error::Closed { what: NAME }
}

/// A slot that was taken: the key in the slab, and the reservation number. The number is never given out
/// twice, so it also tells a permit whose slot was taken away from the slot's next user.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) key: u32,
    pub(crate) number: u64,
}

/// A request with what answers its writer.
pub(crate) type Item<P> = (CommitRequest<P>, Resolver);

struct Slot<P> {
    number: u64,
    /// `None` while only reserved.
    sent: Option<Item<P>>,
}

enum Waiter {
    Waiting(Waker),
    Granted(Place),
    Refused,
}

/// What the first entry of the row says to the receiver.
pub(crate) enum Next<P> {
    Item(u64, Item<P>),
    NotYet,
    NoMore,
}

/// Whom to wake once the lock is released. Also carries wakers that are only to be dropped there: dropping
/// one may drop a task, and with it a permit, which takes the lock.
#[must_use]
#[derive(Default)]
pub(crate) struct Wakes {
    receiver: Option<Waker>,
    reserver: Option<Waker>,
}

impl Wakes {
    pub(crate) fn wake(self) {
        // The receiver first: it has the work.
        for waker in [self.receiver, self.reserver].into_iter().flatten() {
            waker.wake();
        }
    }
}

pub(crate) struct Shared<P> {
    state: Mutex<State<P>>,
}

impl<P> Shared<P> {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                capacity,
                slots: Ring::new(),
                waiters: Ring::new(),
                receiver: None,
                next_number: 1,
                senders: 1,
                closed: false,
            }),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock()
    }

    /// One transition; wakes afterwards, outside the lock.
    pub(crate) fn step<R>(&self, transition: impl FnOnce(&mut State<P>) -> (R, Wakes)) -> R {
        let (result, wakes) = transition(&mut self.lock());
        wakes.wake();
        result
    }
}

pub(crate) struct State<P> {
    pub(crate) capacity: usize,
    slots: Ring<Slot<P>>,
    waiters: Ring<Waiter>,
    /// The receiver's waker, while it waits.
    receiver: Option<Waker>,
    next_number: u64,
    pub(crate) senders: usize,
    pub(crate) closed: bool,
}

impl<P> State<P> {
    /// Reserved and sent.
    pub(crate) fn occupancy(&self) -> usize {
        self.slots.len()
    }

    /// Takes a slot if there is one.
    pub(crate) fn take_slot(&mut self) -> Option<Place> {
        if self.slots.len() >= self.capacity {
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        let key = self.slots.push_back(Slot { number, sent: None });
        Some(Place { key, number })
    }

    /// One poll of a reservation. `queued` is its key in the wait list, kept by the future; the waker that
    /// is no longer needed is handed out to be dropped outside the lock.
    pub(crate) fn poll_reserve(
        &mut self,
        queued: &mut Option<u32>,
        context: &Context<'_>,
    ) -> (Poll<Result<Place, Error>>, Option<Waker>) {
        let Some(key) = *queued else {
            if self.closed {
                return (Poll::Ready(Err(closed())), None);
            }
            if let Some(place) = self.take_slot() {
                return (Poll::Ready(Ok(place)), None);
            }
            *queued = Some(self.waiters.push_back(Waiter::Waiting(context.waker().clone())));
            return (Poll::Pending, None);
        };
        if let Some(Waiter::Waiting(waker)) = self.waiters.get_mut(key) {
            let old = (!waker.will_wake(context.waker()))
                .then(|| std::mem::replace(waker, context.waker().clone()));
            return (Poll::Pending, old);
        }
        let (result, waker) = self.leave_queue(queued);
        (Poll::Ready(result.unwrap_or_else(|| Err(closed()))), waker)
    }

    /// Takes a reservation out of the wait list: with its grant if it has one, with the refusal if the
    /// channel was closed, with `None` if it still waited.
    pub(crate) fn leave_queue(
        &mut self,
        queued: &mut Option<u32>,
    ) -> (Option<Result<Place, Error>>, Option<Waker>) {
        match queued.take().and_then(|key| self.waiters.remove(key)) {
            Some(Waiter::Granted(place)) if !self.closed => (Some(Ok(place)), None),
            Some(Waiter::Granted(_) | Waiter::Refused) => (Some(Err(closed())), None),
            Some(Waiter::Waiting(waker)) => (None, Some(waker)),
            None => (None, None),
        }
    }

    /// A slot became free: the first waiter gets it, and its number, right here.
    fn grant(&mut self) -> Option<Waker> {
        let waiter = self.waiters.front()?;
        let place = self.take_slot()?;
        self.waiters.unlink(waiter);
        match std::mem::replace(self.waiters.get_mut(waiter)?, Waiter::Granted(place)) {
            Waiter::Waiting(waker) => Some(waker),
            // Only waiting ones are linked.
            Waiter::Granted(_) | Waiter::Refused => None,
        }
    }

    /// The receiver's waker, if there is now something for it to see.
    fn wake_receiver(&mut self) -> Option<Waker> {
        let something = match self.slots.front().and_then(|key| self.slots.get(key)) {
            Some(first) => first.sent.is_some(),
            None => self.closed || self.senders == 0,
        };
        if something { self.receiver.take() } else { None }
    }

    fn is_reserved(&self, place: Place) -> bool {
        self.slots
            .get(place.key)
            .is_some_and(|slot| slot.number == place.number && slot.sent.is_none())
    }

    /// Puts the request into its slot, or hands it back if the slot was taken away.
    pub(crate) fn send(&mut self, place: Place, item: Item<P>) -> (Result<(), Item<P>>, Wakes) {
        if !self.is_reserved(place) {
            return (Err(item), Wakes::default());
        }
        if let Some(slot) = self.slots.get_mut(place.key) {
            slot.sent = Some(item);
        }
        let receiver = if self.slots.front() == Some(place.key) {
            self.wake_receiver()
        } else {
            None
        };
        let wakes = Wakes {
            receiver,
            reserver: None,
        };
        (Ok(()), wakes)
    }

    /// Gives a reserved slot back, wherever it stands in the row.
    pub(crate) fn abort(&mut self, place: Place) -> Wakes {
        if !self.is_reserved(place) {
            return Wakes::default();
        }
        let was_first = self.slots.front() == Some(place.key);
        self.slots.remove(place.key);
        let reserver = self.grant();
        let receiver = if was_first { self.wake_receiver() } else { None };
        Wakes { receiver, reserver }
    }

    /// Takes the first entry if it has been sent.
    pub(crate) fn take_next(&mut self) -> (Next<P>, Wakes) {
        let Some(key) = self.slots.front() else {
            let next = if self.closed || self.senders == 0 {
                Next::NoMore
            } else {
                Next::NotYet
            };
            return (next, Wakes::default());
        };
        if self.slots.get(key).is_none_or(|slot| slot.sent.is_none()) {
            return (Next::NotYet, Wakes::default());
        }
        let taken = self
            .slots
            .remove(key)
            .and_then(|slot| Some((slot.number, slot.sent?)));
        match taken {
            Some((number, item)) => {
                let wakes = Wakes {
                    receiver: None,
                    reserver: self.grant(),
                };
                (Next::Item(number, item), wakes)
            }
            None => (Next::NotYet, Wakes::default()),
        }
    }

    /// Remembers whom to wake for the receiver; hands out the waker that it replaces.
    pub(crate) fn wait_receiver(&mut self, waker: &Waker) -> Option<Waker> {
        match &self.receiver {
            Some(known) if known.will_wake(waker) => None,
            _ => self.receiver.replace(waker.clone()),
        }
    }

    /// The receiver no longer waits.
    pub(crate) fn forget_receiver(&mut self) -> Option<Waker> {
        self.receiver.take()
    }

    /// One sender fewer.
    pub(crate) fn drop_sender(&mut self) -> Wakes {
        self.senders -= 1;
        let receiver = if self.senders == 0 {
            self.wake_receiver()
        } else {
            None
        };
        Wakes {
            receiver,
            reserver: None,
        }
    }

    /// No more reservations: waiting ones are refused, open ones lose their slots, what was sent stays.
    /// Answers the wakers of the refused.
    pub(crate) fn close(&mut self) -> Vec<Waker> {
        if std::mem::replace(&mut self.closed, true) {
            return Vec::new();
        }
        let mut at = self.slots.front();
        while let Some(key) = at {
            at = self.slots.after(key);
            if self.slots.get(key).is_some_and(|slot| slot.sent.is_none()) {
                self.slots.remove(key);
            }
        }
        let mut wakers = Vec::new();
        while let Some(key) = self.waiters.front() {
            self.waiters.unlink(key);
            if let Some(waiter) = self.waiters.get_mut(key)
                && let Waiter::Waiting(waker) = std::mem::replace(waiter, Waiter::Refused)
            {
                wakers.push(waker);
            }
        }
        wakers
    }
}
