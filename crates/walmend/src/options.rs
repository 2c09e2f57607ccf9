//! How a store is opened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use walmend_types::PageSize;
use walmend_vfs::{UnixVfs, Vfs};
use walmend_wal::{LogIo, OnDamage, PageKind};

/// What the pages of a database are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pages {
    /// Opaque to walmend. The file does not look like an SQLite database, so that sqlite3 refuses it instead
    /// of overwriting pages that it does not know.
    #[default]
    Raw,
    /// A real SQLite database: page 1 is its header, and sqlite3 can open the files after every close or kill.
    Sqlite,
}

impl From<Pages> for PageKind {
    fn from(pages: Pages) -> Self {
        match pages {
            Pages::Raw => Self::Raw,
            Pages::Sqlite => Self::Sqlite,
        }
    }
}

/// How a store is opened; every setting has a default.
///
/// ```
/// use walmend::{Options, PageSize, Pages};
///
/// let options = Options::new().pages(Pages::Sqlite).page_size(PageSize::new(8192)?);
/// # Ok::<(), walmend::Error>(())
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) pages: Option<Pages>,
    pub(crate) page_size: Option<PageSize>,
    pub(crate) create: bool,
    pub(crate) capacity: i64,
    pub(crate) batch_limit: Option<usize>,
    pub(crate) batch_bytes: usize,
    pub(crate) on_damage: OnDamage,
    pub(crate) synced_every_commit: bool,
    pub(crate) checkpoint_wait: Duration,
    pub(crate) checkpoint_at: u64,
    pub(crate) log_limit: u64,
    pub(crate) lock_wait: Duration,
    pub(crate) preallocate: u64,
    #[cfg(feature = "repair")]
    pub(crate) repair: bool,
    #[cfg(feature = "repair")]
    pub(crate) protect_database: bool,
    #[cfg(feature = "repair")]
    pub(crate) scrub: Option<crate::scrub::Pace>,
    #[cfg(feature = "repair")]
    pub(crate) repair_on: Option<tokio::runtime::Handle>,
    pub(crate) log_io: LogIo,
    pub(crate) vfs: Arc<dyn Vfs>,
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            pages: None,
            page_size: None,
            create: true,
            capacity: 1024,
            batch_limit: None,
            batch_bytes: 64 << 20,
            on_damage: OnDamage::Refuse,
            synced_every_commit: false,
            checkpoint_wait: Duration::from_secs(1),
            checkpoint_at: 64 << 20,
            log_limit: 1 << 30,
            lock_wait: Duration::from_secs(1),
            preallocate: 1 << 20,
            #[cfg(feature = "repair")]
            repair: true,
            #[cfg(feature = "repair")]
            protect_database: false,
            #[cfg(feature = "repair")]
            scrub: None,
            #[cfg(feature = "repair")]
            repair_on: None,
            log_io: LogIo::Auto,
            vfs: Arc::new(UnixVfs::new()),
        }
    }

    /// What the pages of a new database are; an existing one must be of this kind. Default: Raw for a new
    /// database, and whatever an existing one is.
    #[must_use]
    pub fn pages(mut self, pages: Pages) -> Self {
        self.pages = Some(pages);
        self
    }

    /// The page size of a new database; an existing one must have it. Default: 4096 for a new database, and
    /// whatever an existing one has.
    #[must_use]
    pub fn page_size(mut self, page_size: PageSize) -> Self {
        self.page_size = Some(page_size);
        self
    }

    /// Whether a missing database is created. Default: yes.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// How many commits may be on their way at once; clamped to 1..=65535. Writers beyond that wait.
    /// Default: 1024.
    #[must_use]
    pub fn capacity(mut self, commits: i64) -> Self {
        self.capacity = commits;
        self
    }

    /// How many commits one batch may hold, at least 1. Default: as many as may be on their way.
    #[must_use]
    pub fn batch_limit(mut self, commits: usize) -> Self {
        self.batch_limit = Some(commits);
        self
    }

    /// How many bytes of pages one batch may hold; a single commit may be larger. Default: 64 MiB.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// What to do if the log is damaged. Default: refuse to open, and change nothing.
    #[must_use]
    pub fn on_damage(mut self, on_damage: OnDamage) -> Self {
        self.on_damage = on_damage;
        self
    }

    /// Whether the writer of a log that walmend did not write synced every commit (SQLite with
    /// synchronous=FULL). Then commits behind a break count as acknowledged. Default: not known.
    #[must_use]
    pub fn writer_synced_every_commit(mut self, synced: bool) -> Self {
        self.synced_every_commit = synced;
        self
    }

    /// How long a checkpoint waits for snapshots to end. Default: 1 second.
    #[must_use]
    pub fn checkpoint_wait(mut self, wait: Duration) -> Self {
        self.checkpoint_wait = wait;
        self
    }

    /// The size of the log, in bytes, at which it is brought into the database file and begun anew, beside the
    /// commits; 0 for never. Live snapshots hold that up: [`Stats`](crate::Stats) says so, and a warning. Default:
    /// 64 MiB.
    #[must_use]
    pub fn checkpoint_at(mut self, bytes: u64) -> Self {
        self.checkpoint_at = bytes;
        self
    }

    /// The size of the log, in bytes, at which further commits are refused with
    /// [`Error::Busy`](crate::Error::Busy), until it is begun anew; those on their way still go in. Where it is below
    /// [`checkpoint_at`](Self::checkpoint_at), the log is checkpointed at the limit already. 0 for none. Default: 1 GiB.
    #[must_use]
    pub fn log_limit(mut self, bytes: u64) -> Self {
        self.log_limit = bytes;
        self
    }

    /// How long [`Txn::lock`](crate::Txn::lock) waits for a page that another transaction has. Default: 1 second.
    #[must_use]
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// How far ahead of its tail the log is filled with zeros, in bytes, so that a sync changes no metadata;
    /// 0 for not at all. Default: 1 MiB.
    #[must_use]
    pub fn preallocate(mut self, bytes: u64) -> Self {
        self.preallocate = bytes;
        self
    }

    /// Whether commits become repairable: in the background, parity of their frames is written to `<db>-wal-fec`.
    /// Default: yes. What a sidecar that is there can heal is healed either way.
    #[cfg(feature = "repair")]
    #[must_use]
    pub fn repair(mut self, repair: bool) -> Self {
        self.repair = repair;
        self
    }

    /// Whether the database file is protected as well: opening makes `<db>-fec`, or brings it up to date, which reads
    /// all of the database where it is missing or stale, and checkpoints keep it in step. Every page that is read from the
    /// database file is compared with its digest then, and a damaged one is healed. Default: no; a sidecar that is there
    /// and up to date is kept and used so either way.
    #[cfg(feature = "repair")]
    #[must_use]
    pub fn protect_database(mut self, protect: bool) -> Self {
        self.protect_database = protect;
        self
    }

    /// Scrubs the database file in the background, if it is protected: reads it from the device in pieces of 256 KiB, at
    /// this many bytes per second on average (at least 1), compares it with its sidecar, and heals what is damaged. `every`
    /// is the time from the end of a pass to the beginning of the next. Neither commits nor checkpoints wait for it. [`Stats::protection`](crate::Stats::protection) has the progress,
    /// [`Store::pause_scrub`](crate::Store::pause_scrub) holds it up. Default: no scrubbing.
    #[cfg(feature = "repair")]
    #[must_use]
    pub fn scrub(mut self, bytes_per_second: u64, every: Duration) -> Self {
        self.scrub = Some(crate::scrub::Pace {
            bytes_per_second: bytes_per_second.max(1),
            every,
        });
        self
    }

    /// The tokio runtime that repairs. Somebody has to drive it; it needs neither timers nor I/O. Shutting it down
    /// leaves commits durable and not repairable. Default: one of the store's own, on a thread of its own.
    #[cfg(feature = "repair")]
    #[must_use]
    pub fn repair_on(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.repair_on = Some(runtime);
        self
    }

    /// How the log is written: past the page cache or through it. Where the file system cannot do what is asked
    /// for, the cache is used; [`Stats::log_io`](crate::Stats::log_io) says what it came to. Default: whichever was
    /// measured to be faster, once for each file system and process.
    #[must_use]
    pub fn log_io(mut self, log_io: LogIo) -> Self {
        self.log_io = log_io;
        self
    }

    /// The file system. Default: the real one.
    #[must_use]
    pub fn vfs(mut self, vfs: Arc<dyn Vfs>) -> Self {
        self.vfs = vfs;
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("pages", &self.pages)
            .field("page_size", &self.page_size)
            .field("create", &self.create)
            .field("capacity", &self.capacity)
            .field("batch_limit", &self.batch_limit)
            .field("batch_bytes", &self.batch_bytes)
            .field("on_damage", &self.on_damage)
            .field("writer_synced_every_commit", &self.synced_every_commit)
            .field("checkpoint_wait", &self.checkpoint_wait)
            .field("checkpoint_at", &self.checkpoint_at)
            .field("log_limit", &self.log_limit)
            .field("lock_wait", &self.lock_wait)
            .field("preallocate", &self.preallocate)
            .field("log_io", &self.log_io)
            .finish_non_exhaustive()
    }
}
