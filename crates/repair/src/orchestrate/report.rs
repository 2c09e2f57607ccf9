//! What callers are told: receipts, states, events, figures.

use super::api::SymbolRange;
use std::time::{Duration, Instant};
use walmend_types::{CommitSeq, Error};

/// The answer to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitReceipt {
    /// Its number.
    pub commit_seq: CommitSeq,
    /// Where its symbols are.
    pub symbols: SymbolRange,
    /// Whether it is durable: always, since nothing else gets a receipt.
    pub durable: bool,
    /// Whether its repair was handed to the runtime. Not so when repair is switched off, or could not be scheduled.
    pub repair_pending: bool,
    /// From the start of the commit until its acknowledgement, sync included.
    pub critical_path: Duration,
}

/// A commit that an engine made durable on a path of its own, for
/// [`RepairCoordinator::offer`](super::RepairCoordinator::offer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurableCommit {
    /// Its number: higher than that of every earlier one.
    pub commit_seq: CommitSeq,
    /// Where its symbols are: behind those of every earlier one.
    pub symbols: SymbolRange,
    /// When its critical path began.
    pub started: Instant,
    /// When its sync returned.
    pub durable: Instant,
}

/// How far the repair of a commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepairState {
    /// Repair is switched off.
    NotScheduled,
    /// To be done, or being done.
    Pending,
    /// The repair symbols are durable; or the symbols have left the storage in good order, so that none are needed.
    Completed,
    /// Given up for good: the commit is as durable as ever, but cannot be mended.
    Failed,
}

/// What happened to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepairEventKind {
    /// Its sync returned.
    CommitDurable,
    /// From here on it would survive a crash, but not rot. Absent when repair is switched off.
    DurableButNotRepairable,
    /// It was acknowledged.
    CommitAcked,
    /// Its repair symbols are being made.
    RepairStarted,
    /// Its repair symbols are durable.
    RepairCompleted,
    /// Its repair is given up for good.
    RepairFailed,
}

/// One event in the life of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairEvent {
    /// The commit.
    pub commit_seq: CommitSeq,
    /// The event's place among those of its commit, from 1, without a gap.
    pub number: u32,
    /// When it happened, since the coordinator was made, on a monotonic clock; never before an earlier event of
    /// the same commit.
    pub at: Duration,
    /// What happened.
    pub kind: RepairEventKind,
}

/// How long commits were durable but not repairable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WindowStats {
    /// Windows in the history: the last ones that closed, at most as many as the history is long.
    pub samples: usize,
    /// The median of these.
    pub p50: Duration,
    /// What 99 in 100 of these do not exceed.
    pub p99: Duration,
    /// The longest that ever closed.
    pub max: Duration,
}

/// The coordinator's figures at one moment.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RepairMetrics {
    /// Ranges that wait.
    pub queue_depth: usize,
    /// The most ranges that ever waited.
    pub queue_high_water: usize,
    /// Commits that found the queue full and widened a range.
    pub widened: u64,
    /// Commits whose repair is pending.
    pub pending_commits: u64,
    /// Symbols that are durable and wait for their repair, or are being repaired.
    pub lag_symbols: u64,
    /// How long the oldest of these has been durable.
    pub lag: Duration,
    /// Commits that were made durable.
    pub commits: u64,
    /// Commits whose repair is done.
    pub completed_commits: u64,
    /// Commits whose repair was given up.
    pub failed_commits: u64,
    /// Groups whose repair symbols are durable.
    pub groups: u64,
    /// Groups, or ranges that were to become groups, whose symbols left the storage in good order before their repair.
    pub groups_left: u64,
    /// Groups that were given up after the last retry.
    pub failed_groups: u64,
    /// Attempts after a failed one.
    pub retries: u64,
    /// Bytes of the systematic symbols in `groups`.
    pub systematic_bytes: u64,
    /// Bytes of the repair symbols in `groups`.
    pub repair_bytes: u64,
    /// The last failure of an attempt.
    pub last_failure: Option<Error>,
    /// The windows that have closed.
    pub window: WindowStats,
}
