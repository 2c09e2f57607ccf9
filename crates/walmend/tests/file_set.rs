//! What becomes of a database whose files are moved, replaced, mixed up or not writable.
#![cfg(feature = "repair")]

mod common;

use common::child::{self, Child};
use common::{folder_bytes, page};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use walmend::{CheckpointMode, Error, ErrorKind, LogFate, OnDamage, Options, Store, Whereabouts};

const SUFFIXES: [&str; 4] = ["", "-wal", "-wal-meta", "-wal-fec"];
const ALL_MODES: [CheckpointMode; 4] = [
    CheckpointMode::Passive,
    CheckpointMode::Full,
    CheckpointMode::Restart,
    CheckpointMode::Truncate,
];

fn put(store: &Store, number: u32, byte: u8) {
    let mut txn = store.begin().unwrap();
    txn.write(page(number), vec![byte; 4096]).unwrap();
    txn.commit().into_result().unwrap();
}

fn get(store: &Store, number: u32) -> u8 {
    store.snapshot().unwrap().read(page(number)).unwrap()[0]
}

fn open(path: &Path) -> Store {
    Store::open(path, Options::new()).unwrap().0
}

fn refusal(path: &Path, options: Options) -> Error {
    match Store::open(path, options) {
        Err(error) => error,
        Ok((_, report)) => panic!("{report:?}"),
    }
}

/// A closed database: pages 1 to 3 in its file, and a newer page 1 in its log.
fn closed(path: &Path, byte: u8) {
    let store = open(path);
    for number in 1..=3 {
        put(&store, number, byte);
    }
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    put(&store, 1, byte + 1);
    store.close().unwrap();
}

fn assert_closed(path: &Path, byte: u8) {
    assert_closed_with(path, [byte + 1, byte, byte]);
}

fn assert_closed_with(path: &Path, expected: [u8; 3]) {
    let store = open(path);
    let pages: Vec<u8> = (1..=3).map(|number| get(&store, number)).collect();
    assert_eq!(pages, expected);
    store.close().unwrap();
}

fn beside(db: &Path, suffix: &str) -> PathBuf {
    walmend_wal::with_suffix(db, suffix)
}

fn assert_moved(error: &Error, path: &Path) {
    assert_eq!(error.kind(), ErrorKind::Moved, "{error}");
    let named = fs::canonicalize(path.parent().unwrap())
        .unwrap()
        .join(path.file_name().unwrap());
    assert!(
        error.to_string().starts_with(&named.display().to_string()),
        "{error}"
    );
}

#[test]
fn an_empty_or_missing_database_beside_a_log_is_refused_and_nothing_is_changed() {
    for empty in [true, false] {
        for create in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let db = folder.path().join("a.db");
            closed(&db, 1);
            let kept = fs::read(&db).unwrap();
            fs::remove_file(&db).unwrap();
            if empty {
                fs::write(&db, b"").unwrap();
            }
            let before = folder_bytes(folder.path());
            let error = refusal(&db, Options::new().create(create));
            let said = error.to_string();
            assert!(said.contains("a.db") && !said.contains("damaged"), "{said}");
            if create {
                assert!(said.contains("a.db-wal"), "{said}");
            }
            assert!(folder_bytes(folder.path()) == before, "{said}");
            // Brought back, it is whole.
            fs::write(&db, kept).unwrap();
            assert_closed(&db, 1);
        }
    }
}

#[test]
fn a_database_replaced_under_an_open_store_is_noticed_and_neither_file_loses_anything() {
    for mode in ALL_MODES {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("a.db");
        closed(&db, 1);
        let store = open(&db);
        put(&store, 2, 9);
        let ours = folder.path().join("ours");
        fs::rename(&db, &ours).unwrap();
        fs::write(&db, vec![0xee; 3 * 4096]).unwrap();
        let log = fs::read(beside(&db, "-wal")).unwrap();
        let main = fs::read(&ours).unwrap();

        assert_moved(&store.checkpoint(mode).unwrap_err(), &db);
        assert_eq!(get(&store, 2), 9, "reading goes on");
        assert_moved(&store.close().unwrap_err(), &db);
        assert!(fs::read(&db).unwrap() == [0xee; 3 * 4096]);
        assert!(fs::read(beside(&db, "-wal")).unwrap() == log);
        assert!(fs::read(&ours).unwrap() == main);

        fs::rename(&ours, &db).unwrap();
        let store = open(&db);
        assert_eq!((get(&store, 1), get(&store, 2)), (2, 9), "{mode:?}");
    }
}

#[test]
fn a_database_that_gets_its_name_back_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (db, away) = (folder.path().join("a.db"), folder.path().join("b.db"));
    closed(&db, 1);
    let store = open(&db);
    fs::rename(&db, &away).unwrap();
    put(&store, 3, 7);
    assert_moved(&store.checkpoint(CheckpointMode::Truncate).unwrap_err(), &db);
    fs::rename(&away, &db).unwrap();
    let report = store.checkpoint(CheckpointMode::Truncate).unwrap();
    assert_eq!(report.log, LogFate::Truncated);
    store.close().unwrap();
    assert_eq!(get(&open(&db), 3), 7);
}

