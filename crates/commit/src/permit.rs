//! A reserved place in the channel.

use crate::channel::{Place, Shared, closed};
use crate::ticket::{Ticket, ticket};
use std::fmt;
use std::sync::Arc;
use walmend_types::{CommitRequest, Error};

/// A place in the channel, to be used once. Dropping it is the same as [`abort`](Self::abort).
///
/// Whoever holds one for long holds back every later one: requests come out in the order of their numbers.
#[must_use = "dropping a permit gives its place back"]
pub struct Permit<P> {
    shared: Arc<Shared<P>>,
    place: Place,
}

impl<P> Permit<P> {
    pub(crate) fn new(shared: Arc<Shared<P>>, place: Place) -> Self {
        Self { shared, place }
    }

    /// The reservation number, from 1. Requests are received in the order of these numbers, whatever the
    /// order in which they are sent.
    pub fn number(&self) -> u64 {
        self.place.number
    }

    /// Sends the request. There is room for it, so this never waits.
    ///
    /// # Errors
    /// [`SendError`] with the request in it if the receiver is closed or gone.
    pub fn send(self, request: CommitRequest<P>) -> Result<Ticket, SendError<CommitRequest<P>>> {
        let (ticket, resolver) = ticket(self.place.number);
        // The drop at the end finds the place used, and leaves it alone.
        match self
            .shared
            .step(|state| state.send(self.place, (request, resolver)))
        {
            Ok(()) => Ok(ticket),
            Err((request, _unused)) => Err(SendError {
                request,
                error: closed(),
            }),
        }
    }

    /// Gives the place back, at once, even between two others. The number is skipped.
    pub fn abort(self) {}
}

impl<P> Drop for Permit<P> {
    fn drop(&mut self) {
        self.shared.step(|state| ((), state.abort(self.place)));
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
