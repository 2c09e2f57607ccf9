//! A log in memory, for tests of engines and for trying things out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use walmend_sync::{Mutex, MutexGuard};
use walmend_types::{
    Append, AppendFailure, BatchEntry, CommitSeq, Error, OutcomeToken, Result, Salts, TxnId, WalBatchSync,
    WalBatchWriter,
};

/// How far apart two commits lie in this log, in "bytes".
const STRIDE: u64 = 64;

/// A log in memory, with a settable delay of its sync, counters, and failures on demand. Clones share it.
///
/// ```
/// use walmend_commit::{
///     CommitRequest, CommitSeq, Error, Failure, FirstCommitterWins, GroupCommit, GroupConfig, MemoryWriter,
///     Sent, TxnId, WriteSet,
/// };
///
/// let log = MemoryWriter::new();
/// let mut group = GroupCommit::new(log.clone(), FirstCommitterWins::new(0), GroupConfig::default());
/// log.fail_next(Failure::Sync(Error::Internal("the disk is gone".into())));
/// let request = CommitRequest::new(TxnId(1), CommitSeq(0), WriteSet::default(), ());
/// let (sent, ticket) = Sent::new(1, request);
/// group.process_batch(vec![sent]);
/// assert!(matches!(ticket.wait().into_result(), Err(Error::OutcomeUnknown { .. })));
/// assert!(log.published().is_empty());
/// ```
pub struct MemoryWriter<P>(Arc<Mutex<Inner<P>>>);

struct Inner<P> {
    log: Vec<MemoryCommit<P>>,
    /// How much of the log was there before the last append.
    before_append: usize,
    durable: usize,
    published: usize,
    sync_delay: Duration,
    counters: MemoryCounters,
    failures: Vec<Failure>,
}

/// A commit in a [`MemoryWriter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryCommit<P> {
    /// Its number.
    pub commit_seq: CommitSeq,
    /// Its transaction.
    pub txn: TxnId,
    /// Where it starts.
    pub wal_offset: u64,
    /// Its payload.
    pub payload: P,
}

/// How often a [`MemoryWriter`] was asked for what, failed calls included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryCounters {
    /// Batches to append.
    pub appends: u64,
    /// Appends to discard.
    pub discards: u64,
    /// Syncs.
    pub syncs: u64,
    /// Batches to publish.
    pub publishes: u64,
    /// Idle times.
    pub idles: u64,
}

/// What is to go wrong in a [`MemoryWriter`], once.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Failure {
    /// The next append fails, after it wrote half of the batch.
    Append(Error),
    /// The next append panics, after it wrote half of the batch.
    AppendPanics,
    /// The next append answers one offset too few.
    WrongOffsets,
    /// The next append answers one token too few.
    WrongTokens,
    /// The next discard fails.
    Discard(Error),
    /// The next sync fails.
    Sync(Error),
    /// The next sync panics.
    SyncPanics,
    /// The next publication panics.
    PublishPanics,
    /// The next idle time fails.
    Idle(Error),
}

/// Connects an append to a [`MemoryWriter`] with its sync.
#[derive(Debug)]
pub struct MemoryMark {
    through: usize,
}

impl<P> MemoryWriter<P> {
    /// An empty log.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            log: Vec::new(),
            before_append: 0,
            durable: 0,
            published: 0,
            sync_delay: Duration::ZERO,
            counters: MemoryCounters::default(),
            failures: Vec::new(),
        })))
    }

    /// How long a sync takes from now on (unless told: no time).
    pub fn set_sync_delay(&self, delay: Duration) {
        self.lock().sync_delay = delay;
    }

    /// Something is to go wrong, once; failures of one kind come in the order in which they were asked for.
    pub fn fail_next(&self, failure: Failure) {
        self.lock().failures.push(failure);
    }

    /// What was asked for so far.
    pub fn counters(&self) -> MemoryCounters {
        self.lock().counters
    }

    fn lock(&self) -> MutexGuard<'_, Inner<P>> {
        self.0.lock()
    }
}

impl<P: Clone> MemoryWriter<P> {
    /// What a reader sees.
    pub fn published(&self) -> Vec<MemoryCommit<P>> {
        let inner = self.lock();
        inner.log[..inner.published].to_vec()
    }

    /// What would be there after a crash, at least.
    pub fn durable(&self) -> Vec<MemoryCommit<P>> {
        let inner = self.lock();
        inner.log[..inner.durable].to_vec()
    }

    /// Everything in the log, debris of a failed append included.
    pub fn log(&self) -> Vec<MemoryCommit<P>> {
        self.lock().log.clone()
    }
}

