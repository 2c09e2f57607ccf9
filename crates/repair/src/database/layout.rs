//! Where everything lies in the sidecar of a database. `docs/db-fec-format.md` has the rulers.

use crate::record::{Format, record_len};
use walmend_types::PageSize;

/// Pages of a stripe.
pub(crate) const SOURCES: usize = 128;
/// Parity shards of a full stripe.
pub(crate) const PARITY: usize = 16;
/// Bytes of a window of the database, the pages of which are dealt out to its stripes in turn.
pub(crate) const WINDOW: u64 = 32 << 20;
/// Where the two copies of the header and the two states lie, each in a block of its own.
pub(crate) const HEADER_AT: [u64; 2] = [0, 3 * BLOCK];
pub(crate) const STATE_AT: [u64; 2] = [BLOCK, 2 * BLOCK];
/// Where the first window begins.
pub(crate) const WINDOWS_AT: u64 = 4 * BLOCK;

/// What is written apart shares no block: a torn write costs only itself.
pub(crate) const BLOCK: u64 = 4096;
/// The longest description of a stripe, as a record.
const DESCRIPTION: u64 = record_len(64 + SOURCES * 16);

/// The records of this file.
pub(crate) const FORMAT: Format = Format {
    magic: *b"WMdb",
    version: 1,
    max_body: 65536,
};

/// What the page size makes of the layout. Pages count from 1, everything else from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) page_size: PageSize,
}

/// One of the two places of a stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::A, Self::B];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl Layout {
    pub(crate) fn new(page_size: PageSize) -> Self {
        Self { page_size }
    }

    /// Stripes of a window: 4 (pages of 64 KiB) to 512.
    pub(crate) fn stripes(&self) -> u32 {
        (WINDOW / (SOURCES as u64 * u64::from(self.page_size.get()))) as u32
    }

    /// Pages of a window.
    pub(crate) fn window_pages(&self) -> u32 {
        self.stripes() * SOURCES as u32
    }

    /// How many windows so many pages take up.
    pub(crate) fn windows(&self, pages: u32) -> u32 {
        pages.div_ceil(self.window_pages())
    }

    /// How many pages of a window exist in a database of so many pages.
    pub(crate) fn pages_in(&self, window: u32, pages: u32) -> u32 {
        let before = u64::from(window) * u64::from(self.window_pages());
        u64::from(pages)
            .saturating_sub(before)
            .min(self.window_pages().into()) as u32
    }

    /// How many pages a stripe has in a database of so many pages.
    pub(crate) fn members(&self, window: u32, stripe: u32, pages: u32) -> usize {
        let here = self.pages_in(window, pages);
        here.saturating_sub(stripe).div_ceil(self.stripes()) as usize
    }

    /// Where in its window the page at `position` of a stripe is.
    pub(crate) fn place(&self, stripe: u32, position: usize) -> usize {
        position * self.stripes() as usize + stripe as usize
    }

    /// The number of that page.
    pub(crate) fn page(&self, window: u32, stripe: u32, position: usize) -> u32 {
        // A database has at most 2^32 - 1 pages.
        window * self.window_pages() + self.place(stripe, position) as u32 + 1
    }

    /// Window, stripe and position of a page.
    pub(crate) fn locate(&self, page: u32) -> (u32, u32, usize) {
        let (window, place) = ((page - 1) / self.window_pages(), (page - 1) % self.window_pages());
        (window, place % self.stripes(), (place / self.stripes()) as usize)
    }

    /// Where a page begins in the database file.
    pub(crate) fn page_at(&self, page: u32) -> u64 {
        u64::from(page - 1) * u64::from(self.page_size.get())
    }

    /// Bytes of the place of a stripe: its description, its parity, and its description again.
    pub(crate) fn slot_len(&self) -> u64 {
        (self.second_description() + DESCRIPTION).next_multiple_of(BLOCK)
    }

    /// Where in that place a parity shard has its record.
    pub(crate) fn parity_in_slot(&self, index: usize) -> u64 {
        DESCRIPTION + index as u64 * record_len(self.page_size.as_usize())
    }

    /// Where in that place the second description is.
    pub(crate) fn second_description(&self) -> u64 {
        self.parity_in_slot(PARITY)
    }

    /// Where the place of a stripe begins in the sidecar.
    pub(crate) fn slot_at(&self, window: u32, stripe: u32, side: Side) -> u64 {
        let region = u64::from(self.stripes()) * self.slot_len();
        let regions = u64::from(window) * 2 + u64::from(side == Side::B);
        WINDOWS_AT + regions * region + u64::from(stripe) * self.slot_len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(page_size: u32) -> Layout {
        Layout::new(PageSize::new(page_size).unwrap())
    }

    #[test]
    fn every_page_is_at_one_place_and_found_there() {
        for page_size in [512, 4096, 65536] {
            let layout = layout(page_size);
            assert_eq!(u64::from(layout.window_pages()) * u64::from(page_size), WINDOW);
            for page in (1..3 * layout.window_pages()).step_by(7) {
                let (window, stripe, position) = layout.locate(page);
                assert_eq!(layout.page(window, stripe, position), page);
                assert!(position < layout.members(window, stripe, page));
                assert_eq!(layout.members(window, stripe, page), position + 1);
            }
        }
    }

    #[test]
    fn the_places_of_stripes_do_not_overlap() {
        for page_size in [512, 4096, 65536] {
            let layout = layout(page_size);
            let mut places = Vec::new();
            for window in 0..2 {
                for stripe in 0..layout.stripes() {
                    places.extend(Side::BOTH.map(|side| layout.slot_at(window, stripe, side)));
                }
            }
            places.sort_unstable();
            assert_eq!(places[0], WINDOWS_AT);
            assert!(
                places
                    .windows(2)
                    .all(|pair| pair[1] - pair[0] == layout.slot_len())
            );
        }
    }

    #[test]
    fn members_add_up_to_the_pages_of_the_window() {
        let layout = layout(4096);
        for pages in [0, 1, 63, 64, 65, 8191, 8192, 8193, 20_000] {
            let windows = layout.windows(pages);
            let all: usize = (0..windows)
                .flat_map(|window| (0..64).map(move |stripe| (window, stripe)))
                .map(|(window, stripe)| layout.members(window, stripe, pages))
                .sum();
            assert_eq!(all, pages as usize);
        }
    }
}
