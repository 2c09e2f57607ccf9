//! What a test can ask for, and what it can ask about.

use crate::names::SharedRandom;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walmend_sync::{Condvar, Mutex};
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
    /// As `Random`, and half of the sectors that are kept are torn: a first or a last part of one reaches the
    /// disk, the rest of it stays as it was there.
    Torn(u64),
    /// Those whose bit is set, in the order of [`SimVfs::pending`](super::SimVfs::pending) for a crash, and of
    /// the one file's part of it for a failed sync. Missing bits count as not set.
    Subset(Vec<bool>),
}

impl CrashKeep {
    /// What becomes of each of `count` changes.
    pub(super) fn decide(&self, count: usize) -> Vec<Fate> {
        let of = |kept: bool| if kept { Fate::Kept } else { Fate::Lost };
        match self {
            Self::None => vec![Fate::Lost; count],
            Self::All => vec![Fate::Kept; count],
            Self::Random(seed) => draw(*seed, count, |_| Fate::Kept),
            Self::Torn(seed) => draw(*seed, count, |random| match random % 4 {
                0 => Fate::Head((random >> 8) as u8),
                1 => Fate::Tail((random >> 8) as u8),
                _ => Fate::Kept,
            }),
            Self::Subset(bits) => {
                let mut fates: Vec<Fate> = bits.iter().map(|kept| of(*kept)).collect();
                fates.resize(count, Fate::Lost);
                fates
            }
        }
    }
}

fn draw(seed: u64, count: usize, keep: impl Fn(u64) -> Fate) -> Vec<Fate> {
    let random = SharedRandom::new(seed);
    // With one fixed chance, "nearly all" and "hardly any" would never come up.
    let chance = 1 + random.next() % 7;
    let one = |_| {
        let drawn = random.next();
        if drawn % 8 < chance {
            keep(drawn >> 8)
        } else {
            Fate::Lost
        }
    };
    (0..count).map(one).collect()
}

/// What becomes of a pending change. Cuts are in 256ths of a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Lost,
    Kept,
    /// Only what lies before the cut is written.
    Head(u8),
    /// Only what lies behind the cut is written.
    Tail(u8),
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
    #[must_use]
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
#[non_exhaustive]
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

/// Something that goes wrong with one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A read, of either kind, fails with `EIO`.
    ReadError,
    /// A read, of either kind, answers at most this many bytes, as if the file ended there.
    ShortRead(u64),
    /// One of the bits that are read, this one modulo their number, has flipped: on disk, cached and pending.
    BitRot(u64),
    /// A write fails after its first `landed` bytes.
    WriteError {
        /// How many bytes are written.
        landed: u64,
        /// What it fails with.
        error: io::ErrorKind,
    },
    /// A write says that it is done, and the cache shows it; its sectors never reach the disk.
    LostWrite,
    /// A write says that it is done, and the cache shows it; its sectors reach the disk this many sectors further
    /// on, from the last sector of the file on to its first.
    MisdirectedWrite(u64),
    /// A sync fails with `EIO`, keeps this, and counts everything as clean.
    SyncError(CrashKeep),
    /// A sync says that it is done; everything stays pending.
    LyingSync,
}

impl Fault {
    fn call(&self) -> Call {
        match self {
            Self::ReadError | Self::ShortRead(_) | Self::BitRot(_) => Call::Read,
            Self::WriteError { .. } | Self::LostWrite | Self::MisdirectedWrite(_) => Call::Write,
            Self::SyncError(_) | Self::LyingSync => Call::Sync,
        }
    }
}

/// The calls that faults strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`read_at`](crate::VfsFile::read_at) and [`read_from_device`](crate::VfsFile::read_from_device).
    Read,
    /// Writes, gathered or not, and preallocations.
    Write,
    /// Syncs of either kind.
    Sync,
}

/// A fault that struck.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Injected {
    /// How many operations there had been, this one included if it is one.
    pub op: u64,
    /// The normalised path of the file.
    pub file: PathBuf,
    /// Where a read or write starts; otherwise 0.
    pub offset: u64,
    /// What went wrong.
    pub fault: Fault,
}

