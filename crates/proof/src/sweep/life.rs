//! A log from one opening to the next, and what it said.

use super::program::{Batch, Program, Setup, Step};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use walmend_repair::{ReedSolomon, SidecarIndex, heal_log, protect_log, wal_sidecar_path};
use walmend_types::{
    BatchEntry, CommitRequest, CommitSeq, Error, PageImage, PageNumber, Result, SyncMode, TxnId,
    WalBatchSync, WalBatchWriter, WriteSet,
};
use walmend_vfs::Random;
use walmend_vfs::sim::{Cells, CrashKeep, History, Nth, SimVfs};
use walmend_vfs::{OpenFlags, Vfs};
use walmend_wal::{
    CheckpointMode, FileSet, Log, LogConfig, LogSync, LogWriter, PageKind, ReadMark, RecoveryFence,
    frame_offset,
};

const DB: &str = "/a.db";

/// Why a life ended before its program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The power went.
    Power,
    /// Something that must hold does not.
    Violation(String),
}

/// A log on a simulated disk, and what it said so far.
#[derive(Debug)]
pub struct Life {
    disk: SimVfs,
    setup: Setup,
    /// What was said.
    pub history: History,
    log: Log,
    writer: LogWriter,
    sync: LogSync,
    last_seq: CommitSeq,
    snapshot: Option<(ReadMark, Cells)>,
    /// The power goes at this operation of the disk. Kept here because each reopening disarms it.
    power_at: Option<u64>,
}

/// A disk with an empty database file, durable.
pub(super) fn fresh(setup: Setup, seed: u64) -> SimVfs {
    let disk = SimVfs::with_sectors(seed, setup.sectors());
    disk.put(Path::new(DB), &[]);
    disk
}

/// The content of a page, by the transaction that wrote it.
fn image(txn: u64, page: u32, size: usize) -> Vec<u8> {
    let mut random = Random(txn.wrapping_mul(0x1_0001) ^ u64::from(page));
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(&txn.to_be_bytes());
    while bytes.len() < size {
        bytes.extend_from_slice(&(random.next() | 1).to_be_bytes());
    }
    bytes
}

