//! Scrubbing the database file of an open store, on a thread of its own.

use crate::stats::ScrubStats;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend_repair::{DatabaseProtection, Scrubbed};
use walmend_sync::thread::{self, JoinHandle};
use walmend_sync::{Condvar, Mutex};
use walmend_types::{Error, Result};

const NAME: &str = "walmend-scrub";
/// How long it waits where a checkpoint is writing.
const BUSY: Duration = Duration::from_millis(20);
/// How long it waits after a failure, and where the sidecar is not in step.
const FAILED: Duration = Duration::from_secs(10);

/// How fast it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// At least 1.
    pub(crate) bytes_per_second: u64,
    /// From the end of a pass to the next one.
    pub(crate) every: Duration,
}

/// The thread, and how it is spoken to. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Scrubber {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stats: ScrubStats,
    /// A piece is being compared.
    at_work: bool,
    stopped: bool,
}

impl Scrubber {
    /// Starts scrubbing.
    ///
    /// # Errors
    /// I/O errors of starting a thread.
    pub(crate) fn start(protection: Arc<DatabaseProtection>, pace: Pace) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let ours = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name(NAME.into())
            .spawn(move || ours.run(&protection, pace))
            .map_err(|error| Error::io("start thread", Path::new(NAME), None, error))?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Holds it up, and returns when the piece that it was at is done; or lets it go on.
    pub(crate) fn pause(&self, paused: bool) {
        let mut state = self.shared.state.lock();
        state.stats.paused = paused;
        self.shared.changed.notify_all();
        while paused && state.at_work {
            state = self.shared.changed.wait(state);
        }
    }

    pub(crate) fn stats(&self) -> ScrubStats {
        self.shared.state.lock().stats.clone()
    }

    /// Ends it, after the piece that it is at.
    pub(crate) fn stop(&self) {
        self.shared.state.lock().stopped = true;
        self.shared.changed.notify_all();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(target: "walmend::store", "the scrubbing thread has panicked");
        }
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn run(&self, protection: &DatabaseProtection, pace: Pace) {
        // So many pages of the pass are done.
        let mut done = 0;
        let mut pause = Duration::ZERO;
        while self.rest(pause) {
            let begun = Instant::now();
            let scrubbed = protection.scrub(done);
            let mut state = self.state.lock();
            state.at_work = false;
            self.changed.notify_all();
            let stats = &mut state.stats;
            pause = match scrubbed {
                Ok(Scrubbed::Piece { next, bytes, healed }) => {
                    done = next;
                    stats.pass_bytes += bytes;
                    stats.bytes += bytes;
                    stats.healed_pages += healed.len() as u64;
                    let due = Duration::from_secs_f64(bytes as f64 / pace.bytes_per_second as f64);
                    due.saturating_sub(begun.elapsed())
                }
                Ok(Scrubbed::End) => {
                    done = 0;
                    stats.passes += 1;
                    stats.pass_bytes = 0;
                    pace.every
                }
                Ok(Scrubbed::Busy) => BUSY,
                Ok(Scrubbed::OutOfStep) => FAILED,
                Err(error) => {
                    tracing::error!(target: "walmend::store", %error, done, "scrubbing the database failed");
                    stats.last_failure = Some(error.to_string());
                    // What follows may be readable.
                    done = done.saturating_add(1);
                    FAILED
                }
            };
        }
    }

    /// Waits so long, and as long as it is held up; answers whether to go on.
    fn rest(&self, pause: Duration) -> bool {
        let begun = Instant::now();
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return false;
            }
            let left = pause.saturating_sub(begun.elapsed());
            state = match (state.stats.paused, left.is_zero()) {
                (true, _) => self.changed.wait(state),
                (false, true) => {
                    state.at_work = true;
                    return true;
                }
                (false, false) => self.changed.wait_timeout(state, left),
            };
        }
    }
}
