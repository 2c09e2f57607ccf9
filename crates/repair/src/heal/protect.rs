//! Making the sidecar of a log that is there, whoever wrote it.

use super::image::Image;
use crate::codec::Codec;
use crate::sidecar::{GroupHeader, MAX_SOURCES, SidecarIndex, SidecarWriter, wal_sidecar_path};
use walmend_types::{Error, Result, SyncMode};
use walmend_vfs::{OpenFlags, Vfs};
use walmend_wal::{FileSet, HEADER_SIZE, HeaderState, Scan, ScanHints};
use xxhash_rust::xxh3::xxh3_128;

/// What protecting a log did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProtectReport {
    /// Committed frames of the log.
    pub committed_frames: u32,
    /// How many of them were protected already.
    pub already_covered: u32,
    /// How many are protected now that were not.
    pub newly_covered: u32,
    /// Groups that were appended for them.
    pub groups_added: u32,
    /// Bytes of the sidecar.
    pub sidecar_bytes: u64,
    /// Whole commits behind a break in the log: they are damaged, and were left alone.
    pub behind_damage: bool,
}

/// Protects the committed frames of a log: makes or extends its sidecar. Frames that are protected already, by
/// groups of which everything is intact, are left as they are. Damage is never protected: what counts is the
/// unbroken prefix of the log, up to its last commit.
///
/// The log is synced, and otherwise not written. The caller holds the exclusive lock on the database.
///
/// # Errors
/// [`Error::Invalid`] if the header of the log is damaged, [`Error::UnsupportedVersion`] for a log or a sidecar
/// of another version, I/O errors.
pub fn protect_log(vfs: &dyn Vfs, files: &FileSet, codec: &dyn Codec) -> Result<ProtectReport> {
    let log = match vfs.open(&files.wal, OpenFlags::WRITE) {
        Ok(log) => log,
        Err(Error::NotFound { .. }) => return Ok(ProtectReport::default()),
        Err(error) => return Err(error),
    };
    let scan = Scan::read(&*log, ScanHints::default())?;
    let header = match scan.header {
        HeaderState::Absent => return Ok(ProtectReport::default()),
        // A first append that failed within the header leaves this. There is no frame to protect.
        HeaderState::Invalid if log.len()? < HEADER_SIZE as u64 => return Ok(ProtectReport::default()),
        HeaderState::Ok(header) => header,
        HeaderState::UnsupportedVersion(version) => {
            return Err(Error::UnsupportedVersion {
                path: files.wal.clone(),
                version,
            });
        }
        HeaderState::Invalid => {
            return Err(Error::Invalid(format!(
                "the header of {} is damaged: heal or recover the log before it is protected",
                files.wal.display()
            )));
        }
    };
    let path = wal_sidecar_path(&files.db);
    let index = SidecarIndex::read(vfs, &path)?.unwrap_or_default();
    let image = Image::new(&*log, header);
    let committed = scan.committed_frames;
    let covered = covered(&image, &index, committed)?;
    let mut report = ProtectReport {
        committed_frames: committed,
        behind_damage: scan.last_commit_behind().is_some(),
        sidecar_bytes: index.end,
        ..ProtectReport::default()
    };
    report.already_covered = count(&covered, true);
    report.newly_covered = count(&covered, false);
    if report.newly_covered == 0 {
        return Ok(report);
    }
    // What is protected is durable first.
    log.sync(SyncMode::Full)?;
    let mut writer = SidecarWriter::open(vfs, &path, &index)?;
    let speaks_of_this = |group: &crate::sidecar::Group| group.header.salts == header.salts;
    if index.end > 0 && !index.groups.iter().any(speaks_of_this) {
        writer.clear()?;
    }
    let mut first = 1;
    while first <= committed {
        let run = covered[first as usize - 1..]
            .iter()
            .take_while(|covered| !**covered)
            .count();
        if run == 0 {
            first += 1;
            continue;
        }
        // At most MAX_SOURCES.
        let size = run.min(MAX_SOURCES) as u32;
        let mut frames = Vec::with_capacity(size as usize);
        for frame in first..first + size {
            let bytes = image.standing(frame)?;
            frames.push(bytes.ok_or_else(|| vanished(files, frame))?);
        }
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let before = image
            .stored(first - 1)?
            .ok_or_else(|| vanished(files, first - 1))?;
        let group = GroupHeader::describe(&header, first, before, &frames, committed)?;
        writer.append(&group, &group.encode(codec, &frames)?)?;
        report.groups_added += 1;
        first += size;
    }
    writer.sync()?;
    report.sidecar_bytes = writer.size();
    Ok(report)
}

/// Of each of the first `committed` frames, whether a group of which everything is intact has it as it is.
fn covered(image: &Image<'_>, index: &SidecarIndex, committed: u32) -> Result<Vec<bool>> {
    let mut covered = vec![false; committed as usize];
    for group in &index.groups {
        let header = &group.header;
        let whole = group.parity_left() == usize::from(header.parity) && header.last_frame() <= committed;
        if header.log_header() != image.header || !whole {
            continue;
        }
        let mut same = true;
        for (digest, frame) in header.digests.iter().zip(header.first_frame..) {
            same &= image
                .standing(frame)?
                .is_some_and(|bytes| xxh3_128(&bytes) == *digest);
        }
        if same {
            covered[header.first_frame as usize - 1..header.last_frame() as usize].fill(true);
        }
    }
    Ok(covered)
}

fn count(covered: &[bool], wanted: bool) -> u32 {
    let count = covered.iter().filter(|covered| **covered == wanted).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn vanished(files: &FileSet, frame: u32) -> Error {
    Error::Invalid(format!(
        "{} lost frame {frame} while it was read",
        files.wal.display()
    ))
}
