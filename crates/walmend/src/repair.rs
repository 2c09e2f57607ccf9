//! The store's repair: what it commits becomes repairable in the background, and what rotted is healed when it opens.

use crate::options::Options;
use crate::stats::RepairStats;
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use walmend_repair::{
    Healed, LogRepair, ReedSolomon, RepairConfig, RepairCoordinator, SidecarProtection, heal_and_examine,
    wal_sidecar_path,
};
use walmend_sync::Mutex;
use walmend_sync::atomic::{AtomicU64, Ordering};
use walmend_sync::thread::{self, JoinHandle};
use walmend_types::{CommitSeq, Error, Result};
use walmend_vfs::Vfs;
use walmend_wal::{Decision, FileSet, FrameProtection, Log, LogWriter, PublishObserver, Published};

const TARGET: &str = "walmend::store";

/// How long closing a store waits for what is not repairable yet.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// What the sidecar did for the log before that was opened.
pub(crate) struct Mended(Healed);

impl Mended {
    /// Heals the log from its sidecar, if it has one. The caller holds the exclusive lock.
    pub(crate) fn new(vfs: &dyn Vfs, files: &FileSet) -> Result<Self> {
        let healed = heal_and_examine(vfs, files, &ReedSolomon)?;
        // That costs protection, and must not cost the database.
        if let Some(error) = &healed.unreadable {
            tracing::error!(target: TARGET, %error, "the sidecar cannot be read: nothing is healed from it");
        }
        Ok(Self(healed))
    }

    /// The frames that were healed, and where the log is kept as it was.
    pub(crate) fn told(&self) -> (Vec<u32>, Option<PathBuf>) {
        let report = &self.0.report;
        (report.frames_healed.clone(), report.kept_aside.clone())
    }

    /// What the log can be healed from while it is open.
    pub(crate) fn protection(&self, vfs: &Arc<dyn Vfs>, files: &FileSet) -> Option<Arc<dyn FrameProtection>> {
        let (vfs, files) = (Arc::clone(vfs), files.clone());
        let protection = SidecarProtection::new(vfs, files, Arc::new(ReedSolomon), &self.0);
        Some(Arc::new(protection))
    }

    /// Begins to repair what is committed, and what the sidecar does not cover yet.
    pub(crate) fn protect(
        mut self,
        log: &Log,
        decision: Decision,
        files: &FileSet,
        options: &Options,
    ) -> Result<Repair> {
        if !options.repair {
            return Ok(Repair(Mutex::new(None)));
        }
        if matches!(decision, Decision::Salvaged | Decision::Truncated) {
            // Recovery has set the sidecar aside.
            self.0 = Healed::default();
        }
        let io = LogRepair::new(
            log.clone(),
            Arc::clone(&options.vfs),
            wal_sidecar_path(&files.db),
            Arc::new(ReedSolomon),
            &self.0.index,
        );
        let left = io.uncovered(&self.0.plan.whole)?;
        let first_commit = left
            .first()
            .map_or(log.status().commit_seq.next(), |commit| commit.commit_seq);
        let io = Arc::new(io);
        let (handle, own) = match &options.repair_on {
            Some(handle) => (handle.clone(), None),
            None => {
                let (handle, own) = OwnRuntime::start()?;
                (handle, Some(own))
            }
        };
        let coordinator = RepairCoordinator::new(io.clone(), io.clone(), handle, config(first_commit))?;
        coordinator.offer(&left)?;
        Ok(Repair(Mutex::new(Some(Running {
            coordinator: Arc::new(coordinator),
            io,
            own,
        }))))
    }
}

/// Groups share a sync, every 200 ms or 16,384 frames: while the sidecar is synced, the log's own sync waits at the same
/// disk for about a millisecond. Measured at 20 ms (docs/benchmarks.md): a fifth of the commits at one writer was lost to it.
fn config(first_commit: CommitSeq) -> RepairConfig {
    RepairConfig {
        first_commit,
        min_group: 16384,
        max_group: 128,
        groups_per_sync: 128,
        linger: Duration::from_millis(200),
        // The store waits when it is closed.
        drop_timeout: Duration::ZERO,
        ..RepairConfig::default()
    }
}

/// The repair of an open store; nothing if it is switched off, or once the store is closed.
#[derive(Debug)]
pub(crate) struct Repair(Mutex<Option<Running>>);

#[derive(Debug)]
struct Running {
    coordinator: Arc<RepairCoordinator>,
    io: Arc<LogRepair>,
    own: Option<OwnRuntime>,
}

