//! The open log: what is appended can be read at the snapshot that sees it, verified each time.
#![cfg(not(walmend_loom))]

mod rig;

use proptest::prelude::*;
use rig::{Answer, Content, META, Model, Rig, Setup, Spec, WAL, fresh, image, write};
use std::path::Path;
use std::sync::Arc;
use walmend_sync::thread;
use walmend_types::{CommitSeq, Error, FrameNumber, OutcomeToken, PageImage, PageNumber, PageSize, WriteSet};
use walmend_vfs::sim::{CrashKeep, SimOpKind, SimVfs};
use walmend_vfs::{UnixVfs, Vfs};
use walmend_wal::{
    CheckpointMode, CompanionState, Decision, LogFate, PageSource, Scan, ScanHints, frame_offset,
};

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

fn companion(vfs: &SimVfs) -> CompanionState {
    CompanionState::read(vfs, Path::new(META)).unwrap().unwrap()
}

/// The token of the last commit in the log file, read by the scan.
fn last_token(vfs: &dyn Vfs) -> OutcomeToken {
    let file = vfs.open(Path::new(WAL), walmend_vfs::OpenFlags::READ).unwrap();
    let scan = Scan::read(&*file, ScanHints::default()).unwrap();
    OutcomeToken {
        salts: scan.header.ok().unwrap().salts,
        frame: scan.committed_frames,
        checksum: scan.checksum.pair(),
    }
}

#[test]
fn pages_of_every_size_are_read_back_from_the_log_and_after_a_checkpoint_from_the_database() {
    for shift in 9..=16 {
        let page_size = PageSize::new(1 << shift).unwrap();
        let setup = Setup {
            page_size,
            preallocate: 100_000,
            ..Setup::small()
        };
        let vfs = fresh(1);
        let mut rig = Rig::open(&vfs, &setup).unwrap();
        let mut content = Content::default();
        for spec in [write(1, [1, 2, 3]), write(2, [2]), write(3, [7])] {
            rig.must_commit(spec.clone());
            content.apply(&spec);
        }
        assert_eq!(rig.content(), content, "{page_size}");
        let mark = rig.log.begin_read();
        let mut bytes = vec![0; page_size.as_usize()];
        assert_eq!(
            mark.read(page(2), &mut bytes).unwrap(),
            PageSource::Log(FrameNumber(4))
        );
        drop(mark);
        drop(rig);
        let rig = Rig::open(&vfs.crash(CrashKeep::None), &setup).unwrap();
        assert_eq!(rig.content(), content, "{page_size}, reopened");
        rig.checkpoint(CheckpointMode::Truncate).unwrap();
        assert_eq!(rig.content(), content, "{page_size}, from the database");
        let source = rig.log.begin_read().read(page(2), &mut bytes).unwrap();
        assert_eq!(
            (source, bytes),
            (PageSource::Database, image(2, 2, page_size.as_usize()))
        );
    }
}

#[test]
fn every_read_is_verified_and_damage_concerns_the_damaged_page_alone() {
    let vfs = fresh(1);
    let mut rig = Rig::open(&vfs, &Setup::small()).unwrap();
    rig.must_commit(write(1, [1, 2, 3]));
    let start = frame_offset(2, PageSize::MIN);
    let mark = rig.log.begin_read();
    let mut bytes = [0; 512];
    for at in start..start + 536 {
        vfs.flip_bit(Path::new(WAL), at, (at % 8) as u8);
        match mark.read(page(2), &mut bytes) {
            Err(Error::WalCorrupt { frame: 2, offset, .. }) => assert_eq!(offset, start),
            other => panic!("bit at {at}: {other:?}"),
        }
        mark.read(page(1), &mut bytes).unwrap();
        mark.read(page(3), &mut bytes).unwrap();
        vfs.flip_bit(Path::new(WAL), at, (at % 8) as u8);
    }
    mark.read(page(2), &mut bytes).unwrap();
    assert!(matches!(
        mark.read(page(4), &mut bytes),
        Err(Error::OutOfRange { .. })
    ));
    assert!(mark.read(page(1), &mut [0; 100]).is_err());
}

