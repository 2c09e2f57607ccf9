//! The disk behind all handles: names, contents, pending changes, and the log.

use super::fault::{
    Call, CrashKeep, Fate, Fault, Faults, Injected, PendingChange, PendingKind, SectorSize, SimOp,
};
use crate::checks;
use crate::locks::LockTable;
use crate::names::normal;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use walmend_types::{Error, Result, SyncMode};

/// A change that is cached and not durable.
#[derive(Debug, Clone)]
struct Pending {
    /// Its place among the pending changes of all files.
    order: u64,
    change: Change,
}

#[derive(Debug, Clone)]
enum Change {
    Sector { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

impl Change {
    /// Makes the change in `content`, which is a whole file.
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Sector { offset, bytes } => {
                let start = *offset as usize;
                let end = start + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[start..end].copy_from_slice(bytes);
            }
            Self::Length(len) => content.resize(*len as usize, 0),
        }
    }

    /// Makes the change in `content`, as far as it reached the disk.
    fn land(&self, fate: Fate, content: &mut Vec<u8>) {
        let Self::Sector { offset, bytes } = self else {
            return match fate {
                Fate::Lost => {}
                _ => self.apply(content),
            };
        };
        let part = |cut: u8| bytes.len() * usize::from(cut) / 256;
        let (offset, bytes) = match fate {
            Fate::Lost => return,
            Fate::Kept => (*offset, &bytes[..]),
            Fate::Head(cut) => (*offset, &bytes[..part(cut)]),
            Fate::Tail(cut) => (*offset + part(cut) as u64, &bytes[part(cut)..]),
        };
        let bytes = bytes.to_vec();
        Self::Sector { offset, bytes }.apply(content);
    }

    /// Makes the change in `buf`, which is a part of a file at `at`. Bytes behind the file's end are zeros
    /// there, so that growth needs no doing.
    fn apply_within(&self, buf: &mut [u8], at: u64) {
        let end = at + buf.len() as u64;
        match self {
            Self::Sector { offset, bytes } => {
                let from = (*offset).max(at);
                let to = (*offset + bytes.len() as u64).min(end);
                if from < to {
                    let source = &bytes[(from - offset) as usize..(to - offset) as usize];
                    buf[(from - at) as usize..(to - at) as usize].copy_from_slice(source);
                }
            }
            Self::Length(len) => buf[((*len).clamp(at, end) - at) as usize..].fill(0),
        }
    }

    fn kind(&self) -> PendingKind {
        match self {
            Self::Sector { offset, bytes } => PendingKind::Sector {
                offset: *offset,
                len: bytes.len() as u64,
            },
            Self::Length(len) => PendingKind::Length(*len),
        }
    }
}

/// Where the sectors of a write reach the disk.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arrive {
    Here,
    Nowhere,
    FurtherOn(u64),
}

/// One file.
#[derive(Debug, Default)]
pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) cache: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) locks: LockTable,
    /// Open files of the current incarnation.
    pub(super) handles: u64,
    /// When the content last changed, by the clock of pending changes; 0 for never. Bit rot is no change.
    modified: u64,
    /// What of that a full sync has made durable.
    durable_modified: u64,
    pending: Vec<Pending>,
}

impl Inode {
    /// Writes to the cache, and makes the sectors pending where `arrive` says. The caller has checked that there
    /// is room.
    fn write(&mut self, data: &[u8], offset: u64, sector: u64, arrive: Arrive, order: &mut u64) {
        if data.is_empty() {
            return;
        }
        self.touch(order);
        let end = offset + data.len() as u64;
        if (self.cache.len() as u64) < end {
            self.cache.resize(end as usize, 0);
        }
        self.cache[offset as usize..end as usize].copy_from_slice(data);
        for index in offset / sector..end.div_ceil(sector) {
            let start = index * sector;
            let stop = (start + sector).min(self.cache.len() as u64);
            let mut bytes = self.cache[start as usize..stop as usize].to_vec();
            let mut offset = start;
            match arrive {
                Arrive::Here => {}
                Arrive::Nowhere => continue,
                Arrive::FurtherOn(sectors) => {
                    let len = self.cache.len() as u64;
                    offset = (index + sectors) % len.div_ceil(sector) * sector;
                    bytes.truncate((len - offset) as usize);
                }
            }
            self.push(Change::Sector { offset, bytes }, order);
        }
    }

