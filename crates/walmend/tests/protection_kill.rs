//! A real process is killed at each operation that writes while it protects a database, checkpoints one with its parity, or
//! heals one. Afterwards the parity matches the database or is known not to, nothing is undone, and the next one finishes.

#![cfg(feature = "repair")]

mod common;

use common::child::{self, Child};
use common::kill::{KillVfs, When};
use common::page;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use walmend::{CheckpointMode, Options, PageSize, Pages, Store};
use walmend_repair::{DatabaseCheck, ReedSolomon, Standing, Work, heal_database, protect_database};
use walmend_types::{Cx, Result};
use walmend_vfs::{UnixVfs, Vfs};
use walmend_wal::FileSet;

const PAGE: usize = 4096;
const PAGES: u32 = 12;

fn content(number: u32, version: u8) -> Vec<u8> {
    let mut bytes = vec![version; PAGE];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn all(versions: impl Fn(u32) -> u8) -> Vec<u8> {
    (1..=PAGES)
        .flat_map(|number| content(number, versions(number)))
        .collect()
}

fn protect(vfs: &dyn Vfs, db: &Path) -> Result<()> {
    let cx = Cx::new();
    let files = FileSet::of(db);
    protect_database(vfs, &files, PageSize::DEFAULT, &ReedSolomon, &Work::new(&cx)).map(drop)
}

fn heal(vfs: &dyn Vfs, db: &Path) -> Result<Vec<u32>> {
    let cx = Cx::new();
    let report = heal_database(vfs, &FileSet::of(db), &ReedSolomon, false, &Work::new(&cx))?;
    Ok(report.map_or(Vec::new(), |report| report.pages_healed))
}

fn check(db: &Path) -> Option<DatabaseCheck> {
    let cx = Cx::new();
    DatabaseCheck::make(&UnixVfs::new(), &FileSet::of(db), &Work::new(&cx)).unwrap()
}

/// As a disk does it: the time of the file stays.
fn rot(db: &Path, numbers: &[u32]) {
    let file = File::options().read(true).write(true).open(db).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    for number in numbers {
        let at = u64::from(number - 1) * PAGE as u64 + 1000;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }
    file.set_modified(modified).unwrap();
}

fn open(vfs: impl Vfs + 'static, db: &Path) -> Store {
    let options = Options::new()
        .vfs(Arc::new(vfs))
        .pages(Pages::Raw)
        .preallocate(0)
        .checkpoint_at(0)
        .repair(false)
        .protect_database(true);
    Store::open(db, options).unwrap().0
}

fn write(store: &Store, numbers: impl IntoIterator<Item = u32>, version: u8) {
    let mut txn = store.begin().unwrap();
    for number in numbers {
        txn.write(page(number), content(number, version)).unwrap();
    }
    txn.commit().into_result().unwrap();
}

/// The child: makes what it needs, and dies at one operation of its work, or comes through.
fn play(role: &str, db: &Path) {
    let [work, when, number] = role.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{role}")
    };
    let vfs = KillVfs::new(When::named(when));
    let die = || vfs.die_at(number.parse().unwrap());
    match work {
        "protect" => {
            fs::write(db, all(|_| 1)).unwrap();
            die();
            protect(&vfs, db).unwrap();
        }
        "heal" => {
            fs::write(db, all(|_| 1)).unwrap();
            protect(&UnixVfs::new(), db).unwrap();
            rot(db, &[1, 5, 12]);
            die();
            assert_eq!(heal(&vfs, db).unwrap(), [1, 5, 12]);
        }
        "checkpoint" => {
            let store = open(vfs.clone(), db);
            write(&store, 1..PAGES, 1);
            store.checkpoint(CheckpointMode::Truncate).unwrap();
            write(&store, [2, 5, PAGES], 2);
            die();
            store.checkpoint(CheckpointMode::Passive).unwrap();
            store.checkpoint(CheckpointMode::Truncate).unwrap();
            store.close().unwrap();
        }
        other => panic!("{other}"),
    }
}

