//! What fails in the file system: syncs, writes, space. Nothing that is not durable is acknowledged, and what
//! was called not committed never comes back.
#![cfg(not(walmend_loom))]

mod double;
mod rig;

use double::{DoubleVfs, Fault};
use rig::{Answer, Model, Rig, Setup, Spec, Step, WAL, check, fresh, scenario, seeds, write};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use walmend_sync::thread;
use walmend_types::{Error, PageImage, PageSize, Result, SyncMode, WalBatchSync, WalBatchWriter};
use walmend_vfs::DIRECT_BLOCK;
use walmend_vfs::sim::{CrashKeep, Nth, SimOpKind, SimVfs};
use walmend_wal::{CheckpointMode, LogIo};

fn settings() -> [Setup; 4] {
    [
        Setup::small(),
        Setup::direct(),
        Setup {
            watermark_interval: Duration::ZERO,
            preallocate: 0,
            ..Setup::direct()
        },
        Setup {
            watermark_interval: Duration::ZERO,
            preallocate: 0,
            ..Setup::small()
        },
    ]
}

/// Runs the scenario on a disk on which one thing fails, and goes on after it as a program would. After each
/// step the machine is also lost, in a copy, in several ways.
fn run(vfs: &SimVfs, setup: &Setup, what: &dyn std::fmt::Debug) -> u64 {
    let mut model = Model::default();
    let open = |model: &mut Model| {
        let rig = Rig::open(vfs, setup)
            .or_else(|_| Rig::open(vfs, setup))
            .unwrap_or_else(|error| panic!("{what:?}: {error}"));
        model.settle(&rig, what);
        rig
    };
    let mut rig = open(&mut model);
    let mut crashes = 0;
    for step in scenario() {
        let poisoned = rig.poison().reason().is_some();
        match &step {
            Step::Commit(batch) => {
                let answers = rig.commit(batch);
                model.note(batch, &answers);
                assert!(!poisoned || answers.iter().all(Answer::not_committed), "{what:?}");
                if rig.poison().reason().is_none() && !answers.iter().all(Answer::committed) {
                    assert!(answers.iter().all(Answer::not_committed), "{what:?}: {answers:?}");
                    let again = rig.commit(batch);
                    assert!(again.iter().all(Answer::committed), "{what:?}: {again:?}");
                    model.note(batch, &again);
                }
            }
            Step::Checkpoint(mode) => match rig.checkpoint(*mode) {
                Ok(_) => assert!(!poisoned, "{what:?}"),
                Err(_) if rig.poison().reason().is_none() => {
                    // It says nothing about the log: the log was kept, and another try does it.
                    assert_eq!(rig.content(), model.sure, "{what:?}: after a failed checkpoint");
                    losses(vfs, &model, setup, &(what, "a failed checkpoint"));
                    rig.checkpoint(*mode)
                        .unwrap_or_else(|error| panic!("{what:?}: {error}"));
                }
                Err(_) => {}
            },
            // A store with a poisoned log does not tidy it up.
            Step::Close if poisoned => {}
            Step::Close => {
                // Only protection is lost.
                let _ = rig.log.close();
            }
            Step::Reopen => {
                drop(rig);
                rig = open(&mut model);
            }
        }
        assert_eq!(rig.content(), model.sure, "{what:?}: visible after {step:?}");
        crashes += losses(vfs, &model, setup, &(what, &step));
    }
    crashes
}

/// Loses the machine, or only the process, in copies of the disk.
fn losses(vfs: &SimVfs, model: &Model, setup: &Setup, what: &dyn std::fmt::Debug) -> u64 {
    check(
        &vfs.fork().crash(CrashKeep::None),
        model.clone(),
        setup,
        &(what, "power lost"),
    );
    check(&vfs.fork().kill(), model.clone(), setup, &(what, "killed"));
    let mut lost = 2;
    for seed in seeds(2) {
        let disk = vfs.fork().crash(CrashKeep::Random(seed));
        check(&disk, model.clone(), setup, &(what, "power lost", seed));
        lost += 1;
    }
    lost
}