impl Life {
    /// Heals, recovers, opens, and checks what is there against what was said.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn open(disk: &SimVfs, setup: Setup, mut history: History) -> std::result::Result<Self, Stop> {
        let opened = Self::open_log(disk, setup);
        let (log, writer) = opened.map_err(|error| stop(disk, "opening", &error))?;
        let last_seq = log.status().commit_seq;
        let sync = WalBatchWriter::<Vec<PageImage>>::sync_half(&writer);
        let found = read_all(&log.begin_read(), setup).map_err(|error| stop(disk, "reading", &error))?;
        history
            .settle(&found, last_seq.0)
            .map_err(|violation| Stop::Violation(format!("opened: {violation}")))?;
        Ok(Self {
            disk: disk.clone(),
            setup,
            history,
            log,
            writer,
            sync,
            last_seq,
            snapshot: None,
            power_at: None,
        })
    }

    fn open_log(disk: &SimVfs, setup: Setup) -> Result<(Log, LogWriter)> {
        let files = FileSet::of(Path::new(DB));
        let db = disk.open(&files.db, OpenFlags::CREATE)?;
        heal_log(disk, &files, &ReedSolomon)?;
        let pages = db.len()?.div_ceil(setup.page_size.get().into());
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        let mut config = LogConfig::new(files, db, setup.page_size, PageKind::Raw, pages);
        config.preallocate = setup.preallocate;
        config.watermark_interval = setup.watermark_interval();
        // All lives of the process use one path.
        config.fence = Some(RecoveryFence::new());
        let (log, _) = Log::open(Arc::new(disk.clone()), config)?;
        let writer = log.writer();
        Ok((log, writer))
    }

    /// Does all steps of a program on a new disk, until the power goes at an operation, from 1. Answers what was
    /// said, and how it ended.
    pub fn run(
        program: &Program,
        disk: &SimVfs,
        power_at: Option<u64>,
    ) -> (History, std::result::Result<(), Stop>) {
        if let Some(op) = power_at {
            disk.crash_at_op(op);
        }
        let mut life = match Self::open(disk, program.setup, History::in_order()) {
            Ok(life) => life,
            Err(stop) => return (History::in_order(), Err(stop)),
        };
        life.power_at = power_at;
        for (number, step) in program.steps.iter().enumerate() {
            let done = life.step(step).and_then(|()| life.check());
            match done {
                Ok(()) => {}
                Err(Stop::Violation(what)) => {
                    let what = format!("step {number}, {step:?}: {what}");
                    return (life.history, Err(Stop::Violation(what)));
                }
                Err(stop) => return (life.history, Err(stop)),
            }
        }
        (life.history, Ok(()))
    }

    /// Goes on after a crash: commits, checkpoints, loses everything that is not synced, and opens once more.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn go_on(mut self) -> std::result::Result<(), Stop> {
        self.step(&Step::Commit(vec![vec![2], vec![1, 3]]))?;
        self.step(&Step::Checkpoint(CheckpointMode::Truncate))?;
        self.check()?;
        let disk = self.disk.fork().crash(CrashKeep::None);
        Self::open(&disk, self.setup, self.history).map(drop)
    }

    /// Checks what a reader that begins now sees.
    fn check(&self) -> std::result::Result<(), Stop> {
        let mark = self.log.begin_read();
        let found = read_all(&mark, self.setup).map_err(|error| self.stop("reading", &error))?;
        let shown = self.history.check_snapshot(mark.commit_seq().0, &found);
        shown.map_err(|violation| Stop::Violation(violation.to_string()))
    }

    fn step(&mut self, step: &Step) -> std::result::Result<(), Stop> {
        let wal = || "-wal";
        match step {
            Step::Commit(batch) => self.commit(batch, false),
            Step::CommitAround(batch) => self.commit(batch, true),
            Step::FailAppend { call, landed, batch } => {
                let failure = std::io::ErrorKind::Other;
                self.disk
                    .fail_write_at(Nth::call(*call).of(wal()), *landed, failure);
                let done = self.commit(batch, false);
                self.disk.disarm_calls();
                done?;
                if self.log.poison().reason().is_some() {
                    return Err(Stop::Violation("a failed write alone ended all writing".into()));
                }
                Ok(())
            }
            Step::FailSync { seed, batch } => {
                self.disk
                    .fail_sync_at(Nth::call(1).of(wal()), CrashKeep::Random(*seed));
                self.commit(batch, false)?;
                self.disk.disarm_calls();
                self.reopen(self.disk.kill())
            }
            Step::Checkpoint(mode) => self.checkpoint(*mode),
            Step::FailCheckpoint(mode) => {
                self.disk
                    .fail_sync_at(Nth::call(1).of(".db"), CrashKeep::Random(self.last_seq.0));
                let before = self.disk.injected().len();
                let done = self.log.checkpoint(*mode, Duration::ZERO);
                self.disk.disarm_calls();
                match done {
                    Ok(_) if self.disk.injected().len() > before => Err(Stop::Violation(
                        "a failed sync of the database went unnoticed".into(),
                    )),
                    Err(_) if self.powerless() => Err(Stop::Power),
                    _ => Ok(()),
                }
            }
            Step::Begin => {
                if self.snapshot.is_none() {
                    let mark = self.log.begin_read();
                    let found = read_all(&mark, self.setup).map_err(|error| self.stop("reading", &error))?;
                    self.snapshot = Some((mark, found));
                }
                Ok(())
            }
            Step::Look => self.look(),
            Step::End => {
                self.look()?;
                self.snapshot = None;
                Ok(())
            }
            Step::Protect => {
                let files = FileSet::of(Path::new(DB));
                match protect_log(&self.disk, &files, &ReedSolomon) {
                    Ok(_) => Ok(()),
                    Err(error) => Err(self.stop("protecting", &error)),
                }
            }
            Step::Idle => {
                let idle = WalBatchWriter::<Vec<PageImage>>::idle(&mut self.writer);
                idle.map_err(|error| self.stop("idling", &error))
            }
            Step::Close => {
                self.close()?;
                self.reopen(self.disk.kill())
            }
            Step::Kill => {
                self.look()?;
                self.reopen(self.disk.kill())
            }
            Step::PowerLoss { seed } => self.reopen(self.disk.crash(CrashKeep::Random(*seed))),
            Step::Rot { seed } => {
                self.close()?;
                let disk = self.disk.kill();
                self.disk = disk.clone();
                rot(&disk, *seed).map_err(|error| self.stop("looking for protected frames", &error))?;
                self.reopen(disk)
            }
        }
    }

    fn close(&mut self) -> std::result::Result<(), Stop> {
        self.snapshot = None;
        self.log.close().map_err(|error| self.stop("closing", &error))
    }

    fn reopen(&mut self, disk: SimVfs) -> std::result::Result<(), Stop> {
        self.snapshot = None;
        let power_at = self.power_at;
        if let Some(op) = power_at {
            disk.crash_at_op(op.saturating_sub(disk.ops()));
        }
        *self = Self::open(&disk, self.setup, self.history.clone())?;
        self.power_at = power_at;
        Ok(())
    }

    fn powerless(&self) -> bool {
        self.disk.info(Path::new(DB)).is_err()
    }

    fn stop(&self, doing: &str, error: &Error) -> Stop {
        stop(&self.disk, doing, error)
    }

    fn look(&self) -> std::result::Result<(), Stop> {
        let Some((mark, before)) = &self.snapshot else {
            return Ok(());
        };
        let found = read_all(mark, self.setup).map_err(|error| self.stop("reading a snapshot", &error))?;
        if found != *before {
            return Err(Stop::Violation(format!(
                "a snapshot changed from {before:?} to {found:?}"
            )));
        }
        let shown = self.history.check_snapshot(mark.commit_seq().0, &found);
        // After a reopening, the numbers of before are settled; a snapshot does not live that long.
        shown.map_err(|violation| Stop::Violation(violation.to_string()))
    }

    fn checkpoint(&self, mode: CheckpointMode) -> std::result::Result<(), Stop> {
        let done = self.log.checkpoint(mode, Duration::ZERO);
        done.map(drop).map_err(|error| self.stop("a checkpoint", &error))
    }

    /// Commits a batch as the contract of the log asks for, and notes what each transaction is told.
    fn commit(&mut self, batch: &Batch, around: bool) -> std::result::Result<(), Stop> {
        let size = self.setup.page_size.as_usize();
        let mut numbers = Vec::new();
        let mut requests = Vec::new();
        for pages in batch {
            let txn = self.history.begin(pages.iter().map(|page| u64::from(*page)));
            numbers.push(txn);
            let images: Vec<PageImage> = pages
                .iter()
                .filter_map(|page| PageNumber::new(*page).ok())
                .map(|page| PageImage::new(page, image(txn, page.get(), size)))
                .collect();
            let writes = WriteSet::new(images.iter().map(|image| image.page));
            requests.push(CommitRequest::new(TxnId(txn), self.last_seq, writes, images));
        }
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
            Err(_) => {
                if WalBatchWriter::<Vec<PageImage>>::discard_append(&mut self.writer).is_ok() {
                    numbers.iter().for_each(|txn| self.history.not_committed(*txn));
                }
                return if self.powerless() {
                    Err(Stop::Power)
                } else {
                    Ok(())
                };
            }
        };
        if around {
            self.step(&Step::Checkpoint(CheckpointMode::Passive))?;
            self.step(&Step::Begin)?;
            self.check()?;
        }
        if let Err(error) = self.sync.sync(&append.mark) {
            return if self.powerless() {
                Err(Stop::Power)
            } else if self.log.poison().reason().is_none() {
                Err(Stop::Violation(format!("a failed sync was not latched: {error}")))
            } else {
                Ok(())
            };
        }
        self.sync.publish(append.mark);
        for txn in numbers {
            self.last_seq.0 += 1;
            self.history.committed(txn, self.last_seq.0);
        }
        Ok(())
    }
}

