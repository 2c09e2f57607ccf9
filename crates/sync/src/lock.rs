//! A mutex and a condition variable without poisoning.
//!
//! A panic while a lock is held must not turn every later call into a panic: walmend has a poison latch
//! of its own, which says *what* failed. Code that holds a lock keeps its data consistent at every point
//! where it can unwind.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

#[cfg(walmend_loom)]
use loom::sync as imp;
#[cfg(not(walmend_loom))]
use std::sync as imp;

/// A mutual exclusion lock; see the [module](crate) for how it differs from std's.
#[derive(Debug, Default)]
pub struct Mutex<T>(imp::Mutex<T>);

/// Access to what a [`Mutex`] protects, until dropped.
#[derive(Debug)]
#[must_use = "the lock is released when the guard is dropped"]
pub struct MutexGuard<'a, T>(imp::MutexGuard<'a, T>);

impl<T> Mutex<T> {
    /// A new, unlocked mutex.
    #[cfg(not(walmend_loom))]
    pub const fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    /// A new, unlocked mutex.
    #[cfg(walmend_loom)]
    pub fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    /// Waits for the lock. A panic of an earlier holder is no obstacle.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// The value itself.
    pub fn into_inner(self) -> T {
        self.0
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A condition variable for [`Mutex`].
#[derive(Debug, Default)]
pub struct Condvar(imp::Condvar);

impl Condvar {
    /// A new condition variable.
    #[cfg(not(walmend_loom))]
    pub const fn new() -> Self {
        Self(imp::Condvar::new())
    }

    /// A new condition variable.
    #[cfg(walmend_loom)]
    pub fn new() -> Self {
        Self(imp::Condvar::new())
    }

    /// Releases the lock, waits for a notification (or wakes without one), takes the lock again.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        MutexGuard(
            self.0
                .wait(guard.0)
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        )
    }

    /// Like [`wait`](Self::wait), for `timeout` at most. Under loom the time never passes.
    pub fn wait_timeout<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> MutexGuard<'a, T> {
        let (guard, _) = self
            .0
            .wait_timeout(guard.0, timeout)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        MutexGuard(guard)
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}
