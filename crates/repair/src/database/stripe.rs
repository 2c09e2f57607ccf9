//! One stripe of a database: its description, its parity, and the two places that hold versions of it.

use super::layout::{FORMAT, Layout, PARITY, SOURCES, Side};
use crate::codec::Codec;
use crate::record::{HEAD, RecordHead, RecordState, array, put_record};
use walmend_types::Result;
use walmend_vfs::VfsFile;
use xxhash_rust::xxh3::xxh3_128;

const KIND_DESCRIPTION: u8 = 1;
const KIND_PARITY: u8 = 2;
const FIXED: usize = 64;

/// What is known of a stripe besides its parity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) window: u32,
    pub(crate) stripe: u32,
    pub(crate) page_size: u32,
    /// Which of two versions is the newer one.
    pub(crate) epoch: u64,
    /// The XXH3-128 of each of its pages, 1 to [`SOURCES`] of them.
    pub(crate) digests: Vec<u128>,
}

/// How many parity shards a stripe of so many pages keeps. As many as it has pages are always enough.
pub(crate) fn parity_of(pages: usize) -> usize {
    pages.min(PARITY)
}

impl Description {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes[..4].copy_from_slice(&self.window.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.stripe.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.to_be_bytes());
        // At most SOURCES.
        bytes[12..14].copy_from_slice(&(self.digests.len() as u16).to_be_bytes());
        bytes[14..16].copy_from_slice(&(parity_of(self.digests.len()) as u16).to_be_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_be_bytes());
        for digest in &self.digests {
            bytes.extend_from_slice(&digest.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, digests) = bytes.split_first_chunk::<FIXED>()?;
        let count = |at: usize| usize::from(u16::from_be_bytes(array(&fixed[at..at + 2])));
        let (pages, parity) = (count(12), count(14));
        let sane =
            (1..=SOURCES).contains(&pages) && parity == parity_of(pages) && digests.len() == pages * 16;
        sane.then(|| Self {
            window: u32::from_be_bytes(array(&fixed[..4])),
            stripe: u32::from_be_bytes(array(&fixed[4..8])),
            page_size: u32::from_be_bytes(array(&fixed[8..12])),
            epoch: u64::from_be_bytes(array(&fixed[16..24])),
            digests: digests
                .chunks_exact(16)
                .map(|digest| u128::from_be_bytes(array(digest)))
                .collect(),
        })
    }

    /// Reads the body of a record, if it describes a stripe. For a file whose header is lost.
    pub(crate) fn of_record(head: &RecordHead, body: &[u8]) -> Option<Self> {
        let wanted = head.kind == KIND_DESCRIPTION && head.matches(body);
        wanted.then(|| Self::decode(body)).flatten()
    }
}

/// A version of a stripe, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) side: Side,
    pub(crate) description: Description,
    id: [u8; 16],
    /// Which parity shards are intact, the first one in the lowest bit.
    parity: u16,
    /// Records of it that are not intact.
    pub(crate) bad_records: u32,
}

impl Version {
    /// Whether everything of it is intact.
    pub(crate) fn whole(&self) -> bool {
        self.bad_records == 0
    }

    /// How many parity shards are intact.
    pub(crate) fn parity_left(&self) -> usize {
        self.parity.count_ones() as usize
    }

    /// The digest that the page at `position` must have, if the version has such a page.
    pub(crate) fn digest(&self, position: usize) -> Option<u128> {
        self.description.digests.get(position).copied()
    }

    /// Reads the version that lies at one place of a stripe. `None` if there is no intact description.
    /// `everything` checks the parity, too; otherwise it counts as intact.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn read(
        file: &dyn VfsFile,
        layout: &Layout,
        (window, stripe, side): (u32, u32, Side),
        everything: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Self>> {
        let slot = layout.slot_at(window, stripe, side);
        let first = layout.parity_in_slot(0) as usize;
        let second = layout.second_description();
        buffer.resize(first, 0);
        let read = file.read_at(&mut buffer[..first], slot)?;
        let own = |description: &Description| {
            description.window == window
                && description.stripe == stripe
                && description.page_size == layout.page_size.get()
        };
        let mut bad_records = 0;
        let mut found = describe(&buffer[..read], slot).filter(|(_, description)| own(description));
        if found.is_none() || everything {
            let read = file.read_at(&mut buffer[..first], slot + second)?;
            let again = describe(&buffer[..read], slot + second).filter(|(_, description)| own(description));
            bad_records += u32::from(found.is_none()) + u32::from(again.is_none());
            found = found.or(again);
        }
        let Some((id, description)) = found else {
            return Ok(None);
        };
        let mut version = Self {
            side,
            id,
            parity: 0,
            bad_records,
            description,
        };
        let shards = parity_of(version.description.digests.len());
        if !everything {
            version.parity = ((1_u32 << shards) - 1) as u16;
            return Ok(Some(version));
        }
        let len = (layout.parity_in_slot(shards) - layout.parity_in_slot(0)) as usize;
        buffer.resize(len, 0);
        let read = file.read_at(&mut buffer[..len], slot + first as u64)?;
        for index in 0..shards {
            let at = layout.parity_in_slot(index);
            let start = (at - first as u64) as usize;
            let record = buffer[..read].get(start..).unwrap_or_default();
            if version.shard(record, index, slot + at).is_some() {
                version.parity |= 1 << index;
            } else {
                version.bad_records += 1;
            }
        }
        Ok(Some(version))
    }

