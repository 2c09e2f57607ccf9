//! Who has locked which pages, by process, so that the locks of a process that is gone can be told and released.
//!
//! The registry keeps book; it keeps nobody out. Each entry is (page, owner, sequence), and an owner is a
//! process that cannot be mistaken for another one that gets its number later ([`LockOwner`]). Whoever grants
//! the locks registers them, and asks now and then for those of dead owners
//! ([`release_dead_locks`](LockRegistry::release_dead_locks)), to drop the locks that go with them.
//!
//! ```
//! use walmend_types::PageNumber;
//! use walmend_wal::{LockOwner, LockRegistry, OsProbe};
//!
//! let registry = LockRegistry::new();
//! let us = LockOwner::current();
//! let page = PageNumber::new(7)?;
//! let sequence = registry.register(page, us);
//! assert_eq!(registry.register(page, us), sequence);
//! assert!(registry.release_dead_locks(&OsProbe::new()).is_empty(), "we are alive");
//! assert!(registry.deregister(page, us));
//! assert!(registry.is_empty());
//! # Ok::<(), walmend_types::Error>(())
//! ```

mod owner;
mod probe;

pub use owner::LockOwner;
pub use probe::{LivenessProbe, OsProbe};

use std::collections::{HashMap, HashSet};
use walmend_sync::Mutex;
use walmend_types::{Error, PageNumber, Result};

/// One lock, as it is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct RegisteredLock {
    /// Names the registration: from 1, never used twice by one registry.
    pub sequence: u64,
    /// The page.
    pub page: PageNumber,
    /// Who has it.
    pub owner: LockOwner,
}

/// The locks of processes on pages. Every operation on one lock takes constant time on average, whatever else is
/// registered (hash tables; all three are kept in step under one mutex).
#[derive(Debug, Default)]
pub struct LockRegistry(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    by_pair: HashMap<(PageNumber, LockOwner), u64>,
    by_sequence: HashMap<u64, (PageNumber, LockOwner)>,
    by_owner: HashMap<LockOwner, HashSet<u64>>,
    /// How many owners a page has.
    owners: HashMap<PageNumber, usize>,
    last_sequence: u64,
}

/// Bytes of one lock in [`LockRegistry::to_bytes`].
const RECORD: usize = 12 + LockOwner::BYTES;

impl Tables {
    fn insert(&mut self, page: PageNumber, owner: LockOwner, sequence: u64) {
        self.by_pair.insert((page, owner), sequence);
        self.by_sequence.insert(sequence, (page, owner));
        self.by_owner.entry(owner).or_default().insert(sequence);
        *self.owners.entry(page).or_default() += 1;
    }

    fn remove(&mut self, sequence: u64) -> Option<RegisteredLock> {
        let (page, owner) = self.by_sequence.remove(&sequence)?;
        self.by_pair.remove(&(page, owner));
        if let Some(sequences) = self.by_owner.get_mut(&owner) {
            sequences.remove(&sequence);
            if sequences.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
        if let Some(count) = self.owners.get_mut(&page) {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&page);
            }
        }
        Some(RegisteredLock {
            sequence,
            page,
            owner,
        })
    }

    fn locks(&self) -> Vec<RegisteredLock> {
        let lock = |(sequence, (page, owner)): (&u64, &(PageNumber, LockOwner))| RegisteredLock {
            sequence: *sequence,
            page: *page,
            owner: *owner,
        };
        let mut locks: Vec<_> = self.by_sequence.iter().map(lock).collect();
        locks.sort_unstable();
        locks
    }
}

