//! What the failure tests share: a driver for a log that keeps the contract of `WalBatchWriter` and nothing
//! else, and a model of what must be in the database, written apart from the code under test.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use walmend_types::{
    BatchEntry, CommitRequest, CommitSeq, Error, OutcomeToken, PageImage, PageNumber, PageSize, Poison,
    Result, SyncMode, TxnId, WalBatchSync, WalBatchWriter, WriteSet,
};
use walmend_vfs::sim::{CrashKeep, SimVfs};
use walmend_vfs::{OpenFlags, Vfs};
use walmend_wal::{
    ByteOrder, CheckpointMode, Checksum, FileSet, Log, LogConfig, LogIo, LogSync, LogWriter, OnDamage,
    PageKind, RecoveryFence, RecoveryReport,
};

pub(crate) const DB: &str = "/a.db";
pub(crate) const WAL: &str = "/a.db-wal";
pub(crate) const META: &str = "/a.db-wal-meta";

/// A transaction: pages with the version that they get, and the size that it sets, if any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Spec {
    pub(crate) pages: Vec<(u32, u32)>,
    pub(crate) size: Option<u32>,
}

/// Writes these pages, all with one version.
pub(crate) fn write(version: u32, pages: impl IntoIterator<Item = u32>) -> Spec {
    Spec {
        pages: pages.into_iter().map(|page| (page, version)).collect(),
        size: None,
    }
}

impl Spec {
    pub(crate) fn size(self, pages: u32) -> Self {
        Self {
            size: Some(pages),
            ..self
        }
    }
}

/// What the writer of a transaction is told.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Committed(CommitSeq),
    NotCommitted(Error),
    Unknown(Option<OutcomeToken>, Error),
}

impl Answer {
    pub(crate) fn committed(&self) -> bool {
        matches!(self, Self::Committed(_))
    }

    pub(crate) fn not_committed(&self) -> bool {
        matches!(self, Self::NotCommitted(_))
    }

    pub(crate) fn unknown(&self) -> bool {
        matches!(self, Self::Unknown(..))
    }
}

/// The content of a page in a version, unlike that of any other page and version.
pub(crate) fn image(page: u32, version: u32, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (at, chunk) in (0u32..).zip(bytes.chunks_mut(4)) {
        let word = at
            .wrapping_mul(0x9e37_79b9)
            .wrapping_add(page.wrapping_mul(0x85eb_ca6b))
            .wrapping_add(version.wrapping_mul(0xc2b2_ae35))
            | 1;
        chunk.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

/// What a database holds: the version of each page that was written, and its size in pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Content {
    pub(crate) versions: BTreeMap<u32, u32>,
    pub(crate) pages: u32,
}

impl Content {
    pub(crate) fn apply(&mut self, spec: &Spec) {
        let highest = spec.pages.iter().map(|(page, _)| *page).max().unwrap_or(0);
        self.pages = spec.size.unwrap_or(self.pages.max(highest));
        self.versions.extend(spec.pages.iter().copied());
        self.versions.retain(|page, _| *page <= self.pages);
    }
}

/// What may be in the database: everything that was acknowledged, and a prefix of what is unknown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) sure: Content,
    pub(crate) unknown: Vec<(Spec, Option<OutcomeToken>)>,
    pub(crate) last_seq: CommitSeq,
}

impl Model {
    pub(crate) fn note(&mut self, batch: &[Spec], answers: &[Answer]) {
        assert_eq!(batch.len(), answers.len());
        for (spec, answer) in batch.iter().zip(answers) {
            match answer {
                Answer::Committed(seq) => {
                    assert!(self.unknown.is_empty(), "nothing is acknowledged after a doubt");
                    assert!(*seq > self.last_seq, "{seq:?} after {:?}", self.last_seq);
                    self.last_seq = *seq;
                    self.sure.apply(spec);
                }
                Answer::NotCommitted(_) => {}
                Answer::Unknown(token, _) => self.unknown.push((spec.clone(), *token)),
            }
        }
    }

