//! Power lost at any write and sync of protecting and healing: nothing gets worse, and the next run finishes.

#![cfg(not(walmend_loom))]

mod rig;

use rig::{FEC, Rig, WAL, log, place, sidecar};
use std::path::Path;
use walmend_repair::{ReedSolomon, heal_log, protect_log};
use walmend_vfs::sim::{CrashKeep, SimVfs};
use walmend_vfs::{OpenFlags, Vfs};

const PAGE: u32 = 512;

/// A disk with these files, durable.
fn disk(log: &[u8], sidecar: &[u8]) -> SimVfs {
    let vfs = SimVfs::new(1);
    vfs.put(Path::new(WAL), log);
    vfs.put(Path::new(FEC), sidecar);
    vfs
}

/// Runs `work` on a copy of the disk with the power going at each of its operations, and hands what is left, in many
/// ways, to `check`.
fn crash_everywhere(disk: &SimVfs, work: impl Fn(&dyn Vfs), check: impl Fn(&SimVfs)) {
    let undisturbed = disk.fork();
    let before = undisturbed.ops();
    work(&undisturbed);
    let ops = undisturbed.ops() - before;
    assert!(ops > 1, "it writes and syncs");
    for op in 1..=ops {
        let keeps = (0..8).map(|seed| CrashKeep::Random(seed * 1000 + op));
        for keep in keeps.chain([CrashKeep::None, CrashKeep::All]) {
            let vfs = disk.fork();
            vfs.crash_at_op(op);
            work(&vfs);
            check(&vfs.crash(keep));
        }
    }
}

#[test]
fn an_interrupted_heal_is_finished_by_the_next_one() {
    let whole = log(PAGE, 60, 1);
    let mut damaged = whole.clone();
    damaged[3] ^= 1;
    for frame in [1, 2, 7, 40, 60] {
        damaged[place(PAGE, frame)].fill(0x77);
    }
    let disk = disk(&damaged, &sidecar(&whole, &[(1, 30), (31, 30)]));
    let heal = |vfs: &dyn Vfs| drop(heal_log(vfs, &Rig::files(), &ReedSolomon));
    crash_everywhere(&disk, heal, |left| {
        let torn = left.dump(Path::new(WAL)).unwrap();
        for frame in 1..=60 {
            // What was whole stays so.
            let damaged = &damaged[place(PAGE, frame)];
            let whole = &whole[place(PAGE, frame)];
            assert!(torn[place(PAGE, frame)] == *whole || damaged != whole, "{frame}");
        }
        heal_log(left, &Rig::files(), &ReedSolomon).unwrap();
        assert!(left.dump(Path::new(WAL)).unwrap() == whole);
    });
}

#[test]
fn what_was_healed_and_what_was_protected_outlives_a_power_loss() {
    let whole = log(PAGE, 60, 1);
    let mut damaged = whole.clone();
    damaged[place(PAGE, 7)].fill(0x77);
    let disk = disk(&damaged, &sidecar(&whole, &[(1, 60)]));
    heal_log(&disk, &Rig::files(), &ReedSolomon).unwrap();
    assert!(disk.crash(CrashKeep::None).dump(Path::new(WAL)).unwrap() == whole);

    // What has parity counts as durable, so the log has to be.
    let disk = SimVfs::new(1);
    let file = disk.open(Path::new(WAL), OpenFlags::CREATE).unwrap();
    file.write_at(&whole, 0).unwrap();
    protect_log(&disk, &Rig::files(), &ReedSolomon).unwrap();
    let left = disk.crash(CrashKeep::None);
    assert!(left.dump(Path::new(WAL)).unwrap() == whole);
    assert!(!left.dump(Path::new(FEC)).unwrap().is_empty());
}

#[test]
fn an_interrupted_protect_leaves_the_log_alone_and_what_was_protected() {
    let whole = log(PAGE, 60, 1);
    let disk = disk(&whole, &sidecar(&whole, &[(1, 30)]));
    let protect = |vfs: &dyn Vfs| drop(protect_log(vfs, &Rig::files(), &ReedSolomon));
    crash_everywhere(&disk, protect, |left| {
        assert!(left.dump(Path::new(WAL)).unwrap() == whole);
        // Nothing is damaged, so nothing is changed by what is torn.
        assert!(
            heal_log(left, &Rig::files(), &ReedSolomon)
                .unwrap()
                .frames_healed
                .is_empty()
        );
        let report = protect_log(left, &Rig::files(), &ReedSolomon).unwrap();
        assert!(report.already_covered >= 30);
        let mut damaged = whole.clone();
        damaged[place(PAGE, 20)].fill(0);
        damaged[place(PAGE, 50)].fill(0);
        left.put(Path::new(WAL), &damaged);
        heal_log(left, &Rig::files(), &ReedSolomon).unwrap();
        assert!(left.dump(Path::new(WAL)).unwrap() == whole);
    });
}

#[test]
fn an_interrupted_change_of_generation_protects_the_new_log_next_time() {
    let old = log(PAGE, 60, 1);
    let mut header = rig::header(PAGE);
    header.salts.salt1 += 1;
    let mut whole = header.encode().to_vec();
    whole.extend(rig::frames(&header, header.checksum(), 30, 5));
    let disk = disk(&whole, &sidecar(&old, &[(1, 60)]));
    let protect = |vfs: &dyn Vfs| drop(protect_log(vfs, &Rig::files(), &ReedSolomon));
    crash_everywhere(&disk, protect, |left| {
        heal_log(left, &Rig::files(), &ReedSolomon).unwrap();
        assert!(left.dump(Path::new(WAL)).unwrap() == whole);
        protect_log(left, &Rig::files(), &ReedSolomon).unwrap();
        let mut damaged = whole.clone();
        damaged[place(PAGE, 20)].fill(0);
        left.put(Path::new(WAL), &damaged);
        heal_log(left, &Rig::files(), &ReedSolomon).unwrap();
        assert!(left.dump(Path::new(WAL)).unwrap() == whole);
    });
}
