//! Power lost at any operation of protecting and healing a database: nothing gets worse, and the next run finishes.

#![cfg(not(walmend_loom))]

use std::path::Path;
use std::sync::Arc;
use walmend_repair::{
    DatabaseCheck, DatabaseProtection, ReedSolomon, Scrubbed, Standing, Work, heal_database, protect_database,
};
use walmend_types::{Cx, Error, PageSize, Result};
use walmend_vfs::sim::{CrashKeep, SimVfs};
use walmend_vfs::{OpenFlags, Vfs};
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
            // What is left must not become what is protected.
            let other = left.fork();
            protect(&other).unwrap();
            heal(&other).unwrap();
            assert!(dump(&other) == whole, "{told}");
            heal(left).unwrap();
            assert!(dump(left) == whole, "{told}");
            assert_eq!(check(left).unwrap().standing, Standing::Current, "{told}");
        },
    );
}

/// Opens the sidecar as a store does, and scrubs all of the database.
fn scrub(vfs: &SimVfs) -> Result<(DatabaseProtection, Vec<u32>)> {
    let shared: Arc<dyn Vfs> = Arc::new(vfs.clone());
    let db = shared.open(Path::new(DB), OpenFlags::WRITE)?;
    let protection = DatabaseProtection::open(shared, &files(), db, Arc::new(ReedSolomon))?.unwrap();
    let mut all = Vec::new();
    let mut done = 0;
    loop {
        match protection.scrub(done)? {
            Scrubbed::Piece { next, healed, .. } => {
                done = next;
                all.extend(healed);
            }
            Scrubbed::End => return Ok((protection, all)),
            // What failed is told to the events.
            Scrubbed::OutOfStep => return Err(Error::Invalid("out of step".into())),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_interrupted_scrub_is_finished_by_heal_without_being_told_to_trust() {
    let whole = content(1100, 1);
    let disk = SimVfs::new(1);
    disk.put(Path::new(DB), &whole);
    protect(&disk).unwrap();
    for page in [0, 5, 600, 1099] {
        assert!(disk.flip_bit(Path::new(DB), page * PAGE as u64 + 77, 2));
    }
    let damaged = dump(&disk);
    let undisturbed = disk.fork();
    let before = undisturbed.ops();
    let (protection, healed) = scrub(&undisturbed).unwrap();
    assert_eq!(healed, [1, 6, 601, 1100]);
    protection.close();
    assert!(dump(&undisturbed) == whole);
    assert_eq!(check(&undisturbed).unwrap().standing, Standing::Current);
    let ops = undisturbed.ops() - before;
    assert!(ops > 8, "{ops}");
    for op in 1..=ops {
        for keep in [CrashKeep::None, CrashKeep::All, CrashKeep::Random(op)] {
            let vfs = disk.fork();
            vfs.crash_at_op(op);
            if let Ok((protection, _)) = scrub(&vfs) {
                protection.close();
            }
            let left = vfs.crash(keep.clone());
            let told = format!("operation {op} of {ops}, {keep:?}");
            for (page, torn) in dump(&left).chunks(PAGE).enumerate() {
                let place = page * PAGE..(page + 1) * PAGE;
                assert!(*torn == whole[place.clone()] || *torn == damaged[place], "{told}");
            }
            heal(&left).unwrap();
            assert!(dump(&left) == whole, "{told}");
            assert_eq!(check(&left).unwrap().standing, Standing::Current, "{told}");
        }
    }
}

#[test]
fn scrubbing_names_what_cannot_be_rebuilt() {
    let disk = SimVfs::new(1);
    disk.put(Path::new(DB), &content(20, 1));
    protect(&disk).unwrap();
    // With 20 pages of 512 bytes each is alone in its stripe, with one parity shard, behind its description.
    let sidecar = walmend_repair::db_sidecar_path(Path::new(DB));
    let len = disk.dump(&sidecar).unwrap().len() as u64;
    let slot = (16384..len).find(|at| disk.dump(&sidecar).unwrap()[*at as usize..].starts_with(b"WMdb"));
    assert!(disk.flip_bit(&sidecar, slot.unwrap() + 2300, 1));
    assert!(disk.flip_bit(Path::new(DB), 77, 2));
    let (protection, healed) = scrub(&disk).unwrap();
    assert_eq!((healed, protection.damaged()), (Vec::new(), Vec::new()));
    assert_eq!(protection.lost(), [1]);
}
