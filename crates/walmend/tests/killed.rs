//! Processes that are really killed, at each operation that writes.

mod common;

use common::child::{self, Child};
use common::kill::{KillVfs, When};
use common::sqlite::{connect, count, integrity};
use common::{copy, page};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use walmend::{CheckpointMode, Error, Options, Store};
use walmend_repair::{ReedSolomon, Work, heal_database};
use walmend_types::Cx;
use walmend_vfs::UnixVfs;
use walmend_wal::FileSet;

const FILES: [&str; 4] = ["-wal", "-wal-meta", "-wal-fec", "-fec"];

/// What the child does: opens the database, and, if told so, checkpoints it; dies on the way or says that it is through.
fn play(role: &str, db: &Path) {
    let (work, rest) = role.split_once(' ').unwrap();
    let (when, number) = rest.split_once(' ').unwrap();
    let number: u64 = number.parse().unwrap();
    let vfs = KillVfs::new(When::named(when));
    // Without sidecars only what is being tested writes.
    let sidecars = work == "protected";
    let options = Options::new()
        .create(false)
        .repair(sidecars)
        .protect_database(sidecars)
        .vfs(Arc::new(vfs.clone()));
    match work {
        "recover" => {
            vfs.die_at(number);
            drop(Store::open(db, options).unwrap());
        }
        "checkpoint" | "protected" => {
            let (store, _) = Store::open(db, options).unwrap();
            vfs.die_at(number);
            for mode in [CheckpointMode::Passive, CheckpointMode::Truncate] {
                store.checkpoint(mode).unwrap();
            }
        }
        other => panic!("{other}"),
    }
}

/// A database of SQLite's whose process was killed by now: `rows` committed rows, and behind them a torn tail.
fn killed_by_surprise(folder: &Path, rows: u32) -> PathBuf {
    let live = folder.join("live.db");
    let connection = connect(&live);
    connection
        .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)")
        .unwrap();
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    common::sqlite::insert(&connection, rows);
    let db = copy(&live, &folder.join("killed"), &["-wal"]);
    // Ours from here on: a companion that knows the log, and a last commit that only half arrived.
    let (store, _) = common::open(&db);
    let mut txn = store.begin().unwrap();
    let image = txn.read(page(2)).unwrap();
    txn.write(page(2), image).unwrap();
    txn.commit().into_result().unwrap();
    let as_killed = copy(&db, &folder.join("template"), &FILES);
    let wal = common::wal_of(&as_killed);
    let mut bytes = fs::read(&wal).unwrap();
    let frames = bytes.len().min(32 + 4120 * store.stats().log_frames as usize);
    let torn: Vec<u8> = bytes[frames - 4120..frames - 1000].to_vec();
    bytes.truncate(frames);
    bytes.extend(torn);
    fs::write(&wal, bytes).unwrap();
    as_killed
}

/// Has a bit of the database file rot, and be healed from the sidecar that the kill left.
fn assert_heals(db: &Path, what: &str) {
    let whole = fs::read(db).unwrap();
    let mut rotten = whole.clone();
    rotten[4096 + 1234] ^= 2;
    // Behind everybody's back: the time of the file does not change.
    let time = fs::metadata(db).unwrap().modified().unwrap();
    fs::write(db, &rotten).unwrap();
    let file = fs::File::options().write(true).open(db).unwrap();
    file.set_modified(time).unwrap();
    drop(file);
    let (cx, files) = (Cx::new(), FileSet::of(db));
    let report = heal_database(&UnixVfs::new(), &files, &ReedSolomon, false, &Work::new(&cx));
    assert_eq!(report.unwrap().unwrap().pages_healed, [2], "{what}");
    assert!(fs::read(db).unwrap() == whole, "{what}");
}

