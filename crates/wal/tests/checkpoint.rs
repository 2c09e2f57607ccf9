//! The order of a checkpoint, told from what the disk was asked to do, and what happens when the database file
//! does not hold what was written to it.
#![cfg(not(walmend_loom))]

mod double;
mod rig;

use double::{DoubleVfs, Fault};
use rig::{DB, META, Model, Rig, Setup, Spec, Step, WAL, check, fresh, scenario, write};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use walmend_types::{CommitSeq, Error, PageSize, SyncMode};
use walmend_vfs::sim::{CrashKeep, Nth, SimOp, SimOpKind, SimVfs};
use walmend_wal::{CheckpointMode, LogFate, WalHeader, frame_offset};

/// What is written and not yet synced, file by file, replayed from the log of operations.
#[derive(Debug, Default)]
struct Order {
    db_dirty: bool,
    db_ever_written: bool,
    frames_dirty: bool,
    header_dirty: bool,
    record_dirty: bool,
    resets: u32,
    watermarks: u32,
}

impl Order {
    /// Checks one operation against the rules of DESIGN.md, and takes it in.
    fn take(&mut self, op: &SimOp) {
        let watermark = op.offset / 4096 < 2;
        match (&op.kind, op.file.to_str().unwrap()) {
            (SimOpKind::Write, DB) => {
                assert!(
                    !self.frames_dirty,
                    "the log is synced before the database is written: {op:?}"
                );
                (self.db_dirty, self.db_ever_written) = (true, true);
            }
            (SimOpKind::Truncate, DB) => self.db_dirty = true,
            (SimOpKind::Sync(SyncMode::Full), DB) => self.db_dirty = false,
            (SimOpKind::Sync(SyncMode::Data), DB) => panic!("fdatasync is not enough: {op:?}"),
            (SimOpKind::Truncate, WAL) => {
                self.reset(op);
                assert_eq!(op.len, 0);
                self.header_dirty = true;
            }
            (SimOpKind::Write, WAL) if op.offset == 0 => {
                self.reset(op);
                self.header_dirty = true;
            }
            (SimOpKind::Write, WAL) => {
                assert!(!self.header_dirty, "a frame before its header is durable: {op:?}");
                self.frames_dirty = true;
            }
            (SimOpKind::Sync(_), WAL) => (self.frames_dirty, self.header_dirty) = (false, false),
            (SimOpKind::Write, META) if watermark => {
                assert!(
                    !self.frames_dirty,
                    "a watermark over frames that are not synced: {op:?}"
                );
                self.watermarks += 1;
            }
            (SimOpKind::Write, META) => self.record_dirty = true,
            (SimOpKind::Sync(_), META) => self.record_dirty = false,
            (SimOpKind::Create, _) => {}
            other => panic!("{other:?}"),
        }
    }

    fn reset(&mut self, op: &SimOp) {
        assert!(!self.db_dirty, "the database is not synced: {op:?}");
        assert!(!self.record_dirty, "the companion's record is not synced: {op:?}");
        self.resets += 1;
    }
}

#[test]
fn an_emptied_log_counts_its_generations_from_0_again() {
    let sim = fresh(1);
    let mut rig = Rig::open(&sim, &Setup::small()).unwrap();
    let mut begun = Vec::new();
    for mode in [
        CheckpointMode::Restart,
        CheckpointMode::Truncate,
        CheckpointMode::Passive,
    ] {
        rig.must_commit(write(1, 1..3));
        let log = sim.dump(Path::new(WAL)).unwrap();
        begun.push(
            WalHeader::decode(log.first_chunk().unwrap())
                .unwrap()
                .checkpoint_seq,
        );
        rig.checkpoint(mode).unwrap();
    }
    assert_eq!(begun, [0, 1, 0]);
}

#[test]
fn nothing_overtakes_what_it_depends_on() {
    for preallocate in [0, 2048] {
        let setup = Setup {
            preallocate,
            ..Setup::small()
        };
        let vfs = fresh(3);
        let mut order = Order::default();
        let mut rig = Rig::open(&vfs, &setup).unwrap();
        // What recovery rewrites on reopening is not what this is about.
        for step in scenario()
            .into_iter()
            .filter(|step| !matches!(step, Step::Reopen))
        {
            let before = vfs.log().len();
            match step {
                Step::Commit(batch) => {
                    rig.commit(&batch);
                }
                Step::Checkpoint(mode) => {
                    rig.checkpoint(mode).unwrap();
                }
                _ => rig.log.close().unwrap(),
            }
            vfs.log()[before..].iter().for_each(|op| order.take(op));
        }
        // A first header; emptied; a second header; restarted.
        assert_eq!(order.resets, 4, "{order:?}");
        assert!(order.watermarks > 8 && order.db_ever_written, "{order:?}");
    }
}

