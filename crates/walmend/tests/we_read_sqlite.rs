//! We read what the real SQLite wrote: many histories of a log, each left as it is, and each read as SQLite's
//! own recovery reads it.

mod common;

use common::codec::Wal;
use common::sqlite::{self, connect, insert, rows, written_by_sqlite};
use common::{
    Random, assert_same_files, assert_same_pages, copy, file_pages, findings, folder_bytes, open, page_size,
    refused, store_pages, wal_of,
};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::fs;
use std::path::{Path, PathBuf};
use walmend::{CheckpointMode, CommitSeq, Decision, Error, LogFate, Options};
use walmend_wal::Scan;

/// What a history left behind, as SQLite told it while it happened.
struct Left {
    db: PathBuf,
    size: usize,
    /// The commit frames of the log, in order.
    commits: Vec<usize>,
    pages: u32,
    rows: Vec<String>,
    /// What happened, for messages.
    story: Vec<&'static str>,
}

/// A connection on a database of its own, and the log as SQLite says it stands.
struct History {
    connection: Connection,
    db: PathBuf,
    size: usize,
    random: Random,
    salts: Vec<u8>,
    commits: Vec<usize>,
    story: Vec<&'static str>,
}

impl History {
    fn new(folder: &Path, size: usize, seed: u64) -> Self {
        let db = folder.join("theirs.db");
        let connection = connect(&db);
        connection
            .execute_batch(&format!("PRAGMA page_size={size}; PRAGMA journal_mode=WAL;"))
            .unwrap();
        let mut history = Self {
            connection,
            db,
            size,
            random: Random(seed),
            salts: Vec::new(),
            commits: Vec::new(),
            story: Vec::new(),
        };
        history.run(
            "create",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE, body BLOB)",
        );
        history
    }

    /// Runs statements that commit at most once, and notes where the commit frame stands.
    fn run(&mut self, name: &'static str, statements: &str) {
        self.connection
            .execute_batch(statements)
            .unwrap_or_else(|error| panic!("{statements}: {error}"));
        self.story.push(name);
        let log = fs::read(wal_of(&self.db)).unwrap();
        let salts = log.get(16..24).unwrap_or_default();
        if salts != self.salts {
            // The log was begun anew; what was in it is in the database.
            self.commits.clear();
            self.salts = salts.to_vec();
        }
        let (busy, frames, _) = sqlite::checkpoint(&self.connection, "NOOP");
        assert_eq!(busy, 0);
        let frames = usize::try_from(frames).unwrap();
        // A fully checkpointed log keeps its frames until the next write.
        if self.commits.last().copied().unwrap_or(0) < frames {
            self.commits.push(frames);
        }
    }

    /// SQL that inserts up to `most` rows of up to a page and a half.
    fn insert(&mut self, most: u64) -> String {
        let rows = 1 + self.random.below(most);
        let len = self.random.below(self.size as u64 * 3 / 2);
        let tag = self.random.next();
        format!(
            "INSERT INTO t(name, body) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows}) \
             SELECT '{tag}-' || i, printf('{tag}%.*c', {len}, 'x') FROM n;"
        )
    }

    /// SQL that writes most pages of the table.
    fn rewrite(&mut self) -> String {
        format!(
            "UPDATE t SET body = '{}' || substr(body, 21);",
            self.random.next()
        )
    }

    /// A transaction that does not fit into the cache, so that frames are written before its end is known.
    fn spill(&mut self, end: &str) -> String {
        let work = [self.insert(6), self.insert(6), self.rewrite(), self.insert(6)].concat();
        format!("PRAGMA cache_size=2; BEGIN; {work} {end}; PRAGMA cache_size=500")
    }

    fn step(&mut self) {
        let (one, two, three) = (self.insert(4), self.insert(4), self.insert(4));
        let rewrite = self.rewrite();
        let number = self.random.next();
        match self.random.below(14) {
            0 | 1 => self.run("insert", &one),
            2 => self.run("update", "UPDATE t SET body = body || 'more' WHERE id % 5 = 1"),
            3 => self.run("delete", "DELETE FROM t WHERE id % 3 = 0"),
            4 => self.run("rollback", &format!("BEGIN; {one} {rewrite} ROLLBACK")),
            5 => self.run(
                "savepoints",
                &format!("BEGIN; {one} SAVEPOINT s; {two} ROLLBACK TO s; {three} RELEASE s; COMMIT"),
            ),
            6 => {
                let spill = self.spill("ROLLBACK");
                self.run("spill and rollback", &spill);
            }
            7 => {
                let spill = self.spill("COMMIT");
                self.run("spill and commit", &spill);
            }
            8 => self.run(
                "spill, back to a savepoint, commit",
                &format!(
                    "PRAGMA cache_size=2; BEGIN; {one} SAVEPOINT s; {two} {rewrite} ROLLBACK TO s; {three} COMMIT; \
                     PRAGMA cache_size=500"
                ),
            ),
            9 => self.run("passive checkpoint", "PRAGMA wal_checkpoint(PASSIVE)"),
            10 => self.run("restart", "PRAGMA wal_checkpoint(RESTART)"),
            11 if number.is_multiple_of(3) => self.run("truncate", "PRAGMA wal_checkpoint(TRUNCATE)"),
            11 | 12 => self.run(
                "new table",
                &format!("BEGIN; CREATE TABLE x{number}(a, b UNIQUE); INSERT INTO x{number} VALUES (1, 2.5); COMMIT"),
            ),
            _ => self.run("vacuum", "VACUUM"),
        }
    }

    /// Leaves the log behind, as a process does that is killed while nothing happens.
    fn leave(self, folder: &Path) -> Left {
        let rows = rows(&self.connection);
        let pages = sqlite::page_count(&self.connection);
        Left {
            db: copy(&self.db, folder, &["-wal"]),
            size: self.size,
            commits: self.commits,
            pages,
            rows,
            story: self.story,
        }
    }
}

