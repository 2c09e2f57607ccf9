//! `backup`: databases that nobody has open, that a store has open, and that SQLite has open.

mod common;

use common::{big_endian, contents, crashed, dump, new_database, on, rows, wal_of, walmend, with_suffix};
use rusqlite::Connection;
use std::fs;
use std::path::Path;
use walmend::{CheckpointMode, Options, PageNumber, Pages, Store};
use walmend_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use walmend_sync::thread;

fn backup(database: &Path, target: &Path) -> common::Run {
    on("backup", database, &[target.to_str().unwrap()])
}

#[test]
fn a_closed_database_and_its_log_become_one_file_and_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    for (page_size, big) in [(512, false), (4096, true), (65536, false)] {
        let folder = tempfile::tempdir_in(&folder).unwrap();
        let path = crashed(&folder, page_size, 40);
        if big {
            let log = fs::read(wal_of(&path)).unwrap();
            fs::write(
                wal_of(&path),
                big_endian(&log, log.len() as u64 / u64::from(page_size + 24)),
            )
            .unwrap();
        }
        let before = contents(folder.path());
        let target = folder.path().join("copy.db");
        let report = backup(&path, &target).ends_with(0).json();
        assert_eq!(report["source"], "closed");
        assert_eq!(report["bytes"], fs::metadata(&target).unwrap().len());
        assert!(report["log_frames"].as_u64().unwrap() >= 40, "{report}");
        let copied = fs::read(&target).unwrap();
        fs::remove_file(&target).unwrap();
        assert_eq!(contents(folder.path()), before, "only the target is new");
        fs::write(&target, copied).unwrap();
        let expected = dump(&path);
        assert!(expected.starts_with("ok"));
        assert_eq!(dump(&target), expected, "{page_size}");
    }
}

#[test]
fn nothing_is_replaced_and_nothing_may_count_as_the_backups_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, 3);
    let target = folder.path().join("copy.db");
    for suffix in ["", "-wal", "-journal", "-wal-meta", "-shm", "-fec"] {
        let in_the_way = with_suffix(&target, suffix);
        fs::write(&in_the_way, "mine").unwrap();
        let before = contents(folder.path());
        let run = backup(&path, &target).ends_with(2);
        assert_eq!(run.json()["error"]["kind"], "invalid");
        assert!(run.stderr.contains(in_the_way.to_str().unwrap()), "{run:?}");
        assert_eq!(contents(folder.path()), before);
        fs::remove_file(in_the_way).unwrap();
    }
    // What a killed backup leaves is no obstacle.
    fs::write(with_suffix(&target, "-backup-partial"), vec![7; 3 << 20]).unwrap();
    backup(&path, &target).ends_with(0);
    assert!(!with_suffix(&target, "-backup-partial").exists());
    assert_eq!(rows(&target), 2);
    let run = walmend([
        "backup",
        path.to_str().unwrap(),
        folder.path().join("b.db").to_str().unwrap(),
    ]);
    assert!(run.ends_with(0).stdout.contains("nobody had it open"));
}

#[test]
fn a_copy_is_as_private_as_its_original() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, 3);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let target = folder.path().join("copy.db");
    backup(&path, &target).ends_with(0);
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn damage_is_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, 20);
    common::flip(&wal_of(&path), common::frame_at(7, 4096) + 500, 3);
    let target = folder.path().join("copy.db");
    assert_eq!(
        backup(&path, &target).ends_with(1).json()["error"]["kind"],
        "wal_ambiguous"
    );
    assert!(!target.exists());
    assert!(!with_suffix(&target, "-backup-partial").exists());
}

/// Two tables that every transaction changes together, so that half a transaction would show; a few hundred
/// pages, so that a copy takes a while.
fn two_tables(connection: &Connection) {
    connection
        .execute_batch(
            "create table t(id integer primary key, data blob); create table u(id integer primary key, data blob)",
        )
        .unwrap();
    for _ in 0..400 {
        write_both(connection);
    }
}

fn write_both(connection: &Connection) {
    connection
        .execute_batch(
            "begin; insert into t(data) values (randomblob(3000)); insert into u(data) values (randomblob(3000)); \
             update t set data = randomblob(3000) where id = 1 + abs(random()) % 50; commit",
        )
        .unwrap();
}

