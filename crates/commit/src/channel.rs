//! The sending side of the two-phase channel.

mod bells;
mod gather;
mod lead;
mod ring;
mod state;

pub(crate) use bells::{Place as BellPlace, Several as SeveralBells};
pub(crate) use gather::Gather;
#[cfg(not(walmend_loom))]
pub(crate) use lead::CREW;
pub(crate) use lead::{Arrived, Leadership, Step};
pub(crate) use state::{Item, Next, Place, Shared, closed};

use crate::permit::Permit;
use crate::receiver::Receiver;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use walmend_sync::atomic::{AtomicU64, Ordering};
use walmend_sync::{block_on, block_on_deadline};
use walmend_types::{Error, Result};

/// The capacity unless told otherwise, in requests.
pub const DEFAULT_CAPACITY: i64 = 16;

/// The largest capacity, in requests.
const MAX_CAPACITY: i64 = 65_535;

/// The capacity that a signed setting stands for: clamped to 1..=65535, so 0 and negative numbers give 1.
pub fn capacity_from_setting(setting: i64) -> usize {
    setting.clamp(1, MAX_CAPACITY) as usize
}

/// A bounded channel with two phases, many senders and one receiver.
///
/// `capacity` is the number of requests that may be reserved or sent and not yet received; it is taken as
/// by [`capacity_from_setting`].
///
/// ```
/// use walmend_commit::{CommitRequest, CommitSeq, TxnId, WriteSet, channel};
///
/// let (sender, mut receiver) = channel(2);
/// let permit = sender.reserve()?; // may wait
/// let request = CommitRequest::new(TxnId(7), CommitSeq(0), WriteSet::default(), "payload");
/// let ticket = permit.send(request)?; // never waits
/// let sent = receiver.recv()?;
/// assert_eq!((sent.number(), sent.request().txn), (1, TxnId(7)));
/// drop(sent); // unanswered: the ticket says that nothing was committed
/// assert!(!ticket.wait().is_committed());
/// # Ok::<(), walmend_commit::Error>(())
/// ```
pub fn channel<P>(capacity: i64) -> (Sender<P>, Receiver<P>) {
    both_ends(Shared::new(capacity_from_setting(capacity), None, None))
}

/// Like [`channel`], with a deadline for reservations: one that is neither sent nor given back for that long, and
/// holds others up, is revoked. Its place goes to others, and its [`send`](Permit::send) hands the request back.
///
/// The receiver watches the clock while it waits; only [`recv_async`](Receiver::recv_async), which has no clock, learns
/// of a passed deadline from [`revoke_overdue`](Receiver::revoke_overdue).
///
/// ```
/// use std::time::Duration;
/// use walmend_commit::{CommitRequest, CommitSeq, Error, TxnId, WriteSet, channel_with_deadline};
///
/// let (sender, mut receiver) = channel_with_deadline(2, Duration::from_millis(5));
/// let request = |txn| CommitRequest::new(TxnId(txn), CommitSeq(0), WriteSet::default(), "payload");
/// let forgotten = sender.reserve()?;
/// let _ticket = sender.reserve()?.send(request(2))?;
/// assert_eq!(receiver.recv()?.number(), 2); // after 5 ms
/// let refused = forgotten.send(request(1)).unwrap_err();
/// assert!(matches!(refused.error, Error::Revoked));
/// # Ok::<(), Error>(())
/// ```
pub fn channel_with_deadline<P>(capacity: i64, deadline: Duration) -> (Sender<P>, Receiver<P>) {
    both_ends(Shared::new(capacity_from_setting(capacity), Some(deadline), None))
}

fn both_ends<P>(shared: Arc<Shared<P>>) -> (Sender<P>, Receiver<P>) {
    (Sender::new(Arc::clone(&shared)), Receiver::new(shared))
}

/// Reserves places in the channel. Clones share the channel.
pub struct Sender<P> {
    shared: Arc<Shared<P>>,
    /// Counts leaked permits, where somebody wants to know.
    leaked: Option<Arc<AtomicU64>>,
}

impl<P> Sender<P> {
    /// The first sender of a channel.
    pub(crate) fn new(shared: Arc<Shared<P>>) -> Self {
        Self { shared, leaked: None }
    }

    /// A sender that counts the permits that are *leaked*: reserved through it or through its clones, and dropped
    /// without [`send`](Permit::send) or [`abort`](Permit::abort). Their places are free again all the same.
    #[must_use]
    pub fn tracked(&self) -> Self {
        let mut sender = self.clone();
        sender.leaked = Some(Arc::default());
        sender
    }

