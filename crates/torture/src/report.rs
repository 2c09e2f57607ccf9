//! What a run did and found, by mode.

use crate::modes::Mode;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What happened in the rounds of one mode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) rounds: u64,
    pub(crate) lives: u64,
    pub(crate) committed: u64,
    pub(crate) kills: u64,
    pub(crate) in_recovery: u64,
    pub(crate) in_checkpoint: u64,
    /// Processes that a limit ended.
    pub(crate) aborted: u64,
    /// Bits flipped, and worse.
    pub(crate) flips: u64,
    /// Frames healed at an opening, and pages by `heal`.
    pub(crate) healed: u64,
    /// Openings and reads refused for damage.
    pub(crate) refusals: u64,
    /// Errors that the mode provokes, by kind.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Clock jumps, fillings of the disk.
    pub(crate) pushes: u64,
    pub(crate) snapshots: u64,
    pub(crate) serializable: u64,
    pub(crate) backups: u64,
    /// Databases that SQLite found sound.
    pub(crate) sound: u64,
    pub(crate) busy: u64,
    pub(crate) turns: u64,
    pub(crate) losses: u64,
    pub(crate) hangs: u64,
    pub(crate) leaks: u64,
    /// Why the mode cannot be had on this machine.
    pub(crate) skipped: Option<String>,
}

impl Tally {
    /// Counts what is wrong.
    pub(crate) fn blame(&mut self, what: &str) {
        if what.contains("leak") {
            self.leaks += 1;
        } else if what.contains("hang") {
            self.hangs += 1;
        } else {
            self.losses += 1;
        }
    }

    pub(crate) fn fault(&mut self, kind: &str) {
        *self.faults.entry(kind.to_owned()).or_default() += 1;
    }

    fn faults(&self) -> u64 {
        self.faults.values().sum::<u64>() + self.aborted + self.pushes
    }

    fn row(&self) -> [u64; 17] {
        [
            self.rounds,
            self.lives,
            self.committed,
            self.kills,
            self.in_recovery,
            self.in_checkpoint,
            self.flips,
            self.healed,
            self.refusals,
            self.faults(),
            self.snapshots,
            self.serializable,
            self.backups,
            self.sound,
            self.losses,
            self.hangs,
            self.leaks,
        ]
    }
}

const NAMES: [&str; 17] = [
    "rounds", "lives", "commits", "kills", "recov.", "ckpt", "flips", "healed", "refused", "faults", "views",
    "serial.", "backups", "sqlite", "losses", "hangs", "leaks",
];

/// A table of all modes, and what their faults were.
pub(crate) fn table(tallies: &BTreeMap<Mode, Tally>) -> String {
    let mut text = format!("{:8}", "mode");
    for name in NAMES {
        let _ = write!(text, " {name:>8}");
    }
    let mut sums = [0; NAMES.len()];
    for (mode, tally) in tallies {
        let _ = write!(text, "\n{:8}", mode.name());
        if let Some(why) = &tally.skipped {
            let _ = write!(text, " left out: {why}");
            continue;
        }
        for (sum, value) in sums.iter_mut().zip(tally.row()) {
            let _ = write!(text, " {value:>8}");
            *sum += value;
        }
    }
    let _ = write!(text, "\n{:8}", "all");
    for sum in sums {
        let _ = write!(text, " {sum:>8}");
    }
    for (mode, tally) in tallies {
        let mut parts: Vec<String> = tally
            .faults
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        for (count, what) in [
            (tally.aborted, "processes ended by a limit"),
            (tally.pushes, mode.push()),
            (tally.busy, "times SQLite was told to wait"),
            (tally.turns, "turns that SQLite had"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        if !parts.is_empty() {
            let _ = write!(text, "\n{}: {}", mode.name(), parts.join(", "));
        }
    }
    text
}
