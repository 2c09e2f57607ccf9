//! A write-ahead log in the WAL format of SQLite, byte for byte.

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
mod recovery;
mod scan;
mod verify;

pub use barrier::{CheckpointTarget, FileTarget, barrier};
pub use checkpoint::{CheckpointMode, CheckpointReport, LogFate};
pub use checksum::{ByteOrder, Checksum, Transition};
pub use companion::{Companion, CompanionState, Generation, Owner, PageKind, TAIL_PAGES, Watermark};
pub use digest::{PageDigest, TRAILER_BYTES, trailer_check, trailer_seal};
pub use exclusive::{exclusive_holder, lock_exclusive, store_is_live, unlock_exclusive};
pub use fence::{FenceGuard, RecoveryFence};
pub use files::{FileSet, with_suffix};
pub use format::{
    FORMAT_VERSION, FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, HeaderError, WalHeader, frame_offset,
    frame_size, slots,
};
pub use index::FrameIndex;
pub use log::{Log, LogConfig, LogMark, LogStatus, LogSync, LogWriter, PageSource, ReadMark};
pub use recovery::{
    Behind, Damage, Decision, Facts, Findings, HeaderFact, OnDamage, Origin, RecoveryPlan, RecoveryReport,
    Stake, Verdict, Whereabouts, decide,
};
pub use scan::{Fault, HeaderState, Scan, ScanEnd, ScanHints, Slot};
pub use verify::{ExpectedPage, PageVerdict, Verification, verify_pages};