/// Pages 1 to 5, with three of them written twice, in the log alone.
fn uncheckpointed(vfs: &Arc<dyn walmend_vfs::Vfs>) -> (Rig, Model) {
    let mut rig = Rig::open_on(Arc::clone(vfs), &Setup::small()).unwrap();
    let mut model = Model::default();
    for batch in [[write(1, 1..=5)], [write(2, [2, 3, 4])]] {
        let answers = rig.commit(&batch);
        model.note(&batch, &answers);
    }
    (rig, model)
}

fn on_sim() -> (SimVfs, Rig, Model) {
    let vfs = fresh(3);
    let (rig, model) = uncheckpointed(&(Arc::new(vfs.clone()) as Arc<dyn walmend_vfs::Vfs>));
    (vfs, rig, model)
}

/// The whole database file, page by page.
fn database(model: &Model) -> Vec<u8> {
    (1..=model.sure.pages)
        .flat_map(|page| rig::image(page, model.sure.versions[&page], 512))
        .collect()
}

#[test]
fn every_mode_copies_and_verifies_the_newest_version_of_each_page_once() {
    for (mode, fate, log_bytes) in [
        (CheckpointMode::Passive, LogFate::Kept, None),
        (CheckpointMode::Full, LogFate::Kept, None),
        (CheckpointMode::Restart, LogFate::Reset, None),
        (CheckpointMode::Truncate, LogFate::Truncated, Some(0)),
    ] {
        let (vfs, mut rig, mut model) = on_sim();
        let before = vfs.dump(Path::new(WAL)).unwrap().len();
        let report = rig.checkpoint(mode).unwrap();
        assert_eq!((report.mode, report.log, report.frames), (mode, fate, 8));
        assert_eq!((report.pages_written, report.pages_verified), (5, 5));
        assert!(!report.blocked_by_readers);
        assert!(vfs.dump_durable(Path::new(DB)).unwrap() == database(&model));
        assert_eq!(
            vfs.dump(Path::new(WAL)).unwrap().len(),
            log_bytes.unwrap_or(before)
        );
        // Once more: nothing is left to do.
        let again = rig.checkpoint(CheckpointMode::Full).unwrap();
        assert_eq!((again.pages_written, again.frames), (0, rig.log.status().frames));
        let batch = [write(3, [5, 6])];
        let answers = rig.commit(&batch);
        model.note(&batch, &answers);
        let more = rig.checkpoint(CheckpointMode::Full).unwrap();
        assert_eq!(more.pages_written, 2);
        assert!(vfs.dump_durable(Path::new(DB)).unwrap() == database(&model));
        check(&vfs.crash(CrashKeep::None), model, &Setup::small(), &mode);
    }
}

#[test]
fn a_lost_write_to_the_database_is_named_and_the_log_stays_until_a_retry_succeeds() {
    for mode in [
        CheckpointMode::Passive,
        CheckpointMode::Restart,
        CheckpointMode::Truncate,
    ] {
        let sim = fresh(3);
        let vfs = DoubleVfs::new(&sim);
        let (rig, model) = uncheckpointed(&(Arc::new(vfs.clone()) as Arc<dyn walmend_vfs::Vfs>));
        let before = sim.dump(Path::new(WAL));
        vfs.arm(Fault::LostWrite { suffix: "a.db" });
        let error = rig.checkpoint(mode).unwrap_err();
        assert!(matches!(error, Error::DatabaseCorrupt { page: 1, .. }), "{error}");
        assert!(sim.dump(Path::new(WAL)) == before);
        assert_eq!(rig.content(), model.sure);
        assert!(rig.poison().reason().is_none());
        check(
            &sim.fork().crash(CrashKeep::None),
            model.clone(),
            &Setup::small(),
            &"lost",
        );
        let report = rig.checkpoint(mode).unwrap();
        assert_eq!(report.pages_verified, 5);
        assert!(sim.dump_durable(Path::new(DB)).unwrap() == database(&model));
        check(&sim.crash(CrashKeep::None), model, &Setup::small(), &"retried");
    }
}

#[test]
fn a_page_that_rots_between_write_and_verification_is_named() {
    let sim = fresh(3);
    let vfs = DoubleVfs::new(&sim);
    let (rig, model) = uncheckpointed(&(Arc::new(vfs.clone()) as Arc<dyn walmend_vfs::Vfs>));
    vfs.arm(Fault::FlipAfterSync {
        suffix: "a.db",
        at: 3 * 512 + 77,
    });
    let error = rig.checkpoint(CheckpointMode::Truncate).unwrap_err();
    assert!(matches!(error, Error::DatabaseCorrupt { page: 4, .. }), "{error}");
    assert_eq!(rig.log.status().backfilled, 0);
    rig.checkpoint(CheckpointMode::Truncate).unwrap();
    assert_eq!(rig.content(), model.sure);
}

