//! The exclusive lock on a database, which real sqlite3 processes respect.
//!
//! Write locks on SQLite's PENDING byte and SHARED range keep every sqlite3 from reading, writing and
//! checkpointing: it gets SQLITE_BUSY. They are OFD locks, which belong to the open file: they hold against
//! an SQLite in the same process, and closing another descriptor of the file does not drop them.

use crate::companion::CompanionState;
use crate::files::FileSet;
use std::fs;
use walmend_types::{Error, Result};
use walmend_vfs::{LockKind, LockRange, Vfs, VfsFile};

const RANGES: [LockRange; 2] = [LockRange::PENDING, LockRange::SHARED];

/// Takes the exclusive lock, or says who stands in the way. It is released when the file is dropped, by
/// [`unlock_exclusive`], or by the death of the process.
///
/// # Errors
/// [`Error::Locked`] naming the holder, I/O errors.
pub fn lock_exclusive(vfs: &dyn Vfs, files: &FileSet, db: &dyn VfsFile) -> Result<()> {
    for range in RANGES {
        if !db.try_lock(range, LockKind::Exclusive)? {
            let holder = exclusive_holder(vfs, files, db)?;
            unlock_exclusive(db)?;
            let holder = holder.unwrap_or_else(|| "somebody who has just left".into());
            return Err(Error::Locked {
                path: files.db.clone(),
                holder,
            });
        }
    }
    Ok(())
}

/// Releases the exclusive lock.
///
/// # Errors
/// I/O errors.
pub fn unlock_exclusive(db: &dyn VfsFile) -> Result<()> {
    RANGES.into_iter().try_for_each(|range| db.unlock(range))
}

/// Who has the database open, in words; `None` if nobody does. Takes no lock.
///
/// # Errors
/// I/O errors.
pub fn exclusive_holder(vfs: &dyn Vfs, files: &FileSet, db: &dyn VfsFile) -> Result<Option<String>> {
    for range in RANGES {
        match db.lock_holder(range, LockKind::Exclusive)? {
            None => {}
            Some(holder) => {
                return Ok(Some(match holder.pid {
                    Some(pid) => format!("{} (an SQLite connection)", process(pid)),
                    None => store(vfs, files)?,
                }));
            }
        }
    }
    Ok(None)
}

/// Whether a walmend store has the database open, here or in another process.
///
/// # Errors
/// I/O errors.
pub fn store_is_live(db: &dyn VfsFile) -> Result<bool> {
    // Only a store holds these exclusively, with a lock that belongs to no process.
    let holder = db.lock_holder(LockRange::SHARED, LockKind::Shared)?;
    Ok(holder.is_some_and(|holder| holder.pid.is_none()))
}

fn store(vfs: &dyn Vfs, files: &FileSet) -> Result<String> {
    let owner = CompanionState::read(vfs, &files.meta)?.and_then(|state| state.owner);
    Ok(
        match owner.filter(|owner| owner.pid != 0 && owner.boot_id == vfs.boot_id()) {
            Some(owner) => format!("a walmend store in {}", process(owner.pid)),
            None => "a walmend store".into(),
        },
    )
}

fn process(pid: u32) -> String {
    if pid == 0 {
        return "a process of another PID namespace".into();
    }
    if pid == std::process::id() {
        return format!("this process ({pid})");
    }
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim_end()),
        Err(_) => format!("process {pid}"),
    }
}
