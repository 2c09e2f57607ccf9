//! What each page holds at each version.
//!
//! All pages of a group go from one version to the next in one transaction. The content follows from seed,
//! page and version alone, so the parent knows what to look for without having seen the writes.

use super::random::Random;
use std::path::Path;
use std::sync::Arc;
use walmend::Pages;
use walmend_error::Result;
use walmend_types::{PageNumber, PageSize};
use walmend_vfs::{OpenFlags, UnixVfs, Vfs, VfsFile};

/// How often a group was committed; 0 for never.
pub(super) type Version = u32;

/// The version at which every page is what the source says.
pub(super) const FINAL: Version = Version::MAX;

/// Offsets in page 1 of an SQLite database: the change counter, and the counter for which the size is valid.
const COUNTERS: [usize; 2] = [24, 92];

#[derive(Debug, Clone)]
pub(super) struct Content {
    seed: u64,
    pages: Pages,
    page_size: PageSize,
    source: Arc<dyn VfsFile>,
}

impl Content {
    /// The content of a drill whose last version is the file `source`.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn new(seed: u64, pages: Pages, page_size: PageSize, source: &Path) -> Result<Self> {
        Ok(Self {
            seed,
            pages,
            page_size,
            source: UnixVfs::new().open(source, OpenFlags::READ)?,
        })
    }

    /// Page `page` at `version`.
    ///
    /// # Errors
    /// I/O errors of reading the source.
    pub(super) fn page(&self, page: u32, version: Version) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.page_size.as_usize()];
        let is_header = page == 1 && self.pages == Pages::Sqlite;
        match version {
            0 => {}
            _ if version == FINAL || is_header => {
                let offset = PageNumber::new(page)?.offset(self.page_size);
                self.source.read_exact_at(&mut bytes, offset)?;
                if version != FINAL {
                    // The header has to stay one; only the counters tell its versions apart.
                    for at in COUNTERS {
                        bytes[at..at + 4].copy_from_slice(&version.to_be_bytes());
                    }
                }
            }
            _ => fill(self.seed, page, version, &mut bytes),
        }
        Ok(bytes)
    }
}

/// Bytes that no other page and no other version has.
pub(super) fn fill(seed: u64, page: u32, version: Version, bytes: &mut [u8]) {
    Random::new(seed, (u64::from(page) << 32) | u64::from(version)).fill(bytes);
}
