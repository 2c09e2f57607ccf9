//! Pages that transactions have locked ahead of their commit.
//!
//! A lock belongs to one transaction, and binds only transactions that lock: whoever writes without locking still
//! meets the first committer at commit. Each lock is registered for this process as well, in a registry that
//! other processes' locks can be brought into.
//!
//! Nobody waits for ever: a wait has a budget, and one that would close a circle of transactions, each waiting for
//! the next, is refused at once. A transaction waits for one page at a time, so the circle is found by walking from
//! holder to holder (Coffman et al., "System Deadlocks", 1971). A checkpoint can be a part of it: who has locked pages and
//! then begins may wait for a checkpoint, which waits for all snapshots, that of whoever asks for such a page included.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend_sync::{Condvar, Mutex};
use walmend_types::{Error, PageNumber, Result, TxnId};
use walmend_wal::{LockOwner, LockRegistry, OsProbe};

#[derive(Debug)]
pub(crate) struct PageLocks {
    us: LockOwner,
    registry: LockRegistry,
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    holders: HashMap<PageNumber, TxnId>,
    /// What each waiting transaction waits for.
    waiting: HashMap<TxnId, Wait>,
}

#[derive(Debug, Clone, Copy)]
enum Wait {
    /// For whoever has the page.
    Page(PageNumber),
    /// For a checkpoint, and so for every snapshot.
    Checkpoint,
}

/// A transaction that asks for a page.
#[derive(Debug, Clone, Copy)]
struct Asker {
    txn: TxnId,
    has_snapshot: bool,
}

impl State {
    /// Whether a wait of `asker` for `page` would never end.
    fn closes_a_circle(&self, asker: Asker, page: PageNumber) -> bool {
        let mut wanted = page;
        while let Some(holder) = self.holders.get(&wanted) {
            if *holder == asker.txn {
                return true;
            }
            match self.waiting.get(holder) {
                Some(Wait::Page(next)) => wanted = *next,
                Some(Wait::Checkpoint) => return asker.has_snapshot,
                None => return false,
            }
        }
        false
    }
}

impl PageLocks {
    pub(crate) fn new() -> Self {
        Self {
            us: LockOwner::current(),
            registry: LockRegistry::new(),
            state: Mutex::new(State::default()),
            released: Condvar::new(),
        }
    }

    pub(crate) fn registry(&self) -> &LockRegistry {
        &self.registry
    }

    fn acquire(&self, page: PageNumber, asker: Asker, budget: Duration) -> Result<()> {
        let txn = asker.txn;
        let started = Instant::now();
        let mut state = self.state.lock();
        loop {
            let Some(holder) = state.holders.get(&page).copied() else {
                self.check_other_processes(page)?;
                state.holders.insert(page, txn);
                self.registry.register(page, self.us);
                return Ok(());
            };
            if holder == txn {
                return Ok(());
            }
            let deadlock = state.closes_a_circle(asker, page);
            let left = budget.saturating_sub(started.elapsed());
            if deadlock || left.is_zero() {
                return Err(Error::PageLocked {
                    page: page.get(),
                    txn: holder.0,
                    deadlock,
                    waited_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                });
            }
            state.waiting.insert(txn, Wait::Page(page));
            state = self.released.wait_timeout(state, left);
            state.waiting.remove(&txn);
        }
    }

    /// Locks of other processes count for as long as those live.
    fn check_other_processes(&self, page: PageNumber) -> Result<()> {
        if !self.registry.is_held_by_another(page, self.us) {
            return Ok(());
        }
        self.registry.release_dead_locks(&OsProbe::new());
        if !self.registry.is_held_by_another(page, self.us) {
            return Ok(());
        }
        let locks = self.registry.snapshot();
        let other = locks
            .iter()
            .find(|lock| lock.page == page && lock.owner != self.us);
        let pid = other.map_or(0, |lock| lock.owner.pid);
        Err(Error::Locked {
            path: format!("page {page}").into(),
            holder: format!("process {pid}"),
        })
    }

    /// The transaction, which has locked pages, waits for a checkpoint: who waits for it looks again.
    fn waits_for_checkpoint(&self, txn: TxnId) {
        self.state.lock().waiting.insert(txn, Wait::Checkpoint);
        self.released.notify_all();
    }

    fn waits_no_more(&self, txn: TxnId) {
        self.state.lock().waiting.remove(&txn);
    }

    fn release(&self, pages: &HashSet<PageNumber>) {
        let mut state = self.state.lock();
        for page in pages {
            state.holders.remove(page);
            self.registry.deregister(*page, self.us);
        }
        let wake = !state.waiting.is_empty();
        drop(state);
        if wake {
            self.released.notify_all();
        }
    }
}

/// The locks of one transaction, released when dropped.
#[derive(Debug)]
pub(crate) struct HeldLocks {
    locks: Arc<PageLocks>,
    asker: Asker,
    pages: HashSet<PageNumber>,
}

impl HeldLocks {
    pub(crate) fn none(locks: &Arc<PageLocks>, txn: TxnId) -> Self {
        Self {
            locks: Arc::clone(locks),
            asker: Asker {
                txn,
                has_snapshot: false,
            },
            pages: HashSet::new(),
        }
    }

    /// Begins the transaction: `begin` takes its snapshot, and calls back if a checkpoint has to be waited for.
    pub(crate) fn begin<T>(&mut self, begin: impl FnOnce(&dyn Fn()) -> T) -> T {
        let (locks, txn, locked) = (&self.locks, self.asker.txn, !self.pages.is_empty());
        let waited = Cell::new(false);
        let begun = begin(&|| {
            if locked {
                waited.set(true);
                locks.waits_for_checkpoint(txn);
            }
        });
        if waited.get() {
            locks.waits_no_more(txn);
        }
        self.asker.has_snapshot = true;
        begun
    }

    /// Takes one more lock; one that is held already is held only once.
    pub(crate) fn acquire(&mut self, page: PageNumber, budget: Duration) -> Result<()> {
        if self.pages.contains(&page) {
            return Ok(());
        }
        self.locks.acquire(page, self.asker, budget)?;
        self.pages.insert(page);
        Ok(())
    }
}

impl Drop for HeldLocks {
    fn drop(&mut self) {
        if !self.pages.is_empty() {
            self.locks.release(&self.pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walmend_sync::thread;

    fn page(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    #[test]
    fn a_circle_of_waits_is_refused_at_once_and_the_others_go_on() {
        let locks = Arc::new(PageLocks::new());
        let long = Duration::from_secs(600);
        let mut held: Vec<HeldLocks> = (1..=3).map(|txn| HeldLocks::none(&locks, TxnId(txn))).collect();
        for (held, number) in held.iter_mut().zip(1..) {
            held.acquire(page(number), Duration::ZERO).unwrap();
        }
        let mut third = held.pop().unwrap();
        thread::scope(|scope| {
            // 1 waits for 2, 2 waits for 3.
            let waits: Vec<_> = held
                .into_iter()
                .zip(2..)
                .map(|(mut held, number)| scope.spawn(move || held.acquire(page(number), long)))
                .collect();
            while locks.state.lock().waiting.len() < 2 {
                thread::yield_now();
            }
            let refused = third.acquire(page(1), long).unwrap_err();
            assert!(
                matches!(
                    refused,
                    Error::PageLocked {
                        page: 1,
                        txn: 1,
                        deadlock: true,
                        ..
                    }
                ),
                "{refused}"
            );
            drop(third);
            for wait in waits {
                wait.join().unwrap().unwrap();
            }
        });
        assert!(locks.registry.is_empty() && locks.state.lock().holders.is_empty());
    }
}
