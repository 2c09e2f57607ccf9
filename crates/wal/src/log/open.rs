//! Opening a log: recover, then put the companion in order, then admit readers and writers.

use super::place::Place;
use super::reset::{LARGEST_BATCH, SEQ_BLOCK};
use super::{Log, LogConfig, LogIo, Meta, Shared, Tail, Visible};
use crate::checksum::Checksum;
use crate::companion::{Companion, Generation, Owner, TAIL_PAGES, Watermark};
use crate::digest::PageDigest;
use crate::fence::RecoveryFence;
use crate::format::{FRAME_HEADER_SIZE, frame_offset};
use crate::index::FrameIndex;
use crate::recovery::{self, Decision, Findings, Origin, RecoveryPlan, RecoveryReport, apply};
use crate::scan::Scan;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use walmend_sync::atomic::AtomicBool;
use walmend_sync::{Condvar, Mutex};
use walmend_types::{CommitSeq, Error, FrameNumber, PageNumber, Result, Salts};
use walmend_vfs::{DirectFile, OpenFlags, ReadSource, Vfs, VfsFile};

impl Log {
    /// Recovers the log of a database and opens it, creating what is missing. The caller holds the exclusive
    /// lock of the database ([`lock_exclusive`](crate::lock_exclusive)).
    ///
    /// # Errors
    /// [`Error::WalCorrupt`] or [`Error::WalAmbiguous`] where damage is refused; then nothing was changed.
    /// [`Error::BusyRecovery`], [`Error::UnsupportedVersion`], [`Error::NotADatabase`], I/O errors.
    pub fn open(vfs: Arc<dyn Vfs>, config: LogConfig) -> Result<(Self, RecoveryReport)> {
        let fence = match &config.fence {
            Some(fence) => fence.clone(),
            None => RecoveryFence::for_path(&vfs.canonical(&config.files.db)?),
        };
        let guard = fence.acquire(RecoveryFence::DEFAULT_BUDGET)?;
        let mut plan = plan(&*vfs, &config)?;
        let mut wal = vfs.open(&config.files.wal, OpenFlags::CREATE)?;
        let mut log_io = config.log_io.settle(&*vfs, &config.files.wal);
        // What direct writes need is opened now: were there no descriptor left later, appends would fail, and the
        // clearing away of them too. Where it cannot be had, the cache does as well.
        let reached = |wal: &dyn VfsFile| match wal.read_from_device(&mut [0], 0) {
            Ok(read) => read.source == ReadSource::Device,
            // The device answered.
            Err(_) => true,
        };
        if log_io == LogIo::Direct && !reached(&*wal) {
            tracing::warn!(target: "walmend::wal::log", "no direct writes this time: the log is written through the cache");
            log_io = LogIo::Buffered;
        }
        if log_io == LogIo::Direct {
            // From the first write on, recovery's included: mixing the two ways can lose writes.
            wal = Arc::new(DirectFile::new(wal));
        }
        let db = recovery::Place {
            file: &*config.db,
            page_size: config.page_size,
            kind: config.kind,
        };
        let mut applied = apply(&*vfs, &*wal, db, &plan)?;
        if let Some(lost) = &applied.lost {
            // After a failed write a file system can show frames from its cache over blocks that were never written,
            // and take syncs of them for done. Once they are dropped, reads show what is there.
            tracing::warn!(target: "walmend::wal::recovery", %lost, "the cache is dropped, and the log read again");
            wal.drop_cache()?;
            plan = self::plan(&*vfs, &config)?;
            applied = apply(&*vfs, &*wal, db, &plan)?;
        }
        if let Some(lost) = applied.lost {
            return Err(lost);
        }
        let report = applied.report;
        let mut companion = Companion::open(&*vfs, &config.files.meta)?;
        let started = record(&config, &plan, &*wal, &mut companion)?;
        companion.write_owner(Owner {
            pid: std::process::id(),
            boot_id: vfs.boot_id(),
            database: None,
            since: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        })?;
        companion.sync()?;

        let scan = plan.findings.scan.as_ref();
        let kept = scan.filter(|_| plan.keep_log);
        let header = kept.and_then(|scan| scan.header.ok());
        let frames = plan.committed_frames();
        let db_pages = started.db_pages;
        let checksum = kept.map_or_else(Checksum::default, |scan| scan.checksum);
        let sizes = kept
            .into_iter()
            .flat_map(|scan| &scan.slots)
            .take(frames as usize);
        let largest = sizes
            .map(|slot| slot.header.db_pages)
            .max()
            .unwrap_or(0)
            .max(db_pages);
        // A database of no pages has at most a marker in its file, which is no content.
        let on_file = if config.db_pages == 0 {
            0
        } else {
            super::reset::pages_in(config.db.len()?, config.page_size)
        };
        let high_water = largest.max(on_file);
        let tail = Tail {
            header,
            salts_on_file: started.salts_on_file,
            frames_on_file: started.frames_on_file,
            checkpoint_seq: header.map_or(0, |header| header.checkpoint_seq.wrapping_add(1)),
            frames,
            checksum,
            db_pages,
            allocated: wal.len()?,
            fill_ahead: true,
            last: None,
        };
        let visible = Visible {
            generation: 1,
            header,
            index: Arc::new(index_of(kept, frames)?),
            frames,
            commit_seq: CommitSeq(started.commit_seq),
            db_pages,
            backfilled: 0,
            high_water,
            readers: BTreeMap::new(),
            gate: false,
            settling: false,
        };
        let shared = Shared {
            db_place: Place::of(&*vfs, &config.files.db)?,
            wal_place: Place::of(&*vfs, &config.files.wal)?,
            vfs,
            files: config.files,
            wal,
            log_io,
            db: config.db,
            page_size: config.page_size,
            kind: config.kind,
            preallocate: config.preallocate,
            watermark_interval: config.watermark_interval,
            poison: config.poison,
            fence,
            protection: config.protection,
            mending: Mutex::default(),
            // An earlier process may have seen a sync of it fail.
            length_in_doubt: AtomicBool::new(true),
            syncing: Mutex::new(()),
            tail: Mutex::new(tail),
            meta: Mutex::new(Meta {
                companion,
                synced_at: Instant::now(),
                dirty: false,
            }),
            growth: super::growth::Growth::new(visible.frames),
            visible: Mutex::new(visible),
            changed: Condvar::new(),
        };
        drop(guard);
        Ok((
            Self {
                shared: Arc::new(shared),
            },
            report,
        ))
    }
}

