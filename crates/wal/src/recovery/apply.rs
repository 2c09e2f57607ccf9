//! Applying a plan: the only step of recovery that writes.
//!
//! The cache is never trusted. A frame may be visible and yet not be on the disk: its writer was killed
//! before the sync, or the sync failed and left the pages marked clean. So every frame that is not proven
//! durable by the watermark is written again, synced, and read back from the device. And behind the cut
//! the header of every slot of this generation is zeroed: otherwise a later append that happens to repeat
//! the first dropped frame would chain the rest of them back in. That goes for slots that only *look* empty
//! too: their zeros may be in the cache alone, and the frames still on the disk.

use super::decide::Decision;
use super::plan::{RecoveryPlan, RecoveryReport};
use super::salvage::salvage;
use crate::companion::PageKind;
use crate::files::{FileSet, SIDECAR_SUFFIX, with_suffix};
use crate::format::{FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, WalHeader, frame_offset};
use crate::scan::Scan;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use walmend_types::{Error, PageSize, Result, SyncMode};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};

const CHUNK: u64 = 1 << 20;

/// Where the pages go that the log has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) file: &'a dyn VfsFile,
    pub(crate) page_size: PageSize,
    pub(crate) kind: PageKind,
}

/// A plan that was applied.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) report: RecoveryReport,
    /// The device holds something else than what was written and synced: nothing of it may be published.
    pub(crate) lost: Option<Error>,
}

/// Brings the log to the state that the plan says. The companion is the caller's business, afterwards.
pub(crate) fn apply(vfs: &dyn Vfs, wal: &dyn VfsFile, db: Place<'_>, plan: &RecoveryPlan) -> Result<Applied> {
    plan.admit()?;
    let files = &plan.findings.files;
    let mut report = plan.report();
    tracing::info!(
        target: "walmend::wal::recovery",
        log = %files.wal.display(),
        verdict = ?plan.verdict,
        decision = plan.decision.as_str(),
        committed_frames = report.committed_frames,
        dropped_frames = report.dropped_frames,
        lost_commits = report.lost_commits,
        "recovery plan"
    );
    if plan.decision == Decision::Salvaged {
        report.kept_aside = keep_aside(vfs, wal, &files.wal)?;
        let scan = plan.findings.scan.as_ref();
        if let Some(scan) = scan.filter(|scan| scan.page_size == db.page_size) {
            report.salvaged = salvage(vfs, files, wal, &db, scan)?;
        }
    }
    if matches!(plan.decision, Decision::Salvaged | Decision::Truncated) {
        set_sidecar_aside(vfs, files)?;
        if !plan.keep_log {
            drop_stale_header(wal)?;
        }
    }
    let kept = plan.findings.scan.as_ref().filter(|_| plan.keep_log);
    let lost = match kept {
        Some(scan) => {
            let proven = if plan.findings.other_history {
                0
            } else {
                plan.findings.durable_frame
            };
            let lost = settle(wal, scan, proven, plan.findings.crash_reach())?;
            lost.map(|frame| lost_write(wal, frame, scan))
        }
        None => None,
    };
    Ok(Applied { report, lost })
}

/// A log was given up under a header that does not count. If it is one that was sound once, the next opening could
/// take it for that of a log.
fn drop_stale_header(wal: &dyn VfsFile) -> Result<()> {
    let mut header = [0; HEADER_SIZE];
    if wal.read_at(&mut header, 0)? < header.len() || WalHeader::decode(&header).is_err() {
        return Ok(());
    }
    wal.write_at(&[0; HEADER_SIZE], 0)?;
    wal.sync(SyncMode::Full)
}

/// Copies a damaged log to a file of its own beside it, `<path>-damaged-<seconds since 1970>-<n>`, durably.
/// `None` if the log is empty. `path` is the log's.
///
/// # Errors
/// I/O errors.
pub fn keep_aside(vfs: &dyn Vfs, wal: &dyn VfsFile, path: &Path) -> Result<Option<PathBuf>> {
    let len = wal.len()?;
    if len == 0 {
        return Ok(None);
    }
    let aside = aside_name(vfs, path)?;
    let copy = vfs.open(&aside, OpenFlags::CREATE_NEW)?;
    for_chunks(0, len, |offset, chunk| {
        wal.read_exact_at(chunk, offset)?;
        copy.write_at(chunk, offset)
    })?;
    copy.sync(SyncMode::Full)?;
    tracing::warn!(target: "walmend::wal::recovery", kept = %aside.display(), "damaged log kept aside");
    Ok(Some(aside))
}

