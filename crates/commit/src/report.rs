//! What a group commit says about its work.

use crate::ticket::Sent;
use crate::totals::Totals;
use walmend_types::{CommitOutcome, CommitSeq, Conflict, Error, TxnId};

/// The phases of a batch, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Conflicts are found; nothing is written.
    Validate,
    /// The valid requests are written to the log.
    WalAppend,
    /// The log is synced, once.
    Fsync,
    /// What is durable becomes visible.
    Publish,
}

/// A request that committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// Its reservation number.
    pub number: u64,
    /// Its transaction.
    pub txn: TxnId,
    /// The number that it committed under.
    pub commit_seq: CommitSeq,
    /// Where it starts in the log, in bytes.
    pub wal_offset: u64,
}

/// A request that lost against another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflicted {
    /// Its reservation number.
    pub number: u64,
    /// Its transaction.
    pub txn: TxnId,
    /// To whom it lost, and where.
    pub conflict: Conflict,
}

/// A request that failed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failed {
    /// Its reservation number.
    pub number: u64,
    /// Its transaction.
    pub txn: TxnId,
    /// [`Error::NotCommitted`] or [`Error::OutcomeUnknown`], with the reason in it.
    pub error: Error,
}

/// What became of one batch. The lists are in reservation order.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BatchReport {
    /// The phases that were begun.
    pub phases: Vec<Phase>,
    /// Syncs that were asked for: 0 or 1.
    pub fsyncs: u32,
    /// Requests that are durable and visible.
    pub committed: Vec<Committed>,
    /// Requests that lost. Nothing of them was appended.
    pub conflicted: Vec<Conflicted>,
    /// Requests that failed.
    pub failed: Vec<Failed>,
}

impl BatchReport {
    /// How many requests the batch had.
    pub fn requests(&self) -> usize {
        self.committed.len() + self.conflicted.len() + self.failed.len()
    }

    /// Takes down what one request was answered.
    pub(crate) fn note<P>(&mut self, sent: &Sent<P>, outcome: &CommitOutcome) {
        let (number, txn) = (sent.number(), sent.request().txn);
        match outcome {
            CommitOutcome::Committed {
                wal_offset,
                commit_seq,
            } => self.committed.push(Committed {
                number,
                txn,
                commit_seq: *commit_seq,
                wal_offset: *wal_offset,
            }),
            CommitOutcome::Conflict(conflict) => self.conflicted.push(Conflicted {
                number,
                txn,
                conflict: *conflict,
            }),
            CommitOutcome::NotCommitted { reason } => self.failed.push(Failed {
                number,
                txn,
                error: Error::NotCommitted {
                    reason: Box::new(reason.clone()),
                },
            }),
            CommitOutcome::OutcomeUnknown { reason, .. } => self.failed.push(Failed {
                number,
                txn,
                error: Error::OutcomeUnknown {
                    reason: Box::new(reason.clone()),
                },
            }),
        }
    }
}

/// What one round of draining the channel came to.
#[derive(Debug)]
pub enum Drained {
    /// A batch was processed.
    Processed(BatchReport),
    /// No request came in time.
    Idle,
    /// No request can come any more.
    Disconnected,
}

/// Why a loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoopEnd {
    /// Its `Cx` was cancelled, or the deadline of it passed.
    Cancelled,
    /// All senders are gone, or the receiver was closed.
    Disconnected,
    /// It panicked, with this message. Writing has ended for good.
    Panicked(String),
}

/// What a loop did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoopReport {
    /// Why it ended.
    pub end: LoopEnd,
    /// The counters of the group commit at the end of the loop.
    pub totals: Totals,
    /// Requests that were drained after the cancellation.
    pub drained: u64,
}
