//! Files as a durable log needs them.
//!
//! [`Vfs`] opens files by path, [`VfsFile`] is one open file: positional and gathered I/O, two kinds of sync
//! kept apart, locks that SQLite respects, and a way to read past the page cache. [`UnixVfs`] is the real
//! one; [`MemoryVfs`] keeps everything in memory, for tests; with the feature `sim`, `sim::SimVfs` is a disk
//! with a volatile cache that can lose power, fail a sync, or run full.
//!
//! ```
//! use std::path::Path;
//! use walmend_vfs::{MemoryVfs, OpenFlags, SyncMode, Vfs};
//!
//! let vfs = MemoryVfs::new();
//! let file = vfs.open(Path::new("a.db"), OpenFlags::CREATE)?;
//! file.write_at(b"hello", 0)?;
//! file.sync(SyncMode::Data)?;
//! let mut bytes = [0; 8];
//! assert_eq!(file.read_at(&mut bytes, 0)?, 5); // short only at the end of the file
//! # Ok::<(), walmend_vfs::Error>(())
//! ```

mod aligned;
mod api;
mod checks;
mod direct;
mod locks;
mod memory;
mod names;
mod random;
#[cfg(feature = "sim")]
pub mod sim;
mod unix;

pub use aligned::{AlignedBuf, DIRECT_BLOCK};
pub use api::{
    DeviceRead, DirectWrites, FileInfo, LockHolder, LockKind, LockRange, OpenFlags, ReadSource, Vfs, VfsFile,
};
pub use direct::DirectFile;
pub use memory::MemoryVfs;
pub use random::Random;
pub use unix::UnixVfs;
pub use walmend_types::{Error, ErrorKind, Result, SyncMode};

/// Runs the README's example as a test.
#[cfg(all(doctest, feature = "sim"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// What other threads may use: the build fails where that stops being true.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<UnixVfs>();
    shared::<MemoryVfs>();
    shared::<std::sync::Arc<dyn Vfs>>();
    shared::<std::sync::Arc<dyn VfsFile>>();
};
