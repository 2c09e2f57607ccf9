//! The real SQLite reads what walmend wrote: logs of every kind of page, at any moment, and goes on from there.

mod common;

use common::sqlite::{self, connect, rows};
use common::{
    assert_same_files, assert_same_pages, copy, file_pages, folder_bytes, meta_of, open, page, page_size,
    store_pages, wal_of,
};
use rusqlite::params;
use std::fs;
use std::path::Path;
use walmend::{CheckpointMode, Decision, Error, Options, Pages, Store, Whereabouts};
use walmend_sync::thread;

/// A database as SQLite made it, at one moment.
struct State {
    pages: Vec<Vec<u8>>,
    rows: Vec<String>,
}

/// A real database at several moments: small, grown, shrunk by VACUUM, grown again in WAL mode.
fn states(folder: &Path, page_size: usize) -> Vec<State> {
    fs::create_dir_all(folder).unwrap();
    let db = folder.join("source.db");
    let connection = connect(&db);
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=DELETE;"
        ))
        .unwrap();
    let mut random = common::Random(page_size as u64);
    let mut fill = |ids: std::ops::Range<i64>| {
        connection.execute_batch("BEGIN").unwrap();
        for id in ids {
            let len = usize::try_from(random.below(page_size as u64)).unwrap();
            connection
                .execute(
                    "INSERT INTO notes(id, title, body) VALUES (?1, ?2, ?3)",
                    params![id, format!("note {}", random.below(1000)), random.bytes(len)],
                )
                .unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
    };
    let take = || State {
        pages: file_pages(&db, page_size),
        rows: rows(&connection),
    };
    let mut states = Vec::new();
    connection
        .execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, body BLOB)")
        .unwrap();
    fill(0..20);
    states.push(take());
    connection
        .execute_batch("CREATE INDEX by_title ON notes(title)")
        .unwrap();
    fill(20..100);
    states.push(take());
    connection
        .execute_batch("DELETE FROM notes WHERE id % 4 != 0; VACUUM;")
        .unwrap();
    states.push(take());
    connection.execute_batch("PRAGMA journal_mode=WAL").unwrap();
    fill(200..260);
    sqlite::checkpoint(&connection, "TRUNCATE");
    states.push(take());
    let sizes: Vec<usize> = states.iter().map(|state| state.pages.len()).collect();
    assert!(
        sizes[0] < sizes[1] && sizes[1] > sizes[2] && sizes[2] < sizes[3],
        "{sizes:?}"
    );
    assert_eq!(
        states[1].pages[0][18..20],
        [1, 1],
        "a rollback-mode header is among them"
    );
    assert_eq!(states[3].pages[0][18..20], [2, 2], "and one of WAL mode");
    states
}

fn create(db: &Path, size: usize) -> Store {
    let options = Options::new().pages(Pages::Sqlite).page_size(page_size(size));
    Store::open(db, options).unwrap().0
}

/// The pages of `state` that the store does not hold yet.
fn changes(store: &Store, state: &State) -> Vec<u32> {
    let now = store_pages(store);
    let numbered = state.pages.iter().zip(1..);
    numbered
        .filter(|(image, number)| now.get(*number as usize - 1) != Some(image))
        .map(|(_, number)| number)
        .collect()
}

/// Writes pages of a state in one transaction, page 1 and the size with them where the size changes.
fn commit(store: &Store, state: &State, numbers: &[u32]) {
    let mut txn = store.begin().unwrap();
    let size = u32::try_from(state.pages.len()).unwrap();
    if txn.db_pages() != size {
        txn.write(page(1), state.pages[0].clone()).unwrap();
        txn.set_db_pages(size).unwrap();
    }
    for &number in numbers {
        txn.write(page(number), state.pages[number as usize - 1].clone())
            .unwrap();
    }
    txn.commit().into_result().unwrap();
}

/// Brings the store to a state: the size first, then all pages by several writers at once.
fn commit_by_many(store: &Store, state: &State) {
    const WRITERS: usize = 4;
    commit(store, state, &[1]);
    let rest = changes(store, state);
    let share = rest.len().div_ceil(WRITERS).max(1);
    thread::scope(|scope| {
        for part in rest.chunks(share) {
            scope.spawn(move || part.chunks(3).for_each(|numbers| commit(store, state, numbers)));
        }
    });
    assert_same_pages(&store_pages(store), &state.pages, "the store against the source");
}

