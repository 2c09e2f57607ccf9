//! Appending groups to a sidecar.

use super::GroupHeader;
use super::index::SidecarIndex;
use super::record::{ALIGN, Kind, encode_group, group_id, put_record};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use walmend_types::{Error, Result, SyncMode};
use walmend_vfs::{DirectFile, OpenFlags, ReadSource, Vfs, VfsFile};

/// Appends groups to a sidecar. There is one at a time: the caller holds the exclusive lock on the database.
///
/// Nothing that counts is ever written over: a crash in the middle of an append costs that group, and no other.
#[derive(Debug)]
pub struct SidecarWriter {
    file: Arc<dyn VfsFile>,
    end: u64,
}

impl SidecarWriter {
    /// Opens a sidecar, or creates it. `found` is what is in it; what it says of newer records is heeded.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`] if it holds records of another version, I/O errors.
    pub fn open(vfs: &dyn Vfs, path: &Path, found: &SidecarIndex) -> Result<Self> {
        if let Some(version) = found.other_version {
            return Err(Error::UnsupportedVersion {
                path: path.to_path_buf(),
                version: version.into(),
            });
        }
        let file = vfs.open(path, OpenFlags::CREATE)?;
        let len = file.len()?;
        // Where it is not known what is in the file, nothing of it is taken for room.
        let end = if found.bytes == len { found.end } else { len };
        let end = end.next_multiple_of(ALIGN);
        Ok(Self { file, end })
    }

    /// From now on groups are written past the page cache, if that works right now. For a log that is written so: what
    /// its syncs would have to wait for is on its way to the disk already when the sidecar is synced.
    ///
    /// # Errors
    /// I/O errors of a sync of what is in the cache.
    pub fn past_cache(mut self) -> Result<Self> {
        // That opens what direct writes need, while it is not too late to do without.
        if self.file.read_from_device(&mut [0], 0)?.source == ReadSource::Device {
            self.file.sync(SyncMode::Full)?;
            self.file = Arc::new(DirectFile::new(self.file));
        }
        Ok(self)
    }

    /// Appends a group: its description, its parity, and its description again. Not durable before
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Error::Invalid`] if the parity is not the group's, I/O errors. What reached the file is then damage
    /// that readers skip.
    pub fn append(&mut self, group: &GroupHeader, parity: &[Vec<u8>]) -> Result<()> {
        let len = group.shard_len();
        if parity.len() != usize::from(group.parity) || parity.iter().any(|shard| shard.len() != len) {
            return Err(Error::Invalid(format!(
                "a group with {} parity shards of {len} bytes came with {} others",
                group.parity,
                parity.len()
            )));
        }
        let body = encode_group(group);
        let id = group_id(&body);
        let mut bytes = Vec::new();
        put_record(&mut bytes, self.end, Kind::Group(0), id, &body);
        // At most MAX_PARITY of them.
        for (shard, index) in parity.iter().zip(0_u8..) {
            put_record(&mut bytes, self.end, Kind::Parity(index), id, shard);
        }
        put_record(&mut bytes, self.end, Kind::Group(1), id, &body);
        let start = self.end;
        // Even after a failure nothing is written over what may have got there.
        self.end += bytes.len() as u64;
        // Behind it are zeros, or the end of the file.
        self.file.append_gathered(&[IoSlice::new(&bytes)], start)
    }

    /// Makes what was appended durable. Never call it again after it failed.
    ///
    /// # Errors
    /// I/O errors.
    pub fn sync(&self) -> Result<()> {
        self.file.sync(SyncMode::Data)
    }

    /// Begins anew at the front of the file, for a new generation of the log. What is there becomes zeros, and the file
    /// stays as long as it is: unlike a truncation, that leaves the file system nothing to journal, here and in the
    /// syncs to come, for which the log's own would have to wait.
    ///
    /// Durable with the next [`sync`](Self::sync). Until then a power loss can bring groups of the older generation
    /// back, which speak of other salts.
    ///
    /// # Errors
    /// I/O errors. Then it has to be tried again before anything is appended.
    pub fn begin_anew(&mut self) -> Result<()> {
        const CHUNK: u64 = 1 << 20;
        let zeros = vec![0; CHUNK.min(self.end) as usize];
        for start in (0..self.end).step_by(CHUNK as usize) {
            let len = CHUNK.min(self.end - start) as usize;
            self.file.append_gathered(&[IoSlice::new(&zeros[..len])], start)?;
        }
        self.end = 0;
        Ok(())
    }

    /// Empties the sidecar, durably: a new generation of the log has begun, and nothing in the sidecar speaks
    /// of it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn clear(&mut self) -> Result<()> {
        self.file.truncate(0)?;
        self.file.sync(SyncMode::Full)?;
        self.end = 0;
        Ok(())
    }

    /// Bytes of the file that are in use, with what was appended.
    pub fn size(&self) -> u64 {
        self.end
    }
}
