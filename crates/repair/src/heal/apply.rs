//! Healing a log: the only step that writes to it.

use super::plan::HealPlan;
use crate::codec::Codec;
use crate::sidecar::{SidecarIndex, wal_sidecar_path};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use walmend_types::{Error, PageSize, Result, SyncMode};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::{FileSet, WalHeader, frame_offset, keep_aside};

/// What healing did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealReport {
    /// The frames that are whole again, ascending; 0 stands for the header of the log.
    pub frames_healed: Vec<u32>,
    /// Damaged frames that the sidecar knows and could not rebuild, ascending; 0 stands for the header.
    pub unhealable_frames: Vec<u32>,
    /// Frames of groups that belong to another history of this log. Nothing was changed there.
    pub other_history: Vec<RangeInclusive<u32>>,
    /// Where the log is kept as it was before; `None` if nothing was written.
    pub kept_aside: Option<PathBuf>,
    /// Whether there is a sidecar at all.
    pub protected: bool,
}

/// Heals the log of a database from its sidecar. Where nothing is damaged, or nothing can be healed, nothing
/// is written. Interrupted anywhere, it can be started again.
///
/// The caller holds the exclusive lock on the database.
///
/// # Errors
/// I/O errors; also if the device does not hold what was written. Damage that cannot be healed is no error,
/// but in the report.
pub fn heal_log(vfs: &dyn Vfs, files: &FileSet, codec: &dyn Codec) -> Result<HealReport> {
    let healed = heal_and_examine(vfs, files, codec)?;
    healed.unreadable.map_or(Ok(healed.report), Err)
}

/// What healing did, and what there is to know of a sidecar afterwards.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Healed {
    /// What was done.
    pub report: HealReport,
    /// What is in the sidecar; empty if there is none.
    pub index: SidecarIndex,
    /// How log and sidecar agree now. There is nothing in it that could still be healed.
    pub plan: HealPlan,
    /// Why the sidecar could not be read, if it could not: then it counts as none.
    pub unreadable: Option<Error>,
}

/// Like [`heal_log`]; answers also what the sidecar covers. A sidecar that cannot be read at all is no error.
///
/// # Errors
/// As there.
pub fn heal_and_examine(vfs: &dyn Vfs, files: &FileSet, codec: &dyn Codec) -> Result<Healed> {
    let open = |path: &Path, flags| match vfs.open(path, flags) {
        Ok(file) => Ok(Some(file)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let path = wal_sidecar_path(&files.db);
    let read = || match open(path.as_path(), OpenFlags::READ)? {
        Some(sidecar) => Ok(Some((SidecarIndex::scan(&*sidecar)?, sidecar))),
        None => Ok(None),
    };
    let (index, sidecar) = match read() {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Healed::default()),
        Err(error) => {
            return Ok(Healed {
                unreadable: Some(error),
                ..Healed::default()
            });
        }
    };
    let mut report = HealReport {
        protected: true,
        ..HealReport::default()
    };
    let healed = |report, index, plan| Healed {
        report,
        index,
        plan,
        unreadable: None,
    };
    let Some(log) = open(&files.wal, OpenFlags::WRITE)? else {
        return Ok(healed(report, index, HealPlan::default()));
    };
    let mut plan = HealPlan::make(&*log, &*sidecar, &index, codec)?;
    let page_size = index.groups.first().map(|group| group.header.page_size);
    let page_size = match read_header(&*log)?.or(plan.header) {
        Some(header) => header.page_size,
        None => page_size.unwrap_or_default(),
    };
    let header = plan.header.iter().map(|_| 0);
    report.frames_healed = header.chain(plan.rebuilt.keys().copied()).collect();
    report.unhealable_frames = plan.unhealable.clone();
    report.other_history = plan.other_history.clone();
    if !plan.is_empty() {
        report.kept_aside = keep_aside(vfs, &*log, &files.wal)?;
        write(&*log, &plan, page_size)?;
        // What is there now must be what would be there.
        let again = HealPlan::make(&*log, &*sidecar, &index, codec)?;
        if !again.is_empty() || again.unhealable != plan.unhealable {
            return Err(lost(&*log, 0));
        }
        tracing::warn!(
            target: "walmend::repair::heal",
            log = %files.wal.display(),
            healed = report.frames_healed.len(),
            unhealable = report.unhealable_frames.len(),
            "log healed"
        );
        plan = again;
    }
    Ok(healed(report, index, plan))
}

/// Writes what was rebuilt, syncs it, and reads it back from the device.
fn write(log: &dyn VfsFile, plan: &HealPlan, page_size: PageSize) -> Result<()> {
    let header = plan.header.map(|header| (0, header.encode().to_vec()));
    let frames = plan.rebuilt.iter();
    let frames = frames.map(|(frame, bytes)| (frame_offset(*frame, page_size), bytes.clone()));
    let pieces: Vec<(u64, Vec<u8>)> = header.into_iter().chain(frames).collect();
    for (offset, bytes) in &pieces {
        log.write_at(bytes, *offset)?;
    }
    log.sync(SyncMode::Full)?;
    for (offset, bytes) in &pieces {
        let mut found = vec![0; bytes.len()];
        let read = log.read_from_device(&mut found, *offset)?;
        if read.bytes < found.len() || found != *bytes {
            return Err(lost(log, *offset));
        }
    }
    Ok(())
}

fn read_header(log: &dyn VfsFile) -> Result<Option<WalHeader>> {
    let mut bytes = [0; walmend_wal::HEADER_SIZE];
    let read = log.read_at(&mut bytes, 0)?;
    Ok(WalHeader::decode(&bytes).ok().filter(|_| read == bytes.len()))
}

fn lost(log: &dyn VfsFile, offset: u64) -> Error {
    let lost = std::io::Error::other("what was rebuilt was written and synced, but something else is there");
    Error::io("verify", log.path(), Some(offset), lost)
}
