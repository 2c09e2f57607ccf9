//! The shipper of `examples/ship`: what one can do with a log that somebody else is writing.

#[path = "../examples/ship/shipper.rs"]
mod shipper;

use shipper::{ShipError, Shipper, restore};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use walmend_sync::atomic::{AtomicBool, Ordering};
use walmend_sync::thread;
use walmend_types::{
    BatchEntry, CommitRequest, CommitSeq, PageImage, PageNumber, PageSize, TxnId, WalBatchSync,
    WalBatchWriter, WriteSet,
};
use walmend_vfs::{OpenFlags, UnixVfs, Vfs};
use walmend_wal::{CheckpointMode, FileSet, Log, LogConfig, LogWriter, PageKind};

/// A database that somebody is writing to.
struct Writer {
    log: Log,
    writer: LogWriter,
    seq: u64,
}

impl Writer {
    fn open(db: &Path) -> Self {
        let vfs = UnixVfs::new();
        let files = FileSet::of(db);
        let file = vfs.open(&files.db, OpenFlags::CREATE).unwrap();
        let config = LogConfig::new(files, file, PageSize::MIN, PageKind::Raw, 0);
        let (log, report) = Log::open(Arc::new(vfs), config).unwrap();
        assert_eq!(report.committed_frames, 0);
        let writer = log.writer();
        Self { log, writer, seq: 0 }
    }

    fn commit(&mut self, pages: &[u32]) {
        self.seq += 1;
        let seq = self.seq;
        let images: Vec<PageImage> = pages
            .iter()
            .map(|page| {
                let bytes = (0..512).map(|at| (seq + u64::from(*page) * 7 + at) as u8);
                PageImage::new(PageNumber::new(*page).unwrap(), bytes.collect::<Vec<u8>>())
            })
            .collect();
        let writes = WriteSet::new(images.iter().map(|image| image.page));
        let request = CommitRequest::new(TxnId(seq), CommitSeq(seq - 1), writes, images);
        let batch = [BatchEntry {
            request: &request,
            commit_seq: CommitSeq(seq),
        }];
        let sync = WalBatchWriter::<Vec<PageImage>>::sync_half(&self.writer);
        let append = self.writer.append_batch(&batch).unwrap();
        sync.sync(&append.mark).unwrap();
        sync.publish(append.mark);
    }

    fn checkpoint(&self, mode: CheckpointMode) {
        let report = self.log.checkpoint(mode, Duration::ZERO).unwrap();
        assert!(!report.blocked_by_readers);
    }
}

fn rig() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (db, target) = (folder.path().join("a.db"), folder.path().join("shipped"));
    (folder, db, target)
}

/// Restores, checkpoints the original, and compares the two.
fn assert_restores(folder: &Path, writer: &Writer, db: &Path, target: &Path) {
    let copy = folder.join("copy.db");
    restore(target, &copy).unwrap();
    writer.checkpoint(CheckpointMode::Truncate);
    assert!(fs::read(copy).unwrap() == fs::read(db).unwrap());
}

#[test]
fn generations_are_shipped_one_after_the_other_and_restored() {
    let (folder, db, target) = rig();
    let mut writer = Writer::open(&db);
    writer.commit(&[1, 2, 3]);
    // The base is taken in the middle of a generation, with pages of it already in the database.
    writer.checkpoint(CheckpointMode::Passive);
    writer.commit(&[2, 9]);
    let mut shipper = Shipper::start(&db, &target).unwrap();
    assert_eq!(shipper.poll().unwrap(), 5);
    assert_eq!(shipper.poll().unwrap(), 0);
    writer.commit(&[4]);
    assert_eq!(shipper.poll().unwrap(), 1);
    writer.checkpoint(CheckpointMode::Restart);
    writer.commit(&[1, 5]);
    assert_eq!(shipper.poll().unwrap(), 2);
    writer.checkpoint(CheckpointMode::Truncate);
    assert_eq!(shipper.poll().unwrap(), 0);
    writer.commit(&[6]);
    assert_eq!(shipper.poll().unwrap(), 1);
    assert_eq!(shipper.shipped(), 5);
    assert_restores(folder.path(), &writer, &db, &target);
}

#[test]
fn a_log_that_was_reset_too_soon_is_noticed() {
    let (_folder, db, target) = rig();
    let mut writer = Writer::open(&db);
    writer.commit(&[1]);
    let mut shipper = Shipper::start(&db, &target).unwrap();
    shipper.poll().unwrap();
    writer.commit(&[2]);
    writer.checkpoint(CheckpointMode::Truncate);
    writer.commit(&[3]);
    let gap = shipper.poll().unwrap_err();
    assert!(
        matches!(
            gap,
            ShipError::Gap {
                shipped: 1,
                reset_at: 2
            }
        ),
        "{gap}"
    );
}

#[test]
fn a_damaged_frame_is_not_shipped() {
    let (_folder, db, target) = rig();
    let mut writer = Writer::open(&db);
    writer.commit(&[1]);
    writer.commit(&[2]);
    let wal = FileSet::of(&db).wal;
    let mut bytes = fs::read(&wal).unwrap();
    bytes[32 + 536 + 100] ^= 1;
    fs::write(&wal, bytes).unwrap();
    let mut shipper = Shipper::start(&db, &target).unwrap();
    let damage = shipper.poll().unwrap_err();
    assert!(matches!(damage, ShipError::Damaged { frame: 2 }), "{damage}");
}

#[test]
fn a_writer_at_work_is_followed() {
    let (folder, db, target) = rig();
    let mut writer = Writer::open(&db);
    let mut shipper = Shipper::start(&db, &target).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let shipping = scope.spawn(|| {
            loop {
                let last = done.load(Ordering::Acquire);
                shipper.poll().unwrap();
                if last {
                    return shipper.shipped();
                }
            }
        });
        for n in 0..400 {
            writer.commit(&[1 + n % 50, 60 + n % 7]);
            if n % 100 == 99 {
                writer.checkpoint(CheckpointMode::Passive);
            }
        }
        done.store(true, Ordering::Release);
        assert_eq!(shipping.join().unwrap(), 400);
    });
    assert_restores(folder.path(), &writer, &db, &target);
}
