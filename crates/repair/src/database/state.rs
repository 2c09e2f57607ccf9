//! The header of a sidecar, and its state: what is in force, and by what one tells that the database was changed by
//! somebody else.

use super::layout::{BLOCK, FORMAT, HEADER_AT, Layout, PARITY, SOURCES, STATE_AT, Side, WINDOWS_AT};
use super::stripe::{Description, Version};
use crate::record::{ALIGN, HEAD, RecordHead, RecordState, array, put_record};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walmend_types::{Error, PageSize, Result, Salts, SyncMode};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::{Checksum, with_suffix};

const KIND_HEADER: u8 = 3;
const KIND_STATE: u8 = 4;
const HEADER_BODY: usize = 64;
const STATE_FIXED: usize = 128;
/// How many epochs can be void at once.
pub(crate) const MOST_VOID: usize = 32;
/// How far a description is looked for where both copies of the header are lost.
const SEARCH: u64 = 64 << 20;

/// The sidecar of the database at `db`: `<db>-fec`.
pub fn db_sidecar_path(db: &Path) -> PathBuf {
    with_suffix(db, "-fec")
}

/// By what one tells whether the database file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
    /// In nanoseconds since 1970; 0 where nothing keeps that.
    pub(crate) modified: u64,
    /// SQLite's file change counter; 0 for a database that has none.
    pub(crate) change_counter: u32,
}

/// How far a log went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) salts: Salts,
    /// Its last commit frame, or 0.
    pub(crate) frame: u32,
    /// The chain checksum there.
    pub(crate) checksum: Checksum,
}

/// What a sidecar says of itself and of its database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// The newer of two states has the higher number.
    pub(crate) sequence: u64,
    /// Versions up to this one are in force.
    pub(crate) epoch: u64,
    /// The version that a checkpoint is about to bring into force; 0 if none is.
    pub(crate) pending: u64,
    /// Pages of the database.
    pub(crate) pages: u32,
    /// All of it is protected. Otherwise only the first `windows_done` windows are.
    pub(crate) complete: bool,
    pub(crate) windows_done: u32,
    /// The database was last written so long before the stamp was taken that a later write gives another one.
    pub(crate) settled: bool,
    pub(crate) stamp: Stamp,
    /// The log as it was then, where there was one.
    pub(crate) log: Option<Mark>,
    /// The file in which a healing under way keeps the damaged pages: its time and number; zeros if none is.
    pub(crate) aside: (u64, u32),
    /// Versions that never came into force.
    pub(crate) void: Vec<u64>,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; STATE_FIXED];
        let mut put64 = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        put64(0, self.sequence);
        put64(8, self.epoch);
        put64(16, self.pending);
        put64(24, self.stamp.inode);
        put64(32, self.stamp.bytes);
        put64(40, self.stamp.modified);
        put64(48, self.aside.0);
        let flags =
            u32::from(self.complete) | u32::from(self.settled) << 1 | u32::from(self.log.is_some()) << 2;
        let mut put32 = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        put32(56, self.aside.1);
        put32(60, flags);
        put32(64, self.pages);
        put32(68, self.windows_done);
        put32(72, self.stamp.change_counter);
        if let Some(log) = &self.log {
            put32(76, log.salts.salt1);
            put32(80, log.salts.salt2);
            put32(84, log.frame);
            put32(88, log.checksum.s0);
            put32(92, log.checksum.s1);
        }
        for epoch in &self.void {
            bytes.extend_from_slice(&epoch.to_be_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, void) = bytes.split_first_chunk::<STATE_FIXED>()?;
        let get64 = |at: usize| u64::from_be_bytes(array(&fixed[at..at + 8]));
        let get32 = |at: usize| u32::from_be_bytes(array(&fixed[at..at + 4]));
        let flags = get32(60);
        if void.len() % 8 != 0 || void.len() / 8 > MOST_VOID + 1 {
            return None;
        }
        Some(Self {
            sequence: get64(0),
            epoch: get64(8),
            pending: get64(16),
            pages: get32(64),
            complete: flags & 1 != 0,
            windows_done: get32(68),
            settled: flags & 2 != 0,
            stamp: Stamp {
                inode: get64(24),
                bytes: get64(32),
                modified: get64(40),
                change_counter: get32(72),
            },
            log: (flags & 4 != 0).then(|| Mark {
                salts: Salts {
                    salt1: get32(76),
                    salt2: get32(80),
                },
                frame: get32(84),
                checksum: Checksum {
                    s0: get32(88),
                    s1: get32(92),
                },
            }),
            aside: (get64(48), get32(56)),
            void: void
                .chunks_exact(8)
                .map(|epoch| u64::from_be_bytes(array(epoch)))
                .collect(),
        })
    }

    /// Writes the state to its place, which the one before it does not have.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn write(&self, file: &dyn VfsFile) -> Result<()> {
        let copy = (self.sequence % 2) as usize;
        let mut bytes = Vec::new();
        let kind = (KIND_STATE, copy as u8);
        put_record(&mut bytes, STATE_AT[copy], &FORMAT, kind, [0; 16], &self.encode());
        file.write_at(&bytes, STATE_AT[copy])
    }

    /// Whether what the state says holds for this window.
    pub(crate) fn speaks_of(&self, window: u32) -> bool {
        self.complete || window < self.windows_done
    }
}

