//! The names of the files that belong together.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

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
}

/// `path` with `suffix` behind its last byte, as SQLite names the files beside a database.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
