//! A store without repair: built without the feature `repair`, and so without tokio.

use crate::options::Options;
use crate::stats::RepairStats;
use std::path::PathBuf;
use walmend_types::Result;
use walmend_vfs::Vfs;
use walmend_wal::{FileSet, Log, LogWriter};

/// Nothing is healed before a log is opened.
pub(crate) struct Mended;

impl Mended {
    pub(crate) fn new(_vfs: &dyn Vfs, _files: &FileSet) -> Result<Self> {
        Ok(Self)
    }

    pub(crate) fn told(&self) -> (Vec<u32>, Option<PathBuf>) {
        (Vec::new(), None)
    }

    pub(crate) fn protect(self, _log: &Log, _files: &FileSet, _options: &Options) -> Result<Repair> {
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
