//! A log as it would be with what is rebuilt so far.

use std::borrow::Cow;
use std::collections::BTreeMap;
use walmend_types::Result;
use walmend_vfs::VfsFile;
use walmend_wal::{Checksum, FRAME_HEADER_SIZE, FrameHeader, WalHeader, frame_offset, frame_size};

/// A log, with rebuilt frames over it.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    file: &'a dyn VfsFile,
    pub(crate) header: WalHeader,
    pub(crate) rebuilt: BTreeMap<u32, Vec<u8>>,
}

impl<'a> Image<'a> {
    pub(crate) fn new(file: &'a dyn VfsFile, header: WalHeader) -> Self {
        Self {
            file,
            header,
            rebuilt: BTreeMap::new(),
        }
    }

    /// Frame `frame` (from 1) as it stands in the file; `None` if the file ends before it does.
    pub(crate) fn standing(&self, frame: u32) -> Result<Option<Vec<u8>>> {
        // A frame has at most 65560 bytes.
        let mut bytes = vec![0; frame_size(self.header.page_size) as usize];
        let read = self
            .file
            .read_at(&mut bytes, frame_offset(frame, self.header.page_size))?;
        Ok((read == bytes.len()).then_some(bytes))
    }

    /// Frame `frame`, rebuilt or as it stands.
    pub(crate) fn frame(&self, frame: u32) -> Result<Option<Cow<'_, [u8]>>> {
        match self.rebuilt.get(&frame) {
            Some(bytes) => Ok(Some(Cow::Borrowed(bytes))),
            None => Ok(self.standing(frame)?.map(Cow::Owned)),
        }
    }

    /// The chain checksum that frame `frame` stores, rebuilt or as it stands; the header's for 0.
    pub(crate) fn stored(&self, frame: u32) -> Result<Option<Checksum>> {
        match frame {
            0 => Ok(Some(self.header.checksum())),
            _ => Ok(self.frame(frame)?.and_then(|bytes| stored_in(&bytes))),
        }
    }

    /// The chain checksum that stands in frame `frame` of the file; the header's for 0.
    pub(crate) fn stored_standing(&self, frame: u32) -> Result<Option<Checksum>> {
        match frame {
            0 => Ok(Some(self.header.checksum())),
            _ => Ok(self.standing(frame)?.and_then(|bytes| stored_in(&bytes))),
        }
    }
}

/// The chain checksum that a frame stores.
pub(crate) fn stored_in(frame: &[u8]) -> Option<Checksum> {
    let head = frame.first_chunk::<FRAME_HEADER_SIZE>()?;
    Some(FrameHeader::decode(head).checksum)
}