    fn set_len(&mut self, len: u64, order: &mut u64) {
        if len != self.cache.len() as u64 {
            self.touch(order);
            self.cache.resize(len as usize, 0);
            self.push(Change::Length(len), order);
        }
    }

    fn touch(&mut self, clock: &mut u64) {
        *clock += 1;
        self.modified = *clock;
    }

    /// When the content last changed; `None` for never. One tick is a millisecond.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        (self.modified > 0).then(|| UNIX_EPOCH + Duration::from_millis(self.modified))
    }

    fn push(&mut self, change: Change, order: &mut u64) {
        *order += 1;
        self.pending.push(Pending {
            order: *order,
            change,
        });
    }

    fn sync(&mut self, mode: SyncMode, order: &mut u64) {
        let before = match mode {
            SyncMode::Data => self.durable.clone(),
            SyncMode::Full => {
                self.durable_modified = self.modified;
                Vec::new()
            }
        };
        for pending in self.pending.drain(..) {
            pending.change.apply(&mut self.durable);
        }
        let len = self.durable.len();
        if len < before.len() {
            self.durable.extend_from_slice(&before[len..]);
            self.push(Change::Length(len as u64), order);
        }
    }

    /// Makes of each change what is left of it durable, and forgets all.
    fn keep(&mut self, mut fate: impl FnMut(u64) -> Fate) {
        for pending in self.pending.drain(..) {
            pending.change.land(fate(pending.order), &mut self.durable);
        }
    }

    /// Reads what direct I/O would read; see rule 7.
    pub(super) fn read_device(&self, buf: &mut [u8], offset: u64) -> usize {
        let len = (self.cache.len() as u64)
            .saturating_sub(offset)
            .min(buf.len() as u64);
        let buf = &mut buf[..len as usize];
        buf.fill(0);
        if let Some(durable) = self.durable.get(offset as usize..) {
            let known = durable.len().min(buf.len());
            buf[..known].copy_from_slice(&durable[..known]);
        }
        for pending in &self.pending {
            pending.change.apply_within(buf, offset);
        }
        buf.len()
    }

    /// Drops what is cached of the range: from now on reads show what the device answers.
    pub(super) fn drop_cache(&mut self, offset: u64, len: usize) {
        let mut bytes = vec![0; len];
        let read = self.read_device(&mut bytes, offset);
        let start = offset as usize;
        self.cache[start..start + read].copy_from_slice(&bytes[..read]);
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) -> bool {
        let mask = 1 << (bit % 8);
        let at = offset as usize;
        let mut found = false;
        for content in [&mut self.cache, &mut self.durable] {
            if let Some(byte) = content.get_mut(at) {
                *byte ^= mask;
                found = true;
            }
        }
        for pending in &mut self.pending {
            if let Change::Sector { offset: start, bytes } = &mut pending.change
                && let Some(byte) = offset
                    .checked_sub(*start)
                    .and_then(|at| bytes.get_mut(at as usize))
            {
                *byte ^= mask;
                found = true;
            }
        }
        found
    }
}

/// The whole disk.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) names: BTreeMap<PathBuf, u64>,
    inodes: BTreeMap<u64, Inode>,
    sectors: SectorSize,
    /// The last number given to a file or a lock owner.
    number: u64,
    /// The place of the last pending change.
    order: u64,
    /// Counts crashes and kills: handles of an earlier one are dead.
    epoch: u64,
    /// Counts crashes.
    pub(super) boot: u64,
    power_is_gone: bool,
    pub(super) faults: Faults,
    pub(super) log: Vec<SimOp>,
    pub(super) injected: Vec<Injected>,
}

