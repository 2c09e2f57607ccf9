//! Byte range locks of one file, with the rules of the kernel's open file description locks.
//!
//! A new lock of the same owner replaces what that owner held in the range, so that a lock can be raised
//! and lowered; an unlock may cut a hole into a longer lock.

use crate::{LockKind, LockRange, Result, checks};

/// One lock: who holds which bytes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) owner: u64,
    pub(crate) start: u64,
    /// One past the last byte.
    pub(crate) end: u64,
    pub(crate) kind: LockKind,
}

impl Held {
    /// The lock that `owner` wants.
    pub(crate) fn of(owner: u64, range: LockRange, kind: LockKind) -> Result<Self> {
        Ok(Self {
            owner,
            start: range.start,
            end: checks::lock_end(range)?,
            kind,
        })
    }
}

/// All locks of one file.
#[derive(Debug, Default)]
pub(crate) struct LockTable(Vec<Held>);

impl LockTable {
    /// Whether somebody else stands in the way.
    pub(crate) fn blocked(&self, wanted: Held) -> bool {
        self.0.iter().any(|held| {
            held.owner != wanted.owner
                && held.start < wanted.end
                && wanted.start < held.end
                && (held.kind == LockKind::Exclusive || wanted.kind == LockKind::Exclusive)
        })
    }

    /// Takes a lock unless somebody else stands in the way.
    pub(crate) fn try_lock(&mut self, wanted: Held) -> bool {
        if self.blocked(wanted) {
            return false;
        }
        self.unlock(wanted.owner, wanted.start, wanted.end);
        self.0.push(wanted);
        true
    }

    /// Releases what `owner` holds in `start..end`.
    pub(crate) fn unlock(&mut self, owner: u64, start: u64, end: u64) {
        let mut kept = Vec::with_capacity(self.0.len() + 1);
        for held in self.0.drain(..) {
            if held.owner != owner || held.end <= start || end <= held.start {
                kept.push(held);
                continue;
            }
            if held.start < start {
                kept.push(Held { end: start, ..held });
            }
            if end < held.end {
                kept.push(Held { start: end, ..held });
            }
        }
        self.0 = kept;
    }

    /// Releases everything that `owner` holds, and answers what that was.
    pub(crate) fn release(&mut self, owner: u64) -> Vec<Held> {
        self.0.extract_if(.., |held| held.owner == owner).collect()
    }

    /// Forgets all locks, as after the death of every process.
    #[cfg(feature = "sim")]
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LockKind::{Exclusive, Shared};

    fn lock(owner: u64, start: u64, end: u64, kind: LockKind) -> Held {
        Held {
            owner,
            start,
            end,
            kind,
        }
    }

    #[test]
    fn an_unlock_in_the_middle_leaves_both_ends_held() {
        let mut table = LockTable::default();
        assert!(table.try_lock(lock(1, 0, 10, Exclusive)));
        table.unlock(1, 4, 6);
        assert!(table.try_lock(lock(2, 4, 6, Exclusive)));
        assert!(table.blocked(lock(2, 3, 4, Shared)));
        assert!(table.blocked(lock(2, 6, 7, Shared)));
    }

    #[test]
    fn a_failed_upgrade_keeps_the_shared_lock() {
        let mut table = LockTable::default();
        assert!(table.try_lock(lock(1, 0, 1, Shared)));
        assert!(table.try_lock(lock(2, 0, 1, Shared)));
        assert!(!table.try_lock(lock(1, 0, 1, Exclusive)));
        assert!(table.blocked(lock(2, 0, 1, Exclusive)));
    }

    #[test]
    fn releasing_an_owner_answers_its_ranges_and_leaves_the_others() {
        let mut table = LockTable::default();
        assert!(table.try_lock(lock(1, 0, 1, Exclusive)));
        assert!(table.try_lock(lock(2, 5, 9, Exclusive)));
        assert_eq!(table.release(1), [lock(1, 0, 1, Exclusive)]);
        assert!(table.blocked(lock(1, 5, 6, Shared)));
        assert!(!table.blocked(lock(2, 0, 1, Exclusive)));
    }
}
