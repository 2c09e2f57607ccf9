//! What the tests of database protection share: files of random pages on a real file system, and ways to damage them
//! that leave no trace, as a disk does.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary compiles this module and uses a part of it"
)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use walmend_repair::{
    DatabaseCheck, DatabaseHealReport, DatabaseProtectReport, ReedSolomon, Work, heal_database,
    protect_database,
};
use walmend_types::{Cx, PageSize, Result};
use walmend_vfs::UnixVfs;
use walmend_wal::FileSet;

pub(crate) use walmend_vfs::Random;

/// A database of random pages.
#[derive(Debug)]
pub(crate) struct Rig {
    folder: TempDir,
    pub(crate) page_size: u32,
}

impl Rig {
    pub(crate) fn new(page_size: u32, pages: usize, seed: u64) -> Self {
        let rig = Self {
            folder: TempDir::new().unwrap(),
            page_size,
        };
        let bytes = Random(seed).bytes(pages * page_size as usize);
        fs::write(rig.db(), bytes).unwrap();
        rig
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.folder.path().join("a.db")
    }

    pub(crate) fn fec(&self) -> PathBuf {
        self.folder.path().join("a.db-fec")
    }

    pub(crate) fn files(&self) -> FileSet {
        FileSet::of(&self.db())
    }

    pub(crate) fn read(&self) -> Vec<u8> {
        fs::read(self.db()).unwrap()
    }

    pub(crate) fn protect(&self) -> DatabaseProtectReport {
        let cx = Cx::new();
        self.try_protect(&Work::new(&cx)).unwrap()
    }

    pub(crate) fn try_protect(&self, work: &Work<'_>) -> Result<DatabaseProtectReport> {
        let page_size = PageSize::new(self.page_size).unwrap();
        protect_database(&UnixVfs::new(), &self.files(), page_size, &ReedSolomon, work)
    }

    pub(crate) fn check(&self) -> DatabaseCheck {
        let cx = Cx::new();
        DatabaseCheck::make(&UnixVfs::new(), &self.files(), &Work::new(&cx).threads(2))
            .unwrap()
            .unwrap()
    }

    pub(crate) fn heal(&self) -> DatabaseHealReport {
        self.heal_with(false)
    }

    pub(crate) fn heal_with(&self, trust: bool) -> DatabaseHealReport {
        let cx = Cx::new();
        let work = Work::new(&cx).threads(2);
        heal_database(&UnixVfs::new(), &self.files(), &ReedSolomon, trust, &work)
            .unwrap()
            .unwrap()
    }

    pub(crate) fn try_heal(&self, work: &Work<'_>) -> Result<()> {
        heal_database(&UnixVfs::new(), &self.files(), &ReedSolomon, false, work).map(drop)
    }

    /// Damages the database as a disk does: without leaving another time.
    pub(crate) fn damage(&self, damage: impl FnOnce(&mut Vec<u8>)) {
        rot(&self.db(), damage);
    }

    /// Writes a page as another program does.
    pub(crate) fn write(&self, page: u32, bytes: &[u8]) {
        let file = File::options().write(true).open(self.db()).unwrap();
        let at = u64::from(page - 1) * u64::from(self.page_size);
        file.write_all_at(bytes, at).unwrap();
    }

    pub(crate) fn page(&self, page: u32) -> std::ops::Range<usize> {
        let start = (page as usize - 1) * self.page_size as usize;
        start..start + self.page_size as usize
    }
}

/// Changes a file, and nothing that tells when it was changed.
pub(crate) fn rot(path: &Path, damage: impl FnOnce(&mut Vec<u8>)) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    damage(&mut bytes);
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.set_modified(modified).unwrap();
}
