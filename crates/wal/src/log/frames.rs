//! Published frames as they stand in the file, for whoever protects them.

use super::{Log, LogIo, Shared};
use crate::checksum::Checksum;
use crate::format::{FRAME_HEADER_SIZE, FrameHeader, WalHeader, frame_offset, frame_size};
use walmend_types::{Error, FrameNumber, Result};

/// Published frames, side by side, as they stand in the file: not verified. They are what was committed if they
/// chain from `before` to `after`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameRun {
    /// The header of the log.
    pub header: WalHeader,
    /// The first frame.
    pub first: u32,
    /// The chain checksum before it, as it was when it was appended; not what the file holds.
    pub before: Checksum,
    /// The chain checksum after the last frame, likewise.
    pub after: Checksum,
    /// The last published frame of the log: it ends a commit.
    pub committed: u32,
    /// The frames, each with its header.
    pub bytes: Vec<u8>,
}

impl Shared {
    /// Reads the log past the page cache if it is written so: a cached page of it would only have to be dropped by the
    /// write that comes to stand there, while a commit waits.
    fn read_as_written(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self.log_io {
            LogIo::Direct => self.wal.read_exact_from_device(buf, offset),
            _ => self.wal.read_exact_at(buf, offset),
        }
    }
}

impl Log {
    /// Reads the published frames `first..first + count` of a generation. `None` if the log has gone on to another
    /// one: its frames are in the database then.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for frames that are not published, I/O errors.
    pub fn read_frames(&self, generation: u64, first: u32, count: u32) -> Result<Option<FrameRun>> {
        let (header, index, committed) = {
            let visible = self.shared.visible.lock();
            let current = visible.generation == generation;
            let Some(header) = visible.header.filter(|_| current) else {
                return Ok(None);
            };
            (header, visible.index.clone(), visible.frames)
        };
        let last = first.checked_add(count).and_then(|end| end.checked_sub(1));
        let Some(last) = last.filter(|last| first > 0 && count > 0 && *last <= committed) else {
            return Err(Error::OutOfRange {
                what: "frames of the log",
                value: first.into(),
                expected: format!("{count} frames from there within 1..={committed}"),
            });
        };
        let chain = |frame: u32| match frame {
            0 => Some(header.checksum()),
            _ => index.checksum(FrameNumber(frame)).map(Checksum::from),
        };
        let (Some(before), Some(after)) = (chain(first - 1), chain(last)) else {
            return Err(Error::Internal(format!(
                "frame {last} is published and not in the index"
            )));
        };
        let bytes = u64::from(count) * frame_size(header.page_size);
        let mut bytes = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        let read = self
            .shared
            .read_as_written(&mut bytes, frame_offset(first, header.page_size));
        // A reset meanwhile explains whatever was read.
        if self.status().generation != generation {
            return Ok(None);
        }
        read?;
        Ok(Some(FrameRun {
            header,
            first,
            before,
            after,
            committed,
            bytes,
        }))
    }

    /// The published frames from `first` on that end a commit, ascending, as the file says.
    ///
    /// # Errors
    /// I/O errors.
    pub fn commit_frames(&self, first: u32) -> Result<Vec<u32>> {
        let (header, committed) = {
            let visible = self.shared.visible.lock();
            (visible.header, visible.frames)
        };
        let Some(header) = header else {
            return Ok(Vec::new());
        };
        let mut ends = Vec::new();
        let mut bytes = [0; FRAME_HEADER_SIZE];
        for frame in first.max(1)..=committed {
            self.shared
                .wal
                .read_exact_at(&mut bytes, frame_offset(frame, header.page_size))?;
            if FrameHeader::decode(&bytes).db_pages != 0 {
                ends.push(frame);
            }
        }
        Ok(ends)
    }
}
