//! Whether it pays to wait for more requests before a batch is closed.
//!
//! Two signals tell that more is coming: reservations that are not sent yet, and writers that were answered a moment
//! ago and are not back with their next commit. Waiting for the latter pays while they come back faster than
//! a sync takes at its fastest: with T writers in step, one round of `T / (sync + return)` beats two
//! alternating halves of `T / 2 / sync` each exactly then. Few writers come back in time, many keep the cores
//! busy for longer than that. Both times are measured; nothing is assumed.

use crate::sizing::{conformal_batch_size, quantile};
use std::time::{Duration, Instant};

/// Samples kept of each kind, and batches between two looks at them.
const KEPT: usize = 16;

/// The last few samples.
#[derive(Debug, Default)]
struct Samples {
    kept: Vec<Duration>,
    next: usize,
}

impl Samples {
    fn add(&mut self, sample: Duration) {
        if self.kept.len() < KEPT {
            self.kept.push(sample);
        } else {
            self.kept[self.next] = sample;
            self.next = (self.next + 1) % KEPT;
        }
    }
}

/// What was measured, and what follows from it.
#[derive(Debug)]
pub(crate) struct Gather {
    enabled: bool,
    capacity: usize,
    /// Writers of the last batch that are not back yet.
    away: usize,
    answered_at: Option<Instant>,
    syncs: Samples,
    validations: Samples,
    returns: Samples,
    batches: usize,
    /// How long to wait for those that are away; zero where that does not pay.
    patience: Duration,
    /// A batch this large is not worth waiting for more.
    enough: usize,
}

impl Gather {
    pub(crate) fn new(enabled: bool, capacity: usize) -> Self {
        Self {
            enabled,
            capacity,
            away: 0,
            answered_at: None,
            syncs: Samples::default(),
            validations: Samples::default(),
            returns: Samples::default(),
            batches: 0,
            patience: Duration::ZERO,
            enough: 1,
        }
    }

    /// How many are expected back soon.
    pub(crate) fn away(&self) -> usize {
        self.away
    }

    /// How long it pays to wait for those that are expected, if there are `ready` requests.
    pub(crate) fn patience(&self, ready: usize) -> Option<Duration> {
        (self.patience > Duration::ZERO && ready < self.enough).then_some(self.patience)
    }

    /// A request came in.
    pub(crate) fn arrived(&mut self) {
        if self.away == 1 && self.enabled {
            self.note_return();
        }
        self.away = self.away.saturating_sub(1);
    }

    /// Waiting was in vain.
    pub(crate) fn gave_up(&mut self) {
        self.note_return();
        self.away = 0;
    }

    /// A batch is through its sync, and its writers are about to be answered.
    pub(crate) fn answered(&mut self, requests: usize, sync: Option<Duration>, validation: Duration) {
        if !self.enabled {
            self.away = requests;
            return;
        }
        if self.away > 0 {
            self.note_return();
        }
        self.away = requests;
        self.answered_at = Some(Instant::now());
        if let Some(sync) = sync {
            self.syncs.add(sync);
        }
        if requests > 0 {
            self.validations
                .add(validation / u32::try_from(requests).unwrap_or(u32::MAX));
        }
        self.batches += 1;
        if self.batches == KEPT {
            self.batches = 0;
            self.decide();
        }
    }

    /// The last of a batch is back, or will not be in time.
    fn note_return(&mut self) {
        if let Some(answered_at) = self.answered_at.take() {
            self.returns.add(answered_at.elapsed());
        }
    }

    fn decide(&mut self) {
        self.enough = conformal_batch_size(&self.syncs.kept, &self.validations.kept, self.capacity);
        let fastest = quantile(&self.syncs.kept, 0.1);
        let usual = quantile(&self.returns.kept, 0.5);
        self.patience = match (fastest, usual) {
            (Some(sync), Some(back)) if back < sync => sync,
            _ => Duration::ZERO,
        };
    }
}
