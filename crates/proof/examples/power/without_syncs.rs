//! A file system that forgets its syncs: with it, acknowledged commits have to get lost, or the rig sees nothing.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walmend_types::{Result, SyncMode};
use walmend_vfs::{
    DeviceRead, DirectWrites, FileInfo, LockHolder, LockKind, LockRange, OpenFlags, UnixVfs, Vfs, VfsFile,
};

/// [`UnixVfs`], whose files say that they were synced and were not.
#[derive(Debug, Default)]
pub(crate) struct WithoutSyncs(UnixVfs);

impl Vfs for WithoutSyncs {
    fn open(&self, path: &Path, flags: OpenFlags) -> Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(Forgetful(self.0.open(path, flags)?)))
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        self.0.info(path)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.0.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.0.rename(from, to)
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        self.0.canonical(path)
    }

    fn random(&self) -> u64 {
        self.0.random()
    }

    fn direct_writes(&self, path: &Path) -> DirectWrites {
        self.0.direct_writes(path)
    }

    fn boot_id(&self) -> String {
        self.0.boot_id()
    }
}

#[derive(Debug)]
struct Forgetful(Arc<dyn VfsFile>);

impl VfsFile for Forgetful {
    fn sync(&self, _: SyncMode) -> Result<()> {
        Ok(())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.0.write_gathered(bufs, offset)
    }

    fn write_direct(&self, blocks: &[u8], offset: u64) -> Result<()> {
        self.0.write_direct(blocks, offset)
    }

    fn len(&self) -> Result<u64> {
        self.0.len()
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.0.truncate(len)
    }

    fn preallocate(&self, start: u64, end: u64) -> Result<()> {
        self.0.preallocate(start, end)
    }

    fn read_from_device(&self, buf: &mut [u8], offset: u64) -> Result<DeviceRead> {
        self.0.read_from_device(buf, offset)
    }

    fn try_lock(&self, range: LockRange, kind: LockKind) -> Result<bool> {
        self.0.try_lock(range, kind)
    }

    fn unlock(&self, range: LockRange) -> Result<()> {
        self.0.unlock(range)
    }

    fn lock_holder(&self, range: LockRange, kind: LockKind) -> Result<Option<LockHolder>> {
        self.0.lock_holder(range, kind)
    }
}