#[test]
fn a_database_that_sqlite_writes_to_and_checkpoints_is_copied_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let connection = new_database(&path, 4096);
    two_tables(&connection);
    let over = AtomicBool::new(false);
    let written = AtomicU64::new(400);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let connection = connection;
            // In the way of no backup: sqlite begins the log anew after each of them, unless it is kept from it.
            while !over.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    write_both(&connection);
                    written.fetch_add(1, Ordering::Release);
                }
                let checkpoint = "pragma wal_checkpoint(restart)";
                connection.query_row(checkpoint, [], |_| Ok(())).unwrap();
            }
        });
        for number in 0..15 {
            let target = folder.path().join(format!("copy-{number}.db"));
            let before = written.load(Ordering::Acquire);
            let report = backup(&path, &target).ends_with(0).json();
            let after = written.load(Ordering::Acquire) + 1;
            assert_eq!(report["source"], "shared");
            let copy = Connection::open(&target).unwrap();
            let ok: String = copy
                .query_row("pragma integrity_check", [], |row| row.get(0))
                .unwrap();
            assert_eq!(ok, "ok");
            let count = |table: &str| -> i64 {
                copy.query_row(&format!("select count(*) from {table}"), [], |row| row.get(0))
                    .unwrap()
            };
            assert_eq!(count("t"), count("u"), "half a transaction");
            let rows = count("t").unsigned_abs();
            assert!((before..=after).contains(&rows), "{before} <= {rows} <= {after}");
        }
        over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
}

#[test]
fn a_database_that_another_connection_locks_out_says_who() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let connection = new_database(&path, 4096);
    connection
        .execute_batch("pragma locking_mode=exclusive; create table t(id integer)")
        .unwrap();
    let target = folder.path().join("copy.db");
    let run = backup(&path, &target).ends_with(2);
    assert_eq!(run.json()["error"]["kind"], "locked");
    assert!(run.stderr.contains(&std::process::id().to_string()), "{run:?}");
    assert!(!target.exists());
}

#[test]
fn a_live_store_is_copied_by_another_process_while_it_commits_and_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (store, _) = Store::open(&path, Options::new().pages(Pages::Raw)).unwrap();
    let over = AtomicBool::new(false);
    let acknowledged = AtomicU64::new(0);
    let pages = 1500;
    let commit = |round: u64, pages: std::ops::RangeInclusive<u32>| {
        let mut txn = store.begin().unwrap();
        for page in pages {
            let mut image = vec![(round % 251) as u8; 4096];
            image[..8].copy_from_slice(&round.to_le_bytes());
            txn.write(PageNumber::new(page).unwrap(), image).unwrap();
        }
        txn.commit().into_result().unwrap();
        acknowledged.store(round, Ordering::Release);
    };
    commit(1, 1..=pages);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut round = 1;
            while !over.load(Ordering::Relaxed) {
                round += 1;
                // The first and the last pages change together.
                let mut txn = store.begin().unwrap();
                for page in [1, 2, 700, pages - 1, pages] {
                    let mut image = vec![(round % 251) as u8; 4096];
                    image[..8].copy_from_slice(&u64::to_le_bytes(round));
                    txn.write(PageNumber::new(page).unwrap(), image).unwrap();
                }
                txn.commit().into_result().unwrap();
                acknowledged.store(round, Ordering::Release);
                if round.is_multiple_of(40) {
                    store.checkpoint(CheckpointMode::Passive).unwrap();
                }
                if round.is_multiple_of(2000) {
                    store.checkpoint(CheckpointMode::Truncate).unwrap();
                }
            }
        });
        for number in 0..10 {
            let target = folder.path().join(format!("copy-{number}.db"));
            let before = acknowledged.load(Ordering::Acquire);
            let report = backup(&path, &target).ends_with(0).json();
            assert_eq!(report["source"], "live_store", "{report}");
            let (copy, opened) = Store::open(&target, Options::new()).unwrap();
            assert_eq!((opened.pages, opened.db_pages), (Pages::Raw, pages));
            let snapshot = copy.snapshot().unwrap();
            let round = |page: u32| {
                let image = snapshot.read(PageNumber::new(page).unwrap()).unwrap();
                let round = u64::from_le_bytes(image[..8].try_into().unwrap());
                assert!(
                    image[8..].iter().all(|byte| *byte == (round % 251) as u8),
                    "page {page} is torn"
                );
                round
            };
            let rounds = [1, 2, 700, pages - 1, pages].map(round);
            assert_eq!(rounds, [rounds[0]; 5], "one transaction, whole");
            assert!(rounds[0] >= before, "{} was acknowledged before", before);
            assert_eq!(round(3), 1);
        }
        over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
}
