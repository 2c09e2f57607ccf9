//! What a writer asks for, and what it is answered.

use crate::{CommitSeq, PageNumber, Salts, TxnId};
use std::fmt;
use std::sync::Arc;
use walmend_error::{Error, Result};

/// The pages that a transaction writes, and the database size that it wants, if it says one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteSet {
    pages: Vec<PageNumber>,
    db_pages: Option<u32>,
}

impl WriteSet {
    /// A write set of these pages, in any order; repeated ones count once.
    pub fn new(pages: impl IntoIterator<Item = PageNumber>) -> Self {
        let mut pages: Vec<PageNumber> = pages.into_iter().collect();
        pages.sort_unstable();
        pages.dedup();
        Self {
            pages,
            db_pages: None,
        }
    }

    /// Says the size of the database after the commit, in pages. It is part of the write set: the commit
    /// conflicts if the size has changed since its snapshot. Unsaid, the size is the larger of what it was
    /// and the highest page written.
    #[must_use]
    pub fn with_db_pages(mut self, pages: u32) -> Self {
        self.db_pages = Some(pages);
        self
    }

    /// The pages, ascending, each once.
    pub fn pages(&self) -> &[PageNumber] {
        &self.pages
    }

    /// The size that was asked for, in pages.
    pub fn db_pages(&self) -> Option<u32> {
        self.db_pages
    }

    /// The database size after this commit, in pages, if it is `before` without it.
    pub fn size_after(&self, before: u32) -> u32 {
        self.db_pages
            .unwrap_or_else(|| before.max(self.pages.last().map_or(0, |page| page.get())))
    }
}

/// The pages that a transaction read, for those that are to be serializable.
///
/// It conflicts if any of them, or the size if that was read, has changed since its snapshot: then every
/// transaction reads what it would have read at the moment of its own commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadSet {
    pages: Vec<PageNumber>,
    size: bool,
}

impl ReadSet {
    /// A read set of these pages, in any order; repeated ones count once.
    pub fn new(pages: impl IntoIterator<Item = PageNumber>) -> Self {
        let pages = WriteSet::new(pages).pages;
        Self { pages, size: false }
    }

    /// Says that what the transaction did also depends on the size of the database.
    #[must_use]
    pub fn with_size(mut self) -> Self {
        self.size = true;
        self
    }

    /// The pages, ascending, each once.
    pub fn pages(&self) -> &[PageNumber] {
        &self.pages
    }

    /// Whether the size of the database was read.
    pub fn size(&self) -> bool {
        self.size
    }
}

/// One transaction on its way to the log. Generic over what the log is to write.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CommitRequest<P> {
    /// The writer's own number for the transaction; need not be unique.
    pub txn: TxnId,
    /// The last commit that the transaction saw.
    pub snapshot: CommitSeq,
    /// What it writes.
    pub writes: WriteSet,
    /// What it read, if it is to be serializable; `None` for snapshot isolation.
    pub reads: Option<ReadSet>,
    /// The size of the payload in bytes, as far as the byte limit of a batch is concerned.
    pub bytes: usize,
    /// What the log is to write for it.
    pub payload: P,
}

impl<P> CommitRequest<P> {
    /// A request under snapshot isolation, whose size counts as 0 bytes.
    pub fn new(txn: TxnId, snapshot: CommitSeq, writes: WriteSet, payload: P) -> Self {
        Self {
            txn,
            snapshot,
            writes,
            reads: None,
            bytes: 0,
            payload,
        }
    }

    /// Asks for serializability: what was read is validated as well.
    #[must_use]
    pub fn with_reads(mut self, reads: ReadSet) -> Self {
        self.reads = Some(reads);
        self
    }

    /// Says how large the payload is, in bytes.
    #[must_use]
    pub fn with_bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }
}

/// One page as it is to be: its number and all of its bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct PageImage {
    /// The page.
    pub page: PageNumber,
    data: Arc<[u8]>,
    checksum_part: Option<(u32, u32)>,
}

impl PageImage {
    /// An image of exactly one page of bytes.
    pub fn new(page: PageNumber, data: impl Into<Arc<[u8]>>) -> Self {
        Self {
            page,
            data: data.into(),
            checksum_part: None,
        }
    }

    /// Says what these bytes contribute to the checksum of the log, which `work_out` answers. Whoever makes the
    /// image does that on its own core, so that the one thread that appends need not. A log believes it.
    #[must_use]
    pub fn with_checksum_part(mut self, work_out: impl FnOnce(&[u8]) -> (u32, u32)) -> Self {
        self.checksum_part = Some(work_out(&self.data));
        self
    }

