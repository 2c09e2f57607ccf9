//! The barrier before a log is truncated: what is done in which order, and what stops it.
#![cfg(not(walmend_loom))]

use proptest::prelude::*;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use walmend_sync::Mutex;
use walmend_types::{Error, ErrorKind, PageNumber, PageSize, Result, SyncMode};
use walmend_vfs::{
    DeviceRead, LockHolder, LockKind, LockRange, MemoryVfs, OpenFlags, ReadSource, Vfs, VfsFile,
};
use walmend_wal::{
    CheckpointTarget, ExpectedPage, FileTarget, PageDigest, PageVerdict, Verification, barrier, verify_pages,
};

const SIZE: PageSize = PageSize::DEFAULT;

/// What was asked of a file, in order. Numbers are pages: the first, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Write(u64, u64),
    Truncate(u64),
    Sync(SyncMode),
    Read(u64, u64),
}

/// A file in memory that records what is asked of it, and fails where a test wants it to.
#[derive(Debug)]
struct Recorder {
    file: Arc<dyn VfsFile>,
    calls: Mutex<Vec<Call>>,
    fails: Option<SyncMode>,
    loses_write_to: Option<u64>,
    cached_page: Option<u64>,
}

impl Recorder {
    fn new() -> Self {
        let file = MemoryVfs::new()
            .open(Path::new("/a.db"), OpenFlags::CREATE)
            .unwrap();
        Self {
            file,
            calls: Mutex::new(Vec::new()),
            fails: None,
            loses_write_to: None,
            cached_page: None,
        }
    }

    fn note(&self, call: Call) {
        self.calls.lock().push(call);
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }
}

fn page_at(offset: u64) -> u64 {
    assert_eq!(offset % 4096, 0);
    offset / 4096 + 1
}

impl VfsFile for Recorder {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> Result<usize> {
        panic!("a read that may come from the cache proves nothing");
    }

    fn write_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        let first = page_at(offset);
        self.note(Call::Write(first, bytes.len() as u64 / 4096));
        for (page, number) in bytes.chunks(4096).zip(first..) {
            if self.loses_write_to != Some(number) {
                self.file.write_at(page, (number - 1) * 4096)?;
            }
        }
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.note(Call::Truncate(len / 4096));
        self.file.truncate(len)
    }

    fn preallocate(&self, start: u64, end: u64) -> Result<()> {
        self.file.preallocate(start, end)
    }

    fn sync(&self, mode: SyncMode) -> Result<()> {
        self.note(Call::Sync(mode));
        if self.fails == Some(mode) {
            let cause = std::io::Error::from_raw_os_error(5);
            return Err(Error::io("sync", self.path(), None, cause));
        }
        self.file.sync(mode)
    }

    fn read_from_device(&self, buf: &mut [u8], offset: u64) -> Result<DeviceRead> {
        let (first, count) = (page_at(offset), buf.len() as u64 / 4096);
        self.note(Call::Read(first, count));
        let cached = self
            .cached_page
            .is_some_and(|page| (first..first + count).contains(&page));
        Ok(DeviceRead {
            bytes: self.file.read_at(buf, offset)?,
            source: if cached {
                ReadSource::Cache
            } else {
                ReadSource::Device
            },
        })
    }

    fn try_lock(&self, range: LockRange, kind: LockKind) -> Result<bool> {
        self.file.try_lock(range, kind)
    }

    fn unlock(&self, range: LockRange) -> Result<()> {
        self.file.unlock(range)
    }

    fn lock_holder(&self, range: LockRange, kind: LockKind) -> Result<Option<LockHolder>> {
        self.file.lock_holder(range, kind)
    }
}

fn number(page: u32) -> PageNumber {
    PageNumber::new(page).unwrap()
}

/// The content that a test gives a page.
fn image(page: u32) -> Vec<u8> {
    (0..4096u32).map(|i| (i * page + i / 256 + page) as u8).collect()
}