impl LockRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a lock, and answers its sequence: the same one if it is registered already.
    pub fn register(&self, page: PageNumber, owner: LockOwner) -> u64 {
        let mut tables = self.0.lock();
        if let Some(sequence) = tables.by_pair.get(&(page, owner)) {
            return *sequence;
        }
        tables.last_sequence += 1;
        let sequence = tables.last_sequence;
        tables.insert(page, owner, sequence);
        sequence
    }

    /// Takes a lock out; answers whether it was in.
    pub fn deregister(&self, page: PageNumber, owner: LockOwner) -> bool {
        let mut tables = self.0.lock();
        let sequence = tables.by_pair.get(&(page, owner)).copied();
        sequence.and_then(|sequence| tables.remove(sequence)).is_some()
    }

    /// Takes the lock with this sequence out, and answers it.
    pub fn deregister_sequence(&self, sequence: u64) -> Option<RegisteredLock> {
        self.0.lock().remove(sequence)
    }

    /// Whether anybody but `owner` has the page.
    pub fn is_held_by_another(&self, page: PageNumber, owner: LockOwner) -> bool {
        let tables = self.0.lock();
        let all = tables.owners.get(&page).copied().unwrap_or(0);
        all > usize::from(tables.by_pair.contains_key(&(page, owner)))
    }

    /// All locks, in the order of their registration.
    pub fn snapshot(&self) -> Vec<RegisteredLock> {
        self.0.lock().locks()
    }

    /// How many locks there are.
    pub fn len(&self) -> usize {
        self.0.lock().by_sequence.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes out the locks of all owners that the probe says are dead, and answers them in the order of their
    /// registration, so that the caller can drop what goes with them. Each owner is probed once, with the
    /// registry unlocked: an owner that is dead stays dead, whatever is registered meanwhile.
    pub fn release_dead_locks(&self, probe: &dyn LivenessProbe) -> Vec<RegisteredLock> {
        let owners: Vec<LockOwner> = self.0.lock().by_owner.keys().copied().collect();
        let dead: Vec<LockOwner> = owners
            .into_iter()
            .filter(|owner| !probe.is_alive(owner))
            .collect();
        let mut tables = self.0.lock();
        let sequences: Vec<u64> = dead
            .iter()
            .filter_map(|owner| tables.by_owner.get(owner))
            .flatten()
            .copied()
            .collect();
        let mut released: Vec<_> = sequences
            .into_iter()
            .filter_map(|sequence| tables.remove(sequence))
            .collect();
        drop(tables);
        released.sort_unstable();
        for lock in &released {
            tracing::warn!(
                target: "walmend::wal::registry", page = %lock.page, pid = lock.owner.pid, sequence = lock.sequence,
                "lock of a dead process released"
            );
        }
        released
    }

    /// Everything that is registered, for another process: the last sequence (u64), then per lock its sequence
    /// (u64), page (u32) and owner ([`LockOwner::to_bytes`]), all little-endian, in the order of registration.
    pub fn to_bytes(&self) -> Vec<u8> {
        let tables = self.0.lock();
        let mut bytes = tables.last_sequence.to_le_bytes().to_vec();
        for lock in tables.locks() {
            bytes.extend(lock.sequence.to_le_bytes());
            bytes.extend(lock.page.get().to_le_bytes());
            bytes.extend(lock.owner.to_bytes());
        }
        bytes
    }

    /// The registry that [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`Error::Invalid`] for anything that it cannot have written.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong = |what: &str| Error::Invalid(format!("these bytes are no lock registry: {what}"));
        let (last, records) = bytes
            .split_first_chunk::<8>()
            .ok_or_else(|| wrong("fewer than 8 of them"))?;
        let mut tables = Tables {
            last_sequence: u64::from_le_bytes(*last),
            ..Tables::default()
        };
        let (records, rest) = records.as_chunks::<RECORD>();
        if !rest.is_empty() {
            return Err(wrong("they end within a lock"));
        }
        for record in records {
            let mut sequence = [0; 8];
            let mut page = [0; 4];
            let mut owner = [0; LockOwner::BYTES];
            sequence.copy_from_slice(&record[..8]);
            page.copy_from_slice(&record[8..12]);
            owner.copy_from_slice(&record[12..]);
            let sequence = u64::from_le_bytes(sequence);
            let page = PageNumber::new(u32::from_le_bytes(page)).map_err(|_| wrong("a page has number 0"))?;
            let owner = LockOwner::from_bytes(&owner);
            if sequence == 0 || sequence > tables.last_sequence {
                return Err(wrong("a sequence is out of range"));
            }
            if tables.by_sequence.contains_key(&sequence) || tables.by_pair.contains_key(&(page, owner)) {
                return Err(wrong("a lock is in them twice"));
            }
            tables.insert(page, owner, sequence);
        }
        Ok(Self(Mutex::new(tables)))
    }
}
