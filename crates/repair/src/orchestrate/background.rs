//! The background path: one task on the caller's runtime, its work on blocking threads.

use super::api::{CommitRepairIo, RepairSymbolGenerator, SymbolRange, panic_error};
use super::ledger::Ledger;
use super::queue::Job;
use super::report::RepairState;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::runtime::Handle;
use walmend_sync::atomic::{AtomicBool, Ordering};
use walmend_types::{Error, Result};

pub(super) const TARGET: &str = "walmend::repair::coordinator";

/// What the background path works with.
pub(super) struct Background {
    pub(super) handle: Handle,
    pub(super) io: Arc<dyn CommitRepairIo>,
    pub(super) generator: Arc<dyn RepairSymbolGenerator>,
}

impl Background {
    /// Spawns the task that works through the queue. Should it never run, its guard says so at once.
    pub(super) fn spawn(&self, ledger: &Arc<Ledger>) {
        let worker = Worker {
            ledger: Arc::clone(ledger),
            io: Arc::clone(&self.io),
            generator: Arc::clone(&self.generator),
            cancelled: Arc::new(AtomicBool::new(false)),
        };
        // The guard is made here, not in the task: a runtime that is shut down drops the task unpolled.
        let guard = WorkerGuard {
            worker: worker.clone(),
            done: false,
        };
        drop(self.handle.spawn(drive(worker, guard)));
    }
}

async fn drive(worker: Worker, mut guard: WorkerGuard) {
    while worker.ledger.go_on() {
        let step = worker.clone();
        // tokio panics when the system has no thread to give.
        let spawned = catch_unwind(AssertUnwindSafe(|| {
            tokio::task::spawn_blocking(move || step.repair_some())
        }));
        let step = match spawned {
            Ok(step) => step,
            Err(payload) => {
                let error = panic_error("spawning a thread", payload.as_ref());
                tracing::error!(target: TARGET, %error, "no thread for the repair");
                worker.ledger.attempt_failed(&error);
                return;
            }
        };
        // Cancelled: it never ran, since the runtime is being shut down, and going on would spin.
        if step.await.is_err_and(|error| error.is_cancelled()) {
            return;
        }
    }
    guard.done = true;
}

#[derive(Clone)]
struct Worker {
    ledger: Arc<Ledger>,
    io: Arc<dyn CommitRepairIo>,
    generator: Arc<dyn RepairSymbolGenerator>,
    cancelled: Arc<AtomicBool>,
}

impl Worker {
    /// Repairs what waits, as many groups as share one sync.
    fn repair_some(&self) {
        let jobs = self.ledger.take(&self.cancelled);
        let mut guards: Vec<JobGuard<'_>> = jobs
            .into_iter()
            .map(|job| JobGuard::new(&self.ledger, job))
            .collect();
        let max_group = self.ledger.config.max_group;
        let mut pieces: Vec<(usize, SymbolRange, Result<Option<Bytes>>)> = Vec::new();
        for (place, guard) in guards.iter().enumerate() {
            let job = &guard.job;
            tracing::debug!(target: TARGET, first = job.first, last = job.last, symbols = %job.symbols, "repair started");
            for piece in job.symbols.pieces(max_group) {
                pieces.push((place, piece, contained(|| self.append(piece))));
            }
        }
        if pieces
            .iter()
            .any(|(.., appended)| matches!(appended, Ok(Some(_))))
            && let Err(error) = contained(|| self.io.sync_repair())
        {
            let unsynced = pieces
                .iter_mut()
                .filter(|(.., appended)| matches!(appended, Ok(Some(_))));
            unsynced.for_each(|(.., appended)| *appended = Err(error.clone()));
        }
        let mut failed = Vec::new();
        for (place, piece, appended) in pieces {
            match appended {
                Ok(bytes) => self.note(bytes),
                Err(error) => failed.push((place, piece, error)),
            }
        }
        for (place, guard) in guards.iter_mut().enumerate() {
            if failed.iter().all(|(failing, ..)| *failing != place) {
                guard.finish(RepairState::Completed);
            }
        }
        // One that fails keeps no other from being repaired.
        for (place, guard) in guards.iter_mut().enumerate() {
            let mut outcome = RepairState::Completed;
            for (_, piece, error) in failed.iter().filter(|(failing, ..)| *failing == place) {
                if !self.retry(*piece, error.clone()) {
                    outcome = RepairState::Failed;
                }
            }
            guard.finish(outcome);
        }
    }

