//! What every file system here refuses in the same way, before anything is touched.

use crate::{LockRange, OpenFlags};
use std::path::Path;
use walmend_types::{Error, Result};

/// The largest offset that a file can have; system calls take it as a signed number.
pub(crate) const MAX_OFFSET: u64 = i64::MAX as u64;

/// Files that are kept in memory can grow to this many bytes; then the "disk" is full.
pub(crate) const MAX_KEPT: u64 = 1 << 33;

/// The end of `len` bytes at `offset`, which must be an offset too.
pub(crate) fn end_of(offset: u64, len: u64) -> Result<u64> {
    match offset.checked_add(len) {
        Some(end) if end <= MAX_OFFSET => Ok(end),
        _ => Err(Error::OutOfRange {
            what: "offset",
            value: offset,
            expected: format!("{len} bytes from there must end at {MAX_OFFSET} or before"),
        }),
    }
}

/// The end of a lock range. A length of 0 would mean "to the end of the file" to the system, and is refused.
pub(crate) fn lock_end(range: LockRange) -> Result<u64> {
    if range.len == 0 {
        return Err(Error::Invalid("a lock covers at least one byte".into()));
    }
    end_of(range.start, range.len)
}

/// Refuses flags that contradict each other.
pub(crate) fn open_flags(path: &Path, flags: OpenFlags) -> Result<()> {
    if flags.exclusive && !flags.create {
        return Err(Error::Invalid(format!(
            "{} cannot be opened: a file that must not exist yet has to be created",
            path.display()
        )));
    }
    Ok(())
}

/// Refuses what needs write access on a file that was opened without.
pub(crate) fn writable(path: &Path, flags: OpenFlags) -> Result<()> {
    if flags.write {
        return Ok(());
    }
    Err(Error::ReadOnly {
        path: path.to_path_buf(),
    })
}

/// Refuses a range whose end lies before its start.
pub(crate) fn ordered(start: u64, end: u64) -> Result<()> {
    end_of(end, 0)?;
    if start <= end {
        return Ok(());
    }
    Err(Error::OutOfRange {
        what: "start",
        value: start,
        expected: format!("at most the end of the range, {end}"),
    })
}

/// Whether a direct write is of whole blocks, from aligned memory.
#[cfg(feature = "sim")]
pub(crate) fn aligned(blocks: &[u8], offset: u64) -> bool {
    use crate::DIRECT_BLOCK;
    blocks.as_ptr().align_offset(DIRECT_BLOCK) == 0
        && blocks.len().is_multiple_of(DIRECT_BLOCK)
        && offset.is_multiple_of(DIRECT_BLOCK as u64)
}