fn expect(pages: impl IntoIterator<Item = u32>) -> Vec<ExpectedPage> {
    pages
        .into_iter()
        .map(|page| ExpectedPage {
            page: number(page),
            digest: PageDigest::of(&image(page)),
        })
        .collect()
}

fn write(target: &mut dyn CheckpointTarget, pages: impl IntoIterator<Item = u32>) {
    for page in pages {
        target.write_page(number(page), &image(page)).unwrap();
    }
}

#[test]
fn a_checkpoint_writes_truncates_syncs_fully_and_reads_back_in_this_order() {
    let file = Recorder::new();
    let mut target = FileTarget::new(&file, SIZE);
    write(&mut target, [1, 2, 3, 7]);
    target.truncate_database(7).unwrap();
    let verification = barrier(&mut target, &expect([1, 2, 3, 7])).unwrap();
    assert_eq!(
        verification,
        Verification {
            verdict: PageVerdict::Match,
            pages: 4,
            source: ReadSource::Device
        }
    );
    assert_eq!(
        file.calls(),
        [
            Call::Write(1, 3),
            Call::Write(7, 1),
            Call::Truncate(7),
            Call::Sync(SyncMode::Full),
            Call::Read(1, 3),
            Call::Read(7, 1),
        ]
    );
}

#[test]
fn a_failed_sync_propagates_and_the_log_is_not_truncated() {
    let mut file = Recorder::new();
    file.fails = Some(SyncMode::Full);
    let log = MemoryVfs::new()
        .open(Path::new("/a.db-wal"), OpenFlags::CREATE)
        .unwrap();
    log.write_at(&[1; 32], 0).unwrap();

    let mut target = FileTarget::new(&file, SIZE);
    write(&mut target, [1]);
    let reset = barrier(&mut target, &expect([1])).and_then(|_| log.truncate(0));
    assert_eq!(reset.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(log.len().unwrap(), 32);
    // Nothing was read back: after a failed sync a match would prove nothing.
    assert_eq!(file.calls(), [Call::Write(1, 1), Call::Sync(SyncMode::Full)]);
}

#[test]
fn after_a_failed_sync_a_target_does_nothing_more() {
    let mut file = Recorder::new();
    file.fails = Some(SyncMode::Full);
    let mut target = FileTarget::new(&file, SIZE);
    target.sync_database().unwrap_err();
    let before = file.calls();
    for result in [
        target.write_page(number(1), &image(1)),
        target.truncate_database(1),
        target.sync_database(),
        target.verify(&[]).map(drop),
        barrier(&mut target, &[]).map(drop),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Poisoned);
    }
    assert_eq!(file.calls(), before);
}