    /// Checks a log that was just opened, and settles what was unknown. Answers how many of the unknown
    /// transactions are there.
    pub(crate) fn settle(&mut self, rig: &Rig, what: &dyn std::fmt::Debug) -> usize {
        let found = rig.content();
        let mut expected = self.sure.clone();
        let mut kept = None;
        for place in 0..=self.unknown.len() {
            if place > 0 {
                expected.apply(&self.unknown[place - 1].0);
            }
            if expected == found {
                kept = Some(place);
            }
        }
        let Some(kept) = kept else {
            panic!(
                "{what:?}: found {found:?}, acknowledged {:?}, unknown {:?}, report {:?}",
                self.sure, self.unknown, rig.report
            );
        };
        for (place, (_, token)) in self.unknown.iter().enumerate() {
            if let Some(told) = token.and_then(|token| rig.log.outcome(token)) {
                assert_eq!(told, place < kept, "{what:?}: unknown transaction {place}");
            }
        }
        assert!(
            rig.last_seq >= self.last_seq,
            "{what:?}: {:?} after {:?}",
            rig.last_seq,
            self.last_seq
        );
        self.last_seq = rig.last_seq;
        self.sure = found;
        self.unknown.clear();
        kept
    }
}

/// How the logs of a test are opened.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) page_size: PageSize,
    pub(crate) preallocate: u64,
    pub(crate) watermark_interval: Duration,
    pub(crate) on_damage: OnDamage,
    pub(crate) log_io: LogIo,
    /// What that is expected to come down to.
    pub(crate) settles: LogIo,
}

impl Setup {
    /// Small pages, a little preallocation, a watermark that is never synced by itself.
    pub(crate) fn small() -> Self {
        Self {
            page_size: PageSize::MIN,
            preallocate: 2048,
            watermark_interval: Duration::from_secs(3600),
            on_damage: OnDamage::Refuse,
            log_io: LogIo::Buffered,
            settles: LogIo::Buffered,
        }
    }

    /// The same, past the page cache: several frames share a block.
    pub(crate) fn direct() -> Self {
        Self {
            log_io: LogIo::Direct,
            settles: LogIo::Direct,
            ..Self::small()
        }
    }
}

/// An open log and its driver.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) log: Log,
    pub(crate) writer: LogWriter,
    pub(crate) sync: LogSync,
    pub(crate) report: RecoveryReport,
    pub(crate) last_seq: CommitSeq,
    pub(crate) page_size: PageSize,
}

impl Rig {
    pub(crate) fn open(vfs: &SimVfs, setup: &Setup) -> Result<Self> {
        Self::open_on(Arc::new(vfs.clone()), setup)
    }

    pub(crate) fn open_on(vfs: Arc<dyn Vfs>, setup: &Setup) -> Result<Self> {
        Self::open_at(vfs, Path::new(DB), setup)
    }

    pub(crate) fn open_at(vfs: Arc<dyn Vfs>, path: &Path, setup: &Setup) -> Result<Self> {
        let db = vfs.open(path, OpenFlags::CREATE)?;
        let pages = db.len()?.div_ceil(setup.page_size.get().into());
        let mut config = LogConfig::new(
            FileSet::of(path),
            db,
            setup.page_size,
            PageKind::Raw,
            u32::try_from(pages).unwrap(),
        );
        config.preallocate = setup.preallocate;
        config.watermark_interval = setup.watermark_interval;
        config.on_damage = setup.on_damage;
        config.log_io = setup.log_io;
        // All tests of the process use one path.
        config.fence = Some(RecoveryFence::new());
        let (log, report) = Log::open(Arc::clone(&vfs), config)?;
        assert_eq!(log.status().log_io, setup.settles);
        let writer = log.writer();
        Ok(Self {
            sync: WalBatchWriter::<Vec<PageImage>>::sync_half(&writer),
            last_seq: log.status().commit_seq,
            page_size: setup.page_size,
            vfs,
            log,
            writer,
            report,
        })
    }

