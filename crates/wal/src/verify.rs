//! Reading a database back and comparing it with what should be there.
//!
//! A read after a sync normally comes from the page cache and proves nothing, so this reads from the device
//! where the file system allows it, and says where the bytes came from.

use crate::digest::PageDigest;
use walmend_types::{Error, PageNumber, PageSize, Result};
use walmend_vfs::{ReadSource, VfsFile};

/// The most that one read asks for, in bytes. At least one page of any size.
const RUN_BYTES: usize = 1 << 20;

/// What a page of the database must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedPage {
    /// The page.
    pub page: PageNumber,
    /// The digest of all its bytes.
    pub digest: PageDigest,
}

/// Whether the pages are what they must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageVerdict {
    /// All of them are.
    Match,
    /// One is not; pages before it are.
    Mismatch {
        /// The first bad page, by its number.
        page: PageNumber,
        /// What it should have been.
        expected: PageDigest,
        /// What it is; `None` if the file ends before the page does.
        found: Option<PageDigest>,
    },
}

/// The result of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verification {
    /// Whether the pages are what they must be.
    pub verdict: PageVerdict,
    /// How many pages were compared; with a mismatch, the bad one is the last of them.
    pub pages: u32,
    /// [`ReadSource::Cache`] if any of the bytes may have come from a cache.
    pub source: ReadSource,
}

/// Compares pages of a database file with their digests, in the order of their numbers, up to the first that
/// differs. Pages that follow each other are read together, up to 1 MiB at a time.
///
/// A page that the file does not hold in full is a mismatch. Nothing expected is a match.
///
/// # Errors
/// [`Error::OutOfRange`] if a page would lie behind the largest file offset there is, before anything is read;
/// whatever the file says when reading fails.
pub fn verify_pages(
    file: &dyn VfsFile,
    page_size: PageSize,
    expected: &[ExpectedPage],
) -> Result<Verification> {
    let mut expected = expected.to_vec();
    expected.sort_by_key(|expected| expected.page);
    if let Some(last) = expected.last() {
        byte_offset(u64::from(last.page.get()), page_size.get().into())?;
    }

    let mut result = Verification {
        verdict: PageVerdict::Match,
        pages: 0,
        source: ReadSource::Device,
    };
    let mut buffer = Vec::new();
    let mut rest = expected.as_slice();
    while let Some(first) = rest.first() {
        let (run, behind) = rest.split_at(run_length(rest, page_size));
        rest = behind;
        let pages = run[run.len() - 1].page.get() - first.page.get() + 1;
        let offset = byte_offset(u64::from(first.page.get()) - 1, page_size.get().into())?;
        buffer.resize(pages as usize * page_size.as_usize(), 0);
        let read = file.read_from_device(&mut buffer, offset)?;
        if read.source == ReadSource::Cache {
            result.source = ReadSource::Cache;
        }
        for expected in run {
            let start = (expected.page.get() - first.page.get()) as usize * page_size.as_usize();
            let found = buffer[..read.bytes]
                .get(start..start + page_size.as_usize())
                .map(PageDigest::of);
            result.pages += 1;
            if found != Some(expected.digest) {
                result.verdict = PageVerdict::Mismatch {
                    page: expected.page,
                    expected: expected.digest,
                    found,
                };
                return Ok(result);
            }
        }
    }
    Ok(result)
}

/// How many of these pages, at least one, one read can take: each the same as the one before or its successor.
fn run_length(sorted: &[ExpectedPage], page_size: PageSize) -> usize {
    let most = (RUN_BYTES / page_size.as_usize()) as u32;
    let first = sorted[0].page.get();
    let followers = sorted
        .windows(2)
        .take_while(|pair| pair[1].page.get() - pair[0].page.get() <= 1 && pair[1].page.get() - first < most)
        .count();
    1 + followers
}

/// Where the bytes behind this many pages start. Offsets are signed 64-bit numbers to the system, so
/// that is the limit; page numbers and sizes as SQLite has them stay far below it.
pub(crate) fn byte_offset(pages: u64, page_size: u64) -> Result<u64> {
    pages
        .checked_mul(page_size)
        .filter(|&offset| i64::try_from(offset).is_ok())
        .ok_or_else(|| Error::OutOfRange {
            what: "page",
            value: pages,
            expected: format!(
                "at a page size of {page_size}, offsets reach {} pages",
                i64::MAX as u64 / page_size
            ),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use walmend_types::ErrorKind;

    #[test]
    fn an_offset_beyond_the_signed_range_is_out_of_range() {
        assert_eq!(byte_offset(3, 4096).unwrap(), 12288);
        assert_eq!(byte_offset((1 << 47) - 1, 65536).unwrap(), (1 << 63) - 65536);
        for pages in [1 << 47, 1 << 48, u64::MAX] {
            let error = byte_offset(pages, 65536).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange, "{pages}");
        }
    }

    #[test]
    fn a_run_takes_pages_without_a_gap_up_to_a_mebibyte() {
        let run = |pages: &[u32], size: u32| {
            let expected: Vec<ExpectedPage> = pages
                .iter()
                .map(|&page| ExpectedPage {
                    page: PageNumber::new(page).unwrap(),
                    digest: PageDigest::of(&[]),
                })
                .collect();
            run_length(&expected, PageSize::new(size).unwrap())
        };
        assert_eq!(run(&[9], 512), 1);
        assert_eq!(run(&[1, 2, 2, 3, 5, 6], 512), 4);
        assert_eq!(run(&(1..=40).collect::<Vec<_>>(), 65536), 16);
        assert_eq!(run(&(7..=3000).collect::<Vec<_>>(), 512), 2048);
        assert_eq!(run(&[u32::MAX - 1, u32::MAX], 4096), 2);
    }
}