    /// Tries a group again whose first attempt failed; answers whether nothing is left to be done for it.
    fn retry(&self, piece: SymbolRange, mut error: Error) -> bool {
        for attempt in 0..=self.ledger.config.retries {
            tracing::warn!(target: TARGET, symbols = %piece, attempt, %error, "repair attempt failed");
            self.ledger.attempt_failed(&error);
            let again = attempt < self.ledger.config.retries
                && self
                    .ledger
                    .pause(self.ledger.config.pause(attempt), &self.cancelled);
            if !again {
                break;
            }
            let tried = contained(|| {
                let bytes = self.append(piece)?;
                if bytes.is_some() {
                    self.io.sync_repair()?;
                }
                Ok(bytes)
            });
            match tried {
                Ok(bytes) => {
                    self.note(bytes);
                    return true;
                }
                Err(failure) => error = failure,
            }
        }
        self.ledger.group_failed();
        tracing::error!(target: TARGET, symbols = %piece, "repair given up: durable, but not repairable");
        false
    }

    /// Makes and appends the repair symbols of one group; `None` if its symbols have left the storage.
    fn append(&self, piece: SymbolRange) -> Result<Option<Bytes>> {
        let Some(systematic) = self.io.read_systematic(piece)? else {
            return Ok(None);
        };
        if systematic.len() as u64 != piece.len() {
            let read = systematic.len();
            return Err(Error::Internal(format!("{read} symbols were read for {piece}")));
        }
        let repair = self.generator.generate(piece, &systematic)?;
        self.io.append_repair(piece, &systematic, &repair)?;
        let bytes = |symbols: &[Vec<u8>]| symbols.iter().map(|symbol| symbol.len() as u64).sum();
        Ok(Some(Bytes {
            systematic: bytes(&systematic),
            repair: bytes(&repair),
        }))
    }

    fn note(&self, bytes: Option<Bytes>) {
        match bytes {
            Some(bytes) => self.ledger.group_done(bytes.systematic, bytes.repair),
            None => self.ledger.group_left(),
        }
    }
}

/// Bytes of the symbols of one group.
#[derive(Debug, Clone, Copy)]
struct Bytes {
    systematic: u64,
    repair: u64,
}

/// Calls what is an engine's; a panic in it becomes an error.
fn contained<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|payload| Err(panic_error("a repair", payload.as_ref())))
}

/// Ends a job in repair, whatever happens to its thread.
struct JobGuard<'a> {
    ledger: &'a Ledger,
    job: Job,
    ended: bool,
}

impl<'a> JobGuard<'a> {
    fn new(ledger: &'a Ledger, job: Job) -> Self {
        Self {
            ledger,
            job,
            ended: false,
        }
    }

    /// Ends it, unless it has ended.
    fn finish(&mut self, outcome: RepairState) {
        if !std::mem::replace(&mut self.ended, true) {
            self.ledger.finish(&self.job, outcome);
        }
    }
}

impl Drop for JobGuard<'_> {
    fn drop(&mut self) {
        self.finish(RepairState::Failed);
    }
}

/// Lives inside the task. Dropped before the queue is empty, it fails what waits: the task was cancelled, or
/// never ran.
struct WorkerGuard {
    worker: Worker,
    done: bool,
}

impl Drop for WorkerGuard {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.worker.cancelled.store(true, Ordering::Release);
        let commits = self.worker.ledger.lost();
        tracing::warn!(target: TARGET, commits, "the runtime ended the repair task: what waited stays unrepairable");
    }
}
