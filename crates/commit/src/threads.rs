//! The pipeline's own threads.

use crate::channel::{CREW, closed};
use std::cell::Cell;
use walmend_sync::Mutex;
use walmend_sync::atomic::{AtomicBool, Ordering};
use walmend_sync::thread::{self, Builder, JoinHandle};
use walmend_types::{Error, Result};

thread_local! {
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is on its way through the stages of a pipeline.
pub(crate) fn is_at_work() -> bool {
    AT_WORK.get()
}

/// This thread is at work until this is dropped.
pub(crate) struct AtWork(());

impl AtWork {
    pub(crate) fn begin() -> Self {
        AT_WORK.set(true);
        Self(())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        AT_WORK.set(false);
    }
}

/// The threads of one pipeline.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    crew: AtomicBool,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    threads: Vec<JoinHandle<()>>,
    ended: bool,
}

impl Threads {
    pub(crate) fn start(&self, name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        self.running.lock().start(name, work)
    }

    /// Starts the crew, unless it is there.
    pub(crate) fn start_crew<F: FnOnce() + Send + 'static>(&self, work: impl Fn(usize) -> F) -> Result<()> {
        if self.crew.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut running = self.running.lock();
        if !self.crew.load(Ordering::Acquire) {
            // One is enough to go on with, should the system give no second one.
            running.start("walmend-commit-0", work(0))?;
            self.crew.store(true, Ordering::Release);
            for member in 1..CREW {
                running.start("walmend-commit-1", work(member))?;
            }
        }
        Ok(())
    }

    /// Waits for all of them to end, but for the one that calls.
    pub(crate) fn join(&self) {
        let threads = {
            let mut running = self.running.lock();
            running.ended = true;
            std::mem::take(&mut running.threads)
        };
        let this = thread::current().id();
        for thread in threads {
            // One of the crew gets here when it drops the last task that held the pipeline; it ends right after.
            if thread.thread().id() != this && thread.join().is_err() {
                tracing::error!(target: "walmend::commit::group", "a thread of the pipeline has panicked");
            }
        }
    }
}

impl Running {
    fn start(&mut self, name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        if self.ended {
            return Err(closed());
        }
        self.threads.push(spawn(name, work)?);
        Ok(())
    }
}

/// Starts a named thread.
pub(crate) fn spawn<R: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<JoinHandle<R>> {
    Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|source| Error::Io {
            op: "start thread",
            path: name.into(),
            offset: None,
            source: std::sync::Arc::new(source),
        })
}