#[test]
fn a_snapshot_sees_what_was_published_before_it_and_keeps_the_log_from_being_reset() {
    let vfs = fresh(1);
    let mut rig = Rig::open(&vfs, &Setup::small()).unwrap();
    let empty = rig.log.begin_read();
    assert_eq!((empty.db_pages(), empty.commit_seq()), (0, CommitSeq(0)));
    rig.must_commit(write(1, [1, 2]));
    let first = rig.log.begin_read();
    rig.must_commit(write(2, [1, 5]));
    let mut bytes = [0; 512];
    for (mode, frames) in [
        (CheckpointMode::Passive, 0),
        (CheckpointMode::Full, 0),
        (CheckpointMode::Restart, 0),
        (CheckpointMode::Truncate, 0),
    ] {
        let report = rig.checkpoint(mode).unwrap();
        assert_eq!(
            (report.blocked_by_readers, report.log, report.frames),
            (true, LogFate::Kept, frames)
        );
    }
    drop(empty);
    let report = rig.checkpoint(CheckpointMode::Truncate).unwrap();
    assert_eq!(
        (report.blocked_by_readers, report.frames),
        (true, 2),
        "up to the older snapshot"
    );
    first.read(page(1), &mut bytes).unwrap();
    assert!(bytes[..] == image(1, 1, 512));
    assert!(
        first.read(page(5), &mut bytes).is_err(),
        "behind the end at that moment"
    );
    drop(first);
    let report = rig.checkpoint(CheckpointMode::Restart).unwrap();
    assert_eq!((report.blocked_by_readers, report.log), (false, LogFate::Reset));
    let after = rig.log.begin_read();
    assert_eq!((after.db_pages(), after.commit_seq()), (5, CommitSeq(2)));
    after.read(page(1), &mut bytes).unwrap();
    assert!(bytes[..] == image(1, 2, 512));
}

#[test]
fn a_token_finds_its_commit_until_the_log_goes_on_to_another_generation() {
    let vfs = fresh(1);
    let mut rig = Rig::open(&vfs, &Setup::small()).unwrap();
    rig.must_commit(write(1, [1]));
    let first = last_token(&vfs);
    rig.must_commit(write(2, [1, 2]));
    let second = last_token(&vfs);
    for reopened in [false, true] {
        if reopened {
            drop(rig);
            rig = Rig::open(&vfs, &Setup::small()).unwrap();
        }
        assert_eq!(rig.log.outcome(first), Some(true));
        assert_eq!(rig.log.outcome(second), Some(true));
        let other = OutcomeToken {
            checksum: (second.checksum.0 ^ 1, second.checksum.1),
            ..second
        };
        assert_eq!(rig.log.outcome(other), Some(false));
        let later = OutcomeToken { frame: 4, ..second };
        assert_eq!(rig.log.outcome(later), Some(false));
    }
    rig.checkpoint(CheckpointMode::Restart).unwrap();
    assert_eq!(rig.log.outcome(first), None);
    rig.must_commit(write(3, [1]));
    assert_eq!(rig.log.outcome(first), None);
    assert_eq!(rig.log.outcome(last_token(&vfs)), Some(true));
}

#[test]
fn the_file_grows_in_chunks_of_zeros_so_that_few_commits_change_its_length() {
    let vfs = fresh(1);
    let setup = Setup {
        preallocate: 1 << 14,
        ..Setup::small()
    };
    let mut rig = Rig::open(&vfs, &setup).unwrap();
    let mut lengths = std::collections::BTreeSet::new();
    for version in 1..=60 {
        rig.must_commit(write(version, [1]));
        let bytes = vfs.dump(Path::new(WAL)).unwrap();
        let end = frame_offset(version + 1, PageSize::MIN) as usize;
        assert_eq!(bytes.len() % (1 << 14), 0);
        assert!(bytes[end..].iter().all(|byte| *byte == 0));
        lengths.insert(bytes.len());
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [1 << 14, 2 << 14]);
}

#[test]
fn a_disk_with_room_for_the_frames_but_not_for_filling_ahead_takes_the_commits() {
    let vfs = fresh(1);
    let setup = Setup {
        preallocate: 1 << 20,
        ..Setup::small()
    };
    let mut rig = Rig::open(&vfs, &setup).unwrap();
    vfs.enospc_after(32 + 3 * 536 + 100);
    let mut model = Model::default();
    for version in 1..=3 {
        let batch = [write(version, [version])];
        let answers = rig.commit(&batch);
        assert!(answers[0].committed(), "{answers:?}");
        model.note(&batch, &answers);
    }
    assert!(rig.commit(&[write(4, [4])])[0].not_committed());
    assert_eq!(rig.content(), model.sure);
    rig::check(&vfs.crash(CrashKeep::None), model, &setup, &"full");
}