/// An open sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) layout: Layout,
    /// `None` where no state is intact.
    pub(crate) state: Option<State>,
    /// Copies of header and state that are not intact.
    pub(crate) bad_records: u32,
}

/// What a file with the name of a sidecar is.
#[derive(Debug)]
pub(crate) enum Found {
    Absent,
    /// There is nothing in it that could be used.
    Unusable,
    Sidecar(Sidecar),
}

impl Sidecar {
    /// Opens the sidecar of a database.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`] for one of another version, I/O errors.
    pub(crate) fn open(vfs: &dyn Vfs, db: &Path, flags: OpenFlags) -> Result<Found> {
        let path = db_sidecar_path(db);
        let file = match vfs.open(&path, flags) {
            Ok(file) => file,
            Err(Error::NotFound { .. }) => return Ok(Found::Absent),
            Err(error) => return Err(error),
        };
        let mut bad_records = 0;
        let mut page_size = None;
        for (at, copy) in HEADER_AT.into_iter().zip(0_u8..) {
            match read_record(&*file, at, (KIND_HEADER, copy))?.and_then(|body| decode_header(&body)) {
                Some(found) => page_size = Some(found),
                None => bad_records += 1,
            }
        }
        let page_size = match page_size {
            Some(page_size) => Some(page_size),
            None => search(&*file)?,
        };
        let Some(page_size) = page_size else {
            return Ok(Found::Unusable);
        };
        let mut state: Option<State> = None;
        let mut states = 0;
        for (at, copy) in STATE_AT.into_iter().zip(0_u8..) {
            let found = read_record(&*file, at, (KIND_STATE, copy))?.and_then(|body| State::decode(&body));
            states += u32::from(found.is_some());
            let newer = |found: &State| state.as_ref().is_none_or(|state| found.sequence > state.sequence);
            if let Some(found) = found.filter(newer) {
                state = Some(found);
            }
        }
        // Until the second state is written its place is empty.
        let written = state.as_ref().map_or(2, |state| state.sequence.min(2) as u32);
        bad_records += written.saturating_sub(states);
        Ok(Found::Sidecar(Self {
            file,
            layout: Layout::new(page_size),
            state,
            bad_records,
        }))
    }

