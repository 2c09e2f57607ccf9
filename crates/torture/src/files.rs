//! What files hold, read without walmend: by SQLite's rule of what counts in a log, and by SQLite itself.

use crate::content::Layout;
use crate::protocol::StoreTask;
use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use walmend_vfs::sim::Cells;

/// The files of a database, by what stands behind its name.
pub(crate) const SUFFIXES: [&str; 5] = ["", "-wal", "-wal-meta", "-wal-fec", "-fec"];

/// `path` with `suffix` behind it.
pub(crate) fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl StoreTask {
    /// # Errors
    /// I/O errors of reading the template.
    pub(crate) fn layout(&self) -> Result<Layout, String> {
        match &self.template {
            Some(template) => Layout::sqlite(template),
            None => Ok(Layout::raw(self.page_size as usize, self.cells)),
        }
    }
}

/// A file's bytes; none if it is not there.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|error| format!("{}: {error}", path.display())),
    }
}

/// The cells of a database that nobody has open: its file, with what counts of its log over it.
///
/// # Errors
/// A page that no transaction wrote like this; I/O errors.
pub(crate) fn cells(path: &Path, layout: &Layout) -> Result<Cells, String> {
    let mut bytes = read(path)?;
    let log = read(&with(path, "-wal"))?;
    if let Some(prefix) = walmend_proof::naive::prefix(&log).filter(|prefix| prefix.committed > 0) {
        if prefix.page_size != layout.page_size {
            return Err(format!("the log has pages of {} bytes", prefix.page_size));
        }
        bytes.resize(prefix.db_pages as usize * prefix.page_size, 0);
        let frames = log[32..].chunks_exact(24 + prefix.page_size);
        for frame in frames.take(prefix.committed as usize) {
            let page = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
            if let Some(place) = bytes.get_mut((page - 1) * prefix.page_size..page * prefix.page_size) {
                place.copy_from_slice(&frame[24..]);
            }
        }
    }
    let mut cells = Cells::new();
    for cell in 0..layout.len() {
        let at = (layout.page(cell) as usize - 1) * layout.page_size;
        let page = bytes.get(at..at + layout.page_size).unwrap_or_default();
        // A raw database grows as it is written.
        if page.is_empty() {
            continue;
        }
        if let Some(txn) = layout.txn(cell, page)? {
            cells.insert(cell.into(), txn);
        }
    }
    Ok(cells)
}

/// The answer to an integrity check, the rows, and the number in `s`.
type Answer = (String, Vec<(u32, Vec<u8>)>, u64);

/// What SQLite makes of a copy of database and log: that it is sound, its cells, and the number in `s`.
///
/// # Errors
/// What SQLite finds wrong.
pub(crate) fn ask_sqlite(path: &Path, layout: &Layout, scratch: &Path) -> Result<(Cells, u64), String> {
    let copy = scratch.join("asked.db");
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(with(&copy, suffix));
    }
    for suffix in ["", "-wal"] {
        let from = with(path, suffix);
        if from.exists() {
            fs::copy(&from, with(&copy, suffix)).map_err(|error| format!("{}: {error}", from.display()))?;
        }
    }
    let answer = || -> rusqlite::Result<Answer> {
        let connection = Connection::open(&copy)?;
        let sound = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        let mut query = connection.prepare("SELECT id, v FROM t")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows = rows.collect::<rusqlite::Result<_>>()?;
        let number = connection.query_row("SELECT n FROM s", [], |row| row.get(0).map(i64::cast_unsigned))?;
        Ok((sound, rows, number))
    };
    let (sound, rows, number) = answer().map_err(|error| format!("SQLite: {error}"))?;
    if sound != "ok" {
        return Err(format!("SQLite's integrity check: {sound}"));
    }
    let mut cells = Cells::new();
    for (cell, row) in rows {
        if let Some(txn) = layout.txn_of_row(cell, &row)? {
            cells.insert(cell.into(), txn);
        }
    }
    Ok((cells, number))
}

/// Looks at a database that nobody has open in every way there is; answers what it holds, and the number in `s`.
///
/// # Errors
/// What is wrong, or where the ways disagree.
pub(crate) fn examine(task: &StoreTask, path: &Path, scratch: &Path) -> Result<(Cells, Option<u64>), String> {
    let layout = task.layout()?;
    let cells = cells(path, &layout)?;
    if task.template.is_none() {
        return Ok((cells, None));
    }
    let (seen, number) = ask_sqlite(path, &layout, scratch)?;
    if seen != cells {
        let differ = seen.iter().find(|(cell, txn)| cells.get(cell) != Some(txn));
        return Err(format!("SQLite sees other cells than the files hold: {differ:?}"));
    }
    Ok((cells, Some(number)))
}
