//! What is known of every commit, what waits, and who waits for it: everything behind one lock.

use super::api::SymbolRange;
use super::config::RepairConfig;
use super::history::{History, Record};
use super::queue::{Job, Pushed, Queue};
use super::report::{DurableCommit, RepairEvent, RepairEventKind, RepairMetrics, RepairState};
use super::states::States;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use walmend_sync::atomic::{AtomicBool, Ordering};
use walmend_sync::{Condvar, Mutex};
use walmend_types::{CommitSeq, Error, Result};

/// The state of a coordinator. Nothing of an engine's, and no event of tracing, is called under its lock.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) config: RepairConfig,
    epoch: Instant,
    state: Mutex<State>,
    /// Wakes a group that waits to fill, or a pause between two attempts.
    work: Condvar,
    /// Wakes threads that wait for all repairs.
    done: Condvar,
    /// Wakes futures that wait for all repairs.
    done_async: Notify,
}

#[derive(Debug)]
struct State {
    last_commit: u64,
    last_symbol: u64,
    queue: Queue,
    states: States,
    history: History,
    /// The jobs in repair, in order.
    current: Vec<Job>,
    /// The worker waits for [`Ledger::work`].
    waiting: bool,
    /// Whether a task works through the queue, or has been spawned to.
    worker: bool,
    /// See [`Ledger::lost_through`].
    lost_through: u64,
    /// How many wait for all repairs: then no group waits to fill.
    flush: u64,
    figures: RepairMetrics,
}

/// What became of commits that were entered.
pub(super) struct Entered {
    /// When they were acknowledged.
    pub(super) acked: Instant,
    /// A task has to be spawned: the caller must do so, or [`Ledger::lost`] must be called.
    pub(super) spawn: bool,
    /// From this commit on, the queue had no place, nor a range to widen.
    pub(super) refused: Option<CommitSeq>,
}

