//! `Store::backup`: the copy is a snapshot, whatever the writers do meanwhile.

mod common;

use common::sqlite::{connect, integrity, written_by_sqlite};
use common::{assert_same_pages, copy, file_pages, page, store_pages};
use std::sync::Arc;
use walmend::{BackupSource, CheckpointMode, Error, Options, PageSize, Pages, Store, Vfs};
use walmend_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use walmend_sync::thread;
use walmend_vfs::ReadSource;
use walmend_vfs::sim::{CrashKeep, Nth, SimVfs};

fn put(store: &Store, pages: &[u32], byte: u8) {
    let mut txn = store.begin().unwrap();
    for number in pages {
        txn.write(page(*number), vec![byte; store.page_size().as_usize()])
            .unwrap();
    }
    txn.commit().into_result().unwrap();
}

#[test]
fn a_backup_under_load_is_one_snapshot_and_opens() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(folder.path().join("a.db"), Options::new()).unwrap();
    let all: Vec<u32> = (1..=1200).collect();
    put(&store, &all, 1);
    let over = AtomicBool::new(false);
    let commits = AtomicU64::new(0);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4u32)
            .map(|writer| {
                let (store, over, commits) = (&store, &over, &commits);
                scope.spawn(move || {
                    let mut byte: u8 = 1;
                    while !over.load(Ordering::Relaxed) {
                        byte = byte.wrapping_add(1);
                        // Each writer's pages change together, at both ends of the file.
                        put(store, &[1 + writer, 600 + writer, 1190 + writer], byte);
                        let done = commits.fetch_add(1, Ordering::Relaxed);
                        if done.is_multiple_of(100) {
                            store.checkpoint(CheckpointMode::Passive).unwrap();
                        }
                    }
                })
            })
            .collect();
        for number in 0..8 {
            let target = folder.path().join(format!("copy-{number}.db"));
            let before = commits.load(Ordering::Relaxed);
            let report = store.backup(&target).unwrap();
            while commits.load(Ordering::Relaxed) < before + 10 {
                thread::yield_now();
            }
            assert_eq!((report.source, report.db_pages), (BackupSource::Snapshot, 1200));
            let (copy, _) = Store::open(&target, Options::new().create(false)).unwrap();
            let pages = store_pages(&copy);
            for writer in 0..4 {
                let bytes = [writer, 599 + writer, 1189 + writer].map(|at| pages[at][0]);
                assert_eq!(bytes, [bytes[0]; 3], "writer {writer}: one transaction, whole");
            }
            assert!(
                pages.iter().all(|page| page.iter().all(|byte| *byte == page[0])),
                "a torn page"
            );
            put(&copy, &[3], 9);
            assert_eq!(store_pages(&copy)[2][0], 9);
        }
        over.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn a_backup_equals_the_snapshot_that_it_was_made_at() {
    let folder = tempfile::tempdir().unwrap();
    for size in [512, 4096, 65536] {
        let options = Options::new().page_size(PageSize::new(size).unwrap());
        let (store, _) = Store::open(folder.path().join(format!("{size}.db")), options).unwrap();
        let empty = folder.path().join(format!("{size}-empty.db"));
        assert_eq!(store.backup(&empty).unwrap().db_pages, 0);
        // More than one chunk of the copy, partly in the database file, partly in the log, partly nowhere.
        for number in 2..40 {
            put(&store, &[number, number * 100], number as u8);
        }
        store.checkpoint(CheckpointMode::Truncate).unwrap();
        put(&store, &[3, 300, 4100], 77);
        let pages = store_pages(&store);
        let target = folder.path().join(format!("{size}-copy.db"));
        let report = store.backup(&target).unwrap();
        assert_eq!(report.bytes, 4100 * u64::from(size));
        put(&store, &[3], 78);
        let (copy, opened) = Store::open(&target, Options::new().create(false)).unwrap();
        assert_eq!((opened.page_size.get(), opened.pages), (size, Pages::Raw));
        assert!(opened.commit_seq >= report_seq(&store), "numbers go on");
        assert_same_pages(&store_pages(&copy), &pages, "the copy");
        // The page size of a Raw database with a page 1 of its own is in the companion alone.
        put(&copy, &[1], 5);
        copy.checkpoint(CheckpointMode::Truncate).unwrap();
        let again = folder.path().join(format!("{size}-again.db"));
        copy.backup(&again).unwrap();
        let (again, _) = Store::open(&again, Options::new().create(false)).unwrap();
        assert_same_pages(&store_pages(&again), &store_pages(&copy), "the copy of the copy");
        let (empty, opened) = Store::open(&empty, Options::new().create(false)).unwrap();
        assert_eq!(opened.db_pages, 0);
        put(&empty, &[1], 1);
    }
}

fn report_seq(store: &Store) -> walmend::CommitSeq {
    // One commit came after the copy.
    walmend::CommitSeq(store.stats().commit_seq.0 - 1)
}

#[test]
fn sqlite_finds_a_sqlite_backup_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("a.db");
    let connection = written_by_sqlite(&db, 500);
    // As a crash leaves it: the rows are in the log.
    let db = copy(&db, &folder.path().join("crashed"), &["-wal"]);
    let expected = common::sqlite::rows(&connection);
    drop(connection);
    let (store, _) = common::open(&db);
    let target = folder.path().join("copy.db");
    let report = store.backup(&target).unwrap();
    assert_eq!(report.pages, Pages::Sqlite);
    assert_same_pages(&file_pages(&target, 4096), &store_pages(&store), "the copy");
    let copy = connect(&target);
    assert_eq!(integrity(&copy), "ok");
    assert_eq!(common::sqlite::rows(&copy), expected);
    assert!(matches!(store.backup(&target), Err(Error::Invalid(_))));
}

#[test]
fn a_backup_that_fails_leaves_nothing_behind_and_can_be_made_again() {
    type Arm = fn(&SimVfs, Nth);
    let faults: [(&str, Arm); 3] = [
        ("write", |vfs, nth| {
            vfs.fail_write_at(nth, 700, std::io::ErrorKind::StorageFull)
        }),
        ("sync", |vfs, nth| vfs.fail_sync_at(nth, CrashKeep::All)),
        ("read", |vfs, nth| vfs.fail_read_at(nth)),
    ];
    for (what, arm) in faults {
        for suffix in ["-backup-partial", "copy.db-wal-meta"] {
            let vfs = SimVfs::new(3);
            let options = Options::new().vfs(Arc::new(vfs.clone()) as Arc<dyn Vfs>);
            let (store, _) = Store::open("/a.db", options).unwrap();
            put(&store, &[1, 2, 600], 1);
            arm(&vfs, Nth::call(1).of(suffix));
            let failed = store.backup("/copy.db");
            vfs.disarm();
            if what == "read" && suffix.ends_with("meta") {
                continue;
            }
            let error = failed.unwrap_err();
            let copies = vfs
                .files()
                .into_iter()
                .filter(|file| file.to_string_lossy().contains("copy"));
            assert_eq!(copies.count(), 0, "{what} of {suffix}: {error}");
            let report = store.backup("/copy.db").unwrap();
            assert_eq!(report.verified_from, ReadSource::Device);
        }
    }
}
