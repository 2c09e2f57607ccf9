//! The sidecar of the database file, kept in step by checkpoints, whatever interrupts them.

#![cfg(feature = "repair")]

mod common;

use common::Random;
use std::path::Path;
use std::sync::Arc;
use walmend::{CheckpointMode, Options, PageNumber, Pages, Store};
use walmend_repair::{DatabaseCheck, ReedSolomon, Standing, Work, heal_database};
use walmend_types::{Cx, PageSize};
use walmend_vfs::sim::{CrashKeep, SimVfs};
use walmend_wal::FileSet;

const DB: &str = "/a.db";
const PAGE: usize = 512;

fn options(vfs: &SimVfs, protect: bool) -> Options {
    Options::new()
        .vfs(Arc::new(vfs.clone()))
        .pages(Pages::Raw)
        .page_size(PageSize::new(PAGE as u32).unwrap())
        .preallocate(0)
        .repair(false)
        .protect_database(protect)
}

fn open(vfs: &SimVfs, protect: bool) -> walmend::Result<Store> {
    Store::open(DB, options(vfs, protect)).map(|(store, _)| store)
}

/// Commits a few pages of their own content.
fn commit(store: &Store, random: &mut Random, pages: u64) -> walmend::Result<()> {
    let mut txn = store.begin()?;
    for _ in 0..3 {
        let page = 1 + random.next() % pages;
        let byte = random.next() as u8;
        txn.write(PageNumber::new(page as u32)?, [byte; PAGE])?;
    }
    txn.commit().into_result().map(drop)
}

fn check(vfs: &SimVfs) -> DatabaseCheck {
    let cx = Cx::new();
    DatabaseCheck::make(vfs, &FileSet::of(Path::new(DB)), &Work::new(&cx))
        .unwrap()
        .unwrap()
}

fn heal(vfs: &SimVfs) -> Vec<u32> {
    let cx = Cx::new();
    let files = FileSet::of(Path::new(DB));
    let report = heal_database(vfs, &files, &ReedSolomon, false, &Work::new(&cx));
    report.unwrap().unwrap().pages_healed
}

/// A database of 40 pages with its sidecar, closed.
fn protected() -> SimVfs {
    let vfs = SimVfs::new(1);
    let mut random = Random(1);
    let store = open(&vfs, false).unwrap();
    for _ in 0..30 {
        commit(&store, &mut random, 40).unwrap();
    }
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    store.close().unwrap();
    open(&vfs, true).unwrap().close().unwrap();
    vfs
}

#[test]
fn checkpoints_keep_the_sidecar_in_step_with_a_database_that_changes_and_grows() {
    let vfs = protected();
    assert_eq!(check(&vfs).standing, Standing::Current);
    let mut random = Random(2);
    for round in 0..12 {
        let store = open(&vfs, false).unwrap();
        for mode in [
            CheckpointMode::Passive,
            CheckpointMode::Restart,
            CheckpointMode::Truncate,
        ] {
            for _ in 0..4 {
                commit(&store, &mut random, 40 + round * 7).unwrap();
            }
            store.checkpoint(mode).unwrap();
            let now = check(&vfs);
            assert!(now.standing.decides(), "{round} {mode:?}: {now:?}");
            assert!(now.damaged.is_empty() && now.undecided.is_empty(), "{now:?}");
            assert!(store.stats().protection.unwrap().in_step);
        }
        store.close().unwrap();
        let now = check(&vfs);
        assert_eq!(
            (now.standing, now.written, now.bad_records),
            (Standing::Current, 0, 0)
        );
        let whole = vfs.dump(Path::new(DB)).unwrap();
        assert_eq!(now.pages_covered as usize, whole.len() / PAGE);
        let at = random.next() % whole.len() as u64;
        assert!(vfs.flip_bit(Path::new(DB), at, 3));
        assert_eq!(heal(&vfs), [(at / PAGE as u64) as u32 + 1]);
        assert!(vfs.dump(Path::new(DB)).unwrap() == whole);
    }
}

#[test]
fn a_page_that_rotted_before_a_checkpoint_is_not_taken_into_the_new_parity_and_healed_behind_it() {
    let vfs = protected();
    let mut random = Random(3);
    let store = open(&vfs, false).unwrap();
    // Page 40 rots; page 1 is written, and in a window of one page per stripe so is its whole stripe. Growing by one
    // page of every stripe makes each of them anew.
    let before = vfs.dump(Path::new(DB)).unwrap();
    assert!(vfs.flip_bit(Path::new(DB), 39 * PAGE as u64 + 5, 1));
    let mut txn = store.begin().unwrap();
    // Page 552 is in the stripe of page 40: there are 512 stripes.
    txn.write(PageNumber::new(552).unwrap(), [9; PAGE]).unwrap();
    txn.commit().into_result().unwrap();
    commit(&store, &mut random, 10).unwrap();
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    let stats = store.stats().protection.unwrap();
    assert_eq!((stats.healed_pages, stats.damaged_pages.len()), (1, 0));
    store.close().unwrap();
    assert!(check(&vfs).damaged.is_empty());
    assert!(vfs.dump(Path::new(DB)).unwrap()[39 * PAGE..40 * PAGE] == before[39 * PAGE..40 * PAGE]);
}

