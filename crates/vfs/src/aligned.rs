//! Memory as direct I/O wants it.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// What memory, offset and length of direct I/O are multiples of here, in bytes. It satisfies every device with
/// blocks of up to 4096 bytes, and a page of the cache is never written in part.
pub const DIRECT_BLOCK: usize = 4096;

/// Bytes that start at a multiple of [`DIRECT_BLOCK`] in memory, and are a multiple of it long.
///
/// A vector that is a block too large, and the aligned part of it: that needs no unsafe code, and is one slice.
pub struct AlignedBuf {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// Zeros, at least `len` of them.
    pub fn zeroed(len: usize) -> Self {
        let len = len.next_multiple_of(DIRECT_BLOCK);
        let bytes = vec![0; len + DIRECT_BLOCK];
        let start = bytes.as_ptr().align_offset(DIRECT_BLOCK);
        Self {
            bytes,
            // What cannot be aligned is refused by the system, not by a panic here.
            start: start.min(DIRECT_BLOCK),
            len,
        }
    }
}

impl fmt::Debug for AlignedBuf {
    /// Without the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// The block that holds the byte at `offset`: where it starts.
pub(crate) fn block_of(offset: u64) -> u64 {
    offset - offset % DIRECT_BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_aligned_whole_and_zero() {
        for len in [1, 511, 4096, 4097, 1 << 20] {
            let buf = AlignedBuf::zeroed(len);
            assert_eq!(buf.as_ptr().align_offset(DIRECT_BLOCK), 0);
            assert_eq!(buf.len(), len.next_multiple_of(DIRECT_BLOCK));
            assert!(buf.iter().all(|byte| *byte == 0));
        }
    }
}
