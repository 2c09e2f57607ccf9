//! One open file of the simulation.

use super::Shared;
use super::disk::{Arrive, Disk};
use super::fault::{Call, Fault, SimOp, SimOpKind};
use crate::locks::Held;
use crate::{DeviceRead, LockHolder, LockKind, LockRange, OpenFlags, ReadSource, VfsFile, checks};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walmend_sync::MutexGuard;
use walmend_types::{Error, Result, SyncMode};

/// `EIO`, as the system reports a failing device.
const EIO: i32 = 5;

/// `EINVAL`, as the system refuses what is not aligned.
const EINVAL: i32 = 22;

pub(super) struct SimFile {
    pub(super) shared: Arc<Shared>,
    pub(super) epoch: u64,
    /// As it was opened by, for messages.
    pub(super) path: PathBuf,
    /// Normalised, for the log.
    pub(super) name: PathBuf,
    pub(super) flags: OpenFlags,
    /// As an owner of locks.
    pub(super) owner: u64,
    /// Of the inode.
    pub(super) number: u64,
}

impl SimFile {
    fn error(&self, op: &'static str, offset: Option<u64>, error: io::Error) -> Error {
        Error::io(op, &self.path, offset, error)
    }

    fn disk(&self, op: &'static str) -> Result<MutexGuard<'_, Disk>> {
        let disk = self.shared.disk.lock();
        disk.alive(self.epoch, op, &self.path)?;
        Ok(disk)
    }

    fn operation(&self, kind: SimOpKind, offset: u64, len: u64) -> Result<MutexGuard<'_, Disk>> {
        let mut disk = self.shared.disk.lock();
        disk.operation(self.epoch, SimOp::new(kind, &self.name, offset, len))?;
        Ok(disk)
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let len = data.len() as u64;
        if len == 0 {
            return self.disk("write").map(drop);
        }
        self.stop_if_held(Call::Write);
        let mut disk = self.operation(SimOpKind::Write, offset, len)?;
        let (mut landed, mut failure, mut arrive) = (len, None, Arrive::Here);
        match disk.fault(Call::Write, &self.name, offset) {
            Some(Fault::WriteError { landed: part, error }) => {
                landed = part.min(len);
                failure = Some(error);
            }
            Some(Fault::LostWrite) => arrive = Arrive::Nowhere,
            Some(Fault::MisdirectedWrite(sectors)) => arrive = Arrive::FurtherOn(sectors),
            _ => {}
        }
        let room = disk.room(self.number).saturating_sub(offset);
        if room < landed {
            landed = room;
            failure = Some(io::ErrorKind::StorageFull);
        }
        disk.write(self.number, &data[..landed as usize], offset, arrive);
        let Some(error) = failure else { return Ok(()) };
        disk.operation_failed();
        Err(self.error("write", Some(offset + landed), error.into()))
    }

    /// Begins a read of `len` bytes; answers how many of them there are to be, whatever the file holds.
    fn begin_read(&self, offset: u64, len: usize) -> Result<(MutexGuard<'_, Disk>, usize)> {
        self.stop_if_held(Call::Read);
        let mut disk = self.disk("read")?;
        match disk.fault(Call::Read, &self.name, offset) {
            Some(Fault::ReadError) => {
                let failed = io::Error::from_raw_os_error(EIO);
                Err(self.error("read", Some(offset), failed))
            }
            Some(Fault::ShortRead(landed)) => {
                let landed = usize::try_from(landed).unwrap_or(usize::MAX);
                Ok((disk, len.min(landed)))
            }
            Some(Fault::BitRot(bit)) => {
                let bit = bit % (8 * len as u64).max(1);
                disk.inode(self.number)
                    .flip_bit(offset + bit / 8, (bit % 8) as u8);
                Ok((disk, len))
            }
            _ => Ok((disk, len)),
        }
    }

    fn stop_if_held(&self, call: Call) {
        let held = self.shared.disk.lock().faults.held(call, &self.name);
        if let Some(hold) = held {
            hold.stop();
        }
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimFile").field(&self.path).finish()
    }
}

