//! The bytes of a log: header and frames, exactly as SQLite writes them.
//!
//! `docs/wal-format.md` has the rulers. The source is the SQLite file format description, section 4.

use crate::checksum::{ByteOrder, Checksum, Transition};
use walmend_types::{PageSize, Salts};

/// Bytes of the log's header.
pub const HEADER_SIZE: usize = 32;
/// Bytes of a frame's header.
pub const FRAME_HEADER_SIZE: usize = 24;
/// The only format version there is.
pub const FORMAT_VERSION: u32 = 3_007_000;

const MAGIC_LITTLE: u32 = 0x377f_0682;
const MAGIC_BIG: u32 = 0x377f_0683;

/// The decoded header of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    /// How the words are read for the checksum.
    pub byte_order: ByteOrder,
    /// The size of a page in bytes.
    pub page_size: PageSize,
    /// Grows by one at each reset within one process of SQLite's; says nothing across processes.
    pub checkpoint_seq: u32,
    /// What tells this generation of the log from others.
    pub salts: Salts,
}

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// The magic number, the page size or the checksum is wrong. SQLite ignores such a log.
    Invalid,
    /// The checksum is right, but the version is not known. SQLite refuses such a log.
    UnsupportedVersion(u32),
}

impl WalHeader {
    /// The 32 bytes.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let magic = match self.byte_order {
            ByteOrder::Little => MAGIC_LITTLE,
            ByteOrder::Big => MAGIC_BIG,
        };
        put(&mut bytes, 0, magic);
        put(&mut bytes, 4, FORMAT_VERSION);
        put(&mut bytes, 8, self.page_size.get());
        put(&mut bytes, 12, self.checkpoint_seq);
        put(&mut bytes, 16, self.salts.salt1);
        put(&mut bytes, 20, self.salts.salt2);
        let checksum = Checksum::default().extend(self.byte_order, &bytes[..24]);
        put(&mut bytes, 24, checksum.s0);
        put(&mut bytes, 28, checksum.s1);
        bytes
    }

    /// Reads the 32 bytes, checking in SQLite's order: magic and page size, checksum, version.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn decode(bytes: &[u8; HEADER_SIZE]) -> Result<Self, HeaderError> {
        let byte_order = match get(bytes, 0) {
            MAGIC_LITTLE => ByteOrder::Little,
            MAGIC_BIG => ByteOrder::Big,
            _ => return Err(HeaderError::Invalid),
        };
        let page_size = PageSize::new(get(bytes, 8)).map_err(|_| HeaderError::Invalid)?;
        let checksum = Checksum::default().extend(byte_order, &bytes[..24]);
        if checksum.pair() != (get(bytes, 24), get(bytes, 28)) {
            return Err(HeaderError::Invalid);
        }
        let version = get(bytes, 4);
        if version != FORMAT_VERSION {
            return Err(HeaderError::UnsupportedVersion(version));
        }
        let salts = Salts {
            salt1: get(bytes, 16),
            salt2: get(bytes, 20),
        };
        Ok(Self {
            byte_order,
            page_size,
            checkpoint_seq: get(bytes, 12),
            salts,
        })
    }

    /// The checksum that frame 1 goes on from.
    pub fn checksum(&self) -> Checksum {
        let bytes = self.encode();
        Checksum {
            s0: get(&bytes, 24),
            s1: get(&bytes, 28),
        }
    }
}

/// The decoded header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameHeader {
    /// The page that the frame holds; 0 in a frame that is not valid.
    pub page: u32,
    /// The size of the database in pages after this commit; 0 in a frame that does not end one.
    pub db_pages: u32,
    /// Must equal the log's.
    pub salts: Salts,
    /// The chain checksum after this frame. It covers the first 8 bytes of this header, and the page.
    pub checksum: Checksum,
}

