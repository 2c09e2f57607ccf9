//! What could be healed: found by digest, judged by history, rebuilt, and verified, all without writing.

use super::image::{Image, stored_in};
use crate::codec::Codec;
use crate::sidecar::{Group, GroupHeader, SidecarIndex, chained, shard};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use walmend_types::{Result, Salts};
use walmend_vfs::VfsFile;
use walmend_wal::{
    Checksum, FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, HeaderError, Transition, WalHeader, frame_size,
};
use xxhash_rust::xxh3::xxh3_128;

/// What the sidecar can do for a log, and what it cannot. Frame 0 stands for the header of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealPlan {
    /// The salts of the log, as its header says or, if that is damaged, as it said; `None` without one.
    pub salts: Option<Salts>,
    /// The header to be written, if the one in the log is damaged and could be made again.
    pub header: Option<WalHeader>,
    /// The damaged frames that could be rebuilt, whole, each verified by its digest.
    pub rebuilt: BTreeMap<u32, Vec<u8>>,
    /// The damaged frames that the sidecar knows and cannot rebuild, ascending.
    pub unhealable: Vec<u32>,
    /// The frames of groups that belong to another history of this log: they say nothing about it.
    pub other_history: Vec<RangeInclusive<u32>>,
    /// The frames of the groups that belong to this log.
    pub covered: Vec<RangeInclusive<u32>>,
    /// The frames of those of them of which all parity is intact.
    pub whole: Vec<RangeInclusive<u32>>,
}

impl HealPlan {
    /// Compares a log with its sidecar. `index` is what [`SidecarIndex::scan`] found in `sidecar`. Memory is
    /// bounded by the parity of the log, which is what can be rebuilt.
    ///
    /// # Errors
    /// Only I/O errors: damage is a finding.
    pub fn make(
        log: &dyn VfsFile,
        sidecar: &dyn VfsFile,
        index: &SidecarIndex,
        codec: &dyn Codec,
    ) -> Result<Self> {
        let mut bytes = [0; HEADER_SIZE];
        let read = log.read_at(&mut bytes, 0)?;
        if read == 0 {
            // An emptied log is no damage.
            return Ok(Self::default());
        }
        let decoded = if read < HEADER_SIZE {
            Err(HeaderError::Invalid)
        } else {
            WalHeader::decode(&bytes)
        };
        let (header, rebuilt_header) = match decoded {
            Ok(header) => match newer_header(log, index, &header)? {
                Some(newer) => (newer, Some(newer)),
                None => (header, None),
            },
            Err(HeaderError::UnsupportedVersion(_)) => return Ok(Self::default()),
            Err(HeaderError::Invalid) => match one_bit_off(log, &bytes)?.or(lost_header(log, index)?) {
                Some(header) => (header, Some(header)),
                None => {
                    return Ok(Self {
                        unhealable: vec![0],
                        ..Self::default()
                    });
                }
            },
        };
        let groups: Vec<&Group> = index
            .groups
            .iter()
            .filter(|group| group.header.log_header() == header)
            .collect();
        let mut judge = Judge {
            image: Image::new(log, header),
            sidecar,
            codec,
            places: places(&groups),
            ends: BTreeMap::new(),
            covered: Vec::new(),
            other_history: Vec::new(),
            unhealable: BTreeSet::new(),
            doubtful: BTreeSet::new(),
        };
        let mut plan = Self {
            salts: Some(header.salts),
            header: rebuilt_header,
            ..Self::default()
        };
        for group in groups {
            let range = group.header.first_frame..=group.header.last_frame();
            match judge.heal(group)? {
                Belongs::Here => {
                    judge.ends.insert(*range.end(), group.header.chain_after);
                    if group.parity_left() == usize::from(group.header.parity) {
                        plan.whole.push(range.clone());
                    }
                    judge.covered.push(range);
                }
                Belongs::OtherHistory => judge.other_history.push(range),
                Belongs::Unknown => {}
            }
        }
        plan.covered = judge.covered;
        plan.other_history = judge.other_history;
        plan.rebuilt = judge.image.rebuilt;
        // A group that applies knows better what stands in its place.
        let doubtful = judge.doubtful.into_iter().filter(|frame| !plan.covers(*frame));
        judge.unhealable.extend(doubtful);
        let left = judge.unhealable.into_iter();
        plan.unhealable = left.filter(|frame| !plan.rebuilt.contains_key(frame)).collect();
        Ok(plan)
    }

    /// Whether there is anything to heal.
    pub fn is_empty(&self) -> bool {
        self.header.is_none() && self.rebuilt.is_empty()
    }

