//! Tells one thread that the log has grown to a size, without a wake-up for every batch before that.
//!
//! # Why no wake-up is lost
//! The waiter sets `wanted`, and then looks at the size under the lock of what is visible. A publisher raises the size
//! under that lock, and then looks at `wanted`. So either the waiter sees the new size, or the publisher sees the
//! wish; and it notifies under the lock that the waiter holds until it waits.

use super::Log;
use std::time::{Duration, Instant};
use walmend_sync::atomic::{AtomicU32, Ordering};
use walmend_sync::{Condvar, Mutex};

/// Nobody waits.
const NOBODY: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Growth {
    /// Published frames, for whoever only wants to compare.
    frames: AtomicU32,
    /// The number of frames that is waited for. Written by the waiter; read at each publication.
    wanted: AtomicU32,
    /// Whether waiting is over for good.
    stopped: Mutex<bool>,
    grown: Condvar,
}

/// Why a wait for growth ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grown {
    /// The log holds that many frames.
    Reached,
    /// The time is up.
    TimedOut,
    /// [`Log::stop_waiting`] was called.
    Stopped,
}

impl Growth {
    pub(crate) fn new(frames: u32) -> Self {
        Self {
            frames: AtomicU32::new(frames),
            wanted: AtomicU32::new(NOBODY),
            stopped: Mutex::new(false),
            grown: Condvar::new(),
        }
    }

    /// So many frames are published now, 0 after a reset. The caller holds the lock of what is visible: a publication
    /// that told its number after a reset would leave the log full for good.
    pub(crate) fn set(&self, frames: u32) {
        self.frames.store(frames, Ordering::Relaxed);
    }

    /// Wakes whoever waits for so many frames. The caller has let go of the lock of what is visible.
    pub(crate) fn wake(&self, frames: u32) {
        if frames >= self.wanted.load(Ordering::SeqCst) {
            drop(self.stopped.lock());
            self.grown.notify_all();
        }
    }
}

impl Log {
    /// Published frames, by now or a moment ago. Takes no lock.
    pub fn frames(&self) -> u32 {
        self.shared.growth.frames.load(Ordering::Relaxed)
    }

    /// Waits until the log holds `frames` published frames. For one thread at a time.
    pub fn wait_for_growth(&self, frames: u32, budget: Duration) -> Grown {
        let growth = &self.shared.growth;
        let started = Instant::now();
        let mut stopped = growth.stopped.lock();
        growth.wanted.store(frames, Ordering::SeqCst);
        let why = loop {
            if *stopped {
                break Grown::Stopped;
            }
            if self.shared.visible.lock().frames >= frames {
                break Grown::Reached;
            }
            let left = budget.saturating_sub(started.elapsed());
            if left.is_zero() {
                break Grown::TimedOut;
            }
            stopped = growth.grown.wait_timeout(stopped, left);
        };
        growth.wanted.store(NOBODY, Ordering::SeqCst);
        why
    }

    /// Ends [`wait_for_growth`](Self::wait_for_growth), now and from now on.
    pub fn stop_waiting(&self) {
        *self.shared.growth.stopped.lock() = true;
        self.shared.growth.grown.notify_all();
    }
}