/// Faults that strike by chance, for [`SimVfs::arm_random`](super::SimVfs::arm_random).
#[derive(Debug, Clone)]
pub struct RandomFaults {
    /// Of what is drawn.
    pub seed: u64,
    /// Of so many calls, one is struck, on average; at least 1.
    pub one_in: u64,
    /// At most so many faults strike in all.
    pub budget: u32,
    /// What may strike; a call for which there is nothing here is never struck.
    pub faults: Vec<Fault>,
}

/// What is done to an armed call.
#[derive(Debug, Clone)]
enum Effect {
    Fault(Fault),
    Hold(Call, Arc<Hold>),
}

impl Effect {
    fn call(&self) -> Call {
        match self {
            Self::Fault(fault) => fault.call(),
            Self::Hold(call, _) => *call,
        }
    }
}

/// A call that is stopped on its way, from [`SimVfs::hold_at`](super::SimVfs::hold_at). Dropping this lets it go.
#[derive(Debug)]
#[must_use = "the call is let go when this is dropped"]
pub struct Held(Arc<Hold>);

impl Held {
    /// Waits until the call has come. It has had no effect yet.
    pub fn wait(&self) {
        let mut state = self.0.state.lock();
        while !state.came {
            state = self.0.changed.wait(state);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state.lock().released = true;
        self.0.changed.notify_all();
    }
}

#[derive(Debug, Default)]
pub(super) struct Hold {
    state: Mutex<HoldState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct HoldState {
    came: bool,
    released: bool,
}

impl Hold {
    /// Stops until the other side lets go.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.came = true;
        self.changed.notify_all();
        while !state.released {
            state = self.changed.wait(state);
        }
    }
}

/// Everything that is armed.
#[derive(Debug, Default)]
pub(super) struct Faults {
    armed: Vec<(Nth, Effect)>,
    by_chance: Option<(RandomFaults, SharedRandom)>,
    pub(super) power_goes_at: Option<u64>,
    /// How many bytes all files together may have.
    pub(super) capacity: Option<u64>,
}

impl Faults {
    pub(super) fn arm(&mut self, which: Nth, fault: Fault) {
        self.armed.push((which, Effect::Fault(fault)));
    }

    pub(super) fn hold(&mut self, which: Nth, call: Call) -> Held {
        let hold = Arc::new(Hold::default());
        self.armed.push((which, Effect::Hold(call, Arc::clone(&hold))));
        Held(hold)
    }

    pub(super) fn by_chance(&mut self, faults: RandomFaults) {
        let random = SharedRandom::new(faults.seed);
        self.by_chance = Some((faults, random));
    }

    pub(super) fn disarm_calls(&mut self) {
        self.armed.clear();
    }

    /// What is to go wrong with a call on `file`, if anything.
    pub(super) fn on(&mut self, call: Call, file: &Path) -> Option<Fault> {
        let armed = self.strike(file, |effect| match effect {
            Effect::Fault(fault) if effect.call() == call => Some(fault.clone()),
            _ => None,
        });
        armed.or_else(|| self.chance(call))
    }

    /// Whether a call on `file` is to be stopped on its way.
    pub(super) fn held(&mut self, call: Call, file: &Path) -> Option<Arc<Hold>> {
        self.strike(file, |effect| match effect {
            Effect::Hold(held, hold) if *held == call => Some(Arc::clone(hold)),
            _ => None,
        })
    }

    fn chance(&mut self, call: Call) -> Option<Fault> {
        let (plan, random) = self.by_chance.as_mut()?;
        let fitting = |fault: &&Fault| fault.call() == call;
        let count = plan.faults.iter().filter(fitting).count() as u64;
        if count == 0 || plan.budget == 0 || random.next() % plan.one_in.max(1) != 0 {
            return None;
        }
        plan.budget -= 1;
        let drawn = (random.next() % count) as usize;
        plan.faults.iter().filter(fitting).nth(drawn).cloned()
    }

    /// Counts a call against every armed effect of its kind. Where several are due, the one armed first counts.
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
