//! Bringing the log into the database, and proving that it arrived.
//!
//! The order is what makes it safe: sync the log; write the newest frame of each page, each verified; sync
//! the database file *fully*; read every page back from the device and compare; only then advance the
//! backfill, and only then reset the log. Whatever fails on the way leaves the log as it was, and the next
//! attempt writes every page again.

use crate::barrier::{CheckpointTarget, FileTarget, barrier};
use crate::digest::PageDigest;
use crate::log::{Log, Shared, read_verified};
use crate::verify::ExpectedPage;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend_sync::MutexGuard;
use walmend_sync::atomic::Ordering;
use walmend_types::{Error, FrameNumber, PageNumber, Result, SyncMode};
use walmend_vfs::ReadSource;

/// A batch that is being synced is waited for at least this long.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);

/// How far a checkpoint goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointMode {
    /// Copy what the readers allow, and wait for nobody.
    Passive,
    /// Wait for the readers for a while, so that everything is copied.
    Full,
    /// Like `Full`; then begin a new generation, so that the log is written from its start again.
    Restart,
    /// Like `Full`; then empty the log.
    Truncate,
}

impl CheckpointMode {
    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passive => "passive",
            Self::Full => "full",
            Self::Restart => "restart",
            Self::Truncate => "truncate",
        }
    }
}

/// What became of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFate {
    /// It stays as it was.
    Kept,
    /// A new generation was begun in it.
    Reset,
    /// It is empty.
    Truncated,
}

impl LogFate {
    /// The name that `--json` output uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Reset => "reset",
            Self::Truncated => "truncated",
        }
    }
}

/// What a checkpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointReport {
    /// How far it was to go.
    pub mode: CheckpointMode,
    /// Frames of the log that are in the database now.
    pub frames: u32,
    /// Pages written by this checkpoint.
    pub pages_written: u32,
    /// Pages read back and found right.
    pub pages_verified: u32,
    /// Where they were read from.
    pub verified_from: ReadSource,
    /// What became of the log.
    pub log: LogFate,
    /// Readers kept it from going as far as it was to go.
    pub blocked_by_readers: bool,
}

impl CheckpointReport {
    /// The report of a checkpoint that found nothing to do.
    pub fn nothing_done(mode: CheckpointMode) -> Self {
        Self {
            mode,
            frames: 0,
            pages_written: 0,
            pages_verified: 0,
            verified_from: ReadSource::Device,
            log: LogFate::Kept,
            blocked_by_readers: false,
        }
    }
}

/// A page of a checkpoint, and the frame of the log that it comes from.
pub type FrameSource = (PageNumber, FrameNumber);

/// What a checkpoint is about to write.
pub struct CheckpointPages<'a> {
    /// The pages, ascending.
    pub pages: &'a [FrameSource],
    /// The size that the database gets, in pages, if all of the log is copied; otherwise it is not cut.
    pub db_pages: Option<u32>,
    read: &'a dyn Fn(FrameSource, &mut [u8]) -> Result<()>,
}

impl CheckpointPages<'_> {
    /// Reads one of the pages as it is going to be, verified. `page` is one page long.
    ///
    /// # Errors
    /// [`Error::WalCorrupt`], I/O errors.
    pub fn read(&self, source: FrameSource, page: &mut [u8]) -> Result<()> {
        (self.read)(source, page)
    }
}

impl fmt::Debug for CheckpointPages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointPages")
            .field("pages", &self.pages.len())
            .field("db_pages", &self.db_pages)
            .finish_non_exhaustive()
    }
}

/// Something beside the database that is kept in step with its pages, like parity. It cannot keep a checkpoint from
/// happening: what goes wrong with it is its own business.
pub trait PageProtection: fmt::Debug + Send + Sync {
    /// These pages are going to be written. Whatever must be durable before that is so when this returns.
    fn prepare(&self, checkpoint: &CheckpointPages<'_>);

    /// The pages that were prepared are written, synced and verified.
    fn written(&self);

    /// Some of the pages that were prepared may be written, and something went wrong. They are still in the log.
    fn abandoned(&self);

    /// The log has begun anew, or was emptied.
    fn log_reset(&self);
}

impl Log {
    /// Brings the log into its database file. Modes other than `Passive` wait up to `patience` for readers to
    /// leave; nobody begins a snapshot meanwhile. A reset waits for *every* snapshot: even one whose frames
    /// are all in the database still reads unchanged pages from there.
    ///
    /// # Errors
    /// [`Error::DatabaseCorrupt`] if what was read back is not what was written, [`Error::WalCorrupt`] if a
    /// frame does not verify, [`Error::Moved`] if the database or the log has lost its name,
    /// [`Error::BusyRecovery`], [`Error::DeadlineExceeded`], [`Error::Poisoned`], I/O errors.
    /// Whatever is not yet in the database is still in the log then, and a retry is possible.
    pub fn checkpoint(&self, mode: CheckpointMode, patience: Duration) -> Result<CheckpointReport> {
        self.checkpoint_protected(None, mode, patience)
    }

