//! The coordinator itself: the critical path, and what callers ask.

use super::api::{CommitRepairIo, RepairSymbolGenerator, SymbolRange, panic_error};
use super::background::{Background, TARGET};
use super::config::RepairConfig;
use super::ledger::Ledger;
use super::report::{CommitReceipt, DurableCommit, RepairEvent, RepairMetrics, RepairState};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use walmend_sync::Mutex;
use walmend_types::{CommitSeq, Error, Poison, Result};

/// Makes commits durable at once, and repairable soon after.
///
/// A commit appends its *systematic* symbols (a log's frames), syncs them, and is acknowledged: nothing else
/// lies on its path. Afterwards a task on the caller's tokio runtime reads them back, makes *repair* symbols from
/// them, appends these to storage of their own, and syncs that. Between the two syncs the commit is durable, but
/// rot cannot be mended: this window is measured, for each commit.
///
/// An engine brings its storage ([`CommitRepairIo`]) and a code ([`RepairSymbolGenerator`]), and either commits
/// through [`RepairCoordinator::commit`], or keeps its own critical path and passes on what it made durable
/// ([`RepairCoordinator::offer`]).
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use walmend_repair::{MemoryGenerator, MemoryRepairIo, RepairConfig, RepairCoordinator, RepairState};
///
/// let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
/// let io = MemoryRepairIo::new();
/// let generator = Arc::new(MemoryGenerator::new());
/// let coordinator =
///     RepairCoordinator::new(Arc::new(io.clone()), generator, runtime.handle().clone(), RepairConfig::default())?;
///
/// let receipt = coordinator.commit(&[b"one", b"two"])?;
/// assert!(receipt.durable && receipt.repair_pending);
/// coordinator.wait_for_background_repair(Duration::from_secs(30))?;
/// assert_eq!(coordinator.state(receipt.commit_seq), Some(RepairState::Completed));
/// assert_eq!(io.durable_repair().len(), 1);
/// # Ok::<(), walmend_types::Error>(())
/// ```
///
/// # What happens when
///
/// - **Much is committed at once.** Neighbours become one group. The queue is bounded; when it is full, its last
///   range widens, and a commit never waits. Only when every range in a full queue stands alone (no two of them
///   touch), the repair of the new commit is `Failed`.
/// - **A repair fails**, by an error or a panic: it is tried again, after a pause, as often as configured. Then
///   the commits of this group are `Failed` for good; every other group goes on. A group shares its fate, since
///   its commits share their repair symbols.
/// - **The runtime is shut down.** What waits is `Failed`, what is committed from then on as well, and the receipt
///   says that no repair is pending. A group that a thread has begun ends as it ends. Commits stay durable.
/// - **Nobody drives the runtime.** Repairs stay pending, and waiting for them is an error at the deadline.
///
/// A runtime of one thread, used for nothing else, is enough: the work is done on its blocking threads, by one of
/// them at a time, so that groups reach the storage in the order of their commits.
///
/// # Dropping it
///
/// waits for what is pending, [`RepairConfig::drop_timeout`] at most. Inside a runtime it does not wait, since
/// that could keep the repair from running: it leaves the repair to the runtime, and logs so.
pub struct RepairCoordinator {
    io: Arc<dyn CommitRepairIo>,
    background: Option<Background>,
    ledger: Arc<Ledger>,
    /// Held along the critical path: commits are numbered, appended, synced and acknowledged in one order.
    critical: Mutex<()>,
    poison: Poison,
}

impl RepairCoordinator {
    /// A coordinator that repairs on the runtime of `handle`. The runtime stays the caller's: somebody has to
    /// drive it, and shutting it down fails what is pending. It needs neither timers nor I/O.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a limit that [`RepairConfig`] does not allow.
    pub fn new(
        io: Arc<dyn CommitRepairIo>,
        generator: Arc<dyn RepairSymbolGenerator>,
        handle: Handle,
        config: RepairConfig,
    ) -> Result<Self> {
        let background = Background {
            handle,
            io: Arc::clone(&io),
            generator,
        };
        Self::build(io, Some(background), config)
    }

