//! Backups: one consistent file from a database and its log, while others go on.
//!
//! There are two ways to a moment that holds still. A [`Store`] has snapshots, so its backup is the pages of
//! one. For files that are open elsewhere, or nowhere, see [`files`]: the database file is copied while it may
//! change, and the log, read afterwards, holds every page that can have changed meanwhile.
//!
//! Either way the copy grows under a name of its own, is synced, read back from the device and compared, and only
//! then gets the name that was asked for.

mod files;
mod target;

use crate::options::Pages;
use crate::snapshot::Snapshot;
use crate::store::Store;
use std::path::Path;
use target::{CHUNK, Target};
use walmend_types::{PageNumber, PageSize, Result};
use walmend_vfs::{ReadSource, Vfs};

/// Who had the database open while it was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupSource {
    /// Nobody: it was locked for the time of the copy.
    Closed,
    /// This store: the copy is one of its snapshots.
    Snapshot,
    /// A walmend store of another process, or another one of this process.
    LiveStore,
    /// SQLite connections, or programs that may read but not write while they are kept out.
    Shared,
}

impl BackupSource {
    /// The name that `--json` output uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Snapshot => "snapshot",
            Self::LiveStore => "live_store",
            Self::Shared => "shared",
        }
    }
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// Who had the database open meanwhile.
    pub source: BackupSource,
    /// Raw or SQLite pages.
    pub pages: Pages,
    /// Bytes of a page.
    pub page_size: PageSize,
    /// The size of the copied database, in pages.
    pub db_pages: u32,
    /// Bytes of the copy.
    pub bytes: u64,
    /// Committed frames of the log that the copy includes.
    pub log_frames: u32,
    /// Where the copy was read back from to compare it.
    pub verified_from: ReadSource,
    /// How often it was begun: a log that begins anew in the middle of a copy makes it start over.
    pub attempts: u32,
}

/// Hears how far a backup is: bytes done, and bytes in all as far as is known by then.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

impl Store {
    /// Copies the database as it is now to a new file, while writers, readers and passive checkpoints go on.
    ///
    /// The copy is one snapshot, complete in one file, without a log; a Raw one has its page size in a
    /// `-wal-meta` file beside it. It is durable and compared with what was read when this returns. Until then
    /// it has the name `<target>-backup-partial`. The snapshot keeps the log from being reset, so the log grows
    /// by what is committed meanwhile.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if the target, or a file that would count as its log, exists;
    /// [`Error::Closed`](crate::Error::Closed), also where the store is closed meanwhile; errors of
    /// [`Snapshot::read`]; [`Error::DatabaseCorrupt`](crate::Error::DatabaseCorrupt) if the disk holds
    /// something else than was written; I/O errors. No target is there then.
    pub fn backup(&self, target: impl AsRef<Path>) -> Result<BackupReport> {
        self.backup_with(target, &mut |_, _| {})
    }

    /// Like [`backup`](Self::backup), telling how far it is.
    ///
    /// # Errors
    /// As there.
    pub fn backup_with(&self, target: impl AsRef<Path>, progress: Progress<'_>) -> Result<BackupReport> {
        let snapshot = self.snapshot()?;
        let vfs = self.vfs();
        let mut target = Target::create(vfs, target.as_ref(), self.path())?;
        let page_size = self.page_size();
        let pages = snapshot.db_pages();
        let bytes = u64::from(pages) * u64::from(page_size.get());
        copy_snapshot(&snapshot, &mut target, bytes, progress)?;
        if self.pages() == Pages::Raw {
            target.describe_raw(page_size, snapshot.commit_seq().0)?;
        }
        let (bytes, verified_from) = target.publish(progress)?;
        let report = BackupReport {
            source: BackupSource::Snapshot,
            pages: self.pages(),
            page_size,
            db_pages: pages,
            bytes,
            log_frames: snapshot.mark.frame().0,
            verified_from,
            attempts: 1,
        };
        tracing::info!(target: "walmend::store::backup", path = %self.path().display(), ?report, "backed up");
        Ok(report)
    }
}

fn copy_snapshot(
    snapshot: &Snapshot,
    target: &mut Target<'_>,
    bytes: u64,
    progress: Progress<'_>,
) -> Result<()> {
    let page_size = snapshot.store.page_size;
    if bytes == 0 {
        return target.append(&crate::initial::first_page(snapshot.store.pages, page_size));
    }
    let mut chunk = Vec::with_capacity(CHUNK);
    for number in 1..=snapshot.db_pages() {
        let start = chunk.len();
        chunk.resize(start + page_size.as_usize(), 0);
        snapshot.read_as_stored(PageNumber::new(number)?, &mut chunk[start..])?;
        if chunk.len() == CHUNK || number == snapshot.db_pages() {
            target.append(&chunk)?;
            chunk.clear();
            progress(target.len(), bytes * 2);
        }
    }
    Ok(())
}

/// Copies a database that this process need not have open to a new file: one consistent copy of the database
/// file and its log, with no change to either. Works beside a walmend store or SQLite connections of other
/// processes, which go on working.
///
/// It holds everything that was acknowledged before the call. What stands in the way of a store that is
/// opened stands in its way for the time of the copy.
///
/// Where an SQLite connection of *this* process has the database open in WAL mode, use SQLite's own backup
/// interface: closing a descriptor of its `-shm` file would drop the connection's locks.
///
/// # Errors
/// As [`Store::backup`], and [`Error::Locked`](crate::Error::Locked) naming who keeps readers out, or if the
/// log began anew during every attempt; [`Error::WalCorrupt`](crate::Error::WalCorrupt) and
/// [`Error::WalAmbiguous`](crate::Error::WalAmbiguous) if commits cannot be read.
pub fn backup(vfs: &dyn Vfs, path: &Path, target: &Path, progress: Progress<'_>) -> Result<BackupReport> {
    let report = files::backup(vfs, path, target, progress)?;
    tracing::info!(target: "walmend::store::backup", path = %path.display(), ?report, "backed up");
    Ok(report)
}
