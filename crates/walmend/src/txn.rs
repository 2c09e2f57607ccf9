//! A transaction: pages read and written at a snapshot, then committed together.

use crate::identify::{MARKER_MAGIC, SQLITE_MAGIC};
use crate::options::Pages;
use crate::page_locks::HeldLocks;
use crate::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use walmend_commit::{Reserve, Ticket};
use walmend_sync::Mutex;
use walmend_types::{
    CommitOutcome, CommitRequest, CommitSeq, Error, PageImage, PageNumber, PagePayload, PageSize, ReadSet,
    Result, TxnId, WriteSet,
};
use walmend_wal::{ByteOrder, Checksum, ReadMark};

/// What a commit carries through the pipeline. The snapshot stays alive until the writer has its answer:
/// until then nothing that it could conflict with may be forgotten.
#[derive(Debug)]
pub(crate) struct Payload {
    images: Vec<PageImage>,
    _snapshot: Arc<ReadMark>,
    /// Released with the request: once the commit is visible, or has failed.
    _locks: HeldLocks,
}

impl PagePayload for Payload {
    fn images(&self) -> &[PageImage] {
        &self.images
    }
}

/// Pages that one commit writes as zeros where the database grows over what it had cut off.
const MOST_COVERED: u32 = 1 << 16;

/// SQLite's limit on the size of a database, in pages.
const MOST_PAGES: u32 = 4_294_967_294;

fn check_size(pages: u32) -> Result<()> {
    if pages <= MOST_PAGES {
        return Ok(());
    }
    Err(Error::OutOfRange {
        what: "page",
        value: pages.into(),
        expected: format!("a database has at most {MOST_PAGES} pages"),
    })
}

/// A transaction. It sees the database as it was when it began, and its own writes. Dropping it forgets them.
#[derive(Debug)]
pub struct Txn {
    id: TxnId,
    snapshot: Snapshot,
    writes: BTreeMap<PageNumber, Arc<[u8]>>,
    db_pages: Option<u32>,
    locks: HeldLocks,
    /// What it read of its snapshot, if it is serializable.
    reads: Option<Mutex<Reads>>,
}

/// What is validated at the commit of a serializable transaction.
#[derive(Debug, Default)]
struct Reads {
    pages: BTreeSet<PageNumber>,
    size: bool,
}

impl Txn {
    pub(crate) fn new(id: TxnId, snapshot: Snapshot, locks: HeldLocks) -> Self {
        Self {
            id,
            snapshot,
            writes: BTreeMap::new(),
            db_pages: None,
            locks,
            reads: None,
        }
    }

    /// Makes it serializable; see [`Store::begin_serializable`](crate::Store::begin_serializable).
    pub(crate) fn serializable(mut self) -> Self {
        self.reads = Some(Mutex::default());
        self
    }

    /// Takes down that a page of the snapshot was read, or with `None` the size of the database.
    fn note_read(&self, page: Option<PageNumber>) {
        if let Some(reads) = &self.reads {
            let mut reads = reads.lock();
            match page {
                Some(page) => drop(reads.pages.insert(page)),
                None => reads.size = true,
            }
        }
    }

    /// Its number, by which a conflict names it; unique while the store is open.
    pub fn id(&self) -> TxnId {
        self.id
    }

    /// The last commit that it sees.
    pub fn snapshot_seq(&self) -> CommitSeq {
        self.snapshot.commit_seq()
    }

    /// The size of the database, in pages, as this transaction would leave it if nothing else commits.
    pub fn db_pages(&self) -> u32 {
        self.note_read(None);
        self.size()
    }

    fn size(&self) -> u32 {
        let highest = self.writes.last_key_value().map_or(0, |(page, _)| page.get());
        self.db_pages.unwrap_or(self.snapshot.db_pages().max(highest))
    }

