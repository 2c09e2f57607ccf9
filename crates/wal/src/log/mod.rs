//! The open log: who holds what, and how the parts share it.
//!
//! ```text
//!  LogWriter  append_batch ── Tail (lock) ──▶ frames in the file, not yet durable
//!  LogSync    sync ────────── file sync, then the watermark in the companion (lock)
//!             publish ─────── Visible (lock): readers that begin from now on see the batch
//!  ReadMark   read ────────── no lock: its own Arc of the frame index, and the file
//!  checkpoint ─────────────── under the recovery fence; a reset takes Tail, then Visible
//! ```
//!
//! Locks are taken in the order Tail, syncing, companion, Visible. Nothing waits for I/O while it holds Visible.

mod append;
mod frames;
mod growth;
mod mend;
mod open;
mod place;
mod read;
mod reset;
mod sync;

pub use append::LogWriter;
pub use frames::FrameRun;
pub use growth::Grown;
use mend::Mending;
pub(crate) use read::read_verified;
pub use read::{PageSource, ReadMark};
pub use sync::{LogMark, LogSync, PublishObserver, Published};

use crate::checksum::Checksum;
use crate::companion::{Companion, FileStamp, Owner, PageKind};
use crate::fence::RecoveryFence;
use crate::files::FileSet;
use crate::format::WalHeader;
use crate::index::FrameIndex;
use crate::protection::FrameProtection;
use crate::recovery::OnDamage;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend_sync::atomic::AtomicBool;
use walmend_sync::{Condvar, Mutex};
use walmend_types::{CommitSeq, OutcomeToken, PageSize, Poison, Result, Salts, SyncMode};
use walmend_vfs::{DirectWrites, Vfs, VfsFile};

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogIo {
    /// Past the page cache where that was measured to be faster, through it otherwise.
    #[default]
    Auto,
    /// Past the page cache where the file system can do that, through it otherwise. What was written is then not in
    /// the cache, so that the first read of a page from the log goes to the device.
    Direct,
    /// Through the page cache. To be chosen where another process writes the same log.
    Buffered,
}

impl LogIo {
    /// What it comes down to for a log at this path: `Direct` or `Buffered`.
    fn settle(self, vfs: &dyn Vfs, path: &Path) -> Self {
        let direct = match self {
            Self::Buffered => false,
            Self::Direct => vfs.direct_writes(path) != DirectWrites::Unavailable,
            Self::Auto => vfs.direct_writes(path) == DirectWrites::Faster,
        };
        if direct { Self::Direct } else { Self::Buffered }
    }

    /// `auto`, `direct` or `buffered`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Buffered => "buffered",
        }
    }
}

/// Everything that opening a log needs to know.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LogConfig {
    /// The files.
    pub files: FileSet,
    /// The database file, open for writing and locked by the caller.
    pub db: Arc<dyn VfsFile>,
    /// The size of a page.
    pub page_size: PageSize,
    /// What kind of pages.
    pub kind: PageKind,
    /// The size of the database file in pages, for when the log holds no commit.
    pub db_pages: u32,
    /// What to do about damage. Default: refuse.
    pub on_damage: OnDamage,
    /// The writer of a log without watermark synced every commit. Default: not known.
    pub synced_every_commit: bool,
    /// How far ahead of the tail the file is filled with zeros, in bytes; 0 for not at all. Default: 1 MiB.
    pub preallocate: u64,
    /// How the log is written. Default: as measured.
    pub log_io: LogIo,
    /// How long the durable watermark may stay unsynced while commits come in. Default: 100 ms.
    pub watermark_interval: Duration,
    /// The latch that a failed sync sets. Default: one of its own.
    pub poison: Poison,
    /// What frames can be rebuilt from. Default: nothing.
    pub protection: Option<Arc<dyn FrameProtection>>,
    /// The fence that recovery and truncating paths run under. Default: the process's fence for this path.
    pub fence: Option<RecoveryFence>,
}

impl LogConfig {
    /// The defaults for a database.
    pub fn new(
        files: FileSet,
        db: Arc<dyn VfsFile>,
        page_size: PageSize,
        kind: PageKind,
        db_pages: u32,
    ) -> Self {
        Self {
            files,
            db,
            page_size,
            kind,
            db_pages,
            on_damage: OnDamage::default(),
            synced_every_commit: false,
            preallocate: 1 << 20,
            log_io: LogIo::Auto,
            watermark_interval: Duration::from_millis(100),
            poison: Poison::new(),
            protection: None,
            fence: None,
        }
    }
}

/// An open log. Clones are one log.
#[derive(Debug, Clone)]
pub struct Log {
    pub(crate) shared: Arc<Shared>,
}