#[test]
fn a_database_removed_while_open_leaves_its_log_alone_and_is_not_created_anew() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("a.db");
    closed(&db, 1);
    let store = open(&db);
    fs::remove_file(&db).unwrap();
    let log = fs::read(beside(&db, "-wal")).unwrap();
    assert_moved(&store.checkpoint(CheckpointMode::Restart).unwrap_err(), &db);
    assert_moved(&store.close().unwrap_err(), &db);
    assert!(fs::read(beside(&db, "-wal")).unwrap() == log);
    assert_eq!(refusal(&db, Options::new()).kind(), ErrorKind::NotADatabase);
    assert!(!db.exists());
}

#[test]
fn a_log_removed_while_open_is_saved_by_a_checkpoint_which_says_so() {
    for mode in ALL_MODES {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("a.db");
        closed(&db, 1);
        let store = open(&db);
        put(&store, 2, 9);
        fs::remove_file(beside(&db, "-wal")).unwrap();
        assert_moved(&store.checkpoint(mode).unwrap_err(), &beside(&db, "-wal"));
        assert_moved(&store.close().unwrap_err(), &beside(&db, "-wal"));
        let store = open(&db);
        assert_eq!((get(&store, 1), get(&store, 2)), (2, 9), "{mode:?}");
    }
}

#[test]
fn a_closed_file_set_may_be_renamed_or_copied_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second, third] = ["a.db", "b.db", "elsewhere/c.db"].map(|name| folder.path().join(name));
    closed(&first, 1);
    for suffix in SUFFIXES {
        fs::rename(beside(&first, suffix), beside(&second, suffix)).unwrap();
    }
    assert_closed(&second, 1);
    fs::create_dir(third.parent().unwrap()).unwrap();
    for suffix in SUFFIXES {
        fs::copy(beside(&second, suffix), beside(&third, suffix)).unwrap();
    }
    assert_closed(&third, 1);
    assert_closed(&second, 1);
    // The protection has come along: a frame that rots is healed.
    let log = beside(&third, "-wal");
    let mut bytes = fs::read(&log).unwrap();
    bytes[32 + 24 + 100] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let (store, report) = Store::open(&third, Options::new()).unwrap();
    assert_eq!(report.healed_frames, [1]);
    assert_eq!(get(&store, 1), 2);
}

#[test]
fn a_main_file_copied_without_its_log_lacks_what_was_only_there() {
    let folder = tempfile::tempdir().unwrap();
    let (db, copy) = (folder.path().join("a.db"), folder.path().join("b.db"));
    closed(&db, 1);
    fs::copy(&db, &copy).unwrap();
    let page_size = walmend::PageSize::new(4096).unwrap();
    let (store, _) = Store::open(&copy, Options::new().page_size(page_size)).unwrap();
    assert_eq!(get(&store, 1), 1);
}

#[test]
fn sidecars_of_another_log_change_nothing_that_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (db, other) = (folder.path().join("a.db"), folder.path().join("b.db"));
    closed(&db, 1);
    closed(&other, 5);
    // Its parity belongs to other salts: it heals nothing here, and is begun anew.
    fs::copy(beside(&other, "-wal-fec"), beside(&db, "-wal-fec")).unwrap();
    let (store, report) = Store::open(&db, Options::new()).unwrap();
    assert_eq!(report.healed_frames, []);
    store.close().unwrap();
    assert_closed(&db, 1);
    // Its companion speaks of another log, and of a database that has changed since: the log counts, as any
    // that sqlite3 has written meanwhile would.
    fs::copy(beside(&other, "-wal-meta"), beside(&db, "-wal-meta")).unwrap();
    assert_closed(&db, 1);
}

