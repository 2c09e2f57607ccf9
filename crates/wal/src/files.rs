//! The names of the files that belong together.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use walmend_types::Result;
use walmend_vfs::Vfs;

/// A database, its log, and the log's companion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSet {
    /// The main file.
    pub db: PathBuf,
    /// `<db>-wal`.
    pub wal: PathBuf,
    /// `<db>-wal-meta`.
    pub meta: PathBuf,
}

impl FileSet {
    /// The files of the database at `db`.
    pub fn of(db: &Path) -> Self {
        Self {
            db: db.to_path_buf(),
            wal: with_suffix(db, "-wal"),
            meta: with_suffix(db, "-wal-meta"),
        }
    }

    /// The files of the database that `path` leads to. The log of a database lies beside the file itself, not
    /// beside a symbolic link to it: sqlite3 follows links before it names the log. Any other path is kept as
    /// it was given.
    ///
    /// # Errors
    /// [`Error::NotFound`](walmend_types::Error::NotFound), I/O errors.
    pub fn resolve(vfs: &dyn Vfs, path: &Path) -> Result<Self> {
        let real = vfs.canonical(path)?;
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Ok(Self::of(path)),
        };
        let (Ok(parent), Some(name)) = (vfs.canonical(parent), path.file_name()) else {
            return Ok(Self::of(&real));
        };
        Ok(Self::of(if parent.join(name) == real { path } else { &real }))
    }
}

/// What the name of the log's parity ends in. The file belongs to a layer above; a log that is cut takes it out of the
/// way.
pub const SIDECAR_SUFFIX: &str = "-wal-fec";

/// `path` with `suffix` behind its last byte, as SQLite names the files beside a database.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
