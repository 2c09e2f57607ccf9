//! Any bytes as database, log and companion: opening judges them without a panic, a refusal changes nothing,
//! what is opened holds what SQLite would find, and it opens again.

use super::input::Input;
use crate::naive;
use std::path::Path;
use std::sync::Arc;
use walmend_types::{Error, PageNumber, PageSize};
use walmend_vfs::{MemoryVfs, OpenFlags, Vfs};
use walmend_wal::{FileSet, Findings, Log, LogConfig, OnDamage, PageKind, RecoveryFence, RecoveryPlan};

const KINDS: [OnDamage; 3] = [OnDamage::Refuse, OnDamage::Salvage, OnDamage::TruncateLikeSqlite];

/// The first byte is the page size, the second says what to do about damage, what the writer did, and which file
/// is missing.
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let page_size = PageSize::new(512 << (input.byte() % 8)).expect("a page size");
    let settings = input.byte();
    let on_damage = KINDS[usize::from(settings % 3)];
    let synced = settings & 4 != 0;
    let contents: [&[u8]; 3] = input.files();
    let vfs = MemoryVfs::new();
    let files = FileSet::of(Path::new("/any.db"));
    let paths = [&files.db, &files.wal, &files.meta];
    for (number, (path, bytes)) in (0..).zip(paths.iter().zip(contents)) {
        if number == 0 || settings & (8 << number) == 0 {
            let file = vfs.open(path, OpenFlags::CREATE).expect("created");
            file.write_at(bytes, 0).expect("written");
        }
    }
    let read = || paths.map(|path| content(&vfs, path));
    let before = read();

    let db = vfs.open(&files.db, OpenFlags::WRITE).expect("opened");
    let pages = u32::try_from(contents[0].len().div_ceil(page_size.as_usize())).expect("few pages");
    let findings =
        Findings::gather(&vfs, &files, &*db, page_size, synced, false).expect("nothing but memory");
    let plan = RecoveryPlan::make(findings, on_damage);
    assert!(read() == before, "looking changed a file");

    let mut config = LogConfig::new(files.clone(), db, page_size, PageKind::Raw, pages);
    config.fence = Some(RecoveryFence::new());
    config.on_damage = on_damage;
    config.synced_every_commit = synced;
    config.preallocate = 0;
    let (log, report) = match Log::open(Arc::new(vfs.clone()), config.clone()) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!matches!(error, Error::Internal(_)), "{error}");
            assert!(read() == before, "{error} changed a file");
            return;
        }
    };
    let plan = plan.expect("what was opened could be planned");
    assert!(plan.decision.admits());
    assert_eq!(report.committed_frames, plan.committed_frames());
    if plan.keep_log {
        let expected = before[1].as_deref().and_then(naive::prefix);
        assert_eq!(
            Some(report.committed_frames),
            expected.map(|prefix| prefix.committed)
        );
    }
    let mark = log.begin_read();
    let mut page = vec![0; page_size.as_usize()];
    for number in (1..=mark.db_pages()).take(64) {
        let number = PageNumber::new(number).expect("from 1 on");
        mark.read(number, &mut page)
            .expect("what was recovered can be read");
    }
    drop(mark);
    log.close().expect("closed");
    let seq = log.status().commit_seq;
    drop(log);
    let (log, again) = Log::open(Arc::new(vfs.clone()), config).expect("what was opened once opens again");
    assert_eq!(again.committed_frames, report.committed_frames);
    assert_eq!((again.dropped_frames, again.lost_commits), (0, 0));
    assert!(log.status().commit_seq >= seq);
}

fn content(vfs: &MemoryVfs, path: &Path) -> Option<Vec<u8>> {
    let file = vfs.open(path, OpenFlags::READ).ok()?;
    let mut bytes = vec![0; file.len().expect("a length") as usize];
    file.read_exact_at(&mut bytes, 0).expect("read");
    Some(bytes)
}