/// Power lost, or the process killed, at each operation of commits and checkpoints: afterwards the parity matches the
/// database, or is known not to; and the next store brings both together again.
#[test]
fn wherever_a_checkpoint_is_interrupted_the_parity_matches_or_is_known_not_to() {
    let disk = protected();
    let work = |vfs: &SimVfs| -> walmend::Result<()> {
        let mut random = Random(4);
        let store = open(vfs, false)?;
        for mode in [
            CheckpointMode::Passive,
            CheckpointMode::Restart,
            CheckpointMode::Truncate,
        ] {
            for _ in 0..2 {
                commit(&store, &mut random, 45)?;
            }
            store.checkpoint(mode)?;
        }
        store.close()
    };
    let undisturbed = disk.fork();
    let before = undisturbed.ops();
    work(&undisturbed).unwrap();
    let ops = undisturbed.ops() - before;
    assert!(ops > 40, "{ops}");
    let mut decided = 0;
    for op in 1..=ops {
        let keeps = [CrashKeep::None, CrashKeep::All]
            .into_iter()
            .chain([CrashKeep::Random(op)]);
        for keep in keeps {
            let vfs = disk.fork();
            vfs.crash_at_op(op);
            let _ = work(&vfs);
            let vfs = vfs.crash(keep.clone());
            let found = check(&vfs);
            // What the log will write is no damage, and nothing else is torn.
            assert!(found.damaged.is_empty(), "{op} {keep:?}: {found:?}");
            decided += u32::from(found.standing.decides());
            let content = vfs.dump(Path::new(DB)).unwrap();
            assert!(heal(&vfs).is_empty(), "{op} {keep:?}");
            assert!(vfs.dump(Path::new(DB)).unwrap() == content);
            // The next store completes or discards, and is in step.
            let mut random = Random(op);
            let store = open(&vfs, true).unwrap();
            commit(&store, &mut random, 50).unwrap();
            store.checkpoint(CheckpointMode::Truncate).unwrap();
            store.close().unwrap();
            let now = check(&vfs);
            assert_eq!(
                (now.standing, now.damaged.len()),
                (Standing::Current, 0),
                "{op} {keep:?}"
            );
            let whole = vfs.dump(Path::new(DB)).unwrap();
            let at = random.next() % whole.len() as u64;
            assert!(vfs.flip_bit(Path::new(DB), at, 1));
            assert_eq!(heal(&vfs).len(), 1, "{op} {keep:?}");
            assert!(vfs.dump(Path::new(DB)).unwrap() == whole, "{op} {keep:?}");
        }
    }
    // Most of the time nothing is forgotten.
    assert!(decided > 0);
}

/// What an interrupted healing left looks like somebody's write, and is none: opening must not take it into the parity.
#[test]
fn opening_finishes_an_interrupted_healing_before_it_protects_anew() {
    let disk = protected();
    let whole = disk.dump(Path::new(DB)).unwrap();
    for page in [3, 7, 20] {
        assert!(disk.flip_bit(Path::new(DB), page * PAGE as u64 + 9, 2));
    }
    let undisturbed = disk.fork();
    let before = undisturbed.ops();
    assert_eq!(heal(&undisturbed), [4, 8, 21]);
    let ops = undisturbed.ops() - before;
    for op in 1..=ops {
        for keep in [CrashKeep::None, CrashKeep::All, CrashKeep::Random(op)] {
            let vfs = disk.fork();
            vfs.crash_at_op(op);
            let cx = Cx::new();
            let files = FileSet::of(Path::new(DB));
            let _ = heal_database(&vfs, &files, &ReedSolomon, false, &Work::new(&cx));
            let vfs = vfs.crash(keep.clone());
            open(&vfs, true).unwrap().close().unwrap();
            heal(&vfs);
            assert!(vfs.dump(Path::new(DB)).unwrap() == whole, "{op} {keep:?}");
        }
    }
}

#[test]
fn a_file_from_the_future_of_this_clock_is_protected_all_the_same() {
    // So it looks after the clock was set back, and where a server keeps the time of its files.
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("a.db");
    let open = |protect| {
        let options = Options::new().repair(false).protect_database(protect);
        Store::open(&db, options).unwrap().0
    };
    let store = open(false);
    let mut txn = store.begin().unwrap();
    txn.write(PageNumber::new(2).unwrap(), vec![7; 4096]).unwrap();
    txn.commit().into_result().unwrap();
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    store.close().unwrap();
    // There is no log that could tell instead.
    std::fs::remove_file(db.with_extension("db-wal")).unwrap();
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let file = std::fs::File::options().write(true).open(&db).unwrap();
    file.set_modified(ahead).unwrap();
    for _ in 0..2 {
        let store = open(true);
        assert!(store.stats().protection.unwrap().in_step);
        store.close().unwrap();
    }
}

#[test]
fn pages_that_come_back_after_they_were_cut_off_are_new_ones() {
    let vfs = SimVfs::new(1);
    let mut random = Random(7);
    let write =
        |store: &Store, pages: std::ops::RangeInclusive<u32>, size: Option<u32>, random: &mut Random| {
            let mut txn = store.begin().unwrap();
            if let Some(size) = size {
                txn.set_db_pages(size).unwrap();
            }
            for number in pages {
                txn.write(PageNumber::new(number).unwrap(), random.bytes(PAGE))
                    .unwrap();
            }
            txn.commit().into_result().unwrap();
            store.checkpoint(CheckpointMode::Full).unwrap();
        };
    let store = open(&vfs, true).unwrap();
    write(&store, 1..=20, None, &mut random);
    store.close().unwrap();
    let store = open(&vfs, true).unwrap();
    write(&store, 1..=2, Some(5), &mut random);
    // Pages 6 to 19 come back without being written.
    write(&store, 20..=20, None, &mut random);
    let zeros = vec![0; PAGE];
    let come_back = |store: &Store| {
        let snapshot = store.snapshot().unwrap();
        (6..20).all(|number| snapshot.read(PageNumber::new(number).unwrap()).unwrap() == zeros)
    };
    assert!(come_back(&store));
    store.close().unwrap();
    assert!(heal(&vfs).is_empty());
    assert_eq!(check(&vfs).standing, Standing::Current);
    assert!(come_back(&open(&vfs, true).unwrap()));
}
