//! Limits, and how long to wait for what.

use std::time::Duration;
use walmend_types::{CommitSeq, Error, Result};

/// How a [`RepairCoordinator`](super::RepairCoordinator) works. Together the limits bound its memory: about 300
/// bytes for each range in the queue and each commit in the history, and one group of symbols, read and encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairConfig {
    /// The number of the first commit; 1 unless told. After reopening: one more than the last one ever used.
    pub first_commit: CommitSeq,
    /// Ranges that wait for their repair, at least 1; 64 unless told. When there are as many, the last one widens.
    pub queue_ranges: usize,
    /// Symbols for which a repair waits, until `linger` has passed; 16 unless told. 1: for nothing. At most what
    /// the groups of one sync hold.
    pub min_group: u64,
    /// Symbols in one group, at most; at least 1; 128 unless told.
    pub max_group: u64,
    /// Groups that share one sync of their repair symbols, at most; at least 1; 1 unless told. More of them cost
    /// fewer syncs, which a log on the same disk would feel.
    pub groups_per_sync: usize,
    /// How long a range waits for a group to fill; 5 ms unless told.
    pub linger: Duration,
    /// How often a failed group is tried again before it is `Failed` for good; 2 unless told.
    pub retries: u32,
    /// The pause before the first retry, doubled for each further one, 1 s at most; 10 ms unless told.
    pub backoff: Duration,
    /// Commits whose events are kept, and windows that are kept for their quantiles, at least 1; 4096 unless told.
    pub history: usize,
    /// How long dropping the coordinator waits for what is pending; 30 s unless told.
    pub drop_timeout: Duration,
}

impl Default for RepairConfig {
    fn default() -> Self {
        Self {
            first_commit: CommitSeq(1),
            queue_ranges: 64,
            min_group: 16,
            max_group: 128,
            groups_per_sync: 1,
            linger: Duration::from_millis(5),
            retries: 2,
            backoff: Duration::from_millis(10),
            history: 4096,
            drop_timeout: Duration::from_secs(30),
        }
    }
}

/// No pause between two attempts is longer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

impl RepairConfig {
    pub(super) fn check(&self) -> Result<()> {
        let out_of_range = |what, value, expected: &str| {
            Err(Error::OutOfRange {
                what,
                value,
                expected: expected.into(),
            })
        };
        if self.first_commit.0 == 0 {
            return out_of_range("first commit", 0, "at least 1");
        }
        if self.queue_ranges == 0 {
            return out_of_range("length of the repair queue", 0, "at least 1 range");
        }
        if self.min_group == 0 {
            return out_of_range("smallest group", 0, "at least 1 symbol");
        }
        if self.groups_per_sync == 0 {
            return out_of_range("groups in one sync", 0, "at least 1");
        }
        let together = self.max_group.saturating_mul(self.groups_per_sync as u64);
        if together < self.min_group {
            return out_of_range("largest group", self.max_group, "no less than the smallest");
        }
        if self.history == 0 {
            return out_of_range("length of the history", 0, "at least 1 commit");
        }
        Ok(())
    }

    /// The pause before retry `retry`, from 0.
    pub(super) fn pause(&self, retry: u32) -> Duration {
        let factor = 2u32.saturating_pow(retry);
        self.backoff.saturating_mul(factor).min(LONGEST_BACKOFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end_at_a_second() {
        let config = RepairConfig::default();
        let pauses: Vec<u128> = (0..9).map(|retry| config.pause(retry).as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(config.pause(u32::MAX), LONGEST_BACKOFF);
    }
}
