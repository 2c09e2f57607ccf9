//! Generations: beginning one, ending one, and what has to be durable in between.
//!
//! The companion is always ahead of the log: the record of a generation is synced before the log's header
//! changes. A crash in between leaves a log whose salts the record names as the *previous* ones: all of its
//! frames are in the database by then, so recovery ignores it.

use super::{Shared, Tail, Visible};
use crate::checksum::{ByteOrder, Checksum};
use crate::companion::{Generation, Watermark};
use crate::format::WalHeader;
use crate::index::FrameIndex;
use std::sync::Arc;
use walmend_types::{CommitSeq, Error, PageSize, Result, Salts, SyncMode};

/// Commit numbers are reserved in blocks of this many, each with one sync.
pub(super) const SEQ_BLOCK: u64 = 1 << 20;
/// The smallest batch limit that is recorded, in frames: it spares most logs from ever raising it.
pub(super) const LARGEST_BATCH: u32 = 16;

impl Shared {
    /// Makes the log ready for a batch of `frames` frames, ending with commit `last_seq`: begins a generation
    /// where there is none, and raises what the generation record promises where that is needed.
    pub(super) fn prepare(&self, tail: &mut Tail, frames: u32, last_seq: CommitSeq) -> Result<WalHeader> {
        if tail.frames.checked_add(frames).is_none() {
            return Err(Error::Full {
                path: self.files.wal.clone(),
                offset: None,
            });
        }
        let header = match tail.header {
            Some(header) => header,
            None => self.begin_generation(tail)?,
        };
        let mut meta = self.meta.lock();
        let Some(mut record) = meta.companion.state().generation else {
            return Err(Error::Internal(
                "the log is open without a generation record".into(),
            ));
        };
        if frames > record.largest_batch || last_seq.0 > record.reserved_seq {
            record.largest_batch = record
                .largest_batch
                .max(frames.checked_next_power_of_two().unwrap_or(u32::MAX));
            record.reserved_seq = record.reserved_seq.max(last_seq.0 + SEQ_BLOCK);
            meta.companion.write_generation(record)?;
            self.sync_meta(&mut meta)?;
        }
        Ok(header)
    }

    /// Begins a generation: everything in the file so far, if anything, is in the database.
    pub(crate) fn begin_generation(&self, tail: &mut Tail) -> Result<WalHeader> {
        self.leave_generation(tail);
        let old = tail.salts_on_file;
        let random = self.vfs.random().to_be_bytes();
        let [a, b, c, d, e, f, g, h] = random;
        let salts = Salts {
            salt1: if old == Salts::default() {
                u32::from_be_bytes([a, b, c, d])
            } else {
                old.salt1.wrapping_add(1)
            },
            // Never all zeros, which stands for "no generation", nor what is there already.
            salt2: u32::from_be_bytes([e, f, g, h]) | 1,
        };
        let header = WalHeader {
            byte_order: ByteOrder::Little,
            page_size: self.page_size,
            checkpoint_seq: tail.checkpoint_seq,
            salts,
        };
        self.record_generation(tail, salts, header.checksum())?;
        self.wal.write_at(&header.encode(), 0)?;
        self.sync_wal(SyncMode::Data)?;
        tail.header = Some(header);
        tail.salts_on_file = salts;
        tail.frames_on_file = 0;
        tail.frames = 0;
        tail.checksum = header.checksum();
        tail.checkpoint_seq = tail.checkpoint_seq.wrapping_add(1);
        tail.allocated = self.wal.len()?;
        tail.fill_ahead = true;
        tail.last = None;
        self.renew_visible(Some(header));
        tracing::debug!(target: "walmend::wal::log", salt1 = salts.salt1, salt2 = salts.salt2, "generation begun");
        Ok(header)
    }

    /// Ends a generation: everything in the file is in the database, and the file becomes empty. The next log in it is
    /// number 0 again, as in a new file: a higher one proves that a log came before it.
    pub(crate) fn empty_log(&self, tail: &mut Tail) -> Result<()> {
        self.leave_generation(tail);
        tail.checkpoint_seq = 0;
        self.record_generation(tail, Salts::default(), Checksum::default())?;
        self.wal.truncate(0)?;
        self.sync_wal(SyncMode::Full)?;
        tail.frames_on_file = 0;
        tail.allocated = 0;
        Ok(())
    }

    /// From here on readers see the database alone, and the next append begins a generation of its own, also
    /// where the reset fails half-way: by then the companion may speak of another generation than the file
    /// holds, and what is appended to that one would be taken for a leftover.
    fn leave_generation(&self, tail: &mut Tail) {
        if tail.header.is_none() {
            return;
        }
        tail.header = None;
        tail.frames = 0;
        tail.checksum = Checksum::default();
        tail.last = None;
        self.renew_visible(None);
    }

    fn record_generation(&self, tail: &Tail, salts: Salts, checksum: Checksum) -> Result<()> {
        let (commit_seq, db_pages) = {
            let visible = self.visible.lock();
            (visible.commit_seq.0, visible.db_pages)
        };
        let mut meta = self.meta.lock();
        let reserved = meta
            .companion
            .state()
            .generation
            .map_or(0, |record| record.reserved_seq);
        meta.companion.write_generation(Generation {
            salts,
            previous: tail.salts_on_file,
            previous_frames: tail.frames_on_file,
            kind: self.kind,
            page_size: self.page_size.get(),
            checkpoint_seq: tail.checkpoint_seq,
            largest_batch: LARGEST_BATCH,
            reserved_seq: reserved.max(commit_seq + SEQ_BLOCK),
            base_seq: commit_seq,
        })?;
        let watermark = Watermark {
            salts,
            frame: 0,
            checksum,
            commit_seq,
            db_pages,
            tail: Vec::new(),
        };
        meta.companion.write_watermark(watermark)?;
        self.sync_meta(&mut meta)
    }

    fn renew_visible(&self, header: Option<WalHeader>) {
        let on_file = self.db.len().map(|len| pages_in(len, self.page_size));
        let mut visible = self.visible.lock();
        let visible: &mut Visible = &mut visible;
        visible.generation += 1;
        visible.header = header;
        visible.index = Arc::new(FrameIndex::new());
        visible.frames = 0;
        self.growth.set(0);
        visible.backfilled = 0;
        // Where the length cannot be had, what was known stays true.
        if visible.db_pages > 0 {
            visible.high_water = on_file.map_or(visible.high_water, |pages| pages.max(visible.db_pages));
        }
    }
}

/// Pages that a file of `bytes` bytes holds, a partial one included.
pub(super) fn pages_in(bytes: u64, page_size: PageSize) -> u32 {
    u32::try_from(bytes.div_ceil(page_size.get().into())).unwrap_or(u32::MAX)
}
