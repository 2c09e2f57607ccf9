//! Mending frames that rotted while the log is open.

use super::Shared;
use super::read::verifies;
use crate::format::{FRAME_HEADER_SIZE, WalHeader, frame_offset};
use crate::index::FrameIndex;
use crate::recovery::aside_name;
use std::collections::BTreeSet;
use walmend_types::{Error, FrameNumber, Result, Salts, SyncMode};
use walmend_vfs::OpenFlags;

/// Hopeless frames that are remembered: looking for one again reads the whole log.
const REMEMBERED: usize = 4096;

/// What mending has come to.
#[derive(Debug, Default)]
pub(super) struct Mending {
    /// Frames that were rebuilt.
    pub(super) frames: u64,
    /// The log that `hopeless` speaks of.
    salts: Salts,
    /// Frames that could not be rebuilt.
    hopeless: BTreeSet<u32>,
}

impl Shared {
    /// Tries to have `frame`, which does not verify, put back as it was, and with it all others that can be. Answers
    /// whether it makes sense to read it again. The caller keeps the log from being reset.
    ///
    /// The frames are published, so that nobody else writes where they stand. A failure here is told to the events:
    /// the caller's own error says what matters.
    pub(super) fn mend(&self, header: &WalHeader, index: &FrameIndex, frame: FrameNumber) -> bool {
        let Some(protection) = &self.protection else {
            return false;
        };
        let mut mending = self.mending.lock();
        if mending.salts != header.salts {
            mending.salts = header.salts;
            mending.hopeless.clear();
        }
        if mending.hopeless.contains(&frame.0) {
            return false;
        }
        let rebuilt = protection.rebuild(&*self.wal).map(|rebuilt| {
            let own = rebuilt.into_iter().filter(|(frame, bytes)| {
                let frame = FrameNumber(*frame);
                let head = bytes
                    .split_first_chunk::<FRAME_HEADER_SIZE>()
                    .zip(index.page_of(frame));
                head.is_some_and(|((head, image), page)| verifies(header, index, frame, page, head, image))
            });
            own.collect::<Vec<_>>()
        });
        let mended = rebuilt.and_then(|rebuilt| {
            if !rebuilt.is_empty() {
                self.put_back(header, &rebuilt)?;
            }
            Ok(rebuilt.len())
        });
        match mended {
            // Somebody else may have mended it meanwhile.
            Ok(0) => true,
            Ok(frames) => {
                mending.frames += frames as u64;
                tracing::warn!(target: "walmend::wal::read", frames, "damaged frames were rebuilt");
                true
            }
            Err(error) => {
                tracing::error!(target: "walmend::wal::read", %frame, %error, "a damaged frame cannot be mended");
                false
            }
        }
    }

    /// Mending `frame` was of no use: it is not tried again in this generation.
    pub(super) fn give_up(&self, frame: FrameNumber) {
        let mut mending = self.mending.lock();
        if mending.hopeless.len() < REMEMBERED {
            mending.hopeless.insert(frame.0);
        }
    }

    /// Writes frames in their places, syncs them, and reads them back from the device. What stood there is kept in a
    /// file beside the log, at the same offsets.
    fn put_back(&self, header: &WalHeader, frames: &[(u32, Vec<u8>)]) -> Result<()> {
        let offset = |frame: u32| frame_offset(frame, header.page_size);
        let aside = aside_name(&*self.vfs, &self.files.wal)?;
        let copy = self.vfs.open(&aside, OpenFlags::CREATE_NEW)?;
        for (frame, bytes) in frames {
            let mut damaged = vec![0; bytes.len()];
            let read = self.wal.read_at(&mut damaged, offset(*frame))?;
            copy.write_at(&damaged[..read], offset(*frame))?;
        }
        copy.sync(SyncMode::Full)?;
        for (frame, bytes) in frames {
            self.wal.write_at(bytes, offset(*frame))?;
        }
        self.sync_wal(SyncMode::Data)?;
        for (frame, bytes) in frames {
            let mut found = vec![0; bytes.len()];
            let read = self.wal.read_from_device(&mut found, offset(*frame))?;
            if read.bytes < found.len() || found != *bytes {
                let lost = std::io::Error::other(format!(
                    "frame {frame} was rebuilt, written and synced, but something else is there"
                ));
                return Err(Error::io("verify", self.wal.path(), Some(offset(*frame)), lost));
            }
        }
        Ok(())
    }
}
