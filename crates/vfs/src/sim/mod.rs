//! A disk that loses power, fails syncs and runs full, exactly when a test wants it to.
//!
//! The rules of the simulation:
//!
//! 1. **Cache and disk.** Each file has its *cached* content, which [`read_at`](crate::VfsFile::read_at) sees,
//!    and its *durable* content, which a crash leaves. Between them lie the *pending* changes, in order.
//! 2. **Sectors.** A write becomes one pending change per sector that it touches. A change holds the whole
//!    sector as it was cached right after that write, up to the end of the file: sectors are written whole,
//!    and a sector on disk is always one of the versions that the cache once had. Sectors of one write, and
//!    of different writes, reach the disk independently and in any order. They are torn only by
//!    [`CrashKeep::Torn`]: then a first or last part of one reaches the disk.
//! 3. **Length.** A file is as long as its last durable change made it. [`truncate`](crate::VfsFile::truncate)
//!    is a pending change of its own, which survives a crash or does not. A sector that survives behind the
//!    durable end extends the file; what lies between reads as zeros.
//! 4. **Names.** Creating, removing and renaming a file is durable when the call returns, because the calls of
//!    [`Vfs`] sync the directory. The content behind a name is not: it needs a sync of the file.
//! 5. **Sync.** A sync makes all pending changes of that file durable, with one exception that POSIX allows:
//!    after [`SyncMode::Data`](crate::SyncMode::Data) the loss of length is still pending, so a crash can
//!    bring the tail of a truncated file back.
//! 6. **Failed sync.** A chosen part of the pending changes becomes durable. *All* of them count as clean
//!    afterwards: the cache still shows them, no later sync writes them, and the next sync succeeds. Only
//!    writing a sector again makes it pending again, with all that the cache holds of it.
//! 7. **Device reads.** [`read_from_device`](crate::VfsFile::read_from_device) answers what direct I/O does,
//!    which writes the dirty pages of the range back before it reads: the durable content with all pending
//!    changes in it. It makes nothing durable, since the device has a cache too. After a failed sync it shows
//!    what the disk really holds, and `read_at` does not, before the cache is dropped
//!    ([`drop_cache`](crate::VfsFile::drop_cache)): then reads show what a device read does.
//! 8. **Crash** ([`SimVfs::crash`]): the durable content and a chosen part of the pending changes remain. Open
//!    files and the old [`SimVfs`] answer errors from then on, locks are gone.
//! 9. **Kill** ([`SimVfs::kill`]): the cache survives with everything pending in it. Open files and the old
//!    [`SimVfs`] answer errors from then on, locks are gone.
//! 10. **Operations** are: creating, writing (a preallocation is one write), truncating, syncing, removing,
//!     renaming. They are counted and logged; calls that change nothing, such as writing no bytes, are not.
//! 11. **Removed files** live on in their open handles and are gone after a crash or a kill.
//! 12. **Times.** Each change of a file gives it a later time than any file had; bit rot does not. After a crash a file
//!     has the time of its last full sync, however much of its content is newer, unless everything was kept.
//! 13. **Direct writes** ([`write_direct`](crate::VfsFile::write_direct)) refuse what is not aligned. They are pending
//!     like any other write, sector by sector. The cache drops the blocks that they cover: reads then show what a
//!     device read does. They are available and never said to be faster, so that nothing depends on a clock.
//!
//! Faults strike when they are armed, and once per arming; a crash and a kill disarm them all. Each that struck is
//! in [`SimVfs::injected`].
//!
//! | fault | armed by |
//! |---|---|
//! | the power goes at an operation | [`crash_at_op`](SimVfs::crash_at_op) |
//! | a sync fails | [`fail_sync_at`](SimVfs::fail_sync_at) |
//! | a sync lies: it answers `Ok`, and everything stays pending | [`lie_at_sync`](SimVfs::lie_at_sync) |
//! | a write lands in part and fails | [`fail_write_at`](SimVfs::fail_write_at) |
//! | a write is lost: cached, and never on the disk | [`lose_write_at`](SimVfs::lose_write_at) |
//! | a write is misdirected: cached here, on the disk elsewhere | [`misdirect_write_at`](SimVfs::misdirect_write_at) |
//! | the disk is full from some byte on | [`enospc_after`](SimVfs::enospc_after) |
//! | a read fails | [`fail_read_at`](SimVfs::fail_read_at) |
//! | a read ends early | [`short_read_at`](SimVfs::short_read_at) |
//! | a bit rots, and is read | [`rot_at_read`](SimVfs::rot_at_read) |
//! | a bit rots, at once | [`flip_bit`](SimVfs::flip_bit) |
//! | a call is slow: it waits until the test lets it go | [`hold_at`](SimVfs::hold_at) |
//! | any of the reads, writes and syncs above, by chance, up to a budget | [`arm_random`](SimVfs::arm_random) |
//!
//! After a lost or misdirected write, and after a failed sync, the cache and the disk differ; writing the sector
//! again mends that.
//!
//! Not simulated: names that are lost although the call returned (rule 4), and the passing of time.
//!
//! Everything is repeatable: the same calls with the same seeds give the same bytes.
//!
//! ```
//! use std::path::Path;
//! use walmend_vfs::sim::{CrashKeep, SimVfs};
//! use walmend_vfs::{OpenFlags, SyncMode, Vfs};
//!
//! let vfs = SimVfs::new(1);
//! let path = Path::new("/a.db");
//! let file = vfs.open(path, OpenFlags::CREATE)?;
//! file.write_at(b"synced", 0)?;
//! file.sync(SyncMode::Data)?;
//! file.write_at(b"......", 0)?;
//!
//! let vfs = vfs.crash(CrashKeep::None);
//! assert_eq!(vfs.dump(path).unwrap(), b"synced");
//! assert!(file.len().is_err()); // the old process is gone
//! # Ok::<(), walmend_vfs::Error>(())
//! ```