    /// Begins a new sidecar, in place of whatever is there.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn create(vfs: &dyn Vfs, db: &Path, page_size: PageSize) -> Result<Self> {
        let file = vfs.open(&db_sidecar_path(db), OpenFlags::CREATE)?;
        file.truncate(0)?;
        let mut sidecar = Self {
            file,
            layout: Layout::new(page_size),
            state: None,
            bad_records: 0,
        };
        sidecar.write_headers()?;
        Ok(sidecar)
    }

    /// Writes both copies of the header. Not durable before a sync.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn write_headers(&mut self) -> Result<()> {
        let mut body = [0; HEADER_BODY];
        body[..4].copy_from_slice(&self.layout.page_size.get().to_be_bytes());
        body[4..6].copy_from_slice(&(SOURCES as u16).to_be_bytes());
        body[6..8].copy_from_slice(&(PARITY as u16).to_be_bytes());
        body[8..12].copy_from_slice(&self.layout.stripes().to_be_bytes());
        for (at, copy) in HEADER_AT.into_iter().zip(0_u8..) {
            let mut bytes = Vec::new();
            put_record(&mut bytes, at, &FORMAT, (KIND_HEADER, copy), [0; 16], &body);
            self.file.write_at(&bytes, at)?;
        }
        Ok(())
    }

    /// Writes the next state over the older one of the two. Not durable before a sync.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn write_state(&mut self, mut state: State) -> Result<()> {
        state.sequence = 1 + self.state.as_ref().map_or(0, |state| state.sequence);
        let written = state.write(&*self.file);
        self.state = Some(state);
        written
    }

    /// The newest version of any stripe, for a sidecar whose state is lost; 0 if there is none.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn highest_epoch(&self) -> Result<u64> {
        let mut highest = 0;
        self.each_version(|_, version| {
            highest = highest.max(version.description.epoch);
            Ok(())
        })?;
        Ok(highest)
    }

    /// Calls `look` for each version of each stripe, wherever it lies. Parity is not looked at.
    ///
    /// # Errors
    /// I/O errors, and those of `look`.
    pub(crate) fn each_version(
        &self,
        mut look: impl FnMut((u32, u32, Side), &Version) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = Vec::new();
        for window in 0..self.windows()? {
            for stripe in 0..self.layout.stripes() {
                for side in Side::BOTH {
                    let place = (window, stripe, side);
                    if let Some(version) =
                        Version::read(&*self.file, &self.layout, place, false, &mut buffer)?
                    {
                        look(place, &version)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// How many windows the file has room for.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn windows(&self) -> Result<u32> {
        let len = self.file.len()?;
        let mut windows = 0;
        while self.layout.slot_at(windows, 0, Side::A) < len {
            windows += 1;
        }
        Ok(windows)
    }

    /// Makes everything written durable. Never call it again after it failed.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync(SyncMode::Full)
    }
}

fn decode_header(body: &[u8]) -> Option<PageSize> {
    let (page_size, rest) = body.split_first_chunk::<4>()?;
    let page_size = PageSize::new(u32::from_be_bytes(*page_size)).ok()?;
    let count = |at: usize| Some(usize::from(u16::from_be_bytes(array(rest.get(at..at + 2)?))));
    (count(0) == Some(SOURCES) && count(2) == Some(PARITY)).then_some(page_size)
}

/// The body of the record at `at`, if it is intact and of this kind.
fn read_record(file: &dyn VfsFile, at: u64, (kind, index): (u8, u8)) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; BLOCK as usize];
    let read = file.read_at(&mut bytes, at)?;
    let Some((head, body)) = bytes[..read].split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let head = match RecordHead::decode(&FORMAT, head, at) {
        RecordState::Ok(head) => head,
        RecordState::None => return Ok(None),
        RecordState::OtherVersion(version) => {
            return Err(Error::UnsupportedVersion {
                path: file.path().to_path_buf(),
                version: version.into(),
            });
        }
    };
    let body = body.get(..head.body_len).filter(|body| head.matches(body));
    let wanted = head.kind == kind && head.index == index;
    Ok(body.filter(|_| wanted).map(<[u8]>::to_vec))
}

/// The page size by the first description that is found.
fn search(file: &dyn VfsFile) -> Result<Option<PageSize>> {
    const PIECE: usize = 1 << 20;
    let mut bytes = vec![0; PIECE + BLOCK as usize];
    let mut start = WINDOWS_AT;
    while start < SEARCH {
        let read = file.read_at(&mut bytes, start)?;
        for at in (0..read.min(PIECE)).step_by(ALIGN as usize) {
            let Some((head, body)) = bytes[at..read].split_first_chunk::<HEAD>() else {
                break;
            };
            let RecordState::Ok(head) = RecordHead::decode(&FORMAT, head, start + at as u64) else {
                continue;
            };
            let body = body.get(..head.body_len).unwrap_or_default();
            if let Some(description) = Description::of_record(&head, body) {
                return Ok(PageSize::new(description.page_size).ok());
            }
        }
        if read < bytes.len() {
            break;
        }
        start += PIECE as u64;
    }
    Ok(None)
}
