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
            tokio::task::spawn_blocking(move || step.repair_one())
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
    fn repair_one(&self) {
        let Some(job) = self.ledger.take(&self.cancelled) else {
            return;
        };
        let mut guard = JobGuard {
            ledger: &self.ledger,
            job,
            outcome: RepairState::Failed,
        };
        tracing::debug!(target: TARGET, first = job.first, last = job.last, symbols = %job.symbols, "repair started");
        let mut outcome = RepairState::Completed;
        // A piece that fails keeps no other from being repaired.
        for piece in job.symbols.pieces(self.ledger.config.max_group) {
            if !self.repair_piece(piece) {
                outcome = RepairState::Failed;
            }
        }
        guard.outcome = outcome;
    }

    /// One group, with its retries; answers whether its repair symbols are durable.
    fn repair_piece(&self, piece: SymbolRange) -> bool {
        for attempt in 0..=self.ledger.config.retries {
            if self.cancelled.load(Ordering::Acquire) {
                break;
            }
            let tried = catch_unwind(AssertUnwindSafe(|| self.attempt(piece)))
                .unwrap_or_else(|payload| Err(panic_error("a repair", payload.as_ref())));
            let error = match tried {
                Ok(()) => return true,
                Err(error) => error,
            };
            tracing::warn!(target: TARGET, symbols = %piece, attempt, %error, "repair attempt failed");
            self.ledger.attempt_failed(&error);
            let last = attempt == self.ledger.config.retries;
            if last
                || !self
                    .ledger
                    .pause(self.ledger.config.pause(attempt), &self.cancelled)
            {
                break;
            }
        }
        self.ledger.group_failed();
        tracing::error!(target: TARGET, symbols = %piece, "repair given up: durable, but not repairable");
        false
    }

    fn attempt(&self, piece: SymbolRange) -> Result<()> {
        let systematic = self.io.read_systematic(piece)?;
        if systematic.len() as u64 != piece.len() {
            let read = systematic.len();
            return Err(Error::Internal(format!("{read} symbols were read for {piece}")));
        }
        let repair = self.generator.generate(piece, &systematic)?;
        self.io.append_repair(piece, &systematic, &repair)?;
        self.io.sync_repair()?;
        let bytes = |symbols: &[Vec<u8>]| symbols.iter().map(|symbol| symbol.len() as u64).sum();
        self.ledger.group_done(bytes(&systematic), bytes(&repair));
        Ok(())
    }
}

/// Ends the job in repair, whatever happens to its thread.
struct JobGuard<'a> {
    ledger: &'a Ledger,
    job: Job,
    outcome: RepairState,
}

impl Drop for JobGuard<'_> {
    fn drop(&mut self) {
        self.ledger.finish(&self.job, self.outcome);
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
