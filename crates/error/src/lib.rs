//! The one error type of the walmend crates.
//!
//! An error carries plain numbers and paths: what was being done, to which file, at which offset. From it
//! a caller can ask three things: what kind it is ([`Error::kind`]), whether trying again can help
//! ([`Error::is_transient`]), and what a person should do next ([`Error::recovery_hint`]). Engines that
//! speak SQLite's result codes get the matching one from [`Error::sqlite_code`].
//!
//! ```
//! use walmend_error::{Error, ErrorKind};
//!
//! let error = Error::BusyRecovery { waited_ms: 1000 };
//! assert_eq!(error.kind(), ErrorKind::BusyRecovery);
//! assert!(error.is_transient());
//! assert_eq!(error.sqlite_code(), 261); // SQLITE_BUSY_RECOVERY
//! ```

mod kind;

pub use kind::ErrorKind;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `std::result::Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong below the command line.
///
/// Cheap to clone, because one failed batch answers many waiting writers.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {op} {}{}: {source}", path.display(), at(*offset))]
    Io {
        /// What was tried, as a verb: `"read"`, `"sync"`.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The byte offset, where there is one.
        offset: Option<u64>,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// The file does not exist.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },

    /// The file is there, but it is not a database that can be opened.
    #[error("{} is not a database: {detail}", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        detail: String,
    },

    /// The file can be read but not written.
    #[error("{} cannot be written: it is read-only", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },

    /// A file that a store has open has lost its name: it was replaced, renamed or removed meanwhile.
    #[error("{} was replaced, renamed or removed while it was open: {detail}", path.display())]
    Moved {
        /// The name that it was opened by.
        path: PathBuf,
        /// What has that name now, and what follows from it.
        detail: String,
    },

    /// Another process, or another handle in this one, holds the database.
    #[error("{} is in use by {holder}", path.display())]
    Locked {
        /// The database file.
        path: PathBuf,
        /// Who holds it, as far as that can be known.
        holder: String,
    },

    /// A recovery, or a step that excludes recovery, is under way, and the budget for waiting is used up.
    #[error("a recovery is still running after {waited_ms} ms of waiting")]
    BusyRecovery {
        /// How long the caller waited, in milliseconds.
        waited_ms: u64,
    },

    /// Acknowledged commits cannot be read back from the log.
    #[error("{} is damaged at frame {frame} (offset {offset}): {lost_commits} commits are at stake; {detail}", path.display())]
    WalCorrupt {
        /// The log.
        path: PathBuf,
        /// The first frame that does not verify, from 1; 0 stands for the log's header.
        frame: u32,
        /// Its byte offset in the log.
        offset: u64,
        /// Commits that would be lost if the log were cut there.
        lost_commits: u64,
        /// What was expected, and what was found.
        detail: String,
    },

    /// Whole commits lie behind a break in a log, and nothing says whether they were acknowledged.
    #[error("{} breaks at frame {frame} (offset {offset}) with {commits_behind} whole commits behind it, and no record says whether they were acknowledged", path.display())]
    WalAmbiguous {
        /// The log.
        path: PathBuf,
        /// The first frame that does not verify, from 1.
        frame: u32,
        /// Its byte offset in the log.
        offset: u64,
        /// Commits behind the break that are whole.
        commits_behind: u64,
    },

    /// The log is of a version that this code does not know.
    #[error("{} has format version {version}, expected 3007000", path.display())]
    UnsupportedVersion {
        /// The log.
        path: PathBuf,
        /// The version found.
        version: u32,
    },

    /// A page of the database file is not what it should be.
    #[error("page {page} of {} is not what was written: {detail}", path.display())]
    DatabaseCorrupt {
        /// The database file.
        path: PathBuf,
        /// The first bad page, from 1.
        page: u32,
        /// What was expected, and what was found.
        detail: String,
    },

    /// A number lies outside of what the format or the file allows.
    #[error("{what} {value} is out of range: {expected}")]
    OutOfRange {
        /// What the number is: `"page"`, `"offset"`.
        what: &'static str,
        /// The number.
        value: u64,
        /// What is allowed.
        expected: String,
    },

    /// The caller asked for something that cannot be done.
    #[error("{0}")]
    Invalid(String),

    /// The disk, or the log's number space, is full.
    #[error("no room left for {}{}", path.display(), at(*offset))]
    Full {
        /// The file that could not grow.
        path: PathBuf,
        /// The byte offset, where there is one.
        offset: Option<u64>,
    },

    /// An earlier failure has ended all writing; reading goes on, and reopening clears it.
    #[error("writing has ended after an earlier failure: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },

    /// The other side of a channel, or the store, is closed.
    #[error("{what} is closed")]
    Closed {
        /// What is closed.
        what: &'static str,
    },

    /// A reservation was held for longer than its deadline, so its place went to others.
    #[error("the reservation was held for too long and was revoked")]
    Revoked,

    /// The operation was cancelled through its `Cx`.
    #[error("cancelled")]
    Cancelled,

    /// The deadline passed before the operation was done.
    #[error("the deadline passed after {waited_ms} ms")]
    DeadlineExceeded {
        /// How long the caller waited, in milliseconds.
        waited_ms: u64,
    },

    /// Another transaction committed first.
    #[error("conflict on {}: transaction {txn} committed first, as commit {commit_seq}", conflict_place(*page))]
    Conflict {
        /// The page, or `None` for the size of the database.
        page: Option<u32>,
        /// The transaction that won.
        txn: u64,
        /// Its commit number.
        commit_seq: u64,
    },

    /// Something has to end before the call can succeed.
    #[error("busy: {0}")]
    Busy(String),

    /// Another transaction has locked the page.
    #[error("page {page} is locked by transaction {txn}{}", lock_wait(*deadlock, *waited_ms))]
    PageLocked {
        /// The page.
        page: u32,
        /// The transaction that has it.
        txn: u64,
        /// That transaction waits, itself or through others, for the one that asked: neither would ever go on. Others
        /// may be a checkpoint, which waits for the asking transaction's snapshot.
        deadlock: bool,
        /// How long the caller waited, in milliseconds.
        waited_ms: u64,
    },

    /// The page was committed to after the transaction's snapshot, so the transaction could only conflict.
    #[error("page {page} has changed since the snapshot of this transaction")]
    StaleSnapshot {
        /// The page.
        page: u32,
    },

    /// The commit did not happen, and will not reappear.
    #[error("not committed: {reason}")]
    NotCommitted {
        /// Why.
        reason: Box<Error>,
    },

    /// Whether the commit happened can only be told after reopening.
    #[error("the outcome is unknown until the store is reopened: {reason}")]
    OutcomeUnknown {
        /// Why.
        reason: Box<Error>,
    },

    /// A promise inside walmend was broken; nothing was acknowledged because of it.
    #[error("internal error: {0}")]
    Internal(String),
}

fn at(offset: Option<u64>) -> String {
    offset
        .map(|offset| format!(" at offset {offset}"))
        .unwrap_or_default()
}

fn conflict_place(page: Option<u32>) -> String {
    page.map_or_else(
        || "the size of the database".into(),
        |page| format!("page {page}"),
    )
}

fn lock_wait(deadlock: bool, waited_ms: u64) -> String {
    if deadlock {
        " and waiting for it would never end: it waits for this transaction, or for a checkpoint that does"
            .into()
    } else {
        format!(", after {waited_ms} ms of waiting")
    }
}

impl Error {
    /// Wraps what the system said about one call on one file.
    ///
    /// A full disk becomes [`Error::Full`], a missing file [`Error::NotFound`], a read-only file or file
    /// system [`Error::ReadOnly`]; everything else stays [`Error::Io`].
    pub fn io(op: &'static str, path: &Path, offset: Option<u64>, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            // A sync that reports a full disk has lost data all the same: it stays an I/O error.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded if op != "sync" => {
                Self::Full { path, offset }
            }
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            _ => Self::Io {
                op,
                path,
                offset,
                source: Arc::new(source),
            },
        }
    }

    /// What kind of error it is, for matching and for scripts.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Io,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::NotADatabase { .. } => ErrorKind::NotADatabase,
            Self::ReadOnly { .. } => ErrorKind::ReadOnly,
            Self::Moved { .. } => ErrorKind::Moved,
            Self::Locked { .. } => ErrorKind::Locked,
            Self::BusyRecovery { .. } => ErrorKind::BusyRecovery,
            Self::WalCorrupt { .. } => ErrorKind::WalCorrupt,
            Self::WalAmbiguous { .. } => ErrorKind::WalAmbiguous,
            Self::UnsupportedVersion { .. } => ErrorKind::UnsupportedVersion,
            Self::DatabaseCorrupt { .. } => ErrorKind::DatabaseCorrupt,
            Self::OutOfRange { .. } => ErrorKind::OutOfRange,
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Full { .. } => ErrorKind::Full,
            Self::Poisoned { .. } => ErrorKind::Poisoned,
            Self::Closed { .. } => ErrorKind::Closed,
            Self::Revoked => ErrorKind::Revoked,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::DeadlineExceeded { .. } => ErrorKind::DeadlineExceeded,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Busy(_) => ErrorKind::Busy,
            Self::PageLocked { .. } => ErrorKind::PageLocked,
            Self::StaleSnapshot { .. } => ErrorKind::StaleSnapshot,
            Self::NotCommitted { .. } => ErrorKind::NotCommitted,
            Self::OutcomeUnknown { .. } => ErrorKind::OutcomeUnknown,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }

    /// Whether the same call can succeed later without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Locked { .. }
            | Self::BusyRecovery { .. }
            | Self::Full { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Revoked
            | Self::Conflict { .. }
            | Self::Busy(_)
            | Self::PageLocked { .. }
            | Self::StaleSnapshot { .. } => true,
            Self::NotCommitted { reason } => reason.is_transient(),
            _ => false,
        }
    }

    /// What to do next, in one sentence for a person; empty where the message already says it all.
    pub fn recovery_hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check the device and the permissions, then open the database again",
            Self::NotFound { .. } => "check the path",
            Self::NotADatabase { .. } => "give the path of the main database file, not of its log",
            Self::ReadOnly { .. } => "make the file and its folder writable, or work on a copy",
            Self::Moved { .. } => {
                "keep the file that the store had open, or give it its name back, before the store is closed"
            }
            Self::Locked { .. } => "close the other program's connection, then try again",
            Self::BusyRecovery { .. } => "try again in a moment",
            Self::WalCorrupt { .. } => {
                "keep a copy of the files; then `walmend recover --on-damage salvage` keeps what precedes the damage"
            }
            Self::WalAmbiguous { .. } => {
                "`walmend recover --on-damage truncate` drops what is behind the break, as SQLite would; \
                 with --writer-synced-every-commit it counts as damage"
            }
            Self::UnsupportedVersion { .. } => "open it with the program that wrote it",
            Self::DatabaseCorrupt { .. } => {
                "the log still holds what should be there: check the device, then run the checkpoint again"
            }
            Self::Full { .. } => "free some space, then try again",
            Self::Revoked => "reserve again, and send without delay",
            Self::Poisoned { .. } | Self::OutcomeUnknown { .. } => {
                "close the store and open it again: opening proves what is durable"
            }
            Self::Conflict { .. } | Self::StaleSnapshot { .. } => {
                "begin a new transaction and do the work again"
            }
            Self::Busy(_) => "end what is in the way, then try again",
            Self::PageLocked { .. } => {
                "drop this transaction, so that others can go on, then begin a new one"
            }
            Self::NotCommitted { reason } => reason.recovery_hint(),
            Self::Internal(_) => "please report it, with the log of the run",
            Self::OutOfRange { .. }
            | Self::Invalid(_)
            | Self::Closed { .. }
            | Self::Cancelled
            | Self::DeadlineExceeded { .. } => "",
        }
    }

    /// The SQLite result code (extended where there is one) that says the same.
    pub fn sqlite_code(&self) -> i32 {
        match self {
            Self::Io { .. } => 10,                                              // SQLITE_IOERR
            Self::NotFound { .. } | Self::UnsupportedVersion { .. } => 14,      // SQLITE_CANTOPEN
            Self::NotADatabase { .. } => 26,                                    // SQLITE_NOTADB
            Self::ReadOnly { .. } => 8,                                         // SQLITE_READONLY
            Self::Moved { .. } => 1032,                                         // SQLITE_READONLY_DBMOVED
            Self::Locked { .. } | Self::PageLocked { .. } | Self::Busy(_) => 5, // SQLITE_BUSY
            Self::BusyRecovery { .. } => 261,                                   // SQLITE_BUSY_RECOVERY
            Self::WalCorrupt { .. } | Self::WalAmbiguous { .. } | Self::DatabaseCorrupt { .. } => 11, // SQLITE_CORRUPT
            Self::OutOfRange { .. } => 25,                // SQLITE_RANGE
            Self::Invalid(_) | Self::Closed { .. } => 21, // SQLITE_MISUSE
            Self::Full { .. } => 13,                      // SQLITE_FULL
            Self::Poisoned { .. } | Self::OutcomeUnknown { .. } => 10, // SQLITE_IOERR
            Self::Cancelled | Self::Revoked | Self::DeadlineExceeded { .. } => 9, // SQLITE_INTERRUPT
            Self::Conflict { .. } | Self::StaleSnapshot { .. } => 517, // SQLITE_BUSY_SNAPSHOT
            Self::NotCommitted { reason } => reason.sqlite_code(),
            Self::Internal(_) => 2, // SQLITE_INTERNAL
        }
    }
}

/// What other threads may use: the build fails where that stops being true.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Error>();
};

/// The README's example is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_transient_but_not_when_a_sync_says_so() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let append = Error::io("write", Path::new("a-wal"), Some(32), full());
        assert_eq!(append.kind(), ErrorKind::Full);
        assert!(append.is_transient());
        let sync = Error::io("sync", Path::new("a-wal"), None, full());
        assert_eq!(sync.kind(), ErrorKind::Io);
        assert!(!sync.is_transient());
    }

    #[test]
    fn messages_name_file_and_offset() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = Error::io("read", Path::new("/x/a.db"), Some(4096), denied);
        assert_eq!(
            error.to_string(),
            "cannot read /x/a.db at offset 4096: permission denied"
        );
    }

    #[test]
    fn a_wrapped_error_answers_like_what_it_wraps() {
        let wrapped = Error::NotCommitted {
            reason: Box::new(Error::Full {
                path: "a".into(),
                offset: None,
            }),
        };
        assert!(wrapped.is_transient());
        assert_eq!(wrapped.sqlite_code(), 13);
        assert!(!wrapped.recovery_hint().is_empty());
    }
}