    pub(crate) fn poison(&self) -> &Poison {
        self.log.poison()
    }

    pub(crate) fn requests(&self, batch: &[Spec]) -> Vec<CommitRequest<Vec<PageImage>>> {
        let request = |spec: &Spec| {
            let images: Vec<PageImage> = spec
                .pages
                .iter()
                .map(|&(page, version)| {
                    let data = image(page, version, self.page_size.as_usize());
                    let image = PageImage::new(PageNumber::new(page).unwrap(), data);
                    // Writers may work out the checksum's part themselves, or leave it to the log.
                    if page.is_multiple_of(2) {
                        image.with_checksum_part(|data| Checksum::part(ByteOrder::Little, data).pair())
                    } else {
                        image
                    }
                })
                .collect();
            let mut writes = WriteSet::new(images.iter().map(|image| image.page));
            if let Some(size) = spec.size {
                writes = writes.with_db_pages(size);
            }
            CommitRequest::new(TxnId(1), self.last_seq, writes, images)
        };
        batch.iter().map(request).collect()
    }

    /// Commits a batch as the contract of the log asks for, and answers each transaction.
    pub(crate) fn commit(&mut self, batch: &[Spec]) -> Vec<Answer> {
        if let Err(error) = self.poison().check() {
            return vec![Answer::NotCommitted(error); batch.len()];
        }
        let requests = self.requests(batch);
        let entries: Vec<BatchEntry<'_, Vec<PageImage>>> = requests
            .iter()
            .zip(self.last_seq.0 + 1..)
            .map(|(request, seq)| BatchEntry {
                request,
                commit_seq: CommitSeq(seq),
            })
            .collect();
        let append = match self.writer.append_batch(&entries) {
            Ok(append) => append,
            Err(failure) => {
                return match WalBatchWriter::<Vec<PageImage>>::discard_append(&mut self.writer) {
                    Ok(()) => vec![Answer::NotCommitted(failure.error); batch.len()],
                    Err(error) => {
                        self.poison().set(error.clone());
                        let token = |place| failure.tokens.get(place).copied();
                        (0..batch.len())
                            .map(|place| Answer::Unknown(token(place), error.clone()))
                            .collect()
                    }
                };
            }
        };
        assert_eq!(
            (append.offsets.len(), append.tokens.len()),
            (batch.len(), batch.len())
        );
        let tokens = append.tokens;
        if let Err(error) = self.sync.sync(&append.mark).and_then(|()| self.poison().check()) {
            self.poison().set(error.clone());
            return tokens
                .into_iter()
                .map(|token| Answer::Unknown(Some(token), error.clone()))
                .collect();
        }
        self.sync.publish(append.mark);
        let first = self.last_seq.0 + 1;
        self.last_seq = CommitSeq(self.last_seq.0 + batch.len() as u64);
        (first..=self.last_seq.0)
            .map(|seq| Answer::Committed(CommitSeq(seq)))
            .collect()
    }