    /// The damaged frames that the sidecar knows, healable or not, ascending; 0 stands for the header.
    pub fn damaged(&self) -> BTreeSet<u32> {
        let header = self.header.iter().map(|_| 0);
        let frames = self.rebuilt.keys().chain(&self.unhealable).copied();
        header.chain(frames).collect()
    }

    /// Whether frame `frame` is damaged and can be rebuilt; 0 stands for the header.
    pub fn heals(&self, frame: u32) -> bool {
        self.rebuilt.contains_key(&frame) || (frame == 0 && self.header.is_some())
    }

    /// Whether frame `frame` belongs to a group that applies to this log.
    pub fn covers(&self, frame: u32) -> bool {
        self.covered.iter().any(|range| range.contains(&frame))
    }

    /// How many frames belong to groups that apply to this log.
    pub fn frames_covered(&self) -> u32 {
        count(&self.covered)
    }

    /// How many of these are protected less than they were, because parity of theirs is damaged.
    pub fn frames_weakened(&self) -> u32 {
        count(&self.covered) - count(&self.whole)
    }
}

/// How many different frames lie in these ranges.
fn count(ranges: &[RangeInclusive<u32>]) -> u32 {
    let frames: BTreeSet<u32> = ranges.iter().cloned().flatten().collect();
    u32::try_from(frames.len()).unwrap_or(u32::MAX)
}

/// At which places of the log the sidecar knows a frame with this digest.
fn places(groups: &[&Group]) -> HashMap<u128, Vec<u32>> {
    let mut places: HashMap<u128, Vec<u32>> = HashMap::new();
    for group in groups {
        for (digest, frame) in group.header.digests.iter().zip(group.header.first_frame..) {
            places.entry(*digest).or_default().push(frame);
        }
    }
    places
}

/// The header that a log had, where one bit of it has flipped: the one whose own checksum is right again, and from
/// which frame 1 goes on with its salts and its checksum. For that no group has to know it: a generation has none yet
/// when it begins.
fn one_bit_off(log: &dyn VfsFile, bytes: &[u8; HEADER_SIZE]) -> Result<Option<WalHeader>> {
    for bit in 0..8 * HEADER_SIZE {
        let mut flipped = *bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(header) = WalHeader::decode(&flipped) else {
            continue;
        };
        let first = Image::new(log, header).standing(1)?;
        if first.is_some_and(|first| chained(&header, header.checksum(), &first).is_some()) {
            return Ok(Some(header));
        }
    }
    Ok(None)
}

/// The header that a log had, where its own is damaged: that of the groups of which most frames stand in it,
/// if frame 1 goes on from it, and the log has not gone on to another generation since.
fn lost_header(log: &dyn VfsFile, index: &SidecarIndex) -> Result<Option<WalHeader>> {
    let mut headers: Vec<WalHeader> = Vec::new();
    for group in &index.groups {
        let header = group.header.log_header();
        if !headers.contains(&header) {
            headers.push(header);
        }
    }
    let mut best: Option<(usize, WalHeader)> = None;
    for header in headers {
        let image = Image::new(log, header);
        let of_header = || {
            index
                .groups
                .iter()
                .filter(|group| group.header.log_header() == header)
        };
        let mut standing = 0;
        for group in of_header() {
            for (digest, frame) in group.header.digests.iter().zip(group.header.first_frame..) {
                let bytes = image.standing(frame)?;
                standing += usize::from(bytes.is_some_and(|bytes| xxh3_128(&bytes) == *digest));
            }
        }
        let mut starts = of_header().map(|group| &group.header);
        let first_follows = starts
            .any(|group| group.first_frame == 1 && group.chain_before == header.checksum())
            || match image.standing(1)? {
                Some(bytes) => chained(&header, header.checksum(), &bytes).is_some(),
                None => false,
            };
        let better = standing > 0 && best.is_none_or(|(most, _)| standing > most);
        if better && first_follows && (says_so(log, &header)? || !is_overtaken(&image)?) {
            best = Some((standing, header));
        }
    }
    Ok(best.map(|(_, header)| header))
}

/// The header that a log had, where the one of the generation before has come back: a new header is synced before the
/// first frame behind it, so one that is older than the frames is a lost write. The other way round is what a crash
/// leaves, and no damage.
fn newer_header(log: &dyn VfsFile, index: &SidecarIndex, header: &WalHeader) -> Result<Option<WalHeader>> {
    let follows = |newer: &WalHeader| {
        newer.salts.salt1 == header.salts.salt1.wrapping_add(1)
            && newer.checkpoint_seq == header.checkpoint_seq.wrapping_add(1)
            && (newer.page_size, newer.byte_order) == (header.page_size, header.byte_order)
    };
    // Reading all of the log for it has to be worth it.
    if !index
        .groups
        .iter()
        .any(|group| follows(&group.header.log_header()))
    {
        return Ok(None);
    }
    Ok(lost_header(log, index)?.filter(follows))
}

