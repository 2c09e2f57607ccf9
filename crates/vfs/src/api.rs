//! The two traits, and the data that they pass.

use std::fmt;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use walmend_types::{Error, Result, SyncMode};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFlags {
    /// Writing is allowed.
    pub write: bool,
    /// A missing file is created; its directory is synced before the call returns.
    pub create: bool,
    /// The file must not exist yet.
    pub exclusive: bool,
}

impl OpenFlags {
    /// Reading only; the file must exist.
    pub const READ: Self = Self {
        write: false,
        create: false,
        exclusive: false,
    };
    /// Reading and writing; the file must exist.
    pub const WRITE: Self = Self {
        write: true,
        create: false,
        exclusive: false,
    };
    /// Reading and writing; created where missing.
    pub const CREATE: Self = Self {
        write: true,
        create: true,
        exclusive: false,
    };
    /// Reading and writing; the file must not exist yet.
    pub const CREATE_NEW: Self = Self {
        write: true,
        create: true,
        exclusive: true,
    };
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileInfo {
    /// Its length in bytes.
    pub len: u64,
    /// Tells one file from another of the same name; 0 where the file system has no such number.
    pub inode: u64,
    /// Whether it is a regular file. Nothing else can be opened.
    pub regular: bool,
    /// When its content last changed; `None` where nothing keeps that.
    pub modified: Option<SystemTime>,
}

/// Bytes of a file that are locked together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRange {
    /// The first byte.
    pub start: u64,
    /// How many bytes, at least 1.
    pub len: u64,
}

impl LockRange {
    /// SQLite's PENDING byte.
    pub const PENDING: Self = Self {
        start: 0x4000_0000,
        len: 1,
    };
    /// SQLite's RESERVED byte.
    pub const RESERVED: Self = Self {
        start: 0x4000_0001,
        len: 1,
    };
    /// SQLite's SHARED range.
    pub const SHARED: Self = Self {
        start: 0x4000_0002,
        len: 510,
    };
}

/// Who else may hold a lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Other shared holders.
    Shared,
    /// Nobody.
    Exclusive,
}

/// Who stands in the way of a lock, as far as the system tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockHolder {
    /// The process, 0 for one of another PID namespace; `None` for locks that belong to an open file and not to a
    /// process (OFD locks).
    pub pid: Option<u32>,
}

/// Where the bytes of a read came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadSource {
    /// The device: what a crash would leave.
    Device,
    /// Possibly a cache; proves nothing about the device.
    Cache,
}

/// The result of [`VfsFile::read_from_device`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRead {
    /// How many bytes were read; fewer than asked for only at the end of the file.
    pub bytes: usize,
    /// Where they came from.
    pub source: ReadSource,
}

/// What a file system makes of writes that pass the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectWrites {
    /// It has no such thing.
    Unavailable,
    /// They work, and do not make a small append and its sync faster.
    Slower,
    /// They work, and make a small append and its sync faster.
    Faster,
}

/// A file system.
pub trait Vfs: fmt::Debug + Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::ReadOnly`], [`Error::NotADatabase`] for anything that is not a regular
    /// file, [`Error::Io`].
    fn open(&self, path: &Path, flags: OpenFlags) -> Result<Arc<dyn VfsFile>>;

    /// What is known of a file (links are followed), or `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn info(&self, path: &Path) -> Result<Option<FileInfo>>;

    /// Removes a file and syncs its directory. A missing file is no error.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn remove(&self, path: &Path) -> Result<()>;

    /// Renames a file, replacing `to`, and syncs both directories.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Like [`rename`](Self::rename), but never replaces anything. Here two callers at once are not kept apart;
    /// the file system of the machine does that.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Io`], among them that `to` exists.
    fn rename_new(&self, from: &Path, to: &Path) -> Result<()> {
        if self.info(to)?.is_some() {
            let exists = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(Error::io("create", to, None, exists));
        }
        self.rename(from, to)
    }

    /// Gives a copy the permissions of its original. Nothing to do where files have none.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn copy_permissions(&self, _original: &Path, _copy: &Path) -> Result<()> {
        Ok(())
    }

    /// The one absolute name of an existing file, with links resolved.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    fn canonical(&self, path: &Path) -> Result<PathBuf>;

    /// 64 random bits, for salts. Simulations answer from their seed.
    fn random(&self) -> u64;

    /// What the file system makes of [`VfsFile::write_direct`] in the directory of `path`. May be measured there, in
    /// a few milliseconds, without leaving anything behind; simulations never measure.
    fn direct_writes(&self, _path: &Path) -> DirectWrites {
        DirectWrites::Unavailable
    }

    /// Who this machine and boot are, for the owner record; empty where that cannot be known.
    fn boot_id(&self) -> String {
        String::new()
    }
}

