//! What stands between a checkpoint and the truncation of the log: the database is synced *fully*, then read
//! back and compared. Only behind it may the log's frames go.
//!
//! A sync of the data alone would not do: the file may have grown or shrunk, and a length that is lost takes
//! pages with it that the log no longer holds.

use crate::digest::PageDigest;
use crate::verify::{ExpectedPage, PageVerdict, Verification, byte_offset, verify_pages};
use std::path::Path;
use tracing::debug;
use walmend_types::{Error, PageNumber, PageSize, Poison, Result, SyncMode};
use walmend_vfs::VfsFile;

/// Pages that follow each other are gathered up to this many bytes before they are written.
const GATHER_BYTES: usize = 1 << 20;

/// Where a checkpoint copies pages to: a database file ([`FileTarget`]), or an engine's own storage.
///
/// Once a method has failed, what reached the storage is unknown: the checkpoint is over, and the next one
/// writes every page again.
pub trait CheckpointTarget {
    /// What the target is called in messages: the path of the database.
    fn name(&self) -> &Path;

    /// Writes one page, as long as the target's pages are. It need not be durable, nor visible to
    /// [`verify`](Self::verify), before the next sync. Checkpoints write in page order.
    ///
    /// # Errors
    /// Whatever the storage says.
    fn write_page(&mut self, page: PageNumber, data: &[u8]) -> Result<()>;

    /// Sets the length of the database, in pages.
    ///
    /// # Errors
    /// Whatever the storage says.
    fn truncate_database(&mut self, pages: u32) -> Result<()>;

    /// Makes everything written so far durable, with all metadata (fsync, not fdatasync).
    ///
    /// # Errors
    /// Whatever the storage says. It must not be tried again: the second time may "succeed" without the data.
    fn sync_database(&mut self) -> Result<()>;

    /// Compares pages with what they must be, read from the device where that is possible; see
    /// [`verify_pages`]. Called after a sync, with nothing written since.
    ///
    /// # Errors
    /// Whatever the storage says. A page that differs is no error but a verdict.
    fn verify(&mut self, expected: &[ExpectedPage]) -> Result<Verification>;
}

/// Makes the database durable and proves it: a full sync, then a verification. The one call for "about to
/// reset or truncate the log", which may happen only after it has answered `Ok`.
///
/// # Errors
/// A failed sync or read, as it is; [`Error::DatabaseCorrupt`] with the first page that is not what was
/// expected. In each case the log must stay as it is.
///
/// ```
/// use std::path::Path;
/// use walmend_types::{PageNumber, PageSize};
/// use walmend_vfs::{MemoryVfs, OpenFlags, Vfs};
/// use walmend_wal::{CheckpointTarget, ExpectedPage, FileTarget, PageDigest, barrier};
///
/// let file = MemoryVfs::new().open(Path::new("a.db"), OpenFlags::CREATE)?;
/// let page = [7; 4096];
/// let mut target = FileTarget::new(&*file, PageSize::DEFAULT);
/// target.write_page(PageNumber::ONE, &page)?;
/// let expected = [ExpectedPage { page: PageNumber::ONE, digest: PageDigest::of(&page) }];
/// barrier(&mut target, &expected)?;
/// // The log may go now.
/// # Ok::<(), walmend_types::Error>(())
/// ```
pub fn barrier(target: &mut dyn CheckpointTarget, expected: &[ExpectedPage]) -> Result<Verification> {
    target.sync_database()?;
    let verification = target.verify(expected)?;
    debug!(
        target: "walmend::wal::barrier",
        path = %target.name().display(),
        pages = verification.pages,
        source = ?verification.source,
        verdict = ?verification.verdict,
        "database synced and read back"
    );
    match verification.verdict {
        PageVerdict::Match => Ok(verification),
        PageVerdict::Mismatch {
            page,
            expected,
            found,
        } => Err(Error::DatabaseCorrupt {
            path: target.name().to_path_buf(),
            page: page.get(),
            detail: describe(expected, found),
        }),
    }
}

fn describe(expected: PageDigest, found: Option<PageDigest>) -> String {
    match found {
        Some(found) => format!("after the sync its digest is {found}, expected {expected}"),
        None => format!("after the sync the file ends before the page does, expected digest {expected}"),
    }
}