/// Takes the log's sidecar out of the way, durably, by its name: whether or not this build can read it, one that is
/// built with repair must not bring back what is about to be cut off.
fn set_sidecar_aside(vfs: &dyn Vfs, files: &FileSet) -> Result<()> {
    let path = with_suffix(&files.db, SIDECAR_SUFFIX);
    if vfs.info(&path)?.is_none() {
        return Ok(());
    }
    let aside = aside_name(vfs, &path)?;
    vfs.rename(&path, &aside)?;
    tracing::warn!(
        target: "walmend::wal::recovery",
        kept = %aside.display(),
        "the sidecar is kept aside: it speaks of frames that are about to be cut off"
    );
    Ok(())
}

/// A name beside `path` that nothing has yet: `<path>-damaged-<seconds since 1970>-<n>`.
///
/// # Errors
/// [`Error::Invalid`] if there are too many of them, I/O errors.
pub fn aside_name(vfs: &dyn Vfs, path: &Path) -> Result<PathBuf> {
    free_name(vfs, path, "damaged")
}

/// As [`aside_name`], with another word.
pub(super) fn free_name(vfs: &dyn Vfs, path: &Path, word: &str) -> Result<PathBuf> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    for attempt in 0..100 {
        let aside = with_suffix(path, &format!("-{word}-{seconds}-{attempt}"));
        if vfs.info(&aside)?.is_none() {
            return Ok(aside);
        }
    }
    Err(Error::Invalid(format!(
        "too many {word} files are kept beside {}",
        path.display()
    )))
}

/// Answers the first frame (0 for the header) that the device does not hold as it was written.
fn settle(wal: &dyn VfsFile, scan: &Scan, proven: u32, reach: u32) -> Result<Option<u32>> {
    let end = frame_offset(scan.committed_frames + 1, scan.page_size);
    // Where nothing is proven, neither is the header.
    let start = if proven == 0 {
        0
    } else {
        frame_offset(proven + 1, scan.page_size)
    };
    for_chunks(start, end, |offset, chunk| {
        wal.read_exact_at(chunk, offset)?;
        wal.write_at(chunk, offset)
    })?;
    let zeroed = leftovers(wal, scan, reach)?;
    for &frame in &zeroed {
        wal.write_at(&[0; FRAME_HEADER_SIZE], frame_offset(frame, scan.page_size))?;
    }
    // A last, partial frame: whatever a later append leaves of it must not look like a frame either.
    let tail_start = frame_offset(
        u32::try_from(scan.slots.len()).unwrap_or(u32::MAX) + 1,
        scan.page_size,
    );
    if scan.bytes > tail_start {
        let len = usize::try_from(scan.bytes - tail_start)
            .unwrap_or(usize::MAX)
            .min(FRAME_HEADER_SIZE);
        wal.write_at(&[0; FRAME_HEADER_SIZE][..len], tail_start)?;
    }
    wal.sync(SyncMode::Full)?;
    if let Some(lost) = verify_prefix(wal, scan, proven, end)? {
        return Ok(Some(lost));
    }
    let mut header = [0; FRAME_HEADER_SIZE];
    for frame in zeroed {
        let read = wal.read_from_device(&mut header, frame_offset(frame, scan.page_size))?;
        if read.bytes < header.len() || header != [0; FRAME_HEADER_SIZE] {
            return Ok(Some(frame));
        }
    }
    Ok(None)
}