    /// Reads a page: this transaction's own write, or else the snapshot's.
    ///
    /// # Errors
    /// As [`Snapshot::read`].
    pub fn read(&self, page: PageNumber) -> Result<Vec<u8>> {
        let size = self.size();
        if page.get() > size {
            self.note_read(None);
            return Err(Error::OutOfRange {
                what: "page",
                value: page.get().into(),
                expected: format!("the database has {size} pages"),
            });
        }
        if let Some(own) = self.writes.get(&page) {
            self.snapshot.store.usage.check_open()?;
            return Ok(own.to_vec());
        }
        self.note_read(Some(page));
        if page.get() > self.snapshot.db_pages() {
            return Ok(vec![0; self.page_size().as_usize()]);
        }
        self.snapshot.read(page)
    }

    /// Writes a whole page. Nothing reaches the log before the commit.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an image that is not exactly one page, for the page that holds SQLite's lock
    /// bytes, and for a page 1 that does not fit the database's kind; [`Error::OutOfRange`] for a page behind
    /// SQLite's limit of 4294967294.
    pub fn write(&mut self, page: PageNumber, image: impl Into<Arc<[u8]>>) -> Result<()> {
        let image = image.into();
        let page_size = self.page_size();
        if image.len() != page_size.as_usize() {
            return Err(Error::Invalid(format!(
                "page {page} was given {} bytes, but pages of this database have {page_size}",
                image.len()
            )));
        }
        if page.get() == page_size.lock_page() {
            return Err(Error::Invalid(format!(
                "page {page} cannot be written: it holds the lock bytes of SQLite"
            )));
        }
        if page == PageNumber::ONE {
            check_page_1(self.snapshot.store.pages, page_size, &image)?;
        }
        check_size(page.get())?;
        self.writes.insert(page, image);
        Ok(())
    }

    /// Locks a page, waiting up to [`Options::lock_wait`](crate::Options::lock_wait) for whoever has it. The lock is
    /// held until this transaction has committed or failed, or is dropped. It binds only transactions that lock;
    /// one that writes the page without a lock is still met at commit.
    ///
    /// Where the page was committed to since this transaction's snapshot it could only conflict:
    /// [`Store::begin_locked`](crate::Store::begin_locked) locks first, and then takes the snapshot.
    ///
    /// # Errors
    /// [`Error::PageLocked`] when the wait is over, or would never end; [`Error::Locked`] if a living process has
    /// registered the page in [`Store::lock_registry`](crate::Store::lock_registry); [`Error::StaleSnapshot`]:
    /// the lock is held then, but this transaction is of no use; [`Error::Closed`].
    pub fn lock(&mut self, page: PageNumber) -> Result<()> {
        self.lock_for(page, self.snapshot.store.lock_wait)
    }

