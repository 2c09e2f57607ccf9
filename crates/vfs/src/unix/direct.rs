//! Reading past the page cache.
//!
//! `O_DIRECT` wants memory, offsets and lengths that are aligned to the device's blocks, so the blocks that
//! cover a range are read into aligned memory of our own and the range is copied out. The kernel writes dirty
//! cached pages of the range to the device before it reads, so what comes back is what the device holds.

use super::sys;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

/// Alignment that satisfies every device with blocks of up to 4096 bytes.
const BLOCK: usize = 4096;

/// Blocks per call: 1 MiB, and well below the 1024 buffers that one call may have.
const BLOCKS_PER_CALL: usize = 256;

#[derive(Clone)]
#[repr(align(4096))]
struct Block([u8; BLOCK]);

/// The second descriptor of a file, opened when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Direct(OnceLock<Option<File>>);

/// Why nothing could be read from the device.
#[derive(Debug)]
pub(super) enum Refused {
    /// The file system, or the state of the file right now, does not allow it.
    Unsupported,
    /// The device failed at this offset.
    Failed(Errno, u64),
}

impl Direct {
    /// Reads until the buffer is full or the file ends; answers how many bytes.
    pub(super) fn read(&self, file: &File, buf: &mut [u8], offset: u64) -> Result<usize, Refused> {
        let direct = self.descriptor(file).ok_or(Refused::Unsupported)?;
        let end = offset + buf.len() as u64;
        let mut position = offset - offset % BLOCK as u64;
        let blocks = (end - position).div_ceil(BLOCK as u64);
        // At most BLOCKS_PER_CALL, so it fits.
        let mut memory = vec![Block([0; BLOCK]); blocks.min(BLOCKS_PER_CALL as u64) as usize];
        while position < end {
            let wanted = (end - position)
                .div_ceil(BLOCK as u64)
                .min(BLOCKS_PER_CALL as u64) as usize;
            let got = {
                let mut slices: Vec<IoSliceMut<'_>> = memory[..wanted]
                    .iter_mut()
                    .map(|block| IoSliceMut::new(&mut block.0))
                    .collect();
                sys::retry(|| nix::sys::uio::preadv(direct, &mut slices, sys::signed(position)))
            };
            let got = match got {
                Ok(got) => got,
                Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Err(Refused::Unsupported),
                Err(errno) => return Err(Refused::Failed(errno, position)),
            };
            copy_out(&memory, got, position, buf, offset);
            position += got as u64;
            if got == wanted * BLOCK || position >= end {
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
            if got == 0 || got % BLOCK != 0 {
                // The file has grown meanwhile; going on from here would not be aligned.
                return Err(Refused::Unsupported);
            }
        }
        Ok(position.min(end).saturating_sub(offset) as usize)
    }

    fn descriptor(&self, file: &File) -> Option<&File> {
        if let Some(kept) = self.0.get() {
            return kept.as_ref();
        }
        // Through /proc it is the same file, whatever its name is by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let how = OFlag::O_RDONLY | OFlag::O_DIRECT | OFlag::O_CLOEXEC;
        let opened = sys::retry(|| nix::fcntl::open(path.as_str(), how, Mode::empty()));
        let kept = match opened {
            Ok(descriptor) => Some(File::from(descriptor)),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => None,
            Err(errno) => {
                // It may work the next time, so this is not kept: too many open files, for one.
                tracing::debug!(target: "walmend::vfs::unix", %errno, "no direct reads this time");
                return None;
            }
        };
        self.0.get_or_init(|| kept).as_ref()
    }
}

/// Copies what of the `got` bytes at `position` lies in the range of `buf`, which starts at `offset`.
fn copy_out(memory: &[Block], got: usize, position: u64, buf: &mut [u8], offset: u64) {
    let mut at = position;
    let mut left = got;
    for block in memory {
        let bytes = &block.0[..left.min(BLOCK)];
        // Only the first block can start before the range, only the last one end behind it.
        let skip = offset.saturating_sub(at).min(bytes.len() as u64) as usize;
        let to = (at + skip as u64).saturating_sub(offset) as usize;
        if let Some(room) = buf.get_mut(to..) {
            let len = room.len().min(bytes.len() - skip);
            room[..len].copy_from_slice(&bytes[skip..skip + len]);
        }
        at += bytes.len() as u64;
        left -= bytes.len();
        if left == 0 {
            return;
        }
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
        let direct = Direct::default();
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