    /// One transaction, which must commit.
    pub(crate) fn must_commit(&mut self, spec: Spec) -> CommitSeq {
        match self.commit(&[spec])[0].clone() {
            Answer::Committed(seq) => seq,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn idle(&mut self) -> Result<()> {
        WalBatchWriter::<Vec<PageImage>>::idle(&mut self.writer)
    }

    pub(crate) fn checkpoint(&self, mode: CheckpointMode) -> Result<walmend_wal::CheckpointReport> {
        self.log.checkpoint(mode, Duration::ZERO)
    }

    /// What a reader sees now, page by page.
    pub(crate) fn content(&self) -> Content {
        let mark = self.log.begin_read();
        let size = self.page_size.as_usize();
        let mut content = Content {
            versions: BTreeMap::new(),
            pages: mark.db_pages(),
        };
        let mut bytes = vec![0; size];
        for page in 1..=mark.db_pages() {
            mark.read(PageNumber::new(page).unwrap(), &mut bytes).unwrap();
            if bytes.iter().any(|byte| *byte != 0) {
                let version = version_of(page, &bytes);
                content.versions.insert(page, version);
            }
        }
        content
    }
}

/// The version of an image, which must be exactly one.
fn version_of(page: u32, bytes: &[u8]) -> u32 {
    (1..100_000)
        .find(|version| image(page, *version, 8) == bytes[..8])
        .filter(|version| image(page, *version, bytes.len()) == bytes)
        .unwrap_or_else(|| panic!("page {page} is of no version: {:02x?}", &bytes[..16]))
}

/// A step of a scenario.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Commit(Vec<Spec>),
    Checkpoint(CheckpointMode),
    Close,
    Reopen,
}

/// The scenario of the sweeps: commits, an emptied log, commits, a restarted log, commits; the database grows,
/// shrinks and grows again.
pub(crate) fn scenario() -> Vec<Step> {
    use CheckpointMode::{Passive, Restart, Truncate};
    use Step::{Checkpoint, Close, Commit, Reopen};
    vec![
        Commit(vec![write(1, [1, 2])]),
        Commit(vec![write(2, [1]), write(3, [3, 4, 5])]),
        Checkpoint(Truncate),
        Commit(vec![write(4, [2])]),
        Commit(vec![write(5, [1, 6]), write(6, [6])]),
        Checkpoint(Passive),
        Commit(vec![write(7, [1]).size(4)]),
        Checkpoint(Restart),
        Commit(vec![write(8, [4]), write(9, [1, 2])]),
        Close,
        Reopen,
        Commit(vec![write(10, [5, 6])]),
        Commit(vec![write(11, [1]), write(12, [2]), write(13, [3])]),
        Close,
    ]
}

/// Seeds of the subsets of unsynced writes that a crash keeps; `WALMEND_SWEEP` gives another number of them.
pub(crate) fn seeds(default: u64) -> std::ops::Range<u64> {
    let wished = std::env::var("WALMEND_SWEEP")
        .ok()
        .and_then(|value| value.parse().ok());
    0..wished.unwrap_or(default)
}

/// Ways of losing power.
pub(crate) fn keeps(seeds: std::ops::Range<u64>) -> Vec<CrashKeep> {
    let mut keeps = vec![CrashKeep::None, CrashKeep::All];
    keeps.extend(seeds.map(CrashKeep::Random));
    keeps
}

/// Opens what a crash left, checks it, and goes on with it: nothing changes over another crash, a commit, a
/// checkpoint and a reopening.
pub(crate) fn check(disk: &SimVfs, mut model: Model, setup: &Setup, what: &dyn std::fmt::Debug) {
    let rig = Rig::open(disk, setup).unwrap_or_else(|error| panic!("{what:?}: {error}"));
    model.settle(&rig, what);
    let disk = disk.fork().crash(CrashKeep::None);
    let mut rig = Rig::open(&disk, setup).unwrap_or_else(|error| panic!("{what:?}, again: {error}"));
    assert_eq!(model.settle(&rig, &(what, "after another crash")), 0);
    let batch = [write(100, [2]), write(101, [1, 3])];
    let answers = rig.commit(&batch);
    model.note(&batch, &answers);
    rig.checkpoint(CheckpointMode::Truncate).unwrap();
    assert_eq!(rig.content(), model.sure, "{what:?}: after the checkpoint");
    let disk = disk.fork().crash(CrashKeep::None);
    let rig = Rig::open(&disk, setup).unwrap();
    model.settle(&rig, &(what, "after a checkpoint and a crash"));
}

/// A disk with an empty database file.
pub(crate) fn fresh(seed: u64) -> SimVfs {
    let vfs = SimVfs::new(seed);
    let db = vfs.open(Path::new(DB), OpenFlags::CREATE).unwrap();
    db.sync(SyncMode::Full).unwrap();
    vfs
}
