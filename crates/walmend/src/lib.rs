//! An embeddable page store whose commits survive.
//!
//! A [`Store`] is a database file and its write-ahead log, in the WAL format of SQLite. Many threads begin a
//! [`Txn`], read and write whole pages, and commit; one sync makes all commits durable that came in
//! meanwhile. After a crash, opening recovers every acknowledged commit, and says in the [`OpenReport`] what
//! it found. A checkpoint brings the log into the database file and reads back what it wrote.
//!
//! ```
//! use walmend::{Options, PageNumber, Store};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("a.db");
//! let (store, report) = Store::open(&path, Options::new())?;
//! assert!(report.created);
//!
//! let page = PageNumber::new(1)?;
//! let mut txn = store.begin()?;
//! txn.write(page, vec![7; 4096])?;
//! txn.commit().into_result()?; // durable now
//!
//! assert_eq!(store.snapshot()?.read(page)?[0], 7);
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! - `repair` (default): what is committed becomes repairable in the background. Without it a store needs no tokio.
//! - `metrics`: `Stats::record` hands the counters to the `metrics` facade.
//!
//! # What it is not
//!
//! It knows pages, not keys or rows. Transactions conflict by the pages that they *write*: that is snapshot
//! isolation, which permits write skew. While a store is open it holds the database for itself: a real
//! sqlite3 gets `SQLITE_BUSY`.

mod backup;
mod checkpoints;
mod descriptors;
mod identify;
mod initial;
#[cfg(feature = "metrics")]
mod metrics;
mod options;
mod page_locks;
#[cfg(feature = "repair")]
mod protection;
#[cfg(feature = "repair")]
mod repair;
#[cfg(not(feature = "repair"))]
mod repair_off;
#[cfg(feature = "repair")]
mod scrub;
mod snapshot;
mod stats;
mod store;
mod txn;

pub use backup::{BackupReport, BackupSource, Progress, backup};
pub use checkpoints::CheckpointBlocked;
pub use identify::{Identity, identify};
pub use options::{Options, Pages};
pub use snapshot::Snapshot;
pub use stats::{ProtectionStats, RepairStats, ScrubStats, Stats};
pub use store::{OpenReport, Store};
pub use txn::{CommitFuture, Txn};

pub use walmend_commit::Ticket;
pub use walmend_types::{
    CommitOutcome, CommitSeq, Conflict, Error, ErrorKind, OutcomeToken, PageNumber, PageSize, Result, TxnId,
};
pub use walmend_vfs::{MemoryVfs, UnixVfs, Vfs};
pub use walmend_wal::{
    CheckpointMode, CheckpointReport, Decision, LivenessProbe, LockOwner, LockRegistry, LogFate, LogIo,
    OldestReader, OnDamage, OsProbe, RecoveryReport, RegisteredLock, SalvagedCopy, Whereabouts,
};

/// What other threads may use, and what they may be given: the build fails where that stops being true.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    const fn sent<T: Send>() {}
    shared::<Store>();
    shared::<Snapshot>();
    shared::<Txn>();
    shared::<Options>();
    shared::<OpenReport>();
    sent::<CommitFuture>();
    sent::<Ticket>();
};

/// The README's example is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The snippet of the page on settings is compiled.
#[cfg(all(doctest, feature = "repair"))]
#[doc = include_str!("../../../docs/settings.md")]
struct Settings;

/// The snippets of the page on migration are compiled and run as well.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/migration.md")]
struct Migration;
