//! The store on real files: what a user of the facade relies on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use walmend::{
    CheckpointMode, CommitOutcome, CommitSeq, Decision, Error, LogFate, Options, PageNumber, PageSize, Pages,
    Store,
};
use walmend_sync::thread;
use walmend_vfs::{MemoryVfs, Vfs};

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

fn image(byte: u8) -> Vec<u8> {
    vec![byte; 4096]
}

fn put(store: &Store, number: u32, byte: u8) -> CommitSeq {
    let mut txn = store.begin().unwrap();
    txn.write(page(number), image(byte)).unwrap();
    txn.commit().into_result().unwrap()
}

fn get(store: &Store, number: u32) -> u8 {
    store.snapshot().unwrap().read(page(number)).unwrap()[17]
}

fn open(path: &Path) -> Store {
    Store::open(path, Options::new()).unwrap().0
}

#[test]
fn commits_are_there_after_reopening_and_numbers_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (store, report) = Store::open(&path, Options::new()).unwrap();
    assert!(report.created);
    assert_eq!(report.db_pages, 0);
    assert_eq!(put(&store, 3, 30), CommitSeq(1));
    assert_eq!(put(&store, 1, 10), CommitSeq(2));
    store.close().unwrap();

    let (store, report) = Store::open(&path, Options::new()).unwrap();
    assert!(!report.created);
    assert_eq!(report.recovery.decision, Decision::Clean);
    assert_eq!((report.recovery.commits, report.db_pages), (2, 3));
    assert_eq!((get(&store, 1), get(&store, 2), get(&store, 3)), (10, 0, 30));
    assert_eq!(put(&store, 2, 20), CommitSeq(3));
    let done = store.checkpoint(CheckpointMode::Truncate).unwrap();
    assert_eq!(
        (done.log, done.pages_written, done.pages_verified),
        (LogFate::Truncated, 3, 3)
    );
    assert_eq!(put(&store, 2, 21), CommitSeq(4));
    store.close().unwrap();

    let (store, report) = Store::open(&path, Options::new()).unwrap();
    assert_eq!(report.commit_seq, CommitSeq(4));
    assert_eq!((get(&store, 1), get(&store, 2), get(&store, 3)), (10, 21, 30));
}

#[test]
fn a_transaction_reads_its_own_writes_and_nobody_elses() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("a.db"));
    put(&store, 1, 1);
    let mut txn = store.begin().unwrap();
    let snapshot = store.snapshot().unwrap();
    put(&store, 1, 2);
    assert_eq!(txn.read(page(1)).unwrap()[0], 1);
    assert_eq!(snapshot.read(page(1)).unwrap()[0], 1);
    txn.write(page(5), image(5)).unwrap();
    assert_eq!(txn.read(page(5)).unwrap()[0], 5);
    assert_eq!(
        txn.read(page(4)).unwrap()[0],
        0,
        "a page within its own growth reads as zeros"
    );
    assert!(matches!(snapshot.read(page(5)), Err(Error::OutOfRange { .. })));
    assert_eq!(get(&store, 1), 2);
    drop(txn);
    assert!(
        store.snapshot().unwrap().read(page(5)).is_err(),
        "dropping forgets the writes"
    );
}