/// What to do about the log, if it may be done.
fn plan(vfs: &dyn Vfs, config: &LogConfig) -> Result<RecoveryPlan> {
    let synced = config.synced_every_commit;
    let findings = Findings::gather(vfs, &config.files, &*config.db, config.page_size, synced, false)?;
    let salts = findings.scan.as_ref().and_then(Scan::salts);
    let findings = match config.protection.as_ref().zip(salts) {
        Some((protection, salts)) => findings.protected_upto(protection.proven(salts)),
        None => findings,
    };
    let plan = RecoveryPlan::make(findings, config.on_damage)?;
    plan.admit()?;
    check_page_size(config, &plan)?;
    Ok(plan)
}

fn check_page_size(config: &LogConfig, plan: &RecoveryPlan) -> Result<()> {
    match plan.findings.scan.as_ref().and_then(|scan| scan.header.ok()) {
        Some(header) if plan.keep_log && header.page_size != config.page_size => Err(Error::NotADatabase {
            path: config.files.wal.clone(),
            detail: format!(
                "the log has pages of {} bytes, the database pages of {}",
                header.page_size, config.page_size
            ),
        }),
        _ => Ok(()),
    }
}

struct Started {
    commit_seq: u64,
    db_pages: u32,
    salts_on_file: Salts,
    frames_on_file: u32,
}

