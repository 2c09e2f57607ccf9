//! The image that the drill's database has to end up as: pages of its own, or a copy of a real database.

use super::content::{FINAL, fill};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use walmend::{Pages, identify};
use walmend_error::{Error, Result};
use walmend_types::{PageNumber, PageSize, SyncMode};
use walmend_vfs::{LockKind, LockRange, OpenFlags, UnixVfs, Vfs, VfsFile};
use walmend_wal::{
    FRAME_HEADER_SIZE, FileSet, Findings, OnDamage, RecoveryPlan, frame_offset, store_is_live, with_suffix,
};

/// Pages of a database that the drill makes for itself.
const OWN_PAGES: u32 = 2000;

/// How often a copy is tried of a source that changes meanwhile.
const TRIES: u32 = 5;

/// SQLite's checkpoint lock, and its locks of the read marks 1 to 4, in the `-shm` file.
const SHM_LOCKS: [LockRange; 2] = [LockRange { start: 121, len: 1 }, LockRange { start: 124, len: 4 }];

/// What the image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) pages: Pages,
    pub(super) page_size: PageSize,
    pub(super) db_pages: u32,
}

/// Makes an image of pseudo-random pages.
pub(super) fn make(image: &Path, seed: u64) -> Result<Source> {
    let source = Source {
        pages: Pages::Raw,
        page_size: PageSize::DEFAULT,
        db_pages: OWN_PAGES,
    };
    let file = UnixVfs::new().open(image, OpenFlags::CREATE_NEW)?;
    let mut bytes = vec![0; source.page_size.as_usize()];
    for page in 1..=source.db_pages {
        fill(seed, page, FINAL, &mut bytes);
        file.write_at(&bytes, PageNumber::new(page)?.offset(source.page_size))?;
    }
    file.sync(SyncMode::Full)?;
    Ok(source)
}

/// Copies the database at `path` as of its last commit, log included. It is only read.
///
/// # Errors
/// [`Error::Locked`] if a store has it open or it does not hold still, [`Error::WalCorrupt`] and
/// [`Error::WalAmbiguous`] if its log is damaged, [`Error::NotADatabase`], I/O errors.
pub(super) fn copy(path: &Path, image: &Path) -> Result<Source> {
    let vfs = UnixVfs::new();
    let db = vfs.open(path, OpenFlags::READ)?;
    let files = FileSet::resolve(&vfs, path)?;
    let locked = |holder: &str| Error::Locked {
        path: path.to_path_buf(),
        holder: holder.into(),
    };
    if store_is_live(&*db)? {
        return Err(locked("a walmend store"));
    }
    // Keeps a writer in rollback mode away. One in WAL mode may go on, but neither checkpoint nor begin the
    // log anew: then what is committed now stays where it is.
    if !db.try_lock(LockRange::SHARED, LockKind::Shared)? {
        return Err(locked("a program that is writing to it"));
    }
    let target = vfs.open(image, OpenFlags::CREATE_NEW)?;
    for _ in 0..TRIES {
        let _shm = match vfs.open(&with_suffix(path, "-shm"), OpenFlags::READ) {
            Ok(shm) => {
                for range in SHM_LOCKS {
                    if !shm.try_lock(range, LockKind::Shared)? {
                        return Err(locked("a program that is checkpointing it"));
                    }
                }
                Some(shm)
            }
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let before = stand(&vfs, &files)?;
        let source = copy_once(&vfs, &files, &*db, &target)?;
        if stand(&vfs, &files)? == before {
            return Ok(source);
        }
    }
    Err(locked("a program that keeps changing it"))
}

/// When the database file last changed, and whether there is a shared memory file. The log may grow.
fn stand(vfs: &dyn Vfs, files: &FileSet) -> Result<(Option<SystemTime>, bool)> {
    let modified = vfs.info(&files.db)?.and_then(|info| info.modified);
    let shm = vfs.info(&with_suffix(&files.db, "-shm"))?.is_some();
    Ok((modified, shm))
}

fn copy_once(vfs: &dyn Vfs, files: &FileSet, db: &dyn VfsFile, target: &Arc<dyn VfsFile>) -> Result<Source> {
    let identity = identify(vfs, &files.db)?;
    let page_size = identity.page_size;
    let findings = Findings::gather(vfs, files, db, page_size, false, false)?;
    let plan = RecoveryPlan::make(findings, OnDamage::Refuse)?;
    plan.admit()?;
    let scan = plan.findings.scan.as_ref();
    let committed = plan.committed_frames();
    let db_pages = match scan {
        Some(scan) if committed > 0 => scan.db_pages,
        _ => identity.db_pages,
    };
    if db_pages == 0 {
        return Err(Error::NotADatabase {
            path: files.db.clone(),
            detail: "it has no pages to drill with".into(),
        });
    }
    target.truncate(0)?;
    target.truncate(u64::from(db_pages) * u64::from(page_size.get()))?;
    let mut page = vec![0; page_size.as_usize()];
    // Nothing is ever stored where SQLite's lock bytes lie.
    for number in (1..=db_pages).filter(|number| *number != page_size.lock_page()) {
        let offset = PageNumber::new(number)?.offset(page_size);
        let read = db.read_at(&mut page, offset)?;
        target.write_at(&page[..read], offset)?;
    }
    if let Some(scan) = scan.filter(|_| committed > 0) {
        let log = vfs.open(&files.wal, OpenFlags::READ)?;
        // Later frames of a page overwrite earlier ones.
        for (frame, slot) in (1..=committed).zip(&scan.slots) {
            if slot.header.page > db_pages {
                continue;
            }
            let at = frame_offset(frame, page_size) + FRAME_HEADER_SIZE as u64;
            log.read_exact_at(&mut page, at)?;
            target.write_at(&page, PageNumber::new(slot.header.page)?.offset(page_size))?;
        }
    }
    if identity.pages == Pages::Sqlite {
        check_size_in_header(files, &**target, db_pages)?;
    }
    target.sync(SyncMode::Full)?;
    Ok(Source {
        pages: identity.pages,
        page_size,
        db_pages,
    })
}

/// A commit that writes page 1 must carry the right size there; very old programs left the field alone.
fn check_size_in_header(files: &FileSet, image: &dyn VfsFile, db_pages: u32) -> Result<()> {
    let mut field = [0; 4];
    image.read_exact_at(&mut field, 28)?;
    let stored = u32::from_be_bytes(field);
    if stored == db_pages {
        return Ok(());
    }
    Err(Error::NotADatabase {
        path: files.db.clone(),
        detail: format!(
            "its header says {stored} pages, but it has {db_pages}: run VACUUM on it with a current sqlite3 first"
        ),
    })
}
