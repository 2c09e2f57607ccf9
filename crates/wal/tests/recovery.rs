//! Damage: what is acknowledged and cannot be read is refused, and nothing is changed; what a crash can leave
//! is dropped; and the companion file may rot without costing a single commit.
#![cfg(not(walmend_loom))]

mod rig;

use rig::{Content, DB, META, Model, Rig, Setup, WAL, fresh, write};
use std::path::{Path, PathBuf};
use walmend_types::{CommitSeq, Error};
use walmend_vfs::sim::{CrashKeep, SimVfs};
use walmend_vfs::{OpenFlags, Vfs};
use walmend_wal::{CheckpointMode, Decision, OnDamage, Whereabouts, frame_offset};

const FRAME: u64 = 512 + 24;

fn setup() -> Setup {
    Setup::small()
}

/// Without preallocation, an append is one operation, and its sync the next.
fn bare() -> Setup {
    Setup {
        preallocate: 0,
        ..setup()
    }
}

/// A log with seven commits in three batches, closed in good order; frames 1 to 8.
fn closed() -> (SimVfs, Model) {
    let vfs = fresh(6);
    let mut rig = Rig::open(&vfs, &setup()).unwrap();
    let mut model = Model::default();
    for batch in [
        vec![write(1, [1, 2])],
        vec![write(2, [1]), write(3, [3]), write(4, [2])],
        vec![write(5, [4]), write(6, [1]), write(7, [5])],
    ] {
        let answers = rig.commit(&batch);
        model.note(&batch, &answers);
    }
    rig.log.close().unwrap();
    drop(rig);
    (vfs.kill(), model)
}

/// All files, each as cached and as durable.
fn files(vfs: &SimVfs) -> Vec<(PathBuf, [Option<Vec<u8>>; 2])> {
    vfs.files()
        .into_iter()
        .map(|file| (file.clone(), [vfs.dump(&file), vfs.dump_durable(&file)]))
        .collect()
}

#[test]
fn a_flipped_bit_in_what_was_acknowledged_is_named_and_no_file_changes() {
    let (vfs, _) = closed();
    let end = frame_offset(9, setup().page_size);
    for at in (0..end).filter(|at| at % FRAME < 60 || at % 37 == 0) {
        let disk = vfs.fork();
        assert!(disk.flip_bit(Path::new(WAL), at, (at % 8) as u8));
        let (before, ops) = (files(&disk), disk.ops());
        let error = Rig::open(&disk, &setup()).expect_err("damage must be refused");
        let expected = if at < 32 { 0 } else { (at - 32) / FRAME + 1 };
        match &error {
            Error::WalCorrupt {
                frame, lost_commits, ..
            } => {
                assert_eq!(u64::from(*frame), expected, "bit at {at}: {error}");
                // A frame that does not verify may or may not have been a commit of its own.
                assert!((1..=8).contains(lost_commits), "bit at {at}: {error}");
            }
            other => panic!("bit at {at}: {other}"),
        }
        assert_eq!(disk.ops(), ops, "bit at {at}: an operation");
        assert!(files(&disk) == before, "bit at {at}: a change");
    }
}

