//! What can be saved from behind damage: a database of its own, with every page that can still be read.
//!
//! Recovery keeps what precedes the damage, because only that is certain to be a state that the database once had.
//! The frames behind it are not worthless: each that is valid when tried against the *stored* checksum of the one before
//! it holds a page as it was committed. So a copy of the database is made, and the newest readable version of each page
//! put into it. It lacks exactly the pages whose newest version was in a damaged frame: those are as old as the version
//! that can be read. The copy is for reading out what is missing elsewhere, not to go on with.

use super::apply::{Place, free_name};
use crate::companion::PageKind;
use crate::files::FileSet;
use crate::format::{FRAME_HEADER_SIZE, frame_offset};
use crate::scan::{Fault, Scan};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use walmend_types::{PageNumber, Result, SyncMode};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};

const CHUNK: u64 = 1 << 20;

/// Where an SQLite database keeps its size in pages, in its first page (file format description, 1.3).
const SIZE_FIELD: u64 = 28;

/// A copy of the database with what could be read behind the damage.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SalvagedCopy {
    /// The copy: `<db>-salvaged-<seconds since 1970>-<n>`.
    pub path: PathBuf,
    /// Its size, in pages.
    pub db_pages: u32,
    /// Pages in it that come from behind the damage.
    pub pages_from_behind: u32,
    /// Pages in it, ascending, that are older than the rest: their newest version was in a damaged frame, as far as
    /// those still say which page they held.
    pub stale_pages: Vec<u32>,
    /// Damaged frames that do not even say which page they held.
    pub unknown_frames: u32,
}

/// The newest readable frame of each page, up to the last commit behind the damage.
struct Pages {
    db_pages: u32,
    newest: BTreeMap<u32, u32>,
    stale: BTreeSet<u32>,
    unknown_frames: u32,
}

impl Pages {
    /// `None` where no whole commit lies behind damage.
    fn of(scan: &Scan) -> Option<Self> {
        let last = scan.last_commit_behind()?;
        let db_pages = scan.slot(last)?.header.db_pages;
        let mut pages = Self {
            db_pages,
            newest: BTreeMap::new(),
            stale: BTreeSet::new(),
            unknown_frames: 0,
        };
        for frame in 1..=last {
            let page = scan.slot(frame)?.header.page;
            let readable = matches!(scan.fault(frame), None | Some(Fault::StoredChecksum));
            if readable {
                pages.newest.insert(page, frame);
                pages.stale.remove(&page);
            } else if (1..=db_pages).contains(&page) {
                pages.stale.insert(page);
            } else {
                pages.unknown_frames += 1;
            }
        }
        // What a later commit cut off is not missed.
        pages.newest.retain(|page, _| *page <= db_pages);
        Some(pages)
    }
}

/// Makes the copy, durably, and gives it its name only when it is whole. `None` where no whole commit lies behind the
/// damage. Neither database nor log is changed. The frames of `scan` are as large as the pages of the database.
pub(super) fn salvage(
    vfs: &dyn Vfs,
    files: &FileSet,
    wal: &dyn VfsFile,
    db: &Place<'_>,
    scan: &Scan,
) -> Result<Option<SalvagedCopy>> {
    let Some(pages) = Pages::of(scan) else {
        return Ok(None);
    };
    let path = free_name(vfs, &files.db, "salvaged")?;
    let partial = free_name(vfs, &files.db, "partial")?;
    let written = write(vfs, &partial, wal, db, &pages).and_then(|()| vfs.rename_new(&partial, &path));
    if let Err(error) = written {
        if let Err(left) = vfs.remove(&partial) {
            tracing::warn!(target: "walmend::wal::recovery", %left, "a part of a salvaged copy stays");
        }
        return Err(error);
    }
    let salvaged = SalvagedCopy {
        path,
        db_pages: pages.db_pages,
        pages_from_behind: count(pages.newest.values().filter(|frame| **frame > scan.valid_frames)),
        stale_pages: pages.stale.into_iter().collect(),
        unknown_frames: pages.unknown_frames,
    };
    tracing::warn!(target: "walmend::wal::recovery", ?salvaged, "what can be read behind the damage is saved beside the database");
    Ok(Some(salvaged))
}

fn write(vfs: &dyn Vfs, path: &Path, wal: &dyn VfsFile, db: &Place<'_>, pages: &Pages) -> Result<()> {
    let size = db.page_size;
    let copy = vfs.open(path, OpenFlags::CREATE_NEW)?;
    let len = u64::from(pages.db_pages) * u64::from(size.get());
    let common = db.file.len()?.min(len);
    let mut buffer = vec![0; usize::try_from(CHUNK.max(size.get().into())).unwrap_or(usize::MAX)];
    let mut offset = 0;
    while offset < common {
        let part = usize::try_from(CHUNK.min(common - offset)).unwrap_or(usize::MAX);
        db.file.read_exact_at(&mut buffer[..part], offset)?;
        copy.write_at(&buffer[..part], offset)?;
        offset += part as u64;
    }
    copy.truncate(len)?;
    let page_bytes = &mut buffer[..size.as_usize()];
    for (page, frame) in &pages.newest {
        wal.read_exact_at(page_bytes, frame_offset(*frame, size) + FRAME_HEADER_SIZE as u64)?;
        copy.write_at(page_bytes, PageNumber::new(*page)?.offset(size))?;
    }
    if db.kind == PageKind::Sqlite {
        // Were its own page 1 lost, the one before it could name a smaller size, and SQLite not look at the rest.
        copy.write_at(&pages.db_pages.to_be_bytes(), SIZE_FIELD)?;
    }
    copy.sync(SyncMode::Full)
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