/// Kills the child at each of its operations in turn, and hands each time what it left to `look`.
fn kill_at_every_operation(test: &str, work: &str, look: impl Fn(&Path, &str)) {
    if let Some((role, db)) = child::role() {
        return play(&role, &db);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut kills = 0;
    for when in When::ALL {
        for number in 1.. {
            let place = folder.path().join(format!("{when:?}-{number}"));
            fs::create_dir(&place).unwrap();
            let (db, role) = (place.join("a.db"), format!("{work} {when:?} {number}"));
            if Child::start(test, &role, &db).ends_well() {
                break;
            }
            kills += 1;
            look(&db, &role);
            fs::remove_dir_all(&place).unwrap();
        }
    }
    assert!(kills > 20, "{kills}");
}

/// What is protected now is healed from any page of it.
fn is_protected(db: &Path, whole: &[u8], told: &str) {
    let now = check(db).unwrap();
    assert_eq!(
        (now.standing, now.damaged.len(), now.bad_records),
        (Standing::Current, 0, 0),
        "{told}"
    );
    rot(db, &[1, 5, 12]);
    assert_eq!(heal(&UnixVfs::new(), db).unwrap(), [1, 5, 12], "{told}");
    assert!(fs::read(db).unwrap() == whole, "{told}");
}

#[test]
fn protecting_that_is_killed_at_any_operation_claims_nothing_wrong_and_is_finished_by_the_next() {
    let test = "protecting_that_is_killed_at_any_operation_claims_nothing_wrong_and_is_finished_by_the_next";
    kill_at_every_operation(test, "protect", |db, told| {
        let whole = all(|_| 1);
        if let Some(found) = check(db) {
            assert!(
                found.damaged.is_empty() && found.undecided.is_empty(),
                "{told}: {found:?}"
            );
        }
        assert!(heal(&UnixVfs::new(), db).unwrap().is_empty(), "{told}");
        assert!(fs::read(db).unwrap() == whole, "{told}");
        protect(&UnixVfs::new(), db).unwrap();
        is_protected(db, &whole, told);
    });
}

#[test]
fn healing_that_is_killed_at_any_operation_is_finished_by_the_next() {
    let test = "healing_that_is_killed_at_any_operation_is_finished_by_the_next";
    kill_at_every_operation(test, "heal", |db, told| {
        let whole = all(|_| 1);
        heal(&UnixVfs::new(), db).unwrap();
        assert!(fs::read(db).unwrap() == whole, "{told}");
        is_protected(db, &whole, told);
    });
}

#[test]
fn a_checkpoint_with_parity_that_is_killed_at_any_operation_leaves_parity_that_matches_or_is_known_not_to() {
    let test = "a_checkpoint_with_parity_that_is_killed_at_any_operation_leaves_parity_that_matches_or_is_known_not_to";
    kill_at_every_operation(test, "checkpoint", |db, told| {
        let found = check(db).unwrap();
        assert!(found.damaged.is_empty(), "{told}: {found:?}");
        // Either everything is as its digest says, or it is known which pages are not.
        assert!(
            found.standing.decides() || found.undecided.is_empty(),
            "{told}: {found:?}"
        );
        let left = fs::read(db).unwrap();
        assert!(heal(&UnixVfs::new(), db).unwrap().is_empty(), "{told}");
        assert!(fs::read(db).unwrap() == left, "{told}");
        // The next open completes or discards it, and every page is what was committed.
        let store = open(UnixVfs::new(), db);
        let version = |number| if [2, 5, PAGES].contains(&number) { 2 } else { 1 };
        let snapshot = store.snapshot().unwrap();
        for number in 1..=PAGES {
            let found = snapshot.read(page(number)).unwrap();
            assert_eq!(found, content(number, version(number)), "{told}, page {number}");
        }
        drop(snapshot);
        store.checkpoint(CheckpointMode::Truncate).unwrap();
        store.close().unwrap();
        is_protected(db, &all(version), told);
    });
}
