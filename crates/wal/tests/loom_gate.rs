//! Models of the two gates (the one that a resetting checkpoint closes to new snapshots, and the one that closing a
//! store closes to new work), and of the wait for a larger log.
//!
//! Planted one at a time, to see that the models can fail, each of these bugs stopped the models named:
//! a snapshot that begins whatever the gate: `a_snapshot_that_begins_beside_a_reset..`;
//! a last reader that leaves quietly, a gate that opens quietly, and one that is closed only when the readers have left:
//! both `..reset..`;
//! a close that waits for nobody, or lets others in until those at work have left; a last one at work that leaves
//! quietly; work that begins although it is closed: `closing_waits_for_those_at_work..`;
//! a number of frames that is set outside of the lock of what is visible, and a publication that does not wake the
//! checkpoint that waits for it: `a_publication_beside_a_reset..`;
//! a publisher that notifies without the waiter's lock: `a_log_that_grows..`.
#![cfg(walmend_loom)]

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use walmend_sync::atomic::{AtomicBool, Ordering};
use walmend_sync::model::Builder;
use walmend_sync::thread;
use walmend_types::{
    BatchEntry, CommitRequest, CommitSeq, PageImage, PageNumber, PageSize, TxnId, WalBatchSync,
    WalBatchWriter, WriteSet,
};
use walmend_vfs::{MemoryVfs, OpenFlags, Vfs};
use walmend_wal::{
    CheckpointMode, FileSet, Grown, Log, LogConfig, LogFate, LogWriter, PageKind, PageSource, ReadMark,
    RecoveryFence, Usage,
};

const PAGE: usize = 512;

/// Up to this many preemptions: a checkpoint takes dozens of locks.
fn bounded(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(body);
}

/// A log in memory with one commit, which gives page 1 the content 7.
fn log() -> Log {
    let (log, mut writer) = empty_log();
    commit(&mut writer, 1);
    log
}

fn empty_log() -> (Log, LogWriter) {
    let vfs = MemoryVfs::new();
    let path = Path::new("/a.db");
    let db = vfs.open(path, OpenFlags::CREATE).unwrap();
    let size = PageSize::new(512).unwrap();
    let mut config = LogConfig::new(FileSet::of(path), db, size, PageKind::Raw, 0);
    config.preallocate = 0;
    // A model begins anew in each run, and what is static does not.
    config.fence = Some(RecoveryFence::new());
    let (log, _) = Log::open(Arc::new(vfs), config).unwrap();
    let writer = log.writer();
    (log, writer)
}

fn commit(writer: &mut LogWriter, number: u64) {
    let page = PageNumber::new(1).unwrap();
    let image = PageImage::new(page, vec![7; PAGE]);
    let request = CommitRequest::new(
        TxnId(number),
        CommitSeq(number - 1),
        WriteSet::new([page]),
        vec![image],
    );
    let entry = BatchEntry {
        request: &request,
        commit_seq: CommitSeq(number),
    };
    let append = writer
        .append_batch(&[entry])
        .map_err(|failure| failure.error)
        .unwrap();
    let sync = WalBatchWriter::<Vec<PageImage>>::sync_half(writer);
    sync.sync(&append.mark).unwrap();
    sync.publish(append.mark);
}

/// Reads page 1, which is the same before and after any checkpoint.
fn read(mark: &ReadMark) -> PageSource {
    let mut bytes = [0; PAGE];
    let source = mark.read(PageNumber::new(1).unwrap(), &mut bytes).unwrap();
    assert_eq!(bytes, [7; PAGE]);
    source
}

#[test]
fn a_snapshot_that_begins_beside_a_reset_sees_the_log_before_it_or_the_database_after_it() {
    let (before, after) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let seen = (Arc::clone(&before), Arc::clone(&after));
    bounded(2, move || {
        let log = log();
        let reader = thread::spawn({
            let log = log.clone();
            move || {
                let mark = log.begin_read();
                let source = read(&mark);
                drop(mark);
                source
            }
        });
        // With no end to its patience: a reader that leaves unnoticed is a deadlock, which loom reports.
        let report = log.checkpoint(CheckpointMode::Truncate, Duration::MAX).unwrap();
        assert_eq!(report.log, LogFate::Truncated);
        let note = match reader.join().unwrap() {
            PageSource::Log(_) => &seen.0,
            PageSource::Database => &seen.1,
        };
        let _ = note.set(());
    });
    assert!(before.get().is_some() && after.get().is_some());
}

