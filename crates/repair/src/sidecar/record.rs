//! One record of the sidecar, to and from bytes. `docs/wal-fec-format.md` has the rulers.

use super::GroupHeader;
use crate::record::{self, Format, RecordHead, RecordState, array};
use walmend_types::Salts;
use walmend_wal::{ByteOrder, Checksum};
use xxhash_rust::xxh3::xxh3_128;

pub(crate) use crate::record::{ALIGN, HEAD, record_len};

/// The longest body there is: the shard of a frame of 65536 bytes.
pub(crate) const MAX_BODY: usize = crate::codec::shard_len(65536 + 24);

const FORMAT: Format = Format {
    magic: *b"WMfc",
    version: 1,
    max_body: MAX_BODY,
};
const GROUP_FIXED: usize = 64;
const DIGEST: usize = 16;

/// Most frames in a group.
pub const MAX_SOURCES: usize = 128;
/// Most parity shards of a group.
pub const MAX_PARITY: usize = 16;

/// Tells one group from every other: the XXH3-128 of its description.
pub(crate) type GroupId = [u8; 16];

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The description of a group; the first or the second copy.
    Group(u8),
    /// A parity shard, by index.
    Parity(u8),
}

/// The head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    record: RecordHead,
}

/// What 64 bytes are that might be the head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadState {
    /// No record begins here.
    None,
    /// One of another version of the format.
    OtherVersion(u16),
    /// One of ours.
    Ok(Head),
}

impl Head {
    /// Reads the head of the record that begins at `offset` of the file.
    pub(crate) fn decode(bytes: &[u8; HEAD], offset: u64) -> HeadState {
        let record = match RecordHead::decode(&FORMAT, bytes, offset) {
            RecordState::None => return HeadState::None,
            RecordState::OtherVersion(version) => return HeadState::OtherVersion(version),
            RecordState::Ok(record) => record,
        };
        let kind = match (record.kind, record.index) {
            (1, copy @ 0..=1) => Kind::Group(copy),
            (2, index) if usize::from(index) < MAX_PARITY => Kind::Parity(index),
            _ => return HeadState::None,
        };
        HeadState::Ok(Self { kind, record })
    }

    /// The group that the record belongs to.
    pub(crate) fn group(&self) -> GroupId {
        self.record.id
    }

    /// Bytes of the body.
    pub(crate) fn body_len(&self) -> usize {
        self.record.body_len
    }

    /// Whether this is the body that was written.
    pub(crate) fn matches(&self, body: &[u8]) -> bool {
        self.record.matches(body)
    }

    /// Bytes of the whole record, the padding included.
    pub(crate) fn record_len(&self) -> u64 {
        record_len(self.record.body_len)
    }
}

/// Appends a record to `out`, the first byte of which is at `base` of the file.
pub(crate) fn put_record(out: &mut Vec<u8>, base: u64, kind: Kind, group: GroupId, body: &[u8]) {
    let kind = match kind {
        Kind::Group(copy) => (1, copy),
        Kind::Parity(index) => (2, index),
    };
    record::put_record(out, base, &FORMAT, kind, group, body);
}

/// The body of a group's record.
pub(crate) fn encode_group(group: &GroupHeader) -> Vec<u8> {
    let mut bytes = vec![0; GROUP_FIXED];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(0, group.salts.salt1);
    put(4, group.salts.salt2);
    put(8, group.first_frame);
    // At most MAX_SOURCES and MAX_PARITY.
    put(12, (group.digests.len() as u32) << 16 | u32::from(group.parity));
    put(16, group.page_size.get());
    put(20, u32::from(group.byte_order == ByteOrder::Big));
    put(24, group.checkpoint_seq);
    put(28, group.chain_before.s0);
    put(32, group.chain_before.s1);
    put(36, group.chain_after.s0);
    put(40, group.chain_after.s1);
    put(44, group.commits);
    put(48, group.db_pages);
    put(52, group.committed_upto);
    for digest in &group.digests {
        bytes.extend_from_slice(&digest.to_be_bytes());
    }
    bytes
}

/// Reads the body of a group's record; `None` if the fields contradict each other.
pub(crate) fn decode_group(bytes: &[u8]) -> Option<GroupHeader> {
    let (fixed, digests) = bytes.split_first_chunk::<GROUP_FIXED>()?;
    let field = |at: usize| u32_at(fixed, at);
    let (sources, parity) = (field(12) >> 16, field(12) & 0xffff);
    let sane = (1..=MAX_SOURCES).contains(&(sources as usize))
        && (1..=MAX_PARITY).contains(&(parity as usize))
        && digests.len() == sources as usize * DIGEST
        && field(8) != 0
        && field(8).checked_add(sources).is_some()
        && field(20) <= 1;
    if !sane {
        return None;
    }
    Some(GroupHeader {
        salts: Salts {
            salt1: field(0),
            salt2: field(4),
        },
        first_frame: field(8),
        parity: parity as u16,
        page_size: walmend_types::PageSize::new(field(16)).ok()?,
        byte_order: if field(20) == 0 {
            ByteOrder::Little
        } else {
            ByteOrder::Big
        },
        checkpoint_seq: field(24),
        chain_before: Checksum {
            s0: field(28),
            s1: field(32),
        },
        chain_after: Checksum {
            s0: field(36),
            s1: field(40),
        },
        commits: field(44),
        db_pages: field(48),
        committed_upto: field(52),
        digests: digests
            .chunks_exact(DIGEST)
            .map(|digest| u128::from_be_bytes(array(digest)))
            .collect(),
    })
}

/// What tells the group with this body from every other.
pub(crate) fn group_id(body: &[u8]) -> GroupId {
    xxh3_128(body).to_be_bytes()
}

fn u32_at(bytes: &[u8; HEAD], at: usize) -> u32 {
    u32::from_be_bytes(array(&bytes[at..at + 4]))
}