#[test]
fn after_a_kill_the_last_acknowledged_commit_is_known_to_be_durable() {
    let vfs = fresh(6);
    let mut rig = Rig::open(&vfs, &setup()).unwrap();
    for version in 1..=3 {
        rig.must_commit(write(version, [version]));
    }
    drop(rig);
    let vfs = vfs.kill();
    // A power loss could have left a torn third commit; but it was acknowledged, and only the watermark says so.
    vfs.flip_bit(Path::new(WAL), frame_offset(3, setup().page_size) + 100, 3);
    match Rig::open(&vfs, &setup()).map(drop) {
        Err(Error::WalCorrupt {
            frame, lost_commits, ..
        }) => assert_eq!((frame, lost_commits), (3, 1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn told_to_truncate_or_salvage_it_keeps_what_precedes_the_damage_and_never_reuses_a_number() {
    let (vfs, _) = closed();
    // Frame 4 is the second commit of the second batch.
    vfs.flip_bit(Path::new(WAL), frame_offset(4, setup().page_size) + 100, 3);
    let damaged = vfs.dump(Path::new(WAL));
    for (on_damage, decision) in [
        (OnDamage::TruncateLikeSqlite, Decision::Truncated),
        (OnDamage::Salvage, Decision::Salvaged),
    ] {
        let disk = vfs.fork();
        let told = Setup { on_damage, ..setup() };
        let mut rig = Rig::open(&disk, &told).unwrap();
        assert_eq!(
            (rig.report.decision, rig.report.commits, rig.report.lost_commits),
            (decision, 2, 5)
        );
        let mut kept = Content::default();
        kept.apply(&write(1, [1, 2]));
        kept.apply(&write(2, [1]));
        assert_eq!(rig.content(), kept);
        match (&rig.report.kept_aside, on_damage) {
            (Some(aside), OnDamage::Salvage) => assert!(disk.dump_durable(aside) == damaged),
            (None, OnDamage::TruncateLikeSqlite) => {}
            (other, _) => panic!("{other:?}"),
        }
        assert!(
            rig.last_seq > CommitSeq(7),
            "numbers 3 to 7 were acknowledged once"
        );
        let before = rig.last_seq;
        assert!(rig.must_commit(write(9, [3])) > before);
        kept.apply(&write(9, [3]));
        let disk = disk.fork().crash(CrashKeep::None);
        let rig = Rig::open(&disk, &setup()).unwrap();
        assert_eq!((rig.report.decision, rig.content()), (Decision::Clean, kept));
    }
}

/// Found by fuzzing: the leftovers of the generation before were taken for a log of another program's, and its
/// commits for lost ones, each time that the store was opened until the next commit.
#[test]
fn a_salvage_under_a_damaged_header_is_done_once_whatever_older_frames_lie_behind() {
    for on_damage in [OnDamage::TruncateLikeSqlite, OnDamage::Salvage] {
        let vfs = fresh(6);
        let mut rig = Rig::open(&vfs, &setup()).unwrap();
        for version in 1..=12 {
            rig.must_commit(write(version, [1 + version % 3]));
        }
        rig.checkpoint(CheckpointMode::Restart).unwrap();
        rig.must_commit(write(20, [1]));
        rig.must_commit(write(21, [1]));
        drop(rig);
        let vfs = vfs.kill();
        // The first sector: the header, and the header of frame 1.
        let mut log = vfs.dump(Path::new(WAL)).unwrap();
        log[..512].fill(0);
        vfs.put(Path::new(WAL), &log);
        let rig = Rig::open(&vfs, &Setup { on_damage, ..setup() }).unwrap();
        assert_eq!((rig.report.commits, rig.report.lost_commits), (0, 1));
        let salvaged = rig.content();
        drop(rig);
        for vfs in [vfs.fork().kill(), vfs.crash(CrashKeep::None)] {
            let rig = Rig::open(&vfs, &setup()).unwrap();
            assert_eq!(
                (rig.report.decision, rig.report.lost_commits),
                (Decision::Clean, 0)
            );
            assert_eq!(rig.content(), salvaged);
        }
    }
}

/// The power loss took the watermark back, and the damaged frame counted as the end of what was written: the log was cut
/// there, under a database that had the pages of the frames behind.
#[test]
fn damage_in_what_a_checkpoint_has_copied_is_no_torn_tail_after_a_power_loss() {
    let vfs = fresh(6);
    let mut rig = Rig::open(&vfs, &setup()).unwrap();
    rig.must_commit(write(1, [1, 2]));
    rig.must_commit(write(2, [1, 3]));
    rig.must_commit(write(3, [2, 3]));
    rig.checkpoint(CheckpointMode::Passive).unwrap();
    drop(rig);
    let vfs = vfs.crash(CrashKeep::None);
    for frame in 1..=6 {
        let vfs = vfs.fork();
        assert!(vfs.flip_bit(Path::new(WAL), frame_offset(frame, setup().page_size) + 100, 3));
        let refused = Rig::open(&vfs, &setup()).err().unwrap();
        assert!(
            matches!(refused, Error::WalCorrupt { frame: found, .. } if found == frame),
            "{refused}"
        );
    }
}

/// A device that answers an old sector again. By its salts that looks like a reset that did not come to its end, after
/// which everything is in the database; the acknowledged commits behind it were dropped without a word.
#[test]
fn a_header_that_fell_back_to_the_generation_before_is_damage_and_no_unfinished_reset() {
    for (commits, closed) in [(1, false), (3, false), (3, true)] {
        let vfs = fresh(6);
        let mut rig = Rig::open(&vfs, &setup()).unwrap();
        for version in 1..=12 {
            rig.must_commit(write(version, [1 + version % 3]));
        }
        let old = vfs.dump(Path::new(WAL)).unwrap();
        rig.checkpoint(CheckpointMode::Restart).unwrap();
        let checkpointed = rig.content();
        for version in 20..20 + commits {
            rig.must_commit(write(version, [1]));
        }
        let content = rig.content();
        if closed {
            rig.log.close().unwrap();
        }
        drop(rig);
        let vfs = vfs.kill();
        let log = vfs.dump(Path::new(WAL)).unwrap();
        // The header alone, and the whole first sector with the head of frame 1.
        for bytes in [32, 512] {
            let vfs = vfs.fork();
            let mut damaged = log.clone();
            damaged[..bytes].copy_from_slice(&old[..bytes]);
            vfs.put(Path::new(WAL), &damaged);
            let before = files(&vfs);
            let refused = Rig::open(&vfs, &setup()).err().unwrap();
            assert!(matches!(refused, Error::WalCorrupt { .. }), "{refused}");
            assert!(files(&vfs) == before, "something changed");
            let on_damage = OnDamage::Salvage;
            let rig = Rig::open(&vfs, &Setup { on_damage, ..setup() }).unwrap();
            assert_eq!(rig.report.commits, 0);
            assert_eq!(rig.content(), checkpointed);
            drop(rig);
            for vfs in [vfs.fork().kill(), vfs.crash(CrashKeep::None)] {
                let rig = Rig::open(&vfs, &setup()).unwrap();
                assert_eq!(rig.report.decision, Decision::Clean);
                assert_eq!(rig.content(), checkpointed);
            }
        }
        vfs.put(Path::new(WAL), &log);
        assert_eq!(Rig::open(&vfs, &setup()).unwrap().content(), content);
    }
}

/// Found by the oracle: the frames that an older generation had left were in the majority, and with the header damaged
/// they were taken for the log. They end in no commit, so the commits before them were dropped without a word.
#[test]
fn under_a_damaged_header_the_newest_generation_is_told_from_what_older_ones_left() {
    for (old, new) in [(30, 3), (30, 1), (1, 1)] {
        let vfs = fresh(6);
        let mut rig = Rig::open(&vfs, &bare()).unwrap();
        rig.must_commit(write(1, 1..=old));
        rig.checkpoint(CheckpointMode::Restart).unwrap();
        for version in 2..2 + new {
            rig.must_commit(write(version, [version]));
        }
        rig.log.close().unwrap();
        drop(rig);
        let vfs = vfs.kill();
        // Another program's: nothing says how far it was durable. And the old generation ends in no commit.
        vfs.remove(Path::new(META)).unwrap();
        let mut log = vfs.dump(Path::new(WAL)).unwrap();
        log.truncate((frame_offset(old.max(new + 1), setup().page_size)) as usize);
        vfs.put(Path::new(WAL), &log);
        for at in 0..24 {
            let disk = vfs.fork();
            disk.flip_bit(Path::new(WAL), at, 2);
            let refused = Rig::open(&disk, &bare()).expect_err("commits are at stake");
            match refused {
                Error::WalAmbiguous { commits_behind, .. } => {
                    assert_eq!(commits_behind, u64::from(new), "{old}, {new}, byte {at}");
                }
                Error::UnsupportedVersion { .. } => {}
                other => panic!("{old}, {new}, byte {at}: {other}"),
            }
        }
    }
}

#[test]
fn a_flipped_bit_behind_the_watermark_is_a_torn_tail() {
    let (vfs, model) = closed();
    let mut rig = Rig::open(&vfs, &bare()).unwrap();
    // The frames of this batch reach the disk, and the power goes at their sync.
    vfs.crash_at_op(2);
    let batch = [write(20, [1]), write(21, [2, 3]), write(22, [4])];
    let answers = rig.commit(&batch);
    let mut model = model;
    model.note(&batch, &answers);
    assert_eq!(model.unknown.len(), 3);
    let vfs = vfs.crash(CrashKeep::All);
    let (start, end) = (
        frame_offset(9, setup().page_size),
        frame_offset(13, setup().page_size),
    );
    let mut seen = [0; 4];
    for at in (start..end).step_by(7) {
        let disk = vfs.fork();
        disk.flip_bit(Path::new(WAL), at, (at % 8) as u8);
        let rig = Rig::open(&disk, &setup()).unwrap_or_else(|error| panic!("bit at {at}: {error}"));
        // With other salts, the last frame is not of this log at all.
        let unsalted = (8..16).contains(&((at - 32) % FRAME)) && at > end - FRAME;
        let expected = if unsalted {
            Decision::Clean
        } else {
            Decision::TornTail
        };
        assert_eq!(rig.report.decision, expected, "bit at {at}");
        let mut model = model.clone();
        let kept = model.settle(&rig, &at);
        // The frames: 9, 10 and 11, 12.
        let whole = match (at - 32) / FRAME + 1 {
            9 => 0,
            10 | 11 => 1,
            _ => 2,
        };
        assert_eq!(kept, whole, "bit at {at}");
        seen[kept] += 1;
        rig::check(
            &disk.crash(CrashKeep::None),
            model,
            &setup(),
            &(at, "dropped for good"),
        );
    }
    assert!(seen[..3].iter().all(|times| *times > 0), "{seen:?}");
}

/// States of the files that a companion can be lost in.
fn states() -> Vec<(&'static str, SimVfs, Model)> {
    let mut states = Vec::new();
    let vfs = fresh(8);
    let mut rig = Rig::open(&vfs, &setup()).unwrap();
    let mut model = Model::default();
    let mut version = 0;
    let mut commit = |rig: &mut Rig, model: &mut Model| {
        version += 1;
        let batch = [write(version, [1, version % 5 + 1]), write(version + 1000, [6])];
        let answers = rig.commit(&batch);
        model.note(&batch, &answers);
    };
    states.push(("new", vfs.fork().kill(), model.clone()));
    commit(&mut rig, &mut model);
    commit(&mut rig, &mut model);
    states.push(("commits", vfs.fork().kill(), model.clone()));
    states.push((
        "commits, power lost",
        vfs.fork().crash(CrashKeep::None),
        model.clone(),
    ));
    rig.checkpoint(CheckpointMode::Full).unwrap();
    states.push(("checkpoint", vfs.fork().kill(), model.clone()));
    commit(&mut rig, &mut model);
    states.push(("half checkpointed", vfs.fork().kill(), model.clone()));
    rig.checkpoint(CheckpointMode::Restart).unwrap();
    states.push(("restarted", vfs.fork().kill(), model.clone()));
    commit(&mut rig, &mut model);
    states.push(("restarted, commits", vfs.fork().kill(), model.clone()));
    rig.checkpoint(CheckpointMode::Truncate).unwrap();
    states.push(("emptied", vfs.fork().kill(), model.clone()));
    commit(&mut rig, &mut model);
    states.push(("emptied, commits", vfs.fork().kill(), model.clone()));
    rig.log.close().unwrap();
    states.push(("closed", vfs.fork().kill(), model.clone()));
    drop(rig);
    drop(Rig::open(&vfs, &setup()).unwrap());
    states.push(("reopened", vfs.fork().kill(), model.clone()));
    states
}

#[test]
fn losing_any_records_of_the_companion_loses_no_commit() {
    for (state, vfs, model) in states() {
        for lost in 0..32u32 {
            let disk = vfs.fork();
            let Some(mut bytes) = disk.dump(Path::new(META)) else {
                panic!("{state}: no companion");
            };
            for block in (0..5).filter(|block| lost >> block & 1 == 1) {
                bytes[block * 4096 + 100] ^= 1;
            }
            disk.put(Path::new(META), &bytes);
            let what = (state, lost);
            let mut model = model.clone();
            if lost.count_ones() > 1 {
                // With both slots of a record gone, nothing may know the number.
                model.last_seq = CommitSeq(0);
            }
            rig::check(&disk, model, &setup(), &what);
        }
    }
}

#[test]
fn losing_the_companion_loses_no_commit() {
    for (state, vfs, mut model) in states() {
        for len in [None, Some(0), Some(100), Some(4096), Some(9000), Some(20479)] {
            let disk = vfs.fork();
            match len {
                None => disk.remove(Path::new(META)).unwrap(),
                Some(len) => {
                    let bytes = disk.dump(Path::new(META)).unwrap();
                    disk.put(Path::new(META), &bytes[..len]);
                }
            }
            model.last_seq = CommitSeq(0);
            rig::check(&disk, model.clone(), &setup(), &(state, len));
        }
    }
}

#[test]
fn a_log_that_is_gone_is_refused_unless_the_database_holds_what_was_in_it() {
    let (vfs, _) = closed();
    vfs.remove(Path::new(WAL)).unwrap();
    let before = files(&vfs);
    let error = Rig::open(&vfs, &setup()).unwrap_err();
    assert!(matches!(&error, Error::WalCorrupt { .. }), "{error}");
    assert!(error.to_string().contains("is gone"), "{error}");
    assert!(files(&vfs) == before);

    let (vfs, mut model) = closed();
    let rig = Rig::open(&vfs, &setup()).unwrap();
    rig.checkpoint(CheckpointMode::Full).unwrap();
    drop(rig);
    vfs.remove(Path::new(WAL)).unwrap();
    let rig = Rig::open(&vfs, &setup()).unwrap();
    assert_eq!(rig.report.replaced, Some(Whereabouts::InDatabase));
    model.settle(&rig, &"the log was removed after a checkpoint");
}

#[test]
fn garbage_in_place_of_the_log_is_refused_where_commits_are_missing_and_never_a_panic() {
    let (vfs, _) = closed();
    let log = vfs.dump(Path::new(WAL)).unwrap();
    for len in [0, 1, 31, 32, 33, 500, 568, 1000, log.len() - 1] {
        for garbage in [false, true] {
            let disk = vfs.fork();
            let mut bytes = log[..len].to_vec();
            if garbage {
                bytes
                    .iter_mut()
                    .for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(7));
            }
            disk.put(Path::new(WAL), &bytes);
            let opened = Rig::open(&disk, &setup());
            // Of the whole log only preallocated zeros lie in its last byte.
            let harmless = len == log.len() - 1 && !garbage;
            match opened {
                Ok(_) => assert!(harmless, "{len} bytes, garbage: {garbage}"),
                Err(error) => {
                    assert!(!harmless, "{error}");
                    assert!(
                        matches!(error, Error::WalCorrupt { .. } | Error::WalAmbiguous { .. }),
                        "{len} bytes, garbage: {garbage}: {error}"
                    );
                }
            }
        }
    }
}

/// After a failed write a file system can show what never reached the disk, and take its sync for done. Simulated by a
/// write that is lost: the cache shows it, no later sync makes it durable, and the device does not have it.
#[test]
fn what_recovery_writes_and_the_device_does_not_hold_is_read_again_without_the_cache() {
    let (vfs, mut model) = closed();
    let mut rig = Rig::open(&vfs, &bare()).unwrap();
    vfs.crash_at_op(2);
    let batch = [write(20, [1]), write(21, [2, 3])];
    let answers = rig.commit(&batch);
    model.note(&batch, &answers);
    let vfs = vfs.crash(CrashKeep::Random(3));
    let mut lost = 0;
    for n in 1.. {
        let disk = vfs.fork();
        disk.lose_write_at(walmend_vfs::sim::Nth::call(n).of("-wal"));
        drop(Rig::open(&disk, &setup()).unwrap_or_else(|error| panic!("write {n}: {error}")));
        if disk.injected().is_empty() {
            break;
        }
        lost += 1;
        let left = disk.crash(CrashKeep::None);
        rig::check(&left, model.clone(), &setup(), &("lost", n));
    }
    assert!(lost > 1);
}

#[test]
fn a_failing_open_can_be_repeated() {
    // Every sync, write and read of an opening that has something to recover fails once.
    let (vfs, model) = closed();
    let mut rig = Rig::open(&vfs, &bare()).unwrap();
    vfs.crash_at_op(2);
    let batch = [write(20, [1]), write(21, [2, 3])];
    let answers = rig.commit(&batch);
    let mut model = model;
    model.note(&batch, &answers);
    let vfs = vfs.crash(CrashKeep::Random(3));
    type Arm = fn(&SimVfs, walmend_vfs::sim::Nth);
    let arms: [Arm; 3] = [
        |vfs, nth| vfs.fail_sync_at(nth, CrashKeep::Random(1)),
        |vfs, nth| vfs.fail_write_at(nth, 20, std::io::ErrorKind::Other),
        |vfs, nth| vfs.fail_read_at(nth),
    ];
    for arm in arms {
        let mut failed = 0;
        for n in 1.. {
            let disk = vfs.fork();
            arm(&disk, walmend_vfs::sim::Nth::call(n));
            let opened = Rig::open(&disk, &setup());
            let done = opened.is_ok();
            failed += u32::from(!done);
            drop(opened);
            disk.disarm();
            rig::check(
                &disk.fork().crash(CrashKeep::None),
                model.clone(),
                &setup(),
                &("power lost", n),
            );
            rig::check(&disk, model.clone(), &setup(), &("again", n));
            if done {
                break;
            }
        }
        assert!(failed > 1);
    }
    let db = vfs.open(Path::new(DB), OpenFlags::READ).unwrap();
    assert!(
        db.is_empty().unwrap(),
        "nothing but a checkpoint writes to the database"
    );
}
