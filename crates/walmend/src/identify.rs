//! What kind of database a file is, told without changing anything.

use crate::descriptors::Opened;
use crate::options::Pages;
use std::path::{Path, PathBuf};
use walmend_types::{Error, PageSize, Result};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::{CompanionState, FileSet, PageKind, with_suffix};

/// The first bytes of every SQLite database.
pub(crate) const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The first bytes of a Raw database until the engine writes a page 1 of its own.
pub(crate) const MARKER_MAGIC: &[u8; 16] = b"walmend raw v1\0\0";

/// What a database file is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Raw or SQLite pages.
    pub pages: Pages,
    /// Bytes of a page.
    pub page_size: PageSize,
    /// Size of the database *file* in pages; a log may say otherwise.
    pub db_pages: u32,
}

impl Identity {
    /// What is known of a database from elsewhere: of one whose first page is damaged.
    pub fn known(path: PathBuf, bytes: u64, pages: Pages, page_size: PageSize, db_pages: u32) -> Self {
        Self {
            path,
            bytes,
            pages,
            page_size,
            db_pages,
        }
    }
}

/// Tells what the database at `path` is. Reads the file's first page and the companion; takes no lock.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::NotADatabase`] for a directory, an empty or truncated file, a file of
/// another kind, or an SQLite database whose rollback journal has to be played back first; I/O errors.
pub fn identify(vfs: &dyn Vfs, path: &Path) -> Result<Identity> {
    // Before the link is followed, so that a missing file is named as it was given.
    let opened = Opened::open(vfs, path, OpenFlags::READ)?;
    let files = FileSet::resolve(vfs, path)?;
    let identity = identify_file(vfs, &files.db, &*opened.file, None);
    opened.close()?;
    identity
}

/// Like [`identify`], on an open file. `page_size` is what the caller says of a Raw database that has lost
/// its companion.
pub(crate) fn identify_file(
    vfs: &dyn Vfs,
    path: &Path,
    file: &dyn VfsFile,
    page_size: Option<PageSize>,
) -> Result<Identity> {
    let bytes = file.len()?;
    let mut head = [0; 100];
    let read = file.read_at(&mut head, 0)?;
    let not = |detail: String| Error::NotADatabase {
        path: path.to_path_buf(),
        detail,
    };
    if read == 0 {
        return Err(not("the file is empty".into()));
    }
    let files = FileSet::of(path);
    if head.starts_with(SQLITE_MAGIC) {
        if read < head.len() {
            return Err(not(format!("its header ends after {read} bytes, expected 100")));
        }
        refuse_hot_journal(vfs, path)?;
        return sqlite(path, bytes, &head);
    }
    let record = CompanionState::read(vfs, &files.meta)?.and_then(|state| state.generation);
    let recorded = record
        .filter(|record| record.kind == PageKind::Raw)
        .and_then(|record| PageSize::new(record.page_size).ok());
    if head.starts_with(MARKER_MAGIC) {
        let bytes_of_page = u32::from_be_bytes([head[20], head[21], head[22], head[23]]);
        let page_size = PageSize::new(bytes_of_page).map_err(|error| not(error.to_string()))?;
        if let Some(other) = recorded.filter(|recorded| *recorded != page_size) {
            return Err(not(format!(
                "it says that its pages have {page_size} bytes, but {} speaks of pages of {other}: it belongs to \
                 another database, move it away",
                files.meta.display()
            )));
        }
        return raw(path, file, bytes, page_size);
    }
    match recorded.or(page_size) {
        Some(page_size) if recorded.is_some() || bytes % u64::from(page_size.get()) == 0 => {
            raw(path, file, bytes, page_size)
        }
        _ => Err(not(format!(
            "it starts with neither an SQLite header nor walmend's marker, and {} says nothing of it",
            files.meta.display()
        ))),
    }
}

fn sqlite(path: &Path, bytes: u64, head: &[u8; 100]) -> Result<Identity> {
    let not = |detail: String| Error::NotADatabase {
        path: path.to_path_buf(),
        detail,
    };
    let page_size = match u16::from_be_bytes([head[16], head[17]]) {
        1 => PageSize::MAX,
        stored => PageSize::new(stored.into()).map_err(|_| {
            not(format!(
                "page size {stored} at offset 16, expected a power of two from 512 to 65536"
            ))
        })?,
    };
    let field = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let by_length = pages_in(bytes, page_size)?;
    // The size in the header counts only if the last writer kept it up (file format description, 1.3.7).
    let kept_up = field(24) == field(92) && field(28) != 0;
    let db_pages = if kept_up { field(28) } else { by_length };
    Ok(Identity {
        path: path.to_path_buf(),
        bytes,
        pages: Pages::Sqlite,
        page_size,
        db_pages,
    })
}

fn raw(path: &Path, file: &dyn VfsFile, bytes: u64, page_size: PageSize) -> Result<Identity> {
    let mut db_pages = pages_in(bytes, page_size)?;
    if db_pages == 1 {
        let mut head = [0; MARKER_MAGIC.len()];
        let read = file.read_at(&mut head, 0)?;
        if read == head.len() && head == *MARKER_MAGIC {
            db_pages = 0;
        }
    }
    Ok(Identity {
        path: path.to_path_buf(),
        bytes,
        pages: Pages::Raw,
        page_size,
        db_pages,
    })
}

fn pages_in(bytes: u64, page_size: PageSize) -> Result<u32> {
    u32::try_from(bytes.div_ceil(page_size.get().into())).map_err(|_| Error::OutOfRange {
        what: "database size",
        value: bytes,
        expected: "at most 2^32 - 1 pages".into(),
    })
}

/// A rollback journal with a header holds the true content of some pages: only sqlite3 plays it back.
fn refuse_hot_journal(vfs: &dyn Vfs, path: &Path) -> Result<()> {
    const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let journal = with_suffix(path, "-journal");
    let file = match vfs.open(&journal, OpenFlags::READ) {
        Ok(file) => file,
        Err(Error::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut head = [0; JOURNAL_MAGIC.len()];
    if file.read_at(&mut head, 0)? == head.len() && head == JOURNAL_MAGIC {
        return Err(Error::NotADatabase {
            path: path.to_path_buf(),
            detail: format!(
                "{} holds an unfinished transaction: open the database once with sqlite3, which rolls it back",
                journal.display()
            ),
        });
    }
    Ok(())
}