/// Writes what is now known to the companion. The caller syncs it.
fn record(
    config: &LogConfig,
    plan: &RecoveryPlan,
    wal: &dyn VfsFile,
    companion: &mut Companion,
) -> Result<Started> {
    let scan = plan.findings.scan.as_ref();
    let kept = scan.filter(|_| plan.keep_log);
    let committed = plan.committed_frames();
    let known = companion.state().generation;
    let commit_seq = last_commit_seq(plan, companion);
    let db_pages = kept
        .filter(|_| committed > 0)
        .map_or(config.db_pages, |scan| scan.db_pages);
    let salts_on_file = scan.and_then(Scan::salts).unwrap_or_default();
    let frames_on_file = scan.map_or(0, |scan| scan.committed_frames);
    let reserved = known.map_or(0, |record| record.reserved_seq);
    let mut generation = Generation {
        salts: Salts::default(),
        // What the file holds so far does not count any more. What another program may yet append to it does.
        previous: salts_on_file,
        previous_frames: frames_on_file,
        kind: config.kind,
        page_size: config.page_size.get(),
        checkpoint_seq: 0,
        largest_batch: LARGEST_BATCH,
        reserved_seq: reserved.max(commit_seq + SEQ_BLOCK),
        base_seq: commit_seq,
    };
    let mut watermark = Watermark {
        commit_seq,
        db_pages,
        ..Watermark::default()
    };
    if let Some((scan, header)) = kept.and_then(|scan| Some((scan, scan.header.ok()?))) {
        let promised = known
            .filter(|record| record.salts == header.salts)
            .map_or(0, |record| record.largest_batch);
        generation.salts = header.salts;
        generation.previous = Salts::default();
        generation.previous_frames = 0;
        generation.checkpoint_seq = header.checkpoint_seq;
        generation.largest_batch = promised.max(LARGEST_BATCH);
        generation.base_seq = commit_seq.saturating_sub(scan.commits.into());
        watermark.salts = header.salts;
        watermark.frame = committed;
        watermark.checksum = scan.checksum;
        watermark.tail = newest_pages(wal, scan, committed)?;
    }
    companion.write_generation(generation)?;
    companion.write_watermark(watermark)?;
    Ok(Started {
        commit_seq,
        db_pages,
        salts_on_file,
        frames_on_file,
    })
}

/// The number of the last commit. Where the log proves it, exactly that; where acknowledged commits may have
/// been given up, the end of the block of numbers that was reserved for them, so that no number comes twice.
fn last_commit_seq(plan: &RecoveryPlan, companion: &Companion) -> u64 {
    let state = companion.state();
    let reserved = state.generation.map_or(0, |record| record.reserved_seq);
    let base = state.generation.map_or(0, |record| record.base_seq);
    let marked = state.watermark.as_ref().map_or(0, |mark| mark.commit_seq);
    let emptied = state
        .generation
        .is_none_or(|record| record.salts == Salts::default());
    let scan = plan.findings.scan.as_ref();
    let commits = |after: u32| -> u64 {
        scan.map_or(0, |scan| {
            let frames = scan
                .slots
                .iter()
                .take(scan.committed_frames as usize)
                .skip(after as usize);
            frames.filter(|slot| slot.header.db_pages != 0).count() as u64
        })
    };
    if matches!(plan.decision, Decision::Salvaged | Decision::Truncated) {
        return reserved.max(marked + commits(0));
    }
    match plan.findings.origin {
        Origin::NoRecord => base.max(marked) + commits(0),
        // Either may be the newer one: the watermark need not have been synced when the reset began, and a
        // record may have rotted.
        // With no log there at all, it may have been used and checkpointed by sqlite3 after a power loss took the
        // watermarks.
        Origin::ResetPending if scan.is_none_or(|scan| scan.bytes == 0) && !emptied => reserved.max(marked),
        Origin::ResetPending => base.max(marked),
        Origin::Known | Origin::GivenUp => {
            let salts = scan.and_then(Scan::salts).unwrap_or_default();
            match state.watermark_of(salts) {
                Some(mark) => mark.commit_seq + commits(mark.frame),
                None => base + commits(0),
            }
        }
        Origin::Replaced(_) => reserved.max(marked + commits(0)),
    }
}

/// The newest pages of the log, for the watermark.
fn newest_pages(wal: &dyn VfsFile, scan: &Scan, committed: u32) -> Result<Vec<(u32, PageDigest)>> {
    let mut newest: Vec<(u32, PageDigest)> = Vec::with_capacity(TAIL_PAGES);
    let mut page = vec![0; scan.page_size.as_usize()];
    for frame in (1..=committed).rev() {
        let Some(slot) = scan.slot(frame) else { break };
        if newest.len() == TAIL_PAGES {
            break;
        }
        if newest.iter().any(|(known, _)| *known == slot.header.page) {
            continue;
        }
        wal.read_exact_at(
            &mut page,
            frame_offset(frame, scan.page_size) + FRAME_HEADER_SIZE as u64,
        )?;
        newest.push((slot.header.page, PageDigest::of(&page)));
    }
    Ok(newest)
}

fn index_of(scan: Option<&Scan>, frames: u32) -> Result<FrameIndex> {
    let index = FrameIndex::new();
    let slots = scan.into_iter().flat_map(|scan| &scan.slots);
    for (frame, slot) in (1..=frames).zip(slots) {
        index.insert(
            FrameNumber(frame),
            PageNumber::new(slot.header.page)?,
            slot.header.checksum.pair(),
        )?;
    }
    Ok(index)
}