/// SQLite opens the copy, finds the state, checkpoints the log, and the file is what the store held.
fn check_checkpoint_by_sqlite(db: &Path, state: &State, frames: u32, what: &str) {
    let size = state.pages[0].len();
    let connection = connect(db);
    assert_eq!(sqlite::integrity(&connection), "ok", "{what}");
    sqlite::assert_same_rows(&rows(&connection), &state.rows, what);
    let frames = i32::try_from(frames).unwrap();
    assert_eq!(
        sqlite::checkpoint(&connection, "NOOP"),
        (0, frames, 0),
        "{what}: frames"
    );
    assert_eq!(
        sqlite::checkpoint(&connection, "PASSIVE"),
        (0, frames, frames),
        "{what}"
    );
    assert_eq!(sqlite::checkpoint(&connection, "TRUNCATE"), (0, 0, 0), "{what}");
    drop(connection);
    assert_same_pages(&file_pages(db, size), &state.pages, what);
}

fn checkpoints_our_log(size: usize) {
    let folder = tempfile::tempdir().unwrap();
    let states = states(folder.path(), size);
    let db = folder.path().join("ours.db");
    let store = create(&db, size);
    for (place, state) in states.iter().enumerate() {
        commit_by_many(&store, state);
        let stats = store.stats();
        let what = format!("state {place} of {size}-byte pages");
        // The copy of the open files is what a SIGKILL at this moment would leave.
        for (beside, suffixes) in [("alone", &["-wal"][..]), ("with-meta", &["-wal", "-wal-meta"])] {
            let target = folder.path().join(format!("killed-{place}-{beside}"));
            let copy = copy(&db, &target, suffixes);
            check_checkpoint_by_sqlite(&copy, state, stats.log_frames, &format!("{what}, {beside}"));
        }
    }
    let stats = store.stats();
    assert!(stats.batches > 10, "{stats:?}");
    store.close().unwrap();
    let log = fs::metadata(wal_of(&db)).unwrap().len();
    assert!(log > stats.log_bytes, "the zeros ahead of the tail stay: {log}");
    let closed = copy(&db, &folder.path().join("closed"), &["-wal"]);
    check_checkpoint_by_sqlite(&closed, states.last().unwrap(), stats.log_frames, "after closing");
}

#[test]
fn sqlite_checkpoints_our_log_of_512_byte_pages() {
    checkpoints_our_log(512);
}

#[test]
fn sqlite_checkpoints_our_log_of_4096_byte_pages() {
    checkpoints_our_log(4096);
}

#[test]
fn sqlite_checkpoints_our_log_of_65536_byte_pages() {
    checkpoints_our_log(65536);
}

#[test]
fn sqlite_sees_every_commit_whole_wherever_the_log_ends() {
    let folder = tempfile::tempdir().unwrap();
    let states = states(folder.path(), 4096);
    let db = folder.path().join("ours.db");
    let store = create(&db, 4096);
    let mut ends = Vec::new();
    for state in &states {
        let changed = changes(&store, state);
        commit(&store, state, &changed);
        ends.push(store.stats().log_bytes);
    }
    store.close().unwrap();
    let log = fs::read(wal_of(&db)).unwrap();
    let cut = copy(&db, &folder.path().join("cut"), &[]);
    let mut random = common::Random(7);
    for (place, state) in states.iter().enumerate() {
        let next = ends.get(place + 1).copied().unwrap_or(log.len() as u64);
        let within = ends[place] + random.below(next - ends[place]);
        for end in [ends[place], within, next - 1] {
            fs::write(wal_of(&cut), &log[..usize::try_from(end).unwrap()]).unwrap();
            fs::copy(&db, &cut).unwrap();
            let connection = connect(&cut);
            assert_eq!(sqlite::integrity(&connection), "ok");
            sqlite::assert_same_rows(&rows(&connection), &state.rows, &format!("log of {end} bytes"));
        }
    }
}

