//! Records, of which both sidecars are made: a head of 64 bytes that says all that is needed to read the record,
//! and a body. `docs/wal-fec-format.md` has the ruler.

use xxhash_rust::xxh3::xxh3_64;

/// Records start at multiples of this many bytes, so that a reader finds the next one behind damage.
pub(crate) const ALIGN: u64 = 64;
/// Bytes of a record's head.
pub(crate) const HEAD: usize = 64;

/// What tells the records of one file format from those of every other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u16,
    /// The longest body there is.
    pub(crate) max_body: usize,
}

/// The head of a record. What kinds there are is up to the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) kind: u8,
    pub(crate) index: u8,
    pub(crate) id: [u8; 16],
    pub(crate) body_len: usize,
    body_sum: u64,
}

/// What 64 bytes are that might be the head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordState {
    /// No record begins here.
    None,
    /// One of another version of the format.
    OtherVersion(u16),
    /// One of ours.
    Ok(RecordHead),
}

impl RecordHead {
    /// Reads the head of the record that begins at `offset` of the file.
    pub(crate) fn decode(format: &Format, bytes: &[u8; HEAD], offset: u64) -> RecordState {
        let sound = bytes[..4] == format.magic
            && u64_at(bytes, 56) == xxh3_64(&bytes[..56])
            && u64_at(bytes, 8) == offset;
        if !sound {
            return RecordState::None;
        }
        let version = u16::from_be_bytes([bytes[4], bytes[5]]);
        if version != format.version {
            return RecordState::OtherVersion(version);
        }
        let body_len = u32::from_be_bytes(array(&bytes[32..36])) as usize;
        if body_len > format.max_body {
            return RecordState::None;
        }
        RecordState::Ok(Self {
            kind: bytes[6],
            index: bytes[7],
            id: array(&bytes[16..32]),
            body_len,
            body_sum: u64_at(bytes, 40),
        })
    }

    /// Whether this is the body that was written.
    pub(crate) fn matches(&self, body: &[u8]) -> bool {
        body.len() == self.body_len && xxh3_64(body) == self.body_sum
    }
}

/// Bytes of a record with a body of `body_len` bytes, the padding included.
pub(crate) const fn record_len(body_len: usize) -> u64 {
    (HEAD as u64 + body_len as u64).next_multiple_of(ALIGN)
}

/// Appends a record to `out`, the first byte of which is at `base` of the file.
pub(crate) fn put_record(
    out: &mut Vec<u8>,
    base: u64,
    format: &Format,
    (kind, index): (u8, u8),
    id: [u8; 16],
    body: &[u8],
) {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&format.magic);
    head[4..6].copy_from_slice(&format.version.to_be_bytes());
    (head[6], head[7]) = (kind, index);
    head[8..16].copy_from_slice(&(base + out.len() as u64).to_be_bytes());
    head[16..32].copy_from_slice(&id);
    // A body is at most as long as the format allows, far below 2^32 bytes.
    head[32..36].copy_from_slice(&(body.len() as u32).to_be_bytes());
    head[40..48].copy_from_slice(&xxh3_64(body).to_be_bytes());
    let sum = xxh3_64(&head[..56]);
    head[56..].copy_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(ALIGN as usize), 0);
}

/// The first `N` bytes of a slice that has as many.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

fn u64_at(bytes: &[u8; HEAD], at: usize) -> u64 {
    u64::from_be_bytes(array(&bytes[at..at + 8]))
}
