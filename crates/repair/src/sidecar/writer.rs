//! Appending groups to a sidecar.

use super::GroupHeader;
use super::index::SidecarIndex;
use super::record::{ALIGN, Kind, encode_group, group_id, put_record};
use std::path::Path;
use std::sync::Arc;
use walmend_types::{Error, Result, SyncMode};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};

/// Appends groups to a sidecar. There is one at a time: the caller holds the exclusive lock on the database.
///
/// Nothing is ever written over: a crash in the middle of an append costs that group, and no other.
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
        let end = file.len()?.next_multiple_of(ALIGN);
        Ok(Self { file, end })
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
        self.file.write_at(&bytes, start)
    }

    /// Makes what was appended durable. Never call it again after it failed.
    ///
    /// # Errors
    /// I/O errors.
    pub fn sync(&self) -> Result<()> {
        self.file.sync(SyncMode::Data)
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

    /// Bytes in the file, with what was appended.
    pub fn size(&self) -> u64 {
        self.end
    }
}
