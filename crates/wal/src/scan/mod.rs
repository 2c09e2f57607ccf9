//! Reading a log without changing it: what is valid, where it breaks, and what lies behind the break.
//!
//! The prefix is found as SQLite's own recovery finds it: salts, page number, checksum, in that order, up to
//! the first frame that fails; what counts ends at the last commit frame. Behind the break each frame is
//! tried against the checksum *stored* in the frame before it, so that one damaged frame does not hide the
//! good ones that follow.

mod behind;

use crate::checksum::{ByteOrder, Checksum, Transition};
use crate::format::{
    FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, HeaderError, WalHeader, frame_offset, frame_size, slots,
};
use behind::{behind, first_chained, newest_salts};
use walmend_types::{Error, PageSize, Result, Salts};
use walmend_vfs::VfsFile;

/// Why the valid prefix of a log ends where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanEnd {
    /// The file ends right behind a valid frame.
    EndOfFile,
    /// The next frame has other salts: zeros, or a leftover of an earlier generation.
    Salt,
    /// The next frame's checksum is wrong.
    Checksum,
    /// The next frame has the right salts and page number 0.
    ZeroPage,
    /// The file ends within the next frame.
    PartialFrame,
}

impl ScanEnd {
    /// The name that `--json` output uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndOfFile => "end_of_file",
            Self::Salt => "salt",
            Self::Checksum => "checksum",
            Self::ZeroPage => "zero_page",
            Self::PartialFrame => "partial_frame",
        }
    }
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The page, its number or the commit field: the content does not match the checksum.
    Page,
    /// The content is right (the next frame's checksum proves it); the stored checksum is not.
    StoredChecksum,
    /// The salts; the checksum, which does not cover them, is right.
    Salt,
    /// The header of the log (frame 0), or a frame header without a page number.
    Header,
}

impl Fault {
    /// The name that `--json` output uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::StoredChecksum => "stored_checksum",
            Self::Salt => "salt",
            Self::Header => "header",
        }
    }
}

/// The state of the log's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderState {
    /// The file is empty.
    Absent,
    /// It is fine.
    Ok(WalHeader),
    /// Magic, page size or checksum are wrong, or it is of an earlier generation than the frames.
    Invalid,
    /// The version is not known.
    UnsupportedVersion(u32),
}

impl HeaderState {
    /// The header, if it is fine.
    pub fn ok(self) -> Option<WalHeader> {
        match self {
            Self::Ok(header) => Some(header),
            _ => None,
        }
    }
}

/// What one slot of the log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its header, as stored.
    pub header: FrameHeader,
    /// The checksum of its content by itself, from a state of zeros.
    part: Checksum,
}

/// A log as it was found.
#[derive(Debug, Clone)]
pub struct Scan {
    /// Bytes of the file.
    pub bytes: u64,
    /// The header.
    pub header: HeaderState,
    /// The page size by which the slots were cut: the header's, or else the one that the caller gave.
    pub page_size: PageSize,
    /// How the checksum was read.
    pub byte_order: ByteOrder,
    /// Whole frames that fit into the file, each as stored.
    pub slots: Vec<Slot>,
    /// Frames of the unbroken prefix.
    pub valid_frames: u32,
    /// Frames up to the prefix's last commit frame.
    pub committed_frames: u32,
    /// Commit frames among them.
    pub commits: u32,
    /// Size of the database after the last of them, in pages; 0 if there is none.
    pub db_pages: u32,
    /// The chain checksum after the last of them, or after the header.
    pub checksum: Checksum,
    /// Why the prefix ends.
    pub end: ScanEnd,
    /// What each slot behind the prefix is: `None` for a frame that is valid when seeded from its
    /// predecessor. Parallel to `slots[valid_frames..]`.
    pub behind: Vec<Option<Fault>>,
    /// Whether each of these slots ended a transaction of this generation when it was written.
    ends_behind: Vec<bool>,
    /// The last slot of this generation, as far as salts tell; 0 if there is none.
    pub last_of_generation: u32,
    /// Behind the last slot the file ends within a frame of this generation.
    pub partial_of_generation: bool,
}

