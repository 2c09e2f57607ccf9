//! Reading at a snapshot.

use super::{Log, Readers, Shared};
use crate::checksum::Checksum;
use crate::format::{FRAME_HEADER_SIZE, FrameHeader, WalHeader, frame_offset};
use crate::index::FrameIndex;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use walmend_types::{CommitSeq, Error, FrameNumber, PageNumber, Result};

/// Where a page was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageSource {
    /// The log, at this frame; the frame's checksum was verified.
    Log(FrameNumber),
    /// The database file.
    Database,
}

/// A snapshot of the log: what was committed when it began, for as long as it lives. It keeps the log from
/// being reset, so do not hold it for longer than needed.
pub struct ReadMark {
    shared: Arc<Shared>,
    index: Arc<FrameIndex>,
    header: Option<WalHeader>,
    generation: u64,
    frame: u32,
    commit_seq: CommitSeq,
    db_pages: u32,
    high_water: u32,
}

impl Log {
    /// Begins a snapshot of everything published so far.
    pub fn begin_read(&self) -> ReadMark {
        self.begin_read_or(|| {})
    }

    /// Like [`begin_read`](Self::begin_read), and calls `waits` once, if a checkpoint keeps new snapshots out and this
    /// one has to wait until it is over.
    pub fn begin_read_or(&self, waits: impl FnOnce()) -> ReadMark {
        let mut visible = self.shared.visible.lock();
        if visible.gate {
            // What the caller does with it takes locks of its own.
            drop(visible);
            waits();
            visible = self.shared.visible.lock();
        }
        while visible.gate {
            visible = self.shared.changed.wait(visible);
        }
        let (frame, commit_seq) = (visible.frames, visible.commit_seq);
        let new = || Readers {
            frame,
            count: 0,
            since: Instant::now(),
        };
        visible.readers.entry(commit_seq).or_insert_with(new).count += 1;
        ReadMark {
            shared: Arc::clone(&self.shared),
            index: Arc::clone(&visible.index),
            header: visible.header,
            generation: visible.generation,
            frame,
            commit_seq,
            db_pages: visible.db_pages,
            high_water: visible.high_water,
        }
    }
}

impl ReadMark {
    /// The last commit that it sees.
    pub fn commit_seq(&self) -> CommitSeq {
        self.commit_seq
    }

    /// The size of the database, in pages.
    pub fn db_pages(&self) -> u32 {
        self.db_pages
    }

    /// The last page that may still have content, at least the size of the database. Where the database has
    /// shrunk, pages up to it hold what was cut off: a commit that grows the database again has to write them.
    pub fn high_water(&self) -> u32 {
        self.high_water
    }

    /// The last frame that it sees.
    pub fn frame(&self) -> FrameNumber {
        FrameNumber(self.frame)
    }

    /// Counts the resets of the log since it was opened.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether nothing newer of a page is published than what this snapshot sees. A later change of the database's
    /// size alone does not count.
    pub fn is_current(&self, page: PageNumber) -> bool {
        let (index, frames, generation) = {
            let visible = self.shared.visible.lock();
            (Arc::clone(&visible.index), visible.frames, visible.generation)
        };
        let newest = index.find(page, FrameNumber(frames));
        if generation == self.generation {
            return newest == self.index.find(page, FrameNumber(self.frame));
        }
        // Only a log that was empty when the snapshot began can have been begun since: all of it is newer.
        newest.is_none()
    }

    /// Reads a page into `buf`, which is exactly one page. A page within the database that was never written
    /// reads as zeros.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a page past the end of the database, [`Error::WalCorrupt`] for a frame that
    /// does not verify, I/O errors.
    pub fn read(&self, page: PageNumber, buf: &mut [u8]) -> Result<PageSource> {
        let page_size = self.shared.page_size;
        if buf.len() != page_size.as_usize() {
            return Err(Error::Invalid(format!(
                "a buffer of {} bytes cannot hold a page of {page_size}",
                buf.len()
            )));
        }
        if page.get() > self.db_pages {
            return Err(Error::OutOfRange {
                what: "page",
                value: page.get().into(),
                expected: format!("the database has {} pages", self.db_pages),
            });
        }
        if let (Some(header), PageSource::Log(frame)) = (&self.header, self.source(page)) {
            read_verified(&self.shared, header, &self.index, frame, page, buf)?;
            return Ok(PageSource::Log(frame));
        }
        let read = self.shared.db.read_at(buf, page.offset(page_size))?;
        buf[read..].fill(0);
        Ok(PageSource::Database)
    }