/// One open file. All methods take `&self`; a file can be used from many threads.
pub trait VfsFile: fmt::Debug + Send + Sync {
    /// The path that it was opened by, for messages.
    fn path(&self) -> &Path;

    /// Reads until the buffer is full or the file ends; answers how many bytes.
    ///
    /// # Errors
    /// [`Error::Io`] with the offset.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// Writes all of `buf`. After an error any part of it may be in the file.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`] with the offset.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.write_gathered(&[IoSlice::new(buf)], offset)
    }

    /// Writes all of `bufs`, one after the other, in as few calls as the system allows. After an error any
    /// part of it may be in the file.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`] with the offset.
    fn write_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()>;

    /// Like [`write_gathered`](Self::write_gathered), for bytes behind which nothing counts: what stood behind them
    /// may become zeros, up to the end of a block.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`] with the offset.
    fn append_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.write_gathered(bufs, offset)
    }

    /// Writes whole blocks past the page cache; a sync makes them durable, as with any other write. Memory (see
    /// [`AlignedBuf`](crate::AlignedBuf)), offset and length must be multiples of
    /// [`DIRECT_BLOCK`](crate::DIRECT_BLOCK). Not to be mixed with other writes to the file that are not synced yet:
    /// [`DirectFile`](crate::DirectFile) sees to that. After an error any part of it may be in the file.
    ///
    /// # Errors
    /// [`Error::Io`] where that is not possible, and as for any write.
    fn write_direct(&self, _blocks: &[u8], offset: u64) -> Result<()> {
        let unsupported = std::io::Error::from(std::io::ErrorKind::Unsupported);
        Err(Error::io(
            "write directly to",
            self.path(),
            Some(offset),
            unsupported,
        ))
    }

    /// The length in bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn len(&self) -> Result<u64>;

    /// Whether the file is empty.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Sets the length; growth reads as zeros.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`].
    fn truncate(&self, len: u64) -> Result<()>;

    /// Writes zeros over `start..end`, which lies behind the end of the file or touches it, so that later
    /// writes there change no metadata. (`fallocate` would leave unwritten extents, which do.)
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`].
    fn preallocate(&self, start: u64, end: u64) -> Result<()>;

    /// Makes everything written so far durable. All syncs of one open file run one at a time, because the
    /// kernel reports a failure to one caller only. Never retry a failed one.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn sync(&self, mode: SyncMode) -> Result<()>;

    /// Reads from the device where that is possible, past every cache.
    ///
    /// # Errors
    /// [`Error::Io`] with the offset.
    fn read_from_device(&self, buf: &mut [u8], offset: u64) -> Result<DeviceRead>;

    /// Forgets what is cached of the file's content, as far as nothing of that is still to be written: reads then show
    /// what the device holds. For when a device read and a cached one differ, as after a failed write: file systems
    /// may then keep showing, and even "sync", pages whose blocks were never written.
    ///
    /// It is advice, which the system need not follow; a device read tells. Nothing to do where nothing is cached.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn drop_cache(&self) -> Result<()> {
        Ok(())
    }

    /// Takes a lock, or answers `false` at once if somebody stands in the way. The lock belongs to this open
    /// file: it is released by [`unlock`](Self::unlock), by dropping the file, and by the death of the process.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn try_lock(&self, range: LockRange, kind: LockKind) -> Result<bool>;

    /// Releases a lock; one that is not held is no error.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn unlock(&self, range: LockRange) -> Result<()>;

    /// Who would stand in the way of a lock, or `None`.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn lock_holder(&self, range: LockRange, kind: LockKind) -> Result<Option<LockHolder>>;

    /// Like [`read_at`](Self::read_at), but the file must hold that many bytes.
    ///
    /// # Errors
    /// [`Error::Io`] also for a short read.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let read = self.read_at(buf, offset)?;
        whole(self.path(), buf.len(), read, offset)
    }

    /// Like [`read_from_device`](Self::read_from_device), but the file must hold that many bytes.
    ///
    /// # Errors
    /// As there; [`Error::Io`] also for a short read.
    fn read_exact_from_device(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let read = self.read_from_device(buf, offset)?;
        whole(self.path(), buf.len(), read.bytes, offset)
    }
}

fn whole(path: &Path, wanted: usize, read: usize, offset: u64) -> Result<()> {
    if read == wanted {
        return Ok(());
    }
    let end = std::io::Error::new(
        std::io::ErrorKind::UnexpectedEof,
        format!("the file ends {} bytes early", wanted - read),
    );
    Err(Error::io("read", path, Some(offset), end))
}