#[test]
fn a_batch_of_any_size_is_recorded_before_it_is_appended_and_survives() {
    let vfs = fresh(1);
    let setup = Setup {
        preallocate: 0,
        ..Setup::small()
    };
    let mut rig = Rig::open(&vfs, &setup).unwrap();
    rig.must_commit(write(1, [1]));
    let mut model = Model::default();
    model.note(&[write(1, [1])], &[Answer::Committed(CommitSeq(1))]);
    for (version, pages) in [(2, 40), (3, 1500)] {
        let before = vfs.ops();
        let batch: Vec<Spec> = (0..3).map(|n| write(version * 10 + n, 1..=pages)).collect();
        let answers = rig.commit(&batch);
        model.note(&batch, &answers);
        let largest = companion(&vfs).generation.unwrap().largest_batch;
        assert!(largest >= 3 * pages, "{largest}");
        let ops: Vec<_> = vfs.log()[before as usize..]
            .iter()
            .map(|op| (op.kind == SimOpKind::Write, op.file == Path::new(META)))
            .collect();
        // The record is written and synced, then the frames and their sync, then the watermark.
        let record = [(true, true), (false, true)];
        let frames = [(true, false), (false, false)];
        assert_eq!(ops[..4], [record, frames].concat());
    }
    assert_eq!(rig.content(), model.sure);
    rig::check(&vfs.crash(CrashKeep::None), model, &setup, &"large batches");
}

#[test]
fn a_torn_batch_larger_than_any_before_it_is_no_damage() {
    let setup = Setup {
        preallocate: 0,
        ..Setup::small()
    };
    let vfs = fresh(1);
    let mut rig = Rig::open(&vfs, &setup).unwrap();
    let mut model = Model::default();
    let batch = [write(1, [1])];
    let answers = rig.commit(&batch);
    model.note(&batch, &answers);
    // Record, its sync, frames: the power goes at their sync.
    vfs.crash_at_op(4);
    let batch: Vec<Spec> = (0..100).map(|n| write(10 + n, [1 + n % 7, 8 + n])).collect();
    let answers = rig.commit(&batch);
    assert!(answers.iter().all(Answer::unknown));
    model.note(&batch, &answers);
    for seed in rig::seeds(60) {
        let disk = vfs.fork().crash(CrashKeep::Random(seed));
        let rig = Rig::open(&disk, &setup).unwrap_or_else(|error| panic!("{seed}: {error}"));
        model.clone().settle(&rig, &seed);
    }
}

#[test]
fn a_batch_of_more_frames_than_one_system_call_takes_is_read_back_from_a_real_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let setup = Setup::small();
    let vfs: Arc<dyn Vfs> = Arc::new(UnixVfs::new());
    let mut rig = Rig::open_at(Arc::clone(&vfs), &path, &setup).unwrap();
    let mut content = Content::default();
    for spec in [write(1, 1..=700), write(2, 300..=2100)] {
        rig.must_commit(spec.clone());
        content.apply(&spec);
    }
    assert_eq!(rig.content(), content);
    rig.log.close().unwrap();
    drop(rig);
    let rig = Rig::open_at(vfs, &path, &setup).unwrap();
    assert_eq!(rig.report.decision, Decision::Clean);
    assert_eq!(rig.content(), content);
    rig.checkpoint(CheckpointMode::Truncate).unwrap();
    assert_eq!(rig.content(), content);
}

#[test]
fn commit_numbers_are_reserved_in_synced_blocks_before_they_are_used() {
    let vfs = fresh(1);
    let mut rig = Rig::open(&vfs, &Setup::small()).unwrap();
    rig.must_commit(write(1, [1]));
    let reserved = companion(&vfs).generation.unwrap().reserved_seq;
    assert!(reserved >= 1 << 20);
    rig.last_seq = CommitSeq(reserved - 1);
    let before = vfs.syncs();
    rig.must_commit(write(2, [1]));
    assert_eq!(
        (
            vfs.syncs() - before,
            companion(&vfs).generation.unwrap().reserved_seq
        ),
        (1, reserved)
    );
    rig.must_commit(write(3, [1]));
    assert_eq!(vfs.syncs() - before, 3, "one for the block, one for the commit");
    let disk = vfs.crash(CrashKeep::None);
    assert!(companion(&disk).generation.unwrap().reserved_seq > reserved);
}

