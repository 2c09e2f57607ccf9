//! What a page that differs from the protection is: damage, somebody's write, or undecided.
//!
//! Three things can decide it. The **stamp** of the database file (inode, length, time of the last write) is still the
//! one that was recorded: nobody wrote, so what differs is damage. The **log** goes on from where it was recorded, in
//! the same generation: whatever reached the database since came out of the log, and is still in it. Or the page is
//! just what a frame of the log holds: then it was written from there, whatever the stamp says. Where none of them
//! does, the page is undecided, and nobody but the caller can say that the protection is to be trusted.

use super::state::{Mark, Sidecar, Stamp, State};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use walmend_types::{Error, Result};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::{
    FRAME_HEADER_SIZE, FileSet, FileStamp, HEADER_SIZE, HeaderState, Scan, ScanHints, WalHeader, frame_offset,
};
use xxhash_rust::xxh3::xxh3_128;

/// Clocks of file systems move in steps of up to 10 ms: a write within the same step as an earlier one leaves no other
/// time.
const CLOCK_STEP: Duration = Duration::from_millis(25);
/// Some file systems keep whole seconds only, or two (FAT).
const COARSE_STEP: Duration = Duration::from_millis(2025);

/// What the protection is worth for pages that differ from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nobody has written the database file since: what differs is damaged.
    Current,
    /// What was written since came out of the log, and is in it: everything else that differs is damaged.
    FollowedByLog,
    /// The file was written, and nothing that SQLite changes when it writes has changed: this may be damage, but
    /// commits in WAL mode can leave just that behind, too.
    Touched,
    /// The database was written by a program that does not keep the protection up to date.
    Stale,
}

impl Standing {
    /// Whether it is known what pages that differ are.
    pub fn decides(self) -> bool {
        matches!(self, Self::Current | Self::FollowedByLog)
    }
}

/// What a page is that is not as it was protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    Damaged,
    /// Somebody wrote it, or the log will.
    Written,
    Undecided,
}

/// The files as they are now.
#[derive(Debug)]
pub(crate) struct Now {
    pub(crate) stamp: Stamp,
    /// The first bytes of the database file.
    head: [u8; 100],
    log: Option<Log>,
}

#[derive(Debug)]
struct Log {
    file: Arc<dyn VfsFile>,
    scan: Scan,
    /// The frames of each page, of the oldest generation first.
    frames: HashMap<u32, Vec<u32>>,
}