    /// Like [`checkpoint`](Self::checkpoint), and keeps `protection` in step with the database.
    ///
    /// # Errors
    /// As there.
    pub fn checkpoint_protected(
        &self,
        protection: Option<&dyn PageProtection>,
        mode: CheckpointMode,
        patience: Duration,
    ) -> Result<CheckpointReport> {
        let db = Arc::clone(&self.shared.db);
        let mut target = FileTarget::new(&*db, self.shared.page_size);
        self.run_checkpoint(&mut target, protection, mode, patience)
    }

    /// Like [`checkpoint`](Self::checkpoint), into a target of the caller's.
    ///
    /// # Errors
    /// As there.
    pub fn checkpoint_to(
        &self,
        target: &mut dyn CheckpointTarget,
        mode: CheckpointMode,
        patience: Duration,
    ) -> Result<CheckpointReport> {
        self.run_checkpoint(target, None, mode, patience)
    }

    fn run_checkpoint(
        &self,
        target: &mut dyn CheckpointTarget,
        protection: Option<&dyn PageProtection>,
        mode: CheckpointMode,
        patience: Duration,
    ) -> Result<CheckpointReport> {
        let shared = &*self.shared;
        shared.poison.check()?;
        let _fence = shared
            .fence
            .acquire(crate::fence::RecoveryFence::DEFAULT_BUDGET)?;
        shared.check_database_place()?;
        let mut report = CheckpointReport::nothing_done(mode);
        // Most of the work is done beside the writers; what is left for the second pass is short.
        let blocked = copy(shared, target, protection, &mut report)?;
        // A database that was moved meanwhile must keep its log, and a log that was moved has been saved by now.
        shared.check_places()?;
        if mode == CheckpointMode::Passive {
            report.blocked_by_readers = blocked;
            return Ok(told(report));
        }
        let deadline = Instant::now().checked_add(patience);
        let Some(gate) = Gate::close(shared, deadline) else {
            report.blocked_by_readers = true;
            return Ok(told(report));
        };
        let mut tail = shared.tail.lock();
        settle(shared, &tail, patience)?;
        copy(shared, target, protection, &mut report)?;
        shared.check_places()?;
        match mode {
            CheckpointMode::Passive | CheckpointMode::Full => {}
            CheckpointMode::Restart if tail.header.is_some() => {
                shared.begin_generation(&mut tail)?;
                report.log = LogFate::Reset;
            }
            // An empty log has nothing to be reset.
            CheckpointMode::Restart => {}
            CheckpointMode::Truncate => {
                shared.empty_log(&mut tail)?;
                report.log = LogFate::Truncated;
            }
        }
        if let Some(protection) = protection.filter(|_| report.log != LogFate::Kept) {
            protection.log_reset();
        }
        drop(tail);
        drop(gate);
        Ok(told(report))
    }
}

/// Each checkpoint is told, however far it came.
fn told(report: CheckpointReport) -> CheckpointReport {
    tracing::info!(target: "walmend::wal::checkpoint", ?report, "checkpoint");
    report
}

/// Copies what the readers allow, and verifies it; answers whether they stand in the way of more.
fn copy(
    shared: &Shared,
    target: &mut dyn CheckpointTarget,
    protection: Option<&dyn PageProtection>,
    report: &mut CheckpointReport,
) -> Result<bool> {
    let (index, header, done, limit, last, db_pages) = {
        let visible = shared.visible.lock();
        let oldest = visible
            .readers
            .values()
            .map(|readers| readers.frame)
            .min()
            .unwrap_or(visible.frames);
        (
            Arc::clone(&visible.index),
            visible.header,
            visible.backfilled,
            oldest.min(visible.frames),
            visible.frames,
            visible.db_pages,
        )
    };
    report.frames = done;
    let Some(header) = header.filter(|_| limit > done) else {
        return Ok(limit < last);
    };
    // What is published is durable; this makes the rule hold here, in one place, whoever published it.
    shared.sync_wal(SyncMode::Data)?;
    // So must the watermark be, before the first page: of damage in frames that are in the database, a cut there as
    // behind a torn tail would leave a mixture of two states.
    {
        let mut meta = shared.meta.lock();
        if meta.dirty {
            shared.sync_meta(&mut meta)?;
        }
    }
    let mut page_bytes = vec![0; shared.page_size.as_usize()];
    let mut expected = Vec::new();
    // Only with everything copied is the size known, and only then do pages past it go.
    let pages: Vec<FrameSource> = index
        .newest_pages(FrameNumber(done), FrameNumber(limit))
        .into_iter()
        .filter(|(page, _)| limit != last || page.get() <= db_pages)
        .collect();
    let protected = Protected::prepare(
        protection,
        &CheckpointPages {
            pages: &pages,
            db_pages: (limit == last).then_some(db_pages),
            read: &|(page, frame), bytes| {
                let frame = read_verified(shared, &header, &index, frame, page, bytes);
                frame.map(drop)
            },
        },
    );
    for (page, frame) in pages {
        read_verified(shared, &header, &index, frame, page, &mut page_bytes)?;
        target.write_page(page, &page_bytes)?;
        expected.push(ExpectedPage {
            page,
            digest: PageDigest::of(&page_bytes),
        });
    }
    if limit == last {
        // A length that is cached need not be on the disk: a failed sync leaves it marked clean, and setting
        // it once more would change nothing that the next sync writes.
        if shared.length_in_doubt.swap(true, Ordering::Relaxed) {
            target.truncate_database(db_pages.saturating_add(1))?;
        }
        target.truncate_database(db_pages)?;
    }
    let verified = barrier(target, &expected)?;
    if limit == last {
        shared.length_in_doubt.store(false, Ordering::Relaxed);
    }
    let written = u32::try_from(expected.len()).unwrap_or(u32::MAX);
    report.pages_written += written;
    report.pages_verified += verified.pages;
    if verified.source == ReadSource::Cache {
        report.verified_from = ReadSource::Cache;
    }
    report.frames = limit;
    protected.written();
    shared.visible.lock().backfilled = limit;
    Ok(limit < last)
}

/// A protection that has prepared for a checkpoint, and hears what became of it, whatever that is.
struct Protected<'a>(Option<&'a dyn PageProtection>);