#[test]
fn a_write_that_never_reached_the_file_is_named_and_the_log_stays() {
    let mut file = Recorder::new();
    let mut target = FileTarget::new(&file, SIZE);
    write(&mut target, 1..=5);
    target.sync_database().unwrap();
    drop(target);

    file.loses_write_to = Some(3);
    let mut target = FileTarget::new(&file, SIZE);
    let newer = [9; 4096];
    let mut expected = expect([1, 2, 4, 5]);
    for page in [2, 3, 4] {
        target.write_page(number(page), &newer).unwrap();
        expected.retain(|expected| expected.page != number(page));
        expected.push(ExpectedPage {
            page: number(page),
            digest: PageDigest::of(&newer),
        });
    }
    let error = barrier(&mut target, &expected).unwrap_err();
    let Error::DatabaseCorrupt {
        path,
        page: 3,
        detail,
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(path, Path::new("/a.db"));
    assert!(detail.contains(&PageDigest::of(&newer).to_string()), "{detail}");
    assert!(
        detail.contains(&PageDigest::of(&image(3)).to_string()),
        "{detail}"
    );

    // Once the device works again, the next checkpoint writes the pages anew and succeeds.
    file.loses_write_to = None;
    let mut target = FileTarget::new(&file, SIZE);
    for page in [2, 3, 4] {
        target.write_page(number(page), &newer).unwrap();
    }
    assert_eq!(barrier(&mut target, &expected).unwrap().pages, 5);
}

#[test]
fn a_file_that_ends_within_a_page_is_a_mismatch_at_that_page() {
    let file = Recorder::new();
    write(&mut FileTarget::new(&file, SIZE), 1..=4);
    for (length, first_bad, checked) in [
        (4 * 4096 - 1, 4, 4),
        (2 * 4096 + 1, 3, 3),
        (2 * 4096, 3, 3),
        (0, 1, 1),
    ] {
        let mut target = FileTarget::new(&file, SIZE);
        write(&mut target, 1..=4);
        target.sync_database().unwrap();
        file.truncate(length).unwrap();
        let verification = verify_pages(&file, SIZE, &expect(1..=4)).unwrap();
        assert_eq!(
            verification.verdict,
            PageVerdict::Mismatch {
                page: number(first_bad),
                expected: PageDigest::of(&image(first_bad)),
                found: None,
            }
        );
        assert_eq!(verification.pages, checked);
        let error = barrier(&mut FileTarget::new(&file, SIZE), &expect(1..=4)).unwrap_err();
        assert!(error.to_string().contains("ends before"), "{error}");
        assert_eq!(error.kind(), ErrorKind::DatabaseCorrupt);
    }
}

#[test]
fn nothing_expected_is_a_match_without_a_read_but_not_without_a_sync() {
    let file = Recorder::new();
    let verification = barrier(&mut FileTarget::new(&file, SIZE), &[]).unwrap();
    assert_eq!(
        (verification.verdict, verification.pages),
        (PageVerdict::Match, 0)
    );
    assert_eq!(file.calls(), [Call::Sync(SyncMode::Full)]);
}

#[test]
fn one_read_from_a_cache_makes_the_whole_source_a_cache() {
    let mut file = Recorder::new();
    file.cached_page = Some(3);
    let mut target = FileTarget::new(&file, SIZE);
    write(&mut target, [1, 3, 5]);
    let source = |target: &mut FileTarget<'_>, pages: &[u32]| {
        barrier(target, &expect(pages.iter().copied())).unwrap().source
    };
    assert_eq!(source(&mut target, &[1, 3, 5]), ReadSource::Cache);
    assert_eq!(source(&mut target, &[1, 5]), ReadSource::Device);
}

#[test]
fn pages_that_follow_each_other_are_written_and_read_a_mebibyte_at_a_time() {
    let file = Recorder::new();
    let mut target = FileTarget::new(&file, SIZE);
    write(&mut target, (1..=300).chain([302, 303]));
    barrier(&mut target, &expect((1..=300).chain([302, 303]))).unwrap();
    assert_eq!(
        file.calls(),
        [
            Call::Write(1, 256),
            Call::Write(257, 44),
            Call::Write(302, 2),
            Call::Sync(SyncMode::Full),
            Call::Read(1, 256),
            Call::Read(257, 44),
            Call::Read(302, 2),
        ]
    );
}

#[test]
fn pages_out_of_order_and_written_twice_end_up_as_last_written() {
    let file = Recorder::new();
    let mut target = FileTarget::new(&file, SIZE);
    write(&mut target, [5, 6]);
    target.write_page(number(2), &[1; 4096]).unwrap();
    write(&mut target, [2, 3, 1, 4]);
    assert_eq!(barrier(&mut target, &expect(1..=6)).unwrap().pages, 6);
}

