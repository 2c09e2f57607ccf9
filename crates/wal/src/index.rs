//! The frame index: which frame of the log holds a page.
//!
//! The layout is that of SQLite's wal-index (its `-shm` file; see "WAL-Index File Format" at
//! <https://www.sqlite.org/walformat.html>), kept in heap memory: blocks of 32 KiB, each an array with the page
//! number of every frame and a hash table of 8192 slots over them. The first block gives 136 bytes to the
//! header, so it covers 4062 frames and later ones 4096. The hash of a page is `page * 383 mod 8192`; a
//! taken slot moves on to the next one; a slot holds the frame's position in its block from 1, and 0 when free.
//! Since nothing is ever removed, a page's later frames stand further along its chain.
//!
//! # Why readers need no lock
//! One number is published: [`last`](FrameIndex::last), with release order, after everything about that
//! frame is stored. A reader loads it first, with acquire order, and ignores every slot that points behind
//! it. What it does not ignore was stored before, so all other accesses may be relaxed. A slot of a frame
//! that is just being inserted can only stand at the end of a chain, and is skipped or not yet seen.

use std::fmt;
use std::sync::OnceLock;
use walmend_sync::Mutex;
use walmend_sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use walmend_types::{Error, FrameNumber, PageNumber, Result};

/// Hash slots in a block: twice the frames, so that a probe always finds a free one.
const SLOTS: usize = if cfg!(walmend_loom) { 4 } else { 8192 };
/// Frames in every block but the first.
const FRAMES: usize = SLOTS / 2;
/// Frames that the first block gives up for the header: 136 bytes of four-byte page numbers.
const HEADER_FRAMES: usize = if cfg!(walmend_loom) { 1 } else { 136 / 4 };
/// SQLite's multiplier.
const MULTIPLIER: u32 = 383;
/// Segment `n` of the directory holds `2^n` blocks; these reach past frame `2^32 - 1`.
const SEGMENTS: usize = if cfg!(walmend_loom) { 3 } else { 21 };

/// Where a frame stands: its block, and its position there from 0.
fn place(frame: FrameNumber) -> (usize, usize) {
    let counted = u64::from(frame.0) - 1 + HEADER_FRAMES as u64;
    let block = (counted / FRAMES as u64) as usize;
    let position = (counted % FRAMES as u64) as usize;
    match block {
        0 => (0, position - HEADER_FRAMES),
        _ => (block, position),
    }
}

/// How many frames all blocks before this one cover.
fn frames_before(block: usize) -> u32 {
    (block as u64 * FRAMES as u64).saturating_sub(HEADER_FRAMES as u64) as u32
}

/// The slot where the chain of a page begins.
fn hash(page: PageNumber) -> usize {
    page.get().wrapping_mul(MULTIPLIER) as usize % SLOTS
}

/// The slots from the start of a page's chain on, once around.
fn chain(page: PageNumber) -> impl Iterator<Item = usize> {
    around(hash(page))
}

/// The slots from this one on, once around.
fn around(start: usize) -> impl Iterator<Item = usize> {
    (start..SLOTS).chain(0..start)
}

/// Pages whose last slot the writer remembers.
const REMEMBERED: usize = 32;

/// What only the writer knows.
#[derive(Debug)]
struct Writer {
    /// The last frame that was inserted. A number of its own, because loom overlooks the race between a
    /// reader's load and a store that its thread prepared with another load of the same atomic.
    last: u32,
    /// By the remainder of the page number: the page, its block, and the slot that it took there last. No slot between
    /// the start of a chain and there is free, and none ever becomes so: the next search begins behind. Without it a
    /// page that is written again and again walks over all of its own frames in the block.
    taken: [(u32, u32, u16); REMEMBERED],
}

#[derive(Debug)]
struct Block {
    /// The page of each frame, by position.
    pages: Box<[AtomicU32]>,
    /// The hash table: positions from 1, 0 for free.
    slots: Box<[AtomicU16]>,
    /// The stored chain checksum of each frame, `s0 << 32 | s1`; not part of SQLite's layout.
    checksums: Box<[AtomicU64]>,
}

