//! Files of any content: scanning, deciding and opening never panic, and a refusal changes nothing.
#![cfg(not(walmend_loom))]

use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use walmend_types::{
    BatchEntry, CommitRequest, CommitSeq, Error, PageImage, PageNumber, PageSize, TxnId, WalBatchSync,
    WalBatchWriter, WriteSet,
};
use walmend_vfs::{MemoryVfs, OpenFlags, SyncMode, Vfs};
use walmend_wal::{
    FileSet, Findings, Log, LogConfig, OnDamage, PageKind, RecoveryFence, RecoveryPlan, ScanHints,
};

const SIZE: usize = 512;

fn page_size() -> PageSize {
    PageSize::new(SIZE as u32).unwrap()
}

/// A log of `commits` commits of two pages, and its companion, as a store leaves them.
fn real_files(commits: u8, closed: bool) -> [Vec<u8>; 3] {
    let vfs = MemoryVfs::with_seed(u64::from(commits));
    let files = FileSet::of(Path::new("/any.db"));
    let db = vfs.open(&files.db, OpenFlags::CREATE).unwrap();
    db.write_at(&[1; SIZE], 0).unwrap();
    db.sync(SyncMode::Full).unwrap();
    let mut config = LogConfig::new(files.clone(), db, page_size(), PageKind::Raw, 1);
    config.fence = Some(RecoveryFence::new());
    config.preallocate = 2048;
    let (log, _) = Log::open(Arc::new(vfs.clone()), config).unwrap();
    let mut writer = log.writer();
    let sync = WalBatchWriter::<Vec<PageImage>>::sync_half(&writer);
    for commit in 1..=commits {
        let images: Vec<PageImage> = [u32::from(commit), u32::from(commit) + 1]
            .map(|page| PageImage::new(PageNumber::new(page).unwrap(), vec![commit; SIZE]))
            .into();
        let writes = WriteSet::new(images.iter().map(|image| image.page));
        let request = CommitRequest::new(TxnId(1), CommitSeq(0), writes, images);
        let batch = [BatchEntry {
            request: &request,
            commit_seq: CommitSeq(commit.into()),
        }];
        let append = writer
            .append_batch(&batch)
            .map_err(|failure| failure.error)
            .unwrap();
        sync.sync(&append.mark).unwrap();
        sync.publish(append.mark);
    }
    if closed {
        log.close().unwrap();
    }
    [&files.db, &files.wal, &files.meta].map(|path| read(&vfs, path).unwrap())
}