fn history(seed: u64, folder: &Path) -> Left {
    let size = [512, 1024, 4096, 65536][(seed % 4) as usize];
    let live = folder.join("live");
    fs::create_dir_all(&live).unwrap();
    let mut history = History::new(&live, size, seed);
    for _ in 0..8 + history.random.below(25) {
        history.step();
    }
    match seed % 10 {
        7 => history.run("truncate", "PRAGMA wal_checkpoint(TRUNCATE)"),
        8 => {
            // A log that was begun anew for a transaction that never was.
            history.run("restart", "PRAGMA wal_checkpoint(RESTART)");
            let spill = history.spill("ROLLBACK");
            history.run("spill and rollback", &spill);
        }
        _ => {}
    }
    history.leave(&folder.join("left"))
}

/// What walmend finds is what SQLite's recovery arrives at; checkpoints of both give the same file.
fn check(left: &Left, folder: &Path, what: &str) -> Scan {
    // SQLite, on a copy.
    let theirs = copy(&left.db, &folder.join("theirs"), &["-wal"]);
    let connection = connect(&theirs);
    // Recovery happens at the first read.
    sqlite::assert_same_rows(&rows(&connection), &left.rows, what);
    let (_, frames, _) = sqlite::checkpoint(&connection, "NOOP");
    let pages = sqlite::page_count(&connection);
    assert_eq!(
        left.commits.last().copied().unwrap_or(0),
        frames as usize,
        "{what}"
    );
    assert_eq!(pages, left.pages, "{what}");
    assert_eq!(sqlite::checkpoint(&connection, "TRUNCATE"), (0, 0, 0), "{what}");
    drop(connection);

    // walmend, reading only.
    let before = folder_bytes(left.db.parent().unwrap());
    let found = findings(&left.db);
    let scan = found.scan.clone().expect("there is a log");
    let numbered = scan.slots[..scan.committed_frames as usize].iter().zip(1..);
    let commits: Vec<usize> = numbered
        .filter(|(slot, _)| slot.header.db_pages != 0)
        .map(|(_, number)| number)
        .collect();
    assert_eq!(commits, left.commits, "{what}: commit frames");
    assert_eq!(
        (scan.committed_frames, scan.commits as usize),
        (frames as u32, commits.len()),
        "{what}"
    );
    if frames > 0 {
        assert_eq!(scan.db_pages, pages, "{what}");
    }
    assert_eq!(found.damage, [], "{what}");
    assert_eq!((found.commits_behind, found.lost_commits), (0, 0), "{what}");

    // walmend, opening and checkpointing a copy.
    let ours = copy(&left.db, &folder.join("ours"), &["-wal"]);
    let (store, report) = open(&ours);
    let dropped = scan.last_of_generation.saturating_sub(scan.committed_frames);
    let expected = if dropped > 0 {
        Decision::TornTail
    } else {
        Decision::Clean
    };
    assert_eq!(report.recovery.decision, expected, "{what}");
    assert_eq!(
        (report.recovery.dropped_frames, report.recovery.lost_commits),
        (dropped, 0),
        "{what}"
    );
    assert_eq!(
        (report.db_pages, report.page_size),
        (pages, page_size(left.size)),
        "{what}"
    );
    assert_same_pages(&store_pages(&store), &file_pages(&theirs, left.size), what);
    let done = store.checkpoint(CheckpointMode::Truncate).unwrap();
    assert_eq!(
        (done.log, done.frames),
        (LogFate::Truncated, frames as u32),
        "{what}"
    );
    assert_eq!(done.pages_written, done.pages_verified, "{what}");
    store.close().unwrap();
    assert_same_pages(
        &file_pages(&ours, left.size),
        &file_pages(&theirs, left.size),
        what,
    );
    let connection = connect(&ours);
    assert_eq!(sqlite::integrity(&connection), "ok", "{what}");
    sqlite::assert_same_rows(&rows(&connection), &left.rows, what);
    assert_same_files(&before, &folder_bytes(left.db.parent().unwrap()), "the original");
    scan
}