impl Disk {
    pub(super) fn new(sectors: SectorSize) -> Self {
        Self {
            names: BTreeMap::new(),
            inodes: BTreeMap::new(),
            sectors,
            number: 0,
            order: 0,
            epoch: 0,
            boot: 0,
            power_is_gone: false,
            faults: Faults::default(),
            log: Vec::new(),
            injected: Vec::new(),
        }
    }

    pub(super) fn fork(&self) -> Self {
        let mut copy = Self::new(self.sectors);
        copy.names = self.names.clone();
        copy.number = self.number;
        copy.order = self.order;
        copy.boot = self.boot;
        for number in self.names.values() {
            if let Some(inode) = self.inodes.get(number) {
                let inode = Inode {
                    number: inode.number,
                    cache: inode.cache.clone(),
                    durable: inode.durable.clone(),
                    pending: inode.pending.clone(),
                    modified: inode.modified,
                    durable_modified: inode.durable_modified,
                    ..Inode::default()
                };
                copy.inodes.insert(*number, inode);
            }
        }
        copy
    }

    /// Refuses calls of an earlier incarnation, and all calls while the power is gone.
    pub(super) fn alive(&self, epoch: u64, op: &'static str, path: &Path) -> Result<()> {
        let why = if epoch != self.epoch {
            "simulated: opened before the crash"
        } else if self.power_is_gone {
            "simulated: power lost"
        } else {
            return Ok(());
        };
        Err(Error::io(op, path, None, io::Error::other(why)))
    }

    /// Begins an operation: counts and logs it, unless the power goes.
    pub(super) fn operation(&mut self, epoch: u64, op: SimOp) -> Result<()> {
        self.alive(epoch, "reach", &op.file)?;
        if self.faults.power_goes() {
            self.power_is_gone = true;
            return self.alive(epoch, "reach", &op.file);
        }
        self.log.push(op);
        Ok(())
    }

    /// What is to go wrong with a call, if anything; it is noted.
    pub(super) fn fault(&mut self, call: Call, file: &Path, offset: u64) -> Option<Fault> {
        let fault = self.faults.on(call, file)?;
        self.injected.push(Injected {
            op: self.log.len() as u64,
            file: file.to_path_buf(),
            offset,
            fault: fault.clone(),
        });
        Some(fault)
    }

    /// Marks the operation that was begun last as failed.
    pub(super) fn operation_failed(&mut self) {
        if let Some(op) = self.log.last_mut() {
            op.failed = true;
        }
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub(super) fn named(&self, path: &Path) -> Option<&Inode> {
        self.inodes.get(self.names.get(&normal(path))?)
    }

    pub(super) fn named_mut(&mut self, path: &Path) -> Option<&mut Inode> {
        self.inodes.get_mut(self.names.get(&normal(path))?)
    }

    /// The file of a handle. It exists while the handle does, and one that did not would be an empty file.
    pub(super) fn inode(&mut self, number: u64) -> &mut Inode {
        self.inodes.entry(number).or_default()
    }

    pub(super) fn create(&mut self, name: PathBuf) -> u64 {
        let number = self.next_number();
        self.names.insert(name, number);
        self.inode(number).number = number;
        number
    }

    pub(super) fn unlink(&mut self, name: &Path) {
        if let Some(number) = self.names.remove(name) {
            self.forget_if_unused(number);
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: PathBuf) {
        if let Some(number) = self.names.remove(from)
            && let Some(replaced) = self.names.insert(to, number)
        {
            self.forget_if_unused(replaced);
        }
    }

    /// A handle of this incarnation is closed.
    pub(super) fn close(&mut self, epoch: u64, number: u64, owner: u64) {
        if epoch == self.epoch {
            let inode = self.inode(number);
            inode.locks.release(owner);
            inode.handles -= 1;
            self.forget_if_unused(number);
        }
    }

    fn forget_if_unused(&mut self, number: u64) {
        let named = self.names.values().any(|&named| named == number);
        if !named && self.inode(number).handles == 0 {
            self.inodes.remove(&number);
        }
    }

    /// How many bytes all files have together.
    pub(super) fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.cache.len() as u64).sum()
    }