    /// The bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// What the bytes contribute to the checksum of the log, if whoever made the image worked it out.
    pub fn checksum_part(&self) -> Option<(u32, u32)> {
        self.checksum_part
    }
}

impl fmt::Debug for PageImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageImage")
            .field("page", &self.page)
            .field("bytes", &self.data.len())
            .finish()
    }
}

/// A payload that consists of page images; what `walmend-wal` can write.
pub trait PagePayload: Send {
    /// The pages, at least one, in the order in which they are to be written; each page once.
    fn images(&self) -> &[PageImage];
}

impl PagePayload for Vec<PageImage> {
    fn images(&self) -> &[PageImage] {
        self
    }
}

/// Names a place in a log, so that after reopening one can ask whether a commit is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OutcomeToken {
    /// The generation of the log.
    pub salts: Salts,
    /// The commit frame, from 1.
    pub frame: u32,
    /// The chain checksum after that frame.
    pub checksum: (u32, u32),
}

/// Why a request lost against another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The page that the winner wrote and the loser wrote or read, or `None` for the size of the database.
    pub page: Option<PageNumber>,
    /// The transaction that won.
    pub winner: TxnId,
    /// Its commit number.
    pub winner_seq: CommitSeq,
}

impl From<Conflict> for Error {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict {
            page: conflict.page.map(PageNumber::get),
            txn: conflict.winner.0,
            commit_seq: conflict.winner_seq.0,
        }
    }
}

/// What a writer is told about its commit.
#[derive(Debug, Clone)]
#[must_use = "only the outcome tells whether it was committed"]
pub enum CommitOutcome {
    /// Durable and published.
    Committed {
        /// Where the commit starts in the log, in bytes.
        wal_offset: u64,
        /// Its number.
        commit_seq: CommitSeq,
    },
    /// Another transaction was first. Nothing was appended.
    Conflict(Conflict),
    /// It did not happen, and no crash will bring it back.
    NotCommitted {
        /// Why.
        reason: Error,
    },
    /// It may or may not be durable; only reopening can tell.
    OutcomeUnknown {
        /// What to ask with after reopening; `None` if the log failed before it could say.
        token: Option<OutcomeToken>,
        /// Why.
        reason: Error,
    },
}

impl CommitOutcome {
    /// The commit number, or what stands in the way as an error.
    ///
    /// # Errors
    /// [`Error::Conflict`], [`Error::NotCommitted`] or [`Error::OutcomeUnknown`].
    pub fn into_result(self) -> Result<CommitSeq> {
        match self {
            Self::Committed { commit_seq, .. } => Ok(commit_seq),
            Self::Conflict(conflict) => Err(conflict.into()),
            Self::NotCommitted { reason } => Err(Error::NotCommitted {
                reason: Box::new(reason),
            }),
            Self::OutcomeUnknown { reason, .. } => Err(Error::OutcomeUnknown {
                reason: Box::new(reason),
            }),
        }
    }

    /// Whether the commit is durable.
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Committed { .. })
    }
}

/// Decides which requests may commit. Implementations hold whatever versions they need.
///
/// Validation sees requests that were admitted but are not published yet; otherwise updates get lost.
pub trait WriteSetValidator: Send {
    /// Admits a request as commit `seq`, or says what it lost to. Called in commit order, with strictly
    /// increasing numbers, except after a rollback. A refused request leaves no trace. `reads` is there for a
    /// transaction that is to be serializable.
    ///
    /// # Errors
    /// The [`Conflict`].
    fn admit(
        &mut self,
        txn: TxnId,
        snapshot: CommitSeq,
        writes: &WriteSet,
        reads: Option<&ReadSet>,
        seq: CommitSeq,
    ) -> Result<(), Conflict>;

    /// Forgets every admitted request from `seq` on: its batch failed, and it will not be there.
    fn rollback_from(&mut self, seq: CommitSeq);

    /// Everything up to `through` is published and can no longer be rolled back. No live or future
    /// transaction has a snapshot older than `oldest_snapshot`: versions up to it can be forgotten.
    fn published(&mut self, through: CommitSeq, oldest_snapshot: CommitSeq);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    #[test]
    fn a_write_set_is_sorted_and_unique() {
        let writes = WriteSet::new([page(9), page(2), page(9)]);
        assert_eq!(writes.pages(), [page(2), page(9)]);
    }

    #[test]
    fn the_size_is_what_was_said_or_else_never_shrinks() {
        let writes = WriteSet::new([page(9), page(2)]);
        assert_eq!(writes.size_after(4), 9);
        assert_eq!(writes.size_after(20), 20);
        assert_eq!(writes.with_db_pages(10).size_after(20), 10);
    }
}
