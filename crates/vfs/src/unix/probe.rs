//! Whether writes past the page cache make commits faster here.
//!
//! Neither the kind of file system nor that of the device tells: a page cache over a fast disk costs more than the
//! disk, and on some file systems `O_DIRECT` is accepted and buffered all the same. So both ways are tried, in turn,
//! with what a log does: a frame somewhere over written blocks, then a sync. The file that this takes has no name
//! (`O_TMPFILE`), so nothing of it can be left behind.

use super::direct::Direct;
use super::sys;
use crate::{AlignedBuf, DIRECT_BLOCK, DirectWrites};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use walmend_sync::Mutex;

/// Pairs of measurements: an odd number has a median.
const ROUNDS: usize = 15;
/// A slow disk gets as many as fit into this time, at least [`LEAST_ROUNDS`].
const BUDGET: Duration = Duration::from_millis(30);
const LEAST_ROUNDS: usize = 3;
/// A frame of a log with pages of 4096 bytes.
const FRAME: usize = 4120;

/// What was found, by the number of the file system.
static MEASURED: OnceLock<Mutex<BTreeMap<u64, DirectWrites>>> = OnceLock::new();

pub(super) fn direct_writes(directory: &Path) -> DirectWrites {
    let Ok(device) = fs::metadata(directory).map(|metadata| metadata.dev()) else {
        return DirectWrites::Unavailable;
    };
    // Held over the measurement: two at once would measure each other.
    let mut measured = MEASURED.get_or_init(Mutex::default).lock();
    *measured
        .entry(device)
        .or_insert_with(|| match measure(directory) {
            Ok((buffered, direct)) => {
                tracing::debug!(target: "walmend::vfs::unix", ?buffered, ?direct, "an append and its sync");
                // Reads do not find in the cache what was written past it: a tie is no reason.
                if direct.as_secs_f64() < 0.95 * buffered.as_secs_f64() {
                    DirectWrites::Faster
                } else {
                    DirectWrites::Slower
                }
            }
            Err(errno) => {
                tracing::debug!(target: "walmend::vfs::unix", %errno, "no direct writes here");
                DirectWrites::Unavailable
            }
        })
}

/// The median times of a frame and its sync, through the cache and past it.
fn measure(directory: &Path) -> Result<(Duration, Duration), Errno> {
    let how = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let file = File::from(nix::fcntl::open(directory, how, Mode::S_IRUSR | Mode::S_IWUSR)?);
    let blocks = AlignedBuf::zeroed((ROUNDS + 1) * 2 * DIRECT_BLOCK);
    write(&file, &blocks, 0)?;
    nix::unistd::fsync(&file)?;
    let direct = Direct::new(true);
    let (mut through, mut past) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    for round in 0..ROUNDS {
        let start = (round * 2 * DIRECT_BLOCK) as u64;
        through.push(timed(&file, || write(&file, &blocks[..FRAME], start + 32))?);
        past.push(timed(&file, || {
            direct
                .write(&file, &blocks[..2 * DIRECT_BLOCK], start)
                .map_err(|_| Errno::EOPNOTSUPP)
        })?);
        if round + 1 >= LEAST_ROUNDS && begun.elapsed() > BUDGET {
            break;
        }
    }
    Ok((median(through), median(past)))
}

fn timed(file: &File, write: impl FnOnce() -> Result<(), Errno>) -> Result<Duration, Errno> {
    let begun = Instant::now();
    write()?;
    nix::unistd::fdatasync(file)?;
    Ok(begun.elapsed())
}

fn write(file: impl AsFd, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    let written = sys::retry(|| nix::sys::uio::pwrite(&file, bytes, sys::signed(offset)))?;
    if written == bytes.len() {
        Ok(())
    } else {
        Err(Errno::ENOSPC)
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measuring_leaves_nothing_behind_and_is_done_once() {
        let folder = tempfile::tempdir().unwrap();
        let first = direct_writes(folder.path());
        assert_eq!(direct_writes(folder.path()), first);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(
            direct_writes(Path::new("/nowhere/at/all")),
            DirectWrites::Unavailable
        );
    }
}