#[test]
fn what_is_not_synced_cannot_be_verified() {
    let file = Recorder::new();
    let mut target = FileTarget::new(&file, SIZE);
    write(&mut target, [1]);
    assert_eq!(
        target.verify(&expect([1])).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    barrier(&mut target, &expect([1])).unwrap();
    target.truncate_database(1).unwrap();
    assert_eq!(
        target.verify(&expect([1])).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(barrier(&mut target, &expect([1])).unwrap().pages, 1);
}

#[test]
fn a_page_of_the_wrong_length_is_refused_and_changes_nothing() {
    let file = Recorder::new();
    let mut target = FileTarget::new(&file, SIZE);
    for length in [0, 512, 4095, 8192] {
        let error = target.write_page(number(1), &vec![0; length]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    target.sync_database().unwrap();
    assert_eq!(file.calls(), [Call::Sync(SyncMode::Full)]);
}

/// An engine's own storage: not a file at all.
struct Engine {
    calls: Vec<&'static str>,
    answer: PageVerdict,
    sync_fails: bool,
}

impl CheckpointTarget for Engine {
    fn name(&self) -> &Path {
        Path::new("engine")
    }

    fn write_page(&mut self, _: PageNumber, _: &[u8]) -> Result<()> {
        self.calls.push("write");
        Ok(())
    }

    fn truncate_database(&mut self, _: u32) -> Result<()> {
        self.calls.push("truncate");
        Ok(())
    }

    fn sync_database(&mut self) -> Result<()> {
        self.calls.push("sync");
        if self.sync_fails {
            return Err(Error::Internal("the engine's sync failed".into()));
        }
        Ok(())
    }

    fn verify(&mut self, expected: &[ExpectedPage]) -> Result<Verification> {
        self.calls.push("verify");
        Ok(Verification {
            verdict: self.answer,
            pages: expected.len() as u32,
            source: ReadSource::Device,
        })
    }
}

#[test]
fn a_target_that_is_no_file_goes_through_the_same_barrier() {
    let bad = PageVerdict::Mismatch {
        page: number(8),
        expected: PageDigest::of(&[1]),
        found: Some(PageDigest::of(&[2])),
    };
    for (answer, sync_fails, calls, kind) in [
        (PageVerdict::Match, false, vec!["sync", "verify"], None),
        (
            bad,
            false,
            vec!["sync", "verify"],
            Some(ErrorKind::DatabaseCorrupt),
        ),
        (PageVerdict::Match, true, vec!["sync"], Some(ErrorKind::Internal)),
    ] {
        let mut engine = Engine {
            calls: Vec::new(),
            answer,
            sync_fails,
        };
        let result = barrier(&mut engine, &expect([8]));
        assert_eq!(result.err().map(|error| error.kind()), kind);
        assert_eq!(engine.calls, calls);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_first_bad_page_is_named_in_whatever_order_pages_are_expected(
        expected in proptest::collection::vec(1..60u32, 0..40),
        rotten in proptest::collection::btree_set(1..60u32, 0..4),
        length in 30..60u64,
    ) {
        let file = Recorder::new();
        let mut target = FileTarget::new(&file, SIZE);
        write(&mut target, 1..60);
        target.truncate_database(length as u32).unwrap();
        target.sync_database().unwrap();
        for &page in rotten.iter().filter(|&&page| u64::from(page) <= length) {
            let mut byte = image(page)[4095];
            byte ^= 1;
            file.file.write_at(&[byte], u64::from(page) * 4096 - 1).unwrap();
        }
        let first_bad = expected
            .iter()
            .copied()
            .filter(|&page| rotten.contains(&page) || u64::from(page) > length)
            .min();
        let verification = verify_pages(&file, SIZE, &expect(expected.iter().copied())).unwrap();
        match verification.verdict {
            PageVerdict::Match => {
                prop_assert_eq!(first_bad, None);
                prop_assert_eq!(verification.pages as usize, expected.len());
            }
            PageVerdict::Mismatch { page, found, .. } => {
                prop_assert_eq!(first_bad, Some(page.get()));
                prop_assert_eq!(found.is_none(), u64::from(page.get()) > length);
            }
        }
    }
}