/// The slots behind the cut that hold a frame of this generation, in the cache or on the device. `reach` is
/// the last frame that can have been written without having been acknowledged or seen.
fn leftovers(wal: &dyn VfsFile, scan: &Scan, reach: u32) -> Result<Vec<u32>> {
    let salts = scan_salts(scan);
    let slots = u32::try_from(scan.slots.len()).unwrap_or(u32::MAX);
    let size = crate::format::frame_size(scan.page_size);
    let per_read = u32::try_from((CHUNK / size).max(1)).unwrap_or(u32::MAX);
    let mut found = Vec::new();
    let mut next = scan.committed_frames + 1;
    let mut buffer = Vec::new();
    while next <= slots {
        let frames = per_read.min(slots - next + 1);
        if next <= reach {
            buffer.resize(usize::try_from(u64::from(frames) * size).unwrap_or(usize::MAX), 0);
            let read = wal.read_from_device(&mut buffer, frame_offset(next, scan.page_size))?;
            buffer.truncate(read.bytes);
        } else {
            buffer.clear();
        }
        let on_device = buffer
            .chunks(usize::try_from(size).unwrap_or(usize::MAX))
            .map(|bytes| {
                let header = bytes.first_chunk::<FRAME_HEADER_SIZE>();
                header.is_some_and(|header| FrameHeader::decode(header).salts == salts)
            });
        let on_device = on_device.chain(std::iter::repeat(false));
        found.extend(
            (next..next + frames)
                .zip(on_device)
                .filter_map(|(frame, on_device)| {
                    let cached = scan.slot(frame).is_some_and(|slot| slot.header.salts == salts);
                    (cached || on_device).then_some(frame)
                }),
        );
        next += frames;
    }
    Ok(found)
}

/// Reads back what was rewritten, from the device, and checks it against the scan; answers the first frame that
/// differs.
fn verify_prefix(wal: &dyn VfsFile, scan: &Scan, proven: u32, end: u64) -> Result<Option<u32>> {
    let Some(header) = scan.header.ok() else {
        return Ok(None);
    };
    if proven == 0 {
        let mut bytes = [0; HEADER_SIZE];
        let read = wal.read_from_device(&mut bytes, 0)?;
        if read.bytes < bytes.len() || bytes != header.encode() {
            return Ok(Some(0));
        }
    }
    let mut chain = match proven {
        0 => header.checksum(),
        frame => scan
            .slot(frame)
            .map_or_else(Default::default, |slot| slot.header.checksum),
    };
    let size = crate::format::frame_size(scan.page_size);
    let per_read = (CHUNK / size).max(1) * size;
    let mut buffer = vec![0; usize::try_from(per_read).unwrap_or(usize::MAX)];
    let mut offset = frame_offset(proven + 1, scan.page_size);
    let mut frame = proven;
    while offset < end {
        let len = usize::try_from(per_read.min(end - offset)).unwrap_or(usize::MAX);
        let read = wal.read_from_device(&mut buffer[..len], offset)?;
        for bytes in buffer[..len].chunks(usize::try_from(size).unwrap_or(usize::MAX)) {
            frame += 1;
            let stored = scan.slot(frame).map(|slot| slot.header).unwrap_or_default();
            chain = chain
                .extend(header.byte_order, &bytes[..8])
                .extend(header.byte_order, &bytes[FRAME_HEADER_SIZE..]);
            if read.bytes < len || bytes[..FRAME_HEADER_SIZE] != stored.encode() || chain != stored.checksum {
                return Ok(Some(frame));
            }
        }
        offset += len as u64;
    }
    Ok(None)
}

fn lost_write(wal: &dyn VfsFile, frame: u32, scan: &Scan) -> Error {
    let offset = frame_offset(frame, scan.page_size);
    let lost = std::io::Error::other(format!(
        "frame {frame} was written and synced, but the device holds something else: see to the device"
    ));
    Error::io("verify", wal.path(), Some(offset), lost)
}

fn scan_salts(scan: &Scan) -> walmend_types::Salts {
    scan.header
        .ok()
        .map_or_else(Default::default, |header| header.salts)
}

fn for_chunks(start: u64, end: u64, mut step: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; usize::try_from(CHUNK.min(end.saturating_sub(start))).unwrap_or(usize::MAX)];
    let mut offset = start;
    while offset < end {
        let len = usize::try_from(CHUNK.min(end - offset)).unwrap_or(usize::MAX);
        step(offset, &mut buffer[..len])?;
        offset += len as u64;
    }
    Ok(())
}
