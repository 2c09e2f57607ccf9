//! A file system that passes everything on to a simulated one, except for what the simulation does not do.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use walmend_sync::atomic::{AtomicBool, Ordering};
use walmend_sync::{Condvar, Mutex, thread};
use walmend_types::{Error, Result, SyncMode};
use walmend_vfs::sim::SimVfs;
use walmend_vfs::{
    AlignedBuf, DIRECT_BLOCK, DeviceRead, DirectWrites, FileInfo, LockHolder, LockKind, LockRange, OpenFlags,
    ReadSource, Vfs, VfsFile,
};

/// What goes wrong next, once, in files whose path ends so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A write lands, and then the code panics.
    PanicAfterWrite { suffix: &'static str },
    /// A sync fails, and the caller is a while in coming back with the news.
    SlowFailingSync { suffix: &'static str },
    /// A write is acknowledged, and does not happen.
    LostWrite { suffix: &'static str },
    /// A bit flips right behind a sync.
    FlipAfterSync { suffix: &'static str, at: u64 },
    /// Whoever writes whole blocks rewrites the first one as it was two writes ago, not as the last write left it.
    StaleTail { suffix: &'static str },
}

#[derive(Debug, Default)]
struct State {
    fault: Mutex<Option<Fault>>,
    failed_syncs: Mutex<u32>,
    /// Each block that was written directly, before its last write.
    older: Mutex<BTreeMap<u64, Vec<u8>>>,
    failed: Condvar,
    /// The file system has direct I/O, and no descriptor is left for it.
    no_descriptors: AtomicBool,
}

#[derive(Debug, Clone)]
pub(crate) struct DoubleVfs {
    inner: SimVfs,
    state: Arc<State>,
}

#[derive(Debug)]
struct DoubleFile {
    inner: Arc<dyn VfsFile>,
    disk: SimVfs,
    state: Arc<State>,
}

impl DoubleVfs {
    pub(crate) fn new(inner: &SimVfs) -> Self {
        Self {
            inner: inner.clone(),
            state: Arc::default(),
        }
    }

    pub(crate) fn arm(&self, fault: Fault) {
        *self.state.fault.lock() = Some(fault);
    }

    pub(crate) fn leave_no_descriptors(&self) {
        self.state.no_descriptors.store(true, Ordering::Relaxed);
    }

    /// Waits until a slow sync has failed and let go of the file.
    pub(crate) fn wait_for_failed_sync(&self) {
        let mut failed = self.state.failed_syncs.lock();
        while *failed == 0 {
            failed = self.state.failed.wait(failed);
        }
    }
}

impl DoubleFile {
    fn strikes(&self, is: impl Fn(Fault) -> Option<&'static str>) -> bool {
        let mut fault = self.state.fault.lock();
        let path = self.inner.path().to_string_lossy();
        let strikes = fault.and_then(is).is_some_and(|suffix| path.ends_with(suffix));
        if strikes {
            *fault = None;
        }
        strikes
    }
}

impl DoubleFile {
    fn panic_if_told(&self) {
        let panics = self.strikes(|fault| match fault {
            Fault::PanicAfterWrite { suffix } => Some(suffix),
            _ => None,
        });
        assert!(!panics, "simulated: a bug in the writer");
    }
}

impl Vfs for DoubleVfs {
    fn open(&self, path: &Path, flags: OpenFlags) -> Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(DoubleFile {
            inner: self.inner.open(path, flags)?,
            disk: self.inner.clone(),
            state: Arc::clone(&self.state),
        }))
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        self.inner.info(path)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.inner.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        self.inner.canonical(path)
    }

    fn random(&self) -> u64 {
        self.inner.random()
    }

    fn direct_writes(&self, path: &Path) -> DirectWrites {
        self.inner.direct_writes(path)
    }
}

impl VfsFile for DoubleFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let lost = self.strikes(|fault| match fault {
            Fault::LostWrite { suffix } => Some(suffix),
            _ => None,
        });
        if lost {
            return Ok(());
        }
        self.inner.write_gathered(bufs, offset)?;
        self.panic_if_told();
        Ok(())
    }

    fn write_direct(&self, blocks: &[u8], offset: u64) -> Result<()> {
        if self.state.no_descriptors.load(Ordering::Relaxed) {
            let unsupported = io::Error::from(io::ErrorKind::Unsupported);
            return Err(Error::io("write", self.path(), Some(offset), unsupported));
        }
        let mut written = AlignedBuf::zeroed(blocks.len());
        written.copy_from_slice(blocks);
        let mut last = vec![0; blocks.len()];
        self.read_at(&mut last, offset)?;
        let stale = self.strikes(|fault| match fault {
            Fault::StaleTail { suffix } => Some(suffix),
            _ => None,
        });
        let mut older = self.state.older.lock();
        if let Some(older) = older.get(&offset).filter(|_| stale) {
            // What this write does not change is what the last one left: that is missed.
            for (place, byte) in older.iter().enumerate() {
                if written[place] == last[place] {
                    written[place] = *byte;
                }
            }
        }
        let starts = (offset..).step_by(DIRECT_BLOCK);
        for (start, block) in starts.zip(last.chunks(DIRECT_BLOCK)) {
            older.insert(start, block.to_vec());
        }
        drop(older);
        self.inner.write_direct(&written, offset)?;
        self.panic_if_told();
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.inner.truncate(len)
    }

    fn preallocate(&self, start: u64, end: u64) -> Result<()> {
        self.inner.preallocate(start, end)
    }

    fn sync(&self, mode: SyncMode) -> Result<()> {
        let fails = self.strikes(|fault| match fault {
            Fault::SlowFailingSync { suffix } => Some(suffix),
            _ => None,
        });
        if !fails {
            self.inner.sync(mode)?;
            let flip = *self.state.fault.lock();
            if let Some(Fault::FlipAfterSync { suffix, at }) = flip
                && self.strikes(|_| Some(suffix))
            {
                self.disk.flip_bit(self.path(), at, 1);
            }
            return Ok(());
        }
        *self.state.failed_syncs.lock() += 1;
        self.state.failed.notify_all();
        // The file is free again, and whoever syncs it now is told that all is well.
        thread::sleep(Duration::from_millis(50));
        Err(Error::io(
            "sync",
            self.path(),
            None,
            io::Error::other("simulated"),
        ))
    }

    fn read_from_device(&self, buf: &mut [u8], offset: u64) -> Result<DeviceRead> {
        if self.state.no_descriptors.load(Ordering::Relaxed) {
            return Ok(DeviceRead {
                bytes: self.inner.read_at(buf, offset)?,
                source: ReadSource::Cache,
            });
        }
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
