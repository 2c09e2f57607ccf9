//! Reading and writing past the page cache.
//!
//! `O_DIRECT` wants memory, offsets and lengths that are aligned to the device's blocks, so the blocks that
//! cover a range are read into aligned memory of our own and the range is copied out. The kernel writes dirty
//! cached pages of the range to the device before it reads, so what comes back is what the device holds. Before
//! and after a write it drops the cached pages of the range.

use super::sys;
use crate::aligned::block_of;
use crate::{AlignedBuf, DIRECT_BLOCK};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

/// Bytes per read.
const CHUNK: u64 = 1 << 20;

/// The second descriptor of a file, opened when it is first needed.
#[derive(Debug)]
pub(super) struct Direct {
    writable: bool,
    descriptor: OnceLock<Option<File>>,
}

/// Why nothing could be done past the cache.
#[derive(Debug)]
pub(super) enum Refused {
    /// The file system, or the state of the file right now, does not allow it.
    Unsupported,
    /// The device failed at this offset.
    Failed(Errno, u64),
}

impl Direct {
    pub(super) fn new(writable: bool) -> Self {
        Self {
            writable,
            descriptor: OnceLock::new(),
        }
    }

    /// Reads until the buffer is full or the file ends; answers how many bytes.
    pub(super) fn read(&self, file: &File, buf: &mut [u8], offset: u64) -> Result<usize, Refused> {
        let direct = self.descriptor(file).ok_or(Refused::Unsupported)?;
        let end = offset + buf.len() as u64;
        let mut position = block_of(offset);
        // At most CHUNK, so it fits.
        let mut memory = AlignedBuf::zeroed((end - position).min(CHUNK) as usize);
        while position < end {
            let wanted = (end - position).next_multiple_of(DIRECT_BLOCK as u64).min(CHUNK) as usize;
            let into = &mut memory[..wanted];
            let got = match sys::retry(|| nix::sys::uio::pread(direct, into, sys::signed(position))) {
                Ok(got) => got,
                Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Err(Refused::Unsupported),
                Err(errno) => return Err(Refused::Failed(errno, position)),
            };
            // Only the first block can start before the range, only the last one end behind it.
            let skip = offset.saturating_sub(position).min(got as u64) as usize;
            let to = (position + skip as u64).saturating_sub(offset) as usize;
            if let Some(room) = buf.get_mut(to..) {
                let len = room.len().min(got - skip);
                room[..len].copy_from_slice(&memory[skip..skip + len]);
            }
            position += got as u64;
            if got == wanted || position >= end {
                continue;
            }
            // Short: the end of the file, or a call that was cut off.
            let len = file
                .metadata()
                .map_err(|error| Refused::Failed(Errno::try_from(error).unwrap_or(Errno::EIO), position))?
                .len();
            if position >= len {
                break;
            }
            if got == 0 || got % DIRECT_BLOCK != 0 {
                // The file has grown meanwhile; going on from here would not be aligned.
                return Err(Refused::Unsupported);
            }
        }
        Ok(position.min(end).saturating_sub(offset) as usize)
    }

    /// Writes all of `blocks`.
    pub(super) fn write(&self, file: &File, blocks: &[u8], offset: u64) -> Result<(), Refused> {
        let direct = self.descriptor(file).ok_or(Refused::Unsupported)?;
        let mut done = 0;
        while done < blocks.len() {
            let at = offset + done as u64;
            match sys::retry(|| nix::sys::uio::pwrite(direct, &blocks[done..], sys::signed(at))) {
                Ok(0) => return Err(Refused::Failed(Errno::EIO, at)),
                Ok(written) => done += written,
                Err(Errno::EINVAL | Errno::EOPNOTSUPP) if done == 0 => return Err(Refused::Unsupported),
                Err(errno) => return Err(Refused::Failed(errno, at)),
            }
        }
        Ok(())
    }

    fn descriptor(&self, file: &File) -> Option<&File> {
        if let Some(kept) = self.descriptor.get() {
            return kept.as_ref();
        }
        // Through /proc it is the same file, whatever its name is by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let access = if self.writable {
            OFlag::O_RDWR
        } else {
            OFlag::O_RDONLY
        };
        let how = access | OFlag::O_DIRECT | OFlag::O_CLOEXEC;
        let opened = sys::retry(|| nix::fcntl::open(path.as_str(), how, Mode::empty()));
        let kept = match opened {
            Ok(descriptor) => Some(File::from(descriptor)),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => None,
            Err(errno) => {
                // It may work the next time, so this is not kept: too many open files, for one.
                tracing::debug!(target: "walmend::vfs::unix", %errno, "no direct I/O this time");
                return None;
            }
        };
        self.descriptor.get_or_init(|| kept).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, fcntl};

    #[test]
    fn the_second_descriptor_passes_the_cache_or_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        std::fs::write(&path, [7; 5000]).unwrap();
        let file = File::open(&path).unwrap();
        let direct = Direct::new(false);
        let mut buf = [0; 100];
        match direct.read(&file, &mut buf, 4950) {
            Ok(read) => {
                assert_eq!((read, buf[..50] == [7; 50]), (50, true));
                let second = direct.descriptor(&file).unwrap();
                let flags = fcntl(second, FcntlArg::F_GETFL).unwrap();
                assert!(OFlag::from_bits_retain(flags).contains(OFlag::O_DIRECT));
            }
            // The file system of the temporary folder decides.
            Err(refused) => assert!(matches!(refused, Refused::Unsupported)),
        }
    }
}
