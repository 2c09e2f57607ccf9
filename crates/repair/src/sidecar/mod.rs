//! The sidecar of the log, `<db>-wal-fec`: parity for groups of frames, and what tells damage from change.
//!
//! [`GroupHeader`] describes a group, a [`SidecarWriter`] appends groups, and a [`SidecarIndex`] is what a
//! reader found. `docs/wal-fec-format.md` is the format.

mod group;
mod index;
mod record;
mod writer;

pub use group::GroupHeader;
pub(crate) use group::{chained, shard};
pub use index::{Group, SidecarIndex};
pub use record::{MAX_PARITY, MAX_SOURCES};
pub use writer::SidecarWriter;

use std::path::{Path, PathBuf};
use walmend_wal::{SIDECAR_SUFFIX, with_suffix};

/// The sidecar of the log of the database at `db`: `<db>-wal-fec`.
pub fn wal_sidecar_path(db: &Path) -> PathBuf {
    with_suffix(db, SIDECAR_SUFFIX)
}

/// How many parity shards a group of `sources` frames gets: an eighth, rounded up, and at least 2.
///
/// ```
/// use walmend_repair::parity_for;
///
/// assert_eq!([1, 16, 17, 100, 128].map(parity_for), [2, 2, 3, 13, 16]);
/// ```
pub const fn parity_for(sources: usize) -> usize {
    let eighth = sources.div_ceil(8);
    if eighth < 2 { 2 } else { eighth }
}
