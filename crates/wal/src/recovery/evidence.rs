//! Where the commits of a log went that is no longer there.

use crate::companion::Watermark;
use crate::digest::PageDigest;
use crate::scan::Scan;
use walmend_types::{PageNumber, PageSize, Result};
use walmend_vfs::VfsFile;

/// Where the commits of a missing log are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the database file (or in the log that replaced the missing one): sqlite3 has checkpointed them.
    InDatabase,
    /// The newest pages differ, but the database was written to after the watermark: another program went on
    /// from there.
    ChangedSince,
    /// The newest pages differ, and nothing was written since: the log was lost.
    Lost,
}

/// Compares the newest pages that the watermark names with what the database now holds. `changed` says that the
/// database file was written to since.
pub(super) fn whereabouts(
    watermark: &Watermark,
    db: &dyn VfsFile,
    page_size: PageSize,
    replacement: Option<&Scan>,
    changed: bool,
) -> Result<Whereabouts> {
    // A commit in the log that stands in the missing one's place went on from the database.
    let went_on = replacement.is_some_and(|scan| scan.committed_frames > 0);
    let mut page = vec![0; page_size.as_usize()];
    for (number, digest) in &watermark.tail {
        let Ok(number) = PageNumber::new(*number) else {
            continue;
        };
        let read = db.read_at(&mut page, number.offset(page_size))?;
        if read < page.len() || PageDigest::of(&page) != *digest {
            return Ok(if went_on || changed {
                Whereabouts::ChangedSince
            } else {
                Whereabouts::Lost
            });
        }
    }
    Ok(Whereabouts::InDatabase)
}
