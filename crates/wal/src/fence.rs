//! The recovery fence: at most one owner per database path in this process.
//!
//! Recovery, and whatever truncates a log, runs only while it holds the fence. Between processes the file's
//! locks do the same; this is the part for threads.
//!
//! A holder is usually gone within microseconds, so a caller first spins. Then it queues and parks; there is
//! no polling. The release hands the fence over to the longest waiter and wakes that one alone. `held` stays
//! set meanwhile, so nobody can slip in between.
//!
//! # Why no wake-up is lost
//! `held` is cleared only under the lock of the queue, and only when the queue is empty. A waiter probes
//! `held` once more under that lock before it queues: either the release came first, and the probe succeeds,
//! or the release comes later, and finds the waiter queued. Giving up takes the waiter out of the queue under
//! the same lock, so it has either been handed the fence, or never will be.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::debug;
use walmend_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use walmend_sync::{Condvar, Mutex, hint};
use walmend_types::{Error, Result};

/// How often a caller looks before it parks.
const SPIN_PROBES: u32 = if cfg!(walmend_loom) { 1 } else { 4096 };

/// Lets one caller at a time recover or truncate; clones share it.
///
/// ```
/// use walmend_wal::RecoveryFence;
///
/// let fence = RecoveryFence::new();
/// let guard = fence.acquire(RecoveryFence::DEFAULT_BUDGET)?;
/// assert!(fence.try_acquire().is_none());
/// drop(guard);
/// assert!(fence.try_acquire().is_some());
/// assert_eq!(fence.generation(), 2);
/// # Ok::<(), walmend_types::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RecoveryFence(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Whether somebody holds the fence. Set by anybody who finds it clear; cleared under `queue`'s lock.
    held: AtomicBool,
    /// Counts releases. Written by the holder alone.
    generation: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Who waits, longest first. A waiter that is not in here was handed the fence, or has given up.
    waiters: VecDeque<Waiter>,
    /// The waiter that was handed the fence last.
    handed_to: Option<u64>,
    /// The id of the next waiter; none is used twice.
    next_id: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    wakeup: Arc<Condvar>,
}

impl Queue {
    /// Takes a waiter whose time is up out of the queue, unless it is no longer in there.
    fn expire(&mut self, id: u64) -> Option<Waiter> {
        let position = self.waiters.iter().position(|waiter| waiter.id == id)?;
        self.waiters.remove(position)
    }

    fn is_waiting(&self, id: u64) -> bool {
        self.waiters.iter().any(|waiter| waiter.id == id)
    }
}

impl Default for RecoveryFence {
    fn default() -> Self {
        Self::new()
    }
}

impl RecoveryFence {
    /// How long to wait where the caller has no wish of its own: 10 x 100 ms.
    pub const DEFAULT_BUDGET: Duration = Duration::from_millis(10 * 100);

    /// A fence of its own, for a database that no path names; see [`for_path`](Self::for_path).
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            held: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            queue: Mutex::new(Queue::default()),
        }))
    }

    /// The fence of a database: the same one for the same path, all over the process, for as long as a clone
    /// or a guard of it lives. The path must be the canonical one
    /// ([`Vfs::canonical`](walmend_vfs::Vfs::canonical)), or two names of one file get two fences.
    #[cfg(not(walmend_loom))]
    pub fn for_path(canonical: &Path) -> Self {
        registry::fence(canonical)
    }

    /// A fence of its own: under loom nothing outlives one run of a model, so models clone theirs.
    #[cfg(walmend_loom)]
    pub fn for_path(_: &Path) -> Self {
        Self::new()
    }

    /// Takes the fence if nobody holds it.
    pub fn try_acquire(&self) -> Option<FenceGuard> {
        self.0.try_hold().then(|| FenceGuard(Arc::clone(&self.0)))
    }

    /// Takes the fence, waiting up to `budget` for those before. Waiters are served in the order of their
    /// coming. A budget of zero still spins for a moment.
    ///
    /// # Errors
    /// [`Error::BusyRecovery`] when the budget is used up; another try may succeed.
    pub fn acquire(&self, budget: Duration) -> Result<FenceGuard> {
        for _ in 0..SPIN_PROBES {
            // A load leaves the cache line shared; only what looks free is worth the exchange.
            if !self.0.held.load(Ordering::Relaxed)
                && let Some(guard) = self.try_acquire()
            {
                return Ok(guard);
            }
            hint::spin_loop();
        }
        let start = Instant::now();
        let held = self.0.wait(Deadline::after(start, budget));
        let waited = start.elapsed();
        if held {
            let waited_us = waited.as_micros() as u64;
            debug!(target: "walmend::wal::fence", waited_us, "acquired after waiting");
            return Ok(FenceGuard(Arc::clone(&self.0)));
        }
        let waited_ms = waited.as_millis() as u64;
        debug!(target: "walmend::wal::fence", waited_ms, "given up: still held");
        Err(Error::BusyRecovery { waited_ms })
    }

    /// How often the fence was released.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// The budget of the `n`-th waiter there ever was, from 0, runs out now: how time passes in a model.
    #[cfg(walmend_loom)]
    pub fn expire(&self, n: u64) {
        if let Some(waiter) = self.0.queue.lock().expire(n) {
            waiter.wakeup.notify_one();
        }
    }
}

