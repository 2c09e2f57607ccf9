//! Scrubbing the database of an open store, piece by piece.
//!
//! A piece is read from the device and compared with the digests in force while nothing is held: neither commits nor
//! checkpoints wait for it. Only what looks damaged is looked at again under the lock.

use super::live::DatabaseProtection;
use super::mend::LookAt;
use walmend_types::Result;

/// Bytes that are read in one go. So little that a sync of the log which comes in between does not wait for long.
pub(super) const PIECE: usize = 256 << 10;

/// What became of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scrubbed {
    /// It was compared.
    Piece {
        /// Where the next one begins: so many pages precede it.
        next: u32,
        /// Bytes of the database file that it has.
        bytes: u64,
        /// Pages that were damaged, and are again what they were; ascending.
        healed: Vec<u32>,
    },
    /// A page differs while a checkpoint is writing: to be tried again.
    Busy,
    /// The database ends before it.
    End,
    /// The sidecar is not in step with the database: nothing can be said.
    OutOfStep,
}

impl DatabaseProtection {
    /// Compares the database from behind the first `done` pages on with the sidecar, up to 256 KiB of it, as it is on the
    /// device, and heals what can be healed; the damaged pages are kept in a file beside the database. What cannot be
    /// healed is in [`lost`](Self::lost).
    ///
    /// # Errors
    /// I/O errors of reading.
    pub fn scrub(&self, done: u32) -> Result<Scrubbed> {
        let (layout, pages) = {
            let kept = self.kept.lock();
            if !kept.in_step {
                return Ok(Scrubbed::OutOfStep);
            }
            let pages = kept.sidecar.state.as_ref().map_or(0, |state| state.pages);
            (kept.sidecar.layout, pages)
        };
        if done >= pages {
            return Ok(Scrubbed::End);
        }
        // A page has at most 64 KiB.
        let count = (pages - done).min((PIECE / layout.page_size.as_usize()) as u32);
        let suspects = self.differing(done, count, LookAt::Device)?;
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        for found in [&mut kept.damaged, &mut kept.lost] {
            found.retain(|page| *page <= done || *page > done + count || suspects.contains(page));
        }
        let mut healed = Vec::new();
        if !suspects.is_empty() {
            if kept.prepared.is_some() {
                return Ok(Scrubbed::Busy);
            }
            let suspects = self.widen(kept, suspects, LookAt::Device)?;
            let found = self.damaged_among(kept, &suspects, LookAt::Device)?;
            healed = self.put_back(kept, &found.damaged);
        }
        Ok(Scrubbed::Piece {
            next: done + count,
            bytes: u64::from(count) * u64::from(layout.page_size.get()),
            healed,
        })
    }
}
