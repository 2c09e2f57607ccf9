//! What is done to a log, step by step.

use std::time::Duration;
use walmend_types::PageSize;
use walmend_vfs::Random;
use walmend_vfs::sim::SectorSize;
use walmend_wal::CheckpointMode;

/// How the log and the disk under it are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Bytes of a page.
    pub page_size: PageSize,
    /// Bytes that the log is filled with zeros ahead of its tail.
    pub preallocate: u64,
    /// The watermark is synced after every batch, instead of never by itself.
    pub sync_watermark: bool,
    /// Sectors of 4096 bytes instead of 512.
    pub large_sectors: bool,
}

impl Setup {
    /// Small pages and sectors, a little preallocation.
    pub const SMALL: Self = Self {
        page_size: PageSize::MIN,
        preallocate: 2048,
        sync_watermark: false,
        large_sectors: false,
    };

    pub(super) fn sectors(self) -> SectorSize {
        if self.large_sectors {
            SectorSize::Bytes4096
        } else {
            SectorSize::Bytes512
        }
    }

    pub(super) fn watermark_interval(self) -> Duration {
        if self.sync_watermark {
            Duration::ZERO
        } else {
            Duration::from_secs(3600)
        }
    }
}

/// The pages of each transaction of a batch.
pub type Batch = Vec<Vec<u32>>;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The writers: a batch is appended, synced and published.
    Commit(Batch),
    /// The writers, while a passive checkpoint and a new snapshot come between the append and the sync.
    CommitAround(Batch),
    /// The writers: the `call`th write of the append to the log fails after `landed` bytes.
    FailAppend {
        /// From 1.
        call: u64,
        /// Bytes.
        landed: u64,
        /// What fails.
        batch: Batch,
    },
    /// The writers: the sync of the log fails and keeps what this seed says; then the process ends.
    FailSync {
        /// Of what the failed sync keeps.
        seed: u64,
        /// What fails.
        batch: Batch,
    },
    /// The checkpointer.
    Checkpoint(CheckpointMode),
    /// The checkpointer, whose sync of the database fails.
    FailCheckpoint(CheckpointMode),
    /// The reader begins a snapshot, if it has none.
    Begin,
    /// The reader reads all that its snapshot shows.
    Look,
    /// The reader ends its snapshot.
    End,
    /// The repair worker protects the frames that it did not yet.
    Protect,
    /// The writers have nothing to do for a while.
    Idle,
    /// The log is closed in good order, and opened again.
    Close,
    /// The process is killed, and the log opened again.
    Kill,
    /// The power goes between two operations and keeps what this seed says; the log is opened again.
    PowerLoss {
        /// Of what is kept.
        seed: u64,
    },
    /// The log is closed, up to two of its protected frames rot, and it is opened again, which heals them.
    Rot {
        /// Of the frames and bits.
        seed: u64,
    },
}

/// A setup and the steps that are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The log and the disk.
    pub setup: Setup,
    /// The steps.
    pub steps: Vec<Step>,
}

/// How many pages the programs write to. Few, so that they meet again.
const PAGES: u64 = 7;

impl Program {
    /// Commits, an emptied and a restarted log, a failed append, a snapshot, protected and rotten frames.
    pub fn small(setup: Setup) -> Self {
        use CheckpointMode::{Passive, Restart, Truncate};
        let steps = vec![
            Step::Commit(vec![vec![1, 2]]),
            Step::Commit(vec![vec![1], vec![3, 4, 5]]),
            Step::Protect,
            Step::Checkpoint(Truncate),
            Step::Begin,
            Step::CommitAround(vec![vec![2], vec![1, 6]]),
            Step::Checkpoint(Passive),
            Step::Look,
            Step::End,
            Step::FailAppend {
                call: 1,
                landed: 700,
                batch: vec![vec![3], vec![4]],
            },
            Step::Commit(vec![vec![3]]),
            Step::Checkpoint(Restart),
            Step::Commit(vec![vec![4], vec![1, 2]]),
            Step::Protect,
            Step::Rot { seed: 3 },
            Step::Commit(vec![vec![5, 6]]),
            Step::Close,
        ];
        Self { setup, steps }
    }

    /// Drawn.
    pub fn draw(random: &mut Random) -> Self {
        let setup = Setup {
            page_size: PageSize::new(*random.pick(&[512, 512, 1024, 4096])).unwrap_or_default(),
            preallocate: *random.pick(&[0, 2048, 16384]),
            sync_watermark: random.one_in(3),
            large_sectors: random.one_in(3),
        };
        let count = 3 + random.below(15);
        let steps = (0..count).map(|_| step(random)).collect();
        Self { setup, steps }
    }
}

fn step(random: &mut Random) -> Step {
    use CheckpointMode::{Full, Passive, Restart, Truncate};
    match random.below(30) {
        0..=9 => Step::Commit(batch(random)),
        10..=12 => Step::CommitAround(batch(random)),
        13..=14 => Step::FailAppend {
            call: 1 + random.below(2),
            landed: random.below(4000),
            batch: batch(random),
        },
        15 => Step::FailSync {
            seed: random.next(),
            batch: batch(random),
        },
        16..=18 => Step::Checkpoint(*random.pick(&[Passive, Full, Restart, Truncate])),
        19 => Step::FailCheckpoint(*random.pick(&[Passive, Restart, Truncate])),
        20 => Step::Begin,
        21 => Step::Look,
        22 => Step::End,
        23..=24 => Step::Protect,
        25 => Step::Idle,
        26 => Step::Close,
        27 => Step::Kill,
        28 => Step::PowerLoss { seed: random.next() },
        _ => Step::Rot { seed: random.next() },
    }
}

fn batch(random: &mut Random) -> Batch {
    let count = 1 + random.below(3);
    (0..count).map(|_| transaction(random)).collect()
}

fn transaction(random: &mut Random) -> Vec<u32> {
    let mut pages: Vec<u32> = (0..1 + random.below(3))
        .map(|_| 1 + random.below(PAGES) as u32)
        .collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}
