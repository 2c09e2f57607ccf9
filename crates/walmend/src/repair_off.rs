//! A store without repair: built without the feature `repair`, and so without tokio.

use crate::options::Options;
use crate::stats::{ProtectionStats, RepairStats};
use std::path::PathBuf;
use std::sync::Arc;
use walmend_types::{PageNumber, PageSize, Result};
use walmend_vfs::{Vfs, VfsFile};
use walmend_wal::{Decision, FileSet, FrameProtection, Log, LogWriter, PageProtection};

/// Nothing is healed before a log is opened.
pub(crate) struct Mended;

impl Mended {
    pub(crate) fn new(_vfs: &dyn Vfs, _files: &FileSet) -> Result<Self> {
        Ok(Self)
    }

    pub(crate) fn told(&self) -> (Vec<u32>, Option<PathBuf>) {
        (Vec::new(), None)
    }

    pub(crate) fn protection(
        &self,
        _vfs: &Arc<dyn Vfs>,
        _files: &FileSet,
    ) -> Option<Arc<dyn FrameProtection>> {
        None
    }

    pub(crate) fn protect(
        self,
        _log: &Log,
        _decision: Decision,
        _files: &FileSet,
        _options: &Options,
    ) -> Result<Repair> {
        Ok(Repair)
    }
}

/// Nothing is repaired.
#[derive(Debug)]
pub(crate) struct Repair;

impl Repair {
    pub(crate) fn watch(&self, writer: LogWriter) -> LogWriter {
        writer
    }

    pub(crate) fn stats(&self) -> Option<RepairStats> {
        None
    }

    pub(crate) fn close(&self) {}
}

/// The database file is not protected: a sidecar that is there becomes stale, and says so.
#[derive(Debug)]
pub(crate) struct Protection;

impl Protection {
    pub(crate) fn open(
        _files: &FileSet,
        _db: &Arc<dyn VfsFile>,
        _page_size: PageSize,
        _options: &Options,
    ) -> Result<Self> {
        Ok(Self)
    }

    pub(crate) fn watches(&self) -> Option<&dyn PageProtection> {
        None
    }

    pub(crate) fn check_read(&self, _page: PageNumber, _bytes: &mut [u8]) -> Result<bool> {
        Ok(false)
    }

    pub(crate) fn stats(&self) -> Option<ProtectionStats> {
        None
    }

    pub(crate) fn close(&self) {}
}