#[test]
fn without_a_descriptor_for_direct_writes_the_log_goes_through_the_cache() {
    let sim = fresh(3);
    let mut rig = Rig::open(&sim, &Setup::direct()).unwrap();
    rig.must_commit(write(1, 1..4));
    drop(rig);
    let vfs = DoubleVfs::new(&sim);
    vfs.leave_no_descriptors();
    let setup = Setup {
        settles: LogIo::Buffered,
        ..Setup::direct()
    };
    let mut rig = Rig::open_on(Arc::new(vfs), &setup).unwrap();
    rig.must_commit(write(2, 2..6));
}

#[test]
fn a_failed_sync_at_any_position_acknowledges_nothing_that_is_not_durable() {
    for setup in settings() {
        let whole = fresh(5);
        let before = whole.syncs();
        run(&whole, &setup, &"no fault");
        let syncs = whole.syncs() - before;
        assert!(syncs > 20, "{syncs}");
        let mut keeps = vec![CrashKeep::None, CrashKeep::All];
        keeps.extend(seeds(4).map(CrashKeep::Random));
        for n in 1..=syncs {
            for keep in &keeps {
                let vfs = fresh(5);
                vfs.fail_sync_at(Nth::call(n), keep.clone());
                run(&vfs, &setup, &("sync", n, keep));
            }
        }
    }
}

#[test]
fn a_short_write_at_any_position_acknowledges_nothing_and_never_comes_back() {
    for setup in settings() {
        let whole = fresh(5);
        let before = whole.writes();
        run(&whole, &setup, &"no fault");
        let writes = whole.writes() - before;
        assert!(writes > 30, "{writes}");
        for n in 1..=writes {
            for landed in [0, 10, 32, 600, u64::MAX] {
                let vfs = fresh(5);
                vfs.fail_write_at(Nth::call(n), landed, ErrorKind::Other);
                run(&vfs, &setup, &("write", n, landed));
            }
        }
    }
}

/// A log with one commit, and what three transactions in one batch are going to be.
fn three() -> [Spec; 3] {
    [write(2, [1, 2]), write(3, [3]), write(4, [4, 1])]
}

fn with_one_commit(vfs: &SimVfs, setup: &Setup) -> (Rig, Model) {
    let mut rig = Rig::open(vfs, setup).unwrap();
    let mut model = Model::default();
    let batch = [write(1, [1])];
    let answers = rig.commit(&batch);
    model.note(&batch, &answers);
    (rig, model)
}

#[test]
fn a_disk_that_is_full_at_any_byte_of_an_append_commits_nothing_and_goes_on_when_there_is_space() {
    let size = {
        let vfs = fresh(9);
        let (mut rig, _) = with_one_commit(&vfs, &Setup::small());
        let before = vfs.dump(Path::new(WAL)).unwrap().len();
        rig.commit(&three());
        rig.commit(&three());
        vfs.dump(Path::new(WAL)).unwrap().len() - before
    };
    for setup in settings() {
        for bytes in 0..=size as u64 {
            let vfs = fresh(9);
            let (mut rig, mut model) = with_one_commit(&vfs, &setup);
            vfs.enospc_after(bytes);
            let mut refused = 0;
            for batch in [three(), three()] {
                let answers = rig.commit(&batch);
                assert!(!answers.iter().any(Answer::unknown), "{bytes}: {answers:?}");
                if let Answer::NotCommitted(error) = &answers[0] {
                    assert!(matches!(error, Error::Full { .. }), "{error}");
                    refused += 1;
                }
                model.note(&batch, &answers);
            }
            assert!(rig.poison().reason().is_none(), "{bytes}");
            assert_eq!(rig.content(), model.sure);
            // The sector in which space ran out is what matters; most bytes are like their neighbours.
            if bytes % 64 < 2 || refused == 0 {
                losses(&vfs, &model, &setup, &("full", bytes));
            } else {
                let disk = vfs.fork().crash(CrashKeep::Random(bytes));
                check(&disk, model.clone(), &setup, &("full", bytes, "power lost"));
            }
            vfs.disarm();
            // An identical retry of the first transaction alone must not bring the others back.
            let again = rig.commit(&three()[..1]);
            assert!(again[0].committed(), "{bytes}: {again:?}");
            model.note(&three()[..1], &again);
            assert_eq!(rig.content(), model.sure);
            check(
                &vfs.fork().kill(),
                model.clone(),
                &setup,
                &("space again", bytes, "killed"),
            );
            let disk = vfs.fork().crash(CrashKeep::Random(bytes));
            check(
                &disk,
                model.clone(),
                &setup,
                &("space again", bytes, "power lost"),
            );
        }
    }
}

