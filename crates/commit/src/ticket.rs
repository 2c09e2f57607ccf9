//! What a writer waits on, and what answers it.

use crate::channel::BellPlace;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use walmend_sync::{Mutex, block_on, block_on_deadline};
use walmend_types::{CommitOutcome, CommitRequest, Error, OutcomeToken};

enum Answer {
    /// With the waker of whoever waits.
    Pending(Option<Waker>),
    Given(CommitOutcome),
}

struct Cell {
    answer: Mutex<Answer>,
}

/// The promise of an answer to one request.
///
/// Wait for it on a thread with [`wait`](Self::wait), or await it: it is a future, and needs no particular
/// runtime. Dropping it cancels nothing: what was sent is committed, or not, whether somebody listens or not.
#[must_use = "the ticket tells whether the commit is durable"]
pub struct Ticket {
    cell: Arc<Cell>,
    number: u64,
}

/// A ticket and what answers it.
pub(crate) fn ticket(number: u64) -> (Ticket, Resolver) {
    let cell = Arc::new(Cell {
        answer: Mutex::new(Answer::Pending(None)),
    });
    let resolver = Resolver {
        cell: Some(Arc::clone(&cell)),
        appended: None,
        waits_at: None,
    };
    (Ticket { cell, number }, resolver)
}

impl Ticket {
    /// The reservation number of the request.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the answer.
    pub fn wait(self) -> CommitOutcome {
        block_on(self)
    }

    /// Waits for the answer, for at most `timeout`.
    ///
    /// # Errors
    /// The ticket itself if the answer is still to come.
    pub fn wait_for(mut self, timeout: Duration) -> Result<CommitOutcome, Self> {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => block_on_deadline(&mut self, deadline).ok_or(self),
            None => Ok(self.wait()),
        }
    }

    /// The answer, if it is there.
    pub fn try_outcome(&self) -> Option<CommitOutcome> {
        match &*self.cell.answer.lock() {
            Answer::Pending(_) => None,
            Answer::Given(outcome) => Some(outcome.clone()),
        }
    }

    /// The answer; if it is still to come, the waker is told then.
    fn hear(&self, waker: &Waker) -> Poll<CommitOutcome> {
        let mut answer = self.cell.answer.lock();
        let replaced = match &mut *answer {
            Answer::Given(outcome) => return Poll::Ready(outcome.clone()),
            Answer::Pending(Some(known)) if known.will_wake(waker) => None,
            Answer::Pending(known) => known.replace(waker.clone()),
        };
        // Dropping a waker may drop a task, so not under the lock.
        drop(answer);
        drop(replaced);
        Poll::Pending
    }
}

impl Future for Ticket {
    type Output = CommitOutcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CommitOutcome> {
        self.hear(context.waker())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut answer = self.cell.answer.lock();
        if let Answer::Pending(waker) = &mut *answer {
            let waker = waker.take();
            drop(answer);
            drop(waker);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("number", &self.number)
            .field("outcome", &self.try_outcome())
            .finish()
    }
}

/// Answers one ticket, at the latest when dropped: a panic anywhere leaves no writer waiting.
pub(crate) struct Resolver {
    /// `None` once answered.
    cell: Option<Arc<Cell>>,
    /// Set from the moment the request is handed to the log, with its token as soon as that is known.
    appended: Option<Option<OutcomeToken>>,
    /// Where its writer waits on a thread of its own, which can lead; whoever answers rings there.
    waits_at: Option<BellPlace>,
}

impl Resolver {
    pub(crate) fn mark_appended(&mut self, token: Option<OutcomeToken>) {
        self.appended = Some(token);
    }

    /// Its writer waits on a thread of its own, at this bell.
    pub(crate) fn wait_at(&mut self, bell: BellPlace) {
        self.waits_at = Some(bell);
    }

    /// Where its writer waits, if it does so on a thread of its own.
    pub(crate) fn waits_at(&self) -> Option<BellPlace> {
        self.waits_at
    }

    pub(crate) fn resolve(&mut self, outcome: CommitOutcome) {
        if let Some(cell) = self.cell.take() {
            let before = std::mem::replace(&mut *cell.answer.lock(), Answer::Given(outcome));
            if let Answer::Pending(Some(waker)) = before {
                waker.wake();
            }
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        if self.cell.is_some() {
            let reason = Error::Internal("the request was dropped without an answer".into());
            self.resolve(match self.appended {
                None => CommitOutcome::NotCommitted { reason },
                Some(token) => CommitOutcome::OutcomeUnknown { token, reason },
            });
        }
    }
}

/// A request as it comes out of the channel, with what answers its writer.
///
/// Dropping it unanswered answers `NotCommitted`, or `OutcomeUnknown` once it was
/// [marked as appended](Self::mark_appended).
#[must_use = "dropping it tells the writer that nothing was committed"]
pub struct Sent<P> {
    number: u64,
    request: CommitRequest<P>,
    /// After the request, because fields are dropped in this order; see [`resolve`](Self::resolve).
    resolver: Resolver,
}

impl<P> Sent<P> {
    /// A request that came some other way than through a channel, and its ticket.
    pub fn new(number: u64, request: CommitRequest<P>) -> (Self, Ticket) {
        let (ticket, resolver) = ticket(number);
        (Self::from_parts(number, request, resolver), ticket)
    }

    pub(crate) fn from_parts(number: u64, request: CommitRequest<P>, resolver: Resolver) -> Self {
        Self {
            number,
            request,
            resolver,
        }
    }

    /// The reservation number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The request.
    pub fn request(&self) -> &CommitRequest<P> {
        &self.request
    }

    /// Says that the request is being handed to the log, with what it can be found by if that is known:
    /// from here on nobody can claim that it was not committed just because it was dropped.
    pub fn mark_appended(&mut self, token: Option<OutcomeToken>) {
        self.resolver.mark_appended(token);
    }

    /// Which bell is to be rung for it afterwards.
    pub(crate) fn waits_at(&self) -> Option<BellPlace> {
        self.resolver.waits_at()
    }

    /// Answers the writer. The request is dropped first: whatever its payload holds on to, a snapshot say,
    /// is free again by the time the writer goes on.
    pub fn resolve(self, outcome: CommitOutcome) {
        let Self {
            request,
            mut resolver,
            ..
        } = self;
        drop(request);
        resolver.resolve(outcome);
    }
}

impl<P> fmt::Debug for Sent<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sent")
            .field("number", &self.number)
            .field("txn", &self.request.txn)
            .finish_non_exhaustive()
    }
}
