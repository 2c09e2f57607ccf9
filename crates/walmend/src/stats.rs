//! What a store tells of itself.

use crate::checkpoints::CheckpointBlocked;
use std::time::Duration;
use walmend_types::CommitSeq;
use walmend_wal::{LogIo, OldestReader};

/// Counters of a store since it was opened, and how it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Transactions that committed.
    pub commits: u64,
    /// Batches that they came in.
    pub batches: u64,
    /// Syncs of the log for these batches.
    pub syncs: u64,
    /// Transactions that lost against another one.
    pub conflicts: u64,
    /// Transactions that failed.
    pub failed: u64,
    /// Places taken in the commit channel: reserved, or sent and not yet in a batch.
    pub occupancy: usize,
    /// Places there are.
    pub capacity: usize,
    /// Frames in the log.
    pub log_frames: u32,
    /// Frames of them that are in the database file, verified.
    pub backfilled_frames: u32,
    /// Bytes of the log that frames take up.
    pub log_bytes: u64,
    /// The size of the database, in pages.
    pub db_pages: u32,
    /// The last published commit.
    pub commit_seq: CommitSeq,
    /// Live snapshots, those of transactions included.
    pub readers: usize,
    /// Frames that did not verify when they were read, by a snapshot or a checkpoint, and were rebuilt from the sidecar.
    pub mended_frames: u64,
    /// How the log is written: `Direct`, past the page cache, or `Buffered`, through it.
    pub log_io: LogIo,
    /// The snapshot that has been there for longest.
    pub oldest_reader: Option<OldestReader>,
    /// Automatic checkpoints that began the log anew.
    pub automatic_checkpoints: u64,
    /// Why the log was not begun anew although it has the size for it.
    pub checkpoint_blocked: Option<CheckpointBlocked>,
    /// The failure that has ended all writing, if there was one.
    pub poisoned: Option<String>,
    /// How the repair stands; `None` if it is switched off.
    pub repair: Option<RepairStats>,
    /// How the protection of the database file stands; `None` if it has none.
    pub protection: Option<ProtectionStats>,
}

/// How the protection of the database file stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProtectionStats {
    /// Checkpoints keep it in step with the database. Otherwise it is stale until the database is protected anew.
    pub in_step: bool,
    /// Pages that were found damaged and are not healed yet, because a checkpoint is writing, ascending: they can be.
    pub damaged_pages: Vec<u32>,
    /// Pages that were found damaged, and cannot be rebuilt, ascending. Reading them fails.
    pub lost_pages: Vec<u32>,
    /// Pages that were found damaged, by reading, by a checkpoint or by scrubbing, and are again what they were.
    pub healed_pages: u64,
    /// How scrubbing stands; `None` if it was not asked for.
    pub scrub: Option<ScrubStats>,
}

/// How the scrubbing of the database file stands, since the store was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubStats {
    /// Passes over the whole database that are done.
    pub passes: u64,
    /// Bytes of the database file compared in the pass under way.
    pub pass_bytes: u64,
    /// Bytes compared in all.
    pub bytes: u64,
    /// Pages that were damaged, and are again what they were.
    pub healed_pages: u64,
    /// It is held up: see [`Store::pause_scrub`](crate::Store::pause_scrub).
    pub paused: bool,
    /// The last failure. Scrubbing goes on behind it.
    pub last_failure: Option<String>,
}

/// How far what is durable is also repairable: since the store was opened, and now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairStats {
    /// Ranges of commits that wait; the queue is bounded, and widens its ranges.
    pub queue_depth: usize,
    /// Commits that are not repairable yet.
    pub pending_commits: u64,
    /// Commits whose frames are repairable, or were in the database before that.
    pub completed_commits: u64,
    /// Commits whose repair was given up: they are durable.
    pub failed_commits: u64,
    /// Frames that are not repairable yet.
    pub lag_frames: u64,
    /// How long the oldest of these has been durable.
    pub lag: Duration,
    /// Groups of frames that have their parity.
    pub groups: u64,
    /// Groups that a checkpoint took out of the log before they had any.
    pub groups_left: u64,
    /// Groups that were given up.
    pub failed_groups: u64,
    /// Attempts after a failed one.
    pub retries: u64,
    /// Bytes of the frames in `groups`.
    pub frame_bytes: u64,
    /// Bytes of their parity.
    pub parity_bytes: u64,
    /// The last failure of an attempt.
    pub last_failure: Option<String>,
    /// How long commits were durable and not yet repairable: the median of the last 4096.
    pub window_p50: Duration,
    /// What 99 in 100 of these did not exceed.
    pub window_p99: Duration,
    /// The longest of all.
    pub window_max: Duration,
}