#[test]
fn of_three_transactions_in_a_failed_append_an_identical_retry_of_the_first_brings_back_only_that() {
    let direct = Setup {
        // So that the batch ends behind the first block, and there is something to fill up.
        page_size: PageSize::new(1024).unwrap(),
        ..Setup::direct()
    };
    for setup in [Setup::small(), direct] {
        // The write of the frames lands in whole or in part; or it is well, and filling up ahead of it fails.
        for (nth, landed) in [(1, u64::MAX), (1, 2600), (1, 1500), (2, 0), (2, 100)] {
            let setup = setup.clone();
            let vfs = fresh(2);
            let (mut rig, mut model) = with_one_commit(&vfs, &setup);
            vfs.fail_write_at(Nth::call(nth).of("-wal"), landed, ErrorKind::Other);
            let answers = rig.commit(&three());
            assert!(answers.iter().all(Answer::not_committed), "{answers:?}");
            assert_eq!(rig.content(), model.sure);
            let again = rig.commit(&three()[..1]);
            model.note(&three()[..1], &again);
            assert_eq!(rig.content(), model.sure);
            losses(&vfs, &model, &setup, &"retried");
            drop(rig);
            let mut rig = Rig::open(&vfs, &setup).unwrap();
            assert_eq!(model.settle(&rig, &"reopened"), 0);
            rig.must_commit(write(50, [2]));
        }
    }
}

#[test]
fn what_was_called_not_committed_is_not_there_after_a_power_loss_right_then() {
    for seed in seeds(60) {
        let setup = Setup::small();
        let vfs = fresh(2);
        let (mut rig, model) = with_one_commit(&vfs, &setup);
        vfs.fail_write_at(Nth::call(1).of("-wal"), u64::MAX, ErrorKind::Other);
        let answers = rig.commit(&three());
        assert!(answers.iter().all(Answer::not_committed), "{answers:?}");
        let disk = vfs.crash(CrashKeep::Random(seed));
        check(&disk, model, &setup, &seed);
    }
}

#[test]
fn frames_that_a_failed_sync_left_in_the_cache_alone_are_made_durable_before_they_are_published() {
    for setup in [Setup::small(), Setup::direct()] {
        for keep in std::iter::once(CrashKeep::None).chain(seeds(30).map(CrashKeep::Random)) {
            let setup = setup.clone();
            let vfs = fresh(2);
            let (mut rig, mut model) = with_one_commit(&vfs, &setup);
            vfs.fail_sync_at(Nth::call(1).of("-wal"), keep);
            let answers = rig.commit(&three());
            assert!(answers.iter().all(Answer::unknown), "{answers:?}");
            model.note(&three(), &answers);
            let vfs = vfs.kill();
            let rig = Rig::open(&vfs, &setup).unwrap();
            // The cache had them whole.
            assert_eq!(model.settle(&rig, &"killed"), 3);
            let (cached, durable) = (vfs.dump(Path::new(WAL)), vfs.dump_durable(Path::new(WAL)));
            assert!(cached == durable, "what is published is on the disk");
            check(&vfs.crash(CrashKeep::None), model, &setup, &"power lost");
        }
    }
}

#[test]
fn frames_whose_removal_never_reached_the_disk_do_not_come_back_after_they_were_found_absent() {
    for setup in [Setup::small(), Setup::direct()] {
        // The append reaches the disk; zeroing its frames reaches the cache alone.
        for seed in seeds(60) {
            let setup = setup.clone();
            let vfs = fresh(2);
            let (mut rig, mut model) = with_one_commit(&vfs, &setup);
            vfs.fail_write_at(Nth::call(1).of("-wal"), u64::MAX, ErrorKind::Other);
            let keep = if seed == 0 {
                // The frames of the append touch this many sectors; all of them, and nothing of the zeros.
                let frames = three().iter().map(|spec| spec.pages.len()).sum::<usize>();
                let sectors = match setup.log_io {
                    LogIo::Direct => DIRECT_BLOCK / 512,
                    _ => frames * 536 / 512 + 1,
                };
                CrashKeep::Subset(vec![true; sectors])
            } else {
                CrashKeep::Random(seed)
            };
            vfs.fail_sync_at(Nth::call(1).of("-wal"), keep);
            let answers = rig.commit(&three());
            assert!(answers.iter().all(Answer::unknown), "{answers:?}");
            model.note(&three(), &answers);
            let vfs = vfs.kill();
            let mut rig = Rig::open(&vfs, &setup).unwrap();
            assert_eq!(model.settle(&rig, &seed), 0);
            check(
                &vfs.fork().crash(CrashKeep::None),
                model.clone(),
                &setup,
                &(seed, "found absent"),
            );
            // Nor behind an identical retry of the first.
            let again = rig.commit(&three()[..1]);
            model.note(&three()[..1], &again);
            check(&vfs.crash(CrashKeep::None), model, &setup, &(seed, "retried"));
        }
    }
}