/// How a log stands at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStatus {
    /// Grows with each reset since opening.
    pub generation: u64,
    /// The salts of the log; `None` while it holds nothing that counts.
    pub salts: Option<Salts>,
    /// Published frames.
    pub frames: u32,
    /// Frames of them that are in the database file, verified.
    pub backfilled: u32,
    /// The last published commit.
    pub commit_seq: CommitSeq,
    /// The size of the database, in pages.
    pub db_pages: u32,
    /// Live snapshots.
    pub readers: usize,
    /// The oldest of them.
    pub oldest_reader: Option<OldestReader>,
    /// Frames that did not verify when they were read, and have been rebuilt, since opening.
    pub mended_frames: u64,
    /// How the log is written: `Direct` or `Buffered`.
    pub log_io: LogIo,
}

/// The snapshot that has been holding up the log for longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OldestReader {
    /// The last commit that it sees.
    pub commit_seq: CommitSeq,
    /// How long ago the first live snapshot of that commit began.
    pub age: Duration,
}

/// The live snapshots of one commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readers {
    /// The last frame that they see.
    pub(crate) frame: u32,
    pub(crate) count: usize,
    /// When the first of them began.
    pub(crate) since: Instant,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) files: FileSet,
    db_place: place::Place,
    wal_place: place::Place,
    pub(crate) wal: Arc<dyn VfsFile>,
    /// `Direct` or `Buffered`.
    pub(crate) log_io: LogIo,
    pub(crate) db: Arc<dyn VfsFile>,
    pub(crate) page_size: PageSize,
    pub(crate) kind: PageKind,
    pub(crate) preallocate: u64,
    pub(crate) watermark_interval: Duration,
    pub(crate) poison: Poison,
    pub(crate) fence: RecoveryFence,
    protection: Option<Arc<dyn FrameProtection>>,
    /// Held while frames are rebuilt.
    mending: Mutex<Mending>,
    /// Nothing proves that the length of the database file is on the disk as well as in the cache.
    pub(crate) length_in_doubt: AtomicBool,
    /// Held over a sync of the log and the latching of its failure.
    pub(crate) syncing: Mutex<()>,
    pub(crate) tail: Mutex<Tail>,
    pub(crate) meta: Mutex<Meta>,
    pub(crate) visible: Mutex<Visible>,
    pub(crate) growth: growth::Growth,
    /// Signalled whenever `visible` changes, and when the log is poisoned.
    pub(crate) changed: Condvar,
}

/// Where the next frame goes.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    /// `None` until the first append begins a generation.
    pub(crate) header: Option<WalHeader>,
    /// The salts of what is in the file, whether it still counts or not.
    pub(crate) salts_on_file: Salts,
    /// Frames in the file that count, or that no longer count but are all in the database.
    pub(crate) frames_on_file: u32,
    pub(crate) checkpoint_seq: u32,
    /// Frames of this generation, appended.
    pub(crate) frames: u32,
    pub(crate) checksum: Checksum,
    pub(crate) db_pages: u32,
    /// Bytes of the file that are allocated and written.
    pub(crate) allocated: u64,
    /// There was room to fill the file ahead of the tail, the last time that was tried in this generation.
    pub(crate) fill_ahead: bool,
    /// The last append, until the next one: it may have to be discarded.
    pub(crate) last: Option<LastAppend>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct LastAppend {
    pub(crate) first: u32,
    pub(crate) last: u32,
    pub(crate) failed: bool,
    /// The tail before it.
    pub(crate) frames: u32,
    pub(crate) checksum: Checksum,
    pub(crate) db_pages: u32,
}

#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) companion: Companion,
    pub(crate) synced_at: Instant,
    pub(crate) dirty: bool,
}

/// What readers see.
#[derive(Debug)]
pub(crate) struct Visible {
    pub(crate) generation: u64,
    pub(crate) header: Option<WalHeader>,
    pub(crate) index: Arc<FrameIndex>,
    pub(crate) frames: u32,
    pub(crate) commit_seq: CommitSeq,
    pub(crate) db_pages: u32,
    pub(crate) backfilled: u32,
    /// No page behind this one has content of its own, in the log or in the database file: it is as large as the
    /// database ever was, as far as that can still be seen.
    pub(crate) high_water: u32,
    /// Live snapshots by commit number. All are of the current
    /// generation, since a reset waits for them.
    pub(crate) readers: BTreeMap<CommitSeq, Readers>,
    /// A reset waits for the readers to leave: nobody begins meanwhile.
    pub(crate) gate: bool,
    /// A checkpoint waits for what is appended to be published: only then is a publication signalled, which costs a
    /// system call.
    pub(crate) settling: bool,
}

