//! The sync half: durable, recorded, visible.

use super::Shared;
use crate::checksum::Checksum;
use crate::companion::Watermark;
use crate::digest::PageDigest;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use walmend_types::{CommitSeq, FrameNumber, PageImage, PageNumber, Result, Salts, SyncMode, WalBatchSync};

/// What connects an append with its sync and its publication.
#[derive(Debug)]
pub struct LogMark {
    pub(super) salts: Salts,
    pub(super) first: u32,
    pub(super) entries: Vec<(PageNumber, (u32, u32))>,
    /// Each commit of the batch, and its last frame.
    pub(super) commits: Vec<(CommitSeq, u32)>,
    /// When the batch was about to be appended.
    pub(super) begun: Instant,
    pub(super) checksum: Checksum,
    pub(super) commit_seq: CommitSeq,
    pub(super) db_pages: u32,
    /// The largest size of the database after any commit of the batch.
    pub(super) largest_db: u32,
    /// The newest image of the last few pages, for the watermark.
    pub(super) newest: Vec<PageImage>,
}

impl LogMark {
    fn last(&self) -> u32 {
        self.first - 1 + u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }
}

/// A batch that has become durable and visible.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Published<'a> {
    /// The generation of the log, as [`LogStatus`](super::LogStatus) counts them.
    pub generation: u64,
    /// Its first frame.
    pub first: u32,
    /// Each commit, in order, and its last frame.
    pub commits: &'a [(CommitSeq, u32)],
    /// When it was about to be appended.
    pub begun: Instant,
    /// When it was known to be durable.
    pub durable: Instant,
}

/// Hears of each batch that has become durable and visible, in order.
pub trait PublishObserver: fmt::Debug + Send + Sync {
    /// Called on the committing thread, with no lock held, and before the writers of the batch have their
    /// answers: it must neither wait nor work for long.
    fn published(&self, batch: Published<'_>);
}

/// The sync half of a log. All clones are one.
#[derive(Debug, Clone)]
pub struct LogSync {
    shared: Arc<Shared>,
    observer: Option<Arc<dyn PublishObserver>>,
}

impl LogSync {
    pub(super) fn new(shared: Arc<Shared>, observer: Option<Arc<dyn PublishObserver>>) -> Self {
        Self { shared, observer }
    }

    fn record(&self, mark: &LogMark) -> Result<()> {
        let watermark = Watermark {
            salts: mark.salts,
            frame: mark.last(),
            checksum: mark.checksum,
            commit_seq: mark.commit_seq.0,
            db_pages: mark.db_pages,
            tail: mark
                .newest
                .iter()
                .map(|image| (image.page.get(), PageDigest::of(image.data())))
                .collect(),
        };
        let mut meta = self.shared.meta.lock();
        meta.companion.write_watermark(watermark)?;
        meta.dirty = true;
        if meta.synced_at.elapsed() >= self.shared.watermark_interval {
            self.shared.sync_meta(&mut meta)?;
        }
        Ok(())
    }
}

impl WalBatchSync<LogMark> for LogSync {
    fn sync(&self, mark: &LogMark) -> Result<()> {
        self.shared.poison.check()?;
        self.shared.sync_wal(SyncMode::Data)?;
        // Without its watermark a durable batch could later be taken for a torn tail: no acknowledgement.
        self.shared.poisoning(self.record(mark))
    }

    fn publish(&self, mark: LogMark) {
        let durable = Instant::now();
        // The index cannot be replaced meanwhile: a reset waits until everything appended is published.
        let index = Arc::clone(&self.shared.visible.lock().index);
        for (frame, (page, checksum)) in (mark.first..).zip(&mark.entries) {
            if self
                .shared
                .poisoning(index.insert(FrameNumber(frame), *page, *checksum))
                .is_err()
            {
                return;
            }
        }
        let mut visible = self.shared.visible.lock();
        visible.frames = mark.last();
        self.shared.growth.set(mark.last());
        visible.commit_seq = mark.commit_seq;
        visible.db_pages = mark.db_pages;
        visible.high_water = visible.high_water.max(mark.largest_db);
        let generation = visible.generation;
        let waited_for = visible.settling;
        drop(visible);
        if waited_for {
            self.shared.changed.notify_all();
        }
        self.shared.growth.wake(mark.last());
        if let Some(observer) = &self.observer {
            observer.published(Published {
                generation,
                first: mark.first,
                commits: &mark.commits,
                begun: mark.begun,
                durable,
            });
        }
    }
}