/// Whether what is left of the log's own header is of this one: the salts or the checksum, which are another
/// generation's own.
fn says_so(log: &dyn VfsFile, header: &WalHeader) -> Result<bool> {
    let mut bytes = [0; HEADER_SIZE];
    log.read_at(&mut bytes, 0)?;
    let own = header.encode();
    Ok(bytes[16..24] == own[16..24] || bytes[24..] == own[24..])
}

/// Whether a newer generation than that of the image's header may have begun in the log. It is written over the older
/// ones from frame 1 on, so the frames before the first one that has these salts are its own; unless that one follows
/// the frame before it (of which the salts are damaged then), or nothing is left there at all.
fn is_overtaken(image: &Image<'_>) -> Result<bool> {
    let mut before: Option<FrameHeader> = None;
    let mut others = false;
    for frame in 1.. {
        let Some(bytes) = image.standing(frame)? else {
            break;
        };
        let Some(head) = bytes.first_chunk::<FRAME_HEADER_SIZE>().map(FrameHeader::decode) else {
            break;
        };
        if head.salts == image.header.salts {
            let follows =
                before.is_some_and(|before| chained(&image.header, before.checksum, &bytes).is_some());
            return Ok(others && !follows);
        }
        others |= head.page != 0;
        before = Some(head);
    }
    Ok(others)
}

/// What is known so far, group by group in the order of the log.
struct Judge<'a> {
    image: Image<'a>,
    sidecar: &'a dyn VfsFile,
    codec: &'a dyn Codec,
    places: HashMap<u128, Vec<u32>>,
    /// Where groups that apply end, and the chain checksum there.
    ends: BTreeMap<u32, Checksum>,
    covered: Vec<RangeInclusive<u32>>,
    other_history: Vec<RangeInclusive<u32>>,
    unhealable: BTreeSet<u32>,
    /// Frames that are damaged as far as a group can tell that may not apply.
    doubtful: BTreeSet<u32>,
}

/// Whether a group is about this log.
enum Belongs {
    Here,
    OtherHistory,
    /// The frame before it is damaged for good, so that nobody can tell.
    Unknown,
}

/// The frames of a group, compared with its digests.
struct Compared {
    /// Each frame that has the right digest.
    sources: Vec<Option<Vec<u8>>>,
    /// The others.
    damaged: Vec<u32>,
    /// Those of them that are valid where they stand, with the chain checksum that they store: another
    /// history, unless that is the group's own.
    valid: Vec<(u32, Checksum)>,
}

