//! The group commit: batches through their four phases, for whoever calls.

use crate::channel::closed;
use crate::config::GroupConfig;
use crate::report::BatchReport;
use crate::stages::{Common, Front};
use crate::ticket::Sent;
use crate::totals::SharedTotals;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use walmend_types::{CommitOutcome, CommitSeq, Poison, WalBatchWriter, WriteSetValidator};

/// Commits batches of requests: Validate, WalAppend, Fsync, Publish, strictly in this order.
///
/// A batch with something valid costs one sync, any other none. Nothing of a batch is acknowledged or visible
/// before its sync. When a sync fails, or when a failed append cannot be undone, the [`Poison`] latch is set,
/// and every later request is answered `NotCommitted`.
///
/// There are three ways to drive it: batch by batch with [`process_batch`](Self::process_batch), on one thread that
/// receives from a channel with [`run_loop`](Self::run_loop), or by the committing threads themselves in a
/// [`Pipeline`](crate::Pipeline), which is the fastest.
pub struct GroupCommit<P, W: WalBatchWriter<P>, V> {
    pub(crate) front: Front<W, V>,
    pub(crate) sync: W::Sync,
    pub(crate) config: GroupConfig,
    pub(crate) common: Common,
    payload: PhantomData<fn(P)>,
}

impl<P, W: WalBatchWriter<P>, V: WriteSetValidator> GroupCommit<P, W, V> {
    /// A group commit over this log.
    pub fn new(writer: W, validator: V, mut config: GroupConfig) -> Self {
        Self {
            sync: writer.sync_half(),
            common: Common::new(config.poison.clone(), config.last_seq),
            front: Front::new(writer, validator, &mut config),
            config,
            payload: PhantomData,
        }
    }

    /// The counters, for any thread.
    pub fn totals(&self) -> Arc<SharedTotals> {
        Arc::clone(&self.common.totals)
    }

    /// The last commit number in use.
    pub fn last_seq(&self) -> CommitSeq {
        self.front.last_seq
    }

    /// The validator.
    pub fn validator(&self) -> &V {
        &self.front.validator
    }

    /// The latch that ends all writing.
    pub fn poison(&self) -> &Poison {
        &self.common.poison
    }

    /// Commits a batch, and answers every ticket in it, in order.
    ///
    /// Within the batch, an earlier request wins over a later one. No error and no panic of the log or of
    /// the validator gets out of here: it is in the report and in the answers.
    pub fn process_batch(&mut self, batch: Vec<Sent<P>>) -> BatchReport {
        if batch.is_empty() {
            return BatchReport::default();
        }
        let mut flight = self.front.begin(batch, &self.common);
        self.front.clear_away(&mut flight, &self.common);
        let outcomes = flight.finish(&self.sync, &self.common);
        let report = flight.report(&outcomes);
        flight.count(&outcomes, &self.common.totals);
        flight.answer(outcomes);
        // After the answers: that costs the writers nothing, and their snapshots are gone by now.
        self.front.prune(&self.common);
        report
    }

    /// Answers a request that will not be processed any more.
    pub(crate) fn refuse(&self, sent: Sent<P>) {
        let reason = self.poison().check().err().unwrap_or_else(closed);
        sent.resolve(CommitOutcome::NotCommitted { reason });
    }
}

impl<P, W: WalBatchWriter<P>, V> fmt::Debug for GroupCommit<P, W, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupCommit")
            .field("last_seq", &self.front.last_seq)
            .field("config", &self.config)
            .field("totals", &self.common.totals.snapshot())
            .finish_non_exhaustive()
    }
}
