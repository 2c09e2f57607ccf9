//! The backup of a database that this process need not have open.
//!
//! The database file is copied first, while checkpoints may be writing to it; the log is read *afterwards*, and
//! the newest committed frame of each page goes over the copy. Whatever a checkpoint wrote meanwhile came from
//! that log, so every page that can be torn or too new in the copy is replaced. (Fuzzy copy and redo, as in
//! Mohan et al., "ARIES", 1992, section 8.) One thing would break this: a log that begins anew in between.
//! Where it can be, that is kept from happening; where not, it is noticed, and the copy begins again.

use super::target::{CHUNK, Target};
use super::{BackupReport, BackupSource, Progress};
use crate::descriptors::Opened;
use crate::identify::{Identity, identify_file};
use crate::options::Pages;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use walmend_sync::thread;
use walmend_types::{Error, PageSize, Result, Salts};
use walmend_vfs::{FileInfo, LockKind, LockRange, OpenFlags, Vfs, VfsFile};
use walmend_wal::{
    Checksum, CompanionState, FRAME_HEADER_SIZE, FileSet, Findings, FrameHeader, HEADER_SIZE, OnDamage,
    RecoveryPlan, Scan, exclusive_holder, frame_offset, lock_exclusive, store_is_live, unlock_exclusive,
    with_suffix,
};

/// A copy is begun at most so often.
const ATTEMPTS: u32 = 8;

/// How long to wait for a lock that SQLite holds for moments only: so often, so long.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The last of the five reader slots in a `-shm` file. While somebody shares its lock, no SQLite connection
/// begins the log anew (wal-index format, "locks": WAL_READ_LOCK(4) is byte 127).
const LAST_READER: LockRange = LockRange { start: 127, len: 1 };

pub(super) fn backup(
    vfs: &dyn Vfs,
    path: &Path,
    target: &Path,
    progress: Progress<'_>,
) -> Result<BackupReport> {
    let db = match Opened::open(vfs, path, OpenFlags::WRITE) {
        Err(Error::ReadOnly { .. }) => Opened::open(vfs, path, OpenFlags::READ)?,
        opened => opened?,
    };
    let files = FileSet::resolve(vfs, path)?;
    let report = Held::take(vfs, &files, &db).and_then(|held| {
        let report = copy(vfs, &files, &held, target, progress);
        held.release().and(report)
    });
    db.close().and(report)
}

/// What keeps the files as they have to be while they are copied.
struct Held<'a> {
    db: &'a dyn VfsFile,
    by: BackupSource,
    /// Locked to keep SQLite from beginning the log anew.
    shm: Option<Arc<dyn VfsFile>>,
}

