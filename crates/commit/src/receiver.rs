//! The receiving side of the two-phase channel.

use crate::channel::{Next, Shared, closed};
use crate::ticket::Sent;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use walmend_sync::{Mutex, block_on, block_on_deadline, has_passed};
use walmend_types::{CancelGuard, CommitOutcome, Cx};

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvError {
    /// Nothing came in time.
    Empty,
    /// The `Cx` was cancelled, or its deadline passed.
    Cancelled,
    /// Nothing can come any more: all senders are gone, or the receiver was closed, and everything that was
    /// sent has been received.
    Disconnected,
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "no request came in time",
            Self::Cancelled => "cancelled",
            Self::Disconnected => "all senders are gone",
        })
    }
}

impl std::error::Error for RecvError {}

impl From<RecvError> for walmend_types::Error {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Empty => Self::DeadlineExceeded { waited_ms: 0 },
            RecvError::Cancelled => Self::Cancelled,
            RecvError::Disconnected => closed(),
        }
    }
}

/// Receives requests in the order of their reservation numbers.
///
/// Dropping it refuses waiting reservers and answers everything that was sent and not received with
/// `NotCommitted`.
pub struct Receiver<P> {
    shared: Arc<Shared<P>>,
}

impl<P> Receiver<P> {
    pub(crate) fn new(shared: Arc<Shared<P>>) -> Self {
        Self { shared }
    }

    /// Waits for the next request: the one with the lowest number that is neither received nor aborted. An
    /// open permit holds back every later request. Open permits count as senders.
    ///
    /// # Errors
    /// [`RecvError::Disconnected`].
    pub fn recv(&mut self) -> Result<Sent<P>, RecvError> {
        self.recv_watched(None, None)
    }

    /// Like [`recv`](Self::recv), as a future. Dropping it loses nothing.
    pub fn recv_async(&mut self) -> Recv<'_, P> {
        Recv { receiver: self }
    }

    /// The next request if it is there now.
    ///
    /// # Errors
    /// [`RecvError::Empty`] or [`RecvError::Disconnected`].
    pub fn try_recv(&mut self) -> Result<Sent<P>, RecvError> {
        match self.shared.step(|state| state.take_next()) {
            Next::Item(number, (request, resolver)) => Ok(Sent::from_parts(number, request, resolver)),
            Next::NotYet(_) => Err(RecvError::Empty),
            Next::NoMore => Err(RecvError::Disconnected),
        }
    }

    /// Like [`recv`](Self::recv), for at most `timeout`.
    ///
    /// # Errors
    /// [`RecvError::Empty`] or [`RecvError::Disconnected`].
    pub fn recv_for(&mut self, timeout: Duration) -> Result<Sent<P>, RecvError> {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.recv_until(deadline),
            None => self.recv(),
        }
    }

    pub(crate) fn recv_until(&mut self, deadline: Instant) -> Result<Sent<P>, RecvError> {
        self.recv_watched(None, Some(deadline))
    }

    /// Like [`recv`](Self::recv), until the token is cancelled (which wakes it at once) or its deadline
    /// passes. A request that is there wins over a cancellation.
    ///
    /// # Errors
    /// [`RecvError::Cancelled`] or [`RecvError::Disconnected`].
    pub fn recv_cx(&mut self, cx: &Cx) -> Result<Sent<P>, RecvError> {
        self.recv_watched(Some(&CancelWatch::new(cx)), cx.deadline())
            .map_err(|error| match error {
                // Only the token's own deadline can have run out here.
                RecvError::Empty => RecvError::Cancelled,
                other => other,
            })
    }

    /// Waits until a request is there, the watch fires, or the deadline passes.
    pub(crate) fn recv_watched(
        &mut self,
        watch: Option<&CancelWatch>,
        deadline: Option<Instant>,
    ) -> Result<Sent<P>, RecvError> {
        loop {
            let due = self.shared.lock().first_due();
            let mut recv = self.recv_async();
            let both = poll_fn(|context| match recv.poll_next(context) {
                Ok(received) => Poll::Ready(Some(received)),
                // Another reservation stands first now: another time to wake up at.
                Err(now_due) if now_due != due => Poll::Ready(None),
                Err(_) => match watch {
                    Some(watch) => watch.poll(context).map(|()| Some(Err(RecvError::Cancelled))),
                    None => Poll::Pending,
                },
            });
            let received = match [deadline, due].into_iter().flatten().min() {
                Some(wake_at) => block_on_deadline(both, wake_at).flatten(),
                None => block_on(both),
            };
            match received {
                Some(received) => return received,
                None if deadline.is_some_and(has_passed) => return Err(RecvError::Empty),
                // A reservation that is overdue is revoked at the next look.
                None => {}
            }
        }
    }

    /// Revokes the reservations that hold others up and are past the channel's deadline at `now`; answers how many.
    /// For those that wait with [`recv_async`](Self::recv_async) only; every other way to receive does it itself.
    pub fn revoke_overdue(&mut self, now: Instant) -> usize {
        self.shared.step(|state| state.revoke_overdue(now))
    }

    /// Takes no more reservations. Waiting reservers are refused; open permits lose their places, and their
    /// `send` hands the request back. What was sent can still be received, whatever stood before it.
    pub fn close(&mut self) {
        self.shared.step(|state| ((), state.close()));
    }

    /// How many requests are reserved or sent and not yet received.
    pub fn occupancy(&self) -> usize {
        self.shared.lock().occupancy()
    }

    /// How many can be, at most.
    pub fn capacity(&self) -> usize {
        self.shared.lock().capacity
    }
}

