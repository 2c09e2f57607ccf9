//! Where the bodies are: in the rows of a real SQLite database, one to a page, or in pages of no format.

use rusqlite::Connection;
use std::path::Path;
use walmend_proof::power::{Body, Found, Groups};

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Bytes of a row's body. Two of them do not fit into a page, so that each row has a page of its own, and ends with it.
const ROW: usize = 3900;
/// First byte of a leaf of a table.
const LEAF: u8 = 13;

/// What the pages of the database are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    /// A table `t(id, body)`.
    Sqlite,
    /// Bodies and nothing else, from page 2 on.
    Raw,
}

/// Makes the SQLite database with every row at version 0.
pub(crate) fn make(path: &Path, groups: Groups) -> rusqlite::Result<()> {
    let connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB);",
    )?;
    let mut row = vec![0; ROW];
    for id in 0..groups.len() {
        Body { id, version: 0 }.fill(&mut row);
        connection.execute("INSERT INTO t VALUES (?1, ?2)", (id, &row))?;
    }
    connection.close().map_err(|(_, error)| error)
}

/// The page of a body that is in no SQLite database.
pub(crate) fn raw_page(id: u32) -> u32 {
    id + 2
}

/// The body that this page is for, and what became of it; `None` for a page that is for none.
pub(crate) fn body(pages: Pages, number: u32, page: &[u8]) -> Option<(u32, Found)> {
    let (id, bytes) = match pages {
        Pages::Raw => (number.checked_sub(raw_page(0))?, page),
        Pages::Sqlite => {
            let bytes = page.get(page.len().checked_sub(ROW)?..)?;
            let one_row = page[0] == LEAF && page[3..5] == [0, 1];
            let id = u64::from_le_bytes(bytes[..8].try_into().ok()?);
            (u32::try_from(id).ok().filter(|_| one_row)?, bytes)
        }
    };
    Some((id, found(bytes)))
}

/// What these bytes are.
pub(crate) fn found(bytes: &[u8]) -> Found {
    match Body::read(bytes) {
        Some(body) => Found::Whole(body),
        None if bytes.iter().all(|byte| *byte == 0) => Found::Nothing,
        None => Found::Rubbish,
    }
}

/// The row's bytes at this version.
pub(crate) fn row(body: Body) -> Vec<u8> {
    let mut row = vec![0; ROW];
    body.fill(&mut row);
    row
}

/// `page` with this body in it.
pub(crate) fn with_body(pages: Pages, mut page: Vec<u8>, body: Body) -> Vec<u8> {
    let start = match pages {
        Pages::Raw => 0,
        Pages::Sqlite => page.len() - ROW,
    };
    body.fill(&mut page[start..]);
    page
}
