//! A reserved place in the channel.

use crate::channel::{Place, Shared};
use crate::ticket::{Ticket, ticket};
use std::fmt;
use std::sync::Arc;
use walmend_sync::atomic::{AtomicU64, Ordering};
use walmend_types::{CommitRequest, Error};

/// A place in the channel, to be used once. Dropping it gives its place back as [`abort`](Self::abort) does; a
/// [tracked](crate::Sender::tracked) sender counts it as leaked then.
///
/// Whoever holds one for long holds back every later one: requests come out in the order of their numbers.
#[must_use = "dropping a permit gives its place back"]
pub struct Permit<P> {
    shared: Arc<Shared<P>>,
    place: Place,
    /// Counts it, should it be leaked.
    leaked: Option<Arc<AtomicU64>>,
}

impl<P> Permit<P> {
    pub(crate) fn new(shared: Arc<Shared<P>>, place: Place, leaked: Option<Arc<AtomicU64>>) -> Self {
        Self {
            shared,
            place,
            leaked,
        }
    }

    /// Its place, for whoever sends in some other way.
    pub(crate) fn into_place(mut self) -> Place {
        let place = self.place;
        self.leaked = None;
        // Nothing is left for the drop to do but to give up its share of the channel.
        self.place = Place::NOWHERE;
        place
    }

    /// The reservation number, from 1. Requests are received in the order of these numbers, whatever the
    /// order in which they are sent.
    pub fn number(&self) -> u64 {
        self.place.number
    }

    /// Sends the request. There is room for it, so this never waits.
    ///
    /// # Errors
    /// [`SendError`] with the request in it: [`Error::Closed`] if the receiver is closed or gone,
    /// [`Error::Revoked`] if this permit was held past its deadline.
    #[expect(clippy::result_large_err, reason = "it hands the request back")]
    pub fn send(self, request: CommitRequest<P>) -> Result<Ticket, SendError<CommitRequest<P>>> {
        let (ticket, resolver) = ticket(self.place.number);
        let shared = Arc::clone(&self.shared);
        let place = self.into_place();
        match shared.step(|state| state.send(place, (request, resolver))) {
            Ok(()) => Ok(ticket),
            Err((request, _unused)) => {
                let error = shared.lock().why_refused();
                Err(SendError { request, error })
            }
        }
    }

    /// Gives the place back, at once, even between two others. The number is skipped.
    pub fn abort(mut self) {
        self.leaked = None;
    }
}

impl<P> Drop for Permit<P> {
    fn drop(&mut self) {
        if self.place.is_nowhere() {
            return;
        }
        let gave_back = self.shared.step(|state| state.abort(self.place));
        if let Some(leaked) = self.leaked.as_ref().filter(|_| gave_back) {
            leaked.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<P> fmt::Debug for Permit<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("number", &self.place.number)
            .finish_non_exhaustive()
    }
}

/// A request that could not be sent. Nothing of it was committed.
pub struct SendError<T> {
    /// What was to be sent.
    pub request: T,
    /// Why it was not.
    pub error: Error,
}

impl<T> From<SendError<T>> for Error {
    fn from(refused: SendError<T>) -> Self {
        refused.error
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not sent: {}", self.error)
    }
}

impl<T> std::error::Error for SendError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
