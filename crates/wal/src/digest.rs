//! Page digests: XXH3-128, over the whole page or, where the engine reserves room for it, in the page itself.
//!
//! The algorithm is XXH3 with 128 bits of output, seed 0 and the default secret
//! (<https://github.com/Cyan4973/xxHash>, `doc/xxhash_spec.md`). A digest is written in xxHash's canonical
//! form, which is big-endian. It finds every accident, and no forger: it is not a cryptographic hash.

use std::fmt;
use walmend_types::{Error, PageSize, Result};
use xxhash_rust::xxh3::xxh3_128;

/// How many bytes the trailer form takes at the end of a page.
pub const TRAILER_BYTES: usize = 16;

/// The XXH3-128 of a page, in the big-endian form that is stored.
///
/// ```
/// use walmend_wal::PageDigest;
///
/// let page = [7; 512];
/// assert_eq!(PageDigest::of(&page), PageDigest::of(&[7; 512]));
/// assert_ne!(PageDigest::of(&page), PageDigest::of(&[8; 512]));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageDigest(pub [u8; 16]);

impl PageDigest {
    /// The digest of all bytes of a page.
    pub fn of(page: &[u8]) -> Self {
        Self(xxh3_128(page).to_be_bytes())
    }
}

/// 32 hexadecimal digits, as `xxhsum -H2` prints them.
impl fmt::Display for PageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for PageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageDigest({self})")
    }
}

/// Stores the digest of a page in its last 16 bytes, over everything before them. The engine must have
/// reserved those bytes: they are overwritten.
///
/// # Errors
/// [`Error::OutOfRange`] if the length is no page size; the bytes are then untouched.
pub fn trailer_seal(page: &mut [u8]) -> Result<()> {
    let length = u32::try_from(page.len()).map_err(|_| Error::OutOfRange {
        what: "page size",
        value: page.len() as u64,
        expected: "a power of two from 512 to 65536".into(),
    })?;
    PageSize::new(length)?;
    let (body, trailer) = page.split_at_mut(page.len() - TRAILER_BYTES);
    trailer.copy_from_slice(&PageDigest::of(body).0);
    Ok(())
}

/// Whether the last 16 bytes of a page are the digest of everything before them. The page is always hashed;
/// what the trailer says is compared, never believed. A slice that is too short for a trailer has none.
pub fn trailer_check(page: &[u8]) -> bool {
    page.split_last_chunk::<TRAILER_BYTES>()
        .is_some_and(|(body, trailer)| PageDigest::of(body).0 == *trailer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that differ from position to position, so that an exchange of two of them shows.
    fn counted(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 + i / 256) as u8).collect()
    }

    #[test]
    fn digests_are_the_published_xxh3_128_in_canonical_form() {
        // The first is in xxHash's own test vectors; the others were made with its C implementation.
        assert_eq!(
            PageDigest::of(b"").to_string(),
            "99aa06d3014798d86001c324468d497f"
        );
        for (length, digest) in [
            (512, "0e37c29cc2fc33e816abf0502ba06baa"),
            (4096, "d993a1ab1ec875a6be855965eae8486b"),
            (65536, "fb24369bce00a66c4337fbce6c5dd9ed"),
        ] {
            assert_eq!(PageDigest::of(&counted(length)).to_string(), digest, "{length}");
        }
    }

    #[test]
    fn the_stored_bytes_read_from_left_to_right_like_the_hexadecimal_form() {
        let digest = PageDigest::of(b"");
        assert_eq!(digest.0[..4], [0x99, 0xaa, 0x06, 0xd3]);
        assert_eq!(digest.0[12..], [0x46, 0x8d, 0x49, 0x7f]);
    }

    #[test]
    fn a_sealed_page_ends_in_the_digest_of_what_precedes_it() {
        let mut page = counted(4096);
        trailer_seal(&mut page).unwrap();
        assert_eq!(page[..4080], counted(4096)[..4080]);
        // Made with xxHash's C implementation.
        let golden = 0x95ae_7111_2696_c175_b87a_2bec_2237_d4c0_u128;
        assert_eq!(page[4080..], golden.to_be_bytes());
        assert!(trailer_check(&page));
    }

    #[test]
    fn one_flipped_bit_anywhere_breaks_the_seal() {
        let mut page = counted(512);
        trailer_seal(&mut page).unwrap();
        for bit in 0..512 * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(!trailer_check(&page), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(trailer_check(&page));
    }

    #[test]
    fn what_is_no_page_cannot_be_sealed_and_has_no_seal() {
        for length in [0, 15, 16, 17, 511, 1000, 131_072] {
            let mut page = counted(length);
            assert!(trailer_seal(&mut page).is_err(), "{length}");
            assert_eq!(page, counted(length));
        }
        assert!(!trailer_check(&[]));
        assert!(!trailer_check(&[0; 15]));
        assert!(!trailer_check(&[0; 512]));
    }
}
