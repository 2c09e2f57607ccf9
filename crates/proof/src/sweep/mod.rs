//! Crashes of a real log with its companion, sidecar, checkpoints and snapshots, on the simulated disk.
//!
//! A [`Program`] is a list of steps: what writers, a checkpointer, a reader and a repair worker do, in the order in
//! which a scheduler let them. [`Life`] runs it and keeps a [`History`](walmend_vfs::sim::History) of what was said.
//! [`exhaustive`] crashes it at every operation; [`random`] draws programs, crashes, and crashes in the recovery of
//! those, from a seed; [`shrink`] makes a failing case small.

mod exhaustive;
mod life;
mod program;
mod random;
mod shrink;

pub use exhaustive::exhaustive;
pub use life::{Life, Stop};
pub use program::{Batch, Program, Setup, Step};
pub use random::{Case, End, case, random, replay};
pub use shrink::shrink;

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Programs, or scenarios.
    pub programs: u64,
    /// Simulated losses of power and kills, those in recoveries included.
    pub crashes: u64,
    /// Of them, those in a recovery.
    pub in_recovery: u64,
    /// Of the crashes in a recovery, those in the recovery from such a crash.
    pub in_second: u64,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            programs: self.programs + other.programs,
            crashes: self.crashes + other.crashes,
            in_recovery: self.in_recovery + other.in_recovery,
            in_second: self.in_second + other.in_second,
        }
    }
}