mod disk;
mod fault;
mod file;
mod history;

pub use fault::{
    Call, CrashKeep, Fault, Held, Injected, Nth, PendingChange, PendingKind, RandomFaults, SectorSize, SimOp,
    SimOpKind,
};
pub use history::{Cells, History, Violation};

use crate::names::{SharedRandom, normal};
use crate::{DirectWrites, FileInfo, OpenFlags, Vfs, VfsFile, checks};
use disk::Disk;
use file::SimFile;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walmend_sync::Mutex;
use walmend_types::{Error, Result};

/// A simulated file system; see the [module](self) for its rules.
///
/// Clones share the disk. Paths are resolved from their text alone, as in [`MemoryVfs`](crate::MemoryVfs).
/// The methods that look at the disk or arm a fault work whatever has happened to it; the methods of [`Vfs`]
/// fail once the power is gone or this value is from before a crash.
#[derive(Clone)]
pub struct SimVfs {
    shared: Arc<Shared>,
    /// The incarnation of the machine that this value belongs to.
    epoch: u64,
}

struct Shared {
    disk: Mutex<Disk>,
    random: SharedRandom,
}

impl SimVfs {
    /// An empty disk with sectors of 512 bytes. [`random`](Vfs::random) answers from the seed.
    pub fn new(seed: u64) -> Self {
        Self::with_sectors(seed, SectorSize::Bytes512)
    }

    /// An empty disk.
    pub fn with_sectors(seed: u64, sectors: SectorSize) -> Self {
        Self {
            shared: Arc::new(Shared {
                disk: Mutex::new(Disk::new(sectors)),
                random: SharedRandom::new(seed),
            }),
            epoch: 0,
        }
    }

    /// A copy of the disk as it is: cached, durable and pending content, but no open files, no armed faults
    /// and an empty log. So one run can be crashed in many ways: `vfs.fork().crash(...)`.
    pub fn fork(&self) -> Self {
        Self {
            shared: Arc::new(Shared {
                disk: Mutex::new(self.shared.disk.lock().fork()),
                random: self.shared.random.fork(),
            }),
            epoch: 0,
        }
    }

    /// The power goes and comes back. Answers the machine after that (rule 8).
    pub fn crash(&self, keep: CrashKeep) -> Self {
        self.restarted(self.shared.disk.lock().crash(&keep))
    }

    /// The process is killed, the machine runs on. Answers what the next process sees (rule 9).
    pub fn kill(&self) -> Self {
        self.restarted(self.shared.disk.lock().kill())
    }