impl Now {
    /// Looks at the database file and its log, changing nothing.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn look(vfs: &dyn Vfs, files: &FileSet, db: &dyn VfsFile) -> Result<Self> {
        let head = head_of(db)?;
        let log = match vfs.open(&files.wal, OpenFlags::READ) {
            Ok(file) => Log::read(file)?,
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            stamp: stamp(vfs, &files.db, &head)?,
            head,
            log,
        })
    }

    pub(crate) fn mark(&self) -> Option<Mark> {
        let scan = &self.log.as_ref()?.scan;
        let header = scan.header.ok()?;
        Some(Mark {
            salts: header.salts,
            frame: scan.committed_frames,
            checksum: scan.checksum,
        })
    }

    /// What the protection is worth now.
    pub(crate) fn standing(&self, state: Option<&State>) -> Standing {
        let Some(state) = state else {
            return Standing::Stale;
        };
        let was = &state.stamp;
        let same_file = was.inode == self.stamp.inode;
        let begun_anew = self.begun_anew(state);
        let goes_on = same_file && self.goes_on(state);
        let untouched = same_file
            && (was.bytes == self.stamp.bytes || self.cut_off(was))
            && was.modified == self.stamp.modified
            && was.modified != 0
            && state.pending == 0;
        let counted = self.counted(was);
        if untouched && !begun_anew && !counted && (state.settled || goes_on) {
            return Standing::Current;
        }
        if goes_on && !counted {
            return Standing::FollowedByLog;
        }
        let log_is_gone = state.log.is_some() && self.mark().is_none();
        let resized = was.bytes != self.stamp.bytes && !self.says_old_size(was);
        let signs = !same_file || resized || begun_anew || counted || log_is_gone;
        if signs { Standing::Stale } else { Standing::Touched }
    }

    /// Whether the log was begun anew, after all of it had come into the database file. Where there was no log, or an
    /// empty one, the first one since has the number 0. The time of the file can hide it: a power loss may take that
    /// back.
    fn begun_anew(&self, state: &State) -> bool {
        let Some(header) = self.log.as_ref().and_then(|log| log.scan.header.ok()) else {
            return false;
        };
        match &state.log {
            Some(was) => was.salts != header.salts,
            None => header.checkpoint_seq > 0,
        }
    }

    /// Whether the log still is in the generation that was recorded, and holds what was in it.
    fn goes_on(&self, state: &State) -> bool {
        let (Some(was), Some(log)) = (&state.log, &self.log) else {
            return false;
        };
        let Some(header) = log.scan.header.ok().filter(|header| header.salts == was.salts) else {
            return false;
        };
        let stored = match was.frame {
            0 => Some(header.checksum()),
            frame if frame <= log.scan.committed_frames => {
                log.scan.slot(frame).map(|slot| slot.header.checksum)
            }
            _ => None,
        };
        stored == Some(was.checksum)
    }

    /// Whether SQLite has counted a change. What is damaged does not look like that.
    fn counted(&self, was: &Stamp) -> bool {
        let field = |at: usize| &self.head[at..at + 4];
        self.head.starts_with(b"SQLite format 3\0")
            && field(24) == field(92)
            && change_counter(&self.head) != was.change_counter
            && was.change_counter != 0
    }

    /// Whether the file is shorter than it was, and nobody can have cut it on purpose: SQLite says in its header how long
    /// the file is. Meant for a file that has the time of its last write still, which a truncation would have changed.
    fn cut_off(&self, was: &Stamp) -> bool {
        let no_header = was.change_counter == 0;
        self.stamp.bytes < was.bytes && (no_header || self.says_old_size(was))
    }

    /// Whether SQLite's header still says the size that the file had: whoever changed it was not SQLite.
    fn says_old_size(&self, was: &Stamp) -> bool {
        let field = |at: usize| {
            let field = &self.head[at..at + 4];
            u32::from_be_bytes([field[0], field[1], field[2], field[3]])
        };
        let page_size = match u16::from_be_bytes([self.head[16], self.head[17]]) {
            1 => 65536,
            bytes => u64::from(bytes),
        };
        self.head.starts_with(b"SQLite format 3\0")
            && field(24) == field(92)
            && field(24) == was.change_counter
            && u64::from(field(28)) * page_size == was.bytes
    }

    /// What a page is that should have the digest `wanted`. `found` is what it has, `None` if the file ends before it.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn judge(
        &self,
        standing: Standing,
        page: u32,
        found: Option<u128>,
        wanted: u128,
    ) -> Result<Finding> {
        if let (Some(log), Some(found)) = (&self.log, found)
            && log.wrote(page, found, wanted)?
        {
            return Ok(Finding::Written);
        }
        // Whatever is there will be written over.
        let will_be = self.log.as_ref().is_some_and(|log| log.holds(page));
        Ok(match standing {
            Standing::Current => Finding::Damaged,
            _ if will_be => Finding::Written,
            Standing::FollowedByLog => {
                let log = self.log.as_ref();
                let cut_off = found.is_none()
                    && log.is_some_and(|log| log.scan.commits > 0 && page > log.scan.db_pages);
                if cut_off {
                    Finding::Written
                } else {
                    Finding::Damaged
                }
            }
            Standing::Touched | Standing::Stale => Finding::Undecided,
        })
    }
}

impl Log {
    fn read(file: Arc<dyn VfsFile>) -> Result<Option<Self>> {
        let scan = Scan::read(&*file, ScanHints::default())?;
        if !matches!(scan.header, HeaderState::Ok(_)) {
            return Ok(None);
        }
        let committed = scan.committed_frames as usize;
        let mut frames: HashMap<u32, Vec<u32>> = HashMap::new();
        let numbered: Vec<(u32, u32)> = (1..)
            .zip(scan.slots.iter().map(|slot| slot.header.page))
            .collect();
        // What lies behind the committed frames is older than they are, if it was ever written to the database.
        let (newest, oldest) = numbered.split_at(committed);
        for &(frame, page) in oldest.iter().chain(newest) {
            if page != 0 {
                frames.entry(page).or_default().push(frame);
            }
        }
        Ok(Some(Self { file, scan, frames }))
    }

