//! Healing: what is kept, what is refused, and which history a group belongs to.

#![cfg(not(walmend_loom))]

mod rig;

use rig::{FEC, Rig, content, frames, group, header, log, place, put, sidecar, stored};
use std::path::Path;
use std::sync::Arc;
use walmend_repair::{SidecarIndex, SidecarWriter};
use walmend_types::PageSize;
use walmend_vfs::{MemoryVfs, OpenFlags, Vfs};
use walmend_wal::{Decision, FileSet, HEADER_SIZE, Log, LogConfig, OnDamage, PageKind};

const PAGE: u32 = 512;

#[test]
fn the_damaged_log_is_kept_as_it_was() {
    let whole = log(PAGE, 40, 1);
    let rig = Rig::new(&whole, &sidecar(&whole, &[(1, 40)]));
    let mut damaged = whole.clone();
    damaged[place(PAGE, 7)].fill(9);
    rig.set_log(&damaged);
    let report = rig.heal();
    assert_eq!(report.frames_healed, [7]);
    let aside = report.kept_aside.unwrap();
    assert!(aside.to_str().unwrap().starts_with("/a.db-wal-damaged-"));
    assert_eq!(content(&*rig.vfs.open(&aside, OpenFlags::READ).unwrap()), damaged);
    assert_eq!(rig.log(), whole);
}

/// What a build without repair does, which knows nothing of parity.
#[test]
fn a_log_that_was_cut_without_its_sidecar_is_not_brought_back_by_it() {
    let whole = log(PAGE, 40, 1);
    let rig = Rig::new(&whole, &sidecar(&whole, &[(1, 40)]));
    let mut damaged = whole.clone();
    damaged[place(PAGE, 7)].fill(9);
    rig.set_log(&damaged);
    let files = FileSet::of(Path::new("/a.db"));
    let page_size = PageSize::new(PAGE).unwrap();
    let open = |on_damage| {
        let db = rig.vfs.open(&files.db, OpenFlags::CREATE).unwrap();
        let mut config = LogConfig::new(files.clone(), db, page_size, PageKind::Raw, 0);
        config.on_damage = on_damage;
        Log::open(Arc::new(rig.vfs.clone()), config)
    };
    assert!(open(OnDamage::Refuse).is_err());
    assert!(
        rig.vfs.info(Path::new(FEC)).unwrap().is_some(),
        "a refusal changes nothing"
    );
    let (_, report) = open(OnDamage::TruncateLikeSqlite).unwrap();
    assert_eq!(
        (report.decision, report.committed_frames),
        (Decision::Truncated, 6)
    );
    assert!(rig.vfs.info(Path::new(FEC)).unwrap().is_none());
    let cut = rig.log();
    let healed = rig.heal();
    assert!(!healed.protected && healed.frames_healed.is_empty());
    assert!(rig.log() == cut);
}

#[test]
fn an_intact_log_is_not_written() {
    let whole = log(PAGE, 40, 1);
    let rig = Rig::new(&whole, &sidecar(&whole, &[(1, 40)]));
    let report = rig.heal();
    assert!(report.protected && report.kept_aside.is_none() && report.frames_healed.is_empty());
    assert_eq!(rig.log(), whole);
}

#[test]
fn a_tail_that_the_file_lost_comes_back() {
    let whole = log(PAGE, 40, 1);
    let rig = Rig::new(&whole, &sidecar(&whole, &[(1, 40)]));
    rig.set_log(&whole[..whole.len() - 900]);
    assert_eq!(rig.heal().frames_healed, [39, 40]);
    assert_eq!(rig.log(), whole);
}

#[test]
fn parity_that_was_made_of_something_else_is_not_believed() {
    let whole = log(PAGE, 20, 1);
    let (header, parity) = group(&whole, 1, 20);
    for wrong in [0, 1] {
        let vfs = MemoryVfs::new();
        let mut writer = SidecarWriter::open(&vfs, Path::new(FEC), &SidecarIndex::default()).unwrap();
        let mut parity = parity.clone();
        // Its record has the right checksum all the same.
        parity[wrong][100] ^= 1;
        writer.append(&header, &parity).unwrap();
        let fec = content(&*vfs.open(Path::new(FEC), OpenFlags::READ).unwrap());
        let mut damaged = whole.clone();
        damaged[place(PAGE, 3)].fill(1);
        damaged[place(PAGE, 4)].fill(1);
        let rig = Rig::new(&damaged, &fec);
        let report = rig.heal();
        assert_eq!((report.unhealable_frames, report.kept_aside), (vec![3, 4], None));
        assert_eq!(rig.log(), damaged);
    }
}

