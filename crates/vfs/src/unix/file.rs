//! One open file of the machine.

use super::direct::{Direct, Refused};
use super::sys;
use crate::locks::{Held, LockTable};
use crate::{DeviceRead, LockHolder, LockKind, LockRange, OpenFlags, ReadSource, VfsFile, checks};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, PosixFadviseAdvice, fcntl, posix_fadvise};
use nix::libc;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use walmend_sync::Mutex;
use walmend_types::{Error, Result, SyncMode};

/// Buffers per `pwritev`: what Linux allows (`IOV_MAX`).
const BUFFERS_PER_CALL: usize = 1024;

/// Zeros per write when preallocating.
const ZEROS: u64 = 1 << 20;

/// This open file as an owner in its own record of what it holds.
const OURS: u64 = 0;

#[derive(Debug)]
pub(super) struct UnixFile {
    file: File,
    path: PathBuf,
    flags: OpenFlags,
    direct: Direct,
    /// The kernel reports a failed write-back to one sync only. With one sync at a time it is certain whose
    /// writes that sync was to cover.
    syncing: Mutex<()>,
    /// What is locked, because a forked child shares the locks: closing here would not release them.
    held: Mutex<LockTable>,
}

impl UnixFile {
    pub(super) fn new(file: File, path: &Path, flags: OpenFlags) -> Self {
        Self {
            file,
            path: path.to_path_buf(),
            flags,
            direct: Direct::new(flags.write),
            syncing: Mutex::new(()),
            held: Mutex::new(LockTable::default()),
        }
    }

    fn error(&self, op: &'static str, offset: Option<u64>, errno: Errno) -> Error {
        Error::io(op, &self.path, offset, errno.into())
    }

    /// Writes all of `slices`, however many calls that takes.
    fn write_all(&self, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> Result<()> {
        // Empty buffers at the front would make a call that writes nothing.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let call = &slices[..slices.len().min(BUFFERS_PER_CALL)];
            let written = sys::retry(|| nix::sys::uio::pwritev(&self.file, call, sys::signed(offset)))
                .map_err(|errno| self.error("write", Some(offset), errno))?;
            if written == 0 {
                let nothing = io::Error::from(io::ErrorKind::WriteZero);
                return Err(Error::io("write", &self.path, Some(offset), nothing));
            }
            offset += written as u64;
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    /// Drops the cached pages of the range. Only advice: clean pages go, dirty ones stay.
    fn forget(&self, start: u64, end: u64) -> std::result::Result<(), Errno> {
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        posix_fadvise(&self.file, sys::signed(start), sys::signed(end - start), advice)
    }

    fn flock(&self, start: u64, end: u64, kind: i32) -> libc::flock {
        libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: sys::signed(start),
            l_len: sys::signed(end - start),
            // Must be 0 for open file description locks.
            l_pid: 0,
        }
    }

    fn release(&self, start: u64, end: u64) -> Result<()> {
        let lock = self.flock(start, end, libc::F_UNLCK);
        sys::retry(|| fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock)))
            .map_err(|errno| self.error("unlock", Some(start), errno))?;
        Ok(())
    }
}

fn lock_type(kind: LockKind) -> i32 {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    }
}

