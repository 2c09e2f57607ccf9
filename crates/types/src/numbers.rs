//! Numbers that must not be mixed up.

use std::fmt;
use std::num::NonZeroU32;
use walmend_error::{Error, Result};

/// The number of a page in the database file, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(NonZeroU32);

impl PageNumber {
    /// The first page.
    pub const ONE: Self = Self(NonZeroU32::MIN);

    /// Checks that the number is not 0.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for 0.
    pub fn new(number: u32) -> Result<Self> {
        NonZeroU32::new(number).map(Self).ok_or(Error::OutOfRange {
            what: "page",
            value: 0,
            expected: "pages count from 1".into(),
        })
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Where the page starts in the database file, in bytes.
    pub const fn offset(self, size: PageSize) -> u64 {
        (self.get() as u64 - 1) * size.get() as u64
    }
}

impl fmt::Display for PageNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of a page in bytes: a power of two from 512 to 65536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// 512 bytes.
    pub const MIN: Self = Self(512);
    /// 4096 bytes, the default.
    pub const DEFAULT: Self = Self(4096);
    /// 65536 bytes.
    pub const MAX: Self = Self(65536);

    /// Checks the size.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if it is no power of two from 512 to 65536.
    pub fn new(bytes: u32) -> Result<Self> {
        if bytes.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(Error::OutOfRange {
                what: "page size",
                value: bytes.into(),
                expected: "a power of two from 512 to 65536".into(),
            })
        }
    }

    /// In bytes.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// In bytes, for indexing.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// The page that holds SQLite's lock bytes (file offset 0x40000000): no page is ever stored there.
    pub const fn lock_page(self) -> u32 {
        0x4000_0000 / self.0 + 1
    }
}

impl Default for PageSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a frame in the log, from 1; 0 means "before the first frame".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FrameNumber(pub u32);

impl fmt::Display for FrameNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a commit, from 1, strictly increasing over the life of a database; 0 means "before the first".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CommitSeq(pub u64);

impl CommitSeq {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for CommitSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a transaction, chosen by its owner. It need not be unique; commit numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TxnId(pub u64);

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The two salts that tell one generation of a log from the next (SQLite WAL header, bytes 16..24).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Salts {
    /// Grows by one at each reset.
    pub salt1: u32,
    /// Random at each reset.
    pub salt2: u32,
}

/// What a sync has to make durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// The data, and as much metadata as is needed to read it back (fdatasync).
    Data,
    /// Data and all metadata (fsync).
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_powers_of_two_from_512_to_65536() {
        let valid: Vec<u32> = (0..=70_000)
            .filter(|&bytes| PageSize::new(bytes).is_ok())
            .collect();
        assert_eq!(valid, [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]);
    }

    #[test]
    fn the_lock_page_at_4_kib_is_262145() {
        assert_eq!(PageSize::DEFAULT.lock_page(), 262_145);
        assert_eq!(
            PageNumber::new(262_145).unwrap().offset(PageSize::DEFAULT),
            0x4000_0000
        );
    }

    #[test]
    fn page_0_is_refused() {
        assert!(PageNumber::new(0).is_err());
    }
}