#[test]
fn damage_that_the_logs_own_checksum_misses_is_healed() {
    let whole = log(PAGE, 20, 1);
    let frame = place(PAGE, 5);
    // Bit 31 of two words whose distance is a multiple of 3 pairs cancels out in the chain (FACTS.md).
    let mut found = 0;
    for distance in [3_usize, 6, 12, 24, 48] {
        let mut damaged = whole.clone();
        damaged[frame.start + 24 + 3] ^= 0x80;
        damaged[frame.start + 24 + 3 + 4 * distance] ^= 0x80;
        let last = stored(&whole, 5);
        let log = header(PAGE);
        let bytes = &damaged[frame.clone()];
        let sum = stored(&whole, 4)
            .extend(log.byte_order, &bytes[..8])
            .extend(log.byte_order, &bytes[24..]);
        found += u32::from(sum == last);
        let rig = Rig::new(&damaged, &sidecar(&whole, &[(1, 20)]));
        assert_eq!(rig.heal().frames_healed, [5], "{distance}");
        assert_eq!(rig.log(), whole);
    }
    assert!(found > 0, "none of them goes unnoticed");
}

#[test]
fn damage_that_the_checksum_misses_is_damage_also_where_too_little_is_left() {
    let whole = log(PAGE, 20, 1);
    // The group has three parity shards.
    for frames in [[5, 10, 12, 14], [5, 10, 12, 20]] {
        let mut damaged = whole.clone();
        for (place, frame) in frames.map(|frame| (place(PAGE, frame), frame)) {
            damaged[place.start + 24 + 3] ^= 0x80;
            if frame == 5 || frame == 20 {
                damaged[place.start + 24 + 3 + 4 * 6] ^= 0x80;
            }
        }
        let rig = Rig::new(&damaged, &sidecar(&whole, &[(1, 20)]));
        let report = rig.heal();
        assert_eq!(report.unhealable_frames, frames);
        assert!(report.other_history.is_empty());
        assert_eq!(rig.log(), damaged);
    }
}

#[test]
fn another_history_under_the_same_salts_is_reported_and_left_alone() {
    let old = log(PAGE, 102, 1);
    let fec = sidecar(&old, &[(1, 40), (41, 40), (81, 22)]);
    // SQLite dropped frame 50 and all behind it, and appended others under the same salts; what it did not
    // overwrite stands behind them.
    for count in [1, 2, 5, 31, 45, 53, 70] {
        let mut new = old[..place(PAGE, 50).start].to_vec();
        new.extend(frames(&header(PAGE), stored(&old, 49), count, 99));
        let end = new.len();
        new.extend(old.get(end..).unwrap_or_default());
        let rig = Rig::new(&new, &fec);
        let report = rig.heal();
        assert_eq!(rig.log(), new, "{count}");
        assert_eq!(
            (report.frames_healed, report.kept_aside),
            (vec![], None),
            "{count}"
        );
        assert_eq!(report.other_history, [41..=80, 81..=102], "{count}");
        assert!(report.unhealable_frames.is_empty(), "{count}");

        // The first group still counts: both histories have it.
        let mut damaged = new.clone();
        damaged[place(PAGE, 40)].fill(0);
        rig.set_log(&damaged);
        assert_eq!(rig.heal().frames_healed, [40], "{count}");
        assert_eq!(rig.log(), new, "{count}");
    }
}

#[test]
fn groups_of_both_histories_in_one_sidecar_do_not_disturb_each_other() {
    let old = log(PAGE, 102, 1);
    let mut new = old[..place(PAGE, 50).start].to_vec();
    new.extend(frames(&header(PAGE), stored(&old, 49), 60, 99));
    let rig = Rig::new(&new, &sidecar(&old, &[(1, 40), (41, 40), (81, 22)]));
    let report = rig.protect();
    assert_eq!((report.already_covered, report.newly_covered), (40, 69));
    for frame in [1, 45, 50, 51, 80, 81, 109] {
        let mut damaged = new.clone();
        damaged[place(PAGE, frame)].reverse();
        rig.set_log(&damaged);
        let report = rig.heal();
        assert_eq!(rig.log(), new, "{frame}: {report:?}");
        assert_eq!(report.frames_healed, [frame]);
    }
}