impl Block {
    fn new(number: usize) -> Self {
        let frames = if number == 0 {
            FRAMES - HEADER_FRAMES
        } else {
            FRAMES
        };
        Self {
            pages: (0..frames).map(|_| AtomicU32::new(0)).collect(),
            slots: (0..SLOTS).map(|_| AtomicU16::new(0)).collect(),
            checksums: (0..frames).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The highest position from 1 at which the page stands, up to `limit`.
    fn find(&self, page: PageNumber, limit: u32) -> Option<u32> {
        let mut newest = None;
        for slot in chain(page) {
            match u32::from(self.slots[slot].load(Ordering::Relaxed)) {
                0 => break,
                position if position > limit => {}
                position => {
                    if self.pages[position as usize - 1].load(Ordering::Relaxed) == page.get() {
                        newest = Some(position);
                    }
                }
            }
        }
        newest
    }
}

type Segment = Box<[OnceLock<Box<Block>>]>;

/// "Newest frame of page p at or before frame f", for one generation of a log.
///
/// One thread inserts, any number find at the same time without locking. Nothing is removed: a reset of the
/// log starts a new index. Memory: under a KiB when empty, then 64 KiB for every 4096 frames.
///
/// ```
/// use walmend_types::{FrameNumber, PageNumber};
/// use walmend_wal::FrameIndex;
///
/// let index = FrameIndex::new();
/// let page = PageNumber::new(7)?;
/// index.insert(FrameNumber(1), page, (10, 20))?;
/// index.insert(FrameNumber(2), page, (30, 40))?;
/// assert_eq!(index.find(page, FrameNumber(2)), Some(FrameNumber(2)));
/// assert_eq!(index.find(page, FrameNumber(1)), Some(FrameNumber(1)));
/// assert_eq!(index.checksum(FrameNumber(2)), Some((30, 40)));
/// # Ok::<(), walmend_types::Error>(())
/// ```
pub struct FrameIndex {
    /// The last frame that readers may see, 0 for none. Only [`insert`](Self::insert) stores it.
    last: AtomicU32,
    /// Growing doubles the directory by adding a segment, so that nothing ever moves under a reader.
    directory: [OnceLock<Segment>; SEGMENTS],
    /// Held while inserting: a second writer is a bug, and gets an error instead of mixing up two frames.
    writer: Mutex<Writer>,
}

impl fmt::Debug for FrameIndex {
    /// Without its entries, which can be millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameIndex")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl Default for FrameIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameIndex {
    /// An index without frames.
    pub fn new() -> Self {
        Self {
            last: AtomicU32::new(0),
            directory: [const { OnceLock::new() }; SEGMENTS],
            writer: Mutex::new(Writer {
                last: 0,
                taken: [(0, 0, 0); REMEMBERED],
            }),
        }
    }

    /// Adds the frame after [`last`](Self::last), with its page and its stored chain checksum, and lets
    /// readers see it.
    ///
    /// # Errors
    /// [`Error::Internal`] if it is not the next frame; the index is unchanged.
    pub fn insert(&self, frame: FrameNumber, page: PageNumber, checksum: (u32, u32)) -> Result<()> {
        let mut writer = self.writer.lock();
        if writer.last.checked_add(1) != Some(frame.0) {
            return Err(Error::Internal(format!(
                "frame {frame} was indexed after frame {}",
                writer.last
            )));
        }
        let (number, position) = place(frame);
        let block = self.block_or_new(number);
        let remembered = page.get() as usize % REMEMBERED;
        let start = match writer.taken[remembered] {
            (of, block, slot) if of == page.get() && block as usize == number => (slot as usize + 1) % SLOTS,
            _ => hash(page),
        };
        let free = around(start)
            .find(|&slot| block.slots[slot].load(Ordering::Relaxed) == 0)
            .ok_or_else(|| Error::Internal(format!("block {number} of the frame index has no free slot")))?;
        block.pages[position].store(page.get(), Ordering::Relaxed);
        block.checksums[position].store(
            u64::from(checksum.0) << 32 | u64::from(checksum.1),
            Ordering::Relaxed,
        );
        block.slots[free].store(position as u16 + 1, Ordering::Relaxed);
        writer.taken[remembered] = (page.get(), number as u32, free as u16);
        writer.last = frame.0;
        self.last.store(frame.0, Ordering::Release);
        Ok(())
    }

    /// The newest frame of a page at or before `at_most`, among the frames that are in when the call begins.
    pub fn find(&self, page: PageNumber, at_most: FrameNumber) -> Option<FrameNumber> {
        let limit = at_most.min(self.last());
        if limit.0 == 0 {
            return None;
        }
        let (newest_block, _) = place(limit);
        (0..=newest_block).rev().find_map(|number| {
            let before = frames_before(number);
            let position = self.block(number)?.find(page, limit.0 - before)?;
            Some(FrameNumber(before + position))
        })
    }

    /// The page that a frame holds; `None` for a frame that is not in.
    pub fn page_of(&self, frame: FrameNumber) -> Option<PageNumber> {
        let (block, position) = self.locate(frame)?;
        PageNumber::new(block.pages[position].load(Ordering::Relaxed)).ok()
    }

    /// The chain checksum that is stored in a frame's header: with that of the frame before, a frame can be
    /// verified by itself. `None` for a frame that is not in.
    pub fn checksum(&self, frame: FrameNumber) -> Option<(u32, u32)> {
        let (block, position) = self.locate(frame)?;
        let packed = block.checksums[position].load(Ordering::Relaxed);
        Some(((packed >> 32) as u32, packed as u32))
    }

    /// The last frame that is in, 0 for none.
    pub fn last(&self) -> FrameNumber {
        FrameNumber(self.last.load(Ordering::Acquire))
    }

    /// What a checkpoint copies: for each page with a frame behind `after` and at or before `upto`, the
    /// newest such frame; in page order. Takes 8 bytes for each frame in the range while it runs.
    pub fn newest_pages(&self, after: FrameNumber, upto: FrameNumber) -> Vec<(PageNumber, FrameNumber)> {
        let upto = upto.min(self.last());
        let mut frames: Vec<(PageNumber, FrameNumber)> = (after.0.saturating_add(1)..=upto.0)
            .map(FrameNumber)
            .filter_map(|frame| Some((self.page_of(frame)?, frame)))
            .collect();
        // Newest first among the frames of a page, so that removing repeats keeps that one.
        frames.sort_unstable_by_key(|&(page, frame)| (page, std::cmp::Reverse(frame)));
        frames.dedup_by_key(|&mut (page, _)| page);
        frames
    }

    fn locate(&self, frame: FrameNumber) -> Option<(&Block, usize)> {
        if frame.0 == 0 || frame > self.last() {
            return None;
        }
        let (number, position) = place(frame);
        Some((self.block(number)?, position))
    }

    fn block(&self, number: usize) -> Option<&Block> {
        let (segment, position) = directory_place(number);
        Some(self.directory[segment].get()?[position].get()?)
    }

    fn block_or_new(&self, number: usize) -> &Block {
        let (segment, position) = directory_place(number);
        let blocks =
            self.directory[segment].get_or_init(|| (0..1 << segment).map(|_| OnceLock::new()).collect());
        blocks[position].get_or_init(|| Box::new(Block::new(number)))
    }
}

/// The segment of a block, and its position there. Segment `n` begins with block `2^n - 1`.
fn directory_place(block: usize) -> (usize, usize) {
    let segment = (block + 1).ilog2() as usize;
    (segment, block + 1 - (1 << segment))
}

#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_block_fills_32_kib_with_sqlites_numbers() {
        let block = |number| {
            let block = Block::new(number);
            (block.pages.len(), block.pages.len() * 4 + block.slots.len() * 2)
        };
        assert_eq!(block(0), (4062, 32768 - 136));
        assert_eq!(block(1), (4096, 32768));
    }

