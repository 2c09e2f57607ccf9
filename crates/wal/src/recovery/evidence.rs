//! Where the commits of a log went that is no longer there.

use crate::companion::{CompanionState, FileStamp, Generation, Watermark};
use crate::digest::PageDigest;
use crate::files::FileSet;
use crate::scan::Scan;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use walmend_types::{PageNumber, PageSize, Result};
use walmend_vfs::{Vfs, VfsFile};

/// Where the commits of a missing log are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the database file: sqlite3 has checkpointed them.
    InDatabase,
    /// The newest pages differ, but another program went on from there: it wrote to the database since, or
    /// continued the series of logs, or nothing says that it did not.
    ChangedSince,
    /// The newest pages differ, and nothing was written since: the log was lost, or another one put in its place.
    Lost,
}

/// Whether the database file was written to since its store gave it up, or since the companion was last written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Changed,
    Unchanged,
    /// The file system keeps no times, or ones too coarse to tell.
    Unknown,
}

/// What is in the place of the missing log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// No commit.
    Nothing,
    /// A log that SQLite made of the missing one: it begins a log again only once all of it is in the database, and
    /// counts that in the first salt and in the checkpoint sequence.
    Successor,
    /// Commits of a log that has nothing to do with the missing one.
    Stranger,
}

/// The table.
fn decide(in_database: bool, since: Since, instead: Instead) -> Whereabouts {
    match (in_database, since, instead) {
        (true, _, _) => Whereabouts::InDatabase,
        (false, Since::Changed, _) | (false, _, Instead::Successor) => Whereabouts::ChangedSince,
        (false, Since::Unchanged, _) | (false, Since::Unknown, Instead::Nothing) => Whereabouts::Lost,
        (false, Since::Unknown, Instead::Stranger) => Whereabouts::ChangedSince,
    }
}

/// Where the commits of the log that the companion knows are. `scan` is what is in its place.
pub(super) fn whereabouts(
    vfs: &dyn Vfs,
    files: &FileSet,
    db: &dyn VfsFile,
    page_size: PageSize,
    meta: &CompanionState,
    scan: Option<&Scan>,
) -> Result<Whereabouts> {
    let mark = meta.watermark.clone().unwrap_or_default();
    Ok(decide(
        in_database(&mark, db, page_size)?,
        since(vfs, files, meta)?,
        instead(scan, meta.generation),
    ))
}

/// Compares the newest pages that the watermark names with what the database now holds.
fn in_database(watermark: &Watermark, db: &dyn VfsFile, page_size: PageSize) -> Result<bool> {
    let mut page = vec![0; page_size.as_usize()];
    for (number, digest) in &watermark.tail {
        let Ok(number) = PageNumber::new(*number) else {
            continue;
        };
        let read = db.read_at(&mut page, number.offset(page_size))?;
        if read < page.len() || PageDigest::of(&page) != *digest {
            return Ok(false);
        }
    }
    Ok(true)
}

fn since(vfs: &dyn Vfs, files: &FileSet, meta: &CompanionState) -> Result<Since> {
    let Some(now) = vfs.info(&files.db)? else {
        return Ok(Since::Unchanged);
    };
    let companion = vfs.info(&files.meta)?.and_then(|info| info.modified);
    let changed = match meta.owner.as_ref().and_then(|owner| owner.database) {
        Some(given_up) => FileStamp::of(&now) != Some(given_up),
        None => matches!((now.modified, companion), (Some(db), Some(companion)) if db > companion),
    };
    Ok(match (now.modified, companion) {
        _ if changed => Since::Changed,
        (Some(db), Some(companion)) if tells(db, companion) => Since::Unchanged,
        _ => Since::Unknown,
    })
}

/// Whether a write that came after `companion` would have given the database another time than `db`.
fn tells(db: SystemTime, companion: SystemTime) -> bool {
    // Some file systems keep whole seconds, or every second one.
    let coarse = db
        .duration_since(UNIX_EPOCH)
        .is_ok_and(|since| since.subsec_nanos() == 0);
    let between = companion.duration_since(db).unwrap_or_default();
    !coarse || between > Duration::from_secs(2)
}

fn instead(scan: Option<&Scan>, known: Option<Generation>) -> Instead {
    let Some(scan) = scan.filter(|scan| scan.committed_frames > 0) else {
        return Instead::Nothing;
    };
    let (Some(header), Some(known)) = (scan.header.ok(), known) else {
        return Instead::Stranger;
    };
    let resets = header.checkpoint_seq.wrapping_sub(known.checkpoint_seq);
    let follows = header.salts.salt1.wrapping_sub(known.salts.salt1) == resets;
    if follows && (1..=u32::MAX / 2).contains(&resets) {
        Instead::Successor
    } else {
        Instead::Stranger
    }
}

#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_lost_exactly_where_nothing_can_have_gone_on_from_it() {
        for since in [Since::Changed, Since::Unchanged, Since::Unknown] {
            for instead in [Instead::Nothing, Instead::Successor, Instead::Stranger] {
                assert_eq!(decide(true, since, instead), Whereabouts::InDatabase);
                let gone_on = since == Since::Changed
                    || instead == Instead::Successor
                    || (since == Since::Unknown && instead == Instead::Stranger);
                let expected = if gone_on {
                    Whereabouts::ChangedSince
                } else {
                    Whereabouts::Lost
                };
                assert_eq!(decide(false, since, instead), expected, "{since:?}, {instead:?}");
            }
        }
    }

    #[test]
    fn whole_seconds_tell_nothing_for_two_of_them() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        assert!(tells(at(1_000_001), at(1_000_001)));
        assert!(!tells(at(1_000_000), at(1_000_000)));
        assert!(!tells(at(1_000_000), at(1_002_000)));
        assert!(tells(at(1_000_000), at(1_002_001)));
        assert!(!tells(at(1_000_000), at(0)));
    }
}