impl Shared {
    fn try_hold(&self) -> bool {
        self.held
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Queues and parks; answers whether the caller now holds the fence.
    fn wait(&self, deadline: Deadline) -> bool {
        let mut queue = self.queue.lock();
        if self.try_hold() {
            return true;
        }
        let id = queue.next_id;
        queue.next_id += 1;
        let wakeup = Arc::new(Condvar::new());
        queue.waiters.push_back(Waiter {
            id,
            wakeup: Arc::clone(&wakeup),
        });
        while queue.is_waiting(id) {
            match deadline.left() {
                Duration::ZERO => drop(queue.expire(id)),
                left => queue = wakeup.wait_timeout(queue, left),
            }
        }
        queue.handed_to == Some(id)
    }

    fn release(&self) {
        let mut queue = self.queue.lock();
        self.generation.fetch_add(1, Ordering::Release);
        match queue.waiters.pop_front() {
            Some(next) => {
                queue.handed_to = Some(next.id);
                next.wakeup.notify_one();
            }
            None => self.held.store(false, Ordering::Release),
        }
    }
}

/// When a waiter gives up; `None` if no clock reaches that far.
struct Deadline(Option<Instant>);

impl Deadline {
    fn after(start: Instant, budget: Duration) -> Self {
        Self(start.checked_add(budget))
    }

    /// The time until then. In a model it never ends: the clock would make its runs differ, so time passes
    /// by `expire` instead.
    fn left(&self) -> Duration {
        match self.0 {
            Some(end) if cfg!(not(walmend_loom)) => end.saturating_duration_since(Instant::now()),
            _ => Duration::MAX,
        }
    }
}

/// Holds the [`RecoveryFence`] until dropped. It may be dropped on another thread.
#[derive(Debug)]
#[must_use = "the fence is released when the guard is dropped"]
pub struct FenceGuard(Arc<Shared>);

impl Drop for FenceGuard {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// The fences of this process, by path.
#[cfg(not(walmend_loom))]
mod registry {
    use super::{RecoveryFence, Shared};
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Weak};
    use walmend_sync::Mutex;

    static FENCES: Mutex<BTreeMap<PathBuf, Weak<Shared>>> = Mutex::new(BTreeMap::new());

    pub(super) fn fence(path: &Path) -> RecoveryFence {
        let mut fences = FENCES.lock();
        if let Some(shared) = fences.get(path).and_then(Weak::upgrade) {
            return RecoveryFence(shared);
        }
        // Opening is rare, and few databases are open at once: a walk keeps the registry as small as they are.
        fences.retain(|_, fence| fence.strong_count() > 0);
        let fence = RecoveryFence::new();
        fences.insert(path.to_path_buf(), Arc::downgrade(&fence.0));
        fence
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn fences_that_nobody_uses_are_forgotten() {
            for number in 0..100 {
                fence(Path::new(&format!("/registry-test/{number}")));
            }
            let kept = fence(Path::new("/registry-test/kept"));
            let ours = FENCES
                .lock()
                .keys()
                .filter(|path| path.starts_with("/registry-test"))
                .count();
            assert_eq!(ours, 1);
            drop(kept);
        }
    }
}