#[test]
fn what_sqlite_left_is_read_as_its_own_recovery_reads_it() {
    let mut seen: Vec<&str> = Vec::new();
    let (mut empty, mut several, mut stale, mut spilled, mut big_endian) = (0, 0, 0, 0, 0);
    for seed in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let left = history(seed, folder.path());
        let what = format!("seed {seed}, {} bytes a page: {:?}", left.size, left.story);
        let scan = check(&left, folder.path(), &what);
        seen.extend(&left.story);
        empty += u32::from(scan.commits == 0);
        several += u32::from(scan.commits > 1);
        spilled += u32::from(scan.last_of_generation > scan.committed_frames);
        let others =
            |slot: &walmend_wal::Slot| Some(slot.header.salts) != scan.header.ok().map(|header| header.salts);
        stale += u32::from(scan.slots.iter().any(others));

        // The same log as a big-endian machine would have written it.
        let log = fs::read(wal_of(&left.db)).unwrap();
        let Some(wal) = Wal::parse(&log) else { continue };
        assert!(
            log.starts_with(&wal.encode(false)),
            "{what}: the test's own encoder"
        );
        let mut swapped = wal.encode(true);
        swapped.extend(&log[swapped.len()..]);
        fs::write(wal_of(&left.db), &swapped).unwrap();
        let scan = check(
            &left,
            &folder.path().join("big-endian"),
            &format!("big-endian, {what}"),
        );
        big_endian += u32::from(scan.commits > 0 && scan.byte_order == walmend_wal::ByteOrder::Big);
    }
    // Every kind of history did occur.
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 14, "{seen:?}");
    for (count, what) in [
        (empty, "logs without a commit"),
        (several, "logs with several"),
        (stale, "leftovers of an earlier log"),
        (spilled, "leftovers of this one"),
        (big_endian, "both byte orders"),
    ] {
        assert!(count >= 2, "{what}: {count}");
    }
}

#[test]
fn a_log_that_sqlite_left_at_closing_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("theirs.db");
    let connection = written_by_sqlite(&db, 10);
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    let expected = rows(&connection);
    drop(connection);
    let (store, report) = open(&db);
    assert_eq!(
        (report.recovery.decision, report.recovery.commits),
        (Decision::Clean, 11)
    );
    assert_eq!(report.commit_seq, CommitSeq(11));
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    store.close().unwrap();
    sqlite::assert_same_rows(&rows(&connect(&db)), &expected, "after our checkpoint");
}

#[test]
fn a_hot_rollback_journal_is_refused_until_sqlite_has_rolled_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("live.db");
    let connection = connect(&db);
    connection
        .execute_batch("PRAGMA journal_mode=DELETE; CREATE TABLE t(x)")
        .unwrap();
    insert(&connection, 300);
    let expected = rows(&connection);
    // The cache spills, so that the file holds half a transaction and the journal what was there before.
    connection
        .execute_batch("PRAGMA cache_size=2; BEGIN; UPDATE t SET x = 'half' || x")
        .unwrap();
    let killed = copy(&db, &folder.path().join("killed"), &["-journal"]);
    connection.execute_batch("ROLLBACK").unwrap();

    match refused(&killed, Options::new()) {
        Error::NotADatabase { detail, .. } => assert!(detail.contains("live.db-journal"), "{detail}"),
        other => panic!("{other}"),
    }
    sqlite::assert_same_rows(&rows(&connect(&killed)), &expected, "SQLite rolls it back");
    let (store, report) = open(&killed);
    assert_eq!(report.db_pages, sqlite::page_count(&connection));
    assert_same_pages(
        &store_pages(&store),
        &file_pages(&db, 4096),
        "what was there before",
    );
}

#[test]
fn a_log_of_another_page_size_or_version_is_refused_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.db");
    let source = connect(&other);
    source.execute_batch("PRAGMA page_size=1024").unwrap();
    drop(source);
    let source = connect(&other);
    source
        .execute_batch("PRAGMA page_size=1024; PRAGMA journal_mode=WAL; CREATE TABLE t(x)")
        .unwrap();
    let log = fs::read(wal_of(&other)).unwrap();
    let db = folder.path().join("alone").join("a.db");
    fs::create_dir_all(db.parent().unwrap()).unwrap();
    drop(written_by_sqlite(&db, 3));

    fs::write(wal_of(&db), &log).unwrap();
    match refused(&db, Options::new()) {
        Error::NotADatabase { path, detail } => {
            assert_eq!(path, wal_of(&db));
            assert!(detail.contains("1024") && detail.contains("4096"), "{detail}");
        }
        other => panic!("{other}"),
    }

    // A version of the future, with a right checksum.
    let mut wal = Wal::parse(&log).unwrap();
    wal.page_size = 4096;
    wal.frames.truncate(1);
    wal.frames[0].data = vec![0; 4096];
    fs::write(wal_of(&db), wal.encode_version(3_007_001)).unwrap();
    match refused(&db, Options::new()) {
        Error::UnsupportedVersion { version, .. } => assert_eq!(version, 3_007_001),
        other => panic!("{other}"),
    }
    let theirs =
        sqlite::code(connect(&db).query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)));
    assert_eq!(
        theirs,
        Error::UnsupportedVersion { path: db, version: 0 }.sqlite_code()
    );
}