    fn restarted(&self, epoch: u64) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            epoch,
        }
    }

    /// The power goes at the `n`th operation from now on (from 1), before it takes effect: it and every call
    /// after it fail, until [`crash`](Self::crash) (or [`kill`](Self::kill), for a process that stops there).
    pub fn crash_at_op(&self, n: u64) {
        self.shared.disk.lock().faults.power_goes_at = Some(n);
    }

    /// A sync fails with `EIO`. The part of its file's pending changes that `keep` names becomes durable, and
    /// all of them count as clean (rule 6).
    pub fn fail_sync_at(&self, which: Nth, keep: CrashKeep) {
        self.arm(which, Fault::SyncError(keep));
    }

    /// A write fails after its first `landed` bytes. With [`StorageFull`](io::ErrorKind::StorageFull) it fails as
    /// on a full disk, that is with [`Error::Full`].
    pub fn fail_write_at(&self, which: Nth, landed: u64, error: io::ErrorKind) {
        self.arm(which, Fault::WriteError { landed, error });
    }

    /// A read, of either kind, fails with `EIO`.
    pub fn fail_read_at(&self, which: Nth) {
        self.arm(which, Fault::ReadError);
    }

    /// A read, of either kind, answers `landed` bytes at most, as if the file ended there.
    pub fn short_read_at(&self, which: Nth, landed: u64) {
        self.arm(which, Fault::ShortRead(landed));
    }

    /// Before a read, of either kind, one of the bits that it asks for flips for good: this one, modulo their
    /// number.
    pub fn rot_at_read(&self, which: Nth, bit: u64) {
        self.arm(which, Fault::BitRot(bit));
    }

    /// A write answers `Ok`, and the cache shows it, but its sectors count as clean at once: they never reach the
    /// disk.
    pub fn lose_write_at(&self, which: Nth) {
        self.arm(which, Fault::LostWrite);
    }

    /// A write answers `Ok`, and the cache shows it, but its sectors reach the disk `sectors` sectors further on,
    /// counting on from the first sector of the file behind its last.
    pub fn misdirect_write_at(&self, which: Nth, sectors: u64) {
        self.arm(which, Fault::MisdirectedWrite(sectors));
    }

    /// A sync answers `Ok` and does nothing: the file's changes stay pending, as in a drive that keeps its cache
    /// to itself.
    pub fn lie_at_sync(&self, which: Nth) {
        self.arm(which, Fault::LyingSync);
    }

    /// A call waits, before it has any effect, until the answer is dropped. Other calls go on meanwhile.
    pub fn hold_at(&self, which: Nth, call: Call) -> Held {
        self.shared.disk.lock().faults.hold(which, call)
    }

    /// Faults by chance, instead of those of an earlier call. What is armed for a certain call comes first.
    pub fn arm_random(&self, faults: RandomFaults) {
        self.shared.disk.lock().faults.by_chance(faults);
    }

    fn arm(&self, which: Nth, fault: Fault) {
        self.shared.disk.lock().faults.arm(which, fault);
    }

    /// The faults of reads, writes and syncs that have struck so far, over all incarnations, in order.
    pub fn injected(&self) -> Vec<Injected> {
        self.shared.disk.lock().injected.clone()
    }

    /// All files together can grow by this many bytes; the write that needs more lands up to there and fails
    /// with [`Error::Full`]. Shrinking and removing files gives room back.
    pub fn enospc_after(&self, bytes: u64) {
        let mut disk = self.shared.disk.lock();
        disk.faults.capacity = Some(disk.used().saturating_add(bytes));
    }

    /// Disarms everything that has not happened yet, and makes a full disk spacious again.
    pub fn disarm(&self) {
        self.shared.disk.lock().faults = fault::Faults::default();
    }

    /// Disarms the faults of certain calls that have not struck yet, and nothing else.
    pub fn disarm_calls(&self) {
        self.shared.disk.lock().faults.disarm_calls();
    }

    /// How many operations there have been, over all incarnations.
    pub fn ops(&self) -> u64 {
        self.shared.disk.lock().log.len() as u64
    }

    /// How many of the operations were syncs.
    pub fn syncs(&self) -> u64 {
        self.count(|kind| matches!(kind, SimOpKind::Sync(_)))
    }

    /// How many of the operations were writes.
    pub fn writes(&self) -> u64 {
        self.count(|kind| *kind == SimOpKind::Write)
    }

    fn count(&self, counts: impl Fn(&SimOpKind) -> bool) -> u64 {
        let disk = self.shared.disk.lock();
        disk.log.iter().filter(|op| counts(&op.kind)).count() as u64
    }

    /// All operations so far, in order.
    pub fn log(&self) -> Vec<SimOp> {
        self.shared.disk.lock().log.clone()
    }

    /// The pending changes of all files, in order: what the bits of [`CrashKeep::Subset`] stand for in a crash.
    pub fn pending(&self) -> Vec<PendingChange> {
        self.shared.disk.lock().pending()
    }

    /// The names of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        self.shared.disk.lock().names.keys().cloned().collect()
    }

    /// The cached content of a file.
    pub fn dump(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.shared.disk.lock();
        disk.named(path).map(|inode| inode.cache.clone())
    }

    /// The durable content of a file: what [`CrashKeep::None`] leaves.
    pub fn dump_durable(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.shared.disk.lock();
        disk.named(path).map(|inode| inode.durable.clone())
    }

    /// Makes `bytes` the durable and cached content of a file, which is created where missing.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        self.shared.disk.lock().put(path, bytes);
    }

    /// Flips bit `bit % 8` of the byte at `offset` wherever the file has it: on disk, cached and pending.
    /// Answers whether there is such a byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let mut disk = self.shared.disk.lock();
        disk.named_mut(path)
            .is_some_and(|inode| inode.flip_bit(offset, bit))
    }
}

