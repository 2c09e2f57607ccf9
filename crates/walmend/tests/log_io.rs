//! The log through the page cache and past it, on the real file system: readers see the same either way.

use std::sync::Arc;
use walmend::{CheckpointMode, LogIo, MemoryVfs, Options, PageNumber, PageSize, Store};
use walmend_sync::atomic::{AtomicBool, Ordering};
use walmend_sync::thread;
use walmend_vfs::{DirectWrites, UnixVfs, Vfs};

const PAGES: u32 = 5;

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

/// All pages carry the number of the commit that wrote them last, in every word.
fn image(version: u32, size: PageSize) -> Vec<u8> {
    version.to_be_bytes().repeat(size.as_usize() / 4)
}

fn version_of(bytes: &[u8]) -> u32 {
    let version = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    assert!(
        bytes == version.to_be_bytes().repeat(bytes.len() / 4),
        "torn: {version}"
    );
    version
}

/// One snapshot: all pages have one version.
fn read(store: &Store) -> u32 {
    let snapshot = store.snapshot().unwrap();
    let versions: Vec<u32> = (1..=PAGES)
        .map(|number| version_of(&snapshot.read(page(number)).unwrap()))
        .collect();
    assert!(
        versions.iter().all(|version| *version == versions[0]),
        "{versions:?}"
    );
    versions[0]
}

fn commit(store: &Store, version: u32) {
    let mut txn = store.begin().unwrap();
    for number in 1..=PAGES {
        txn.write(page(number), image(version, store.page_size()))
            .unwrap();
    }
    assert!(txn.commit().is_committed());
}

fn folder() -> tempfile::TempDir {
    // Beside the build: the temporary folder may lie in memory, which has no direct writes.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn readers_see_every_commit_whole_while_the_tail_block_is_rewritten_under_them() {
    for (log_io, size) in [
        (LogIo::Direct, 512),
        (LogIo::Direct, 4096),
        (LogIo::Buffered, 512),
        (LogIo::Auto, 4096),
    ] {
        let folder = folder();
        let path = folder.path().join("a.db");
        let options = || {
            Options::new()
                .page_size(PageSize::new(size).unwrap())
                // Every few commits the file grows, with zeros that are read ahead of.
                .preallocate(64 << 10)
                .log_io(log_io)
        };
        let (store, _) = Store::open(&path, options()).unwrap();
        commit(&store, 1);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !done.load(Ordering::Relaxed) {
                        let seen = read(&store);
                        assert!(seen >= last, "{seen} after {last}");
                        last = seen;
                    }
                });
            }
            for version in 2..=300 {
                commit(&store, version);
                assert_eq!(read(&store), version);
                if version % 100 == 0 {
                    store.checkpoint(CheckpointMode::Restart).unwrap();
                } else if version % 70 == 0 {
                    store.checkpoint(CheckpointMode::Truncate).unwrap();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        // Whoever opens it next may write it the other way.
        drop(store);
        let other = if log_io == LogIo::Direct {
            LogIo::Buffered
        } else {
            LogIo::Direct
        };
        let (store, report) = Store::open(&path, options().log_io(other)).unwrap();
        assert_eq!(report.recovery.dropped_frames, 0);
        assert_eq!(read(&store), 300);
        commit(&store, 301);
        assert_eq!(read(&store), 301);
        store.close().unwrap();
        let (store, _) = Store::open(&path, options()).unwrap();
        assert_eq!(read(&store), 301);
    }
}

#[test]
fn the_status_says_how_the_log_is_written() {
    let folder = folder();
    let path = folder.path().join("a.db");
    let works = UnixVfs::new().direct_writes(&path) != DirectWrites::Unavailable;
    for (wished, expected) in [
        (LogIo::Buffered, Some(LogIo::Buffered)),
        (
            LogIo::Direct,
            Some(if works { LogIo::Direct } else { LogIo::Buffered }),
        ),
        // Measured.
        (LogIo::Auto, None),
    ] {
        let (store, _) = Store::open(&path, Options::new().log_io(wished)).unwrap();
        let found = store.stats().log_io;
        assert_ne!(found, LogIo::Auto);
        assert!(
            expected.is_none_or(|expected| expected == found),
            "{wished:?}: {found:?}"
        );
        store.close().unwrap();
    }
}

#[test]
fn where_nothing_can_be_written_directly_the_cache_is_used_without_a_word() {
    let vfs = Arc::new(MemoryVfs::new());
    let options = Options::new().vfs(vfs).log_io(LogIo::Direct);
    let (store, _) = Store::open("a.db", options).unwrap();
    assert_eq!(store.stats().log_io, LogIo::Buffered);
    commit(&store, 1);
    assert_eq!(read(&store), 1);
}
