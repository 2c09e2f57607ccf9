//! What is saved from behind damage: a database of its own, which SQLite reads, with the newest version of each page that
//! can still be read.

mod common;

use common::codec::Wal;
use common::sqlite::{connect, integrity, rows};
use common::{copy, file_pages, folder_bytes, wal_of};
use std::fs;
use std::path::{Path, PathBuf};
use walmend::{Decision, OnDamage, OpenReport, Options, SalvagedCopy, Store};

const PAGE: usize = 1024;

/// A database and a log of 40 commits, left by SQLite as a killed process leaves them: rows are added, changed, and some
/// taken away, so that later commits write pages again.
fn left_by_sqlite(folder: &Path) -> PathBuf {
    let live = folder.join("live.db");
    let connection = connect(&live);
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={PAGE}; CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE INDEX i ON t(x); \
             PRAGMA journal_mode=WAL"
        ))
        .unwrap();
    for number in 0..40i64 {
        let text = format!("row {}", number * 7919 % 100).repeat(9);
        connection
            .execute("INSERT INTO t(x) VALUES (?1)", [text])
            .unwrap();
        connection
            .execute("UPDATE t SET x = x || '.' WHERE id = ?1", [number / 2])
            .unwrap();
    }
    copy(&live, &folder.join("left"), &["-wal"])
}

/// The pages of a database whose log SQLite has brought in.
fn truth(db: &Path, folder: &Path) -> (Vec<Vec<u8>>, Vec<String>) {
    let whole = copy(db, &folder.join("truth"), &["-wal"]);
    let connection = connect(&whole);
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    let rows = rows(&connection);
    drop(connection);
    (file_pages(&whole, PAGE), rows)
}

/// Opens a copy of the database whose log has these bytes changed, told to salvage.
fn salvage(db: &Path, folder: &Path, name: &str, harm: &[(usize, u8)]) -> (PathBuf, OpenReport) {
    let damaged = copy(db, &folder.join(name), &["-wal"]);
    let mut log = fs::read(wal_of(&damaged)).unwrap();
    for (at, bits) in harm {
        log[*at] ^= bits;
    }
    fs::write(wal_of(&damaged), &log).unwrap();
    let main = fs::read(&damaged).unwrap();
    let options = Options::new().on_damage(OnDamage::Salvage).repair(false);
    let (store, report) = Store::open(&damaged, options).unwrap();
    store.close().unwrap();
    assert!(
        fs::read(&damaged).unwrap() == main,
        "the database itself is not written"
    );
    if let Some(aside) = &report.recovery.kept_aside {
        assert!(
            fs::read(aside).unwrap() == log,
            "the damaged log is kept as it was"
        );
    }
    (damaged, report)
}

fn assert_saves(saved: &SalvagedCopy, pages: &[Vec<u8>], what: &str) {
    let found = file_pages(&saved.path, PAGE);
    assert_eq!(found.len(), pages.len(), "{what}");
    for (number, (found, expected)) in (1..).zip(found.iter().zip(pages)) {
        // SQLite's own checkpoint need not leave the size in page 1; the copy says it.
        let same = match number {
            1 => found[..28] == expected[..28] && found[32..] == expected[32..],
            _ => found == expected,
        };
        assert!(
            same || saved.stale_pages.contains(&number),
            "{what}: page {number}"
        );
    }
}

#[test]
fn whatever_frame_is_damaged_every_other_page_is_saved_as_it_was_committed_last() {
    let folder = tempfile::tempdir().unwrap();
    let db = left_by_sqlite(folder.path());
    let (pages, all_rows) = truth(&db, folder.path());
    let wal = Wal::parse(&fs::read(wal_of(&db)).unwrap()).unwrap();
    let last_commit = *wal.commits().last().unwrap();
    let (mut whole, mut lacking) = (0, 0);
    for frame in 1..=wal.frames.len() {
        let start = 32 + (frame - 1) * (24 + PAGE);
        let what = format!("frame {frame}");
        // In the page; and in the header, where the page number is.
        for (place, at) in [("page", start + 24 + 700), ("number", start + 3)] {
            if place == "number" && frame % 8 != 0 {
                continue;
            }
            let name = format!("{place}-{frame}");
            let (_, report) = salvage(&db, folder.path(), &name, &[(at, 0x04)]);
            let Some(saved) = &report.recovery.salvaged else {
                assert!(frame > wal.frames.len() - 8, "{what}: nothing was saved");
                continue;
            };
            assert_eq!(report.recovery.decision, Decision::Salvaged);
            assert!(
                frame < last_commit as usize && saved.pages_from_behind > 0,
                "{what}"
            );
            if place == "number" {
                // Then another page than the one that is missing is suspected, or none.
                continue;
            }
            assert_eq!(saved.unknown_frames, 0, "{what}");
            assert!(saved.stale_pages.len() <= 1, "{what}: {saved:?}");
            assert_saves(saved, &pages, &what);
            if saved.stale_pages.is_empty() {
                let connection = connect(&saved.path);
                assert_eq!(integrity(&connection), "ok", "{what}");
                assert!(rows(&connection) == all_rows, "{what}: all rows");
                whole += 1;
            } else {
                lacking += 1;
            }
        }
        // As it goes, so that it does not fill a small disk.
        fs::remove_dir_all(folder.path().join(format!("page-{frame}"))).unwrap();
    }
    assert!(whole > 100 && lacking > 3, "{whole} {lacking}");
}

