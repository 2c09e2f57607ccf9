//! What the disk can do at most: one write and one fdatasync for all the frames that so many writers would
//! commit at once, again and again, and nothing else. `cargo xtask peers` measures with the same code.

use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use walmend_error::{Error, Result};

/// Writes with O_DIRECT start and end on multiples of this.
const BLOCK: usize = 4096;
/// The least that is filled with zeros beforehand; writes go round in it.
const AREA: usize = 64 << 20;

/// A file that was filled beforehand, so that a sync never has to change metadata.
#[derive(Debug)]
pub(crate) struct RawFile {
    path: PathBuf,
    buffered: Writer,
    /// `None` where the file system has no O_DIRECT.
    direct: Option<Writer>,
}

/// One way to write to it.
#[derive(Debug)]
struct Writer {
    file: File,
    /// Bytes that a commit of every writer puts into the log.
    bytes: usize,
    area: usize,
    offset: usize,
    /// The source of the writes: with room to start at a multiple of [`BLOCK`], and to round up.
    source: Vec<u8>,
    aligned: bool,
}

impl RawFile {
    /// Creates and fills `path` for writes of `bytes`.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn create(path: &Path, bytes: usize) -> Result<Self> {
        let area = AREA.max(8 * bytes).next_multiple_of(BLOCK);
        let io = |op, error| Error::io(op, path, None, error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| io("create", error))?;
        let zeros = vec![0; 1 << 20];
        let mut left = area;
        while left > 0 {
            let part = left.min(zeros.len());
            file.write_all(&zeros[..part])
                .map_err(|error| io("write", error))?;
            left -= part;
        }
        file.sync_all().map_err(|error| io("sync", error))?;
        let mut raw = Self {
            path: path.to_path_buf(),
            buffered: Writer::new(file, bytes, area, false),
            direct: None,
        };
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(OFlag::O_DIRECT.bits())
            .open(path);
        if let Ok(file) = direct {
            let mut writer = Writer::new(file, bytes, area, true);
            // Some file systems take the flag and refuse the write.
            if writer.write().is_ok() {
                raw.direct = Some(writer);
            }
        }
        Ok(raw)
    }

    /// Writes and syncs once, through the page cache.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn write_buffered(&mut self) -> Result<()> {
        let written = self.buffered.write();
        written.map_err(|error| Error::io("write and sync", &self.path, None, error))
    }

    /// Whether there is O_DIRECT here.
    pub(crate) fn has_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Writes the aligned blocks that cover the frames, past the page cache, and syncs once.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the file system has no O_DIRECT, I/O errors.
    pub(crate) fn write_direct(&mut self) -> Result<()> {
        let Some(direct) = &mut self.direct else {
            let path = self.path.display();
            return Err(Error::Invalid(format!("{path} cannot be written with O_DIRECT")));
        };
        let written = direct.write();
        written.map_err(|error| Error::io("write and sync", &self.path, None, error))
    }
}

impl Writer {
    fn new(file: File, bytes: usize, area: usize, aligned: bool) -> Self {
        Self {
            file,
            bytes,
            area,
            offset: 0,
            source: (0..bytes + 3 * BLOCK).map(|at| at as u8).collect(),
            aligned,
        }
    }

    fn write(&mut self) -> std::io::Result<()> {
        if self.offset + self.bytes > self.area {
            self.offset = 0;
        }
        let (start, end) = (self.offset, self.offset + self.bytes);
        let (start, end, shift) = match self.aligned {
            false => (start, end, 0),
            true => (
                start / BLOCK * BLOCK,
                end.next_multiple_of(BLOCK),
                self.source.as_ptr().align_offset(BLOCK),
            ),
        };
        let source = &self.source[shift..shift + end - start];
        self.file.write_all_at(source, start as u64)?;
        self.file.sync_data()?;
        self.offset += self.bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_go_round_and_stay_within_what_was_filled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raw");
        let bytes = 3 * (4096 + 24) * 700;
        let mut raw = RawFile::create(&path, bytes).unwrap();
        let filled = std::fs::metadata(&path).unwrap().len();
        for _ in 0..10 {
            raw.write_buffered().unwrap();
            if raw.has_direct() {
                raw.write_direct().unwrap();
            }
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), filled);
        let written = std::fs::read(&path).unwrap();
        assert!(
            written[..8 * bytes]
                .chunks(4096)
                .all(|block| block.iter().any(|byte| *byte != 0))
        );
    }

    #[test]
    fn where_there_is_no_direct_io_only_the_buffered_way_is_left() {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let mut raw = RawFile::create(&folder.path().join("raw"), 4120).unwrap();
        raw.write_buffered().unwrap();
        // Newer kernels take O_DIRECT on tmpfs.
        assert_eq!(raw.write_direct().is_ok(), raw.has_direct());
    }
}