/// SQLite goes on behind our frames, or after checkpointing them; walmend opens what it left.
fn sqlite_goes_on(size: usize, checkpoint_first: bool, keep_meta: bool) {
    let what = format!("pages of {size}, checkpoint first: {checkpoint_first}, meta kept: {keep_meta}");
    let folder = tempfile::tempdir().unwrap();
    let states = states(folder.path(), size);
    let db = folder.path().join("ours.db");
    let store = create(&db, size);
    states.iter().for_each(|state| commit_by_many(&store, state));
    let before = store.stats();
    store.close().unwrap();
    if !keep_meta {
        fs::remove_file(meta_of(&db)).unwrap();
    }

    let connection = connect(&db);
    if checkpoint_first {
        assert_eq!(sqlite::checkpoint(&connection, "TRUNCATE"), (0, 0, 0));
    }
    for id in 1000..1010 {
        connection
            .execute("INSERT INTO notes VALUES (?1, 'more', zeroblob(300))", [id])
            .unwrap();
    }
    connection
        .execute_batch("CREATE TABLE more AS SELECT id FROM notes")
        .unwrap();
    let expected = rows(&connection);
    let (_, frames, _) = sqlite::checkpoint(&connection, "NOOP");
    let frames = u32::try_from(frames).unwrap();
    assert_eq!(
        frames > before.log_frames,
        !checkpoint_first,
        "{what}: it appended to our log"
    );
    let left = copy(&db, &folder.path().join("left"), &["-wal", "-wal-meta"]);
    let theirs = copy(&db, &folder.path().join("theirs"), &["-wal"]);
    drop(connection);

    let (store, report) = open(&left);
    assert_eq!(report.recovery.decision, Decision::Clean, "{what}");
    assert_eq!(report.recovery.committed_frames, frames, "{what}");
    if keep_meta {
        assert!(report.commit_seq > before.commit_seq, "{what}: {report:?}");
        assert_eq!(report.recovery.replaced.is_some(), checkpoint_first, "{what}");
    }
    sqlite::checkpoint(&connect(&theirs), "TRUNCATE");
    assert_same_pages(&store_pages(&store), &file_pages(&theirs, size), &what);
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    store.close().unwrap();
    let connection = connect(&left);
    assert_eq!(sqlite::integrity(&connection), "ok");
    sqlite::assert_same_rows(&rows(&connection), &expected, &what);
}

#[test]
fn sqlite_goes_on_behind_our_frames_and_we_open_what_it_left() {
    for size in [512, 4096, 65536] {
        sqlite_goes_on(size, false, true);
    }
    sqlite_goes_on(4096, false, false);
}

#[test]
fn sqlite_begins_a_log_of_its_own_after_ours_and_we_open_what_it_left() {
    for size in [512, 4096, 65536] {
        sqlite_goes_on(size, true, true);
    }
    sqlite_goes_on(4096, true, false);
}

#[test]
fn a_new_store_without_a_commit_is_an_empty_database_to_sqlite() {
    for size in [512, 4096, 65536] {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("ours.db");
        create(&db, size).close().unwrap();
        let connection = connect(&db);
        assert_eq!(sqlite::integrity(&connection), "ok");
        assert_eq!(sqlite::page_count(&connection), 1);
        connection
            .execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
            .unwrap();
        drop(connection);
        let (store, report) = open(&db);
        assert_eq!((report.pages, report.db_pages), (Pages::Sqlite, 2));
        assert_same_pages(
            &store_pages(&store),
            &file_pages(&db, size),
            "after SQLite's first table",
        );
    }
}

/// The files of a folder but what SQLite's connections share their memory through, which is none of ours.
fn our_files(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut files = folder_bytes(folder);
    files.retain(|name, _| !name.ends_with("-shm"));
    files
}

/// Connections try everything and close; all that they get is "not a database".
fn refused_by_sqlite(db: &Path, what: &str) {
    for _ in 0..2 {
        let connection = connect(db);
        for statement in [
            "SELECT * FROM sqlite_schema",
            "CREATE TABLE t(x)",
            "PRAGMA user_version = 7",
            "PRAGMA journal_mode = DELETE",
            "PRAGMA journal_mode = WAL",
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "VACUUM",
        ] {
            let answer = connection.prepare(statement).and_then(|mut statement| {
                let mut rows = statement.query([])?;
                while rows.next()?.is_some() {}
                Ok(())
            });
            assert_eq!(sqlite::code(answer), sqlite::NOTADB, "{what}: {statement}");
        }
    }
}