fn read(vfs: &MemoryVfs, path: &Path) -> Option<Vec<u8>> {
    let file = vfs.open(path, OpenFlags::READ).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// What happens to a file.
#[derive(Debug, Clone)]
enum Harm {
    Flip {
        at: prop::sample::Index,
        bit: u8,
    },
    Zero {
        at: prop::sample::Index,
        len: usize,
    },
    Cut {
        at: prop::sample::Index,
    },
    Grow {
        bytes: Vec<u8>,
    },
    Move {
        from: prop::sample::Index,
        to: prop::sample::Index,
        len: usize,
    },
    Replace {
        bytes: Vec<u8>,
    },
}

impl Harm {
    fn apply(&self, file: &mut Vec<u8>) {
        let place =
            |at: &prop::sample::Index, file: &[u8]| if file.is_empty() { 0 } else { at.index(file.len()) };
        match self {
            Self::Flip { at, bit } => {
                let at = place(at, file);
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Zero { at, len } => {
                let (at, end) = (place(at, file), file.len());
                file[at..(at + len).min(end)].fill(0);
            }
            Self::Cut { at } => file.truncate(place(at, file)),
            Self::Grow { bytes } => file.extend_from_slice(bytes),
            Self::Move { from, to, len } => {
                let (from, to) = (place(from, file), place(to, file));
                let len = (*len).min(file.len() - from.max(to));
                file.copy_within(from..from + len, to);
            }
            Self::Replace { bytes } => file.clone_from(bytes),
        }
    }
}

fn harm() -> impl Strategy<Value = Harm> {
    let index = any::<prop::sample::Index>;
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    prop_oneof![
        4 => (index(), 0u8..8).prop_map(|(at, bit)| Harm::Flip { at, bit }),
        2 => (index(), 1usize..1200).prop_map(|(at, len)| Harm::Zero { at, len }),
        1 => index().prop_map(|at| Harm::Cut { at }),
        1 => bytes(1500).prop_map(|bytes| Harm::Grow { bytes }),
        2 => (index(), index(), 1usize..1200).prop_map(|(from, to, len)| Harm::Move { from, to, len }),
        1 => bytes(3000).prop_map(|bytes| Harm::Replace { bytes }),
    ]
}

proptest! {
    #[test]
    fn any_bytes_in_the_three_files_are_judged_without_a_panic_and_refused_without_a_change(
        commits in 0u8..12,
        closed in any::<bool>(),
        harms in prop::collection::vec((0usize..3, harm()), 0..4),
        missing in prop::option::weighted(0.15, 1usize..3),
        synced in any::<bool>(),
        wish in 0usize..3,
    ) {
        let mut contents = real_files(commits, closed);
        for (file, harm) in &harms {
            harm.apply(&mut contents[*file]);
        }
        let on_damage = [OnDamage::Refuse, OnDamage::Salvage, OnDamage::TruncateLikeSqlite][wish];
        let vfs = MemoryVfs::new();
        let files = FileSet::of(Path::new("/any.db"));
        let paths = [&files.db, &files.wal, &files.meta];
        for (number, (path, bytes)) in paths.iter().zip(&contents).enumerate() {
            if missing != Some(number) {
                vfs.open(path, OpenFlags::CREATE).unwrap().write_at(bytes, 0).unwrap();
            }
        }
        let before = paths.map(|path| read(&vfs, path));

        let db = vfs.open(&files.db, OpenFlags::WRITE).unwrap();
        let findings = Findings::gather(&vfs, &files, &*db, page_size(), synced, false).unwrap();
        if let Some(scan) = &findings.scan {
            let hints = ScanHints { page_size: page_size(), ..ScanHints::default() };
            let wal = vfs.open(&files.wal, OpenFlags::READ).unwrap();
            prop_assert_eq!(walmend_wal::Scan::read(&*wal, hints).unwrap().header, scan.header);
            prop_assert!(scan.committed_frames <= scan.valid_frames);
        }
        let plan = RecoveryPlan::make(findings, on_damage);
        prop_assert_eq!(&paths.map(|path| read(&vfs, path)), &before, "looking changed a file");

        let mut config = LogConfig::new(files.clone(), db, page_size(), PageKind::Raw, 1);
        config.fence = Some(RecoveryFence::new());
        config.on_damage = on_damage;
        config.synced_every_commit = synced;
        match Log::open(Arc::new(vfs.clone()), config.clone()) {
            Err(error) => {
                prop_assert!(
                    !matches!(error, Error::Internal(_)),
                    "{error}"
                );
                prop_assert_eq!(paths.map(|path| read(&vfs, path)), before, "{} changed a file", error);
            }
            Ok((log, report)) => {
                let plan = plan.unwrap();
                prop_assert!(plan.decision.admits());
                prop_assert_eq!(report.committed_frames, plan.committed_frames());
                // What was opened once opens again, with nothing left to do.
                log.close().unwrap();
                let seq = log.status().commit_seq;
                drop(log);
                let (log, again) = Log::open(Arc::new(vfs.clone()), config).unwrap();
                prop_assert_eq!(again.committed_frames, report.committed_frames);
                prop_assert_eq!((again.dropped_frames, again.lost_commits), (0, 0));
                prop_assert!(log.status().commit_seq >= seq);
            }
        }
    }
}
