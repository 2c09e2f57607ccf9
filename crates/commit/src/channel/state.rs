//! What senders, permits and the receiver share, behind one lock.
//!
//! Every transition is a method of [`State`] that answers whom to wake; the callers wake after the lock is
//! released. Two invariants carry the exactness of the wake-ups:
//!
//! - A reserver waits only while all slots are taken. Whoever frees a slot hands it to the first waiter in
//!   the same step, so no slot is ever free while somebody waits, and each freed slot wakes one waiter.
//! - The receiver is woken exactly when the first entry of the row turns from reserved into sent, or when
//!   nothing can come any more. A channel that its senders lead has no receiver: there, one of them is told to
//!   look (see the module `lead`).

use super::bells::{Bells, Place as BellPlace};
use super::lead::Leadership;
use super::ring::Ring;
use crate::ticket::Resolver;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use walmend_sync::{Mutex, MutexGuard, has_passed};
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

impl Place {
    /// The place of a permit that has been used; numbers count from 1.
    pub(crate) const NOWHERE: Self = Self { key: 0, number: 0 };

    pub(crate) fn is_nowhere(self) -> bool {
        self.number == 0
    }
}

/// A request with what answers its writer.
pub(crate) type Item<P> = (CommitRequest<P>, Resolver);

struct Slot<P> {
    number: u64,
    /// `None` while only reserved.
    sent: Option<Item<P>>,
    /// When the reservation is revoked, if it is still not sent by then.
    due: Option<Instant>,
}

enum Waiter {
    Waiting(Waker),
    Granted(Place),
    Refused,
}

/// What the first entry of the row says to the receiver.
pub(crate) enum Next<P> {
    Item(u64, Item<P>),
    /// With the time when the reservation that stands in the way is revoked, if there is one.
    NotYet(Option<Instant>),
    NoMore,
}

/// Whom to wake once the lock is released. Also carries wakers that are only to be dropped there: dropping
/// one may drop a task, and with it a permit, which takes the lock.
#[must_use]
#[derive(Default)]
pub(crate) struct Wakes {
    /// Whoever has work to do first.
    first: Option<Waker>,
    more: Vec<Waker>,
    /// Where a writer is called to look.
    pub(super) look: Option<BellPlace>,
}

impl Wakes {
    pub(crate) fn of(waker: Option<Waker>) -> Self {
        Self {
            first: waker,
            ..Self::default()
        }
    }