/// What the caller knows of a log before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanHints {
    /// The page size to go by where the header says none.
    pub page_size: PageSize,
    /// The salts to look for where the header says none.
    pub salts: Option<Salts>,
    /// Look at this many frames only: on a live log, what lies behind the watermark is still being written.
    pub limit: Option<u32>,
    /// The header is known to be of an earlier generation than the frames: it counts as invalid.
    pub stale_header: bool,
}

/// How often a log is read again because it became shorter meanwhile.
const SHRINK_RETRIES: u32 = 8;

/// Bytes read in one go.
const READ_BYTES: u64 = 1 << 20;

impl Scan {
    /// Reads a log.
    ///
    /// # Errors
    /// Only I/O errors: damage is a finding, not an error.
    pub fn read(file: &dyn VfsFile, hints: ScanHints) -> Result<Self> {
        for _ in 0..SHRINK_RETRIES {
            let bytes = file.len()?;
            let scan = Self::read_once(file, hints, bytes);
            // The log of a live store is emptied by its checkpoints, also while it is read.
            if file.len()? >= bytes {
                return scan;
            }
        }
        Self::read_once(file, hints, file.len()?)
    }

    fn read_once(file: &dyn VfsFile, hints: ScanHints, bytes: u64) -> Result<Self> {
        let ScanHints {
            page_size: fallback,
            salts: expected,
            limit,
            stale_header,
        } = hints;
        let header = match read_header(file)? {
            HeaderState::Ok(_) if stale_header => HeaderState::Invalid,
            header => header,
        };
        let page_size = header.ok().map_or(fallback, |header| header.page_size);
        let mut byte_order = header.ok().map_or(ByteOrder::Little, |header| header.byte_order);
        let count = match header {
            HeaderState::Absent | HeaderState::UnsupportedVersion(_) => 0,
            _ => slots(bytes, page_size).min(u64::from(limit.unwrap_or(u32::MAX))),
        };
        let count = u32::try_from(count).map_err(|_| Error::OutOfRange {
            what: "log size",
            value: bytes,
            expected: "at most 2^32 - 1 frames".into(),
        })?;
        let mut slots = read_slots(file, page_size, byte_order, count)?;
        let mut salts = header.ok().map(|header| header.salts);
        let mut seed = header
            .ok()
            .map_or_else(Checksum::default, |header| header.checksum());
        if header == HeaderState::Invalid {
            // Which frames belong together, and how they were summed, has to be told from the frames.
            seed = stored_checksum(file)?;
            let big = read_slots(file, page_size, ByteOrder::Big, count)?;
            // By the first that fits, not by the most: older generations lie behind, and may be of another machine's.
            let first = |slots: &[Slot]| first_chained(seed, slots, page_size).unwrap_or(usize::MAX);
            if first(&big) < first(&slots) {
                (byte_order, slots) = (ByteOrder::Big, big);
            }
            let has = |salts: &Salts| {
                slots
                    .iter()
                    .any(|slot| slot.header.salts == *salts && slot.header.page != 0)
            };
            salts = expected
                .filter(has)
                .or_else(|| newest_salts(seed, &slots, page_size));
        }
        let cut_short = limit.is_some_and(|limit| count == limit);
        let rest = frame_offset(count.saturating_add(1), page_size);
        let partial = !cut_short && bytes > rest.max(HEADER_SIZE as u64);
        let mut scan = Self::judge(bytes, header, page_size, byte_order, seed, salts, slots, partial);
        if partial {
            let mut head = [0; FRAME_HEADER_SIZE];
            let read = file.read_at(&mut head, rest)?;
            // As far as the salts: what is cut off before them belongs to nobody.
            scan.partial_of_generation = read >= 16 && Some(FrameHeader::decode(&head).salts) == salts;
        }
        Ok(scan)
    }

