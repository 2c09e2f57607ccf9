//! Erasure codes: K source shards, R parity shards, and any K of the K + R bring back the rest.
//!
//! A codec trusts what it is given. One wrong survivor makes a wrong result *without an error*, so that callers
//! check every input and every output by digest.

mod reed_solomon;

pub use reed_solomon::ReedSolomon;

use std::fmt;
use walmend_types::Result;

/// Shards are a multiple of this many bytes long: across the versions of the library only such shards keep
/// their parity.
pub const SHARD_ALIGN: usize = 64;

/// The length in bytes of the shard that holds `len` bytes, the rest of it zeros.
pub const fn shard_len(len: usize) -> usize {
    len.next_multiple_of(SHARD_ALIGN)
}

/// A systematic erasure code: the sources stay as they are, and parity shards are added to them. It is linear: the parity of
/// the XOR of two sets of sources is the XOR of their parities. Protecting a database that changes rests on that.
///
/// ```
/// use walmend_repair::{Codec, ReedSolomon};
///
/// let sources = [[1; 64], [2; 64], [3; 64]];
/// let sources: Vec<&[u8]> = sources.iter().map(|shard| &shard[..]).collect();
/// let parity = ReedSolomon.encode(&sources, 2)?;
///
/// let left = [None, Some(sources[1]), None];
/// let parity: Vec<_> = parity.iter().map(|shard| Some(&shard[..])).collect();
/// let rebuilt = ReedSolomon.rebuild(&left, &parity)?;
/// assert_eq!(rebuilt, [(0, vec![1; 64]), (2, vec![3; 64])]);
/// # Ok::<(), walmend_types::Error>(())
/// ```
pub trait Codec: fmt::Debug + Send + Sync {
    /// Makes `parity` shards from all sources, which have one length, a multiple of [`SHARD_ALIGN`] bytes and
    /// not 0.
    ///
    /// # Errors
    /// [`Error::Invalid`](walmend_types::Error::Invalid) for shards of other lengths, for none at all, and for
    /// more than the code can do.
    fn encode(&self, sources: &[&[u8]], parity: usize) -> Result<Vec<Vec<u8>>>;

    /// Rebuilds the sources that are `None`, ascending by their index, from what is left. Both slices are as
    /// long as they were when the parity was made.
    ///
    /// # Errors
    /// [`Error::Invalid`](walmend_types::Error::Invalid) if more sources are missing than parity shards are
    /// left, and as for [`encode`](Self::encode).
    fn rebuild(&self, sources: &[Option<&[u8]>], parity: &[Option<&[u8]>]) -> Result<Vec<(usize, Vec<u8>)>>;

    /// Does now what the first use would have to do: building tables.
    fn warm(&self);
}