    /// Like [`lock`](Self::lock), without waiting; answers whether the lock is held.
    ///
    /// # Errors
    /// As [`lock`](Self::lock), except for [`Error::PageLocked`].
    pub fn try_lock(&mut self, page: PageNumber) -> Result<bool> {
        match self.lock_for(page, Duration::ZERO) {
            Ok(()) => Ok(true),
            Err(Error::PageLocked { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Like [`lock`](Self::lock), waiting up to `budget`.
    ///
    /// # Errors
    /// As there.
    pub fn lock_for(&mut self, page: PageNumber, budget: Duration) -> Result<()> {
        self.snapshot.store.usage.check_open()?;
        self.locks.acquire(page, budget)?;
        if self.snapshot.mark.is_current(page) {
            return Ok(());
        }
        Err(Error::StaleSnapshot { page: page.get() })
    }

    /// Says the size of the database after this transaction, in pages; without it, the database grows to the
    /// highest page written and never shrinks. The commit conflicts if the size has changed since the
    /// snapshot.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for 0, and for more than SQLite's limit of 4294967294.
    pub fn set_db_pages(&mut self, pages: u32) -> Result<()> {
        PageNumber::new(pages)?;
        check_size(pages)?;
        self.db_pages = Some(pages);
        Ok(())
    }

    /// Commits, and waits until the answer is known: committed means durable. A transaction that wrote
    /// nothing has nothing to make durable: it answers with its snapshot's number at once.
    #[must_use = "only the outcome tells whether the transaction is durable"]
    pub fn commit(self) -> CommitOutcome {
        let (store, request) = match self.into_request() {
            Ok(parts) => parts,
            Err(outcome) => return outcome,
        };
        store.store.pipeline.commit(request)
    }

    /// Like [`commit`](Self::commit), without blocking the thread. Once the future has been polled past its
    /// place in the queue, dropping it does not take the commit back. Poll it to its end or drop it: a future
    /// that was given its place and is kept without being polled holds up every commit behind it.
    pub fn commit_async(self) -> CommitFuture {
        CommitFuture(match self.into_request() {
            Ok((store, request)) => Stage::start(store, request),
            Err(outcome) => Stage::Done(Some(outcome)),
        })
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> PageSize {
        self.snapshot.page_size()
    }

    fn write_set(&self) -> WriteSet {
        let writes = WriteSet::new(self.writes.keys().copied());
        match self.db_pages {
            Some(pages) => writes.with_db_pages(pages),
            None => writes,
        }
    }

    /// The request, or the outcome that needs none.
    fn into_request(mut self) -> Result<(Snapshot, CommitRequest<Payload>), CommitOutcome> {
        let refuse = |reason| CommitOutcome::NotCommitted { reason };
        self.snapshot.store.usage.check_open().map_err(refuse)?;
        if self.writes.is_empty() && self.db_pages.is_none() {
            return Err(CommitOutcome::Committed {
                wal_offset: 0,
                commit_seq: self.snapshot.commit_seq(),
            });
        }
        self.snapshot.store.checkpoints.check_room().map_err(refuse)?;
        self.check().map_err(refuse)?;
        self.cover_what_was_cut().map_err(refuse)?;
        let writes = self.write_set();
        let images = self
            .writes
            .into_iter()
            .map(|(page, data)| {
                // Here and not in the log: every writer has a core of its own, the log has one thread at a time.
                let part = |data: &[u8]| Checksum::part(ByteOrder::Little, data).pair();
                PageImage::new(page, data).with_checksum_part(part)
            })
            .collect();
        let payload = Payload {
            images,
            _snapshot: Arc::clone(&self.snapshot.mark),
            _locks: self.locks,
        };
        let bytes = payload.images.len() * self.snapshot.store.page_size.as_usize();
        let mut request =
            CommitRequest::new(self.id, self.snapshot.commit_seq(), writes, payload).with_bytes(bytes);
        if let Some(reads) = self.reads {
            let reads = reads.into_inner();
            let pages = ReadSet::new(reads.pages);
            request = request.with_reads(if reads.size { pages.with_size() } else { pages });
        }
        Ok((self.snapshot, request))
    }

    /// Where the database has shrunk before and now grows again, the log and the database file still hold what was
    /// cut off. Pages that this transaction lets come back without writing them must read as zeros, so it writes
    /// zeros.
    fn cover_what_was_cut(&mut self) -> Result<()> {
        let before = self.snapshot.db_pages();
        let last = self.size().min(self.snapshot.mark.high_water());
        if last <= before {
            return Ok(());
        }
        if last - before > MOST_COVERED {
            return Err(Error::Invalid(format!(
                "growing over {} pages that were cut off before takes a checkpoint first, which gives them up",
                last - before
            )));
        }
        let page_size = self.page_size();
        let zeros: Arc<[u8]> = vec![0; page_size.as_usize()].into();
        for number in (before + 1..=last).filter(|number| *number != page_size.lock_page()) {
            self.writes
                .entry(PageNumber::new(number)?)
                .or_insert_with(|| Arc::clone(&zeros));
        }
        Ok(())
    }

    /// What can be told before anything is sent.
    fn check(&self) -> Result<()> {
        let before = self.snapshot.db_pages();
        let after = self.size();
        if self.writes.is_empty() {
            return Err(Error::Invalid(
                "a change of the database's size must write at least one page".into(),
            ));
        }
        if let Some((last, _)) = self.writes.last_key_value()
            && last.get() > after
        {
            return Err(Error::Invalid(format!(
                "page {last} lies behind the size of {after} pages that was set"
            )));
        }
        if self.snapshot.store.pages == Pages::Raw {
            return Ok(());
        }
        // sqlite3 goes by the size in page 1: with a stale one it overwrites pages that it does not know.
        let stored = self.writes.get(&PageNumber::ONE).map(|page| header_size(page));
        match stored {
            Some(stored) if stored == after => Ok(()),
            None if before == after => Ok(()),
            Some(stored) => Err(Error::Invalid(format!(
                "page 1 says at offset 28 that the database has {stored} pages, but after this commit it has {after}"
            ))),
            None => Err(Error::Invalid(format!(
                "a commit that changes the size of an SQLite database from {before} to {after} pages must write \
                 page 1, with the new size at offset 28"
            ))),
        }
    }
}

fn header_size(page: &[u8]) -> u32 {
    u32::from_be_bytes([page[28], page[29], page[30], page[31]])
}

fn check_page_1(pages: Pages, page_size: PageSize, image: &[u8]) -> Result<()> {
    let invalid = |message: String| Err(Error::Invalid(message));
    match pages {
        Pages::Raw if image.starts_with(SQLITE_MAGIC) || image.starts_with(MARKER_MAGIC) => invalid(
            "page 1 of a raw database must not start like an SQLite database or like walmend's marker".into(),
        ),
        Pages::Raw => Ok(()),
        Pages::Sqlite if !image.starts_with(SQLITE_MAGIC) => {
            invalid("page 1 of an SQLite database must start with its header".into())
        }
        Pages::Sqlite => {
            let stored = match u16::from_be_bytes([image[16], image[17]]) {
                1 => PageSize::MAX.get(),
                stored => stored.into(),
            };
            if stored == page_size.get() {
                return Ok(());
            }
            invalid(format!(
                "page 1 says at offset 16 that pages have {stored} bytes, but here they have {page_size}"
            ))
        }
    }
}

/// The answer to [`Txn::commit_async`].
#[must_use = "a future does nothing unless polled"]
pub struct CommitFuture(Stage);

enum Stage {
    /// Waiting for a place in the queue.
    Reserving(Pin<Box<dyn Future<Output = Result<Ticket>> + Send>>),
    /// Waiting for the answer.
    Waiting(Ticket),
    Done(Option<CommitOutcome>),
}

impl Stage {
    fn start(snapshot: Snapshot, request: CommitRequest<Payload>) -> Self {
        let store = snapshot.store;
        Self::Reserving(Box::pin(async move {
            let reserve: Reserve<'_, Payload> = store.pipeline.sender()?.reserve_async();
            Ok(reserve.await?.send(request)?)
        }))
    }
}

impl Future for CommitFuture {
    type Output = CommitOutcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CommitOutcome> {
        loop {
            match &mut self.0 {
                Stage::Reserving(reserving) => match reserving.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(ticket)) => self.0 = Stage::Waiting(ticket),
                    Poll::Ready(Err(reason)) => {
                        self.0 = Stage::Done(None);
                        return Poll::Ready(CommitOutcome::NotCommitted { reason });
                    }
                },
                Stage::Waiting(ticket) => return Pin::new(ticket).poll(context),
                Stage::Done(outcome) => {
                    let again = || CommitOutcome::NotCommitted {
                        reason: Error::Closed { what: "this future" },
                    };
                    return Poll::Ready(outcome.take().unwrap_or_else(again));
                }
            }
        }
    }
}

impl std::fmt::Debug for CommitFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommitFuture").finish_non_exhaustive()
    }
}
