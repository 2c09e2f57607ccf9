//! The contract between a group commit and the log that it drives.

use crate::{CommitRequest, CommitSeq, OutcomeToken};
use walmend_error::{Error, Result};

/// One admitted request of a batch.
#[derive(Debug)]
pub struct BatchEntry<'a, P> {
    /// The request.
    pub request: &'a CommitRequest<P>,
    /// The number that it commits under.
    pub commit_seq: CommitSeq,
}

/// What an append wrote.
#[derive(Debug, Clone)]
pub struct Append<M> {
    /// Where each request starts in the log, in bytes, in the order of the batch.
    pub offsets: Vec<u64>,
    /// What each request can be found by after a crash, in the order of the batch; may be empty for a log
    /// that offers no such thing.
    pub tokens: Vec<OutcomeToken>,
    /// What the log itself needs in order to sync and publish this batch.
    pub mark: M,
}

/// An append that failed.
#[derive(Debug, Clone)]
pub struct AppendFailure {
    /// Why.
    pub error: Error,
    /// Tokens of the requests, as far as they were worked out before the failure.
    pub tokens: Vec<OutcomeToken>,
}

impl From<Error> for AppendFailure {
    fn from(error: Error) -> Self {
        Self {
            error,
            tokens: Vec::new(),
        }
    }
}

/// The append half of a log: one owner, one batch after the other.
///
/// The sync half is apart, so that one batch can be synced while the next one is appended. The order of
/// calls for a batch is `append_batch`, [`sync`](WalBatchSync::sync), [`publish`](WalBatchSync::publish);
/// after a failed append, `discard_append` instead of the last two.
pub trait WalBatchWriter<P>: Send {
    /// What connects an append with its sync and its publication.
    type Mark: Send;
    /// The sync half.
    type Sync: WalBatchSync<Self::Mark>;

    /// The sync half; all clones are one.
    fn sync_half(&self) -> Self::Sync;

    /// Writes all requests, in order, without making them durable. The batch is never empty.
    ///
    /// # Errors
    /// Whatever the medium says. Part of the batch may be in the log then: see
    /// [`discard_append`](Self::discard_append). A request that the log cannot hold fails its whole batch, so
    /// whoever takes requests from strangers checks them before they are sent.
    fn append_batch(&mut self, batch: &[BatchEntry<'_, P>]) -> Result<Append<Self::Mark>, AppendFailure>;

    /// Makes sure that nothing of the last append (one that failed, panicked, or answered nonsense) can ever
    /// come back as committed, durably. Called with no sync under way.
    ///
    /// # Errors
    /// If that cannot be guaranteed. The caller then ends all writing.
    fn discard_append(&mut self) -> Result<()>;

    /// Called when no work has come for a while: a log can tidy up here.
    ///
    /// # Errors
    /// Only what must end all writing.
    fn idle(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The sync half of a log.
pub trait WalBatchSync<M>: Send + Clone {
    /// Makes an append durable, and records durably enough to survive a crash of this process that it is.
    ///
    /// # Errors
    /// Whatever the medium says. A failed sync is never retried.
    fn sync(&self, mark: &M) -> Result<()>;

    /// Makes a durable append visible to readers. Called in commit order, after the sync of this batch and
    /// of every earlier one.
    fn publish(&self, mark: M);
}
