//! What the pages hold: the number of the transaction that wrote them last, and bytes that follow from it.
//!
//! A *cell* is what a transaction writes as a whole. In a raw database it is a page. In an SQLite database it is the
//! one row of a leaf page; the rest of the page stays as SQLite made it, so that the database is sound whatever
//! walmend does with its pages, and SQLite itself can read the cells.

use rusqlite::Connection;
use std::path::Path;
use walmend_proof::Random;

/// Stands before the number, so that bytes that were never a cell are not taken for one.
const MARK: [u8; 8] = *b"tortured";
/// Mark and number.
const HEAD: usize = 16;

/// How the cells of one database are laid out.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Bytes of a page.
    pub(crate) page_size: usize,
    /// The page of each cell, and the bytes around the cell in it; a raw page is nothing but the cell.
    cells: Vec<Place>,
}

#[derive(Debug, Clone)]
struct Place {
    page: u32,
    /// The page as SQLite made it, and where the cell begins in it.
    frame: Option<(Vec<u8>, usize)>,
    len: usize,
}

impl Layout {
    /// A raw database: cell `n` is page `n + 2`.
    pub(crate) fn raw(page_size: usize, cells: u32) -> Self {
        let place = |cell| Place {
            page: cell + 2,
            frame: None,
            len: page_size,
        };
        Self {
            page_size,
            cells: (0..cells).map(place).collect(),
        }
    }

    /// The SQLite database in this file, as [`template`] made it.
    pub(crate) fn sqlite(template: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(template).map_err(|error| format!("{}: {error}", template.display()))?;
        let page_size = match bytes.get(16..18) {
            Some([0, 1]) => 65536,
            Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
            _ => return Err("the template is no database".into()),
        };
        let mut cells: Vec<(u64, Place)> = Vec::new();
        for (number, page) in (1..).zip(bytes.chunks_exact(page_size)) {
            // A leaf of a table, whose one row ends the page. Others may hold what is left of a row.
            let at = page_size - blob_len(page_size);
            let leaf = page[0] == 13 && page[3..5] == [0, 1];
            let Some(cell) = head(&page[at..]).filter(|_| leaf).map(u64::from_be_bytes) else {
                continue;
            };
            let place = Place {
                page: number,
                frame: Some((page.to_vec(), at)),
                len: blob_len(page_size),
            };
            cells.push((cell, place));
        }
        cells.sort_by_key(|(cell, _)| *cell);
        if cells.iter().enumerate().any(|(at, (cell, _))| at as u64 != *cell) {
            return Err("the rows of the template are not one to a page".into());
        }
        Ok(Self {
            page_size,
            cells: cells.into_iter().map(|(_, place)| place).collect(),
        })
    }

    /// How many cells there are.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.cells.len()).unwrap_or(u32::MAX)
    }

    /// The page that holds a cell.
    pub(crate) fn page(&self, cell: u32) -> u32 {
        self.cells[cell as usize].page
    }

    /// The whole page of a cell as a transaction writes it.
    pub(crate) fn image(&self, cell: u32, txn: u64) -> Vec<u8> {
        let place = &self.cells[cell as usize];
        match &place.frame {
            None => content(cell, txn, place.len),
            Some((page, at)) => {
                let mut page = page.clone();
                page[*at..*at + place.len].copy_from_slice(&content(cell, txn, place.len));
                page
            }
        }
    }

    /// The transaction that wrote this page of a cell; `None` if none ever did.
    ///
    /// # Errors
    /// What is wrong, if no transaction wrote it like this.
    pub(crate) fn txn(&self, cell: u32, page: &[u8]) -> Result<Option<u64>, String> {
        let place = &self.cells[cell as usize];
        let untouched = match &place.frame {
            None => page.iter().all(|byte| *byte == 0),
            Some((untouched, _)) => page == untouched,
        };
        if untouched {
            return Ok(None);
        }
        let at = place.frame.as_ref().map_or(0, |(_, at)| *at);
        let txn = page.get(at..).and_then(head).map(u64::from_be_bytes);
        let txn = txn.ok_or_else(|| format!("page {} holds no transaction", place.page))?;
        if self.image(cell, txn) != page {
            return Err(format!(
                "page {} says that transaction {txn} wrote it, and holds something else",
                place.page
            ));
        }
        Ok(Some(txn))
    }

    /// The transaction that wrote this row of a cell.
    ///
    /// # Errors
    /// What is wrong, if no transaction wrote it like this.
    pub(crate) fn txn_of_row(&self, cell: u32, row: &[u8]) -> Result<Option<u64>, String> {
        let place = &self.cells[cell as usize];
        let untouched = |(page, at): &(Vec<u8>, usize)| page[*at..*at + place.len] == *row;
        if place.frame.as_ref().is_some_and(untouched) {
            return Ok(None);
        }
        let txn = head(row).map(u64::from_be_bytes);
        let txn = txn.ok_or_else(|| format!("row {cell} holds no transaction"))?;
        if content(cell, txn, place.len) != row {
            return Err(format!(
                "row {cell} says that transaction {txn} wrote it, and holds something else"
            ));
        }
        Ok(Some(txn))
    }
}