#[test]
fn behind_a_damaged_header_all_frames_but_perhaps_the_first_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let db = left_by_sqlite(folder.path());
    let (pages, all_rows) = truth(&db, folder.path());
    for at in [1, 9, 17, 25] {
        let (damaged, report) = salvage(&db, folder.path(), &format!("header-{at}"), &[(at, 0x10)]);
        let saved = report.recovery.salvaged.unwrap();
        assert_saves(&saved, &pages, "header");
        assert!(
            saved.stale_pages.is_empty(),
            "page 1 of the first frame was written again: {saved:?}"
        );
        let connection = connect(&saved.path);
        assert_eq!(integrity(&connection), "ok");
        assert!(rows(&connection) == all_rows);
        drop(connection);
        assert!(
            rows(&connect(&damaged)) != all_rows,
            "the database itself lost them"
        );
    }
}

#[test]
fn where_page_1_is_damaged_last_the_copy_still_says_how_large_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let db = left_by_sqlite(folder.path());
    let (pages, _) = truth(&db, folder.path());
    let wal = Wal::parse(&fs::read(wal_of(&db)).unwrap()).unwrap();
    let place = |frame: usize| 32 + frame * (24 + PAGE) + 24 + 700;
    // All versions of page 1 in the log are damaged: the one in the database file is left, of an empty database.
    let harm: Vec<(usize, u8)> = (0..wal.frames.len())
        .filter(|frame| wal.frames[*frame].page == 1)
        .map(|frame| (place(frame), 0x04))
        .collect();
    assert!(!harm.is_empty());
    let (_, report) = salvage(&db, folder.path(), "page-1", &harm);
    let saved = report.recovery.salvaged.unwrap();
    assert_eq!(saved.stale_pages, [1]);
    let connection = connect(&saved.path);
    assert_eq!(common::sqlite::page_count(&connection) as usize, pages.len());
}

#[test]
fn a_salvage_that_has_no_room_for_the_copy_changes_neither_database_nor_log() {
    let folder = tempfile::tempdir().unwrap();
    let db = left_by_sqlite(folder.path());
    let vfs = walmend_vfs::sim::SimVfs::new(1);
    let mut log = fs::read(wal_of(&db)).unwrap();
    log[32 + 5 * (24 + PAGE) + 24 + 700] ^= 4;
    let inside = Path::new("/a.db");
    vfs.put(inside, &fs::read(&db).unwrap());
    vfs.put(&wal_of(inside), &log);
    let options = || {
        let vfs: std::sync::Arc<dyn walmend::Vfs> = std::sync::Arc::new(vfs.clone());
        Options::new().vfs(vfs).on_damage(OnDamage::Salvage).repair(false)
    };
    // Room for the copy of the log, and not for that of the database.
    vfs.enospc_after(log.len() as u64 + 2048);
    let error = Store::open(inside, options()).unwrap_err();
    assert_eq!(error.kind(), walmend::ErrorKind::Full, "{error}");
    assert!(vfs.dump(&wal_of(inside)).unwrap() == log);
    let left: Vec<PathBuf> = vfs.files();
    assert!(
        !left.iter().any(|file| {
            let name = file.to_string_lossy();
            name.contains("salvaged") || name.contains("partial")
        }),
        "{left:?}"
    );
    vfs.disarm();
    let (store, report) = Store::open(inside, options()).unwrap();
    assert!(report.recovery.salvaged.is_some());
    drop(store);
}

#[test]
fn truncating_and_refusing_save_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let db = left_by_sqlite(folder.path());
    for on_damage in [OnDamage::Refuse, OnDamage::TruncateLikeSqlite] {
        let damaged = copy(&db, &folder.path().join(format!("{on_damage:?}")), &["-wal"]);
        let mut log = fs::read(wal_of(&damaged)).unwrap();
        log[32 + 5 * (24 + PAGE) + 24 + 700] ^= 4;
        fs::write(wal_of(&damaged), &log).unwrap();
        let opened = Store::open(&damaged, Options::new().on_damage(on_damage).repair(false));
        assert_eq!(opened.is_err(), on_damage == OnDamage::Refuse);
        drop(opened);
        let names: Vec<String> = folder_bytes(damaged.parent().unwrap()).into_keys().collect();
        assert!(!names.iter().any(|name| name.contains("salvaged")), "{names:?}");
    }
}