#[test]
fn an_append_that_was_refused_before_it_began_does_not_undo_the_one_before_it() {
    for setup in [Setup::small(), Setup::direct()] {
        let vfs = fresh(2);
        let (mut rig, model) = with_one_commit(&vfs, &setup);
        let requests = rig.requests(&three()[..1]);
        let entries = [walmend_types::BatchEntry {
            request: &requests[0],
            commit_seq: walmend_types::CommitSeq(2),
        }];
        // As when the sync of a checkpoint fails just after the group commit has looked at the latch.
        rig.poison().set(Error::Internal("elsewhere".into()));
        assert!(rig.writer.append_batch(&entries).is_err());
        let _ = WalBatchWriter::<Vec<PageImage>>::discard_append(&mut rig.writer);
        assert_eq!(rig.content(), model.sure);
        losses(&vfs, &model, &setup, &"refused");
    }
}

#[test]
fn a_panic_in_the_append_leaves_nothing_behind_that_could_come_back() {
    for setup in [Setup::small(), Setup::direct()] {
        let sim = fresh(2);
        let (rig, mut model) = with_one_commit(&sim, &setup);
        drop(rig);
        let vfs = DoubleVfs::new(&sim);
        let mut rig = Rig::open_on(Arc::new(vfs.clone()), &setup).unwrap();
        vfs.arm(Fault::PanicAfterWrite { suffix: "-wal" });
        let requests = rig.requests(&three());
        let entries: Vec<_> = requests
            .iter()
            .zip(2..)
            .map(|(request, seq)| walmend_types::BatchEntry {
                request,
                commit_seq: walmend_types::CommitSeq(seq),
            })
            .collect();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            rig.writer.append_batch(&entries).map(drop)
        }));
        assert!(panicked.is_err());
        // A checkpoint in between is turned away, and does not wait for ever.
        assert!(rig.checkpoint(CheckpointMode::Full).is_err());
        WalBatchWriter::<Vec<PageImage>>::discard_append(&mut rig.writer).unwrap();
        rig.checkpoint(CheckpointMode::Full).unwrap();
        losses(&sim, &model, &setup, &"panicked");
        let again = rig.commit(&three()[..1]);
        model.note(&three()[..1], &again);
        losses(&sim, &model, &setup, &"retried");
    }
}

#[test]
fn a_failed_sync_is_latched_before_the_next_sync_of_the_log_begins() {
    for setup in [Setup::small(), Setup::direct()] {
        // The kernel tells one caller of the failure. If that is a checkpoint, and a batch is synced right behind
        // it, the success of that sync proves nothing.
        let sim = fresh(2);
        let vfs = DoubleVfs::new(&sim);
        let mut rig = Rig::open_on(Arc::new(vfs.clone()), &setup).unwrap();
        rig.must_commit(write(1, [1]));
        let requests = rig.requests(&three()[..1]);
        let entries = [walmend_types::BatchEntry {
            request: &requests[0],
            commit_seq: walmend_types::CommitSeq(2),
        }];
        let append = rig.writer.append_batch(&entries).unwrap();
        vfs.arm(Fault::SlowFailingSync { suffix: "-wal" });
        let synced = thread::scope(|scope| -> Result<()> {
            let log = &rig.log;
            let checkpoint =
                scope.spawn(move || log.checkpoint(CheckpointMode::Passive, Duration::ZERO).map(drop));
            vfs.wait_for_failed_sync();
            let synced = rig.sync.sync(&append.mark);
            assert!(checkpoint.join().unwrap().is_err());
            synced
        });
        assert!(
            synced.is_err(),
            "the frames may be gone, and the batch was called durable"
        );
    }
}

