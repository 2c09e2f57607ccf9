//! One window of a database in memory.

use super::layout::Layout;
use super::members::Members;
use super::work::Work;
use std::ops::Range;
use walmend_types::{Error, Result};
use walmend_vfs::VfsFile;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes read in one go, and hashed while they are in the processor's cache.
const PIECE: usize = 1 << 20;

/// The pages of a window, as they are in the file. One is used for many windows in turn.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pub(crate) number: u32,
    bytes: Vec<u8>,
    /// Of the pages that the file has in full, `None` for those that cannot be read.
    digests: Vec<Option<u128>>,
    /// Why not.
    pub(crate) unreadable: Option<Error>,
    page_size: usize,
    /// For reading and writing stripes.
    pub(crate) scratch: Vec<u8>,
}

impl Window {
    /// Reads a window of a database of `pages` pages. The file may end earlier. Pages that the device does not give back
    /// are left out.
    ///
    /// # Errors
    /// What [`Work::done`] says.
    pub(crate) fn read(
        &mut self,
        db: &dyn VfsFile,
        layout: &Layout,
        number: u32,
        pages: u32,
        work: &Work<'_>,
    ) -> Result<()> {
        self.number = number;
        self.page_size = layout.page_size.as_usize();
        self.digests.clear();
        self.unreadable = None;
        let len = layout.pages_in(number, pages) as usize * self.page_size;
        self.bytes.resize(len, 0);
        let start = u64::from(number) * super::layout::WINDOW;
        let mut at = 0;
        while at < len {
            let end = (at + PIECE).min(len);
            let piece = &mut self.bytes[at..end];
            let wanted = piece.len();
            let read = match work.read(db, piece, start + at as u64) {
                Ok(read) => {
                    let whole = piece[..read].chunks_exact(self.page_size);
                    self.digests.extend(whole.map(|page| Some(xxh3_128(page))));
                    read
                }
                Err(_) => self.read_singly(db, at..end, start, work),
            };
            work.done(wanted as u64)?;
            if read < wanted {
                break;
            }
            at = end;
        }
        Ok(())
    }

    /// Reads a piece page by page, because some of it cannot be read. Answers how much of it the file has.
    fn read_singly(&mut self, db: &dyn VfsFile, piece: Range<usize>, start: u64, work: &Work<'_>) -> usize {
        let mut read = 0;
        for at in piece.step_by(self.page_size) {
            let page = &mut self.bytes[at..at + self.page_size];
            let digest = match work.read(db, page, start + at as u64) {
                Ok(whole) if whole == page.len() => Some(xxh3_128(page)),
                Ok(part) => return read + part,
                Err(error) => {
                    self.unreadable = Some(error);
                    None
                }
            };
            self.digests.push(digest);
            read += self.page_size;
        }
        read
    }

    /// The pages of a stripe.
    pub(crate) fn members(&self, layout: &Layout, stripe: u32) -> Members<'_> {
        Members::new(|position| {
            let place = layout.place(stripe, position);
            let digest = self.digests.get(place).copied().flatten()?;
            let page = self
                .bytes
                .get(place * self.page_size..(place + 1) * self.page_size)?;
            Some((page, digest))
        })
    }
}