impl Judge<'_> {
    /// Rebuilds what is damaged in a group, if it belongs to this log.
    fn heal(&mut self, group: &Group) -> Result<Belongs> {
        let compared = self.compare(&group.header)?;
        if !self.follows(&group.header)? {
            if self.is_valid(group.header.first_frame - 1)? {
                return Ok(Belongs::OtherHistory);
            }
            self.doubtful.extend(compared.damaged);
            return Ok(Belongs::Unknown);
        }
        if compared.damaged.is_empty() {
            return Ok(Belongs::Here);
        }
        let Some(rebuilt) = self.rebuild(group, &compared)? else {
            return Ok(self.give_up(&group.header, &compared));
        };
        let is_own = |(frame, checksum): &(u32, Checksum)| {
            rebuilt.get(frame).and_then(|bytes| stored_in(bytes)) == Some(*checksum)
        };
        if !compared.valid.iter().all(is_own) {
            return Ok(Belongs::OtherHistory);
        }
        self.image.rebuilt.extend(rebuilt);
        Ok(Belongs::Here)
    }

    /// Judges a group that too little is left of.
    fn give_up(&mut self, group: &GroupHeader, compared: &Compared) -> Belongs {
        let foreign = |&(frame, checksum): &(u32, Checksum)| {
            let own = stored_before_next(group, &compared.sources, frame);
            (own != Some(checksum)).then_some(frame)
        };
        let foreign: Vec<u32> = compared.valid.iter().filter_map(foreign).collect();
        let damaged = compared.damaged.iter().filter(|frame| !foreign.contains(frame));
        if foreign.is_empty() {
            self.unhealable.extend(damaged);
            Belongs::Here
        } else {
            self.doubtful.extend(damaged);
            Belongs::OtherHistory
        }
    }

    /// Whether the log has the group's chain checksum before its first frame.
    fn follows(&self, group: &GroupHeader) -> Result<bool> {
        let before = group.first_frame - 1;
        let holds = |ranges: &[RangeInclusive<u32>]| ranges.iter().any(|range| range.contains(&before));
        // What another history left of this one behind its own end still chains in itself.
        if holds(&self.other_history) && !holds(&self.covered) {
            return Ok(false);
        }
        Ok(self.image.stored(before)? == Some(group.chain_before)
            || self.ends.get(&before) == Some(&group.chain_before))
    }

    fn compare(&self, group: &GroupHeader) -> Result<Compared> {
        let mut compared = Compared {
            sources: Vec::with_capacity(group.digests.len()),
            damaged: Vec::new(),
            valid: Vec::new(),
        };
        for (digest, frame) in group.digests.iter().zip(group.first_frame..) {
            let bytes = self.image.frame(frame)?;
            let found = bytes.as_deref().map(xxh3_128);
            if found == Some(*digest) {
                compared.sources.push(bytes.map(std::borrow::Cow::into_owned));
                continue;
            }
            compared.sources.push(None);
            compared.damaged.push(frame);
            let Some((bytes, found)) = bytes.zip(found) else {
                continue;
            };
            // A frame that belongs elsewhere chains with others that came along with it.
            let places = self.places.get(&found);
            let displaced = places.is_some_and(|places| !places.contains(&frame));
            if !displaced && self.chains(frame, &bytes)? {
                compared
                    .valid
                    .extend(stored_in(&bytes).map(|stored| (frame, stored)));
            }
        }
        Ok(compared)
    }

    /// Whether these bytes are a valid frame behind its predecessor, as that stands or rebuilt.
    fn chains(&self, frame: u32, bytes: &[u8]) -> Result<bool> {
        let before = [
            self.image.stored_standing(frame - 1)?,
            self.image.stored(frame - 1)?,
        ];
        let mut before = before.into_iter().flatten();
        Ok(before.any(|before| chained(&self.image.header, before, bytes).is_some()))
    }

    /// Whether frame `frame` is valid where it stands. The header is, by now.
    fn is_valid(&self, frame: u32) -> Result<bool> {
        if frame == 0 {
            return Ok(true);
        }
        match self.image.frame(frame)? {
            Some(bytes) => self.chains(frame, &bytes),
            None => Ok(false),
        }
    }

    /// The damaged frames of a group as they were, or `None` if too little is left to tell.
    fn rebuild(&self, group: &Group, compared: &Compared) -> Result<Option<BTreeMap<u32, Vec<u8>>>> {
        let header = &group.header;
        let needed = compared.damaged.len();
        if needed > group.parity_left() {
            return Ok(None);
        }
        let mut parity = Vec::with_capacity(header.parity.into());
        let mut read = 0;
        for index in 0..usize::from(header.parity) {
            let shard = match read < needed {
                true => group.read_parity(self.sidecar, index)?,
                false => None,
            };
            read += usize::from(shard.is_some());
            parity.push(shard);
        }
        if read < needed {
            return Ok(None);
        }
        let sources: Vec<Option<Vec<u8>>> = compared
            .sources
            .iter()
            .map(|frame| frame.as_deref().map(shard))
            .collect();
        let shards = self.codec.rebuild(&slices(&sources), &slices(&parity))?;
        // A frame has at most 65560 bytes.
        let len = frame_size(header.page_size) as usize;
        let mut rebuilt = BTreeMap::new();
        for (mut shard, frame) in shards.into_iter().map(|(_, shard)| shard).zip(&compared.damaged) {
            shard.truncate(len);
            // A wrong survivor makes a wrong result without any other sign.
            if header.digest(*frame) != Some(xxh3_128(&shard)) {
                return Ok(None);
            }
            rebuilt.insert(*frame, shard);
        }
        Ok((rebuilt.len() == needed).then_some(rebuilt))
    }
}

/// The chain checksum that the group's own frame `frame` stores, worked out from what follows it; `None` if that is
/// damaged too.
fn stored_before_next(group: &GroupHeader, sources: &[Option<Vec<u8>>], frame: u32) -> Option<Checksum> {
    if frame == group.last_frame() {
        return Some(group.chain_after);
    }
    let next = sources
        .get((frame - group.first_frame) as usize + 1)?
        .as_deref()?;
    let (head, page) = next.split_first_chunk::<FRAME_HEADER_SIZE>()?;
    let after = FrameHeader::decode(head).checksum;
    let part = Checksum::default()
        .extend(group.byte_order, &head[..8])
        .extend(group.byte_order, page);
    // The checksum is linear modulo 2^32 (docs/wal-format.md).
    let without = Checksum {
        s0: after.s0.wrapping_sub(part.s0),
        s1: after.s1.wrapping_sub(part.s1),
    };
    Some(Transition::over(8 + page.len()).undo(without))
}

fn slices(shards: &[Option<Vec<u8>>]) -> Vec<Option<&[u8]>> {
    shards.iter().map(Option::as_deref).collect()
}