impl fmt::Debug for SimVfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.shared.disk.lock();
        f.debug_struct("SimVfs")
            .field("epoch", &self.epoch)
            .field("files", &disk.names.keys())
            .finish_non_exhaustive()
    }
}

fn missing(path: &Path) -> Error {
    Error::NotFound {
        path: path.to_path_buf(),
    }
}

impl Vfs for SimVfs {
    fn open(&self, path: &Path, flags: OpenFlags) -> Result<Arc<dyn VfsFile>> {
        checks::open_flags(path, flags)?;
        let name = normal(path);
        let mut disk = self.shared.disk.lock();
        disk.alive(self.epoch, "open", path)?;
        let number = match disk.names.get(&name) {
            Some(_) if flags.exclusive => {
                let exists = io::Error::from(io::ErrorKind::AlreadyExists);
                return Err(Error::io("create", path, None, exists));
            }
            Some(&number) => number,
            None if flags.create => {
                disk.operation(self.epoch, SimOp::new(SimOpKind::Create, &name, 0, 0))?;
                disk.create(name.clone())
            }
            None => return Err(missing(path)),
        };
        let owner = disk.next_number();
        disk.inode(number).handles += 1;
        Ok(Arc::new(SimFile {
            shared: Arc::clone(&self.shared),
            epoch: self.epoch,
            path: path.to_path_buf(),
            name,
            flags,
            owner,
            number,
        }))
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        let disk = self.shared.disk.lock();
        disk.alive(self.epoch, "inspect", path)?;
        Ok(disk.named(path).map(|inode| FileInfo {
            len: inode.cache.len() as u64,
            inode: inode.number,
            regular: true,
            modified: inode.modified(),
        }))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let name = normal(path);
        let mut disk = self.shared.disk.lock();
        disk.alive(self.epoch, "remove", path)?;
        if disk.names.contains_key(&name) {
            disk.operation(self.epoch, SimOp::new(SimOpKind::Remove, &name, 0, 0))?;
            disk.unlink(&name);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let (name, to) = (normal(from), normal(to));
        let mut disk = self.shared.disk.lock();
        disk.alive(self.epoch, "rename", from)?;
        if !disk.names.contains_key(&name) {
            return Err(missing(from));
        }
        let kind = SimOpKind::Rename { to: to.clone() };
        disk.operation(self.epoch, SimOp::new(kind, &name, 0, 0))?;
        disk.rename(&name, to);
        Ok(())
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        let disk = self.shared.disk.lock();
        disk.alive(self.epoch, "resolve", path)?;
        let name = normal(path);
        if disk.names.contains_key(&name) {
            return Ok(name);
        }
        Err(missing(path))
    }

    fn random(&self) -> u64 {
        self.shared.random.next()
    }

    fn direct_writes(&self, _path: &Path) -> DirectWrites {
        DirectWrites::Slower
    }

    /// Changes with every crash, and stays over a kill.
    fn boot_id(&self) -> String {
        format!("simulated-boot-{}", self.shared.disk.lock().boot)
    }
}
