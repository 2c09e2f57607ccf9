//! One database, in turn with the real SQLite: logs that it checkpointed, deleted or began anew meanwhile.

mod common;

use common::codec::Wal;
use common::sqlite::{self, connect, insert, rows, written_by_sqlite};
use common::{assert_same_pages, copy, file_pages, open, page, refused, store_pages, wal_of};
use std::fs;
use std::time::Duration;
use walmend::{CheckpointMode, CommitSeq, Decision, Error, OnDamage, Options, Store, Whereabouts};
use walmend_sync::thread;

/// Writes page 2 once more, changed at its end, where SQLite keeps the first row that it was given.
fn commit_ours(store: &Store) -> CommitSeq {
    let mut image = store.snapshot().unwrap().read(page(2)).unwrap();
    let last = image.len() - 1;
    image[last] = image[last].wrapping_add(1);
    let mut txn = store.begin().unwrap();
    txn.write(page(2), image).unwrap();
    txn.commit().into_result().unwrap()
}

#[test]
fn commit_numbers_go_on_after_sqlite_has_checkpointed_our_log_and_deleted_it() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("a.db");
    drop(written_by_sqlite(&db, 10));
    let (store, _) = open(&db);
    let mut last = CommitSeq(0);
    for _ in 0..3 {
        last = commit_ours(&store);
    }
    let pages = store_pages(&store);
    store.close().unwrap();
    for round in 0..3 {
        // Only reading is enough: closing checkpoints.
        assert_eq!(sqlite::count(&connect(&db), "t"), 10);
        assert!(!wal_of(&db).exists());
        let (store, report) = open(&db);
        assert_eq!(report.recovery.decision, Decision::Clean, "round {round}");
        assert_eq!(
            report.recovery.replaced,
            Some(Whereabouts::InDatabase),
            "round {round}"
        );
        assert_eq!(report.recovery.lost_commits, 0);
        assert!(report.commit_seq >= last, "round {round}: {report:?}");
        if round == 0 {
            assert_same_pages(&store_pages(&store), &pages, "what SQLite checkpointed");
        }
        let next = commit_ours(&store);
        assert!(next > last, "round {round}: {next:?} after {last:?}");
        last = next;
        store.close().unwrap();
    }
}

#[test]
fn what_sqlite_did_after_checkpointing_our_log_counts_as_its_own_work() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("a.db");
    drop(written_by_sqlite(&db, 10));
    let (store, _) = open(&db);
    let last = commit_ours(&store);
    store.close().unwrap();
    // The time of a file moves in steps of up to 10 ms, and only time tells who wrote last.
    thread::sleep(Duration::from_millis(30));
    // It rewrites the very page that ours was, and deletes the log.
    connect(&db).execute_batch("UPDATE t SET x = 'changed'").unwrap();
    assert!(!wal_of(&db).exists());
    let (store, report) = open(&db);
    assert_eq!(report.recovery.decision, Decision::Clean);
    assert_eq!(report.recovery.replaced, Some(Whereabouts::ChangedSince));
    assert!(commit_ours(&store) > last);
}

#[test]
fn a_log_that_was_deleted_with_its_commits_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("a.db");
    drop(written_by_sqlite(&db, 10));
    let pages = file_pages(&db, 4096);
    let (store, _) = open(&db);
    let last = commit_ours(&store);
    store.close().unwrap();
    fs::remove_file(wal_of(&db)).unwrap();

    match refused(&db, Options::new()) {
        Error::WalCorrupt {
            path, frame, detail, ..
        } => {
            assert_eq!((path, frame), (wal_of(&db), 0));
            assert!(detail.contains("is gone"), "{detail}");
            assert!(detail.contains(&format!("up to number {}", last.0)), "{detail}");
        }
        other => panic!("{other}"),
    }
    // That SQLite opens and closes the database in between explains nothing away.
    assert_eq!(sqlite::count(&connect(&db), "t"), 10);
    assert!(matches!(refused(&db, Options::new()), Error::WalCorrupt { .. }));

    let (store, report) = Store::open(&db, Options::new().on_damage(OnDamage::TruncateLikeSqlite)).unwrap();
    assert_eq!(report.recovery.decision, Decision::Truncated);
    assert_eq!(report.recovery.replaced, Some(Whereabouts::Lost));
    assert_same_pages(&store_pages(&store), &pages, "the database without its log");
    assert!(commit_ours(&store) > last, "no number comes twice");
    store.close().unwrap();
    assert_eq!(open(&db).1.recovery.decision, Decision::Clean);
}

#[test]
fn a_log_of_sqlites_own_after_our_truncation_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("a.db");
    drop(written_by_sqlite(&db, 10));
    let (store, _) = open(&db);
    let last = commit_ours(&store);
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    store.close().unwrap();
    let connection = connect(&db);
    insert(&connection, 5);
    let expected = rows(&connection);
    let left = copy(&db, &folder.path().join("left"), &["-wal", "-wal-meta"]);
    drop(connection);

    let (store, report) = open(&left);
    assert_eq!(report.recovery.decision, Decision::Clean);
    assert_eq!((report.recovery.commits, report.recovery.replaced), (5, None));
    assert!(report.commit_seq > last, "{report:?}");
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    store.close().unwrap();
    sqlite::assert_same_rows(&rows(&connect(&left)), &expected, "after our checkpoint");
}

#[test]
fn damage_in_what_sqlite_appended_to_our_log_is_named_and_not_taken_for_our_torn_tail() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("a.db");
    drop(written_by_sqlite(&db, 10));
    let (store, _) = open(&db);
    commit_ours(&store);
    commit_ours(&store);
    store.close().unwrap();
    let connection = connect(&db);
    insert(&connection, 6);
    let left = copy(&db, &folder.path().join("left"), &["-wal", "-wal-meta"]);
    drop(connection);

    let mut log = fs::read(wal_of(&left)).unwrap();
    let wal = Wal::parse(&log).unwrap();
    let commits = wal.commits();
    assert_eq!(commits.len(), 2 + 6, "behind ours");
    let frame = commits[4];
    log[wal.offset(frame) + 1000] ^= 1;
    fs::write(wal_of(&left), log).unwrap();
    match refused(&left, Options::new()) {
        Error::WalAmbiguous {
            frame: named,
            commits_behind,
            ..
        } => {
            assert_eq!((named as usize, commits_behind), (frame, 4));
        }
        other => panic!("{other}"),
    }
    let theirs = copy(&left, &folder.path().join("theirs"), &["-wal"]);
    assert_eq!(
        sqlite::count(&connect(&theirs), "t"),
        10 + 2,
        "SQLite drops them in silence"
    );
    let (store, report) = Store::open(&left, Options::new().on_damage(OnDamage::TruncateLikeSqlite)).unwrap();
    assert_eq!((report.recovery.commits, report.recovery.lost_commits), (4, 4));
    assert_same_pages(
        &store_pages(&store),
        &file_pages(&theirs, 4096),
        "as SQLite cuts it",
    );
}