    /// A coordinator with repair switched off: commits are durable, `NotScheduled`, and have no repair events.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn without_repair(io: Arc<dyn CommitRepairIo>, config: RepairConfig) -> Result<Self> {
        Self::build(io, None, config)
    }

    fn build(
        io: Arc<dyn CommitRepairIo>,
        background: Option<Background>,
        config: RepairConfig,
    ) -> Result<Self> {
        config.check()?;
        Ok(Self {
            io,
            background,
            ledger: Arc::new(Ledger::new(config)),
            critical: Mutex::new(()),
            poison: Poison::new(),
        })
    }

    /// Commits: appends the symbols, syncs, acknowledges. Their repair comes later. One commit at a time: others
    /// wait on their threads until its sync is done.
    ///
    /// # Errors
    /// - [`Error::Invalid`] when there is no symbol.
    /// - [`Error::NotCommitted`] when the append failed.
    /// - [`Error::OutOfRange`] when there is no number left.
    /// - [`Error::OutcomeUnknown`] when the sync failed, the storage panicked, or it answered positions that
    ///   cannot be; from then on every commit is [`Error::Poisoned`].
    pub fn commit(&self, symbols: &[&[u8]]) -> Result<CommitReceipt> {
        if symbols.is_empty() {
            return Err(Error::Invalid("a commit needs at least one symbol".into()));
        }
        let started = Instant::now();
        let _critical = self.critical.lock();
        self.poison.check()?;
        let commit_seq = self.ledger.next_commit()?;
        let range = self.append(commit_seq, symbols)?;
        if range.len() != symbols.len() as u64 {
            let said = format!("{} symbols were appended at {range}", symbols.len());
            return Err(self.end_writing(Error::Internal(said)));
        }
        self.ledger
            .check([(commit_seq, range)])
            .map_err(|error| self.end_writing(error))?;
        catch_unwind(AssertUnwindSafe(|| self.io.sync_systematic()))
            .unwrap_or_else(|payload| Err(panic_error("sync_systematic", payload.as_ref())))
            .map_err(|error| self.end_writing(error))?;
        let durable = DurableCommit {
            commit_seq,
            symbols: range,
            started,
            durable: Instant::now(),
        };
        let mut receipts = self.enter(&[durable]);
        receipts
            .pop()
            .ok_or_else(|| Error::Internal("a commit without a receipt".into()))
    }

    fn append(&self, commit_seq: CommitSeq, symbols: &[&[u8]]) -> Result<SymbolRange> {
        match catch_unwind(AssertUnwindSafe(|| {
            self.io.append_systematic(commit_seq, symbols)
        })) {
            Ok(appended) => appended.map_err(|reason| Error::NotCommitted {
                reason: Box::new(reason),
            }),
            Err(payload) => Err(self.end_writing(panic_error("append_systematic", payload.as_ref()))),
        }
    }

    fn end_writing(&self, error: Error) -> Error {
        tracing::error!(target: TARGET, %error, "writing has ended");
        self.poison.set(error.clone());
        Error::OutcomeUnknown {
            reason: Box::new(error),
        }
    }

    /// Takes over commits that an engine made durable on a path of its own, in order: one receipt each. Never
    /// waits for a repair. After reopening, what the repair symbols do not cover yet comes in the same way.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a number or a position does not come after all earlier ones, or there is no
    /// symbol; then none of the commits is taken.
    pub fn offer(&self, commits: &[DurableCommit]) -> Result<Vec<CommitReceipt>> {
        let _critical = self.critical.lock();
        self.ledger
            .check(commits.iter().map(|commit| (commit.commit_seq, commit.symbols)))?;
        Ok(self.enter(commits))
    }

    fn enter(&self, commits: &[DurableCommit]) -> Vec<CommitReceipt> {
        let entered = self.ledger.enter(commits, self.background.is_some());
        if let Some(background) = &self.background
            && entered.spawn
        {
            background.spawn(&self.ledger);
        }
        if let Some(first) = entered.refused {
            tracing::error!(target: TARGET, %first, "the repair queue is full of ranges that cannot be widened");
        }
        let lost_through = self.ledger.lost_through();
        let scheduled = |commit: CommitSeq| {
            self.background.is_some()
                && entered.refused.is_none_or(|refused| commit < refused)
                && commit > lost_through
        };
        let receipt = |commit: &DurableCommit| CommitReceipt {
            commit_seq: commit.commit_seq,
            symbols: commit.symbols,
            durable: true,
            repair_pending: scheduled(commit.commit_seq),
            critical_path: entered.acked.saturating_duration_since(commit.started),
        };
        commits.iter().map(receipt).collect()
    }

    /// All symbols before position `end` have left the storage in good order, as the frames of a log do that is reset
    /// after its checkpoint. Those that still wait need no repair: their commits are `Completed`.
    pub fn left_before(&self, end: u64) {
        self.ledger.left_before(end);
    }

    /// How far the repair of a commit is; `None` for one that is not known, or forgotten (see
    /// [`RepairConfig::history`]; a pending one never is).
    pub fn state(&self, commit: CommitSeq) -> Option<RepairState> {
        self.ledger.state_of(commit)
    }

    /// The events of a commit so far, in order; none for one that is not known, or forgotten.
    pub fn events(&self, commit: CommitSeq) -> Vec<RepairEvent> {
        self.ledger.events_of(commit)
    }

    /// Commits whose repair is pending.
    pub fn pending_count(&self) -> u64 {
        self.ledger.pending()
    }

    /// The figures at this moment.
    pub fn metrics(&self) -> RepairMetrics {
        self.ledger.metrics()
    }

    /// Blocks this thread until every repair that is pending now is done; one that failed counts as done. Groups
    /// do not wait to fill meanwhile. Not for a thread of the runtime that repairs: see [`repaired`](Self::repaired).
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] after `timeout`: perhaps nobody drives the runtime.
    pub fn wait_for_background_repair(&self, timeout: Duration) -> Result<()> {
        self.ledger.wait(timeout)
    }

    /// Like [`wait_for_background_repair`](Self::wait_for_background_repair), as a future and without an end.
    pub async fn repaired(&self) {
        self.ledger.wait_async().await;
    }
}

impl Drop for RepairCoordinator {
    fn drop(&mut self) {
        let pending = self.ledger.pending();
        if pending == 0 {
            return;
        }
        if Handle::try_current().is_ok() {
            tracing::warn!(target: TARGET, pending, "dropped inside a runtime: the repair goes on without anybody waiting");
            return;
        }
        if let Err(error) = self.ledger.wait(self.ledger.config.drop_timeout) {
            let pending = self.ledger.pending();
            tracing::error!(target: TARGET, pending, %error, "dropped with repairs pending: does nobody drive the runtime?");
        }
    }
}

impl fmt::Debug for RepairCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepairCoordinator")
            .field("repairs", &self.background.is_some())
            .field("pending", &self.pending_count())
            .finish_non_exhaustive()
    }
}