#[test]
fn a_damaged_frame_stops_a_checkpoint_before_the_log_is_touched() {
    let (vfs, rig, _) = on_sim();
    // Frame 7 holds the newest version of page 3.
    vfs.flip_bit(Path::new(WAL), frame_offset(7, PageSize::MIN) + 200, 5);
    let before = vfs.dump(Path::new(WAL));
    let error = rig.checkpoint(CheckpointMode::Truncate).unwrap_err();
    assert!(matches!(error, Error::WalCorrupt { frame: 7, .. }), "{error}");
    assert!(vfs.dump(Path::new(WAL)) == before);
    assert_eq!(rig.log.status().backfilled, 0);
    // Frame 2 holds an older version of page 2, which nobody needs any more.
    vfs.flip_bit(Path::new(WAL), frame_offset(7, PageSize::MIN) + 200, 5);
    vfs.flip_bit(Path::new(WAL), frame_offset(2, PageSize::MIN) + 200, 5);
    rig.checkpoint(CheckpointMode::Truncate).unwrap();
}

#[test]
fn a_full_disk_or_a_failed_write_to_the_database_keeps_the_log_and_a_retry_succeeds() {
    for bytes in (0..5 * 512).step_by(100) {
        for full in [true, false] {
            let (vfs, rig, model) = on_sim();
            if full {
                vfs.enospc_after(bytes);
            } else {
                vfs.fail_write_at(Nth::call(1).of("a.db"), bytes, ErrorKind::Other);
            }
            let error = rig.checkpoint(CheckpointMode::Truncate).unwrap_err();
            assert_eq!(matches!(error, Error::Full { .. }), full, "{error}");
            assert_eq!(rig.content(), model.sure);
            check(
                &vfs.fork().crash(CrashKeep::Random(bytes)),
                model.clone(),
                &Setup::small(),
                &bytes,
            );
            vfs.disarm();
            rig.checkpoint(CheckpointMode::Truncate).unwrap();
            assert_eq!(rig.content(), model.sure);
            check(
                &vfs.crash(CrashKeep::None),
                model,
                &Setup::small(),
                &(bytes, "retried"),
            );
        }
    }
}

#[test]
fn a_database_that_shrank_is_cut_and_does_not_grow_back() {
    let (vfs, mut rig, mut model) = on_sim();
    rig.checkpoint(CheckpointMode::Passive).unwrap();
    let batch: [Spec; 1] = [write(9, [1]).size(2)];
    let answers = rig.commit(&batch);
    model.note(&batch, &answers);
    rig.checkpoint(CheckpointMode::Truncate).unwrap();
    assert_eq!(vfs.dump_durable(Path::new(DB)).unwrap().len(), 2 * 512);
    check(&vfs.crash(CrashKeep::None), model, &Setup::small(), &"shrunk");
}

#[test]
fn a_passive_checkpoint_copies_nothing_that_an_older_snapshot_must_not_see() {
    let (_, mut rig, _) = on_sim();
    rig.checkpoint(CheckpointMode::Truncate).unwrap();
    let before = rig.content();
    let mark = rig.log.begin_read();
    rig.must_commit(write(70, [1, 2]));
    let report = rig.checkpoint(CheckpointMode::Passive).unwrap();
    assert!(report.blocked_by_readers);
    let mut page = vec![0; rig.page_size.as_usize()];
    for number in 1..=2 {
        mark.read(walmend_types::PageNumber::new(number).unwrap(), &mut page)
            .unwrap();
        let version = before.versions[&number];
        assert!(page == rig::image(number, version, page.len()), "page {number}");
    }
}

#[test]
fn a_checkpoint_waits_for_readers_only_as_long_as_it_was_told() {
    let (_, mut rig, _) = on_sim();
    let mark = rig.log.begin_read();
    let report = rig.checkpoint(CheckpointMode::Truncate).unwrap();
    assert!(report.blocked_by_readers);
    assert_eq!((report.log, report.frames), (LogFate::Kept, 8));
    // The gate is open again.
    assert_eq!(rig.log.begin_read().commit_seq(), CommitSeq(2));
    rig.must_commit(write(3, [1]));
    drop(mark);
    let report = rig.checkpoint(CheckpointMode::Truncate).unwrap();
    assert_eq!((report.log, report.pages_written), (LogFate::Truncated, 1));
}