#[test]
fn what_the_format_cannot_hold_is_refused_and_leaves_no_trace() {
    let vfs = fresh(1);
    let mut rig = Rig::open(&vfs, &Setup::small()).unwrap();
    rig.must_commit(write(1, [1]));
    let before = (vfs.dump(Path::new(WAL)), vfs.ops());
    let spec = |pages: Vec<(u32, u32)>, size| Spec { pages, size };
    for refused in [
        spec(vec![], None),
        spec(vec![(1, 2)], Some(0)),
        spec(vec![(PageSize::MIN.lock_page(), 2)], None),
    ] {
        let answers = rig.commit(&[write(5, [1]), refused.clone()]);
        assert!(
            answers.iter().all(Answer::not_committed),
            "{refused:?}: {answers:?}"
        );
    }
    let short = PageImage::new(page(1), vec![1; 511]);
    let request = walmend_types::CommitRequest::new(
        walmend_types::TxnId(1),
        CommitSeq(1),
        WriteSet::new([page(1)]),
        vec![short],
    );
    let entry = walmend_types::BatchEntry {
        request: &request,
        commit_seq: CommitSeq(2),
    };
    let refused = walmend_types::WalBatchWriter::append_batch(&mut rig.writer, &[entry]);
    assert!(matches!(refused, Err(failure) if failure.error.to_string().contains("511 bytes")));
    assert!((vfs.dump(Path::new(WAL)), vfs.ops()) == before);
    assert_eq!(
        rig.content().versions[&1],
        1,
        "the commit before them is untouched"
    );
    rig.must_commit(write(2, [1]));
}

#[test]
fn readers_beside_a_writer_and_checkpoints_see_whole_commits_only() {
    let vfs = fresh(1);
    let mut rig = Rig::open(&vfs, &Setup::small()).unwrap();
    rig.must_commit(write(1, [1, 2, 3]));
    let log = rig.log.clone();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let log = &log;
                scope.spawn(move || {
                    let mut last = CommitSeq(0);
                    let mut bytes = [[0; 512]; 3];
                    while last < CommitSeq(300) {
                        let mark = log.begin_read();
                        assert!(mark.commit_seq() >= last);
                        last = mark.commit_seq();
                        for (number, bytes) in (1..).zip(&mut bytes) {
                            mark.read(page(number), bytes).unwrap();
                        }
                        let version = u32::try_from(last.0).unwrap();
                        for (number, bytes) in (1..).zip(&bytes) {
                            assert!(bytes[..] == image(number, version, 512), "commit {last:?}");
                        }
                    }
                })
            })
            .collect();
        let checkpointed = &log;
        let checkpoints = scope.spawn(move || {
            use CheckpointMode::{Full, Passive, Restart, Truncate};
            while checkpointed.status().commit_seq < CommitSeq(300) {
                for mode in [Passive, Full, Restart, Truncate] {
                    checkpointed
                        .checkpoint(mode, std::time::Duration::from_millis(5))
                        .unwrap();
                }
            }
        });
        for version in 2..=300 {
            rig.must_commit(write(version, [1, 2, 3]));
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        checkpoints.join().unwrap();
    });
    assert_eq!(log.status().readers, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_history_of_commits_checkpoints_and_reopenings_reads_as_its_model(
        steps in prop::collection::vec(
            prop_oneof![
                6 => prop::collection::vec((1u32..12, 0u32..4), 1..4).prop_map(Some),
                1 => Just(None),
            ],
            1..25,
        ),
        modes in prop::collection::vec(0usize..6, 25),
    ) {
        use CheckpointMode::{Full, Passive, Restart, Truncate};
        let setup = Setup::small();
        let mut vfs = fresh(11);
        let mut rig = Rig::open(&vfs, &setup).unwrap();
        let mut model = Model::default();
        for ((version, step), mode) in (1..).zip(steps).zip(modes) {
            match step {
                Some(writes) => {
                    let batch: Vec<Spec> = (0..)
                        .zip(&writes)
                        .map(|(n, (first, more))| write(version * 10 + n, *first..=first + more))
                        .collect();
                    let answers = rig.commit(&batch);
                    model.note(&batch, &answers);
                }
                None => match [Some(Passive), Some(Full), Some(Restart), Some(Truncate), None, None][mode] {
                    Some(mode) => {
                        rig.checkpoint(mode).unwrap();
                    }
                    None => {
                        drop(rig);
                        vfs = if mode == 4 { vfs.kill() } else { vfs.crash(CrashKeep::Random(version.into())) };
                        rig = Rig::open(&vfs, &setup).unwrap();
                        model.settle(&rig, &"reopened");
                    }
                },
            }
            prop_assert_eq!(rig.content(), model.sure.clone());
        }
    }
}
