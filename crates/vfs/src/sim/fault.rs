//! What a test can ask for, and what it can ask about.

use crate::names::Random;
use std::io;
use std::path::{Path, PathBuf};
use walmend_types::SyncMode;

/// How large the sectors of a simulated disk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectorSize {
    /// 512 bytes.
    Bytes512,
    /// 4096 bytes.
    Bytes4096,
}

impl SectorSize {
    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::Bytes512 => 512,
            Self::Bytes4096 => 4096,
        }
    }
}

/// Which of the pending changes reach the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrashKeep {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Some, drawn from this seed; it also decides whether they are few or many.
    Random(u64),
    /// Those whose bit is set, in the order of [`SimVfs::pending`](super::SimVfs::pending) for a crash, and of
    /// the one file's part of it for a failed sync. Missing bits count as not set.
    Subset(Vec<bool>),
}

impl CrashKeep {
    /// Whether each of `count` changes is kept.
    pub(super) fn decide(&self, count: usize) -> Vec<bool> {
        match self {
            Self::None => vec![false; count],
            Self::All => vec![true; count],
            Self::Random(seed) => {
                let random = Random::new(*seed);
                // With one fixed chance, "nearly all" and "hardly any" would never come up.
                let chance = 1 + random.next() % 7;
                (0..count).map(|_| random.next() % 8 < chance).collect()
            }
            Self::Subset(bits) => {
                let mut bits = bits.clone();
                bits.resize(count, false);
                bits
            }
        }
    }
}

/// Which call a fault strikes, counted from the arming on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nth {
    n: u64,
    suffix: Option<String>,
}

impl Nth {
    /// The `n`th call, from 1, on any file. 0 never comes.
    pub fn call(n: u64) -> Self {
        Self { n, suffix: None }
    }

    /// Counts only calls on files whose path ends in `suffix`, such as `"-wal"`.
    pub fn of(self, suffix: impl Into<String>) -> Self {
        Self {
            suffix: Some(suffix.into()),
            ..self
        }
    }

    fn concerns(&self, file: &Path) -> bool {
        match &self.suffix {
            Some(suffix) => file.to_string_lossy().ends_with(suffix.as_str()),
            None => true,
        }
    }
}

/// One operation on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimOp {
    /// What was done.
    pub kind: SimOpKind,
    /// The normalised path that the file was opened by, or that the call named.
    pub file: PathBuf,
    /// Where a write starts; otherwise 0.
    pub offset: u64,
    /// How many bytes a write was to write, or the new length of a truncated file; otherwise 0.
    pub len: u64,
    /// Whether it failed, wholly or in part.
    pub failed: bool,
}

impl SimOp {
    pub(super) fn new(kind: SimOpKind, file: &Path, offset: u64, len: u64) -> Self {
        Self {
            kind,
            file: file.to_path_buf(),
            offset,
            len,
            failed: false,
        }
    }
}

/// The kinds of operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SimOpKind {
    /// A file came into being.
    Create,
    /// A write or a preallocation.
    Write,
    /// A new length.
    Truncate,
    /// A sync.
    Sync(SyncMode),
    /// A file lost its name.
    Remove,
    /// A file got another name.
    Rename {
        /// The new name.
        to: PathBuf,
    },
}

/// A change that a crash may or may not keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingChange {
    /// The file.
    pub file: PathBuf,
    /// What changes.
    pub kind: PendingKind,
}

/// The kinds of pending changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingKind {
    /// A sector gets new content.
    Sector {
        /// Where the sector starts.
        offset: u64,
        /// How many bytes of it the file has.
        len: u64,
    },
    /// The file gets this length.
    Length(u64),
}

/// What an armed fault does.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    Sync { keep: CrashKeep },
    Write { landed: u64, error: io::ErrorKind },
    Read,
}

/// Everything that is armed.
#[derive(Debug, Default)]
pub(super) struct Faults {
    armed: Vec<(Nth, Effect)>,
    pub(super) power_goes_at: Option<u64>,
    /// How many bytes all files together may have.
    pub(super) capacity: Option<u64>,
}

impl Faults {
    pub(super) fn arm(&mut self, which: Nth, effect: Effect) {
        self.armed.push((which, effect));
    }

    /// A sync of `file`: what it keeps if it is to fail.
    pub(super) fn on_sync(&mut self, file: &Path) -> Option<CrashKeep> {
        self.strike(file, |effect| match effect {
            Effect::Sync { keep } => Some(keep.clone()),
            _ => None,
        })
    }

    /// A write to `file`: how many bytes land and what it says, if it is to fail.
    pub(super) fn on_write(&mut self, file: &Path) -> Option<(u64, io::ErrorKind)> {
        self.strike(file, |effect| match *effect {
            Effect::Write { landed, error } => Some((landed, error)),
            _ => None,
        })
    }

    /// A read of `file`: whether it is to fail.
    pub(super) fn on_read(&mut self, file: &Path) -> bool {
        self.strike(file, |effect| matches!(effect, Effect::Read).then_some(()))
            .is_some()
    }

    /// Counts a call against every armed fault of its kind. Where several are due, the one armed first counts.
    fn strike<T>(&mut self, file: &Path, of_kind: impl Fn(&Effect) -> Option<T>) -> Option<T> {
        let mut struck = None;
        self.armed.retain_mut(|(which, effect)| {
            let Some(found) = of_kind(effect).filter(|_| which.n > 0 && which.concerns(file)) else {
                return true;
            };
            which.n -= 1;
            if which.n > 0 {
                return true;
            }
            struck.get_or_insert(found);
            false
        });
        struck
    }

    /// Counts an operation; whether the power goes with it.
    pub(super) fn power_goes(&mut self) -> bool {
        let Some(left) = &mut self.power_goes_at else {
            return false;
        };
        *left = left.saturating_sub(1);
        *left == 0
    }
}