#[test]
fn a_reset_waits_for_a_snapshot_that_reads_the_database_and_then_lets_others_in() {
    bounded(2, || {
        let log = log();
        let mark = log.begin_read();
        let checkpoint = thread::spawn({
            let log = log.clone();
            move || {
                log.checkpoint(CheckpointMode::Restart, Duration::MAX)
                    .unwrap()
                    .log
            }
        });
        assert_eq!(read(&mark), PageSource::Log(walmend_types::FrameNumber(1)));
        drop(mark);
        read(&log.begin_read());
        assert_eq!(checkpoint.join().unwrap(), LogFate::Reset);
    });
}

#[test]
fn a_log_that_grows_or_is_closed_wakes_whoever_waits_for_it() {
    let (reached, stopped) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let seen = (Arc::clone(&reached), Arc::clone(&stopped));
    bounded(2, move || {
        let (log, mut writer) = empty_log();
        commit(&mut writer, 1);
        let publisher = thread::spawn({
            let log = log.clone();
            move || {
                commit(&mut writer, 2);
                log.stop_waiting();
            }
        });
        // A lost wake-up is a deadlock, which loom reports.
        let note = match log.wait_for_growth(2, Duration::MAX) {
            Grown::Reached => &seen.0,
            Grown::Stopped => &seen.1,
            Grown::TimedOut => panic!("time does not pass in a model"),
        };
        let _ = note.set(());
        publisher.join().unwrap();
    });
    assert!(reached.get().is_some() && stopped.get().is_some());
}

#[test]
fn a_log_that_grows_wakes_whoever_waits_for_it() {
    bounded(2, || {
        let (log, mut writer) = empty_log();
        let publisher = thread::spawn(move || commit(&mut writer, 1));
        assert_eq!(log.wait_for_growth(1, Duration::MAX), Grown::Reached);
        publisher.join().unwrap();
    });
}

/// A count that stays high would refuse every commit of a full log for good, although it is empty.
#[test]
fn a_publication_beside_a_reset_leaves_the_right_number_of_frames() {
    let (before, after) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let seen = (Arc::clone(&before), Arc::clone(&after));
    bounded(2, move || {
        let (log, mut writer) = empty_log();
        let publisher = thread::spawn(move || commit(&mut writer, 1));
        log.checkpoint(CheckpointMode::Truncate, Duration::MAX).unwrap();
        publisher.join().unwrap();
        let frames = log.status().frames;
        assert_eq!(log.frames(), frames);
        let note = if frames == 0 { &seen.0 } else { &seen.1 };
        let _ = note.set(());
    });
    assert!(before.get().is_some() && after.get().is_some());
}

#[test]
fn closing_waits_for_those_at_work_and_nobody_begins_behind_it() {
    let (worked, refused) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let seen = (Arc::clone(&worked), Arc::clone(&refused));
    bounded(3, move || {
        let usage = Arc::new(Usage::default());
        let given_up = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (usage, given_up) = (Arc::clone(&usage), Arc::clone(&given_up));
                thread::spawn(move || {
                    let at_work = usage.enter().ok()?;
                    // The guard orders this: what comes after the close is not seen.
                    assert!(!given_up.load(Ordering::Relaxed), "at work on files of others");
                    drop(at_work);
                    Some(())
                })
            })
            .collect();
        usage.close();
        given_up.store(true, Ordering::Relaxed);
        assert!(usage.enter().is_err());
        for worker in workers {
            let note = match worker.join().unwrap() {
                Some(()) => &seen.0,
                None => &seen.1,
            };
            let _ = note.set(());
        }
    });
    assert!(worked.get().is_some() && refused.get().is_some());
}
