//! Power lost at any operation of protecting and healing a database: nothing gets worse, and the next run finishes.

#![cfg(not(walmend_loom))]

use std::path::Path;
use walmend_repair::{DatabaseCheck, ReedSolomon, Standing, Work, heal_database, protect_database};
use walmend_types::{Cx, PageSize, Result};
use walmend_vfs::Vfs;
use walmend_vfs::sim::{CrashKeep, SimVfs};
use walmend_wal::FileSet;

const DB: &str = "/a.db";
const PAGE: usize = 512;

fn files() -> FileSet {
    FileSet::of(Path::new(DB))
}

fn protect(vfs: &dyn Vfs) -> Result<()> {
    let cx = Cx::new();
    let page_size = PageSize::new(PAGE as u32)?;
    protect_database(vfs, &files(), page_size, &ReedSolomon, &Work::new(&cx)).map(drop)
}

fn heal(vfs: &dyn Vfs) -> Result<Vec<u32>> {
    let cx = Cx::new();
    let report = heal_database(vfs, &files(), &ReedSolomon, false, &Work::new(&cx))?;
    Ok(report.map_or(Vec::new(), |report| report.pages_healed))
}

fn check(vfs: &dyn Vfs) -> Option<DatabaseCheck> {
    let cx = Cx::new();
    DatabaseCheck::make(vfs, &files(), &Work::new(&cx)).unwrap()
}

fn content(pages: usize, seed: usize) -> Vec<u8> {
    (0..pages * PAGE)
        .map(|i| (i / PAGE * 7 + i * 31 + seed) as u8)
        .collect()
}

fn dump(vfs: &SimVfs) -> Vec<u8> {
    vfs.dump(Path::new(DB)).unwrap()
}

/// Runs `work` on a copy of the disk with the power going at each of its operations, and hands what is left to `check`.
fn crash_everywhere(disk: &SimVfs, work: impl Fn(&dyn Vfs) -> Result<()>, check: impl Fn(&SimVfs, &str)) {
    let undisturbed = disk.fork();
    let before = undisturbed.ops();
    work(&undisturbed).unwrap();
    let ops = undisturbed.ops() - before;
    assert!(ops > 4, "it writes and syncs");
    for op in 1..=ops {
        let keeps = (0..3).map(|seed| CrashKeep::Random(seed * 1000 + op));
        for keep in keeps.chain([CrashKeep::None, CrashKeep::All]) {
            let vfs = disk.fork();
            vfs.crash_at_op(op);
            assert!(work(&vfs).is_err());
            let told = format!("operation {op} of {ops}, {keep:?}");
            check(&vfs.crash(keep), &told);
        }
    }
}

/// Whatever an interrupted run left, the next one makes a protection of it from which a page is healed.
fn finishes(left: &SimVfs, whole: &[u8], told: &str) {
    protect(left).unwrap();
    let now = check(left).unwrap();
    assert_eq!((now.standing, now.bad_records), (Standing::Current, 0), "{told}");
    assert_eq!(now.pages_covered as usize, whole.len() / PAGE, "{told}");
    for page in 0..whole.len() / PAGE {
        left.flip_bit(Path::new(DB), (page * PAGE + 9) as u64, 5);
    }
    assert_eq!(heal(left).unwrap().len(), whole.len() / PAGE, "{told}");
    assert!(dump(left) == whole, "{told}");
}

#[test]
fn an_interrupted_first_protect_claims_nothing_and_is_finished_by_the_next() {
    let whole = content(20, 1);
    let disk = SimVfs::new(1);
    disk.put(Path::new(DB), &whole);
    crash_everywhere(&disk, protect, |left, told| {
        if let Some(now) = check(left) {
            assert!(
                now.damaged.is_empty() && now.undecided.is_empty(),
                "{told}: {now:?}"
            );
        }
        assert!(heal(left).unwrap().is_empty(), "{told}");
        assert!(dump(left) == whole, "{told}");
        finishes(left, &whole, told);
    });
}

#[test]
fn an_interrupted_refresh_never_undoes_what_was_written() {
    let disk = SimVfs::new(1);
    disk.put(Path::new(DB), &content(20, 1));
    protect(&disk).unwrap();
    // Another program: some pages changed, and five more.
    let mut whole = content(25, 1);
    for page in [3, 4, 17] {
        whole[page * PAGE..(page + 1) * PAGE].fill(0xab);
    }
    disk.put(Path::new(DB), &whole);
    crash_everywhere(&disk, protect, |left, told| {
        assert!(check(left).unwrap().damaged.is_empty(), "{told}");
        assert!(heal(left).unwrap().is_empty(), "{told}");
        assert!(dump(left) == whole, "{told}");
        finishes(left, &whole, told);
    });
}

#[test]
fn an_interrupted_heal_is_finished_by_the_next_one_without_being_told_to_trust() {
    let whole = content(1100, 1);
    let disk = SimVfs::new(1);
    disk.put(Path::new(DB), &whole);
    protect(&disk).unwrap();
    for page in [0, 5, 600, 601, 1099] {
        for offset in [0, 77, 511] {
            assert!(disk.flip_bit(Path::new(DB), page * PAGE as u64 + offset, 2));
        }
    }
    let damaged = dump(&disk);
    crash_everywhere(
        &disk,
        |vfs| heal(vfs).map(drop),
        |left, told| {
            let torn = dump(left);
            for (page, torn) in torn.chunks(PAGE).enumerate() {
                let place = page * PAGE..(page + 1) * PAGE;
                assert!(*torn == whole[place.clone()] || *torn == damaged[place], "{told}");
            }
            heal(left).unwrap();
            assert!(dump(left) == whole, "{told}");
            assert_eq!(check(left).unwrap().standing, Standing::Current, "{told}");
        },
    );
}
