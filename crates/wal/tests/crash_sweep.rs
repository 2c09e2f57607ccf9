//! The power goes at every single operation, the unsynced writes survive in every way that is tried, and
//! recovery itself is interrupted: what was acknowledged is there, what was not is whole or absent.
//!
//! `WALMEND_SWEEP=n` tries n random subsets of the unsynced writes where there are too many for all of them.
#![cfg(not(walmend_loom))]

mod double;
mod rig;

use double::{DoubleVfs, Fault};
use rig::{Model, Rig, Setup, Step, WAL, check, fresh, keeps, scenario, seeds, write};
use std::sync::Arc;
use std::time::Duration;
use walmend_types::PageSize;
use walmend_vfs::sim::{CrashKeep, SimVfs};

/// Runs the scenario until something fails or it ends; answers what must be there, and whether it ended.
fn run(vfs: &SimVfs, setup: &Setup) -> (Model, bool) {
    let mut model = Model::default();
    let Ok(mut rig) = Rig::open(vfs, setup) else {
        return (model, false);
    };
    for step in scenario() {
        match step {
            Step::Commit(batch) => {
                let answers = rig.commit(&batch);
                model.note(&batch, &answers);
                if !answers.iter().all(rig::Answer::committed) {
                    return (model, false);
                }
            }
            Step::Checkpoint(mode) => {
                if rig.checkpoint(mode).is_err() {
                    return (model, false);
                }
            }
            Step::Close => {
                if rig.log.close().is_err() {
                    return (model, false);
                }
            }
            Step::Reopen => {
                drop(rig);
                match Rig::open(vfs, setup) {
                    Ok(reopened) => rig = reopened,
                    Err(_) => return (model, false),
                }
                model.settle(&rig, &"reopened in the scenario");
            }
        }
    }
    (model, true)
}

/// Interrupts the recovery of what a crash left at every one of its operations.
fn interrupt_recovery(disk: &SimVfs, model: &Model, setup: &Setup, what: &dyn std::fmt::Debug) -> u64 {
    let mut crashes = 0;
    for op in 1.. {
        let half = disk.fork();
        half.crash_at_op(op);
        let done = Rig::open(&half, setup).is_ok();
        for keep in [CrashKeep::None, CrashKeep::Random(op), CrashKeep::All] {
            let disk = half.fork().crash(keep.clone());
            let rig = Rig::open(&disk, setup)
                .unwrap_or_else(|error| panic!("{what:?}, recovery stopped at {op}, {keep:?}: {error}"));
            model
                .clone()
                .settle(&rig, &(what, "recovery stopped at", op, keep));
            crashes += 1;
        }
        if done {
            return crashes;
        }
    }
    crashes
}

/// Every subset of a few pending changes, or the given ways for many.
fn ways(vfs: &SimVfs, seeds: u64) -> Vec<CrashKeep> {
    let pending = vfs.pending().len();
    if pending > 8 {
        return keeps(rig::seeds(seeds));
    }
    (0..1u32 << pending)
        .map(|bits| CrashKeep::Subset((0..pending).map(|bit| bits >> bit & 1 == 1).collect()))
        .collect()
}

#[expect(
    clippy::print_stdout,
    reason = "the figures, for whoever asks with --nocapture"
)]
fn sweep(setup: &Setup) {
    let whole = fresh(7);
    let before = whole.ops();
    let (_, ended) = run(&whole, setup);
    assert!(ended);
    let ops = whole.ops() - before;
    let mut crashes = 0u64;
    for op in 1..=ops {
        let vfs = fresh(7);
        vfs.crash_at_op(op);
        let (model, ended) = run(&vfs, setup);
        assert!(!ended, "operation {op} of {ops} was never reached");
        for (place, keep) in ways(&vfs, 12).into_iter().enumerate() {
            let what = (op, &keep);
            let disk = vfs.fork().crash(keep.clone());
            check(&disk.fork(), model.clone(), setup, &what);
            crashes += 3;
            if place < 6 {
                crashes += interrupt_recovery(&disk, &model, setup, &what);
            }
        }
        let killed = vfs.fork().kill();
        check(&killed.fork(), model.clone(), setup, &(op, "kill"));
        crashes += 3 + interrupt_recovery(&killed, &model, setup, &(op, "kill"));
    }
    println!("{ops} operations, {crashes} crashes");
    assert!(crashes > ops * 10);
}

