//! A write-ahead log in the WAL format of SQLite, byte for byte.
//!
//! From the bottom up: [`WalHeader`] and [`FrameHeader`] are the format, [`Checksum`] its checksum; a
//! [`Scan`] reads a log without changing it; [`Findings`], [`decide`] and [`RecoveryPlan`] turn that into
//! what to do after a crash; [`Log`] is the open log, with a [`LogWriter`] that appends batches, a
//! [`LogSync`] that makes them durable and visible, and [`ReadMark`]s that read at a snapshot;
//! [`Log::checkpoint`] brings it into the database, behind the [`barrier`]. The companion file
//! ([`Companion`]) remembers what the format has no room for, above all how far the log is durable.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//! use std::time::Duration;
//! use walmend_wal::{
//!     BatchEntry, CheckpointMode, CommitRequest, CommitSeq, FileSet, Log, LogConfig, MemoryVfs, OpenFlags,
//!     PageImage, PageKind, PageNumber, PageSize, TxnId, Vfs, WalBatchSync, WalBatchWriter, WriteSet,
//!     lock_exclusive,
//! };
//!
//! let vfs = MemoryVfs::new();
//! let files = FileSet::of(Path::new("a.db"));
//! let db = vfs.open(&files.db, OpenFlags::CREATE)?;
//! lock_exclusive(&vfs, &files, &*db)?;
//! let config = LogConfig::new(files, db, PageSize::DEFAULT, PageKind::Raw, 0);
//! let (log, report) = Log::open(Arc::new(vfs), config)?;
//! assert_eq!(report.committed_frames, 0);
//!
//! // One batch of one transaction of one page: append, sync, publish.
//! let page = PageNumber::new(1)?;
//! let image = PageImage::new(page, vec![7; 4096]);
//! let request = CommitRequest::new(TxnId(1), CommitSeq(0), WriteSet::new([page]), vec![image]);
//! let mut writer = log.writer();
//! let sync = WalBatchWriter::<Vec<PageImage>>::sync_half(&writer);
//! let batch = [BatchEntry { request: &request, commit_seq: CommitSeq(1) }];
//! let append = writer.append_batch(&batch).map_err(|failure| failure.error)?;
//! sync.sync(&append.mark)?;
//! sync.publish(append.mark);
//!
//! let mut bytes = [0; 4096];
//! log.begin_read().read(page, &mut bytes)?;
//! assert_eq!(bytes[0], 7);
//! log.checkpoint(CheckpointMode::Truncate, Duration::ZERO)?;
//! # Ok::<(), walmend_wal::Error>(())
//! ```

mod barrier;
mod checkpoint;
mod checksum;
mod companion;
mod digest;
mod exclusive;
mod fence;
mod files;
mod format;
mod index;
mod log;
mod protection;
mod recovery;
mod registry;
mod scan;
mod usage;
mod verify;

pub use barrier::{CheckpointTarget, FileTarget, barrier};
pub use checkpoint::{
    CheckpointMode, CheckpointPages, CheckpointReport, FrameSource, LogFate, PageProtection,
};
pub use checksum::{ByteOrder, Checksum, Transition};
pub use companion::{
    Companion, CompanionState, FileStamp, Generation, Owner, PageKind, TAIL_PAGES, Watermark,
};
pub use digest::{PageDigest, TRAILER_BYTES, trailer_check, trailer_seal};
pub use exclusive::{exclusive_holder, lock_exclusive, store_is_live, unlock_exclusive};
pub use fence::{FenceGuard, RecoveryFence};
pub use files::{FileSet, SIDECAR_SUFFIX, with_suffix};
pub use format::{
    FORMAT_VERSION, FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, HeaderError, WalHeader, frame_offset,
    frame_size, slots,
};
pub use index::FrameIndex;
pub use log::{
    FrameRun, Grown, Log, LogConfig, LogIo, LogMark, LogStatus, LogSync, LogWriter, OldestReader, PageSource,
    PublishObserver, Published, ReadMark,
};
pub use protection::FrameProtection;
pub use recovery::{
    Behind, Damage, Decision, Facts, Findings, HeaderFact, OnDamage, Origin, RecoveryPlan, RecoveryReport,
    SalvagedCopy, Stake, Verdict, Whereabouts, aside_name, decide, keep_aside,
};
pub use registry::{LivenessProbe, LockOwner, LockRegistry, OsProbe, RegisteredLock};
pub use scan::{Fault, HeaderState, Scan, ScanEnd, ScanHints, Slot};
pub use usage::{AtWork, Usage};
pub use verify::{ExpectedPage, PageVerdict, Verification, verify_pages};

// What the functions above take and give, so that this crate is all that one has to name.
pub use walmend_types::{
    Append, AppendFailure, BatchEntry, CommitRequest, CommitSeq, Error, ErrorKind, FrameNumber, OutcomeToken,
    PageImage, PageNumber, PageSize, Poison, Result, Salts, TxnId, WalBatchSync, WalBatchWriter, WriteSet,
};
pub use walmend_vfs::{MemoryVfs, OpenFlags, ReadSource, UnixVfs, Vfs, VfsFile};

/// What other threads may use, and what they may be given: the build fails where that stops being true.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    const fn sent<T: Send>() {}
    shared::<Log>();
    shared::<LogSync>();
    shared::<ReadMark>();
    shared::<RecoveryFence>();
    shared::<Scan>();
    shared::<Findings>();
    sent::<LogWriter>();
    sent::<FenceGuard>();
};

/// The README's example is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