impl VfsFile for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        checks::end_of(offset, buf.len() as u64)?;
        let (mut disk, len) = self.begin_read(offset, buf.len())?;
        let cache = &disk.inode(self.number).cache;
        let rest = cache.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(len);
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        checks::writable(&self.path, self.flags)?;
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        checks::end_of(offset, total as u64)?;
        let mut data = Vec::with_capacity(total);
        for buf in bufs {
            data.extend_from_slice(buf);
        }
        self.write(&data, offset)
    }

    fn write_direct(&self, blocks: &[u8], offset: u64) -> Result<()> {
        checks::writable(&self.path, self.flags)?;
        checks::end_of(offset, blocks.len() as u64)?;
        if !checks::aligned(blocks, offset) {
            let refused = io::Error::from_raw_os_error(EINVAL);
            return Err(self.error("write directly to", Some(offset), refused));
        }
        let written = self.write(blocks, offset);
        if let Ok(mut disk) = self.disk("write directly to") {
            disk.inode(self.number).drop_cache(offset, blocks.len());
        }
        written
    }

    fn len(&self) -> Result<u64> {
        Ok(self.disk("inspect")?.inode(self.number).cache.len() as u64)
    }

    fn truncate(&self, len: u64) -> Result<()> {
        checks::writable(&self.path, self.flags)?;
        checks::end_of(len, 0)?;
        let mut disk = self.operation(SimOpKind::Truncate, 0, len)?;
        let now = disk.inode(self.number).cache.len() as u64;
        if len > now && len > disk.room(self.number) {
            disk.operation_failed();
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(self.error("truncate", Some(len), full));
        }
        disk.set_len(self.number, len);
        Ok(())
    }

    fn preallocate(&self, start: u64, end: u64) -> Result<()> {
        checks::writable(&self.path, self.flags)?;
        checks::ordered(start, end)?;
        if end > checks::MAX_KEPT {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(self.error("write", Some(start), full));
        }
        self.write(&vec![0; (end - start) as usize], start)
    }

    fn sync(&self, mode: SyncMode) -> Result<()> {
        self.stop_if_held(Call::Sync);
        let mut disk = self.operation(SimOpKind::Sync(mode), 0, 0)?;
        match disk.fault(Call::Sync, &self.name, 0) {
            Some(Fault::SyncError(keep)) => {
                disk.failed_sync(self.number, &keep);
                disk.operation_failed();
                Err(self.error("sync", None, io::Error::from_raw_os_error(EIO)))
            }
            Some(Fault::LyingSync) => Ok(()),
            _ => {
                disk.sync(self.number, mode);
                Ok(())
            }
        }
    }

    fn read_from_device(&self, buf: &mut [u8], offset: u64) -> Result<DeviceRead> {
        checks::end_of(offset, buf.len() as u64)?;
        let (mut disk, len) = self.begin_read(offset, buf.len())?;
        Ok(DeviceRead {
            bytes: disk.inode(self.number).read_device(&mut buf[..len], offset),
            source: ReadSource::Device,
        })
    }

    fn drop_cache(&self) -> Result<()> {
        let mut disk = self.disk("drop the cache of")?;
        let inode = disk.inode(self.number);
        let len = inode.cache.len();
        inode.drop_cache(0, len);
        Ok(())
    }

    fn try_lock(&self, range: LockRange, kind: LockKind) -> Result<bool> {
        if kind == LockKind::Exclusive {
            checks::writable(&self.path, self.flags)?;
        }
        let wanted = Held::of(self.owner, range, kind)?;
        let mut disk = self.disk("lock")?;
        Ok(disk.inode(self.number).locks.try_lock(wanted))
    }

    fn unlock(&self, range: LockRange) -> Result<()> {
        let end = checks::lock_end(range)?;
        let mut disk = self.disk("unlock")?;
        disk.inode(self.number).locks.unlock(self.owner, range.start, end);
        Ok(())
    }

    fn lock_holder(&self, range: LockRange, kind: LockKind) -> Result<Option<LockHolder>> {
        let wanted = Held::of(self.owner, range, kind)?;
        let blocked = self.disk("lock")?.inode(self.number).locks.blocked(wanted);
        Ok(blocked.then_some(LockHolder { pid: None }))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.shared.disk.lock().close(self.epoch, self.number, self.owner);
    }
}
