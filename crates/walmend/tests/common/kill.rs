//! A process that is really killed, at an operation that writes: a file system that passes everything on to the machine's,
//! and sends itself SIGKILL at the n-th one. No hook in the code under test is needed, and none is missed.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walmend_sync::atomic::{AtomicU64, Ordering};
use walmend_types::{Result, SyncMode};
use walmend_vfs::{DeviceRead, FileInfo, LockHolder, LockKind, LockRange, OpenFlags, UnixVfs, Vfs, VfsFile};

/// Dies at the operation with this number, from 1: before it, after it, or, where it is a write, in its middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Before,
    Middle,
    After,
}

#[derive(Debug)]
pub(crate) struct Fate {
    left: AtomicU64,
    when: When,
}

impl When {
    pub(crate) const ALL: [Self; 3] = [Self::Before, Self::Middle, Self::After];

    /// By its name.
    pub(crate) fn named(name: &str) -> Self {
        let named = Self::ALL.into_iter().find(|when| format!("{when:?}") == name);
        named.unwrap_or_else(|| panic!("{name}"))
    }
}

impl Fate {
    fn strikes(&self) -> bool {
        self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

fn die() -> ! {
    nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).unwrap();
    unreachable!("SIGKILL cannot be caught")
}

#[derive(Debug, Clone)]
pub(crate) struct KillVfs {
    fate: Arc<Fate>,
    /// How the names of the files end whose operations count.
    of: &'static str,
}

#[derive(Debug)]
struct KillFile {
    inner: Arc<dyn VfsFile>,
    fate: Arc<Fate>,
}

impl KillVfs {
    /// Lets everything pass until it is [told](Self::die_at) otherwise.
    pub(crate) fn new(when: When) -> Self {
        let left = AtomicU64::new(u64::MAX);
        Self {
            fate: Arc::new(Fate { left, when }),
            of: "",
        }
    }

    /// Counts only operations on files whose names end like this.
    pub(crate) fn of(self, suffix: &'static str) -> Self {
        Self { of: suffix, ..self }
    }

    fn counts(&self, path: &Path) -> bool {
        path.to_string_lossy().ends_with(self.of)
    }

    fn fated<T>(&self, path: &Path, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.counts(path) {
            fated(&self.fate, operation)
        } else {
            operation()
        }
    }

    /// From now on, at the operation with this number, from 1.
    pub(crate) fn die_at(&self, number: u64) {
        self.fate.left.store(number, Ordering::Relaxed);
    }
}

/// Runs an operation, unless it is the one.
fn fated<T>(fate: &Fate, operation: impl FnOnce() -> Result<T>) -> Result<T> {
    if !fate.strikes() {
        return operation();
    }
    if fate.when == When::After {
        let _ = operation();
    }
    die()
}

impl Vfs for KillVfs {
    fn open(&self, path: &Path, flags: OpenFlags) -> Result<Arc<dyn VfsFile>> {
        let open = || UnixVfs::new().open(path, flags);
        let inner = if flags.create {
            self.fated(path, open)?
        } else {
            open()?
        };
        if !self.counts(path) {
            return Ok(inner);
        }
        Ok(Arc::new(KillFile {
            inner,
            fate: Arc::clone(&self.fate),
        }))
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        UnixVfs::new().info(path)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.fated(path, || UnixVfs::new().remove(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.fated(from, || UnixVfs::new().rename(from, to))
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        UnixVfs::new().canonical(path)
    }

    fn random(&self) -> u64 {
        UnixVfs::new().random()
    }

    fn boot_id(&self) -> String {
        UnixVfs::new().boot_id()
    }
}

impl VfsFile for KillFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        if !self.fate.strikes() {
            return self.inner.write_gathered(bufs, offset);
        }
        let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        let reached = match self.fate.when {
            When::Before => 0,
            When::Middle => bytes.len() / 2,
            When::After => bytes.len(),
        };
        let _ = self.inner.write_at(&bytes[..reached], offset);
        die()
    }

    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn truncate(&self, len: u64) -> Result<()> {
        fated(&self.fate, || self.inner.truncate(len))
    }

    fn preallocate(&self, start: u64, end: u64) -> Result<()> {
        fated(&self.fate, || self.inner.preallocate(start, end))
    }

    fn sync(&self, mode: SyncMode) -> Result<()> {
        fated(&self.fate, || self.inner.sync(mode))
    }

    fn read_from_device(&self, buf: &mut [u8], offset: u64) -> Result<DeviceRead> {
        self.inner.read_from_device(buf, offset)
    }

    fn drop_cache(&self) -> Result<()> {
        self.inner.drop_cache()
    }

    fn try_lock(&self, range: LockRange, kind: LockKind) -> Result<bool> {
        self.inner.try_lock(range, kind)
    }

    fn unlock(&self, range: LockRange) -> Result<()> {
        self.inner.unlock(range)
    }

    fn lock_holder(&self, range: LockRange, kind: LockKind) -> Result<Option<LockHolder>> {
        self.inner.lock_holder(range, kind)
    }
}