impl<'a> Protected<'a> {
    fn prepare(protection: Option<&'a dyn PageProtection>, checkpoint: &CheckpointPages<'_>) -> Self {
        let protected = Self(protection);
        if let Some(protection) = protection {
            protection.prepare(checkpoint);
        }
        protected
    }

    fn written(mut self) {
        if let Some(protection) = self.0.take() {
            protection.written();
        }
    }
}

impl Drop for Protected<'_> {
    fn drop(&mut self) {
        if let Some(protection) = self.0 {
            protection.abandoned();
        }
    }
}

/// Waits until everything appended is published, which is one sync away. The caller holds the tail, so nothing
/// more is appended. However short the caller's patience, a sync is given its time.
fn settle(shared: &Shared, tail: &MutexGuard<'_, crate::log::Tail>, patience: Duration) -> Result<()> {
    let started = Instant::now();
    let mut visible = shared.visible.lock();
    loop {
        shared.poison.check()?;
        if tail.last.is_some_and(|last| last.failed) {
            return Err(Error::Invalid(
                "a failed append is being cleared away: try the checkpoint again".into(),
            ));
        }
        if visible.frames == tail.frames {
            return Ok(());
        }
        let waited = started.elapsed();
        if waited > patience.max(LEAST_PATIENCE) {
            let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            return Err(Error::DeadlineExceeded { waited_ms });
        }
        // The pipeline may latch a failure of its own, which signals nothing here.
        visible.settling = true;
        visible = shared.changed.wait_timeout(visible, Duration::from_millis(50));
        // Whoever holds the tail is the only one to wait here.
        visible.settling = false;
    }
}

/// While it exists nobody begins a snapshot, and none is alive.
struct Gate<'a>(&'a Shared);

impl<'a> Gate<'a> {
    /// Closes the gate, and waits for the readers inside to leave; `None` (and open again) if they do not.
    /// No deadline means to wait for as long as it takes.
    fn close(shared: &'a Shared, deadline: Option<Instant>) -> Option<Self> {
        let gate = Gate(shared);
        let mut visible = shared.visible.lock();
        visible.gate = true;
        while !visible.readers.is_empty() {
            let Some(deadline) = deadline else {
                visible = shared.changed.wait(visible);
                continue;
            };
            let left = deadline
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero());
            let Some(left) = left else {
                // The guard's own drop takes the lock.
                drop(visible);
                return None;
            };
            visible = shared.changed.wait_timeout(visible, left);
        }
        drop(visible);
        Some(gate)
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.0.visible.lock().gate = false;
        self.0.changed.notify_all();
    }
}