    #[test]
    fn frames_follow_each_other_through_the_blocks() {
        assert_eq!(place(FrameNumber(1)), (0, 0));
        assert_eq!(place(FrameNumber(4062)), (0, 4061));
        assert_eq!(place(FrameNumber(4063)), (1, 0));
        assert_eq!(place(FrameNumber(8158)), (1, 4095));
        assert_eq!(place(FrameNumber(8159)), (2, 0));
        for frame in (1..=20_000).chain(u32::MAX - 5..=u32::MAX) {
            let (block, position) = place(FrameNumber(frame));
            assert_eq!(frames_before(block) + position as u32 + 1, frame);
        }
    }

    #[test]
    fn the_directory_has_a_place_for_the_last_frame_there_can_be() {
        let mut next = (0, 0);
        for block in 0..5000 {
            assert_eq!(directory_place(block), next);
            next = match next {
                (segment, position) if position + 1 == 1 << segment => (segment + 1, 0),
                (segment, position) => (segment, position + 1),
            };
        }
        let (block, _) = place(FrameNumber(u32::MAX));
        assert!(directory_place(block).0 < SEGMENTS);
    }

    #[test]
    fn pages_hash_as_in_sqlite() {
        let hash_of = |page| hash(PageNumber::new(page).unwrap());
        assert_eq!(hash_of(1), 383);
        assert_eq!(hash_of(22), 383 * 22 - 8192);
        // 383 * 4294967295 mod 2^32 is 2^32 - 383.
        assert_eq!(hash_of(u32::MAX), 8192 - 383);
    }

    #[test]
    fn an_empty_index_takes_less_than_a_kib() {
        assert!(size_of::<FrameIndex>() < 1024);
        let index = FrameIndex::new();
        assert!(index.directory.iter().all(|segment| segment.get().is_none()));
    }
}