/// A raw store with frames in its log; gives its pages.
fn raw_store(db: &Path, size: usize, with_page_1: bool) -> Vec<Vec<u8>> {
    let (store, _) = Store::open(db, Options::new().page_size(page_size(size))).unwrap();
    for number in if with_page_1 { 1..6 } else { 2..6 } {
        let mut txn = store.begin().unwrap();
        txn.write(page(number), vec![number as u8; size]).unwrap();
        txn.commit().into_result().unwrap();
    }
    let pages = store_pages(&store);
    store.close().unwrap();
    pages
}

/// The page size that SQLite takes a file for that it has not recognised (`sqlite3BtreeOpen`).
fn size_that_sqlite_assumes(db: &Path) -> usize {
    let head = fs::read(db).unwrap();
    match usize::from(head[16]) << 8 | usize::from(head[17]) << 16 {
        size if (512..=65536).contains(&size) && size.is_power_of_two() => size,
        _ => 4096,
    }
}

#[test]
fn sqlite_refuses_a_raw_store_as_not_a_database_and_changes_no_byte() {
    for size in [512, 1024, 4096, 8192, 65536] {
        for with_page_1 in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let db = folder.path().join("raw.db");
            let check = |what: &str| {
                let what = format!("{size}-byte pages, page 1 written: {with_page_1}, {what}");
                let before = our_files(folder.path());
                refused_by_sqlite(&db, &what);
                assert_same_files(&before, &our_files(folder.path()), &what);
            };
            let (store, _) = Store::open(&db, Options::new().page_size(page_size(size))).unwrap();
            store.close().unwrap();
            check("no commit yet");

            let pages = raw_store(&db, size, with_page_1);
            if size_that_sqlite_assumes(&db) != size {
                check("frames in the log");
            }
            let (store, report) = open(&db);
            assert_eq!(
                (report.recovery.decision, report.recovery.replaced),
                (Decision::Clean, None)
            );
            store.checkpoint(CheckpointMode::Truncate).unwrap();
            store.close().unwrap();
            check("after a checkpoint");
            assert_same_pages(&store_pages(&open(&db).0), &pages, "afterwards");
        }
    }
}

/// SQLite opens the log before it looks at page 1. Once an engine has a page 1 of its own in the database file, a
/// connection that has been refused still checkpoints the log when it closes, if it happens to assume the right
/// page size, and deletes it. Every page survives that; the evidence of damage, had there been any, would not.
#[test]
fn sqlite_refuses_a_raw_store_but_may_checkpoint_its_log_and_no_page_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("raw.db");
    raw_store(&db, 4096, true);
    let (store, _) = open(&db);
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    store.close().unwrap();
    assert_eq!(size_that_sqlite_assumes(&db), 4096);
    let pages = raw_store(&db, 4096, true);
    let before = open(&db).1;
    refused_by_sqlite(&db, "frames in the log");
    assert!(
        !wal_of(&db).exists(),
        "if SQLite leaves it alone now, this file can say so"
    );
    let (store, report) = open(&db);
    assert_eq!(report.recovery.replaced, Some(Whereabouts::InDatabase));
    assert!(report.commit_seq > before.commit_seq);
    assert_eq!(report.pages, Pages::Raw);
    assert_same_pages(&store_pages(&store), &pages, "after SQLite's checkpoint");
}

/// Until then, the marker page keeps SQLite from it.
#[test]
fn the_marker_makes_sqlite_assume_a_page_size_that_is_not_the_logs() {
    for size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("raw.db");
        raw_store(&db, size, false);
        assert_ne!(size_that_sqlite_assumes(&db), size);
    }
}

#[test]
fn an_existing_sqlite_database_opens_as_one_without_options() {
    let folder = tempfile::tempdir().unwrap();
    for size in [512, 1024, 65536] {
        let state = states(&folder.path().join(size.to_string()), size).pop().unwrap();
        let db = folder.path().join(size.to_string()).join("source.db");
        let (store, report) = Store::open(&db, Options::new()).unwrap();
        assert!(!report.created);
        assert_eq!((report.pages, report.page_size), (Pages::Sqlite, page_size(size)));
        assert_same_pages(&store_pages(&store), &state.pages, "as it was found");
        let refused = store.begin().unwrap().write(page(1), vec![0; size]).unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    }
}
