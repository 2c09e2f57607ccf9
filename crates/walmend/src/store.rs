//! The store: opening, closing, and what lies between.

use crate::checkpoints::Checkpoints;
use crate::descriptors::Opened;
use crate::identify::{Identity, identify_file};
use crate::initial::{complete_first_page, write_first_page};
use crate::options::{Options, Pages};
use crate::page_locks::{HeldLocks, PageLocks};
#[cfg(feature = "repair")]
use crate::protection::Protection;
#[cfg(feature = "repair")]
use crate::repair::{Mended, Repair};
#[cfg(not(feature = "repair"))]
use crate::repair_off::{Mended, Protection, Repair};
use crate::snapshot::Snapshot;
use crate::stats::Stats;
use crate::txn::{Payload, Txn};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use walmend_commit::{FirstCommitterWins, GroupCommit, GroupConfig, Pipeline};
use walmend_sync::Mutex;
use walmend_sync::atomic::{AtomicU64, Ordering};
use walmend_sync::thread::JoinHandle;
use walmend_types::{CommitSeq, Error, OutcomeToken, PageNumber, PageSize, Result, TxnId};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::{
    CheckpointMode, CheckpointReport, FileSet, LockRegistry, Log, LogConfig, LogWriter, RecoveryReport,
    Usage, lock_exclusive, unlock_exclusive,
};

/// An open database. Clones are one store. It is closed by [`close`](Self::close), or when the last clone,
/// snapshot and transaction is gone.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

/// What opening found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// The database did not exist.
    pub created: bool,
    /// What recovery found and did.
    pub recovery: RecoveryReport,
    /// Frames of the log that were damaged, and restored from its sidecar before recovery looked at them; 0 stands
    /// for the log's header.
    pub healed_frames: Vec<u32>,
    /// The copy of the log as it was before that; `None` if nothing was healed.
    pub healed_from: Option<PathBuf>,
    /// The kind of pages.
    pub pages: Pages,
    /// Bytes of a page.
    pub page_size: PageSize,
    /// The size of the database, in pages.
    pub db_pages: u32,
    /// The last commit.
    pub commit_seq: CommitSeq,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) pages: Pages,
    pub(crate) page_size: PageSize,
    pub(crate) log: Log,
    pub(crate) pipeline: Pipeline<Payload, LogWriter, FirstCommitterWins>,
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
    db: Opened,
    repair: Repair,
    pub(crate) protection: Arc<Protection>,
    pub(crate) checkpoints: Arc<Checkpoints>,
    /// Runs the automatic checkpoints.
    checkpointer: Mutex<Option<JoinHandle<()>>>,
    next_txn: AtomicU64,
    page_locks: Arc<PageLocks>,
    pub(crate) lock_wait: Duration,
    pub(crate) usage: Usage,
    /// The database has been given up.
    closed: Mutex<bool>,
}

/// How long nothing has to happen before the log tidies up. It does so within twice this time after the last
/// commit, so the durable watermark is never left unsynced for more than 100 ms.
const IDLE_WAIT: Duration = Duration::from_millis(50);