    /// How many permits were leaked, if this sender is [`tracked`](Self::tracked).
    pub fn leaked(&self) -> Option<u64> {
        self.leaked.as_ref().map(|leaked| leaked.load(Ordering::Relaxed))
    }

    fn permit(&self, place: Place) -> Permit<P> {
        Permit::new(Arc::clone(&self.shared), place, self.leaked.clone())
    }

    /// Reserves a place, waiting for one while the channel is full. Waiters are served first come, first
    /// served.
    ///
    /// # Errors
    /// [`Error::Closed`] if the receiver is gone, or goes while this waits.
    pub fn reserve(&self) -> Result<Permit<P>> {
        block_on(self.reserve_async())
    }

    /// Like [`reserve`](Self::reserve), as a future. Dropping it gives up its turn; a place that it was
    /// given in the meantime goes to the next one.
    pub fn reserve_async(&self) -> Reserve<'_, P> {
        Reserve {
            sender: self,
            queued: None,
        }
    }

    /// Like [`reserve`](Self::reserve), for at most `timeout`. Giving up uses no place and no number.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::DeadlineExceeded`] if no place came in time.
    pub fn reserve_for(&self, timeout: Duration) -> Result<Permit<P>> {
        let started = Instant::now();
        let Some(deadline) = started.checked_add(timeout) else {
            return self.reserve();
        };
        let mut reserve = self.reserve_async();
        block_on_deadline(&mut reserve, deadline).unwrap_or_else(|| {
            reserve.expire().unwrap_or_else(|| {
                let waited_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                Err(Error::DeadlineExceeded { waited_ms })
            })
        })
    }

    /// Reserves a place if one is free now.
    ///
    /// # Errors
    /// [`TryReserveError`].
    pub fn try_reserve(&self) -> Result<Permit<P>, TryReserveError> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(TryReserveError::Closed);
        }
        let place = state.take_slot().ok_or(TryReserveError::Full)?;
        drop(state);
        Ok(self.permit(place))
    }

    /// How many requests are reserved or sent and not yet received.
    pub fn occupancy(&self) -> usize {
        self.shared.lock().occupancy()
    }

    /// How many can be, at most.
    pub fn capacity(&self) -> usize {
        self.shared.lock().capacity
    }

    /// Whether the receiver is closed or gone.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }
}

impl<P> Clone for Sender<P> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Self {
            shared: Arc::clone(&self.shared),
            leaked: self.leaked.clone(),
        }
    }
}

impl<P> Drop for Sender<P> {
    fn drop(&mut self) {
        self.shared.step(|state| ((), state.drop_sender()));
    }
}

impl<P> fmt::Debug for Sender<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("occupancy", &self.occupancy())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

/// Waits for a place in the channel; see [`Sender::reserve_async`].
///
/// It queues at its first poll and keeps its turn when polled again. Polled after it was ready, it reserves
/// again.
#[must_use = "a reservation begins when it is polled"]
pub struct Reserve<'a, P> {
    sender: &'a Sender<P>,
    queued: Option<u32>,
}

impl<P> Reserve<'_, P> {
    /// Time is up: gives up the turn, uses no number, and answers `None`. If the place, or the refusal, came
    /// first, that is the answer instead.
    ///
    /// This is the whole of a timeout: the clock only says when to call it, so that a model checker, which
    /// has no clock, can call it at any moment.
    pub fn expire(&mut self) -> Option<Result<Permit<P>>> {
        let (answer, unused) = self.sender.shared.lock().leave_queue(&mut self.queued);
        drop(unused);
        answer.map(|answer| answer.map(|place| self.sender.permit(place)))
    }
}

impl<P> Future for Reserve<'_, P> {
    type Output = Result<Permit<P>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let (answer, unused, wakes) = this.sender.shared.lock().poll_reserve(&mut this.queued, context);
        drop(unused);
        this.sender.shared.wake(wakes);
        answer.map(|answer| answer.map(|place| this.sender.permit(place)))
    }
}

impl<P> Drop for Reserve<'_, P> {
    fn drop(&mut self) {
        if self.queued.is_some() {
            // A grant that nobody fetched comes back as a permit, which passes the place on.
            if let Some(Ok(permit)) = self.expire() {
                permit.abort();
            }
        }
    }
}

impl<P> fmt::Debug for Reserve<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve")
            .field("queued", &self.queued.is_some())
            .finish_non_exhaustive()
    }
}

/// Why [`Sender::try_reserve`] gave no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryReserveError {
    /// All places are taken.
    Full,
    /// The receiver is closed or gone.
    Closed,
}

impl fmt::Display for TryReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the commit channel is full",
            Self::Closed => "the commit channel is closed",
        })
    }
}

impl std::error::Error for TryReserveError {}
