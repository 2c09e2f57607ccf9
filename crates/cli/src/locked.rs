//! How the commands that change files begin: with the database to themselves.

use crate::database::identify_protected;
use std::path::Path;
use std::sync::Arc;
use walmend::{Identity, identify};
use walmend_error::Result;
use walmend_vfs::{OpenFlags, UnixVfs, Vfs, VfsFile};
use walmend_wal::{FileSet, lock_exclusive};

/// A database that nobody else has open, for as long as this lives.
pub(crate) struct Locked {
    pub(crate) vfs: UnixVfs,
    pub(crate) db: Arc<dyn VfsFile>,
    pub(crate) files: FileSet,
    pub(crate) identity: Identity,
}

impl Locked {
    /// Takes the exclusive lock, and then looks at what the file is.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, |vfs| identify(vfs, path))
    }

    /// Like [`open`](Self::open), also for a database of which the first page is damaged.
    pub(crate) fn open_protected(path: &Path) -> Result<Self> {
        Self::open_as(path, |vfs| identify_protected(vfs, path))
    }

    fn open_as(path: &Path, identify: impl FnOnce(&UnixVfs) -> Result<Identity>) -> Result<Self> {
        let vfs = UnixVfs::new();
        let db = vfs.open(path, OpenFlags::WRITE)?;
        let files = FileSet::resolve(&vfs, path)?;
        lock_exclusive(&vfs, &files, &*db)?;
        let identity = identify(&vfs)?;
        Ok(Self {
            vfs,
            db,
            files,
            identity,
        })
    }
}
