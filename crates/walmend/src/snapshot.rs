//! Reading at one moment.

use crate::identify::MARKER_MAGIC;
use crate::options::Pages;
use crate::store::Inner;
use std::sync::Arc;
use walmend_types::{CommitSeq, Error, PageNumber, PageSize, Result};
use walmend_wal::{PageSource, ReadMark};

/// The database as it was at one moment, for as long as the snapshot lives. It keeps the log from being
/// reset, so do not hold one for longer than needed.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(crate) store: Arc<Inner>,
    pub(crate) mark: Arc<ReadMark>,
}

impl Snapshot {
    /// Reads a page. A page within the database that was never written reads as zeros. What comes from the log is verified, and
    /// what comes from the database file as well where that is protected; what is damaged is healed.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](walmend_types::Error::OutOfRange) past the end of the database, [`Error::WalCorrupt`](walmend_types::Error::WalCorrupt)
    /// or [`Error::DatabaseCorrupt`](walmend_types::Error::DatabaseCorrupt) if the page is damaged and cannot be rebuilt,
    /// [`Error::Closed`](walmend_types::Error::Closed), I/O errors.
    pub fn read(&self, page: PageNumber) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.store.page_size.as_usize()];
        self.read_into(page, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a page into `buf`, which is exactly one page.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::Invalid`](walmend_types::Error::Invalid) for a buffer of another size.
    pub fn read_into(&self, page: PageNumber, buf: &mut [u8]) -> Result<()> {
        let source = self.read_as_stored(page, buf)?;
        let marker = source == PageSource::Database
            && page == PageNumber::ONE
            && self.store.pages == Pages::Raw
            && buf.starts_with(MARKER_MAGIC);
        if marker {
            buf.fill(0);
        }
        Ok(())
    }

    /// Like [`read_into`](Self::read_into), with walmend's marker where page 1 was never written.
    pub(crate) fn read_as_stored(&self, page: PageNumber, buf: &mut [u8]) -> Result<PageSource> {
        // Once closed, the files are no longer ours: another program may be writing to them.
        let _at_work = self.store.usage.enter()?;
        match self.mark.read(page, buf) {
            Ok(PageSource::Database) => {
                self.store.protection.check_read(page, buf)?;
                Ok(PageSource::Database)
            }
            // What the device does not give back can be rebuilt.
            Err(error @ Error::Io { .. }) if self.mark.source(page) == PageSource::Database => {
                buf.fill(0);
                let rebuilt = self.store.protection.check_read(page, buf)?;
                if rebuilt {
                    Ok(PageSource::Database)
                } else {
                    Err(error)
                }
            }
            read => read,
        }
    }

    /// The last commit that it sees.
    pub fn commit_seq(&self) -> CommitSeq {
        self.mark.commit_seq()
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> PageSize {
        self.store.page_size
    }

    /// The size of the database, in pages.
    pub fn db_pages(&self) -> u32 {
        self.mark.db_pages()
    }
}

impl Inner {
    pub(crate) fn snapshot(self: &Arc<Self>) -> Result<Snapshot> {
        self.snapshot_or(|| {})
    }

    /// Calls `waits` if a checkpoint has to be waited for.
    pub(crate) fn snapshot_or(self: &Arc<Self>, waits: impl FnOnce()) -> Result<Snapshot> {
        self.usage.check_open()?;
        Ok(Snapshot {
            store: Arc::clone(self),
            mark: Arc::new(self.log.begin_read_or(waits)),
        })
    }
}