impl<P> Drop for Receiver<P> {
    fn drop(&mut self) {
        self.close();
        let mut refused = 0;
        while let Ok(sent) = self.try_recv() {
            sent.resolve(CommitOutcome::NotCommitted { reason: closed() });
            refused += 1;
        }
        if refused > 0 {
            tracing::debug!(
                target: "walmend::commit::channel",
                refused,
                "the receiver is gone: what was sent and not received is not committed"
            );
        }
    }
}

impl<P> fmt::Debug for Receiver<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("occupancy", &self.occupancy())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

/// Waits for the next request; see [`Receiver::recv_async`].
#[must_use = "nothing is received until this is polled"]
#[derive(Debug)]
pub struct Recv<'a, P> {
    receiver: &'a mut Receiver<P>,
}

impl<P> Recv<'_, P> {
    /// What is next; if nothing yet, the waker is told later, and the answer is when the reservation that stands in
    /// the way is revoked.
    fn poll_next(&mut self, context: &Context<'_>) -> Result<Result<Sent<P>, RecvError>, Option<Instant>> {
        // Looking and queueing are one step: between two, a send would go unnoticed.
        let (next, replaced) = self.receiver.shared.step(|state| match state.take_next() {
            (Next::NotYet(due), wakes) => {
                let replaced = state.wait_receiver(context.waker());
                ((Next::NotYet(due), replaced), wakes)
            }
            (next, wakes) => ((next, None), wakes),
        });
        drop(replaced);
        match next {
            Next::Item(number, (request, resolver)) => Ok(Ok(Sent::from_parts(number, request, resolver))),
            Next::NotYet(due) => Err(due),
            Next::NoMore => Ok(Err(RecvError::Disconnected)),
        }
    }
}

impl<P> Future for Recv<'_, P> {
    type Output = Result<Sent<P>, RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_next(context).map_or(Poll::Pending, Poll::Ready)
    }
}

impl<P> Drop for Recv<'_, P> {
    fn drop(&mut self) {
        let unused = self.receiver.shared.lock().forget_receiver();
        drop(unused);
    }
}

/// Notices the cancellation of a `Cx`, and wakes whoever polled last.
pub(crate) struct CancelWatch {
    signal: Arc<Mutex<Signal>>,
    /// Keeps the hook in place.
    _guard: CancelGuard,
}

#[derive(Default)]
struct Signal {
    fired: bool,
    waker: Option<Waker>,
}

impl CancelWatch {
    pub(crate) fn new(cx: &Cx) -> Self {
        let signal = Arc::new(Mutex::new(Signal::default()));
        let fire = Arc::clone(&signal);
        let guard = cx.on_cancel(move || {
            let waker = {
                let mut signal = fire.lock();
                signal.fired = true;
                signal.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        Self {
            signal,
            _guard: guard,
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut signal = self.signal.lock();
        if signal.fired {
            return Poll::Ready(());
        }
        let replaced = match &signal.waker {
            Some(known) if known.will_wake(context.waker()) => None,
            _ => signal.waker.replace(context.waker().clone()),
        };
        drop(signal);
        drop(replaced);
        Poll::Pending
    }
}
