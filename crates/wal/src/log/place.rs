//! Whether an open file still has the name that it was opened by.
//!
//! Files are written by descriptor, so another file that takes the name is never overwritten. But a log may only be
//! reset when its pages are in the file that the next opening finds.

use std::path::{Path, PathBuf};
use walmend_types::{Error, Result};
use walmend_vfs::Vfs;

/// The name of an open file, and the file that it led to.
#[derive(Debug)]
pub(super) struct Place {
    /// Absolute: a process may change its directory.
    path: PathBuf,
    /// Numbers are not used again while the file is open.
    inode: u64,
}

impl Place {
    /// Of the file that has this name now. The caller has it open.
    ///
    /// # Errors
    /// [`Error::NotFound`], I/O errors.
    pub(super) fn of(vfs: &dyn Vfs, path: &Path) -> Result<Self> {
        let path = vfs.canonical(path)?;
        let Some(info) = vfs.info(&path)? else {
            return Err(Error::NotFound { path });
        };
        let inode = info.inode;
        Ok(Self { path, inode })
    }

    /// `Ok` while the name leads to that file.
    ///
    /// # Errors
    /// [`Error::Moved`], with `so` for what follows from it; I/O errors.
    pub(super) fn check(&self, vfs: &dyn Vfs, so: &str) -> Result<()> {
        let now = match vfs.info(&self.path)? {
            Some(info) if info.inode == self.inode => return Ok(()),
            Some(_) => "another file has its name now",
            None => "no file has its name now",
        };
        Err(Error::Moved {
            path: self.path.clone(),
            detail: format!("{now}; {so}"),
        })
    }
}