#[test]
fn the_second_writer_of_a_page_conflicts_and_is_told_with_whom() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("a.db"));
    put(&store, 1, 1);
    let mut first = store.begin().unwrap();
    let mut second = store.begin().unwrap();
    first.write(page(1), image(2)).unwrap();
    second.write(page(1), image(3)).unwrap();
    let winner = first.id();
    first.commit().into_result().unwrap();
    match second.commit() {
        CommitOutcome::Conflict(conflict) => {
            assert_eq!(conflict.page, Some(page(1)));
            assert_eq!(conflict.winner, winner);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(get(&store, 1), 2);
}

#[test]
fn an_explicit_size_shrinks_the_database_and_conflicts_with_growth() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let store = open(&path);
    put(&store, 10, 1);
    let mut shrink = store.begin().unwrap();
    shrink.write(page(1), image(1)).unwrap();
    shrink.set_db_pages(4).unwrap();
    put(&store, 12, 1);
    match shrink.commit() {
        CommitOutcome::Conflict(conflict) => assert_eq!(conflict.page, None),
        other => panic!("{other:?}"),
    }
    let mut shrink = store.begin().unwrap();
    let mut late = store.begin().unwrap();
    shrink.write(page(1), image(1)).unwrap();
    shrink.set_db_pages(4).unwrap();
    shrink.commit().into_result().unwrap();
    // Page 10 existed when this one began; now writing it would grow the database again, behind its back.
    late.write(page(10), image(9)).unwrap();
    assert!(matches!(late.commit(), CommitOutcome::Conflict(conflict) if conflict.page == Some(page(10))));
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    store.close().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 4 * 4096);
}

#[test]
fn a_snapshot_keeps_the_log_from_being_reset_and_stays_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new().checkpoint_wait(Duration::from_millis(1));
    let (store, _) = Store::open(folder.path().join("a.db"), options).unwrap();
    put(&store, 1, 1);
    let snapshot = store.snapshot().unwrap();
    put(&store, 1, 2);
    let report = store.checkpoint(CheckpointMode::Truncate).unwrap();
    assert!(report.blocked_by_readers);
    assert_eq!((report.log, report.frames), (LogFate::Kept, 1));
    assert_eq!(snapshot.read(page(1)).unwrap()[0], 1);
    put(&store, 1, 3);
    assert_eq!(snapshot.read(page(1)).unwrap()[0], 1);
    drop(snapshot);
    let report = store.checkpoint(CheckpointMode::Restart).unwrap();
    assert_eq!((report.log, report.blocked_by_readers), (LogFate::Reset, false));
    assert_eq!(get(&store, 1), 3);
}

#[test]
fn many_writers_share_syncs_and_none_is_lost_over_checkpoints() {
    const WRITERS: u32 = 8;
    const ROUNDS: u8 = 60;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let store = open(&path);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    let mut txn = store.begin().unwrap();
                    txn.write(page(writer * 2 + 1), image(round)).unwrap();
                    txn.write(page(writer * 2 + 2), image(round)).unwrap();
                    txn.commit().into_result().unwrap();
                }
            });
        }
        let store = &store;
        scope.spawn(move || {
            for mode in [
                CheckpointMode::Passive,
                CheckpointMode::Full,
                CheckpointMode::Truncate,
            ]
            .repeat(5)
            {
                store.checkpoint(mode).unwrap();
            }
        });
    });
    let stats = store.stats();
    assert_eq!(stats.commits, u64::from(WRITERS) * u64::from(ROUNDS));
    assert!(stats.syncs <= stats.commits);
    assert_eq!((stats.readers, stats.occupancy), (0, 0));
    store.close().unwrap();
    let store = open(&path);
    assert!((1..=WRITERS * 2).all(|number| get(&store, number) == ROUNDS));
}

#[test]
fn a_closed_store_answers_closed_and_gives_the_database_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let store = open(&path);
    put(&store, 1, 1);
    let (mut txn, snapshot, clone) = (store.begin().unwrap(), store.snapshot().unwrap(), store.clone());
    match Store::open(&path, Options::new()) {
        Err(Error::Locked { holder, .. }) => assert!(holder.contains("this process"), "{holder}"),
        other => panic!("{other:?}"),
    }
    store.close().unwrap();
    assert!(matches!(snapshot.read(page(1)), Err(Error::Closed { .. })));
    assert!(matches!(clone.begin(), Err(Error::Closed { .. })));
    txn.write(page(1), image(2)).unwrap();
    assert!(matches!(txn.commit(), CommitOutcome::NotCommitted { .. }));
    assert_eq!(get(&open(&path), 1), 1);
}