impl Ledger {
    pub(super) fn new(config: RepairConfig) -> Self {
        let state = State {
            last_commit: config.first_commit.0 - 1,
            last_symbol: 0,
            queue: Queue::new(config.queue_ranges),
            states: States::new(config.history),
            history: History::new(config.history),
            current: Vec::new(),
            waiting: false,
            worker: false,
            lost_through: 0,
            flush: 0,
            figures: RepairMetrics::default(),
        };
        Self {
            config,
            epoch: Instant::now(),
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
            done_async: Notify::new(),
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// The number that the next commit gets.
    pub(super) fn next_commit(&self) -> Result<CommitSeq> {
        let last = self.state.lock().last_commit;
        let next = last.checked_add(1).ok_or_else(|| Error::OutOfRange {
            what: "commit",
            value: last,
            expected: "a number with another one after it".into(),
        });
        next.map(CommitSeq)
    }

    /// Whether these commits, in this order, can be entered.
    pub(super) fn check(&self, commits: impl IntoIterator<Item = (CommitSeq, SymbolRange)>) -> Result<()> {
        let state = self.state.lock();
        let (mut last, mut end) = (state.last_commit, state.last_symbol);
        for (CommitSeq(number), symbols) in commits {
            if number <= last {
                return Err(Error::Invalid(format!(
                    "commit {number} does not come after {last}"
                )));
            }
            if symbols.is_empty() || symbols.start < end {
                let expected = format!("at least one symbol, from {end} on");
                return Err(Error::Invalid(format!(
                    "commit {number} has the symbols {symbols}, expected {expected}"
                )));
            }
            (last, end) = (number, symbols.end);
        }
        Ok(())
    }

    /// Enters commits that have just been made durable, in order: their events, and with `repair` their repair.
    pub(super) fn enter(&self, commits: &[DurableCommit], repair: bool) -> Entered {
        let mut state = self.state.lock();
        let acked = Instant::now();
        let at = acked.saturating_duration_since(self.epoch);
        let mut refused = None;
        for commit in commits {
            let number = commit.commit_seq.0;
            let durable = commit.durable.saturating_duration_since(self.epoch);
            let mut record = Record::new(number, commit.symbols, durable);
            if repair {
                record.add(RepairEventKind::DurableButNotRepairable, durable);
            }
            record.add(RepairEventKind::CommitAcked, at);
            state.history.push(record);
            state.last_commit = number;
            state.last_symbol = commit.symbols.end;
            state.figures.commits += 1;
            if !repair {
                state.states.push(number, RepairState::NotScheduled);
                continue;
            }
            state.states.push(number, RepairState::Pending);
            state.figures.pending_commits += 1;
            let job = Job {
                first: number,
                last: number,
                commits: 1,
                symbols: commit.symbols,
                durable,
                queued: at,
            };
            match state.queue.push(job) {
                Pushed::Queued => {}
                Pushed::Widened => state.figures.widened += 1,
                Pushed::Refused => {
                    state.resolve(&job, RepairState::Failed, at);
                    refused = refused.or(Some(commit.commit_seq));
                }
            }
        }
        let depth = state.queue.len();
        state.figures.queue_high_water = state.figures.queue_high_water.max(depth);
        let spawn = depth > 0 && !state.worker;
        state.worker |= spawn;
        let full = state.waiting && state.queue.symbols() >= self.config.min_group;
        drop(state);
        if full {
            self.work.notify_all();
        }
        Entered {
            acked,
            spawn,
            refused,
        }
    }

    /// The newest commit whose repair went with a task that was cancelled, or never ran.
    pub(super) fn lost_through(&self) -> CommitSeq {
        CommitSeq(self.state.lock().lost_through)
    }

    /// Whether the worker should go on. If not, the next commit has to spawn another.
    pub(super) fn go_on(&self) -> bool {
        let mut state = self.state.lock();
        state.worker = state.queue.front().is_some();
        state.worker
    }

    /// Waits for a group to fill, no longer than it may linger, then takes it, and those behind it that share its
    /// sync.
    pub(super) fn take(&self, cancelled: &AtomicBool) -> Vec<Job> {
        let mut state = self.state.lock();
        loop {
            let Some(oldest) = state.queue.front() else {
                return Vec::new();
            };
            if cancelled.load(Ordering::Acquire) {
                return Vec::new();
            }
            let waited = self.now().saturating_sub(oldest.queued);
            let left = self.config.linger.saturating_sub(waited);
            if state.flush > 0 || left.is_zero() || state.queue.symbols() >= self.config.min_group {
                break;
            }
            state.waiting = true;
            state = self.work.wait_timeout(state, left);
            state.waiting = false;
        }
        let at = self.now();
        let State {
            queue,
            history,
            current,
            ..
        } = &mut *state;
        while current.len() < self.config.groups_per_sync
            && let Some(job) = queue.take(self.config.max_group, history)
        {
            for record in history.range_mut(job.first, job.last) {
                record.add(RepairEventKind::RepairStarted, at);
            }
            current.push(job);
        }
        current.clone()
    }

    /// The end of a job in repair.
    pub(super) fn finish(&self, job: &Job, outcome: RepairState) {
        let mut state = self.state.lock();
        state.current.retain(|current| current != job);
        state.resolve(job, outcome, self.now());
        drop(state);
        self.tell();
    }

    /// The symbols before position `end` have left the storage: of what waits, nothing is left to be done for them.
    pub(super) fn left_before(&self, end: u64) {
        let mut state = self.state.lock();
        let at = self.now();
        let mut any = false;
        while let Some(job) = state.queue.take_before(end) {
            state.figures.groups_left += 1;
            state.resolve(&job, RepairState::Completed, at);
            any = true;
        }
        drop(state);
        if any {
            self.tell();
        }
    }

    /// The worker was cancelled, or never ran: nothing that waits will be repaired. Answers how many commits.
    pub(super) fn lost(&self) -> u64 {
        let mut state = self.state.lock();
        state.worker = false;
        let at = self.now();
        let jobs: Vec<Job> = state.queue.drain().collect();
        for job in &jobs {
            state.lost_through = job.last;
            state.resolve(job, RepairState::Failed, at);
        }
        drop(state);
        // The job in repair may be pausing between two attempts.
        self.work.notify_all();
        self.tell();
        jobs.iter().map(|job| job.commits).sum()
    }

    fn tell(&self) {
        self.done.notify_all();
        self.done_async.notify_waiters();
    }

    /// Pauses before a retry; answers whether to go on.
    pub(super) fn pause(&self, length: Duration, cancelled: &AtomicBool) -> bool {
        let started = Instant::now();
        let mut state = self.state.lock();
        loop {
            if cancelled.load(Ordering::Acquire) {
                return false;
            }
            let left = length.saturating_sub(started.elapsed());
            if left.is_zero() {
                state.figures.retries += 1;
                return true;
            }
            state = self.work.wait_timeout(state, left);
        }
    }

    pub(super) fn group_left(&self) {
        self.state.lock().figures.groups_left += 1;
    }

    pub(super) fn group_done(&self, systematic_bytes: u64, repair_bytes: u64) {
        let figures = &mut self.state.lock().figures;
        figures.groups += 1;
        figures.systematic_bytes += systematic_bytes;
        figures.repair_bytes += repair_bytes;
    }

    pub(super) fn attempt_failed(&self, error: &Error) {
        self.state.lock().figures.last_failure = Some(error.clone());
    }

    pub(super) fn group_failed(&self) {
        self.state.lock().figures.failed_groups += 1;
    }

    /// Waits for every repair that is pending now, `timeout` at most; one too long for the clock never ends.
    pub(super) fn wait(&self, timeout: Duration) -> Result<()> {
        let started = Instant::now();
        let _flush = self.flush();
        let mut state = self.state.lock();
        let newest = state.last_commit;
        while state.is_pending_through(newest) {
            let waited = started.elapsed();
            let left = timeout.saturating_sub(waited);
            if left.is_zero() {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                return Err(Error::DeadlineExceeded { waited_ms });
            }
            state = self.done.wait_timeout(state, left);
        }
        Ok(())
    }

    pub(super) async fn wait_async(&self) {
        let _flush = self.flush();
        let newest = self.state.lock().last_commit;
        loop {
            // Woken by what ends from here on, polled or not: what ends between the look and the wait is not missed.
            let notified = self.done_async.notified();
            if !self.state.lock().is_pending_through(newest) {
                return;
            }
            notified.await;
        }
    }

    /// While the guard lives, no group waits to fill.
    pub(super) fn flush(&self) -> Flush<'_> {
        self.state.lock().flush += 1;
        self.work.notify_all();
        Flush(self)
    }

    pub(super) fn pending(&self) -> u64 {
        self.state.lock().figures.pending_commits
    }

    pub(super) fn state_of(&self, commit: CommitSeq) -> Option<RepairState> {
        self.state.lock().states.get(commit.0)
    }

    pub(super) fn events_of(&self, commit: CommitSeq) -> Vec<RepairEvent> {
        let state = self.state.lock();
        let record = state.history.get(commit.0);
        record.map(Record::events).unwrap_or_default()
    }

    pub(super) fn metrics(&self) -> RepairMetrics {
        let state = self.state.lock();
        let oldest = state.current.first().or(state.queue.front());
        let in_work: u64 = state.current.iter().map(|job| job.symbols.len()).sum();
        let mut metrics = RepairMetrics {
            queue_depth: state.queue.len(),
            lag_symbols: state.queue.symbols() + in_work,
            lag: oldest.map_or(Duration::ZERO, |job| self.now().saturating_sub(job.durable)),
            ..state.figures.clone()
        };
        let windows = state.history.windows();
        drop(state);
        // Sorting takes a while: no commit should wait for it.
        metrics.window = windows.stats();
        metrics
    }
}

impl State {
    /// Whether any of the commits up to `newest` is pending: the oldest tells.
    fn is_pending_through(&self, newest: u64) -> bool {
        let oldest = self.current.first().or(self.queue.front());
        oldest.is_some_and(|job| job.first <= newest)
    }

    fn resolve(&mut self, job: &Job, outcome: RepairState, at: Duration) {
        self.states.set(job.first, job.last, outcome);
        self.figures.pending_commits -= job.commits;
        let completed = outcome == RepairState::Completed;
        let kind = if completed {
            self.figures.completed_commits += job.commits;
            RepairEventKind::RepairCompleted
        } else {
            self.figures.failed_commits += job.commits;
            RepairEventKind::RepairFailed
        };
        let mut windows = Vec::new();
        for record in self.history.range_mut(job.first, job.last) {
            record.add(kind, at);
            windows.push(at.saturating_sub(record.durable));
        }
        if !completed {
            return;
        }
        if (windows.len() as u64) < job.commits {
            // Of those that are forgotten the oldest stands for all: the longest window is never missed.
            windows.push(at.saturating_sub(job.durable));
        }
        for window in windows {
            self.history.close_window(window);
        }
    }
}

/// See [`Ledger::flush`].
pub(super) struct Flush<'a>(&'a Ledger);

impl Drop for Flush<'_> {
    fn drop(&mut self) {
        self.0.state.lock().flush -= 1;
    }
}