impl FrameHeader {
    /// The 24 bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_SIZE] {
        let mut bytes = [0; FRAME_HEADER_SIZE];
        put(&mut bytes, 0, self.page);
        put(&mut bytes, 4, self.db_pages);
        put(&mut bytes, 8, self.salts.salt1);
        put(&mut bytes, 12, self.salts.salt2);
        put(&mut bytes, 16, self.checksum.s0);
        put(&mut bytes, 20, self.checksum.s1);
        bytes
    }

    /// Reads the 24 bytes.
    pub fn decode(bytes: &[u8; FRAME_HEADER_SIZE]) -> Self {
        Self {
            page: get(bytes, 0),
            db_pages: get(bytes, 4),
            salts: Salts {
                salt1: get(bytes, 8),
                salt2: get(bytes, 12),
            },
            checksum: Checksum {
                s0: get(bytes, 16),
                s1: get(bytes, 20),
            },
        }
    }

    /// The header of a frame for `data`, chained to the checksum `before` it.
    pub fn chained(log: &WalHeader, before: Checksum, page: u32, db_pages: u32, data: &[u8]) -> Self {
        let part = Checksum::part(log.byte_order, data);
        Self::chained_to_part(log, before, page, db_pages, &Transition::over(data.len()), part)
    }

    /// The header of a frame, chained to the checksum `before` it. `part` is the part of the page, `over_page` the
    /// transition over a page of this log.
    pub fn chained_to_part(
        log: &WalHeader,
        before: Checksum,
        page: u32,
        db_pages: u32,
        over_page: &Transition,
        part: Checksum,
    ) -> Self {
        let mut header = Self {
            page,
            db_pages,
            salts: log.salts,
            checksum: before,
        };
        let start = header.encode();
        let before_page = before.extend_serial(log.byte_order, &start[..8]);
        header.checksum = over_page.combine(before_page, part);
        header
    }
}

/// Bytes of a whole frame.
pub const fn frame_size(page_size: PageSize) -> u64 {
    FRAME_HEADER_SIZE as u64 + page_size.get() as u64
}

/// Where frame `frame` (from 1) starts in the log, in bytes. For frame 0 the start of the header.
pub const fn frame_offset(frame: u32, page_size: PageSize) -> u64 {
    match frame {
        0 => 0,
        _ => HEADER_SIZE as u64 + (frame as u64 - 1) * frame_size(page_size),
    }
}

/// Whole frames that fit into a log of `len` bytes.
pub const fn slots(len: u64, page_size: PageSize) -> u64 {
    len.saturating_sub(HEADER_SIZE as u64) / frame_size(page_size)
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn get(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = WalHeader> {
        (any::<bool>(), 9u32..=16, any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
            |(little, shift, checkpoint_seq, salt1, salt2)| WalHeader {
                byte_order: if little { ByteOrder::Little } else { ByteOrder::Big },
                page_size: PageSize::new(1 << shift).unwrap(),
                checkpoint_seq,
                salts: Salts { salt1, salt2 },
            },
        )
    }

    proptest! {
        #[test]
        fn headers_of_every_page_size_and_byte_order_come_back(header in header()) {
            prop_assert_eq!(WalHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn one_flipped_bit_in_a_header_is_noticed(header in header(), bit in 0usize..256) {
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // A flipped magic may name the other byte order, whose checksum then differs.
            prop_assert_eq!(WalHeader::decode(&bytes), Err(HeaderError::Invalid));
        }

        #[test]
        fn any_bytes_decode_without_a_panic(bytes in any::<[u8; 32]>(), frame in any::<[u8; 24]>()) {
            let _ = WalHeader::decode(&bytes);
            prop_assert_eq!(FrameHeader::decode(&frame).encode(), frame);
        }
    }

    #[test]
    fn an_unknown_version_with_a_right_checksum_is_told_apart() {
        let header = WalHeader {
            byte_order: ByteOrder::Little,
            page_size: PageSize::DEFAULT,
            checkpoint_seq: 0,
            salts: Salts { salt1: 1, salt2: 2 },
        };
        let mut bytes = header.encode();
        put(&mut bytes, 4, 3_007_001);
        assert_eq!(WalHeader::decode(&bytes), Err(HeaderError::Invalid));
        let checksum = Checksum::default().extend(ByteOrder::Little, &bytes[..24]);
        put(&mut bytes, 24, checksum.s0);
        put(&mut bytes, 28, checksum.s1);
        assert_eq!(
            WalHeader::decode(&bytes),
            Err(HeaderError::UnsupportedVersion(3_007_001))
        );
    }

    #[test]
    fn frames_follow_the_header_without_a_gap() {
        assert_eq!(frame_offset(1, PageSize::DEFAULT), 32);
        assert_eq!(frame_offset(2, PageSize::DEFAULT), 32 + 4120);
        assert_eq!(slots(32 + 4120 * 2 - 1, PageSize::DEFAULT), 1);
        assert_eq!(slots(10, PageSize::DEFAULT), 0);
    }
}
