//! What an engine brings along: storage for symbols, and a generator.

use std::fmt;
use walmend_types::{CommitSeq, Error, Result};

/// A run of systematic symbols: positions `start..end` in the storage's own count.
///
/// Positions grow in the order of the commits and are never used twice. A log that counts its frames from 1 again
/// after each reset puts the generation into the upper half (`generation << 32 | frame`): ranges of two
/// generations then never touch, and are never joined into one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SymbolRange {
    /// The first position.
    pub start: u64,
    /// The position after the last one.
    pub end: u64,
}

impl SymbolRange {
    /// The `count` positions from `start`; cut off at `u64::MAX`.
    pub const fn new(start: u64, count: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(count),
        }
    }

    /// How many symbols there are.
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Whether `position` is one of them.
    pub const fn contains(&self, position: u64) -> bool {
        self.start <= position && position < self.end
    }

    /// The range in pieces of `size` (at least 1) symbols, the last one perhaps shorter.
    pub fn pieces(self, size: u64) -> impl Iterator<Item = Self> {
        let size = size.max(1);
        let mut start = self.start;
        std::iter::from_fn(move || {
            (start < self.end).then(|| {
                let piece = Self::new(start, size.min(self.end - start));
                start = piece.end;
                piece
            })
        })
    }
}

impl fmt::Display for SymbolRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// The storage of systematic symbols (what is committed) and of repair symbols (what mends them).
///
/// The first two methods are the critical path: a commit calls nothing else. An engine that commits on a path of its
/// own, and only [offers](super::RepairCoordinator::offer) what is durable, leaves them as they are. The other three
/// are the background path, called from blocking threads of the caller's runtime, by one thread at a time, and at the
/// same time as the critical path.
pub trait CommitRepairIo: Send + Sync + 'static {
    /// Appends a commit's symbols, and answers where they are: as many positions as there are symbols.
    ///
    /// # Errors
    /// An error says that nothing was appended, or that what was can never come back: the commit is answered
    /// `NotCommitted`. Storage that cannot promise this must panic instead: that ends all writing.
    fn append_systematic(&self, commit: CommitSeq, symbols: &[&[u8]]) -> Result<SymbolRange> {
        let _ = (commit, symbols);
        Err(no_critical_path())
    }

    /// Makes durable what was appended. Never called again after it failed.
    ///
    /// # Errors
    /// Any error leaves the outcome of the commit unknown.
    fn sync_systematic(&self) -> Result<()> {
        Err(no_critical_path())
    }

    /// Reads durable symbols back, verified, so that no queue has to hold them in memory. `None` if they have left
    /// this storage in good order, as the frames of a log do that are in the database by now: then there is nothing
    /// to repair any more.
    ///
    /// # Errors
    /// Whatever keeps them from being read as they were written; the repair is tried again, then `Failed`.
    fn read_systematic(&self, range: SymbolRange) -> Result<Option<Vec<Vec<u8>>>>;

    /// Appends the repair symbols of `range`, which holds `systematic`. After a failure the same range can come
    /// once more: of two records, a reader takes the one that is whole.
    ///
    /// # Errors
    /// As with [`read_systematic`](Self::read_systematic).
    fn append_repair(&self, range: SymbolRange, systematic: &[Vec<u8>], repair: &[Vec<u8>]) -> Result<()>;

    /// Makes durable the repair symbols that were appended since the last sync. After a failure, all of them are
    /// appended again before the next one.
    ///
    /// # Errors
    /// As with [`read_systematic`](Self::read_systematic).
    fn sync_repair(&self) -> Result<()>;
}

/// Makes repair symbols. Called from blocking threads: it may take its time.
pub trait RepairSymbolGenerator: Send + Sync + 'static {
    /// The repair symbols of `systematic`, which stands at `range`.
    ///
    /// # Errors
    /// Any error fails this attempt. A panic counts as an error.
    fn generate(&self, range: SymbolRange, systematic: &[Vec<u8>]) -> Result<Vec<Vec<u8>>>;
}

fn no_critical_path() -> Error {
    Error::Invalid("this storage commits on a path of its own: offer what is durable".into())
}

/// What a panic said, as an error that names where it happened.
pub(super) fn panic_error(place: &str, payload: &(dyn std::any::Any + Send)) -> Error {
    let said = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Error::Internal(format!("panic in {place}: {said}"))
}