    /// The pure part: what the slots mean. `seed` is the checksum that frame 1 follows.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one thing that was read, and there is one caller"
    )]
    fn judge(
        bytes: u64,
        header: HeaderState,
        page_size: PageSize,
        byte_order: ByteOrder,
        seed: Checksum,
        salts: Option<Salts>,
        slots: Vec<Slot>,
        partial: bool,
    ) -> Self {
        let transition = Transition::over(8 + page_size.as_usize());
        let mut scan = Self {
            bytes,
            header,
            page_size,
            byte_order,
            valid_frames: 0,
            committed_frames: 0,
            commits: 0,
            db_pages: 0,
            checksum: header.ok().map_or_else(Checksum::default, |_| seed),
            end: if partial {
                ScanEnd::PartialFrame
            } else {
                ScanEnd::EndOfFile
            },
            behind: Vec::new(),
            ends_behind: Vec::new(),
            last_of_generation: 0,
            partial_of_generation: false,
            slots: Vec::new(),
        };
        let mut chain = seed;
        if let HeaderState::Ok(header) = header {
            for (slot, number) in slots.iter().zip(1..) {
                if let Err(end) = check(slot, header.salts, transition.combine(chain, slot.part)) {
                    scan.end = end;
                    break;
                }
                chain = slot.header.checksum;
                scan.valid_frames = number;
                if slot.header.db_pages != 0 {
                    scan.committed_frames = number;
                    scan.commits += 1;
                    scan.db_pages = slot.header.db_pages;
                    scan.checksum = chain;
                }
            }
        }
        if let Some(salts) = salts {
            let of_generation = |slot: &Slot| slot.header.salts == salts && slot.header.page != 0;
            scan.last_of_generation = slots
                .iter()
                .rposition(of_generation)
                .map_or(0, |place| u32::try_from(place + 1).unwrap_or(u32::MAX));
            let slots = &slots[scan.valid_frames as usize..];
            (scan.behind, scan.ends_behind) = behind(slots, chain, salts, page_size, byte_order);
        }
        if header == HeaderState::Invalid
            && let Some(first) = scan.behind.first_mut().filter(|first| first.is_some())
        {
            // It may be as good as ever, and the checksum of the header damaged: nothing can be said of it.
            *first = Some(Fault::Header);
        }
        scan.slots = slots;
        scan
    }

    /// The salts that the frames of this log go by: the header's, or, where it does not verify, those of the last
    /// slot that belongs to the log.
    pub fn salts(&self) -> Option<Salts> {
        match self.header {
            HeaderState::Ok(header) => Some(header.salts),
            _ => self.slot(self.last_of_generation).map(|slot| slot.header.salts),
        }
    }

    /// The slot of frame `frame` (from 1).
    pub fn slot(&self, frame: u32) -> Option<&Slot> {
        self.slots.get((frame as usize).checked_sub(1)?)
    }

    /// What is wrong with frame `frame`, or `None` for one that is valid where it stands.
    pub fn fault(&self, frame: u32) -> Option<Fault> {
        let place = frame.checked_sub(self.valid_frames + 1)?;
        self.behind
            .get(place as usize)
            .copied()
            .unwrap_or(Some(Fault::Page))
    }

    /// Whether frame `frame` ended a transaction of this generation when it was written. A damaged salt does
    /// not hide that, and a damaged commit field is worked out from the checksum.
    pub fn ends_transaction(&self, frame: u32) -> bool {
        match frame.checked_sub(self.valid_frames + 1) {
            None => self.slot(frame).is_some_and(|slot| slot.header.db_pages != 0),
            Some(place) => self.ends_behind.get(place as usize).is_some_and(|ends| *ends),
        }
    }

    /// Whether commit frame `frame` repeats the one before it: SQLite pads a sector that way.
    pub fn repeats_commit(&self, frame: u32) -> bool {
        let commit = |frame: u32| self.slot(frame).filter(|slot| slot.header.db_pages != 0);
        let before = frame.checked_sub(1).and_then(commit);
        commit(frame)
            .zip(before)
            .is_some_and(|(slot, before)| slot.part == before.part)
    }

    /// The last commit frame behind the break that is valid where it stands; what lies between proves that
    /// the break is not the end of what was written.
    pub fn last_commit_behind(&self) -> Option<u32> {
        let is_commit = |place: &usize| {
            self.behind[*place].is_none()
                && self.slots[self.valid_frames as usize + place].header.db_pages != 0
        };
        let place = (0..self.behind.len()).rev().find(is_commit)?;
        u32::try_from(place)
            .ok()
            .map(|place| self.valid_frames + 1 + place)
    }

    /// Valid frames and whole commits behind the break. A commit frame that repeats the
    /// one before it counts once: SQLite pads a sector that way.
    pub fn count_behind(&self) -> (u32, u32) {
        let mut frames = 0;
        let mut commits = 0;
        let mut previous: Option<&Slot> = None;
        for (fault, slot) in self.behind.iter().zip(&self.slots[self.valid_frames as usize..]) {
            if fault.is_some() {
                previous = None;
                continue;
            }
            let commit = slot.header.db_pages != 0;
            let repeats = commit && previous.is_some_and(|before| before.part == slot.part);
            if !repeats {
                frames += 1;
                commits += u32::from(commit);
            }
            previous = Some(slot);
        }
        (frames, commits)
    }
}