    /// A writer at this bell is called to look.
    pub(super) fn look_at(place: Option<BellPlace>) -> Self {
        Self {
            look: place,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, waker: Option<Waker>) {
        match self.first {
            None => self.first = waker,
            Some(_) => self.more.extend(waker),
        }
    }

    pub(crate) fn extend(&mut self, wakes: Self) {
        self.add(wakes.first);
        self.more.extend(wakes.more);
        self.look = self.look.or(wakes.look);
    }
}

pub(crate) struct Shared<P> {
    state: Mutex<State<P>>,
    pub(crate) bells: Arc<Bells>,
}

impl<P> Shared<P> {
    pub(crate) fn new(capacity: usize, deadline: Option<Duration>, lead: Option<Leadership>) -> Arc<Self> {
        let bells = Arc::new(Bells::new());
        Arc::new(Self {
            bells: Arc::clone(&bells),
            state: Mutex::new(State {
                bells,
                capacity,
                deadline,
                reserved: 0,
                lead,
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
        self.wake(wakes);
        result
    }

    /// Wakes them; not under the lock.
    pub(crate) fn wake(&self, wakes: Wakes) {
        if let Some(place) = wakes.look {
            self.bells.ring_one(place);
        }
        for waker in wakes.first.into_iter().chain(wakes.more) {
            waker.wake();
        }
    }
}

pub(crate) struct State<P> {
    pub(super) bells: Arc<Bells>,
    pub(crate) capacity: usize,
    /// How long a reservation may stay unsent before what stands behind it goes on without it.
    deadline: Option<Duration>,
    /// Slots that are reserved and not sent.
    pub(super) reserved: usize,
    /// Who takes batches, where the senders do that themselves.
    pub(super) lead: Option<Leadership>,
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
        self.reserved += 1;
        let due = self
            .deadline
            .and_then(|deadline| Instant::now().checked_add(deadline));
        let key = self.slots.push_back(Slot {
            number,
            sent: None,
            due,
        });
        Some(Place { key, number })
    }

    /// One poll of a reservation. `queued` is its key in the wait list, kept by the future; the waker that
    /// is no longer needed is handed out to be dropped outside the lock. Whoever queues behind a reservation with a
    /// deadline also says whom to wake, so that somebody watches the clock.
    pub(crate) fn poll_reserve(
        &mut self,
        queued: &mut Option<u32>,
        context: &Context<'_>,
    ) -> (Poll<Result<Place, Error>>, Option<Waker>, Wakes) {
        let Some(key) = *queued else {
            if self.closed {
                return (Poll::Ready(Err(closed())), None, Wakes::default());
            }
            if let Some(place) = self.take_slot() {
                return (Poll::Ready(Ok(place)), None, Wakes::default());
            }
            *queued = Some(self.waiters.push_back(Waiter::Waiting(context.waker().clone())));
            let wakes = match self.first_due() {
                Some(_) => self.wake_receiver(),
                None => Wakes::default(),
            };
            return (Poll::Pending, None, wakes);
        };
        if let Some(Waiter::Waiting(waker)) = self.waiters.get_mut(key) {
            let old = (!waker.will_wake(context.waker()))
                .then(|| std::mem::replace(waker, context.waker().clone()));
            return (Poll::Pending, old, Wakes::default());
        }
        let (result, waker) = self.leave_queue(queued);
        let answer = Poll::Ready(result.unwrap_or_else(|| Err(closed())));
        (answer, waker, Wakes::default())
    }

    /// Whether anybody waits for a place.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiters.front().is_some()
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

    /// Whom to wake if there is now something for the receiver, or for a leader, to see.
    fn wake_receiver(&mut self) -> Wakes {
        if self.lead.is_some() {
            return self.signal();
        }
        let something = match self.slots.front().and_then(|key| self.slots.get(key)) {
            Some(first) => first.sent.is_some() || first.due.is_some(),
            None => self.closed || self.senders == 0,
        };
        Wakes::of(if something { self.receiver.take() } else { None })
    }

    /// The first request of the row, if it has been sent.
    pub(super) fn first_sent(&self) -> Option<&CommitRequest<P>> {
        let first = self.slots.get(self.slots.front()?)?;
        first.sent.as_ref().map(|(request, _)| request)
    }

    /// When the first entry of the row is revoked, if it is only reserved and there is a deadline.
    pub(crate) fn first_due(&self) -> Option<Instant> {
        let first = self.slots.get(self.slots.front()?)?;
        first.due.filter(|_| first.sent.is_none())
    }

    /// Takes the place of the first entry away.
    pub(super) fn revoke_first(&mut self) -> Wakes {
        let Some(key) = self.slots.front() else {
            return Wakes::default();
        };
        let Some(revoked) = self.slots.remove(key) else {
            return Wakes::default();
        };
        self.reserved -= 1;
        tracing::warn!(
            target: "walmend::commit::channel",
            number = revoked.number,
            "a reservation was held past its deadline and is revoked"
        );
        Wakes::of(self.grant())
    }

    /// Revokes what stands first and is past its deadline; answers how many. The receiver is then to look again.
    pub(crate) fn revoke_overdue(&mut self, now: Instant) -> (usize, Wakes) {
        let (mut revoked, mut wakes) = (0, Wakes::default());
        while self.first_due().is_some_and(|due| due <= now) {
            wakes.extend(self.revoke_first());
            revoked += 1;
        }
        if revoked > 0 {
            wakes.extend(self.wake_receiver());
        }
        (revoked, wakes)
    }

    fn is_reserved(&self, place: Place) -> bool {
        self.slots
            .get(place.key)
            .is_some_and(|slot| slot.number == place.number && slot.sent.is_none())
    }

    /// Puts the request into its slot, or hands it back if the slot was taken away.
    #[expect(clippy::result_large_err, reason = "it hands the request back")]
    pub(crate) fn fill(&mut self, place: Place, item: Item<P>) -> Result<(), Item<P>> {
        let slot = self.slots.get_mut(place.key);
        match slot.filter(|slot| slot.number == place.number && slot.sent.is_none()) {
            Some(slot) => {
                slot.sent = Some(item);
                self.reserved -= 1;
                Ok(())
            }
            None => Err(item),
        }
    }

    /// [`fill`](Self::fill), and whoever receives is told.
    pub(crate) fn send(&mut self, place: Place, item: Item<P>) -> (Result<(), Item<P>>, Wakes) {
        if let Err(item) = self.fill(place, item) {
            return (Err(item), Wakes::default());
        }
        if let Some(lead) = &mut self.lead {
            lead.gather.arrived();
        }
        // Behind a reservation with a deadline, the receiver is to watch the clock from now on.
        let first = self.slots.front() == Some(place.key) || self.deadline.is_some();
        let wakes = match first || self.lead.is_some() {
            true => self.wake_receiver(),
            false => Wakes::default(),
        };
        (Ok(()), wakes)
    }

    /// Why a permit's place is gone.
    pub(crate) fn why_refused(&self) -> Error {
        if self.closed { closed() } else { Error::Revoked }
    }

    /// Gives a reserved slot back, wherever it stands in the row; answers whether it still was its holder's.
    pub(crate) fn abort(&mut self, place: Place) -> (bool, Wakes) {
        if !self.is_reserved(place) {
            return (false, Wakes::default());
        }
        let was_first = self.slots.front() == Some(place.key);
        self.slots.remove(place.key);
        self.reserved -= 1;
        let grant = self.grant();
        let mut wakes = match was_first || self.lead.is_some() {
            // The receiver first: it has the work.
            true => self.wake_receiver(),
            false => Wakes::default(),
        };
        wakes.add(grant);
        (true, wakes)
    }

    /// Takes the first entry out, which has been sent.
    pub(super) fn pop(&mut self) -> Option<(u64, Item<P>, Wakes)> {
        let key = self.slots.front()?;
        self.slots.get(key)?.sent.as_ref()?;
        let slot = self.slots.remove(key)?;
        Some((slot.number, slot.sent?, Wakes::of(self.grant())))
    }

    /// Takes the first entry if it has been sent.
    pub(crate) fn take_next(&mut self) -> (Next<P>, Wakes) {
        let mut wakes = Wakes::default();
        while self.first_due().is_some_and(has_passed) {
            wakes.extend(self.revoke_first());
        }
        match self.pop() {
            Some((number, item, grant)) => {
                wakes.extend(grant);
                (Next::Item(number, item), wakes)
            }
            None if self.slots.front().is_none() && (self.closed || self.senders == 0) => {
                (Next::NoMore, wakes)
            }
            None => (Next::NotYet(self.first_due()), wakes),
        }
    }

    /// Where the first writer waits that does so on its own thread.
    pub(super) fn first_writer(&self) -> Option<BellPlace> {
        let mut at = self.slots.front();
        while let Some(key) = at {
            let sent = self.slots.get(key).and_then(|slot| slot.sent.as_ref());
            if let Some(place) = sent.and_then(|(_, resolver)| resolver.waits_at()) {
                return Some(place);
            }
            at = self.slots.after(key);
        }
        None
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
        match self.senders {
            0 => self.wake_receiver(),
            _ => Wakes::default(),
        }
    }

    /// No more reservations: waiting ones are refused, open ones lose their slots, what was sent stays.
    /// Answers whom to wake: the refused, and a leader for what is no longer held back.
    pub(crate) fn close(&mut self) -> Wakes {
        let mut wakes = Wakes::default();
        if std::mem::replace(&mut self.closed, true) {
            return wakes;
        }
        let mut at = self.slots.front();
        while let Some(key) = at {
            at = self.slots.after(key);
            if self.slots.get(key).is_some_and(|slot| slot.sent.is_none()) {
                self.slots.remove(key);
            }
        }
        self.reserved = 0;
        while let Some(key) = self.waiters.front() {
            self.waiters.unlink(key);
            if let Some(waiter) = self.waiters.get_mut(key)
                && let Waiter::Waiting(waker) = std::mem::replace(waiter, Waiter::Refused)
            {
                wakes.add(Some(waker));
            }
        }
        if self.lead.is_some() {
            wakes.extend(self.signal());
        }
        wakes
    }
}