#[test]
fn a_sqlite_store_refuses_growth_without_the_right_page_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (store, report) = Store::open(&path, Options::new().pages(Pages::Sqlite)).unwrap();
    assert_eq!(report.db_pages, 1);
    let mut first = store.snapshot().unwrap().read(page(1)).unwrap();

    let mut txn = store.begin().unwrap();
    txn.write(page(2), image(2)).unwrap();
    let refused = txn.commit().into_result().unwrap_err();
    assert!(refused.to_string().contains("must write page 1"), "{refused}");

    let mut txn = store.begin().unwrap();
    txn.write(page(2), image(2)).unwrap();
    txn.write(page(1), first.clone()).unwrap();
    let refused = txn.commit().into_result().unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("has 1 pages, but after this commit it has 2"),
        "{refused}"
    );

    first[28..32].copy_from_slice(&2u32.to_be_bytes());
    let mut txn = store.begin().unwrap();
    txn.write(page(2), image(2)).unwrap();
    txn.write(page(1), first).unwrap();
    txn.commit().into_result().unwrap();
    let mut txn = store.begin().unwrap();
    assert!(txn.write(page(1), image(0)).is_err(), "page 1 must stay a header");
}

#[test]
fn the_lock_page_is_refused() {
    let (store, _) = Store::open("lock-page.db", Options::new().vfs(Arc::new(MemoryVfs::new()))).unwrap();
    let mut txn = store.begin().unwrap();
    let refused = txn
        .write(page(PageSize::DEFAULT.lock_page()), image(1))
        .unwrap_err();
    assert!(refused.to_string().contains("lock bytes"), "{refused}");
}

#[test]
fn an_existing_database_must_be_what_the_options_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    drop(open(&path));
    assert!(Store::open(&path, Options::new().pages(Pages::Sqlite)).is_err());
    assert!(Store::open(&path, Options::new().page_size(PageSize::MAX)).is_err());
    assert!(
        Store::open(
            &path,
            Options::new().pages(Pages::Raw).page_size(PageSize::DEFAULT)
        )
        .is_ok()
    );
}

#[test]
fn a_raw_database_is_known_by_its_companion_its_marker_or_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let store = open(&path);
    put(&store, 2, 2);
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    store.close().unwrap();
    let meta = folder.path().join("a.db-wal-meta");
    std::fs::remove_file(&meta).unwrap();
    let store = open(&path);
    assert_eq!(
        (get(&store, 1), get(&store, 2)),
        (0, 2),
        "by its marker, which reads as zeros"
    );
    put(&store, 1, 1);
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    store.close().unwrap();
    std::fs::remove_file(&meta).unwrap();
    assert!(matches!(
        Store::open(&path, Options::new()),
        Err(Error::NotADatabase { .. })
    ));
    let (store, _) = Store::open(&path, Options::new().page_size(PageSize::DEFAULT)).unwrap();
    assert_eq!(get(&store, 1), 1);
}

#[test]
fn a_missing_database_beside_a_log_is_refused_and_not_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let store = open(&path);
    put(&store, 1, 1);
    store.close().unwrap();
    let aside = folder.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    assert!(matches!(
        Store::open(&path, Options::new()),
        Err(Error::NotADatabase { .. })
    ));
    assert!(!path.exists());
    std::fs::rename(&aside, &path).unwrap();
    assert_eq!(get(&open(&path), 1), 1);
}

#[test]
fn what_cannot_be_opened_is_not_created() {
    let vfs = Arc::new(MemoryVfs::new());
    let options = || Options::new().vfs(Arc::clone(&vfs) as Arc<dyn Vfs>);
    assert!(matches!(
        Store::open("none.db", options().create(false)),
        Err(Error::NotFound { .. })
    ));
    assert_eq!(vfs.info(Path::new("none.db")).unwrap(), None);
}

#[test]
fn commits_can_be_awaited_on_a_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("a.db"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (1..=32)
            .map(|number| {
                let mut txn = store.begin().unwrap();
                txn.write(page(number), image(9)).unwrap();
                tokio::spawn(txn.commit_async())
            })
            .collect();
        for task in tasks {
            assert!(task.await.unwrap().is_committed());
        }
    });
    assert_eq!(store.stats().commits, 32);
}