    /// Whether a committed frame of this log is of that page.
    fn holds(&self, page: u32) -> bool {
        let frames = self.frames.get(&page);
        frames.is_some_and(|frames| frames.iter().any(|frame| *frame <= self.scan.committed_frames))
    }

    /// Whether a page with the digest `found` was written from this log, over one with the digest `before` or a
    /// still older one. Otherwise it fell back, which is damage.
    fn wrote(&self, page: u32, found: u128, before: u128) -> Result<bool> {
        let page_size = self.scan.page_size;
        let mut bytes = vec![0; page_size.as_usize()];
        for &frame in self.frames.get(&page).into_iter().flatten().rev() {
            let at = frame_offset(frame, page_size) + FRAME_HEADER_SIZE as u64;
            if self.file.read_at(&mut bytes, at)? < bytes.len() {
                continue;
            }
            let digest = xxh3_128(&bytes);
            if digest == found || digest == before {
                return Ok(digest == found);
            }
        }
        Ok(false)
    }
}

impl Sidecar {
    /// What the protection of a window is worth.
    pub(crate) fn standing(&self, whole: Standing, window: u32) -> Standing {
        match &self.state {
            Some(state) if state.speaks_of(window) => whole,
            _ => whole.max(Standing::Stale),
        }
    }
}

fn change_counter(head: &[u8; 100]) -> u32 {
    if !head.starts_with(b"SQLite format 3\0") {
        return 0;
    }
    u32::from_be_bytes([head[24], head[25], head[26], head[27]])
}

/// The stamp of a database file as it is now.
///
/// # Errors
/// I/O errors.
pub(crate) fn stamp_of(vfs: &dyn Vfs, path: &Path, db: &dyn VfsFile) -> Result<Stamp> {
    stamp(vfs, path, &head_of(db)?)
}

/// The mark of a log by its header alone.
///
/// # Errors
/// I/O errors.
pub(crate) fn mark_of_header(vfs: &dyn Vfs, files: &FileSet) -> Result<Option<Mark>> {
    let file = match vfs.open(&files.wal, OpenFlags::READ) {
        Ok(file) => file,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; HEADER_SIZE];
    let read = file.read_at(&mut bytes, 0)?;
    let header = WalHeader::decode(&bytes).ok().filter(|_| read == bytes.len());
    Ok(header.map(|header| Mark {
        salts: header.salts,
        frame: 0,
        checksum: header.checksum(),
    }))
}

fn head_of(db: &dyn VfsFile) -> Result<[u8; 100]> {
    let mut head = [0; 100];
    let read = db.read_at(&mut head, 0)?;
    head[read..].fill(0);
    Ok(head)
}

fn stamp(vfs: &dyn Vfs, db: &Path, head: &[u8; 100]) -> Result<Stamp> {
    let info = vfs.info(db)?.ok_or_else(|| Error::NotFound {
        path: db.to_path_buf(),
    })?;
    Ok(Stamp {
        inode: info.inode,
        bytes: info.len,
        modified: FileStamp::of(&info).map_or(0, |stamp| stamp.modified),
        change_counter: change_counter(head),
    })
}

/// How long to wait until a later write is sure to leave another time than `stamp` has.
pub(crate) fn unsettled(stamp: &Stamp) -> Duration {
    let modified = Duration::from_nanos(stamp.modified);
    let step = match modified.subsec_nanos() {
        0 => COARSE_STEP,
        _ => CLOCK_STEP,
    };
    let settled = UNIX_EPOCH + modified + step;
    let left = settled.duration_since(SystemTime::now()).unwrap_or_default();
    // A time in the future is nothing to wait for.
    left.min(step)
}

#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_whole_seconds_may_come_from_a_coarse_clock_and_is_given_more_time() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let stamp = |modified: Duration| Stamp {
            modified: u64::try_from(modified.as_nanos()).unwrap(),
            ..Stamp::default()
        };
        let later = Duration::from_secs(now.as_secs() + 3600);
        assert_eq!(unsettled(&stamp(later)), COARSE_STEP);
        assert_eq!(unsettled(&stamp(later + Duration::from_nanos(1))), CLOCK_STEP);
        let earlier = Duration::from_secs(now.as_secs() - 3);
        assert!(unsettled(&stamp(earlier)).is_zero());
    }
}
