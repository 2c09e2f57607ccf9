//! A store has its database for itself: the real SQLite is kept out while it is open, and keeps it out, in
//! this process and in others.

mod common;

use common::child::{self, Child};
use common::sqlite::{self, BUSY, connect, probe, written_by_sqlite};
use common::{assert_same_files, folder_bytes, open, page, refused, store_pages, wal_of};
use std::path::{Path, PathBuf};
use std::time::Duration;
use walmend::{CheckpointMode, Decision, Error, Options, Store};
use walmend_vfs::UnixVfs;

/// What the other process does, in whichever test it was started for.
fn play(role: &str, db: &Path) -> ! {
    match role {
        "store" => {
            let (store, _) = open(db);
            child::say(&commit(&store).to_string());
            child::wait_for_parent();
            store.close().unwrap();
        }
        "sqlite" => {
            let connection = connect(db);
            child::say(&sqlite::count(&connection, "t").to_string());
            child::wait_for_parent();
        }
        "probe" => child::say(&format!("{:?}", probe(db))),
        "open" => match Store::open(db, Options::new()) {
            Ok(_) => child::say("opened"),
            Err(error) => child::say(&error.to_string()),
        },
        other => panic!("no such role: {other}"),
    }
    std::process::exit(0)
}

/// Starts the other process for this very test.
macro_rules! in_two_processes {
    () => {
        if let Some((role, db)) = child::role() {
            play(&role, &db);
        }
    };
}

fn commit(store: &Store) -> u64 {
    let mut image = store.snapshot().unwrap().read(page(2)).unwrap();
    let last = image.len() - 1;
    image[last] = image[last].wrapping_add(1);
    let mut txn = store.begin().unwrap();
    txn.write(page(2), image).unwrap();
    txn.commit().into_result().unwrap().0
}

/// A database of SQLite's in WAL mode, closed.
fn database(folder: &Path) -> PathBuf {
    let db = folder.join("a.db");
    drop(written_by_sqlite(&db, 10));
    db
}

fn probe_elsewhere(test: &str, db: &Path) -> String {
    let mut child = Child::start(test, "probe", db);
    let answer = child.hear();
    child.finish();
    answer
}

