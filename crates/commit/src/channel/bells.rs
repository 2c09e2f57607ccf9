//! How writers that wait on their own threads are woken: all those of a batch by one call.
//!
//! A writer waits at the bell of the batch that was filling when it sent its request. Usually it is taken with that
//! batch, so whoever answers the batch rings one bell. If it was left over by a limit, its bell is rung by a later batch
//! all the same, since a batch is answered by ringing the bell of each request in it; whoever is woken without
//! an answer waits on. The bells take turns, so a bell can have waiters of several batches.
//!
//! One waiter is also called to look whether it can lead. *Which* one the ring wakes is not known, and it could be one that
//! has its answer by then and leaves: whoever leaves while its bell is called for passes the call on.

use std::time::Instant;
use walmend_sync::atomic::{AtomicUsize, Ordering};
use walmend_sync::{Bell, Heard};

/// Batches that fill, are on their way, or are being answered, at the same time and without sharing a bell.
const BELLS: usize = 4;

/// Which bell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(u8);

/// Several bells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Several(u8);

impl Several {
    pub(crate) fn add(&mut self, place: Option<Place>) {
        if let Some(Place(bell)) = place {
            self.0 |= 1 << bell;
        }
    }
}

#[derive(Debug)]
pub(crate) struct Bells {
    bells: [Bell; BELLS],
    /// The bell that somebody is called at to look, plus one; 0 if nobody is. Written under the channel's lock.
    called: AtomicUsize,
}

impl Bells {
    pub(super) fn new() -> Self {
        Self {
            bells: std::array::from_fn(|_| Bell::new()),
            called: AtomicUsize::new(0),
        }
    }

    /// Where whoever sends now waits, after so many batches.
    pub(super) fn place(batches: u64) -> Place {
        Place((batches % BELLS as u64) as u8)
    }

    pub(crate) fn listen(&self, place: Place) -> Heard {
        self.at(place).listen()
    }

    /// Waits until the bell rings again, or until the deadline.
    pub(crate) fn wait(&self, place: Place, heard: Heard, deadline: Option<Instant>) {
        self.at(place).wait(heard, deadline);
    }

    /// Whether somebody at this bell is to look.
    pub(crate) fn is_called(&self, place: Place) -> bool {
        // Whoever was woken for it sees it: it was written before the ring.
        self.called.load(Ordering::Relaxed) == usize::from(place.0) + 1
    }

    /// Says that somebody at this bell is to look, or that nobody is; before the ring, and under the channel's lock.
    pub(super) fn call(&self, place: Option<Place>) {
        let called = place.map_or(0, |place| usize::from(place.0) + 1);
        if self.called.load(Ordering::Relaxed) != called {
            self.called.store(called, Ordering::Relaxed);
        }
    }

    pub(super) fn ring_one(&self, place: Place) {
        self.at(place).ring_one();
    }

    /// Wakes everybody at these bells.
    pub(crate) fn ring(&self, several: Several) {
        for (number, bell) in self.bells.iter().enumerate() {
            if several.0 & (1 << number) != 0 {
                bell.ring_all();
            }
        }
    }

    /// Wakes everybody.
    pub(crate) fn ring_every_one(&self) {
        self.bells.iter().for_each(Bell::ring_all);
    }

    fn at(&self, place: Place) -> &Bell {
        &self.bells[usize::from(place.0)]
    }
}