/// A plain database file as the target of one checkpoint.
///
/// Pages that follow each other are written together. What is not yet written when the target is dropped is
/// not written at all: end with [`barrier`]. After a failure every further call answers
/// [`Error::Poisoned`]; the next checkpoint begins with a new target.
#[derive(Debug)]
pub struct FileTarget<'a> {
    file: &'a dyn VfsFile,
    page_size: PageSize,
    /// Pages that follow each other and are not yet written.
    gathered: Vec<u8>,
    /// How many pages precede the gathered ones in the file.
    gathered_from: u64,
    /// Whether anything was written or truncated since the last sync.
    unsynced: bool,
    poison: Poison,
}

impl<'a> FileTarget<'a> {
    /// A target over an open, writable file.
    pub fn new(file: &'a dyn VfsFile, page_size: PageSize) -> Self {
        Self {
            file,
            page_size,
            gathered: Vec::new(),
            gathered_from: 0,
            unsynced: false,
            poison: Poison::new(),
        }
    }

    /// Runs one step unless an earlier one failed, and keeps its failure.
    fn step(&mut self, step: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.poison.check()?;
        step(self).inspect_err(|error| {
            self.poison.set(error.clone());
            self.distrust();
        })
    }

    /// What the cache shows need not be on the device, and may never come there: file systems can take a page for
    /// written whose block is not. Forgotten, the next checkpoint's writes find the file as it is.
    fn distrust(&self) {
        if let Err(error) = self.file.drop_cache() {
            tracing::warn!(target: "walmend::wal::barrier", %error, "the cached pages of the database stay");
        }
    }

    fn flush(&mut self) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let offset = byte_offset(self.gathered_from, self.page_size.get().into())?;
        self.file.write_at(&self.gathered, offset)?;
        self.gathered.clear();
        Ok(())
    }
}

impl CheckpointTarget for FileTarget<'_> {
    fn name(&self) -> &Path {
        self.file.path()
    }

    /// Gathers the page, and writes what is gathered when the next page does not follow or 1 MiB is reached.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `data` is not one page long; [`Error::OutOfRange`], [`Error::Full`],
    /// [`Error::Io`], [`Error::Poisoned`].
    fn write_page(&mut self, page: PageNumber, data: &[u8]) -> Result<()> {
        if data.len() != self.page_size.as_usize() {
            return Err(Error::Invalid(format!(
                "page {page} of {} was given {} bytes, but pages have {}",
                self.name().display(),
                data.len(),
                self.page_size
            )));
        }
        self.step(|target| {
            target.unsynced = true;
            let before = u64::from(page.get()) - 1;
            let count = (target.gathered.len() / data.len()) as u64;
            if before != target.gathered_from + count {
                target.flush()?;
            }
            if target.gathered.is_empty() {
                target.gathered_from = before;
            }
            target.gathered.extend_from_slice(data);
            if target.gathered.len() >= GATHER_BYTES {
                target.flush()?;
            }
            Ok(())
        })
    }

    fn truncate_database(&mut self, pages: u32) -> Result<()> {
        self.step(|target| {
            target.unsynced = true;
            target.flush()?;
            let length = byte_offset(pages.into(), target.page_size.get().into())?;
            target.file.truncate(length)
        })
    }

    fn sync_database(&mut self) -> Result<()> {
        self.step(|target| {
            target.flush()?;
            target.file.sync(SyncMode::Full)?;
            target.unsynced = false;
            Ok(())
        })
    }

    /// # Errors
    /// [`Error::Invalid`] if anything was written since the last sync: what is then read proves nothing.
    fn verify(&mut self, expected: &[ExpectedPage]) -> Result<Verification> {
        self.poison.check()?;
        if self.unsynced {
            return Err(Error::Invalid(format!(
                "{} has changed since its last sync: sync it before it is verified",
                self.name().display()
            )));
        }
        let verification = verify_pages(self.file, self.page_size, expected)?;
        if verification.verdict != PageVerdict::Match {
            self.distrust();
        }
        Ok(verification)
    }
}
