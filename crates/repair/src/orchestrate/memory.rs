//! Storage and generator in memory, with counters, and failures on demand.

use super::api::{CommitRepairIo, RepairSymbolGenerator, SymbolRange};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use walmend_sync::{Condvar, Mutex};
use walmend_types::{CommitSeq, Error, Result};

/// Repair symbols and the range that they mend.
pub type MemoryRepair = (SymbolRange, Vec<Vec<u8>>);

/// Symbols in memory. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryRepairIo(Arc<Mutex<Storage>>);

#[derive(Default)]
struct Storage {
    systematic: Vec<Vec<u8>>,
    repair: Vec<MemoryRepair>,
    durable_repair: usize,
    counters: MemoryRepairCounters,
    failures: Vec<RepairIoFailure>,
    sync_delay: Duration,
}

/// How often a [`MemoryRepairIo`] was asked for what, failed calls included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryRepairCounters {
    /// Commits to append.
    pub systematic_appends: u64,
    /// Syncs of the critical path.
    pub systematic_syncs: u64,
    /// Ranges to read back.
    pub reads: u64,
    /// Groups of repair symbols to append.
    pub repair_appends: u64,
    /// Syncs of the background path.
    pub repair_syncs: u64,
}

/// Which call of a [`MemoryRepairIo`] is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RepairIoCall {
    /// `append_systematic`.
    AppendSystematic,
    /// `sync_systematic`.
    SyncSystematic,
    /// `read_systematic`.
    ReadSystematic,
    /// `append_repair`.
    AppendRepair,
    /// `sync_repair`.
    SyncRepair,
}

/// What is to go wrong in a [`MemoryRepairIo`], once.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RepairIoFailure {
    /// The call answers an error.
    Error(RepairIoCall, Error),
    /// The call panics.
    Panic(RepairIoCall),
    /// `append_systematic` answers one position too few.
    WrongPositions,
}

impl MemoryRepairIo {
    /// Storage with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Something is to go wrong, once; failures of one call come in the order in which they were asked for.
    pub fn fail_next(&self, failure: RepairIoFailure) {
        self.0.lock().failures.push(failure);
    }

    /// How long a sync of the critical path takes from now on (unless told: no time).
    pub fn set_sync_delay(&self, delay: Duration) {
        self.0.lock().sync_delay = delay;
    }

    /// What was asked for so far.
    pub fn counters(&self) -> MemoryRepairCounters {
        self.0.lock().counters
    }

    /// The systematic symbols, by position.
    pub fn systematic(&self) -> Vec<Vec<u8>> {
        self.0.lock().systematic.clone()
    }

    /// The repair symbols that were synced, in the order in which they were appended.
    pub fn durable_repair(&self) -> Vec<MemoryRepair> {
        let storage = self.0.lock();
        storage.repair[..storage.durable_repair].to_vec()
    }
}

impl Storage {
    /// Fails if the call is to fail.
    fn injected(&mut self, call: RepairIoCall) -> Result<()> {
        let wanted = |failure: &RepairIoFailure| match failure {
            RepairIoFailure::Error(of, _) | RepairIoFailure::Panic(of) => *of == call,
            RepairIoFailure::WrongPositions => false,
        };
        let Some(place) = self.failures.iter().position(wanted) else {
            return Ok(());
        };
        match self.failures.remove(place) {
            RepairIoFailure::Error(_, error) => Err(error),
            _ => panic!("{call:?} was told to panic"),
        }
    }
}

impl CommitRepairIo for MemoryRepairIo {
    fn append_systematic(&self, _commit: CommitSeq, symbols: &[&[u8]]) -> Result<SymbolRange> {
        let mut storage = self.0.lock();
        storage.counters.systematic_appends += 1;
        storage.injected(RepairIoCall::AppendSystematic)?;
        let range = SymbolRange::new(storage.systematic.len() as u64, symbols.len() as u64);
        storage
            .systematic
            .extend(symbols.iter().map(|symbol| symbol.to_vec()));
        let wrong = |failure: &RepairIoFailure| matches!(failure, RepairIoFailure::WrongPositions);
        if let Some(place) = storage.failures.iter().position(wrong) {
            storage.failures.remove(place);
            return Ok(SymbolRange::new(range.start, range.len() - 1));
        }
        Ok(range)
    }

    fn sync_systematic(&self) -> Result<()> {
        let delay = {
            let mut storage = self.0.lock();
            storage.counters.systematic_syncs += 1;
            storage.injected(RepairIoCall::SyncSystematic)?;
            storage.sync_delay
        };
        pass(delay);
        Ok(())
    }

    fn read_systematic(&self, range: SymbolRange) -> Result<Option<Vec<Vec<u8>>>> {
        let mut storage = self.0.lock();
        storage.counters.reads += 1;
        storage.injected(RepairIoCall::ReadSystematic)?;
        let known = storage.systematic.len();
        let place = |position: u64| usize::try_from(position).ok().filter(|&place| place <= known);
        match (place(range.start), place(range.end)) {
            (Some(start), Some(end)) if start <= end => Ok(Some(storage.systematic[start..end].to_vec())),
            _ => Err(Error::OutOfRange {
                what: "position",
                value: range.end,
                expected: format!("at most {known}"),
            }),
        }
    }