impl<'a> Held<'a> {
    fn take(vfs: &dyn Vfs, files: &FileSet, opened: &'a Opened) -> Result<Self> {
        let db = &*opened.file;
        let held = |by, shm| Ok(Self { db, by, shm });
        // Only where nobody is seen: an attempt that fails would still keep SQLite out for a moment.
        if opened.is_writable() && exclusive_holder(vfs, files, db)?.is_none() {
            match lock_exclusive(vfs, files, db) {
                Ok(()) => return held(BackupSource::Closed, None),
                Err(Error::Locked { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for _ in 0..LOCK_TRIES {
            // Whoever waits for the readers to leave holds PENDING: do not get in before it.
            let pending = db.lock_holder(LockRange::PENDING, LockKind::Shared)?;
            if pending.is_none() && db.try_lock(LockRange::SHARED, LockKind::Shared)? {
                return held(BackupSource::Shared, lock_shm(vfs, files)?);
            }
            if store_is_live(db)? {
                return held(BackupSource::LiveStore, None);
            }
            thread::sleep(LOCK_PAUSE);
        }
        Err(locked(vfs, files, db)?)
    }

    fn release(self) -> Result<()> {
        let shm = self.shm.as_ref().map_or(Ok(()), |shm| shm.unlock(LAST_READER));
        unlock_exclusive(self.db).and(shm)
    }
}

/// Keeps SQLite from beginning the log anew, if anybody uses it that way at all.
fn lock_shm(vfs: &dyn Vfs, files: &FileSet) -> Result<Option<Arc<dyn VfsFile>>> {
    let path = with_suffix(&files.db, "-shm");
    let shm = match vfs.open(&path, OpenFlags::READ) {
        Ok(shm) => shm,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    for _ in 0..LOCK_TRIES {
        if shm.try_lock(LAST_READER, LockKind::Shared)? {
            return Ok(Some(shm));
        }
        thread::sleep(LOCK_PAUSE);
    }
    Err(Error::Locked {
        path: files.db.clone(),
        holder: "an SQLite connection that recovers or begins the log anew".into(),
    })
}

fn locked(vfs: &dyn Vfs, files: &FileSet, db: &dyn VfsFile) -> Result<Error> {
    let holder = exclusive_holder(vfs, files, db)?;
    Ok(Error::Locked {
        path: files.db.clone(),
        holder: holder.unwrap_or_else(|| "somebody who comes and goes".into()),
    })
}

fn copy(
    vfs: &dyn Vfs,
    files: &FileSet,
    held: &Held<'_>,
    target: &Path,
    progress: Progress<'_>,
) -> Result<BackupReport> {
    let identity = identify_file(vfs, &files.db, held.db, None)?;
    let mut target = Target::create(vfs, target, &files.db)?;
    for attempt in 1..=ATTEMPTS {
        let before = Generation::of(vfs, files)?;
        copy_database(held.db, &mut target, progress)?;
        let laid_over = lay_log_over(vfs, files, held, &identity, &mut target);
        let moved_on = held.by != BackupSource::Closed && Generation::of(vfs, files)? != before;
        match laid_over {
            _ if moved_on => {}
            // A live log can look damaged where a frame was read before its writer came to it.
            Err(Error::WalCorrupt { .. } | Error::WalAmbiguous { .. })
                if held.by != BackupSource::Closed && attempt < ATTEMPTS => {}
            Err(error) => return Err(error),
            Ok(laid_over) => {
                if identity.pages == Pages::Raw {
                    target.describe_raw(identity.page_size, laid_over.last_commit)?;
                }
                let (bytes, verified_from) = target.publish(progress)?;
                return Ok(BackupReport {
                    source: held.by,
                    pages: identity.pages,
                    page_size: identity.page_size,
                    db_pages: laid_over.db_pages,
                    bytes,
                    log_frames: laid_over.frames,
                    verified_from,
                    attempts: attempt,
                });
            }
        }
        target.clear()?;
    }
    Err(Error::Locked {
        path: files.db.clone(),
        holder: format!(
            "checkpoints that began the log anew during each of {ATTEMPTS} attempts to copy it; back up from within \
             that program, with Store::backup, or when it is less busy"
        ),
    })
}

/// By what one tells whether a log was begun anew.
#[derive(PartialEq)]
struct Generation {
    header: Vec<u8>,
    salts: Option<(Salts, Salts)>,
    /// With no log there is nothing in it to go by: one may have come, and gone into the database.
    without_log: Option<FileInfo>,
}

impl Generation {
    fn of(vfs: &dyn Vfs, files: &FileSet) -> Result<Self> {
        let mut header = vec![0; HEADER_SIZE];
        let read = match vfs.open(&files.wal, OpenFlags::READ) {
            Ok(log) => log.read_at(&mut header, 0)?,
            Err(Error::NotFound { .. }) => 0,
            Err(error) => return Err(error),
        };
        header.truncate(read);
        let meta = CompanionState::read(vfs, &files.meta)?.and_then(|meta| meta.generation);
        Ok(Self {
            without_log: if header.is_empty() {
                vfs.info(&files.db)?
            } else {
                None
            },
            header,
            salts: meta.map(|generation| (generation.salts, generation.previous)),
        })
    }
}

fn copy_database(db: &dyn VfsFile, target: &mut Target<'_>, progress: Progress<'_>) -> Result<()> {
    let len = db.len()?;
    let mut chunk = vec![0; CHUNK];
    while target.len() < len {
        let wanted = usize::try_from((len - target.len()).min(CHUNK as u64)).unwrap_or(CHUNK);
        // A checkpoint may cut the file off meanwhile: what is missing then is not part of the database.
        let read = db.read_at(&mut chunk[..wanted], target.len())?;
        chunk[read..wanted].fill(0);
        target.append(&chunk[..wanted])?;
        progress(target.len(), len * 2);
    }
    Ok(())
}

struct LaidOver {
    frames: u32,
    db_pages: u32,
    last_commit: u64,
}

/// Brings the committed frames of the log into the copy, each verified.
fn lay_log_over(
    vfs: &dyn Vfs,
    files: &FileSet,
    held: &Held<'_>,
    identity: &Identity,
    target: &mut Target<'_>,
) -> Result<LaidOver> {
    let live = held.by == BackupSource::LiveStore;
    let findings = Findings::gather(vfs, files, held.db, identity.page_size, false, live)?;
    let meta = findings.meta.clone().unwrap_or_default();
    let plan = RecoveryPlan::make(findings, OnDamage::Refuse)?;
    plan.admit()?;
    let frames = plan.committed_frames();
    let mut laid_over = LaidOver {
        frames: 0,
        db_pages: identity.db_pages,
        last_commit: meta.generation.map_or(0, |generation| generation.reserved_seq),
    };
    let Some(scan) = plan
        .findings
        .scan
        .as_ref()
        .filter(|_| plan.keep_log && frames > 0)
    else {
        // A live program may have changed the size since the file was looked at.
        if identity.db_pages > 0 {
            let on_file = target.len().div_ceil(identity.page_size.get().into());
            laid_over.db_pages = u32::try_from(on_file).unwrap_or(u32::MAX);
        }
        return Ok(laid_over);
    };
    if scan.page_size != identity.page_size {
        return Err(Error::NotADatabase {
            path: files.wal.clone(),
            detail: format!(
                "the log has pages of {} bytes, the database pages of {}",
                scan.page_size, identity.page_size
            ),
        });
    }
    laid_over.frames = frames;
    laid_over.db_pages = scan.db_pages;
    target.resize(u64::from(scan.db_pages) * u64::from(scan.page_size.get()))?;
    let log = vfs.open(&files.wal, OpenFlags::READ)?;
    let newest: BTreeMap<u32, u32> = (1..=frames)
        .zip(&scan.slots)
        .map(|(frame, slot)| (slot.header.page, frame))
        .filter(|(page, _)| *page <= scan.db_pages)
        .collect();
    let pages_of = |page: u32| u64::from(page - 1) * u64::from(scan.page_size.get()) / CHUNK as u64;
    let mut newest = newest.into_iter().peekable();
    while let Some((page, frame)) = newest.next() {
        let chunk = pages_of(page);
        let mut pages = vec![(place(page, scan.page_size), read_frame(&*log, scan, frame)?)];
        while let Some((page, frame)) = newest.next_if(|(page, _)| pages_of(*page) == chunk) {
            pages.push((place(page, scan.page_size), read_frame(&*log, scan, frame)?));
        }
        target.patch(chunk, pages.iter().map(|(at, page)| (*at, page.as_slice())))?;
    }
    Ok(laid_over)
}

/// Where a page starts in its chunk.
fn place(page: u32, page_size: PageSize) -> usize {
    let offset = u64::from(page - 1) * u64::from(page_size.get());
    usize::try_from(offset % CHUNK as u64).unwrap_or(0)
}

/// The page of a frame, which must still be what the scan saw.
fn read_frame(log: &dyn VfsFile, scan: &Scan, frame: u32) -> Result<Vec<u8>> {
    let offset = frame_offset(frame, scan.page_size);
    let mut head = [0; FRAME_HEADER_SIZE];
    let mut page = vec![0; scan.page_size.as_usize()];
    let mut read = log.read_at(&mut head, offset)?;
    read += log.read_at(&mut page, offset + FRAME_HEADER_SIZE as u64)?;
    let before = match frame {
        1 => scan.header.ok().map(|header| header.checksum()),
        _ => scan.slot(frame - 1).map(|slot| slot.header.checksum),
    };
    let computed: Option<Checksum> = before.map(|before| {
        before
            .extend(scan.byte_order, &head[..8])
            .extend(scan.byte_order, &page)
    });
    let known = scan.slot(frame).map(|slot| slot.header);
    let intact = read == head.len() + page.len()
        && Some(FrameHeader::decode(&head)) == known
        && computed == known.map(|known| known.checksum);
    if intact {
        return Ok(page);
    }
    Err(Error::WalCorrupt {
        path: log.path().to_path_buf(),
        frame,
        offset,
        lost_commits: 0,
        detail: "it changed between being judged and being copied".into(),
    })
}
