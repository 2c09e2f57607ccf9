//! Files in memory, for tests: nothing survives the process, and nothing is ever lost before.

use crate::locks::{Held, LockTable};
use crate::names::{SharedRandom, normal};
use crate::{
    DeviceRead, FileInfo, LockHolder, LockKind, LockRange, OpenFlags, ReadSource, Vfs, VfsFile, checks,
};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walmend_sync::Mutex;
use walmend_sync::atomic::{AtomicU64, Ordering};
use walmend_types::{Error, Result, SyncMode};

/// A file system in memory.
///
/// Clones share their files. Locks between open files work as they do on a real one, a removed file lives on
/// in its open handles, and syncs do nothing. There are no directories: every path is a name, resolved from
/// its text alone, and relative paths start at `/`.
///
/// Files hold 8 GiB at most; writing past that is [`Error::Full`].
#[derive(Clone)]
pub struct MemoryVfs(Arc<Disk>);

struct Disk {
    names: Mutex<BTreeMap<PathBuf, Arc<Inode>>>,
    /// Numbers for files and for lock owners; none is used twice.
    next_number: AtomicU64,
    random: SharedRandom,
}

struct Inode {
    number: u64,
    data: Mutex<Vec<u8>>,
    locks: Mutex<LockTable>,
}

impl MemoryVfs {
    /// An empty file system with the seed 0.
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// An empty file system whose [`random`](Vfs::random) numbers follow from `seed`.
    pub fn with_seed(seed: u64) -> Self {
        Self(Arc::new(Disk {
            names: Mutex::new(BTreeMap::new()),
            next_number: AtomicU64::new(1),
            random: SharedRandom::new(seed),
        }))
    }

    fn next_number(&self) -> u64 {
        self.0.next_number.fetch_add(1, Ordering::Relaxed)
    }
}

impl Default for MemoryVfs {
    fn default() -> Self {
        Self::new()
    }
}

// Names are enough: contents would bury whatever else is printed.
impl fmt::Debug for MemoryVfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryVfs")
            .field(&self.0.names.lock().keys())
            .finish()
    }
}

impl Vfs for MemoryVfs {
    fn open(&self, path: &Path, flags: OpenFlags) -> Result<Arc<dyn VfsFile>> {
        checks::open_flags(path, flags)?;
        let mut names = self.0.names.lock();
        let name = normal(path);
        let inode = match names.get(&name) {
            Some(_) if flags.exclusive => {
                let exists = io::Error::from(io::ErrorKind::AlreadyExists);
                return Err(Error::io("create", path, None, exists));
            }
            Some(inode) => Arc::clone(inode),
            None if flags.create => {
                let inode = Arc::new(Inode {
                    number: self.next_number(),
                    data: Mutex::new(Vec::new()),
                    locks: Mutex::new(LockTable::default()),
                });
                names.insert(name, Arc::clone(&inode));
                inode
            }
            None => {
                return Err(Error::NotFound {
                    path: path.to_path_buf(),
                });
            }
        };
        Ok(Arc::new(MemoryFile {
            path: path.to_path_buf(),
            flags,
            owner: self.next_number(),
            inode,
        }))
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        let names = self.0.names.lock();
        Ok(names.get(&normal(path)).map(|inode| FileInfo {
            len: inode.data.lock().len() as u64,
            inode: inode.number,
            regular: true,
            modified: None,
        }))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.0.names.lock().remove(&normal(path));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut names = self.0.names.lock();
        let inode = names.remove(&normal(from)).ok_or_else(|| Error::NotFound {
            path: from.to_path_buf(),
        })?;
        names.insert(normal(to), inode);
        Ok(())
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        let name = normal(path);
        if self.0.names.lock().contains_key(&name) {
            return Ok(name);
        }
        Err(Error::NotFound {
            path: path.to_path_buf(),
        })
    }

    fn random(&self) -> u64 {
        self.0.random.next()
    }
}

struct MemoryFile {
    path: PathBuf,
    flags: OpenFlags,
    owner: u64,
    inode: Arc<Inode>,
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryFile").field(&self.path).finish()
    }
}

impl MemoryFile {
    fn grow(&self, data: &mut Vec<u8>, end: u64) -> Result<()> {
        let len = data.len() as u64;
        if end <= len {
            return Ok(());
        }
        // The bound keeps `end` within what a usize holds on every 64-bit machine.
        if end > checks::MAX_KEPT || data.try_reserve((end - len) as usize).is_err() {
            return Err(Error::Full {
                path: self.path.clone(),
                offset: Some(len),
            });
        }
        data.resize(end as usize, 0);
        Ok(())
    }
}

impl VfsFile for MemoryFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        checks::end_of(offset, buf.len() as u64)?;
        let data = self.inode.data.lock();
        let Some(rest) = usize::try_from(offset).ok().and_then(|offset| data.get(offset..)) else {
            return Ok(0);
        };
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        checks::writable(&self.path, self.flags)?;
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let end = checks::end_of(offset, total as u64)?;
        if total == 0 {
            return Ok(());
        }
        let mut data = self.inode.data.lock();
        self.grow(&mut data, end)?;
        let mut at = offset as usize;
        for buf in bufs {
            data[at..at + buf.len()].copy_from_slice(buf);
            at += buf.len();
        }
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.inode.data.lock().len() as u64)
    }

    fn truncate(&self, len: u64) -> Result<()> {
        checks::writable(&self.path, self.flags)?;
        checks::end_of(len, 0)?;
        let mut data = self.inode.data.lock();
        if len < data.len() as u64 {
            data.truncate(len as usize);
            return Ok(());
        }
        self.grow(&mut data, len)
    }

    fn preallocate(&self, start: u64, end: u64) -> Result<()> {
        checks::writable(&self.path, self.flags)?;
        checks::ordered(start, end)?;
        if start == end {
            return Ok(());
        }
        let mut data = self.inode.data.lock();
        self.grow(&mut data, end)?;
        data[start as usize..end as usize].fill(0);
        Ok(())
    }

    fn sync(&self, _mode: SyncMode) -> Result<()> {
        Ok(())
    }

    fn read_from_device(&self, buf: &mut [u8], offset: u64) -> Result<DeviceRead> {
        Ok(DeviceRead {
            bytes: self.read_at(buf, offset)?,
            source: ReadSource::Device,
        })
    }

    fn try_lock(&self, range: LockRange, kind: LockKind) -> Result<bool> {
        if kind == LockKind::Exclusive {
            checks::writable(&self.path, self.flags)?;
        }
        let wanted = Held::of(self.owner, range, kind)?;
        Ok(self.inode.locks.lock().try_lock(wanted))
    }

    fn unlock(&self, range: LockRange) -> Result<()> {
        let end = checks::lock_end(range)?;
        self.inode.locks.lock().unlock(self.owner, range.start, end);
        Ok(())
    }

    fn lock_holder(&self, range: LockRange, kind: LockKind) -> Result<Option<LockHolder>> {
        let wanted = Held::of(self.owner, range, kind)?;
        let blocked = self.inode.locks.lock().blocked(wanted);
        Ok(blocked.then_some(LockHolder { pid: None }))
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        self.inode.locks.lock().release(self.owner);
    }
}