impl Store {
    /// Opens a database for this process alone, creating it where it is missing, and recovers its log.
    ///
    /// # Errors
    /// [`Error::Locked`], saying who has it open; [`Error::WalCorrupt`] or [`Error::WalAmbiguous`] for
    /// damage, unless told otherwise by [`Options::on_damage`]: then no file was changed, unless the sidecar of the
    /// log healed a part of it;
    /// [`Error::NotADatabase`], [`Error::NotFound`], [`Error::Invalid`] where the options do not fit what is
    /// there; I/O errors.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<(Self, OpenReport)> {
        let path = path.as_ref();
        let vfs = Arc::clone(&options.vfs);
        let before = vfs.info(path)?;
        let flags = if options.create {
            OpenFlags::CREATE
        } else {
            OpenFlags::WRITE
        };
        let db = Opened::open(&*vfs, path, flags)?;
        let files = FileSet::resolve(&*vfs, path)?;
        let opened = lock_exclusive(&*vfs, &files, &*db.file).and_then(|()| {
            let opened = db
                .check_still_there(&*vfs, path)
                .and_then(|()| Self::open_locked(&files, db.clone(), &options));
            if opened.is_err() {
                // The first error is the one to tell; a file left empty or locked a little longer is not.
                let tidied = if before.is_none() && db.file.is_empty().unwrap_or(false) {
                    // Not `path`, which may be a link to it.
                    vfs.remove(&files.db)
                } else {
                    Ok(())
                };
                let unlocked = unlock_exclusive(&*db.file);
                report_untidy(tidied.and(unlocked));
            }
            opened
        });
        if opened.is_err() {
            report_untidy(db.close());
        }
        opened
    }

    fn open_locked(files: &FileSet, opened: Opened, options: &Options) -> Result<(Self, OpenReport)> {
        let vfs = &options.vfs;
        let db = &opened.file;
        let created = options.create && db.is_empty()?;
        if created {
            create(&**vfs, files, &**db, options)?;
        }
        let identity = identify_file(&**vfs, &files.db, &**db, options.page_size)?;
        check_wishes(&identity, options)?;
        if vfs.info(&files.wal)?.is_none_or(|log| log.len == 0) {
            complete_first_page(&**db, identity.pages, identity.page_size)?;
        }

        let mut config = LogConfig::new(
            files.clone(),
            Arc::clone(db),
            identity.page_size,
            identity.pages.into(),
            identity.db_pages,
        );
        config.on_damage = options.on_damage;
        config.synced_every_commit = options.synced_every_commit;
        config.preallocate = options.preallocate;
        config.log_io = options.log_io;
        // What the sidecar can mend is no longer at stake.
        let mended = Mended::new(&**vfs, files)?;
        let (healed_frames, healed_from) = mended.told();
        config.protection = mended.protection(vfs, files);
        let (log, recovery) = Log::open(Arc::clone(vfs), config)?;
        let protection = Arc::new(Protection::open(files, db, identity.page_size, options)?);
        let repair = mended.protect(&log, recovery.decision, files, options)?;
        let status = log.status();

        let oldest = log.clone();
        let group = GroupConfig::default()
            .last_seq(status.commit_seq)
            .batch_limit(options.batch_limit.unwrap_or(usize::MAX))
            .batch_bytes(options.batch_bytes)
            .idle_wait(IDLE_WAIT)
            .poison(log.poison().clone())
            .oldest_snapshot(move || oldest.oldest_snapshot());
        let group = GroupCommit::new(
            repair.watch(log.writer()),
            FirstCommitterWins::new(status.db_pages),
            group,
        );
        let pipeline = Pipeline::start(group, options.capacity)?;

        let frames = |bytes: u64| {
            let frames = walmend_wal::slots(bytes, identity.page_size).clamp(1, u64::from(u32::MAX));
            (bytes > 0).then_some(u32::try_from(frames).unwrap_or(u32::MAX))
        };
        let (at, limit) = (frames(options.checkpoint_at), frames(options.log_limit));
        let checkpoints = Arc::new(Checkpoints::new(
            log.clone(),
            Arc::clone(&protection),
            options.checkpoint_wait,
            at,
            limit,
        ));
        let checkpointer = Checkpoints::start(&checkpoints)?;

        let report = OpenReport {
            created,
            recovery,
            healed_frames,
            healed_from,
            pages: identity.pages,
            page_size: identity.page_size,
            db_pages: status.db_pages,
            commit_seq: status.commit_seq,
        };
        tracing::info!(target: "walmend::store", path = %files.db.display(), ?report, "opened");
        let inner = Inner {
            pages: identity.pages,
            page_size: identity.page_size,
            log,
            pipeline,
            vfs: Arc::clone(vfs),
            path: files.db.clone(),
            db: opened,
            repair,
            protection,
            checkpoints,
            checkpointer: Mutex::new(checkpointer),
            next_txn: AtomicU64::new(1),
            page_locks: Arc::new(PageLocks::new()),
            lock_wait: options.lock_wait,
            usage: Usage::default(),
            closed: Mutex::new(false),
        };
        Ok((Self(Arc::new(inner)), report))
    }

    /// Begins a transaction at the newest snapshot.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn begin(&self) -> Result<Txn> {
        self.begin_locked([])
    }

    /// Like [`begin`](Self::begin), for a transaction that is *serializable*: its commit conflicts if a page that it read, or
    /// the size of the database if it asked for that, has changed since its snapshot. Such transactions behave as if
    /// they ran one after the other, in the order of their commits.
    ///
    /// Transactions begun otherwise have snapshot isolation, which permits *write skew*: two that each read what the
    /// other one writes, and write different pages, both commit. One that writes nothing sees one moment either way.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn begin_serializable(&self) -> Result<Txn> {
        Ok(self.begin()?.serializable())
    }

    /// Locks these pages, and then begins a transaction: it sees what whoever had them before has committed. Pages
    /// are locked in the order of their numbers, so that two such calls never wait for each other. See
    /// [`Txn::lock`] for what a lock does.
    ///
    /// # Errors
    /// [`Error::PageLocked`], [`Error::Locked`], [`Error::Closed`].
    pub fn begin_locked(&self, pages: impl IntoIterator<Item = PageNumber>) -> Result<Txn> {
        let id = TxnId(self.0.next_txn.fetch_add(1, Ordering::Relaxed));
        let mut locks = HeldLocks::none(&self.0.page_locks, id);
        let pages: BTreeSet<PageNumber> = pages.into_iter().collect();
        for page in pages {
            self.0.usage.check_open()?;
            locks.acquire(page, self.0.lock_wait)?;
        }
        let snapshot = locks.begin(|waits| self.0.snapshot_or(waits))?;
        Ok(Txn::new(id, snapshot, locks))
    }

    /// The page locks of this store's transactions, by process. An engine whose processes share pages brings the
    /// locks of the others in: they count for as long as their processes live.
    pub fn lock_registry(&self) -> &LockRegistry {
        self.0.page_locks.registry()
    }

    /// The database as it is now.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.0.snapshot()
    }

    /// Brings the log into the database file, and reads back every page that it wrote. Modes other than
    /// `Passive` wait for snapshots to end, up to [`Options::checkpoint_wait`], and hold up new ones
    /// meanwhile; if some stay, the report says so.
    ///
    /// # Errors
    /// [`Error::DatabaseCorrupt`] if a page is not what was written; the log is untouched then.
    /// [`Error::WalCorrupt`], [`Error::BusyRecovery`], [`Error::Poisoned`], [`Error::Closed`], I/O errors.
    pub fn checkpoint(&self, mode: CheckpointMode) -> Result<CheckpointReport> {
        let _at_work = self.0.usage.enter()?;
        self.0.checkpoints.asked(mode)
    }

    /// Whether the commit with this token is in the log. `None` if that cannot be told: once the log has gone on
    /// to another generation, and for what a failed sync left behind, until the store is reopened.
    pub fn outcome(&self, token: OutcomeToken) -> Option<bool> {
        self.0.log.outcome(token)
    }

    /// Counters, and how the store stands.
    pub fn stats(&self) -> Stats {
        let totals = self.0.pipeline.totals().snapshot();
        let log = self.0.log.status();
        let (automatic_checkpoints, checkpoint_blocked) = self.0.checkpoints.automatic();
        Stats {
            commits: totals.commits,
            batches: totals.batches,
            syncs: totals.syncs,
            conflicts: totals.conflicts,
            failed: totals.failed,
            occupancy: self.0.pipeline.occupancy(),
            capacity: self.0.pipeline.capacity(),
            log_frames: log.frames,
            backfilled_frames: log.backfilled,
            log_bytes: walmend_wal::frame_offset(log.frames + 1, self.0.page_size),
            db_pages: log.db_pages,
            commit_seq: log.commit_seq,
            readers: log.readers,
            mended_frames: log.mended_frames,
            log_io: log.log_io,
            oldest_reader: log.oldest_reader,
            automatic_checkpoints,
            checkpoint_blocked,
            poisoned: self.0.log.poison().reason().map(ToString::to_string),
            repair: self.0.repair.stats(),
            protection: self.0.protection.stats(),
        }
    }

    pub(crate) fn vfs(&self) -> &dyn Vfs {
        &*self.0.vfs
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Blocks until everything that is committed by now is repairable as well, or its repair has failed: then
    /// [`Stats::repair`] says so. With repair switched off, returns at once. Not for a thread of the runtime that
    /// repairs.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] after `timeout`: perhaps nobody drives that runtime.
    #[cfg(feature = "repair")]
    pub fn wait_for_repair(&self, timeout: Duration) -> Result<()> {
        self.0.repair.wait(timeout)
    }

    /// Holds the scrubbing of the database file up, and returns when the window that it was at is done; or lets it go
    /// on. Without [`Options::scrub`] there is nothing to hold up.
    #[cfg(feature = "repair")]
    pub fn pause_scrub(&self, paused: bool) {
        self.0.protection.pause_scrub(paused);
    }

    /// The kind of pages.
    pub fn pages(&self) -> Pages {
        self.0.pages
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> PageSize {
        self.0.page_size
    }

    /// Closes the store, for all its clones: commits what was sent, and gives the database up to others. It
    /// waits until all of that is repairable, for 10 seconds at most, and not at all inside a tokio runtime; the
    /// next opening makes up for what is not. It does not checkpoint; the log stays, and is recovered by the next one to open it, sqlite3 included.
    ///
    /// # Errors
    /// I/O errors. The store is closed all the same.
    pub fn close(self) -> Result<()> {
        self.0.close()
    }
}

impl Inner {
    fn close(&self) -> Result<()> {
        // Held to the end, so that a second caller returns when the database is given up, and not before.
        let mut closed = self.closed.lock();
        if std::mem::replace(&mut *closed, true) {
            return Ok(());
        }
        self.usage.close();
        self.pipeline.close();
        self.checkpoints.stop();
        let checkpointer = self.checkpointer.lock().take();
        let checkpointed = checkpointer.map_or(Ok(()), |thread| {
            let panicked = |_| Error::Internal("the checkpoint thread has panicked".into());
            thread.join().map_err(panicked)
        });
        self.repair.close();
        self.protection.close();
        // Whatever happened, the lock is given up.
        let tidied = if self.log.poison().reason().is_none() {
            self.log.close()
        } else {
            Ok(())
        };
        let unlocked = unlock_exclusive(&*self.db.file);
        checkpointed.and(tidied).and(unlocked)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let closed = self.close();
        let aside = self.db.close();
        report_untidy(closed.and(aside));
    }
}

/// What goes wrong after the answer is settled, and has nobody to go to but the events.
fn report_untidy(result: Result<()>) {
    if let Err(error) = result {
        tracing::error!(target: "walmend::store", %error, "closing failed");
    }
}

/// A log without its database: creating a new one would let the log's frames loose on it. `files` are resolved: the log
/// lies beside the file that a link leads to.
fn refuse_orphaned_log(vfs: &dyn Vfs, files: &FileSet) -> Result<()> {
    match vfs.info(&files.wal)?.filter(|log| log.len > 0) {
        None => Ok(()),
        Some(log) => Err(Error::NotADatabase {
            path: files.db.clone(),
            detail: format!(
                "it is missing or empty, but {} holds {} bytes: bring the database back, or move the log away",
                files.wal.display(),
                log.len
            ),
        }),
    }
}

/// Writes the first page of a new database, durably.
fn create(vfs: &dyn Vfs, files: &FileSet, db: &dyn VfsFile, options: &Options) -> Result<()> {
    refuse_orphaned_log(vfs, files)?;
    if vfs.info(&files.meta)?.is_some() {
        tracing::warn!(target: "walmend::store", file = %files.meta.display(), "removing what another database left");
        vfs.remove(&files.meta)?;
    }
    let page_size = options.page_size.unwrap_or_default();
    let written = write_first_page(db, options.pages.unwrap_or_default(), page_size);
    // A file with half a first page would be of no kind at all: none is better.
    if written.is_err() {
        db.truncate(0)?;
    }
    written
}

fn check_wishes(identity: &Identity, options: &Options) -> Result<()> {
    let path = identity.path.display();
    match options.pages {
        Some(pages) if pages != identity.pages => {
            return Err(Error::Invalid(format!(
                "{path} has {:?} pages, not {pages:?} ones",
                identity.pages
            )));
        }
        _ => {}
    }
    match options.page_size {
        Some(size) if size != identity.page_size => Err(Error::Invalid(format!(
            "{path} has pages of {} bytes, not of {size}",
            identity.page_size
        ))),
        _ => Ok(()),
    }
}