#[test]
fn no_crash_at_any_operation_loses_or_invents_a_commit() {
    sweep(&Setup::small());
}

#[test]
fn nor_with_a_watermark_that_is_synced_each_time() {
    sweep(&Setup {
        watermark_interval: Duration::ZERO,
        preallocate: 0,
        ..Setup::small()
    });
}

#[test]
fn nor_with_pages_of_several_sectors() {
    sweep(&Setup {
        page_size: PageSize::new(1024).unwrap(),
        preallocate: 8192,
        ..Setup::small()
    });
}

#[test]
fn nor_past_the_page_cache_where_the_tail_block_is_written_again_by_every_append() {
    sweep(&Setup::direct());
}

#[test]
fn nor_past_the_page_cache_in_a_file_that_grows_with_every_append() {
    sweep(&Setup {
        preallocate: 0,
        page_size: PageSize::new(1024).unwrap(),
        ..Setup::direct()
    });
}

#[test]
fn nor_past_the_page_cache_with_frames_that_are_larger_than_a_block() {
    sweep(&Setup {
        page_size: PageSize::new(4096).unwrap(),
        preallocate: 1 << 15,
        ..Setup::direct()
    });
}

/// The deliberate bug of writing past the cache: an append brings back a tail block that misses the append before it.
/// The checks of the sweeps notice.
#[test]
fn a_tail_block_that_is_written_stale_is_caught() {
    let setup = Setup::direct();
    let sim = fresh(7);
    let vfs = DoubleVfs::new(&sim);
    let mut rig = Rig::open_on(Arc::new(vfs.clone()), &setup).unwrap();
    let mut model = Model::default();
    for version in 1..=6 {
        let batch = [write(version, [1 + version % 3])];
        if version == 4 {
            vfs.arm(Fault::StaleTail { suffix: WAL });
        }
        let answers = rig.commit(&batch);
        model.note(&batch, &answers);
        let crashed = sim.fork().crash(CrashKeep::None);
        let caught = std::panic::catch_unwind(|| check(&crashed, model.clone(), &setup, &version)).is_err();
        // The append after that brings the whole block back: it was the write that was wrong, not what is kept.
        assert_eq!(caught, version == 4, "{version}");
    }
}

#[test]
fn a_long_log_survives_whatever_a_crash_leaves_of_its_last_batch() {
    // The watermark on the disk is old, far older than two batches.
    let setup = Setup::small();
    let vfs = fresh(3);
    let mut rig = Rig::open(&vfs, &setup).unwrap();
    let mut model = Model::default();
    for version in 1..=80 {
        let batch = [write(version, [1 + version % 5])];
        let answers = rig.commit(&batch);
        model.note(&batch, &answers);
    }
    let before = vfs.ops();
    let batch: Vec<_> = (0..8).map(|n| write(200 + n, [1 + n % 5, 7 + n])).collect();
    // The append and its sync: the power goes at the sync.
    vfs.crash_at_op(2);
    let answers = rig.commit(&batch);
    assert!(answers.iter().all(rig::Answer::unknown), "{answers:?} {before}");
    model.note(&batch, &answers);
    let mut seen = std::collections::BTreeSet::new();
    for seed in seeds(200) {
        let disk = vfs.fork().crash(CrashKeep::Random(seed));
        let rig = Rig::open(&disk, &setup).unwrap_or_else(|error| panic!("{seed}: {error}"));
        seen.insert(model.clone().settle(&rig, &seed));
    }
    assert!(seen.len() > 2, "{seen:?}");
}