#[test]
fn after_a_failed_sync_of_the_database_the_next_checkpoint_writes_everything_again_even_the_length() {
    for reopen in [false, true] {
        for keep in [CrashKeep::None, CrashKeep::Random(1), CrashKeep::Random(5)] {
            let setup = Setup::small();
            let vfs = fresh(4);
            let mut rig = Rig::open(&vfs, &setup).unwrap();
            let mut model = Model::default();
            let grow = [write(1, 1..=9)];
            let answers = rig.commit(&grow);
            model.note(&grow, &answers);
            rig.checkpoint(CheckpointMode::Truncate).unwrap();
            let shrink = [write(2, [1, 2]).size(4)];
            let answers = rig.commit(&shrink);
            model.note(&shrink, &answers);
            vfs.fail_sync_at(Nth::call(1).of("a.db"), keep);
            let failed = rig.checkpoint(CheckpointMode::Truncate).unwrap_err();
            assert!(matches!(failed, Error::Io { .. }), "{failed}");
            assert!(rig.poison().reason().is_none());
            check(
                &vfs.fork().crash(CrashKeep::None),
                model.clone(),
                &setup,
                &"the log was kept",
            );
            if reopen {
                drop(rig);
                rig = Rig::open(&vfs, &setup).unwrap();
            }
            rig.checkpoint(CheckpointMode::Truncate).unwrap();
            check(
                &vfs.crash(CrashKeep::None),
                model,
                &setup,
                &(reopen, "the log is empty"),
            );
        }
    }
}

#[test]
fn a_header_write_that_fails_does_not_leave_commits_behind_a_record_of_another_generation() {
    for setup in [Setup::small(), Setup::direct()] {
        for landed in [0, 10, 31, 32] {
            let setup = setup.clone();
            let vfs = fresh(4);
            let (mut rig, mut model) = with_one_commit(&vfs, &setup);
            vfs.fail_write_at(Nth::call(1).of("-wal"), landed, ErrorKind::Other);
            rig.checkpoint(CheckpointMode::Restart).unwrap_err();
            assert_eq!(rig.content(), model.sure);
            losses(&vfs, &model, &setup, &(landed, "header"));
            let batch = [write(2, [2]), write(3, [3])];
            let answers = rig.commit(&batch);
            assert!(answers.iter().all(Answer::committed), "{answers:?}");
            model.note(&batch, &answers);
            losses(&vfs, &model, &setup, &(landed, "commits behind it"));
        }
    }
}

#[test]
fn a_torn_header_over_the_leftovers_of_several_generations_is_no_damage() {
    for setup in [Setup::small(), Setup::direct()] {
        for landed in [10, 31] {
            let setup = setup.clone();
            let vfs = fresh(4);
            let (mut rig, mut model) = with_one_commit(&vfs, &setup);
            for (rounds, version) in [(12, 10), (1, 50)] {
                for version in version..version + rounds {
                    let batch = [write(version, [1 + version % 3])];
                    let answers = rig.commit(&batch);
                    model.note(&batch, &answers);
                }
                if rounds > 1 {
                    rig.checkpoint(CheckpointMode::Restart).unwrap();
                }
            }
            vfs.fail_write_at(Nth::call(1).of("-wal"), landed, ErrorKind::Other);
            rig.checkpoint(CheckpointMode::Restart).unwrap_err();
            losses(&vfs, &model, &setup, &landed);
        }
    }
}

#[test]
fn only_a_sync_stands_between_an_append_and_its_watermark() {
    let vfs = fresh(4);
    let (mut rig, _) = with_one_commit(&vfs, &Setup::small());
    let before = vfs.log().len();
    rig.must_commit(write(2, [1, 2]));
    let ops: Vec<(SimOpKind, String)> = vfs.log()[before..]
        .iter()
        .map(|op| (op.kind.clone(), op.file.display().to_string()))
        .collect();
    assert_eq!(
        ops,
        [
            (SimOpKind::Write, WAL.into()),
            (SimOpKind::Sync(SyncMode::Data), WAL.into()),
            (SimOpKind::Write, rig::META.into()),
        ]
    );
}