/// Kills the child at each of its operations in turn, and has everything checked each time; answers how many there were.
fn kill_at_every_operation(test: &str, work: &str, rows: u32) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let template = killed_by_surprise(folder.path(), rows);
    let mut kills = 0;
    for when in When::ALL {
        for number in 1.. {
            let place = folder.path().join(format!("{work}-{when:?}-{number}"));
            let db = copy(&template, &place, &FILES);
            let what = format!("{work}, {when:?} operation {number}");
            if Child::start(test, &format!("{work} {when:?} {number}"), &db).ends_well() {
                assert!(number > 5, "{what}: it wrote almost nothing");
                break;
            }
            kills += 1;
            // SQLite sees a sound database at every stop; on a copy, for it changes the evidence.
            let seen = copy(&db, &place.join("seen"), &FILES);
            let connection = connect(&seen);
            assert_eq!(integrity(&connection), "ok", "{what}");
            assert_eq!(count(&connection, "t"), u64::from(rows), "{what}");
            drop(connection);
            // The next open finishes the work.
            let options = Options::new().protect_database(work == "protected");
            let (store, _) = Store::open(&db, options).unwrap();
            store.checkpoint(CheckpointMode::Truncate).unwrap();
            store.close().unwrap();
            if work == "protected" {
                assert_heals(&db, &what);
            }
            let connection = connect(&db);
            assert_eq!(integrity(&connection), "ok", "{what}, finished");
            assert_eq!(count(&connection, "t"), u64::from(rows), "{what}, finished");
            drop(connection);
            fs::remove_dir_all(&place).unwrap();
        }
    }
    kills
}

#[test]
fn a_recovery_that_is_killed_at_any_operation_is_finished_by_the_next_open() {
    let test = "a_recovery_that_is_killed_at_any_operation_is_finished_by_the_next_open";
    match child::role() {
        Some((role, db)) => play(&role, &db),
        None => assert!(kill_at_every_operation(test, "recover", 40) >= 20),
    }
}

#[test]
fn a_checkpoint_that_is_killed_at_any_operation_loses_nothing() {
    let test = "a_checkpoint_that_is_killed_at_any_operation_loses_nothing";
    match child::role() {
        Some((role, db)) => play(&role, &db),
        None => assert!(kill_at_every_operation(test, "checkpoint", 40) >= 20),
    }
}

#[test]
fn a_checkpoint_with_sidecars_that_is_killed_at_any_operation_loses_nothing_and_heals_what_rots_later() {
    let test =
        "a_checkpoint_with_sidecars_that_is_killed_at_any_operation_loses_nothing_and_heals_what_rots_later";
    match child::role() {
        Some((role, db)) => play(&role, &db),
        None => assert!(kill_at_every_operation(test, "protected", 40) >= 40),
    }
}

/// What opening a store that others open as well may answer.
fn is_documented(error: &Error) -> bool {
    matches!(error, Error::Locked { .. } | Error::BusyRecovery { .. }) && error.is_transient()
}

#[test]
fn openers_that_race_for_a_crashed_store_recover_it_once_and_are_told_to_wait() {
    let test = "openers_that_race_for_a_crashed_store_recover_it_once_and_are_told_to_wait";
    if let Some((opens, db)) = child::role() {
        let opens: u32 = opens.parse().unwrap();
        let mut opened = 0;
        while opened < opens {
            match Store::open(&db, Options::new().create(false)) {
                Ok((store, _)) => {
                    opened += 1;
                    let snapshot = store.snapshot().unwrap();
                    assert!(snapshot.read(page(2)).is_ok());
                    drop(snapshot);
                    store.close().unwrap();
                }
                Err(error) => {
                    assert!(is_documented(&error), "{error:?}");
                    walmend_sync::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        child::say("through");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let db = killed_by_surprise(folder.path(), 40);
    // `WALMEND_OPENERS=64x100` for 64 processes and 100 opens each.
    let wanted = std::env::var("WALMEND_OPENERS").unwrap_or_else(|_| "8x5".into());
    let (processes, opens) = wanted.split_once('x').unwrap();
    let processes: usize = processes.parse().unwrap();
    let children: Vec<Child> = (0..processes).map(|_| Child::start(test, opens, &db)).collect();
    for mut child in children {
        assert_eq!(child.hear(), "through");
        child.finish();
    }
    let connection = connect(&db);
    assert_eq!(
        (integrity(&connection).as_str(), count(&connection, "t")),
        ("ok", 40)
    );
}