/// What a header that does not verify says its checksum is. If that is not what is damaged, it seeds frame 1.
fn stored_checksum(file: &dyn VfsFile) -> Result<Checksum> {
    let mut bytes = [0; HEADER_SIZE];
    file.read_at(&mut bytes, 0)?;
    let [.., a, b, c, d, e, f, g, h] = bytes;
    Ok(Checksum {
        s0: u32::from_be_bytes([a, b, c, d]),
        s1: u32::from_be_bytes([e, f, g, h]),
    })
}

fn read_header(file: &dyn VfsFile) -> Result<HeaderState> {
    let mut bytes = [0; HEADER_SIZE];
    let read = file.read_at(&mut bytes, 0)?;
    if read == 0 {
        return Ok(HeaderState::Absent);
    }
    if read < HEADER_SIZE {
        return Ok(HeaderState::Invalid);
    }
    Ok(match WalHeader::decode(&bytes) {
        Ok(header) => HeaderState::Ok(header),
        Err(HeaderError::Invalid) => HeaderState::Invalid,
        Err(HeaderError::UnsupportedVersion(version)) => HeaderState::UnsupportedVersion(version),
    })
}

fn read_slots(file: &dyn VfsFile, page_size: PageSize, order: ByteOrder, count: u32) -> Result<Vec<Slot>> {
    let size = frame_size(page_size);
    let per_read = (READ_BYTES / size).max(1);
    let mut slots: Vec<Slot> = Vec::new();
    // A sparse file may claim more frames than there is memory for.
    slots
        .try_reserve_exact(count as usize)
        .map_err(|_| Error::OutOfRange {
            what: "frames in the log",
            value: count.into(),
            expected: "as many as there is memory to judge".into(),
        })?;
    let mut buffer = vec![0; usize::try_from(per_read * size).unwrap_or(usize::MAX)];
    let mut next = 1;
    while next <= count {
        let frames = per_read.min(u64::from(count - next + 1));
        let chunk = &mut buffer[..usize::try_from(frames * size).unwrap_or(usize::MAX)];
        file.read_exact_at(chunk, frame_offset(next, page_size))?;
        slots.extend(
            chunk
                .chunks_exact(usize::try_from(size).unwrap_or(usize::MAX))
                .map(|frame| {
                    let (head, page) = frame.split_at(FRAME_HEADER_SIZE);
                    let mut bytes = [0; FRAME_HEADER_SIZE];
                    bytes.copy_from_slice(head);
                    Slot {
                        header: FrameHeader::decode(&bytes),
                        part: Checksum::default().extend(order, &head[..8]).extend(order, page),
                    }
                }),
        );
        next += u32::try_from(frames).unwrap_or(u32::MAX);
    }
    Ok(slots)
}

fn check(slot: &Slot, salts: Salts, computed: Checksum) -> Result<(), ScanEnd> {
    if slot.header.salts != salts {
        Err(ScanEnd::Salt)
    } else if slot.header.page == 0 {
        Err(ScanEnd::ZeroPage)
    } else if slot.header.checksum != computed {
        Err(ScanEnd::Checksum)
    } else {
        Ok(())
    }
}
