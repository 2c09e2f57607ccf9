//! The barrier on a disk that loses power, fails syncs and rots.
#![cfg(not(walmend_loom))]

use std::path::Path;
use std::sync::Arc;
use walmend_types::{Error, ErrorKind, PageNumber, PageSize, Result};
use walmend_vfs::sim::{CrashKeep, Nth, SimVfs};
use walmend_vfs::{OpenFlags, ReadSource, Vfs, VfsFile};
use walmend_wal::{CheckpointTarget, ExpectedPage, FileTarget, PageDigest, Verification, barrier};

const SIZE: PageSize = PageSize::DEFAULT;
const DB: &str = "/a.db";

fn open(vfs: &SimVfs) -> Arc<dyn VfsFile> {
    vfs.open(Path::new(DB), OpenFlags::CREATE).unwrap()
}

fn image(page: u32, version: u8) -> Vec<u8> {
    (0..4096u32)
        .map(|i| (i * page + i / 256) as u8 ^ version)
        .collect()
}

/// One checkpoint: pages 1 to `pages` in this version, and nothing behind them.
fn checkpoint(file: &dyn VfsFile, pages: u32, version: u8) -> Result<Verification> {
    let mut target = FileTarget::new(file, SIZE);
    let mut expected = Vec::new();
    for number in 1..=pages {
        let (page, bytes) = (PageNumber::new(number)?, image(number, version));
        target.write_page(page, &bytes)?;
        expected.push(ExpectedPage {
            page,
            digest: PageDigest::of(&bytes),
        });
    }
    target.truncate_database(pages)?;
    barrier(&mut target, &expected)
}

/// What the file must hold after such a checkpoint.
fn content(pages: u32, version: u8) -> Vec<u8> {
    (1..=pages).flat_map(|page| image(page, version)).collect()
}

#[test]
fn what_is_behind_the_barrier_survives_every_crash_even_a_smaller_length() {
    for keep in [
        CrashKeep::None,
        CrashKeep::All,
        CrashKeep::Random(1),
        CrashKeep::Random(2),
    ] {
        let vfs = SimVfs::new(7);
        let file = open(&vfs);
        checkpoint(&*file, 9, 1).unwrap();
        let verification = checkpoint(&*file, 4, 2).unwrap();
        assert_eq!((verification.pages, verification.source), (4, ReadSource::Device));
        // A sync of the data alone leaves the smaller length pending, and pages 5 to 9 come back.
        let vfs = vfs.crash(keep);
        assert!(vfs.dump(Path::new(DB)).unwrap() == content(4, 2));
    }
}

#[test]
fn a_crash_at_any_operation_of_a_checkpoint_comes_before_its_ok() {
    let count = {
        let vfs = SimVfs::new(7);
        checkpoint(&*open(&vfs), 600, 1).unwrap();
        vfs.ops()
    };
    // Creating, three gathered writes, truncating, syncing.
    assert_eq!(count, 6);
    for operation in 2..=count {
        let vfs = SimVfs::new(7);
        vfs.crash_at_op(operation);
        let result = checkpoint(&*open(&vfs), 600, 1);
        assert!(result.is_err(), "operation {operation}");
    }
}

#[test]
fn a_failed_sync_is_an_error_and_the_next_checkpoint_writes_every_page_again() {
    let vfs = SimVfs::new(7);
    let file = open(&vfs);
    checkpoint(&*file, 3, 1).unwrap();
    vfs.fail_sync_at(Nth::call(1), CrashKeep::None);
    assert_eq!(checkpoint(&*file, 3, 2).unwrap_err().kind(), ErrorKind::Io);

    // The disk never got them, and the cache, which showed them, was dropped: another sync succeeds, and the barrier
    // tells.
    let mut shown = vec![0; 3 * 4096];
    file.read_at(&mut shown, 0).unwrap();
    assert!(shown == content(3, 1));
    let first = ExpectedPage {
        page: PageNumber::ONE,
        digest: PageDigest::of(&image(1, 2)),
    };
    let error = barrier(&mut FileTarget::new(&*file, SIZE), &[first]).unwrap_err();
    assert!(matches!(error, Error::DatabaseCorrupt { page: 1, .. }), "{error}");

    checkpoint(&*file, 3, 2).unwrap();
    assert!(vfs.crash(CrashKeep::None).dump(Path::new(DB)).unwrap() == content(3, 2));
}

#[test]
fn a_full_disk_stops_a_checkpoint_before_its_sync() {
    let vfs = SimVfs::new(7);
    let file = open(&vfs);
    vfs.enospc_after(2 * 4096 + 1);
    assert_eq!(checkpoint(&*file, 3, 1).unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(vfs.syncs(), 0);
}

#[test]
fn a_read_that_fails_is_no_match() {
    let vfs = SimVfs::new(7);
    let file = open(&vfs);
    vfs.fail_read_at(Nth::call(1));
    assert_eq!(checkpoint(&*file, 3, 1).unwrap_err().kind(), ErrorKind::Io);
    checkpoint(&*file, 3, 1).unwrap();
}