impl Repair {
    fn coordinator(&self) -> Option<Arc<RepairCoordinator>> {
        self.0
            .lock()
            .as_ref()
            .map(|running| Arc::clone(&running.coordinator))
    }

    /// The writer, watched.
    pub(crate) fn watch(&self, writer: LogWriter) -> LogWriter {
        match self.coordinator() {
            Some(coordinator) => writer.observed(Arc::new(Feed {
                coordinator,
                generation: AtomicU64::new(0),
            })),
            None => writer,
        }
    }

    pub(crate) fn wait(&self, timeout: Duration) -> Result<()> {
        match self.coordinator() {
            Some(coordinator) => coordinator.wait_for_background_repair(timeout),
            None => Ok(()),
        }
    }

    pub(crate) fn stats(&self) -> Option<RepairStats> {
        let metrics = self.coordinator()?.metrics();
        Some(RepairStats {
            queue_depth: metrics.queue_depth,
            pending_commits: metrics.pending_commits,
            completed_commits: metrics.completed_commits,
            failed_commits: metrics.failed_commits,
            lag_frames: metrics.lag_symbols,
            lag: metrics.lag,
            groups: metrics.groups,
            groups_left: metrics.groups_left,
            failed_groups: metrics.failed_groups,
            retries: metrics.retries,
            frame_bytes: metrics.systematic_bytes,
            parity_bytes: metrics.repair_bytes,
            last_failure: metrics.last_failure.map(|failure| failure.to_string()),
            window_p50: metrics.window.p50,
            window_p99: metrics.window.p99,
            window_max: metrics.window.max,
        })
    }

    /// Waits until what is committed is repairable, but not for ever, and not inside a runtime. Afterwards nothing
    /// is written to the sidecar any more.
    pub(crate) fn close(&self) {
        let Some(running) = self.0.lock().take() else {
            return;
        };
        let pending = running.coordinator.pending_count();
        let inside = Handle::try_current().is_ok();
        if pending > 0 && inside {
            tracing::warn!(target: TARGET, pending, "closed inside a runtime, without waiting for the repair: the next opening goes on with it");
        } else if let Err(error) = running.coordinator.wait_for_background_repair(CLOSE_WAIT) {
            tracing::error!(target: TARGET, pending, %error, "closed before all was repairable: the next opening goes on with it");
        }
        running.io.close();
        if let Some(own) = running.own {
            own.stop(!inside);
        }
    }
}

impl Drop for Repair {
    fn drop(&mut self) {
        self.close();
    }
}

/// Hears of each published batch.
struct Feed {
    coordinator: Arc<RepairCoordinator>,
    /// That of the last batch.
    generation: AtomicU64,
}

impl PublishObserver for Feed {
    fn published(&self, batch: Published<'_>) {
        // The commits are durable: whatever goes wrong here must not keep them from being acknowledged.
        let offered = catch_unwind(AssertUnwindSafe(|| {
            if self.generation.swap(batch.generation, Ordering::Relaxed) < batch.generation {
                // What was in the log before the reset is in the database: it must not crowd the queue.
                self.coordinator
                    .left_before(LogRepair::begin_of(batch.generation));
            }
            self.coordinator
                .offer(&LogRepair::durable_commits(&batch))
                .map(drop)
        }));
        match offered.map_err(|panic: Box<dyn Any + Send>| drop(panic)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(target: TARGET, %error, "a batch is not going to be repairable")
            }
            Err(()) => tracing::error!(target: TARGET, "a panic: a batch is not going to be repairable"),
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.coordinator.fmt(f)
    }
}

/// A runtime on a thread of its own, for a store whose caller brings none.
#[derive(Debug)]
struct OwnRuntime {
    /// Dropping it ends the runtime.
    running: tokio::sync::oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl OwnRuntime {
    fn start() -> Result<(Handle, Self)> {
        const NAME: &str = "walmend-repair";
        let failed = |source| Error::Io {
            op: "start thread",
            path: NAME.into(),
            offset: None,
            source: Arc::new(source),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .thread_name(NAME)
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (running, ended) = tokio::sync::oneshot::channel();
        let thread = thread::Builder::new()
            .name(NAME.into())
            // Dropping the runtime waits for the group in work.
            .spawn(move || drop(runtime.block_on(ended)))
            .map_err(failed)?;
        Ok((handle, Self { running, thread }))
    }

    fn stop(self, wait: bool) {
        drop(self.running);
        // The thread itself comes here if it drops the last handle of the store; it ends right after.
        if wait && self.thread.thread().id() != thread::current().id() && self.thread.join().is_err() {
            tracing::error!(target: TARGET, "the repair thread has panicked");
        }
    }
}
