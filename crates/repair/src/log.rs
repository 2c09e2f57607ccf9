//! walmend's own log as the storage that a coordinator repairs: frames come from the log, parity goes to its sidecar.

use crate::codec::Codec;
use crate::orchestrate::{CommitRepairIo, DurableCommit, RepairSymbolGenerator, SymbolRange};
use crate::sidecar::{GroupHeader, SidecarIndex, SidecarWriter, parity_for, shard};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use walmend_sync::Mutex;
use walmend_types::{CommitSeq, Error, Result, Salts};
use walmend_vfs::Vfs;
use walmend_wal::{Log, LogIo, Published};

/// The log and its sidecar, for a [`RepairCoordinator`](crate::RepairCoordinator): its storage and its generator.
///
/// Commits take a path of their own through the log, so that they are offered ([`durable_commits`](Self::durable_commits)).
/// A position is `generation << 32 | frame`: a group never spans two generations. What the log has left behind by a
/// reset is in the database by then, and is not repaired any more; the sidecar is begun anew with the first group of
/// the new generation.
#[derive(Debug)]
pub struct LogRepair {
    log: Log,
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
    codec: Arc<dyn Codec>,
    /// Held while the sidecar is written and synced: whoever closes it waits for that, and for no more.
    sidecar: Mutex<Sidecar>,
}

#[derive(Debug)]
struct Sidecar {
    /// Opened by the first group.
    writer: Option<SidecarWriter>,
    /// What was found in it when the store was opened, without its groups.
    found: SidecarIndex,
    /// The log that the sidecar speaks of.
    salts: Option<Salts>,
    /// The group that was read last, described while it was verified.
    described: Option<(SymbolRange, GroupHeader)>,
    closed: bool,
}

impl LogRepair {
    /// For an open log; `found` is what is in the sidecar at `path`.
    pub fn new(
        log: Log,
        vfs: Arc<dyn Vfs>,
        path: PathBuf,
        codec: Arc<dyn Codec>,
        found: &SidecarIndex,
    ) -> Self {
        let of_log = |salts: &Salts| found.groups.iter().any(|group| group.header.salts == *salts);
        let sidecar = Sidecar {
            writer: None,
            found: SidecarIndex {
                groups: Vec::new(),
                ..found.clone()
            },
            salts: log.status().salts.filter(of_log),
            described: None,
            closed: false,
        };
        Self {
            log,
            vfs,
            path,
            codec,
            sidecar: Mutex::new(sidecar),
        }
    }

    /// A published batch, as a coordinator takes it.
    pub fn durable_commits(batch: &Published<'_>) -> Vec<DurableCommit> {
        let mut start = batch.first;
        let commit = |&(commit_seq, last): &(CommitSeq, u32)| {
            let symbols = symbols(batch.generation, start, last);
            start = last + 1;
            DurableCommit {
                commit_seq,
                symbols,
                started: batch.begun,
                durable: batch.durable,
            }
        };
        batch.commits.iter().map(commit).collect()
    }

    /// The first position of a generation: what lies before it has left the log once the generation has begun.
    pub fn begin_of(generation: u64) -> u64 {
        generation << 32
    }

    /// The commits of the log of which a frame lies outside of `covered`, as a coordinator takes them. Call it before
    /// the first new commit. Where the log does not prove their numbers, they are only in the right order.
    ///
    /// # Errors
    /// I/O errors.
    pub fn uncovered(&self, covered: &[RangeInclusive<u32>]) -> Result<Vec<DurableCommit>> {
        let status = self.log.status();
        let mut missing = vec![true; status.frames as usize];
        for range in covered {
            let first = (*range.start() as usize).saturating_sub(1);
            let last = (*range.end() as usize).min(missing.len());
            if let Some(frames) = missing.get_mut(first..last) {
                frames.fill(false);
            }
        }
        let Some(first) = missing.iter().position(|missing| *missing) else {
            return Ok(Vec::new());
        };
        // At most as many as frames.
        let first = first as u32 + 1;
        let ends = self.log.commit_frames(first)?;
        let now = Instant::now();
        let mut commits = Vec::new();
        let mut start = first;
        let mut behind = ends.len() as u64;
        for last in ends {
            behind -= 1;
            // Numbers begin at 1: of a log that holds more commits than that, the first ones count as one.
            let Some(number) = status
                .commit_seq
                .0
                .checked_sub(behind)
                .filter(|number| *number > 0)
            else {
                continue;
            };
            if missing[start as usize - 1..last as usize].contains(&true) {
                commits.push(DurableCommit {
                    commit_seq: CommitSeq(number),
                    symbols: symbols(status.generation, start, last),
                    started: now,
                    durable: now,
                });
            }
            start = last + 1;
        }
        Ok(commits)
    }

