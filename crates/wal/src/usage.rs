//! Who is at work on the files of a store, so that closing can wait for them.
//!
//! Once the lock of the database is given up, the files belong to whoever opens them next: a read that spans a
//! close could see another program's pages, and a checkpoint that goes on would write over them.

use walmend_sync::atomic::{AtomicBool, Ordering};
use walmend_sync::{Condvar, Mutex};
use walmend_types::{Error, Result};

/// Counts calls that are at work, and keeps new ones out once the store is closed.
#[derive(Debug, Default)]
pub struct Usage {
    state: Mutex<State>,
    idle: Condvar,
    /// The same as in the state, for those who only ask: every transaction does so twice, and a lock for that would be
    /// the busiest of all.
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    at_work: usize,
}

/// Somebody is at work until this is dropped.
#[derive(Debug)]
#[must_use = "the work ends when the guard is dropped"]
pub struct AtWork<'a>(&'a Usage);

impl Usage {
    /// Begins a call that touches the files.
    ///
    /// # Errors
    /// [`Error::Closed`] once [`close`](Self::close) was called.
    pub fn enter(&self) -> Result<AtWork<'_>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(closed());
        }
        state.at_work += 1;
        Ok(AtWork(self))
    }

    /// `Ok` while open.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(closed())
        } else {
            Ok(())
        }
    }

    /// Lets nobody begin any more, and waits for those at work.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        self.closed.store(true, Ordering::Release);
        while state.at_work > 0 {
            state = self.idle.wait(state);
        }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.at_work -= 1;
        let wake = state.closed && state.at_work == 0;
        drop(state);
        if wake {
            self.0.idle.notify_all();
        }
    }
}

fn closed() -> Error {
    Error::Closed { what: "the store" }
}

// The models are in `tests/loom_gate.rs`.
#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::*;
    use walmend_sync::atomic::{AtomicBool, Ordering};
    use walmend_sync::thread;

    #[test]
    fn closing_waits_for_those_at_work_and_keeps_others_out() {
        let (usage, done) = (Usage::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            let at_work = usage.enter().unwrap();
            scope.spawn(|| {
                usage.close();
                done.store(true, Ordering::Release);
            });
            while usage.check_open().is_ok() {
                thread::yield_now();
            }
            // Closed, and yet not through: long enough for a close that does not wait to give itself away.
            thread::sleep(std::time::Duration::from_millis(20));
            assert!(!done.load(Ordering::Acquire));
            assert!(usage.enter().is_err());
            drop(at_work);
        });
        assert!(done.load(Ordering::Acquire));
    }
}