impl<P> Inner<P> {
    fn take_failure(&mut self, wanted: impl Fn(&Failure) -> bool) -> Option<Failure> {
        let place = self.failures.iter().position(wanted)?;
        Some(self.failures.remove(place))
    }
}

impl<P: Clone + Send> WalBatchWriter<P> for MemoryWriter<P> {
    type Mark = MemoryMark;
    type Sync = Self;

    fn sync_half(&self) -> Self {
        self.clone()
    }

    fn append_batch(&mut self, batch: &[BatchEntry<'_, P>]) -> Result<Append<MemoryMark>, AppendFailure> {
        let mut inner = self.lock();
        inner.counters.appends += 1;
        inner.before_append = inner.log.len();
        let failure = inner.take_failure(|failure| {
            matches!(
                failure,
                Failure::Append(_) | Failure::AppendPanics | Failure::WrongOffsets | Failure::WrongTokens
            )
        });
        let breaks = matches!(failure, Some(Failure::Append(_) | Failure::AppendPanics));
        let wrote = if breaks { batch.len() / 2 } else { batch.len() };
        let (mut offsets, mut tokens) = (Vec::new(), Vec::new());
        for entry in &batch[..wrote] {
            let place = inner.log.len();
            offsets.push(place as u64 * STRIDE);
            tokens.push(token(place));
            inner.log.push(MemoryCommit {
                commit_seq: entry.commit_seq,
                txn: entry.request.txn,
                wal_offset: place as u64 * STRIDE,
                payload: entry.request.payload.clone(),
            });
        }
        match failure {
            Some(Failure::Append(error)) => return Err(AppendFailure { error, tokens }),
            Some(Failure::AppendPanics) => panic!("an append that was told to panic"),
            Some(Failure::WrongOffsets) => {
                offsets.pop();
            }
            Some(Failure::WrongTokens) => {
                tokens.pop();
            }
            _ => {}
        }
        Ok(Append {
            offsets,
            tokens,
            mark: MemoryMark {
                through: inner.log.len(),
            },
        })
    }

    fn discard_append(&mut self) -> Result<()> {
        let mut inner = self.lock();
        inner.counters.discards += 1;
        if let Some(Failure::Discard(error)) =
            inner.take_failure(|failure| matches!(failure, Failure::Discard(_)))
        {
            return Err(error);
        }
        let keep = inner.before_append;
        inner.log.truncate(keep);
        Ok(())
    }

    fn idle(&mut self) -> Result<()> {
        let mut inner = self.lock();
        inner.counters.idles += 1;
        match inner.take_failure(|failure| matches!(failure, Failure::Idle(_))) {
            Some(Failure::Idle(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

impl<P: Send> WalBatchSync<MemoryMark> for MemoryWriter<P> {
    fn sync(&self, mark: &MemoryMark) -> Result<()> {
        let (delay, failure) = {
            let mut inner = self.lock();
            inner.counters.syncs += 1;
            let failure =
                inner.take_failure(|failure| matches!(failure, Failure::Sync(_) | Failure::SyncPanics));
            (inner.sync_delay, failure)
        };
        pass(delay);
        match failure {
            Some(Failure::Sync(error)) => Err(error),
            Some(Failure::SyncPanics) => panic!("a sync that was told to panic"),
            _ => {
                let mut inner = self.lock();
                inner.durable = inner.durable.max(mark.through);
                Ok(())
            }
        }
    }

    fn publish(&self, mark: MemoryMark) {
        let mut inner = self.lock();
        inner.counters.publishes += 1;
        let failure = inner.take_failure(|failure| matches!(failure, Failure::PublishPanics));
        assert!(failure.is_none(), "a publication that was told to panic");
        inner.published = mark.through;
    }
}

fn token(place: usize) -> OutcomeToken {
    let frame = u32::try_from(place + 1).unwrap_or(u32::MAX);
    OutcomeToken {
        salts: Salts::default(),
        frame,
        checksum: (frame, 0),
    }
}

/// Lets time pass. Short times are spun, as sleeping takes tens of microseconds longer than asked for.
#[cfg(not(walmend_loom))]
fn pass(delay: Duration) {
    if delay >= Duration::from_millis(1) {
        walmend_sync::thread::sleep(delay);
    } else if !delay.is_zero() {
        let start = std::time::Instant::now();
        while start.elapsed() < delay {
            walmend_sync::hint::spin_loop();
        }
    }
}

/// A model has no clock.
#[cfg(walmend_loom)]
fn pass(_delay: Duration) {}

impl<P> Clone for MemoryWriter<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P> Default for MemoryWriter<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> fmt::Debug for MemoryWriter<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryWriter")
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}
