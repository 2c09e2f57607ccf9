//! A file that is written past the page cache, byte by byte as seen from above.
//!
//! Direct I/O writes whole blocks. So a write is widened to the blocks that cover it; what of the first and the last
//! one is not written comes from memory where this file wrote that block last, and is read back otherwise. For an
//! append that means: the block with the tail of the file is kept, and rewritten with the next bytes behind it.
//! One copy of each byte is the price; the page cache makes the same one.
//!
//! All writes of an open file go this way or none: a cached page that is dirty while its blocks are written past it
//! would undo that write when it is written back.

use crate::aligned::block_of;
use crate::{AlignedBuf, DIRECT_BLOCK, DeviceRead, LockHolder, LockKind, LockRange, VfsFile, checks};
use std::fmt;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use walmend_sync::Mutex;
use walmend_types::{Result, SyncMode};

/// Bytes per call to the system, at most; also what the buffer grows to.
const CHUNK: u64 = 1 << 20;

/// An open file whose writes all pass the page cache, in whole blocks: the last one, which frames share, is kept in memory.
///
/// Differences from the file underneath: writing can leave it longer than asked for, up to the end of the last
/// block, with zeros; and nobody else may write the file while this one is open.
#[derive(Debug)]
pub struct DirectFile {
    file: Arc<dyn VfsFile>,
    state: Mutex<State>,
}

struct State {
    buffer: AlignedBuf,
    /// The last block of the last write, and where it starts; `None` when nothing is known.
    kept: Option<u64>,
    block: Box<[u8; DIRECT_BLOCK]>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("buffer", &self.buffer)
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

/// What is to stand behind a write, up to the end of its last block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// What stood there.
    Kept,
    /// Zeros: it was nothing.
    Zeros,
}

impl DirectFile {
    /// Writes to `file` go past the cache from now on. Whoever has written to it before has synced that.
    pub fn new(file: Arc<dyn VfsFile>) -> Self {
        Self {
            file,
            state: Mutex::new(State {
                buffer: AlignedBuf::zeroed(4 * DIRECT_BLOCK),
                kept: None,
                block: Box::new([0; DIRECT_BLOCK]),
            }),
        }
    }

    fn write(&self, bufs: &[IoSlice<'_>], offset: u64, behind: Behind) -> Result<()> {
        let total: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
        let end = checks::end_of(offset, total)?;
        let mut state = self.state.lock();
        let State { buffer, kept, block } = &mut *state;
        // After a failure nothing is known of what this write may have reached.
        let known = kept.take();
        let load = |start: u64, into: &mut [u8]| -> Result<()> {
            if known == Some(start) {
                into.copy_from_slice(&**block);
                return Ok(());
            }
            // Through the cache, which is what writing through the cache would have kept.
            let read = self.file.read_at(into, start)?;
            into[read..].fill(0);
            Ok(())
        };
        let mut bytes = Bytes { bufs, at: 0 };
        let mut last = None;
        let mut position = offset;
        while position < end {
            let start = block_of(position);
            let stop = end.next_multiple_of(DIRECT_BLOCK as u64).min(start + CHUNK);
            let len = (stop - start) as usize;
            if buffer.len() < len {
                *buffer = AlignedBuf::zeroed(len.next_power_of_two());
            }
            let blocks = &mut buffer[..len];
            let from = (position - start) as usize;
            let to = (end.min(stop) - start) as usize;
            if from > 0 {
                load(start, &mut blocks[..DIRECT_BLOCK])?;
            }
            if to < len {
                match behind {
                    Behind::Zeros => blocks[to..].fill(0),
                    Behind::Kept if from > 0 && len == DIRECT_BLOCK => {}
                    Behind::Kept => load(stop - DIRECT_BLOCK as u64, &mut blocks[len - DIRECT_BLOCK..])?,
                }
            }
            bytes.take(&mut blocks[from..to]);
            if let Err(error) = self.file.write_direct(blocks, start) {
                if behind == Behind::Zeros {
                    self.cut_partial_block(offset);
                }
                return Err(error);
            }
            last = Some((stop - DIRECT_BLOCK as u64, len - DIRECT_BLOCK));
            position = end.min(stop);
        }
        if let Some((start, at)) = last {
            block.copy_from_slice(&buffer[at..at + DIRECT_BLOCK]);
            *kept = Some(start);
        } else {
            *kept = known;
        }
        Ok(())
    }
}

impl DirectFile {
    /// After a failed append the file can end within a block. To make such an append harmless its first bytes are
    /// overwritten, which takes whole blocks: on a full disk there may be no room for the rest of the last one.
    fn cut_partial_block(&self, appended_at: u64) {
        let cut = self.file.len().and_then(|len| {
            let whole = block_of(len);
            if whole < len && whole >= appended_at {
                self.file.truncate(whole)?;
            }
            Ok(())
        });
        if let Err(error) = cut {
            tracing::warn!(target: "walmend::vfs::direct", %error, "a failed append left part of a block");
        }
    }
}

/// The bytes of several buffers, one after the other.
struct Bytes<'a> {
    bufs: &'a [IoSlice<'a>],
    /// How much of the first buffer is taken.
    at: usize,
}

impl Bytes<'_> {
    fn take(&mut self, mut into: &mut [u8]) {
        while let Some((first, others)) = self.bufs.split_first()
            && !into.is_empty()
        {
            let rest = &first[self.at..];
            let len = rest.len().min(into.len());
            into[..len].copy_from_slice(&rest[..len]);
            into = &mut into[len..];
            self.at += len;
            if self.at == first.len() {
                self.bufs = others;
                self.at = 0;
            }
        }
    }
}

impl VfsFile for DirectFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.write(bufs, offset, Behind::Kept)
    }

    fn append_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        self.write(bufs, offset, Behind::Zeros)
    }

    fn write_direct(&self, blocks: &[u8], offset: u64) -> Result<()> {
        self.write(&[IoSlice::new(blocks)], offset, Behind::Kept)
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn truncate(&self, len: u64) -> Result<()> {
        let mut state = self.state.lock();
        state.kept = None;
        self.file.truncate(len)
    }

    fn preallocate(&self, start: u64, end: u64) -> Result<()> {
        checks::ordered(start, end)?;
        let zeros = vec![0; (end - start).min(CHUNK) as usize];
        let mut offset = start;
        while offset < end {
            let len = (end - offset).min(CHUNK);
            self.write(&[IoSlice::new(&zeros[..len as usize])], offset, Behind::Zeros)?;
            offset += len;
        }
        Ok(())
    }

    fn sync(&self, mode: SyncMode) -> Result<()> {
        self.file.sync(mode)
    }

    fn read_from_device(&self, buf: &mut [u8], offset: u64) -> Result<DeviceRead> {
        self.file.read_from_device(buf, offset)
    }

    fn drop_cache(&self) -> Result<()> {
        self.state.lock().kept = None;
        self.file.drop_cache()
    }

    fn try_lock(&self, range: LockRange, kind: LockKind) -> Result<bool> {
        self.file.try_lock(range, kind)
    }

    fn unlock(&self, range: LockRange) -> Result<()> {
        self.file.unlock(range)
    }

    fn lock_holder(&self, range: LockRange, kind: LockKind) -> Result<Option<LockHolder>> {
        self.file.lock_holder(range, kind)
    }
}
