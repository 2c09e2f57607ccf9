//! What is known of a group of frames besides its parity.

use super::record::{MAX_PARITY, MAX_SOURCES};
use crate::codec::{Codec, shard_len};
use walmend_types::{Error, PageSize, Result, Salts};
use walmend_wal::{ByteOrder, Checksum, FRAME_HEADER_SIZE, FrameHeader, WalHeader, frame_size};
use xxhash_rust::xxh3::xxh3_128;

/// The description of a group: contiguous frames of one log that are protected together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupHeader {
    /// The salts of the log.
    pub salts: Salts,
    /// Its first frame, from 1.
    pub first_frame: u32,
    /// How many parity shards it has, 1 to [`MAX_PARITY`].
    pub parity: u16,
    /// The size of a page.
    pub page_size: PageSize,
    /// How the log's checksum reads words.
    pub byte_order: ByteOrder,
    /// The checkpoint sequence in the log's header.
    pub checkpoint_seq: u32,
    /// The chain checksum before the first frame.
    pub chain_before: Checksum,
    /// The chain checksum after the last frame.
    pub chain_after: Checksum,
    /// How many frames of the group end a transaction.
    pub commits: u32,
    /// The size of the database after the last of them, in pages; 0 if there is none.
    pub db_pages: u32,
    /// The commit frame up to which the log was durable when the group was made, at or behind its last frame.
    pub committed_upto: u32,
    /// The XXH3-128 of each whole frame, its header included. 1 to [`MAX_SOURCES`] of them.
    pub digests: Vec<u128>,
}

impl GroupHeader {
    /// Describes `frames`, which follow frame `first - 1` of a log, with the chain checksum `before` them.
    /// `committed_upto` is the commit frame up to which the log is durable.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for no frames, too many, or frames that are not committed; [`Error::Invalid`] if one is
    /// not valid where it stands: what is damaged must not be protected.
    pub fn describe(
        log: &WalHeader,
        first: u32,
        before: Checksum,
        frames: &[&[u8]],
        committed_upto: u32,
    ) -> Result<Self> {
        let parity = super::parity_for(frames.len());
        let last = u32::try_from(frames.len())
            .ok()
            .and_then(|count| first.checked_add(count)?.checked_sub(1));
        let count_fits = (1..=MAX_SOURCES).contains(&frames.len()) && parity <= MAX_PARITY;
        if !count_fits || first == 0 || last.is_none_or(|last| last > committed_upto) {
            return Err(Error::OutOfRange {
                what: "frames in a group",
                value: frames.len() as u64,
                expected: format!("1 to {MAX_SOURCES}, all of them committed"),
            });
        }
        let mut group = Self {
            salts: log.salts,
            first_frame: first,
            // At most MAX_PARITY.
            parity: parity as u16,
            page_size: log.page_size,
            byte_order: log.byte_order,
            checkpoint_seq: log.checkpoint_seq,
            chain_before: before,
            chain_after: before,
            commits: 0,
            db_pages: 0,
            committed_upto,
            digests: Vec::with_capacity(frames.len()),
        };
        for (frame, number) in frames.iter().zip(first..) {
            let Some(header) = chained(log, group.chain_after, frame) else {
                return Err(Error::Invalid(format!(
                    "frame {number} is not valid where it stands: what is damaged cannot be protected"
                )));
            };
            group.chain_after = header.checksum;
            if header.db_pages != 0 {
                group.commits += 1;
                group.db_pages = header.db_pages;
            }
            group.digests.push(xxh3_128(frame));
        }
        Ok(group)
    }

    /// Makes the parity of the frames that the group describes.
    ///
    /// # Errors
    /// As [`Codec::encode`].
    pub fn encode(&self, codec: &dyn Codec, frames: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let shards: Vec<Vec<u8>> = frames.iter().map(|frame| shard(frame)).collect();
        let shards: Vec<&[u8]> = shards.iter().map(Vec::as_slice).collect();
        codec.encode(&shards, self.parity.into())
    }

    /// Its last frame.
    pub fn last_frame(&self) -> u32 {
        // At most MAX_SOURCES digests, and checked not to overflow where it came from a file.
        self.first_frame + self.digests.len() as u32 - 1
    }

    /// The digest of frame `frame` of the log, if the group has it.
    pub fn digest(&self, frame: u32) -> Option<u128> {
        let place = frame.checked_sub(self.first_frame)?;
        self.digests.get(place as usize).copied()
    }

    /// The header of the log that the group is part of.
    pub fn log_header(&self) -> WalHeader {
        WalHeader {
            byte_order: self.byte_order,
            page_size: self.page_size,
            checkpoint_seq: self.checkpoint_seq,
            salts: self.salts,
        }
    }

    /// Bytes of each of its shards.
    pub fn shard_len(&self) -> usize {
        // A frame has at most 65560 bytes.
        shard_len(frame_size(self.page_size) as usize)
    }
}

/// A frame as a shard: zeros behind it.
pub(crate) fn shard(frame: &[u8]) -> Vec<u8> {
    let mut shard = Vec::with_capacity(shard_len(frame.len()));
    shard.extend_from_slice(frame);
    shard.resize(shard_len(frame.len()), 0);
    shard
}

/// The header of a frame that is valid behind the chain checksum `before`, or `None`.
pub(crate) fn chained(log: &WalHeader, before: Checksum, frame: &[u8]) -> Option<FrameHeader> {
    let (head, page) = frame.split_first_chunk::<FRAME_HEADER_SIZE>()?;
    let header = FrameHeader::decode(head);
    let valid = page.len() == log.page_size.as_usize()
        && header.page != 0
        && header.salts == log.salts
        && FrameHeader::chained(log, before, header.page, header.db_pages, page) == header;
    valid.then_some(header)
}
