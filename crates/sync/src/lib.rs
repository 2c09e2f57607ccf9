//! One shim over std and loom for everything that threads share.
//!
//! The other walmend crates take atomics, [`Mutex`], [`Condvar`], [`Bell`], [`thread`] and [`block_on`] from here and
//! from nowhere else, so that a build with `--cfg walmend_loom` runs the very same code under the
//! [loom](https://docs.rs/loom) model checker. The cfg is our own: `cfg(loom)` would switch every other
//! crate in the build as well.
//!
//! `Arc` and `Weak` stay std's: loom's cannot be unsized, and reference counting is not what we check.
//! loom's timed waits never time out, so a model lets time enter as an explicit call instead.
//!
//! ```
//! use walmend_sync::Mutex;
//!
//! let counter = Mutex::new(0);
//! *counter.lock() += 1;
//! assert_eq!(*counter.lock(), 1);
//! ```

mod bell;
mod block_on;
mod lock;

pub use bell::{Bell, Heard};
pub use block_on::{block_on, block_on_deadline, has_passed, park_until, thread_waker};
pub use lock::{Condvar, Mutex, MutexGuard};

/// Atomic integers and fences.
pub mod atomic {
    #[cfg(walmend_loom)]
    pub use loom::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, fence};
    #[cfg(not(walmend_loom))]
    pub use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, fence};

    pub use std::sync::atomic::Ordering;
}

/// Threads. Under loom only what loom has.
pub mod thread {
    #[cfg(walmend_loom)]
    pub use loom::thread::{JoinHandle, Thread, current, park, spawn, yield_now};
    #[cfg(not(walmend_loom))]
    pub use std::thread::{
        Builder, JoinHandle, Scope, Thread, ThreadId, available_parallelism, current, panicking, park,
        park_timeout, scope, sleep, spawn, yield_now,
    };
}

/// Spin-loop hints; under loom they yield, since a model that spins never ends.
pub mod hint {
    #[cfg(walmend_loom)]
    pub use loom::hint::spin_loop;
    #[cfg(not(walmend_loom))]
    pub use std::hint::spin_loop;
}

/// loom's own entry points, for models.
#[cfg(walmend_loom)]
pub mod model {
    pub use loom::model;
    pub use loom::model::Builder;
}

/// The README's example is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