    fn append_repair(&self, range: SymbolRange, _systematic: &[Vec<u8>], repair: &[Vec<u8>]) -> Result<()> {
        let mut storage = self.0.lock();
        storage.counters.repair_appends += 1;
        storage.injected(RepairIoCall::AppendRepair)?;
        storage.repair.push((range, repair.to_vec()));
        Ok(())
    }

    fn sync_repair(&self) -> Result<()> {
        let mut storage = self.0.lock();
        storage.counters.repair_syncs += 1;
        storage.injected(RepairIoCall::SyncRepair)?;
        storage.durable_repair = storage.repair.len();
        Ok(())
    }
}

impl fmt::Debug for MemoryRepairIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let storage = self.0.lock();
        f.debug_struct("MemoryRepairIo")
            .field("systematic", &storage.systematic.len())
            .field("groups", &storage.repair.len())
            .field("counters", &storage.counters)
            .finish_non_exhaustive()
    }
}

/// Lets time pass.
#[cfg(not(walmend_loom))]
fn pass(delay: Duration) {
    if !delay.is_zero() {
        walmend_sync::thread::sleep(delay);
    }
}

/// Under loom no time passes.
#[cfg(walmend_loom)]
fn pass(_delay: Duration) {}

/// What is to go wrong in a [`MemoryGenerator`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum GeneratorFailure {
    /// It answers an error.
    Error(Error),
    /// It panics.
    Panic,
}

/// A generator whose symbols depend on nothing but what it is given: one, the exclusive or of all systematic
/// symbols, each filled up with zeros to the length of the longest. It can be slowed, stopped, and made to fail.
/// Clones share its settings.
#[derive(Clone, Default)]
pub struct MemoryGenerator(Arc<(Mutex<Settings>, Condvar)>);

#[derive(Default)]
struct Settings {
    delay: Duration,
    held: bool,
    /// Calls that may go on all the same.
    passes: u64,
    calls: Vec<SymbolRange>,
    next: VecDeque<GeneratorFailure>,
    always: Vec<(u64, GeneratorFailure)>,
}

impl MemoryGenerator {
    /// A generator that works.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long each call takes from now on (unless told: as long as it needs).
    pub fn set_delay(&self, delay: Duration) {
        self.0.0.lock().delay = delay;
    }

    /// Stops every call, from now on, until [`release`](Self::release).
    pub fn hold(&self) {
        self.0.0.lock().held = true;
    }

    /// Lets the calls go on.
    pub fn release(&self) {
        self.0.0.lock().held = false;
        self.0.1.notify_all();
    }

    /// Lets one call go on, the one that is stopped or else the next; the others stay stopped.
    pub fn release_one(&self) {
        self.0.0.lock().passes += 1;
        self.0.1.notify_all();
    }

    /// Something is to go wrong, once; in the order in which it was asked for.
    pub fn fail_next(&self, failure: GeneratorFailure) {
        self.0.0.lock().next.push_back(failure);
    }

    /// Every range that contains `position` is to go wrong.
    pub fn fail_at(&self, position: u64, failure: GeneratorFailure) {
        self.0.0.lock().always.push((position, failure));
    }

    /// The ranges that were asked for so far, in order, failed calls and those that are stopped included.
    pub fn calls(&self) -> Vec<SymbolRange> {
        self.0.0.lock().calls.clone()
    }

    /// Blocks until `count` calls have been made; a stopped call counts.
    pub fn wait_for_calls(&self, count: usize) {
        let mut settings = self.0.0.lock();
        while settings.calls.len() < count {
            settings = self.0.1.wait(settings);
        }
    }
}

impl RepairSymbolGenerator for MemoryGenerator {
    fn generate(&self, range: SymbolRange, systematic: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let (settings, changed) = &*self.0;
        let (delay, failure) = {
            let mut settings = settings.lock();
            settings.calls.push(range);
            changed.notify_all();
            while settings.held && settings.passes == 0 {
                settings = changed.wait(settings);
            }
            settings.passes = settings.passes.saturating_sub(1);
            let always = settings.always.iter().find(|(at, _)| range.contains(*at));
            let always = always.map(|(_, failure)| failure.clone());
            (settings.delay, always.or_else(|| settings.next.pop_front()))
        };
        pass(delay);
        match failure {
            Some(GeneratorFailure::Error(error)) => return Err(error),
            Some(GeneratorFailure::Panic) => panic!("the generator was told to panic"),
            None => {}
        }
        let length = systematic.iter().map(Vec::len).max().unwrap_or(0);
        let mut symbol = vec![0; length];
        for from in systematic {
            symbol.iter_mut().zip(from).for_each(|(to, from)| *to ^= from);
        }
        Ok(vec![symbol])
    }
}

impl fmt::Debug for MemoryGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.0.0.lock();
        f.debug_struct("MemoryGenerator")
            .field("calls", &settings.calls.len())
            .field("held", &settings.held)
            .finish_non_exhaustive()
    }
}
