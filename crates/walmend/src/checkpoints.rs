//! Checkpoints: those that are asked for, and those that the size of the log asks for.
//!
//! The automatic ones run on a thread of their own, beside the commits. They copy what the readers allow until little is
//! left, and only then close the gate for the moment that a reset takes. Where a reader has been there for long, the
//! gate stays open: waiting at it would only keep new readers out.

#[cfg(feature = "repair")]
use crate::protection::Protection;
#[cfg(not(feature = "repair"))]
use crate::repair_off::Protection;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend_sync::Mutex;
use walmend_sync::thread::{self, JoinHandle};
use walmend_types::{Error, Result};
use walmend_wal::{CheckpointMode, CheckpointReport, Grown, Log};

/// A reader that is older than this is not waited for.
const OLD_READER: Duration = Duration::from_millis(200);
/// How long an automatic checkpoint keeps new readers out, waiting for those inside.
const GATE_WAIT: Duration = Duration::from_millis(20);
/// The pauses between attempts while something stands in the way: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// Rounds of copying beside the writers before the reset is tried all the same.
const ROUNDS: u32 = 4;

/// Why the log could not be reset although it has the size for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointBlocked {
    /// What stands in the way, in words.
    pub by: String,
    /// For how long it has.
    pub since: Duration,
}

#[derive(Debug)]
pub(crate) struct Checkpoints {
    log: Log,
    /// Keeps the database's parity in step.
    protection: Arc<Protection>,
    /// How long a checkpoint that was asked for waits for readers.
    patience: Duration,
    /// Frames at which the log is checkpointed and reset; `None` for never.
    at: Option<u32>,
    /// Frames at which no more commits are taken; `None` for never.
    limit: Option<u32>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    automatic: u64,
    blocked: Option<(Instant, String)>,
}

impl Checkpoints {
    pub(crate) fn new(
        log: Log,
        protection: Arc<Protection>,
        patience: Duration,
        at: Option<u32>,
        limit: Option<u32>,
    ) -> Self {
        Self {
            log,
            protection,
            patience,
            // At the limit nothing is committed any more: a size above it would never be reached.
            at: at.map(|at| limit.map_or(at, |limit| at.min(limit))),
            limit,
            state: Mutex::new(State::default()),
        }
    }

    /// The one way to a checkpoint: the caller's own and the automatic ones.
    fn run(&self, mode: CheckpointMode, patience: Duration) -> Result<CheckpointReport> {
        let report = self
            .log
            .checkpoint_protected(self.protection.watches(), mode, patience)?;
        if !report.blocked_by_readers && mode != CheckpointMode::Passive {
            self.state.lock().blocked = None;
        }
        Ok(report)
    }

    /// A checkpoint that was asked for.
    pub(crate) fn asked(&self, mode: CheckpointMode) -> Result<CheckpointReport> {
        self.run(mode, self.patience)
    }

    /// Automatic checkpoints so far, and what keeps the next one from its end.
    pub(crate) fn automatic(&self) -> (u64, Option<CheckpointBlocked>) {
        let state = self.state.lock();
        let blocked = state.blocked.as_ref().map(|(since, by)| CheckpointBlocked {
            by: by.clone(),
            since: since.elapsed(),
        });
        (state.automatic, blocked)
    }

    /// `Ok` while the log has room for another commit.
    ///
    /// # Errors
    /// [`Error::Busy`], saying what keeps the log from being reset.
    pub(crate) fn check_room(&self) -> Result<()> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        let frames = self.log.frames();
        if frames < limit {
            return Ok(());
        }
        let why = match self.automatic().1 {
            Some(blocked) => format!("{}, for {} ms", blocked.by, blocked.since.as_millis()),
            None => "a checkpoint is under way or still to come".into(),
        };
        Err(Error::Busy(format!(
            "the log has {frames} frames, its limit is {limit}, and it cannot be reset yet: {why}"
        )))
    }

    /// Starts the thread of the automatic checkpoints, if there are to be any.
    pub(crate) fn start(checkpoints: &Arc<Self>) -> Result<Option<JoinHandle<()>>> {
        const NAME: &str = "walmend-checkpoint";
        let Some(at) = checkpoints.at else { return Ok(None) };
        let ours = Arc::clone(checkpoints);
        thread::Builder::new()
            .name(NAME.into())
            .spawn(move || ours.run_automatic(at))
            .map(Some)
            .map_err(|error| Error::io("start thread", Path::new(NAME), None, error))
    }

    /// Lets the thread end, after the checkpoint that it is at.
    pub(crate) fn stop(&self) {
        self.log.stop_waiting();
    }

    fn run_automatic(&self, at: u32) {
        let mut pause = Duration::ZERO;
        loop {
            // While blocked, time has to pass as well: more frames alone change nothing.
            if !pause.is_zero() && self.log.wait_for_growth(u32::MAX, pause) == Grown::Stopped {
                return;
            }
            match self.log.wait_for_growth(at, Duration::MAX) {
                Grown::Stopped => return,
                Grown::TimedOut => continue,
                Grown::Reached => {}
            }
            match self.empty(at) {
                Ok(None) => {
                    pause = Duration::ZERO;
                    let mut state = self.state.lock();
                    state.automatic += 1;
                    state.blocked = None;
                }
                Ok(Some(by)) => {
                    pause = (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
                    self.blocked(by);
                }
                // Nothing is written any more: what the log holds stays there.
                Err(Error::Poisoned { .. }) => return,
                Err(error) => {
                    pause = (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
                    self.blocked(format!("the last checkpoint failed: {error}"));
                }
            }
        }
    }

    /// Brings the log into the database and begins it anew; answers what stood in the way, if anything did.
    fn empty(&self, at: u32) -> Result<Option<String>> {
        for _ in 0..ROUNDS {
            self.run(CheckpointMode::Passive, Duration::ZERO)?;
            let status = self.log.status();
            if status.frames - status.backfilled <= at / 16 {
                break;
            }
        }
        let status = self.log.status();
        if let Some(reader) = status.oldest_reader.filter(|reader| reader.age >= OLD_READER) {
            return Ok(Some(format!(
                "{} live snapshots; the oldest, of commit {}, has been there for {} ms",
                status.readers,
                reader.commit_seq,
                reader.age.as_millis()
            )));
        }
        let report = self.run(CheckpointMode::Restart, GATE_WAIT)?;
        Ok(report
            .blocked_by_readers
            .then(|| format!("{} live snapshots", self.log.status().readers)))
    }

    fn blocked(&self, by: String) {
        let mut state = self.state.lock();
        let since = state
            .blocked
            .as_ref()
            .map_or_else(Instant::now, |(since, _)| *since);
        tracing::warn!(
            target: "walmend::store::checkpoint", %by, since_ms = since.elapsed().as_millis() as u64,
            log_frames = self.log.frames(), "the log is due for a reset, and something is in the way"
        );
        state.blocked = Some((since, by));
    }
}