impl Log {
    /// The append half; make one only.
    pub fn writer(&self) -> LogWriter {
        LogWriter::new(Arc::clone(&self.shared))
    }

    /// How the log stands now.
    pub fn status(&self) -> LogStatus {
        let mended_frames = self.shared.mending.lock().frames;
        let visible = self.shared.visible.lock();
        LogStatus {
            mended_frames,
            generation: visible.generation,
            salts: visible.header.map(|header| header.salts),
            frames: visible.frames,
            backfilled: visible.backfilled,
            commit_seq: visible.commit_seq,
            db_pages: visible.db_pages,
            readers: visible.readers.values().map(|readers| readers.count).sum(),
            oldest_reader: visible
                .readers
                .first_key_value()
                .map(|(commit_seq, readers)| OldestReader {
                    commit_seq: *commit_seq,
                    age: readers.since.elapsed(),
                }),
            log_io: self.shared.log_io,
        }
    }

    /// The oldest commit that a live snapshot, or one that begins now, can see.
    pub fn oldest_snapshot(&self) -> CommitSeq {
        let visible = self.shared.visible.lock();
        visible
            .readers
            .keys()
            .next()
            .copied()
            .unwrap_or(visible.commit_seq)
    }

    /// The latch that a failed sync sets.
    pub fn poison(&self) -> &Poison {
        &self.shared.poison
    }

    /// Whether the commit that a token names is in the log. `None` if that cannot be told: once the log has gone
    /// on to another generation, and for what a failed sync left behind, until the log is opened again.
    pub fn outcome(&self, token: OutcomeToken) -> Option<bool> {
        let visible = self.shared.visible.lock();
        visible.header.filter(|header| header.salts == token.salts)?;
        if token.frame > visible.frames && self.shared.poison.reason().is_some() {
            return None;
        }
        let frame = walmend_types::FrameNumber(token.frame);
        let stored = visible
            .index
            .checksum(frame)
            .filter(|_| token.frame <= visible.frames);
        Some(stored == Some(token.checksum))
    }

    /// Syncs the companion, so that the watermark is exact, and gives up the owner record. The log can still
    /// be used afterwards; dropping it without this call costs only protection.
    ///
    /// # Errors
    /// [`Error::Moved`](walmend_types::Error::Moved) if the database or the log has lost its name; I/O errors.
    pub fn close(&self) -> Result<()> {
        let in_place = self.shared.check_places();
        let database = match &in_place {
            Ok(()) => self.shared.vfs.info(&self.shared.files.db)?,
            // What has the name now is not what the log belongs to.
            Err(_) => None,
        };
        let mut meta = self.shared.meta.lock();
        meta.companion.write_owner(Owner {
            database: database.as_ref().and_then(FileStamp::of),
            ..Owner::default()
        })?;
        self.shared.sync_meta(&mut meta).and(in_place)
    }
}

impl Shared {
    /// Whether the database still has its name. What is written to a file without one is lost when it is closed.
    pub(crate) fn check_database_place(&self) -> Result<()> {
        self.db_place
            .check(&*self.vfs, "nothing was written; the log still has its commits")
    }

    /// Whether the database and the log still have their names.
    pub(crate) fn check_places(&self) -> Result<()> {
        self.check_database_place()?;
        self.wal_place.check(
            &*self.vfs,
            "what is committed from now on ends with the store; what was committed before is in the database once a \
             checkpoint has run",
        )
    }

    /// The one place where the log is synced. The kernel reports a failure to one caller only, so no sync may
    /// begin between another one's failure and the latch: it would succeed, and prove nothing.
    pub(crate) fn sync_wal(&self, mode: SyncMode) -> Result<()> {
        let _one_at_a_time = self.syncing.lock();
        self.poison.check()?;
        self.poisoning(self.wal.sync(mode))
    }

    /// The one place where the companion is synced.
    pub(crate) fn sync_meta(&self, meta: &mut Meta) -> Result<()> {
        self.poisoning(meta.companion.sync())?;
        meta.synced_at = Instant::now();
        meta.dirty = false;
        Ok(())
    }

    /// Latches a failure that leaves durability in doubt.
    pub(crate) fn poisoning<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && self.poison.set(error.clone())
        {
            tracing::error!(target: "walmend::wal::log", %error, "writing ends: only reopening starts afresh");
            // Whoever waits for a publication waits in vain now. Taking the lock orders this after their check.
            drop(self.visible.lock());
            self.changed.notify_all();
        }
        result
    }
}