impl VfsFile for UnixFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        checks::end_of(offset, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let rest = &mut buf[done..];
            match sys::retry(|| nix::sys::uio::pread(&self.file, rest, sys::signed(at))) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(errno) => return Err(self.error("read", Some(at), errno)),
            }
        }
        Ok(done)
    }

    fn write_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        checks::writable(&self.path, self.flags)?;
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        checks::end_of(offset, total as u64)?;
        self.write_all(&mut bufs.to_vec(), offset)
    }

    fn write_direct(&self, blocks: &[u8], offset: u64) -> Result<()> {
        checks::writable(&self.path, self.flags)?;
        checks::end_of(offset, blocks.len() as u64)?;
        self.direct
            .write(&self.file, blocks, offset)
            .map_err(|refused| match refused {
                Refused::Unsupported => self.error("write directly to", Some(offset), Errno::EOPNOTSUPP),
                Refused::Failed(errno, at) => self.error("write", Some(at), errno),
            })
    }

    fn len(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|error| Error::io("inspect", &self.path, None, error))
    }

    fn truncate(&self, len: u64) -> Result<()> {
        checks::writable(&self.path, self.flags)?;
        checks::end_of(len, 0)?;
        sys::retry(|| nix::unistd::ftruncate(&self.file, sys::signed(len)))
            .map_err(|errno| self.error("truncate", Some(len), errno))
    }

    fn preallocate(&self, start: u64, end: u64) -> Result<()> {
        checks::writable(&self.path, self.flags)?;
        checks::ordered(start, end)?;
        let zeros = vec![0; (end - start).min(ZEROS) as usize];
        let mut offset = start;
        while offset < end {
            let len = (end - offset).min(ZEROS);
            self.write_all(&mut [IoSlice::new(&zeros[..len as usize])], offset)?;
            offset += len;
        }
        Ok(())
    }

    fn sync(&self, mode: SyncMode) -> Result<()> {
        let _one_at_a_time = self.syncing.lock();
        // Not tried again after a signal: nothing says whether a failure was already reported and consumed.
        match mode {
            SyncMode::Data => nix::unistd::fdatasync(&self.file),
            SyncMode::Full => nix::unistd::fsync(&self.file),
        }
        .map_err(|errno| self.error("sync", None, errno))
    }

    fn read_from_device(&self, buf: &mut [u8], offset: u64) -> Result<DeviceRead> {
        let end = checks::end_of(offset, buf.len() as u64)?;
        match self.direct.read(&self.file, buf, offset) {
            Ok(bytes) => Ok(DeviceRead {
                bytes,
                source: ReadSource::Device,
            }),
            Err(Refused::Failed(errno, at)) => Err(self.error("read", Some(at), errno)),
            Err(Refused::Unsupported) => {
                // The source says so whether that works or not.
                if let Err(errno) = self.forget(offset, end) {
                    tracing::debug!(target: "walmend::vfs::unix", %errno, "cached pages were not dropped");
                }
                Ok(DeviceRead {
                    bytes: self.read_at(buf, offset)?,
                    source: ReadSource::Cache,
                })
            }
        }
    }

    fn drop_cache(&self) -> Result<()> {
        let end = self.len()?;
        self.forget(0, end)
            .map_err(|errno| self.error("drop the cache of", None, errno))
    }

    fn try_lock(&self, range: LockRange, kind: LockKind) -> Result<bool> {
        if kind == LockKind::Exclusive {
            checks::writable(&self.path, self.flags)?;
        }
        let end = checks::lock_end(range)?;
        let lock = self.flock(range.start, end, lock_type(kind));
        let mut held = self.held.lock();
        match sys::retry(|| fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock))) {
            Ok(_) => {
                let start = range.start;
                held.try_lock(Held {
                    owner: OURS,
                    start,
                    end,
                    kind,
                });
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(self.error("lock", Some(range.start), errno)),
        }
    }

    fn unlock(&self, range: LockRange) -> Result<()> {
        let end = checks::lock_end(range)?;
        let mut held = self.held.lock();
        self.release(range.start, end)?;
        held.unlock(OURS, range.start, end);
        Ok(())
    }

    fn lock_holder(&self, range: LockRange, kind: LockKind) -> Result<Option<LockHolder>> {
        let end = checks::lock_end(range)?;
        let mut lock = self.flock(range.start, end, lock_type(kind));
        sys::retry(|| fcntl(&self.file, FcntlArg::F_OFD_GETLK(&mut lock)))
            .map_err(|errno| self.error("lock", Some(range.start), errno))?;
        if i32::from(lock.l_type) == libc::F_UNLCK {
            return Ok(None);
        }
        // -1 stands for an open file description.
        let pid = u32::try_from(lock.l_pid).ok();
        Ok(Some(LockHolder { pid }))
    }
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        let held = self.held.lock().release(OURS);
        for Held { start, end, .. } in held {
            if let Err(error) = self.release(start, end) {
                tracing::warn!(target: "walmend::vfs::unix", %error, "a lock may outlive its file");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> UnixFile {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap();
        UnixFile::new(file, path, OpenFlags::CREATE)
    }

    #[test]
    fn a_descriptor_that_a_forked_child_keeps_does_not_keep_the_locks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let file = open(&path);
        assert!(file.try_lock(LockRange::SHARED, LockKind::Exclusive).unwrap());
        file.unlock(LockRange {
            len: 1,
            ..LockRange::SHARED
        })
        .unwrap();
        // A duplicate shares the open file description, as a forked child's descriptor does.
        let duplicate = file.file.try_clone().unwrap();
        drop(file);
        let other = open(&path);
        assert!(other.try_lock(LockRange::SHARED, LockKind::Exclusive).unwrap());
        drop(duplicate);
    }

    /// A process with a descriptor of the same open file, as a forked child has one.
    fn sharer(file: &UnixFile) -> std::process::Child {
        std::process::Command::new("sleep")
            .arg("1000")
            .stdin(file.file.try_clone().unwrap())
            .spawn()
            .unwrap()
    }

    #[test]
    fn a_living_process_that_shares_the_open_file_does_not_keep_the_locks_when_that_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let file = open(&path);
        assert!(file.try_lock(LockRange::SHARED, LockKind::Exclusive).unwrap());
        let mut child = sharer(&file);
        let other = open(&path);
        assert!(!other.try_lock(LockRange::SHARED, LockKind::Exclusive).unwrap());
        drop(file);
        assert!(child.try_wait().unwrap().is_none());
        assert!(other.try_lock(LockRange::SHARED, LockKind::Exclusive).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What OFD locks cannot do better: nobody unlocks for a process that is killed, and the open file lives on.
    #[test]
    fn a_killed_holder_s_locks_last_as_long_as_a_process_that_shares_its_open_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let file = open(&path);
        assert!(file.try_lock(LockRange::SHARED, LockKind::Exclusive).unwrap());
        let mut child = sharer(&file);
        // Closed without unlocking, as the kernel does it.
        *file.held.lock() = LockTable::default();
        drop(file);
        let other = open(&path);
        assert!(!other.try_lock(LockRange::SHARED, LockKind::Exclusive).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(other.try_lock(LockRange::SHARED, LockKind::Exclusive).unwrap());
    }

    #[test]
    fn descriptors_are_closed_on_exec() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let vfs = crate::UnixVfs::new();
        let _file = crate::Vfs::open(&vfs, &path, OpenFlags::CREATE).unwrap();
        let listed = std::process::Command::new("ls")
            .args(["-l", "/proc/self/fd"])
            .output()
            .unwrap();
        assert!(listed.status.success());
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(!listed.contains(path.to_str().unwrap()), "{listed}");
    }
}
