//! The append half: one batch, one gathered write.

use super::sync::{LogMark, LogSync, PublishObserver};
use super::{LastAppend, LogIo, Shared, Tail};
use crate::checksum::{ByteOrder, Checksum, Transition};
use crate::companion::TAIL_PAGES;
use crate::format::{FRAME_HEADER_SIZE, FrameHeader, WalHeader, frame_offset};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;
use walmend_types::{
    Append, AppendFailure, BatchEntry, Error, OutcomeToken, PageImage, PageNumber, PagePayload, Result,
    SyncMode, WalBatchWriter,
};
use walmend_vfs::DIRECT_BLOCK;

/// The append half of a log.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    observer: Option<Arc<dyn PublishObserver>>,
}

/// A batch as it is going to stand in the log.
struct Encoded<'a> {
    headers: Vec<[u8; FRAME_HEADER_SIZE]>,
    pages: Vec<&'a PageImage>,
    entries: Vec<(PageNumber, (u32, u32))>,
    offsets: Vec<u64>,
    tokens: Vec<OutcomeToken>,
    last: FrameHeader,
    db_pages: u32,
    /// The largest size of the database after any of the commits.
    largest_db: u32,
}

impl LogWriter {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            observer: None,
        }
    }

    /// Tells `observer` of each batch that this writer appends, once it is published.
    #[must_use]
    pub fn observed(mut self, observer: Arc<dyn PublishObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Checks what the format cannot hold, before anything is written.
    fn check<P: PagePayload>(&self, batch: &[BatchEntry<'_, P>]) -> Result<u32> {
        let page_size = self.shared.page_size;
        let mut frames: u64 = 0;
        for entry in batch {
            let images = entry.request.payload.images();
            if images.is_empty() {
                return Err(Error::Invalid("a commit must write at least one page".into()));
            }
            for image in images {
                if image.data().len() != page_size.as_usize() {
                    return Err(Error::Invalid(format!(
                        "page {} has {} bytes, but pages of this log have {page_size}",
                        image.page,
                        image.data().len()
                    )));
                }
                // A page that the write set does not name would be validated by nobody.
                if entry.request.writes.pages().binary_search(&image.page).is_err() {
                    return Err(Error::Invalid(format!(
                        "page {} is not in the write set of its commit",
                        image.page
                    )));
                }
                if image.page.get() == page_size.lock_page() {
                    return Err(Error::Invalid(format!(
                        "page {} cannot be written: it holds the lock bytes of SQLite",
                        image.page
                    )));
                }
            }
            frames += images.len() as u64;
        }
        u32::try_from(frames).map_err(|_| Error::OutOfRange {
            what: "batch size",
            value: frames,
            expected: "at most 2^32 - 1 frames".into(),
        })
    }

    fn encode<'a, P: PagePayload>(
        &self,
        batch: &'a [BatchEntry<'_, P>],
        frames: u32,
        log: &WalHeader,
        tail: &Tail,
    ) -> Result<Encoded<'a>> {
        let room = frames as usize;
        let mut encoded = Encoded {
            headers: Vec::with_capacity(room),
            pages: Vec::with_capacity(room),
            entries: Vec::with_capacity(room),
            offsets: Vec::with_capacity(batch.len()),
            tokens: Vec::with_capacity(batch.len()),
            last: FrameHeader {
                checksum: tail.checksum,
                ..FrameHeader::default()
            },
            db_pages: tail.db_pages,
            largest_db: 0,
        };
        let mut frame = tail.frames;
        let over_page = Transition::over(log.page_size.as_usize());
        for entry in batch {
            encoded.offsets.push(frame_offset(frame + 1, log.page_size));
            encoded.db_pages = entry.request.writes.size_after(encoded.db_pages);
            if encoded.db_pages == 0 {
                return Err(Error::Invalid("a database cannot have 0 pages".into()));
            }
            encoded.largest_db = encoded.largest_db.max(encoded.db_pages);
            let images = entry.request.payload.images();
            if let Some(image) = images.iter().find(|image| image.page.get() > encoded.db_pages) {
                return Err(Error::Invalid(format!(
                    "page {} lies behind the size of {} pages that the database has after its commit",
                    image.page, encoded.db_pages
                )));
            }
            for (place, image) in images.iter().enumerate() {
                // Only the last frame of a transaction says the size: that is what makes it a commit.
                let size = if place + 1 == images.len() {
                    encoded.db_pages
                } else {
                    0
                };
                let part = match image.checksum_part() {
                    Some(part) if log.byte_order == ByteOrder::Little => Checksum::from(part),
                    _ => Checksum::part(log.byte_order, image.data()),
                };
                debug_assert_eq!(part, Checksum::part(log.byte_order, image.data()));
                let before = encoded.last.checksum;
                let page = image.page.get();
                encoded.last = FrameHeader::chained_to_part(log, before, page, size, &over_page, part);
                encoded.headers.push(encoded.last.encode());
                encoded.pages.push(image);
                encoded.entries.push((image.page, encoded.last.checksum.pair()));
                frame += 1;
            }
            encoded.tokens.push(OutcomeToken {
                salts: log.salts,
                frame,
                checksum: encoded.last.checksum.pair(),
            });
        }
        Ok(encoded)
    }

    fn write(&self, tail: &mut Tail, encoded: &Encoded<'_>, offset: u64) -> Result<()> {
        let slices: Vec<IoSlice<'_>> = encoded
            .headers
            .iter()
            .zip(&encoded.pages)
            .flat_map(|(header, page)| [IoSlice::new(header), IoSlice::new(page.data())])
            .collect();
        // Behind the tail stands nothing that counts: zeros, or frames of earlier generations.
        self.shared.wal.append_gathered(&slices, offset)?;
        let end = offset + slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
        if end > tail.allocated {
            tail.allocated = end;
            self.fill_ahead(tail, end)?;
        }
        Ok(())
    }

    /// Zeros ahead of the tail, so that the syncs to come need not journal metadata.
    fn fill_ahead(&self, tail: &mut Tail, end: u64) -> Result<()> {
        let ahead = std::num::NonZeroU64::new(self.shared.preallocate).filter(|_| tail.fill_ahead);
        let Some(ahead) = ahead else {
            return Ok(());
        };
        let target = end.next_multiple_of(ahead.get());
        match self.shared.wal.preallocate(end, target) {
            Ok(()) => tail.allocated = target,
            // A nearly full disk may still hold the commits themselves, and the checkpoint that makes room again
            // needs what is left: give the zeros back, and try no more in this generation.
            Err(Error::Full { .. }) => {
                tail.fill_ahead = false;
                let keep = match self.shared.log_io {
                    LogIo::Direct => end.next_multiple_of(DIRECT_BLOCK as u64),
                    _ => end,
                };
                self.shared.wal.truncate(keep)?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl<P: PagePayload> WalBatchWriter<P> for LogWriter {
    type Mark = LogMark;
    type Sync = LogSync;

    fn sync_half(&self) -> LogSync {
        LogSync::new(Arc::clone(&self.shared), self.observer.clone())
    }

    fn append_batch(&mut self, batch: &[BatchEntry<'_, P>]) -> Result<Append<LogMark>, AppendFailure> {
        let begun = Instant::now();
        let mut tail = self.shared.tail.lock();
        if tail.last.is_some_and(|last| last.failed) {
            return Err(
                Error::Internal("a failed append was not discarded before the next one".into()).into(),
            );
        }
        // Before anything can fail: until frames are about to be written there is nothing to discard, least
        // of all the append before this one, which has been acknowledged by now.
        tail.last = None;
        self.shared.poison.check()?;
        let frames = self.check(batch)?;
        let Some(last_entry) = batch.last() else {
            return Err(Error::Internal("an empty batch was appended".into()).into());
        };
        let log = self.shared.prepare(&mut tail, frames, last_entry.commit_seq)?;
        let encoded = self.encode(batch, frames, &log, &tail)?;
        let first = tail.frames + 1;
        let offset = frame_offset(first, log.page_size);
        let before = LastAppend {
            first,
            last: tail.frames + frames,
            failed: true,
            frames: tail.frames,
            checksum: tail.checksum,
            db_pages: tail.db_pages,
        };
        tail.last = Some(before);
        if let Err(error) = self.write(&mut tail, &encoded, offset) {
            tracing::warn!(target: "walmend::wal::log", %error, first, frames, "append failed");
            return Err(AppendFailure {
                error,
                tokens: encoded.tokens,
            });
        }
        tail.last = Some(LastAppend {
            failed: false,
            ..before
        });
        tail.frames += frames;
        tail.frames_on_file = tail.frames;
        tail.checksum = encoded.last.checksum;
        tail.db_pages = encoded.db_pages;

        let mut newest: Vec<PageImage> = Vec::with_capacity(TAIL_PAGES);
        for image in encoded.pages.iter().rev() {
            if newest.len() == TAIL_PAGES {
                break;
            }
            if newest.iter().all(|kept| kept.page != image.page) {
                newest.push((*image).clone());
            }
        }
        let commits = batch.iter().zip(&encoded.tokens);
        let commits = commits.map(|(entry, token)| (entry.commit_seq, token.frame));
        let mark = LogMark {
            salts: log.salts,
            first,
            commits: commits.collect(),
            begun,
            entries: encoded.entries,
            checksum: tail.checksum,
            commit_seq: last_entry.commit_seq,
            db_pages: tail.db_pages,
            largest_db: encoded.largest_db,
            newest,
        };
        Ok(Append {
            offsets: encoded.offsets,
            tokens: encoded.tokens,
            mark,
        })
    }

    fn discard_append(&mut self) -> Result<()> {
        let mut tail = self.shared.tail.lock();
        let published = self.shared.visible.lock().frames;
        // What is published is not what failed.
        let Some(last) = tail.last.filter(|last| last.last > published) else {
            return Ok(());
        };
        let wal = &self.shared.wal;
        let len = wal.len()?;
        for frame in last.first..=last.last {
            let offset = frame_offset(frame, self.shared.page_size);
            if offset >= len {
                break;
            }
            // Never past the end: on a full disk that would need room that is not there.
            let bytes = usize::try_from(len - offset)
                .unwrap_or(usize::MAX)
                .min(FRAME_HEADER_SIZE);
            wal.write_at(&[0; FRAME_HEADER_SIZE][..bytes], offset)?;
        }
        self.shared.sync_wal(SyncMode::Data)?;
        tail.frames = last.frames;
        tail.frames_on_file = last.frames;
        tail.checksum = last.checksum;
        tail.db_pages = last.db_pages;
        tail.allocated = len;
        tail.last = None;
        tracing::info!(target: "walmend::wal::log", first = last.first, last = last.last, "failed append made harmless");
        Ok(())
    }

    fn idle(&mut self) -> Result<()> {
        let mut meta = self.shared.meta.lock();
        if meta.dirty {
            self.shared.sync_meta(&mut meta)
        } else {
            Ok(())
        }
    }
}