/// The number behind the mark.
fn head(bytes: &[u8]) -> Option<[u8; 8]> {
    let head = bytes.get(..HEAD)?;
    (head[..8] == MARK).then(|| head[8..].try_into().ok())?
}

/// Bytes that no other cell and no other transaction has.
fn content(cell: u32, txn: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(&MARK);
    bytes.extend_from_slice(&txn.to_be_bytes());
    let mut random = Random(txn.wrapping_mul(0x9e37_79b9).wrapping_add(u64::from(cell)) ^ 0x746f_7274);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_be_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// More than half a page, so that no two rows share one, and less than spills over.
fn blob_len(page_size: usize) -> usize {
    page_size * 3 / 4
}

/// Makes an SQLite database in WAL mode: a table `t` of `cells` rows, each on a page of its own, whose blobs are of
/// transaction `cell`, which is how [`Layout::sqlite`] finds them; and a table `s` with one number, for others to
/// write.
pub(crate) fn template(path: &Path, page_size: usize, cells: u32) -> rusqlite::Result<()> {
    let connection = Connection::open(path)?;
    connection.execute_batch(&format!(
        "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB); \
         CREATE TABLE s(n INTEGER); INSERT INTO s VALUES (0); BEGIN"
    ))?;
    for cell in 0..cells {
        let blob = content(u32::MAX - cell, cell.into(), blob_len(page_size));
        connection.execute("INSERT INTO t VALUES (?1, ?2)", (cell, blob))?;
    }
    connection.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_who_wrote_it_and_a_changed_bit_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        template(&path, 4096, 40).unwrap();
        for layout in [Layout::raw(4096, 40), Layout::sqlite(&path).unwrap()] {
            assert_eq!(layout.len(), 40);
            let page = layout.image(7, 99);
            assert_eq!(layout.txn(7, &page), Ok(Some(99)));
            assert!(layout.txn(8, &page).is_err());
            for at in [0, 20, 2000, 4095] {
                let mut page = page.clone();
                page[at] ^= 1;
                assert!(layout.txn(7, &page).is_err(), "{at}");
            }
        }
        assert_eq!(Layout::raw(4096, 1).txn(0, &[0; 4096]), Ok(None));
    }

    #[test]
    fn sqlite_reads_the_cells_that_were_written_as_pages() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        template(&path, 1024, 20).unwrap();
        let layout = Layout::sqlite(&path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = (layout.page(3) as usize - 1) * 1024;
        bytes[at..at + 1024].copy_from_slice(&layout.image(3, 5));
        std::fs::write(&path, bytes).unwrap();
        let connection = Connection::open(&path).unwrap();
        let row = |id: u32| -> Vec<u8> {
            let query = "SELECT v FROM t WHERE id = ?1";
            connection.query_row(query, [id], |row| row.get(0)).unwrap()
        };
        assert_eq!(layout.txn_of_row(3, &row(3)), Ok(Some(5)));
        assert_eq!(layout.txn_of_row(4, &row(4)), Ok(None));
        let check: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
    }
}