    /// Where the file has to end at most, so that the disk is not more than full.
    pub(super) fn room(&mut self, number: u64) -> u64 {
        let free = match self.faults.capacity {
            Some(capacity) => capacity.saturating_sub(self.used()),
            None => checks::MAX_KEPT,
        };
        (self.inode(number).cache.len() as u64)
            .saturating_add(free)
            .min(checks::MAX_KEPT)
    }

    pub(super) fn write(&mut self, number: u64, data: &[u8], offset: u64, arrive: Arrive) {
        let sector = self.sectors.bytes();
        let mut order = self.order;
        self.inode(number).write(data, offset, sector, arrive, &mut order);
        self.order = order;
    }

    pub(super) fn set_len(&mut self, number: u64, len: u64) {
        let mut order = self.order;
        self.inode(number).set_len(len, &mut order);
        self.order = order;
    }

    pub(super) fn sync(&mut self, number: u64, mode: SyncMode) {
        let mut order = self.order;
        self.inode(number).sync(mode, &mut order);
        self.order = order;
    }

    pub(super) fn failed_sync(&mut self, number: u64, keep: &CrashKeep) {
        let inode = self.inode(number);
        let mut fates = keep.decide(inode.pending.len()).into_iter();
        inode.keep(|_| fates.next().unwrap_or(Fate::Lost));
    }

    /// The places of all pending changes of files that have a name, in order.
    fn pending_orders(&self) -> Vec<u64> {
        let mut orders: Vec<u64> = self
            .names
            .values()
            .filter_map(|number| self.inodes.get(number))
            .flat_map(|inode| inode.pending.iter().map(|pending| pending.order))
            .collect();
        orders.sort_unstable();
        orders
    }

    pub(super) fn pending(&self) -> Vec<PendingChange> {
        let mut pending: Vec<(u64, PendingChange)> = Vec::new();
        for (name, number) in &self.names {
            let changes = self.inodes.get(number).map_or(&[][..], |inode| &inode.pending);
            pending.extend(changes.iter().map(|change| {
                let kind = change.change.kind();
                let file = name.clone();
                (change.order, PendingChange { file, kind })
            }));
        }
        pending.sort_unstable_by_key(|(order, _)| *order);
        pending.into_iter().map(|(_, change)| change).collect()
    }

    /// Power loss; answers the new incarnation.
    pub(super) fn crash(&mut self, keep: &CrashKeep) -> u64 {
        let orders = self.pending_orders();
        let fates = keep.decide(orders.len());
        let fates: BTreeMap<u64, Fate> = orders.into_iter().zip(fates).collect();
        for inode in self.inodes.values_mut() {
            inode.keep(|order| fates.get(&order).copied().unwrap_or(Fate::Lost));
            inode.cache.clone_from(&inode.durable);
            // A time that no full sync has seen need not be there, whatever of the content is.
            if !matches!(keep, CrashKeep::All) {
                inode.modified = inode.durable_modified;
            }
        }
        self.boot += 1;
        self.kill()
    }

    /// The end of the process; answers the new incarnation.
    pub(super) fn kill(&mut self) -> u64 {
        let names = &self.names;
        self.inodes
            .retain(|number, _| names.values().any(|named| named == number));
        for inode in self.inodes.values_mut() {
            inode.locks.clear();
            inode.handles = 0;
        }
        self.power_is_gone = false;
        self.faults = Faults::default();
        self.epoch += 1;
        self.epoch
    }

    pub(super) fn put(&mut self, path: &Path, bytes: &[u8]) {
        let name = normal(path);
        let number = match self.names.get(&name) {
            Some(&number) => number,
            None => self.create(name),
        };
        let mut clock = self.order;
        let inode = self.inode(number);
        inode.cache = bytes.to_vec();
        inode.durable = bytes.to_vec();
        inode.pending.clear();
        inode.touch(&mut clock);
        inode.durable_modified = inode.modified;
        self.order = clock;
    }
}
