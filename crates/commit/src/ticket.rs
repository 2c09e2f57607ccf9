//! What a writer waits on, and what answers it.

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
    /// Still pending, and whoever waits is to look whether it can lead.
    Look,
    Given(CommitOutcome),
}

struct Cell {
    answer: Mutex<Answer>,
    /// Its writer waits on a thread of its own, which can lead.
    can_lead: bool,
}

/// What a writer that can lead hears.
pub(crate) enum Heard {
    Nothing,
    Look,
    Answer(CommitOutcome),
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
pub(crate) fn ticket(number: u64, can_lead: bool) -> (Ticket, Resolver) {
    let cell = Arc::new(Cell {
        answer: Mutex::new(Answer::Pending(None)),
        can_lead,
    });
    let resolver = Resolver {
        cell: Some(Arc::clone(&cell)),
        appended: None,
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
            Answer::Pending(_) | Answer::Look => None,
            Answer::Given(outcome) => Some(outcome.clone()),
        }
    }

    /// What there is to hear; if nothing, the waker is told later.
    pub(crate) fn hear(&self, waker: &Waker) -> Heard {
        let mut answer = self.cell.answer.lock();
        let replaced = match &mut *answer {
            Answer::Given(outcome) => return Heard::Answer(outcome.clone()),
            Answer::Look => {
                *answer = Answer::Pending(None);
                return Heard::Look;
            }
            Answer::Pending(Some(known)) if known.will_wake(waker) => None,
            Answer::Pending(known) => known.replace(waker.clone()),
        };
        // Dropping a waker may drop a task, so not under the lock.
        drop(answer);
        drop(replaced);
        Heard::Nothing
    }
}

impl Future for Ticket {
    type Output = CommitOutcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CommitOutcome> {
        loop {
            match self.hear(context.waker()) {
                Heard::Answer(outcome) => return Poll::Ready(outcome),
                // Only those that can lead are told to look.
                Heard::Look => {}
                Heard::Nothing => return Poll::Pending,
            }
        }
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
}

impl Resolver {
    pub(crate) fn mark_appended(&mut self, token: Option<OutcomeToken>) {
        self.appended = Some(token);
    }

    /// Whether the writer waits on a thread of its own.
    pub(crate) fn can_lead(&self) -> bool {
        self.cell.as_ref().is_some_and(|cell| cell.can_lead)
    }

    /// Tells the writer to look whether it can lead; answers whom to wake for it.
    pub(crate) fn tell_to_look(&self) -> Option<Waker> {
        let mut answer = self.cell.as_ref()?.answer.lock();
        match &mut *answer {
            Answer::Pending(waker) => {
                let waker = waker.take();
                *answer = Answer::Look;
                waker
            }
            Answer::Look | Answer::Given(_) => None,
        }
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
        let (ticket, resolver) = ticket(number, false);
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