#[test]
fn a_damaged_header_is_made_again() {
    let whole = log(PAGE, 40, 1);
    let fec = sidecar(&whole, &[(1, 20), (21, 20)]);
    for byte in 0..HEADER_SIZE {
        let mut damaged = whole.clone();
        damaged[byte] ^= 0x10;
        damaged[place(PAGE, 30)].fill(0);
        let rig = Rig::new(&damaged, &fec);
        // Another version with a right checksum cannot come from one flipped bit.
        let report = rig.heal();
        assert_eq!(
            (rig.log() == whole, report.frames_healed),
            (true, vec![0, 30]),
            "{byte}"
        );
    }
}

#[test]
fn a_header_is_not_made_where_the_frames_are_gone_or_of_another_log() {
    let whole = log(PAGE, 40, 1);
    let fec = sidecar(&whole, &[(1, 40)]);
    let rig = Rig::new(&[], &fec);
    assert!(rig.heal().unhealable_frames.is_empty());
    assert!(rig.log().is_empty());
    let mut other = log(PAGE, 40, 2);
    other[0] = 0;
    rig.set_log(&other);
    assert_eq!(rig.heal().unhealable_frames, [0]);
    assert_eq!(rig.log(), other);
}

#[test]
fn a_damaged_header_is_not_made_from_a_generation_that_the_log_has_left() {
    let old = log(PAGE, 40, 1);
    for count in [1, 2, 5, 30] {
        let mut newer = header(PAGE);
        newer.salts.salt1 += 1;
        newer.salts.salt2 = 0x5555_6666;
        let mut whole = newer.encode().to_vec();
        whole.extend(frames(&newer, newer.checksum(), count, 5));
        // What was behind is still there: a log begins anew from the start, and keeps its length.
        whole.extend(&old[whole.len()..]);
        for byte in 0..HEADER_SIZE {
            let mut damaged = whole.clone();
            damaged[byte] ^= 0x30;
            let rig = Rig::new(&damaged, &sidecar(&old, &[(1, 20), (21, 20)]));
            let report = rig.heal();
            assert!(rig.log() == damaged, "{count} frames, byte {byte}: {report:?}");
            assert_eq!(report.unhealable_frames, [0]);
        }
        // One bit can be told without any parity: frame 1 goes on from the header as it was.
        for bit in 0..8 * HEADER_SIZE {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let rig = Rig::new(&damaged, &sidecar(&old, &[(1, 20), (21, 20)]));
            assert_eq!(rig.heal().frames_healed, [0], "{count} frames, bit {bit}");
            assert!(rig.log() == whole, "{count} frames, bit {bit}");
            // Not where frame 1 is damaged as well.
            damaged[HEADER_SIZE + 100] ^= 1;
            let rig = Rig::new(&damaged, &sidecar(&old, &[(1, 20), (21, 20)]));
            assert_eq!(rig.heal().unhealable_frames, [0], "{count} frames, bit {bit}");
            assert!(rig.log() == damaged, "{count} frames, bit {bit}");
        }
    }
}

#[test]
fn a_header_of_the_generation_before_is_made_new_where_frames_and_parity_are_of_the_newer_one() {
    let old = log(PAGE, 40, 1);
    let mut newer = header(PAGE);
    newer.salts.salt1 += 1;
    newer.salts.salt2 = 0x5555_6666;
    newer.checkpoint_seq += 1;
    for count in [1, 5, 30] {
        let mut whole = newer.encode().to_vec();
        whole.extend(frames(&newer, newer.checksum(), count, 5));
        let parity = sidecar(&whole, &[(1, count)]);
        whole.extend(&old[whole.len()..]);
        let mut damaged = whole.clone();
        damaged[..HEADER_SIZE].copy_from_slice(&old[..HEADER_SIZE]);
        let rig = Rig::new(&damaged, &parity);
        assert_eq!(rig.heal().frames_healed, [0]);
        assert!(rig.log() == whole);
        // The new header alone is what a crash leaves: the older frames are in the database.
        let mut begun = old.clone();
        begun[..HEADER_SIZE].copy_from_slice(&whole[..HEADER_SIZE]);
        let rig = Rig::new(&begun, &sidecar(&old, &[(1, 20), (21, 20)]));
        assert!(rig.heal().frames_healed.is_empty());
        assert!(rig.log() == begun);
    }
}