    /// Reads up to `wanted` parity shards, each checked; the others are `None`.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn read_parity(
        &self,
        file: &dyn VfsFile,
        layout: &Layout,
        wanted: usize,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let slot = layout.slot_at(self.description.window, self.description.stripe, self.side);
        let mut shards = vec![None; PARITY];
        let mut record = vec![0; HEAD + layout.page_size.as_usize()];
        let mut read = 0;
        for (index, shard) in shards.iter_mut().enumerate() {
            if read == wanted || self.parity & (1 << index) == 0 {
                continue;
            }
            let at = slot + layout.parity_in_slot(index);
            let got = file.read_at(&mut record, at)?;
            *shard = self.shard(&record[..got], index, at).map(<[u8]>::to_vec);
            read += usize::from(shard.is_some());
        }
        Ok(shards)
    }

    /// The parity shard in these bytes, if it is intact and this version's.
    fn shard<'a>(&self, bytes: &'a [u8], index: usize, at: u64) -> Option<&'a [u8]> {
        let (head, body) = bytes.split_first_chunk::<HEAD>()?;
        let RecordState::Ok(head) = RecordHead::decode(&FORMAT, head, at) else {
            return None;
        };
        let body = body.get(..head.body_len)?;
        let own = head.kind == KIND_PARITY
            && usize::from(head.index) == index
            && head.id == self.id
            && body.len() == self.description.page_size as usize;
        (own && head.matches(body)).then_some(body)
    }
}

fn describe(bytes: &[u8], at: u64) -> Option<([u8; 16], Description)> {
    let (head, body) = bytes.split_first_chunk::<HEAD>()?;
    let RecordState::Ok(head) = RecordHead::decode(&FORMAT, head, at) else {
        return None;
    };
    let body = body.get(..head.body_len)?;
    let description = Description::of_record(&head, body)?;
    (head.id == identify(body)).then_some((head.id, description))
}

/// What ties parity to the description of its stripe.
fn identify(description: &[u8]) -> [u8; 16] {
    xxh3_128(description).to_be_bytes()
}

/// Makes the parity of a stripe. Pages that it does not have count as zeros, so that it can grow and each of its
/// pages keeps its part in the parity.
///
/// # Errors
/// As [`Codec::encode`].
pub(crate) fn encode_parity(codec: &dyn Codec, pages: &[&[u8]], zeros: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut sources = [zeros; SOURCES];
    sources[..pages.len()].copy_from_slice(pages);
    codec.encode(&sources, PARITY)
}

/// Writes a version of a stripe to one of its places. Not durable before a sync.
///
/// # Errors
/// I/O errors. What reached the file is then no version, or a whole one.
pub(crate) fn write_version(
    file: &dyn VfsFile,
    layout: &Layout,
    side: Side,
    description: &Description,
    parity: &[Vec<u8>],
    buffer: &mut Vec<u8>,
) -> Result<()> {
    let slot = layout.slot_at(description.window, description.stripe, side);
    let body = description.encode();
    let id = identify(&body);
    buffer.clear();
    put_record(buffer, slot, &FORMAT, (KIND_DESCRIPTION, 0), id, &body);
    buffer.resize(layout.parity_in_slot(0) as usize, 0);
    let kept = parity_of(description.digests.len());
    // At most PARITY of them.
    for (shard, index) in parity[..kept].iter().zip(0_u8..) {
        put_record(buffer, slot, &FORMAT, (KIND_PARITY, index), id, shard);
    }
    let second = layout.second_description();
    if kept < PARITY {
        // A gap, which takes no room on the disk.
        file.write_at(buffer, slot)?;
        buffer.clear();
        put_record(buffer, slot + second, &FORMAT, (KIND_DESCRIPTION, 1), id, &body);
        return file.write_at(buffer, slot + second);
    }
    put_record(buffer, slot, &FORMAT, (KIND_DESCRIPTION, 1), id, &body);
    buffer.resize(layout.slot_len() as usize, 0);
    file.write_at(buffer, slot)
}

/// Makes sure that no version is found at a place of a stripe. Not durable before a sync.
///
/// # Errors
/// I/O errors.
pub(crate) fn erase_version(file: &dyn VfsFile, layout: &Layout, place: (u32, u32, Side)) -> Result<()> {
    let slot = layout.slot_at(place.0, place.1, place.2);
    file.write_at(&[0; HEAD], slot)?;
    file.write_at(&[0; HEAD], slot + layout.second_description())
}
