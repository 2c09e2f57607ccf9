//! The first page of a new database file. It is synced before the first frame of the log: sqlite3 deletes
//! the log of an empty file.

use crate::identify::{MARKER_MAGIC, SQLITE_MAGIC};
use crate::options::Pages;
use walmend_types::{PageSize, Result, SyncMode};
use walmend_vfs::VfsFile;

/// What says of which kind a file is lies in its first sector, which is written whole or not at all.
const SECTOR: usize = 512;

/// Writes the first page of a new database, durably: first the sector that says what the file is, then the
/// rest, which is zeros. In one go, a power loss could leave the rest without the beginning, and nobody would
/// know that file.
pub(crate) fn write_first_page(file: &dyn VfsFile, pages: Pages, page_size: PageSize) -> Result<()> {
    file.write_at(&first_page(pages, page_size)[..SECTOR], 0)?;
    file.sync(SyncMode::Full)?;
    complete_first_page(file, pages, page_size)
}

/// Goes on where a power loss stopped the creation of a database. Any other file is left alone.
pub(crate) fn complete_first_page(file: &dyn VfsFile, pages: Pages, page_size: PageSize) -> Result<()> {
    if file.len()? != SECTOR as u64 || page_size.as_usize() == SECTOR {
        return Ok(());
    }
    let mut found = [0; SECTOR];
    file.read_exact_at(&mut found, 0)?;
    if found[..] != first_page(pages, page_size)[..SECTOR] {
        return Ok(());
    }
    file.truncate(page_size.get().into())?;
    file.sync(SyncMode::Full)
}

/// What a new database file starts with: one page.
pub(crate) fn first_page(pages: Pages, page_size: PageSize) -> Vec<u8> {
    match pages {
        Pages::Raw => marker(page_size),
        Pages::Sqlite => empty_sqlite(page_size),
    }
}

/// The marker page of a Raw database, until the engine writes a page 1 of its own.
///
/// A connection of sqlite3 looks at the log before it looks at page 1, with the page size that it finds at
/// offset 16, whatever the file is. Refused, it checkpoints and deletes a log of that page size as it closes.
/// So the marker holds another page size there than the log's: then sqlite3 leaves the log alone.
fn marker(page_size: PageSize) -> Vec<u8> {
    const TEXT: &[u8] = b"A walmend database with raw pages. It is not an SQLite database.\n";
    let mut page = vec![0; page_size.as_usize()];
    page[..16].copy_from_slice(MARKER_MAGIC);
    let decoy: u16 = if page_size == PageSize::MIN { 1024 } else { 512 };
    page[16..18].copy_from_slice(&decoy.to_be_bytes());
    page[20..24].copy_from_slice(&page_size.get().to_be_bytes());
    page[24..24 + TEXT.len()].copy_from_slice(TEXT);
    page
}

/// An SQLite database without a table: the header (file format description, section 1.3), and an empty leaf
/// for the schema (section 1.6).
fn empty_sqlite(page_size: PageSize) -> Vec<u8> {
    let mut page = vec![0; page_size.as_usize()];
    page[..16].copy_from_slice(SQLITE_MAGIC);
    // 65536 does not fit into the field: 1 stands for it here, 0 in the leaf.
    let stored = u16::try_from(page_size.get());
    page[16..18].copy_from_slice(&stored.unwrap_or(1).to_be_bytes());
    // WAL mode, no reserved bytes, and the three payload fractions, which are fixed.
    page[18..24].copy_from_slice(&[2, 2, 0, 64, 32, 32]);
    for (at, value) in [(24, 1u32), (28, 1), (44, 4), (56, 1), (92, 1), (96, 3_045_000)] {
        page[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    page[100] = 0x0d;
    page[105..107].copy_from_slice(&stored.unwrap_or(0).to_be_bytes());
    page
}
