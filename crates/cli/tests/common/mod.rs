//! What the tests of the binary share: running it, SQLite as the oracle, and a reader of logs that shares no
//! code with the one under test.

#![allow(
    dead_code,
    reason = "each test binary compiles this module and uses a part of it"
)]

use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// One run of the binary.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// The one JSON object on standard output.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks the exit code.
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }
}

/// Runs `walmend` with `args` and waits for its end.
pub(crate) fn walmend<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_walmend"))
        .args(args)
        .env_remove("WALMEND_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Run {
        code: output.status.code().expect("no signal ends it"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// `walmend <command> <database> --json <more>`.
pub(crate) fn on(command: &str, database: &Path, more: &[&str]) -> Run {
    let path = database.to_str().unwrap();
    walmend([&[command, path, "--json"], more].concat())
}

/// The content of every file in a folder, and of the folders in it.
pub(crate) fn contents(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
            all.insert(path, None);
        } else {
            let bytes = fs::read(&path).unwrap();
            all.insert(path, Some(bytes));
        }
    }
    all
}

/// The digests of the files in a folder, taken by another process: where this one has SQLite open, reading the
/// files here would drop SQLite's locks.
pub(crate) fn digests(folder: &Path) -> String {
    let output = Command::new("sh")
        .args(["-c", "sha256sum -- *"])
        .current_dir(folder)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// `path` with `suffix` behind it.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The log of a database.
pub(crate) fn wal_of(database: &Path) -> PathBuf {
    with_suffix(database, "-wal")
}

/// A new database in WAL mode that never checkpoints by itself, and syncs every commit.
pub(crate) fn new_database(path: &Path, page_size: u32) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "page_size", page_size).unwrap();
    connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))
        .unwrap();
    connection
        .pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))
        .unwrap();
    connection.pragma_update(None, "synchronous", "full").unwrap();
    connection
}

/// Copies a database and its log, as a crash would leave them.
pub(crate) fn copy(database: &Path, to: &Path) {
    fs::copy(database, to).unwrap();
    let wal = wal_of(database);
    if wal.exists() {
        fs::copy(wal, wal_of(to)).unwrap();
    }
}

/// A table `t` with one row per commit, copied as a crash would leave it: `commits` transactions in the log,
/// the one that made the table included.
pub(crate) fn crashed(folder: &TempDir, page_size: u32, commits: u32) -> PathBuf {
    let live = folder.path().join("live.db");
    let path = folder.path().join("crashed.db");
    let connection = new_database(&live, page_size);
    connection
        .execute_batch("create table t(id integer primary key, data blob)")
        .unwrap();
    for _ in 1..commits {
        connection
            .execute("insert into t(data) values (randomblob(900))", [])
            .unwrap();
    }
    copy(&live, &path);
    drop(connection);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(with_suffix(&live, suffix));
    }
    path
}

/// Puts the checksum into the header of a log whose checksums are little-endian.
pub(crate) fn seal_header(log: &mut [u8]) {
    let (mut first, mut second) = (0u32, 0u32);
    for pair in log[..24].chunks_exact(8) {
        let word = |at: usize| u32::from_le_bytes(pair[at..at + 4].try_into().unwrap());
        first = first.wrapping_add(word(0)).wrapping_add(second);
        second = second.wrapping_add(word(4)).wrapping_add(first);
    }
    log[24..28].copy_from_slice(&first.to_be_bytes());
    log[28..32].copy_from_slice(&second.to_be_bytes());
}

/// What SQLite's own recovery makes of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recovered {
    pub(crate) committed_frames: u64,
    pub(crate) db_pages: u64,
}

/// Opens a database with SQLite, which recovers it, and asks how far the log goes.
pub(crate) fn sqlite_recovers(database: &Path) -> Recovered {
    let connection = Connection::open(database).unwrap();
    let db_pages: i64 = connection
        .query_row("pragma page_count", [], |row| row.get(0))
        .unwrap();
    let committed_frames: i64 = connection
        .query_row("pragma wal_checkpoint(passive)", [], |row| row.get(1))
        .unwrap();
    Recovered {
        committed_frames: u64::try_from(committed_frames).unwrap_or(0),
        db_pages: u64::try_from(db_pages).unwrap(),
    }
}

/// Every row of every table, and what `integrity_check` says, in one text.
pub(crate) fn dump(database: &Path) -> String {
    let connection = Connection::open(database).unwrap();
    let mut text: String = connection
        .query_row("pragma integrity_check", [], |row| row.get(0))
        .unwrap();
    let tables: Vec<String> = connection
        .prepare("select name from sqlite_schema where type = 'table' order by name")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for table in tables {
        let mut statement = connection
            .prepare(&format!("select rowid, * from \"{table}\" order by rowid"))
            .unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                text.push_str(&format!("|{:?}", row.get_ref(column).unwrap()));
            }
            text.push('\n');
        }
    }
    text
}

/// How many rows table `t` has, as SQLite sees it.
pub(crate) fn rows(database: &Path) -> u64 {
    let connection = Connection::open(database).unwrap();
    let rows: i64 = connection
        .query_row("select count(*) from t", [], |row| row.get(0))
        .unwrap();
    u64::try_from(rows).unwrap()
}

fn field(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Commit frames among the first `frames` frames of a log.
pub(crate) fn commits_among(log: &[u8], frames: u64) -> u64 {
    let size = field(log, 8) as usize + 24;
    let frames = log[32..].chunks_exact(size).take(frames as usize);
    frames.filter(|frame| field(frame, 4) != 0).count() as u64
}

/// SQLite's checksum over `bytes`, with big-endian words.
fn big_endian_sum(mut state: (u32, u32), bytes: &[u8]) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        state.0 = state.0.wrapping_add(field(pair, 0)).wrapping_add(state.1);
        state.1 = state.1.wrapping_add(field(pair, 4)).wrapping_add(state.0);
    }
    state
}

/// The log as a big-endian machine would have written it: with the other magic, and all checksums of the
/// valid frames computed anew. Frames of other generations stay as they are.
pub(crate) fn big_endian(log: &[u8], valid_frames: u64) -> Vec<u8> {
    let mut log = log.to_vec();
    log[3] |= 1;
    let mut state = big_endian_sum((0, 0), &log[..24]);
    let put = |bytes: &mut [u8], state: (u32, u32)| {
        bytes[..4].copy_from_slice(&state.0.to_be_bytes());
        bytes[4..8].copy_from_slice(&state.1.to_be_bytes());
    };
    put(&mut log[24..32], state);
    let size = field(&log, 8) as usize + 24;
    for frame in log[32..].chunks_exact_mut(size).take(valid_frames as usize) {
        state = big_endian_sum(state, &frame[..8]);
        state = big_endian_sum(state, &frame[24..]);
        put(&mut frame[16..24], state);
    }
    log
}

/// Flips one bit of a file.
pub(crate) fn flip(path: &Path, offset: u64, bit: u32) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(offset).unwrap()] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

/// Where frame `frame` (from 1) starts in a log.
pub(crate) fn frame_at(frame: u64, page_size: u32) -> u64 {
    32 + (frame - 1) * u64::from(page_size + 24)
}