/// Nothing was written to the database since: whoever began that log did not go on from the one that is missing.
#[test]
fn a_log_of_another_database_in_the_place_of_the_known_one_is_refused_until_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let (db, other) = (folder.path().join("a.db"), folder.path().join("b.db"));
    closed(&db, 1);
    closed(&other, 5);
    let log = fs::read(beside(&db, "-wal")).unwrap();
    fs::copy(beside(&other, "-wal"), beside(&db, "-wal")).unwrap();
    let before = folder_bytes(folder.path());
    let error = refusal(&db, Options::new());
    assert!(
        matches!(&error, Error::WalCorrupt { lost_commits: 1, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("does not follow from it"), "{error}");
    assert!(folder_bytes(folder.path()) == before, "{error}");
    // The right one in its place, nothing is lost.
    let stranger = fs::read(beside(&db, "-wal")).unwrap();
    fs::write(beside(&db, "-wal"), log).unwrap();
    assert_closed(&db, 1);
    // Told to, it goes on with the one that is there, and keeps a copy of that.
    fs::write(beside(&db, "-wal"), &stranger).unwrap();
    let (store, report) = Store::open(&db, Options::new().on_damage(OnDamage::Salvage)).unwrap();
    assert_eq!(report.recovery.replaced, Some(Whereabouts::Lost));
    assert_eq!((get(&store, 1), get(&store, 2)), (6, 1));
    assert!(fs::read(report.recovery.kept_aside.unwrap()).unwrap() == stranger);
    store.close().unwrap();
    assert_closed_with(&db, [6, 1, 1]);
}

/// Without a time of the database that says otherwise, the other log may be that of a program that went on.
#[test]
fn a_log_in_the_place_of_the_known_one_counts_where_the_database_was_written_since() {
    let folder = tempfile::tempdir().unwrap();
    let (db, other) = (folder.path().join("a.db"), folder.path().join("b.db"));
    closed(&db, 1);
    closed(&other, 5);
    fs::copy(beside(&other, "-wal"), beside(&db, "-wal")).unwrap();
    let main = fs::read(&db).unwrap();
    fs::write(&db, main).unwrap();
    let (store, report) = Store::open(&db, Options::new()).unwrap();
    assert_eq!(report.recovery.replaced, Some(Whereabouts::ChangedSince));
    assert_eq!(report.healed_frames, [], "its parity is of other salts");
    assert_eq!((get(&store, 1), get(&store, 2)), (6, 1));
}

#[test]
fn a_log_that_is_gone_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("a.db");
    closed(&db, 1);
    let log = fs::read(beside(&db, "-wal")).unwrap();
    fs::remove_file(beside(&db, "-wal")).unwrap();
    let before = folder_bytes(folder.path());
    let error = refusal(&db, Options::new());
    assert_eq!(error.kind(), ErrorKind::WalCorrupt, "{error}");
    assert!(error.to_string().contains("a.db-wal"), "{error}");
    assert!(folder_bytes(folder.path()) == before, "{error}");
    fs::write(beside(&db, "-wal"), log).unwrap();
    assert_closed(&db, 1);
}

#[test]
fn one_process_opens_a_database_once_by_whatever_name() {
    let folder = tempfile::tempdir().unwrap();
    let [db, hard, soft] = ["a.db", "hard.db", "soft.db"].map(|name| folder.path().join(name));
    closed(&db, 1);
    fs::hard_link(&db, &hard).unwrap();
    symlink(&db, &soft).unwrap();
    let store = open(&db);
    for (name, says) in [
        (&db, "this process"),
        (&soft, "this process"),
        (&hard, "a walmend store"),
    ] {
        match refusal(name, Options::new()) {
            Error::Locked { holder, .. } => assert!(holder.contains(says), "{}: {holder}", name.display()),
            other => panic!("{other}"),
        }
    }
    assert!(!beside(&hard, "-wal").exists());
    store.close().unwrap();
    assert_closed(&soft, 1);
}

#[test]
fn a_process_that_a_killed_store_has_started_does_not_keep_the_lock() {
    let name = "a_process_that_a_killed_store_has_started_does_not_keep_the_lock";
    if let Some((_, db)) = child::role() {
        let store = open(&db);
        put(&store, 2, 8);
        let mut outlives = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child::say(&outlives.id().to_string());
        child::wait_for_parent();
        outlives.kill().unwrap();
        outlives.wait().unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("a.db");
    closed(&db, 1);
    let mut holder = Child::start(name, "holder", &db);
    let started = PathBuf::from(format!("/proc/{}/fd", holder.hear()));
    assert_eq!(refusal(&db, Options::new()).kind(), ErrorKind::Locked);
    let inherited: Vec<PathBuf> = fs::read_dir(started)
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter(|open| open.starts_with(fs::canonicalize(folder.path()).unwrap()))
        .collect();
    assert!(inherited.is_empty(), "{inherited:?}");
    holder.kill();
    assert_eq!(get(&open(&db), 2), 8);
}

/// Root may write everywhere, so a child that has less rights looks at the files.
#[test]
fn files_that_may_not_be_written_are_refused_by_name() {
    let name = "files_that_may_not_be_written_are_refused_by_name";
    if let Some((_, db)) = child::role() {
        let error = refusal(&db, Options::new());
        child::say(&format!("{} {error}", error.kind()));
        return;
    }
    const NOBODY: u32 = 65534;
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let (in_log, gone) = (folder.path().join("a.db"), folder.path().join("b.db"));
    closed(&in_log, 1);
    closed(&gone, 1);
    for suffix in &SUFFIXES[1..] {
        fs::remove_file(beside(&gone, suffix)).unwrap();
    }
    // The second one could be written, but its log cannot be created.
    for (file, rights) in folder_bytes(folder.path()).into_keys().map(|file| (file, 0o444)) {
        mode(&folder.path().join(file), rights);
    }
    mode(&gone, 0o666);
    mode(folder.path(), 0o555);
    let before = folder_bytes(folder.path());
    for (db, kind, file) in [(&in_log, "read_only", "a.db"), (&gone, "", "b.db")] {
        let mut reader = Child::start_as(name, "reader", db, root.then_some(NOBODY));
        let said = reader.hear();
        assert!(said.starts_with(kind) && said.contains(file), "{said}");
        reader.finish();
    }
    assert!(folder_bytes(folder.path()) == before);
    mode(folder.path(), 0o755);
}