    /// From the return of this call on nothing is written to the sidecar. What waits for its repair is left to the
    /// next one to open the log.
    pub fn close(&self) {
        self.sidecar.lock().closed = true;
    }
}

/// The positions of frames `first..=last` of a generation.
fn symbols(generation: u64, first: u32, last: u32) -> SymbolRange {
    let position = |frame: u32| LogRepair::begin_of(generation) | u64::from(frame);
    SymbolRange {
        start: position(first),
        end: position(last) + 1,
    }
}

impl CommitRepairIo for LogRepair {
    fn read_systematic(&self, range: SymbolRange) -> Result<Option<Vec<Vec<u8>>>> {
        // A group has at most MAX_SOURCES frames.
        let (generation, first) = (range.start >> 32, range.start as u32);
        let count = u32::try_from(range.len()).unwrap_or(u32::MAX);
        if self.sidecar.lock().closed {
            return Ok(None);
        }
        let Some(run) = self.log.read_frames(generation, first, count)? else {
            return Ok(None);
        };
        let len = run.bytes.len() / count as usize;
        let frames: Vec<&[u8]> = run.bytes.chunks(len).collect();
        let group = GroupHeader::describe(&run.header, first, run.before, &frames, run.committed)?;
        if group.chain_after != run.after {
            return Err(Error::Invalid(format!(
                "frames {first} to {} are not those that were committed: what is damaged cannot be protected",
                group.last_frame()
            )));
        }
        let systematic = frames.iter().map(|frame| frame.to_vec()).collect();
        self.sidecar.lock().described = Some((range, group));
        Ok(Some(systematic))
    }

    fn append_repair(&self, range: SymbolRange, _systematic: &[Vec<u8>], repair: &[Vec<u8>]) -> Result<()> {
        let mut sidecar = self.sidecar.lock();
        let sidecar = &mut *sidecar;
        let group = match sidecar.described.take() {
            Some((described, group)) if described == range => group,
            _ => return Err(Error::Internal(format!("{range} was not read before its repair"))),
        };
        if sidecar.closed {
            return Err(Error::Closed { what: "the sidecar" });
        }
        let writer = match &mut sidecar.writer {
            Some(writer) => writer,
            None => {
                let writer = SidecarWriter::open(&*self.vfs, &self.path, &sidecar.found)?;
                // What was found worth it for the log is so for its sidecar.
                sidecar.writer.insert(match self.log.status().log_io {
                    LogIo::Direct => writer.past_cache()?,
                    _ => writer,
                })
            }
        };
        // The frames are durable in the log that has these salts: nothing else can need what is there.
        if sidecar.salts != Some(group.salts) && writer.size() > 0 {
            writer.begin_anew()?;
        }
        sidecar.salts = Some(group.salts);
        writer.append(&group, repair)
    }

    fn sync_repair(&self) -> Result<()> {
        let sidecar = self.sidecar.lock();
        match &sidecar.writer {
            Some(writer) if !sidecar.closed => writer.sync(),
            _ => Err(Error::Closed { what: "the sidecar" }),
        }
    }
}

impl RepairSymbolGenerator for LogRepair {
    fn generate(&self, _range: SymbolRange, systematic: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let shards: Vec<Vec<u8>> = systematic.iter().map(|frame| shard(frame)).collect();
        let shards: Vec<&[u8]> = shards.iter().map(Vec::as_slice).collect();
        self.codec.encode(&shards, parity_for(shards.len()))
    }
}
