//! Descriptors of database files that have to stay open for the sake of an SQLite connection.
//!
//! Closing any descriptor of a file drops every POSIX lock that this process has on the file. So where an SQLite
//! connection of the same process has the database open, because it kept a store out or came after one, the
//! store must not close its descriptor: the connection would go on without its lock, and others would get in. SQLite has the same trouble with its
//! own connections, and the same way out (`unixInodeInfo.pUnused`): the descriptor is set aside, and whoever
//! opens the file next uses it. There are never more of them than there were attempts at the same time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use walmend_sync::Mutex;
use walmend_types::{Error, Result};
use walmend_vfs::{LockKind, LockRange, OpenFlags, Vfs, VfsFile};

/// An open database file.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) file: Arc<dyn VfsFile>,
    write: bool,
    /// Tells the file from another one that takes its name later, or has it elsewhere.
    place: (String, PathBuf, u64),
}

static SET_ASIDE: Mutex<Vec<Opened>> = Mutex::new(Vec::new());

impl Opened {
    /// Opens a database file, with a descriptor that was set aside if there is one.
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path, flags: OpenFlags) -> Result<Self> {
        if let Some(place) = place(vfs, path)? {
            let mut aside = SET_ASIDE.lock();
            let fits = |kept: &Self| kept.place == place && (kept.write || !flags.write);
            if let Some(found) = aside.iter().position(fits) {
                return Ok(aside.swap_remove(found));
            }
        }
        let file = vfs.open(path, flags)?;
        Ok(Self {
            file,
            write: flags.write,
            place: place(vfs, path)?.unwrap_or_default(),
        })
    }

    /// Whether the file may be written to.
    pub(crate) fn is_writable(&self) -> bool {
        self.write
    }

    /// Whether the name still leads to this file. Between opening and locking, another opener may have removed
    /// what it had created and could not complete, or the file may have been replaced.
    pub(crate) fn check_still_there(&self, vfs: &dyn Vfs, path: &Path) -> Result<()> {
        if place(vfs, path)?.as_ref() == Some(&self.place) {
            return Ok(());
        }
        Err(Error::Locked {
            path: path.to_path_buf(),
            holder: "another program, which replaced the file in this very moment".into(),
        })
    }

    /// Sets the descriptor aside if an SQLite connection has the database open, so that dropping `self` does
    /// not close it. The caller holds no lock of its own any more.
    pub(crate) fn close(&self) -> Result<()> {
        // The system names one holder only: with several, one of this process may be among them.
        let holder = self.file.lock_holder(LockRange::SHARED, LockKind::Exclusive)?;
        if holder.is_some_and(|holder| holder.pid.is_some()) {
            SET_ASIDE.lock().push(self.clone());
        }
        Ok(())
    }
}

fn place(vfs: &dyn Vfs, path: &Path) -> Result<Option<(String, PathBuf, u64)>> {
    match vfs.info(path)? {
        Some(info) if info.regular => Ok(Some((vfs.boot_id(), vfs.canonical(path)?, info.inode))),
        _ => Ok(None),
    }
}