#[test]
fn a_log_with_other_salts_is_none_of_the_sidecars_business() {
    let whole = log(PAGE, 40, 1);
    let mut other = header(PAGE);
    other.salts.salt1 += 1;
    let mut next = other.encode().to_vec();
    next.extend(frames(&other, other.checksum(), 3, 5));
    next.extend(&whole[next.len()..]);
    let rig = Rig::new(&next, &sidecar(&whole, &[(1, 40)]));
    let report = rig.heal();
    assert_eq!(rig.log(), next);
    assert!(report.frames_healed.is_empty() && report.unhealable_frames.is_empty());
    assert!(report.other_history.is_empty());
}

#[test]
fn without_a_sidecar_nothing_is_protected() {
    let whole = log(PAGE, 4, 1);
    let rig = Rig::new(&whole, &[]);
    rig.vfs.remove(Path::new(FEC)).unwrap();
    assert!(!rig.heal().protected);
}

#[test]
fn protecting_covers_what_is_committed_and_goes_on_where_it_was() {
    let whole = log(PAGE, 300, 1);
    let rig = Rig::new(&whole[..place(PAGE, 200).end], &[]);
    // Every third frame commits.
    let first = rig.protect();
    assert_eq!(
        (first.committed_frames, first.newly_covered, first.groups_added),
        (198, 198, 2)
    );
    rig.set_log(&whole);
    let second = rig.protect();
    assert_eq!(
        (second.already_covered, second.newly_covered, second.groups_added),
        (198, 102, 1)
    );
    assert_eq!(second.sidecar_bytes, rig.fec.len().unwrap());
    let third = rig.protect();
    assert_eq!(
        (third.already_covered, third.newly_covered, third.groups_added),
        (300, 0, 0)
    );
    let mut damaged = whole.clone();
    for frame in [1, 128, 129, 199, 300] {
        damaged[place(PAGE, frame)].fill(0);
    }
    rig.set_log(&damaged);
    assert_eq!(rig.heal().frames_healed, [1, 128, 129, 199, 300]);
    assert_eq!(rig.log(), whole);
}

#[test]
fn damage_is_not_protected() {
    let whole = log(PAGE, 60, 1);
    let mut damaged = whole.clone();
    damaged[place(PAGE, 32)].fill(7);
    let rig = Rig::new(&damaged, &[]);
    let report = rig.protect();
    assert_eq!((report.committed_frames, report.behind_damage), (30, true));
    assert!(rig.heal().frames_healed.is_empty());
    assert_eq!(rig.log(), damaged);
    damaged[0] ^= 1;
    damaged[9] ^= 1;
    rig.set_log(&damaged);
    let refused = walmend_repair::protect_log(&rig.vfs, &Rig::files(), &walmend_repair::ReedSolomon);
    assert!(refused.is_err());
}

#[test]
fn a_group_with_damaged_parity_is_protected_again() {
    let whole = log(PAGE, 60, 1);
    let mut fec = sidecar(&whole, &[(1, 30), (31, 30)]);
    fec[2000] ^= 1;
    let rig = Rig::new(&whole, &fec);
    assert_eq!(rig.protect().newly_covered, 30);
    assert_eq!(rig.protect().newly_covered, 0);
}

#[test]
fn a_new_generation_empties_the_sidecar_of_the_old_one() {
    let old = log(PAGE, 60, 1);
    let mut other = header(PAGE);
    other.salts.salt1 += 1;
    let mut next = other.encode().to_vec();
    next.extend(frames(&other, other.checksum(), 30, 5));
    let rig = Rig::new(&next, &sidecar(&old, &[(1, 60)]));
    let report = rig.protect();
    let index = SidecarIndex::scan(&*rig.fec).unwrap();
    assert_eq!(
        (index.groups.len(), report.newly_covered, index.bad_records),
        (1, 30, 0)
    );
    assert_eq!(index.groups[0].header.salts, other.salts);
    put(&rig.vfs, rig::WAL, &[]);
    assert_eq!(rig.protect().committed_frames, 0);
}

#[test]
fn a_log_whose_header_never_arrived_has_nothing_to_protect() {
    let whole = log(PAGE, 4, 1);
    let rig = Rig::new(&whole, &[]);
    for bytes in [1, 19, HEADER_SIZE - 1] {
        rig.set_log(&whole[..bytes]);
        let report = walmend_repair::protect_log(&rig.vfs, &Rig::files(), &walmend_repair::ReedSolomon);
        assert_eq!(report.unwrap(), walmend_repair::ProtectReport::default());
    }
    let mut damaged = whole.clone();
    damaged[19] ^= 1;
    rig.set_log(&damaged);
    let report = walmend_repair::protect_log(&rig.vfs, &Rig::files(), &walmend_repair::ReedSolomon);
    assert!(report.is_err());
}