#[track_caller]
fn locked(db: &Path) -> String {
    match refused(db, Options::new()) {
        error @ Error::Locked { .. } => {
            assert!(error.is_transient());
            assert_eq!(error.sqlite_code(), BUSY);
            assert!(
                error
                    .recovery_hint()
                    .contains("close the other program's connection")
            );
            error.to_string()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn sqlite_is_busy_in_every_process_while_a_store_is_open() {
    in_two_processes!();
    const TEST: &str = "sqlite_is_busy_in_every_process_while_a_store_is_open";
    let folder = tempfile::tempdir().unwrap();
    let db = database(folder.path());
    let early = connect(&db);
    let (store, _) = open(&db);
    let check = |what: &str| {
        let before = folder_bytes(folder.path());
        assert_eq!(probe(&db), [BUSY; 3], "{what}, in this process");
        assert_eq!(
            probe_elsewhere(TEST, &db),
            format!("{:?}", [BUSY; 3]),
            "{what}, in another"
        );
        let read = early.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(
            sqlite::code(read),
            BUSY,
            "{what}, on a connection that was there before"
        );
        assert_same_files(&before, &folder_bytes(folder.path()), what);
    };
    check("nothing written");
    commit(&store);
    store.wait_for_repair(std::time::Duration::from_secs(60)).unwrap();
    check("frames in the log");
    store.checkpoint(CheckpointMode::Full).unwrap();
    check("checkpointed");
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    check("log truncated");
    // SQLite in this process has closed its descriptors of the file by now: that dropped nothing of ours.
    commit(&store);
    store.close().unwrap();
    assert_eq!(probe_elsewhere(TEST, &db), format!("{:?}", [0; 3]));
    assert_eq!(sqlite::count(&early, "t"), 10);
}

#[test]
fn an_idle_connection_in_another_process_keeps_the_store_out_and_is_named() {
    in_two_processes!();
    const TEST: &str = "an_idle_connection_in_another_process_keeps_the_store_out_and_is_named";
    let folder = tempfile::tempdir().unwrap();
    let db = database(folder.path());
    let mut child = Child::start(TEST, "sqlite", &db);
    assert_eq!(child.hear(), "10");
    for _ in 0..2 {
        let message = locked(&db);
        let named = format!("is in use by process {} (", child.pid());
        assert!(message.contains(&named), "{message}");
        assert!(message.contains("an SQLite connection"), "{message}");
    }
    child.finish();
    let (store, report) = open(&db);
    assert_eq!(report.recovery.decision, Decision::Clean);
    commit(&store);
}

/// POSIX locks go when any descriptor of the file is closed in the process that has them. So nothing here may
/// read the database file meanwhile, and a store that was refused must not close what it had opened.
#[test]
fn an_idle_connection_in_this_process_keeps_the_store_out_and_is_named() {
    in_two_processes!();
    const TEST: &str = "an_idle_connection_in_this_process_keeps_the_store_out_and_is_named";
    let folder = tempfile::tempdir().unwrap();
    let db = database(folder.path());
    let connection = connect(&db);
    assert_eq!(sqlite::count(&connection, "t"), 10);
    let named = format!(
        "is in use by this process ({}) (an SQLite connection)",
        std::process::id()
    );
    let descriptors = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        links
            .filter(|link| std::fs::read_link(link.as_ref().unwrap().path()).is_ok_and(|target| target == db))
            .count()
    };
    assert_eq!(descriptors(), 1, "SQLite's");
    for _ in 0..20 {
        match Store::open(&db, Options::new()) {
            Err(error @ Error::Locked { .. }) => assert!(error.to_string().contains(&named), "{error}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(walmend::identify(&UnixVfs::new(), &db).unwrap().db_pages, 2);
        assert_eq!(
            descriptors(),
            2,
            "one of ours stays open, however often somebody tries"
        );
    }
    // Nor does another process get in.
    let mut child = Child::start(TEST, "open", &db);
    let answer = child.hear();
    child.finish();
    assert!(
        answer.contains(&format!("is in use by process {} (", std::process::id())),
        "{answer}"
    );
    drop(connection);
    let (store, _) = open(&db);
    commit(&store);
    assert_eq!(probe(&db), [BUSY; 3]);
    store.close().unwrap();
    assert_eq!(probe(&db), [0; 3]);
}

#[test]
fn a_connection_in_this_process_keeps_its_lock_when_the_last_of_a_closed_store_goes() {
    in_two_processes!();
    const TEST: &str = "a_connection_in_this_process_keeps_its_lock_when_the_last_of_a_closed_store_goes";
    let folder = tempfile::tempdir().unwrap();
    let db = database(folder.path());
    let (store, _) = open(&db);
    commit(&store);
    let snapshot = store.snapshot().unwrap();
    store.close().unwrap();
    let connection = connect(&db);
    assert_eq!(sqlite::count(&connection, "t"), 10);
    // It holds the store's files open up to here.
    drop(snapshot);
    let mut child = Child::start(TEST, "open", &db);
    let answer = child.hear();
    child.finish();
    assert!(
        answer.contains(&format!("is in use by process {} (", std::process::id())),
        "{answer}"
    );
}

#[test]
fn a_store_in_another_process_keeps_both_out_and_is_named() {
    in_two_processes!();
    const TEST: &str = "a_store_in_another_process_keeps_both_out_and_is_named";
    let folder = tempfile::tempdir().unwrap();
    let db = database(folder.path());
    let mut child = Child::start(TEST, "store", &db);
    child.hear();
    let message = locked(&db);
    let named = format!("is in use by a walmend store in process {} (", child.pid());
    assert!(message.contains(&named), "{message}");
    assert_eq!(probe(&db), [BUSY; 3]);
    child.finish();
    open(&db).0.close().unwrap();
    assert_eq!(probe(&db), [0; 3]);
}

#[test]
fn a_store_in_this_process_keeps_a_store_in_another_out() {
    in_two_processes!();
    const TEST: &str = "a_store_in_this_process_keeps_a_store_in_another_out";
    let folder = tempfile::tempdir().unwrap();
    let db = database(folder.path());
    let (store, _) = open(&db);
    let mut child = Child::start(TEST, "open", &db);
    let answer = child.hear();
    child.finish();
    let named = format!("is in use by a walmend store in process {} (", std::process::id());
    assert!(answer.contains(&named), "{answer}");
    commit(&store);
    store.close().unwrap();
    let mut child = Child::start(TEST, "open", &db);
    assert_eq!(child.hear(), "opened");
    child.finish();
}

#[test]
fn the_lock_of_a_killed_process_is_gone_and_its_commits_are_there() {
    in_two_processes!();
    const TEST: &str = "the_lock_of_a_killed_process_is_gone_and_its_commits_are_there";
    let folder = tempfile::tempdir().unwrap();
    let db = database(folder.path());
    let mut pages = Vec::new();
    for round in 1..=3 {
        let mut child = Child::start(TEST, "store", &db);
        let committed: u64 = child.hear().parse().unwrap();
        assert!(matches!(
            Store::open(&db, Options::new()),
            Err(Error::Locked { .. })
        ));
        child.kill();
        let (store, report) = open(&db);
        assert_eq!(report.commit_seq.0, committed, "round {round}");
        assert_eq!(
            (report.recovery.decision, report.recovery.commits),
            (Decision::Clean, round)
        );
        assert_ne!(store_pages(&store), pages, "each child committed something");
        pages = store_pages(&store);
    }
    // SQLite gets in just as well.
    let mut child = Child::start(TEST, "store", &db);
    child.hear();
    assert_eq!(probe(&db), [BUSY; 3]);
    child.kill();
    let connection = connect(&db);
    assert_eq!(sqlite::integrity(&connection), "ok");
    assert_eq!(sqlite::checkpoint(&connection, "PASSIVE"), (0, 4, 4));
}

#[test]
fn a_connection_that_waits_gets_in_when_the_store_closes() {
    let folder = tempfile::tempdir().unwrap();
    let db = database(folder.path());
    let (store, _) = open(&db);
    commit(&store);
    walmend_sync::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let connection = connect(&db);
            connection.busy_timeout(Duration::from_secs(30)).unwrap();
            sqlite::count(&connection, "t")
        });
        store.close().unwrap();
        assert_eq!(waiting.join().unwrap(), 10);
    });
    assert!(
        !wal_of(&db).exists(),
        "the last connection has checkpointed the log"
    );
}
