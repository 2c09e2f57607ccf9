//! Counters of a group commit, readable from any thread.

use walmend_sync::atomic::{AtomicU64, Ordering};

/// A snapshot of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Batches with at least one request.
    pub batches: u64,
    /// Requests that committed.
    pub commits: u64,
    /// Requests that lost against another one.
    pub conflicts: u64,
    /// Requests that failed: not committed, or of unknown outcome.
    pub failed: u64,
    /// Syncs that were asked for, the failed one included.
    pub syncs: u64,
    /// The most requests in one batch.
    pub largest_batch: u64,
}

/// The counters themselves. One thread counts; any thread may look, without a lock.
#[derive(Debug, Default)]
pub struct SharedTotals {
    batches: AtomicU64,
    commits: AtomicU64,
    conflicts: AtomicU64,
    failed: AtomicU64,
    syncs: AtomicU64,
    largest_batch: AtomicU64,
}

impl SharedTotals {
    /// The counters now. Whoever has its answer finds itself counted; between two batches the numbers fit
    /// together, during one some may be ahead of others.
    pub fn snapshot(&self) -> Totals {
        // The answer to a ticket orders these after the counting; nothing else depends on them.
        Totals {
            batches: self.batches.load(Ordering::Relaxed),
            commits: self.commits.load(Ordering::Relaxed),
            conflicts: self.conflicts.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            largest_batch: self.largest_batch.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn add(&self, batch: Totals) {
        let add = |counter: &AtomicU64, more: u64| {
            counter.fetch_add(more, Ordering::Relaxed);
        };
        add(&self.batches, batch.batches);
        add(&self.commits, batch.commits);
        add(&self.conflicts, batch.conflicts);
        add(&self.failed, batch.failed);
        add(&self.syncs, batch.syncs);
        self.largest_batch
            .fetch_max(batch.largest_batch, Ordering::Relaxed);
    }
}
