//! The protection of the database file, kept in step by the store's own checkpoints.

use crate::options::Options;
use crate::scrub::Scrubber;
use crate::stats::ProtectionStats;
use std::sync::Arc;
use walmend_repair::{DatabaseProtection, ReedSolomon, Work, protect_database};
use walmend_types::{Cx, PageNumber, PageSize, Result};
use walmend_vfs::VfsFile;
use walmend_wal::{FileSet, PageProtection};

const TARGET: &str = "walmend::store";

/// The sidecar of the database file, if it has one.
#[derive(Debug)]
pub(crate) struct Protection {
    kept: Option<Arc<DatabaseProtection>>,
    scrubber: Option<Scrubber>,
}

impl Protection {
    /// Opens the sidecar, and makes it or brings it up to date first if the options ask for that. The caller holds the
    /// exclusive lock, and the log is recovered.
    pub(crate) fn open(
        files: &FileSet,
        db: &Arc<dyn VfsFile>,
        page_size: PageSize,
        options: &Options,
    ) -> Result<Self> {
        let kept = Self::in_step(files, db, page_size, options)?.map(Arc::new);
        let scrubber = match (&kept, options.scrub) {
            (Some(kept), Some(pace)) => Some(Scrubber::start(Arc::clone(kept), pace)?),
            _ => None,
        };
        Ok(Self { kept, scrubber })
    }

    fn in_step(
        files: &FileSet,
        db: &Arc<dyn VfsFile>,
        page_size: PageSize,
        options: &Options,
    ) -> Result<Option<DatabaseProtection>> {
        let open = || {
            let (vfs, db) = (Arc::clone(&options.vfs), Arc::clone(db));
            DatabaseProtection::open(vfs, files, db, Arc::new(ReedSolomon))
        };
        let found = match open() {
            Ok(found) => found,
            // It costs protection, and must not cost the database.
            Err(error) if !options.protect_database => {
                tracing::error!(target: TARGET, %error, "the sidecar of the database cannot be read");
                None
            }
            Err(error) => return Err(error),
        };
        let in_step = found.as_ref().is_some_and(DatabaseProtection::in_step);
        if in_step || !options.protect_database {
            if found.is_some() && !in_step {
                tracing::warn!(target: TARGET, path = %files.db.display(), "the protection of the database is stale");
            }
            return Ok(found);
        }
        drop(found);
        let cx = Cx::new();
        protect_database(&*options.vfs, files, page_size, &ReedSolomon, &Work::new(&cx))?;
        open()
    }

    pub(crate) fn watches(&self) -> Option<&dyn PageProtection> {
        self.kept
            .as_deref()
            .map(|protection| protection as &dyn PageProtection)
    }

    /// Compares a page of the database file, as a live snapshot read it, with its digest, and heals it. Answers whether it is known what
    /// the page must be.
    ///
    /// # Errors
    /// [`Error::DatabaseCorrupt`](walmend_types::Error::DatabaseCorrupt) if it is damaged and cannot be rebuilt; I/O errors.
    pub(crate) fn check_read(&self, page: PageNumber, bytes: &mut [u8]) -> Result<bool> {
        match &self.kept {
            Some(kept) => kept.check_read(page, bytes),
            None => Ok(false),
        }
    }

    /// Holds scrubbing up, or lets it go on.
    pub(crate) fn pause_scrub(&self, paused: bool) {
        if let Some(scrubber) = &self.scrubber {
            scrubber.pause(paused);
        }
    }

    pub(crate) fn stats(&self) -> Option<ProtectionStats> {
        self.kept.as_ref().map(|protection| ProtectionStats {
            in_step: protection.in_step(),
            damaged_pages: protection.damaged(),
            lost_pages: protection.lost(),
            healed_pages: protection.healed(),
            scrub: self.scrubber.as_ref().map(Scrubber::stats),
        })
    }

    pub(crate) fn close(&self) {
        if let Some(scrubber) = &self.scrubber {
            scrubber.stop();
        }
        if let Some(protection) = &self.kept {
            protection.close();
        }
    }
}
