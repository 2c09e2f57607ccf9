//! How a group commit works.

use std::fmt;
use std::time::Duration;
use walmend_types::{CommitSeq, Poison};

/// The setting of a [`GroupCommit`](crate::GroupCommit).
pub struct GroupConfig {
    pub(crate) last_seq: CommitSeq,
    pub(crate) batch_limit: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) gather: bool,
    pub(crate) reservation_deadline: Option<Duration>,
    pub(crate) drain_timeout: Duration,
    pub(crate) idle_wait: Duration,
    pub(crate) poison: Poison,
    pub(crate) oldest_snapshot: Box<dyn Fn() -> CommitSeq + Send>,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            last_seq: CommitSeq(0),
            batch_limit: 16,
            batch_bytes: usize::MAX,
            gather: true,
            reservation_deadline: None,
            drain_timeout: Duration::from_micros(100),
            idle_wait: Duration::from_secs(1),
            poison: Poison::new(),
            oldest_snapshot: Box::new(|| CommitSeq(0)),
        }
    }
}

impl GroupConfig {
    /// The last commit number that is in use (unless told: 0). The next commit gets the one after it.
    #[must_use]
    pub fn last_seq(mut self, seq: CommitSeq) -> Self {
        self.last_seq = seq;
        self
    }

    /// The most requests in a batch (unless told: 16); 0 counts as 1.
    #[must_use]
    pub fn batch_limit(mut self, requests: usize) -> Self {
        self.batch_limit = requests.max(1);
        self
    }

    /// The most bytes in a batch of a [`Pipeline`](crate::Pipeline), as counted by
    /// [`CommitRequest::bytes`](walmend_types::CommitRequest::bytes) (unless told: no limit). A single request may be
    /// larger.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// Whether a [`Pipeline`](crate::Pipeline) may hold a batch open for writers that were answered a moment ago, where
    /// measurements say that they come back sooner than a sync takes (unless told: yes).
    #[must_use]
    pub fn gather(mut self, gather: bool) -> Self {
        self.gather = gather;
        self
    }

    /// How long a permit of a [`Pipeline`](crate::Pipeline) may be held before it is revoked, if others wait behind
    /// it (unless told: for ever); see [`channel_with_deadline`](crate::channel_with_deadline).
    #[must_use]
    pub fn reservation_deadline(mut self, deadline: Duration) -> Self {
        self.reservation_deadline = Some(deadline);
        self
    }

    /// How long a batch of [`drain_and_process`](crate::GroupCommit::drain_and_process) stays open for more requests
    /// once it has its first one (unless told: 100 us). With zero, a batch is what is there.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// How long to wait for a first request before calling it idle (unless told: 1 s).
    #[must_use]
    pub fn idle_wait(mut self, wait: Duration) -> Self {
        self.idle_wait = wait;
        self
    }

    /// The latch that ends all writing, shared with whoever else must know.
    #[must_use]
    pub fn poison(mut self, poison: Poison) -> Self {
        self.poison = poison;
        self
    }

    /// Answers the oldest snapshot that a live or future transaction can have; asked after each batch, on
    /// the committing thread. A snapshot lives until its ticket is answered.
    ///
    /// Unless told it is 0: then the validator forgets nothing, and keeps one version for each page that was
    /// ever written. An answer that is too new loses updates.
    #[must_use]
    pub fn oldest_snapshot(mut self, oldest: impl Fn() -> CommitSeq + Send + 'static) -> Self {
        self.oldest_snapshot = Box::new(oldest);
        self
    }
}

impl fmt::Debug for GroupConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupConfig")
            .field("last_seq", &self.last_seq)
            .field("batch_limit", &self.batch_limit)
            .field("batch_bytes", &self.batch_bytes)
            .field("gather", &self.gather)
            .field("reservation_deadline", &self.reservation_deadline)
            .field("drain_timeout", &self.drain_timeout)
            .field("idle_wait", &self.idle_wait)
            .field("poison", &self.poison)
            .finish_non_exhaustive()
    }
}