    /// Where [`read`](Self::read) looks for a page.
    pub fn source(&self, page: PageNumber) -> PageSource {
        let frame = self.index.find(page, FrameNumber(self.frame));
        match frame.filter(|_| self.header.is_some()) {
            Some(frame) => PageSource::Log(frame),
            None => PageSource::Database,
        }
    }
}

/// Reads a frame and checks it in full: page number, salts, and its own link of the checksum chain. One that does not
/// verify is rebuilt, where something is there to rebuild it from, and read again.
pub(crate) fn read_verified(
    shared: &Shared,
    header: &WalHeader,
    index: &FrameIndex,
    frame: FrameNumber,
    page: PageNumber,
    buf: &mut [u8],
) -> Result<()> {
    if read_intact(shared, header, index, frame, page, buf)? {
        return Ok(());
    }
    tracing::error!(target: "walmend::wal::read", %frame, %page, "a frame does not verify");
    if shared.mend(header, index, frame) {
        if read_intact(shared, header, index, frame, page, buf)? {
            return Ok(());
        }
        shared.give_up(frame);
    }
    Err(Error::WalCorrupt {
        path: shared.files.wal.clone(),
        frame: frame.0,
        offset: frame_offset(frame.0, header.page_size),
        lost_commits: 0,
        detail: format!("the frame that holds page {page} is not what was written"),
    })
}

/// Reads a frame; answers whether it verifies.
fn read_intact(
    shared: &Shared,
    header: &WalHeader,
    index: &FrameIndex,
    frame: FrameNumber,
    page: PageNumber,
    buf: &mut [u8],
) -> Result<bool> {
    let offset = frame_offset(frame.0, header.page_size);
    let mut head = [0; FRAME_HEADER_SIZE];
    let read = shared.wal.read_at(&mut head, offset)?;
    let read = if read == head.len() {
        read + shared.wal.read_at(buf, offset + head.len() as u64)?
    } else {
        read
    };
    let whole = read == head.len() + buf.len();
    Ok(whole && verifies(header, index, frame, page, &head, buf))
}

/// Whether a frame is the one that was appended in its place, as far as the log's own checksum can tell.
pub(super) fn verifies(
    header: &WalHeader,
    index: &FrameIndex,
    frame: FrameNumber,
    page: PageNumber,
    head: &[u8; FRAME_HEADER_SIZE],
    image: &[u8],
) -> bool {
    let found = FrameHeader::decode(head);
    let before = match frame.0 {
        1 => Some(header.checksum()),
        _ => index.checksum(FrameNumber(frame.0 - 1)).map(Checksum::from),
    };
    let computed = before.map(|before| {
        before
            .extend(header.byte_order, &head[..8])
            .extend(header.byte_order, image)
            .pair()
    });
    let known = index.checksum(frame);
    found.page == page.get()
        && found.salts == header.salts
        && known.is_some()
        && computed == known
        && Some(found.checksum.pair()) == known
}

impl Drop for ReadMark {
    fn drop(&mut self) {
        let mut visible = self.shared.visible.lock();
        if let Some(readers) = visible.readers.get_mut(&self.commit_seq) {
            readers.count -= 1;
            if readers.count == 0 {
                visible.readers.remove(&self.commit_seq);
            }
        }
        let waited_for = visible.gate;
        drop(visible);
        if waited_for {
            self.shared.changed.notify_all();
        }
    }
}

impl fmt::Debug for ReadMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadMark")
            .field("generation", &self.generation)
            .field("frame", &self.frame)
            .field("commit_seq", &self.commit_seq)
            .field("db_pages", &self.db_pages)
            .finish_non_exhaustive()
    }
}