fn stop(disk: &SimVfs, doing: &str, error: &Error) -> Stop {
    if disk.info(Path::new(DB)).is_err() {
        return Stop::Power;
    }
    Stop::Violation(format!("{doing} failed: {error}"))
}

/// The transaction that wrote each page last.
fn read_all(mark: &ReadMark, setup: Setup) -> Result<Cells> {
    let mut cells = Cells::new();
    let mut bytes = vec![0; setup.page_size.as_usize()];
    for page in 1..=mark.db_pages() {
        mark.read(PageNumber::new(page)?, &mut bytes)?;
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        let txn = bytes.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
        if bytes != image(txn, page, bytes.len()) {
            return Err(Error::Internal(format!("page {page} is of no transaction")));
        }
        cells.insert(page.into(), txn);
    }
    Ok(cells)
}

/// Flips bits in up to two of the frames that the sidecar covers.
fn rot(disk: &SimVfs, seed: u64) -> Result<()> {
    let files = FileSet::of(Path::new(DB));
    let path = wal_sidecar_path(&files.db);
    if disk.info(&path)?.is_none() {
        return Ok(());
    }
    // A group counts only for the log that it was made from, which healing finds out; here the salts must do.
    let index = SidecarIndex::scan(&*disk.open(&path, OpenFlags::READ)?)?;
    let mut header = [0; 32];
    let log = disk.open(&files.wal, OpenFlags::READ)?;
    if log.read_at(&mut header, 0)? < header.len() {
        return Ok(());
    }
    let groups: Vec<_> = index
        .groups
        .iter()
        .filter(|group| group.header.log_header().encode() == header)
        .collect();
    if groups.is_empty() {
        return Ok(());
    }
    let mut random = Random(seed);
    let group = *random.pick(&groups);
    let frames = group.header.first_frame..=group.header.last_frame();
    let frames: Vec<u32> = frames.collect();
    for _ in 0..1 + random.below(2) {
        let at = frame_offset(*random.pick(&frames), group.header.page_size);
        let size = walmend_wal::frame_size(group.header.page_size);
        disk.flip_bit(&files.wal, at + random.below(size), random.below(8) as u8);
    }
    // What rots is on the disk: nothing that a sync could write again.
    disk.open(&files.wal, OpenFlags::WRITE)?.sync(SyncMode::Full)
}
