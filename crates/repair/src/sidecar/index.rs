//! Reading a sidecar: what is intact in it, and where.

use super::GroupHeader;
use super::record::{
    ALIGN, GroupId, HEAD, Head, HeadState, Kind, MAX_BODY, decode_group, group_id, record_len,
};
use std::collections::BTreeMap;
use std::path::Path;
use walmend_types::{Error, Result};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};

/// Bytes read in one go; more than two of the longest records.
const READ_BYTES: usize = 1 << 20;

/// One group of a sidecar, and where its parity lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What it describes.
    pub header: GroupHeader,
    id: GroupId,
    /// Where the record of each parity shard starts; `None` where none is intact.
    parity_at: Vec<Option<u64>>,
}

impl Group {
    /// How many of its parity shards are intact.
    pub fn parity_left(&self) -> usize {
        self.parity_at.iter().flatten().count()
    }

    /// Reads one parity shard and checks it again; `None` if it is not intact.
    ///
    /// # Errors
    /// I/O errors.
    pub fn read_parity(&self, file: &dyn VfsFile, index: usize) -> Result<Option<Vec<u8>>> {
        let Some(at) = self.parity_at.get(index).copied().flatten() else {
            return Ok(None);
        };
        let mut bytes = vec![0; HEAD + self.header.shard_len()];
        let read = file.read_at(&mut bytes, at)?;
        let Some((head, body)) = bytes[..read].split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let intact = match Head::decode(head, at) {
            HeadState::Ok(head) => {
                let wanted = matches!(head.kind, Kind::Parity(place) if usize::from(place) == index);
                wanted && head.group() == self.id && head.matches(body)
            }
            _ => false,
        };
        Ok(intact.then(|| body.to_vec()))
    }
}

/// What is in a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SidecarIndex {
    /// Bytes of the file.
    pub bytes: u64,
    /// Where the next group goes: behind everything that is not zeros.
    pub end: u64,
    /// The groups of which a description is intact, ascending by their first frame and then in the order of
    /// the file. Groups of several generations and histories may be among them.
    pub groups: Vec<Group>,
    /// Records that are not intact. Where a head is gone too nobody can tell how many there were: such a
    /// stretch counts as one. Zeros at the end of the file are none: they are room for more.
    pub bad_records: u32,
    /// The version of a record that is not of ours, if there is one.
    pub other_version: Option<u16>,
}

impl SidecarIndex {
    /// Reads the sidecar at `path`, changing nothing; `None` if there is none.
    ///
    /// # Errors
    /// Only I/O errors, and a sidecar that is no regular file: damage is a finding.
    pub fn read(vfs: &dyn Vfs, path: &Path) -> Result<Option<Self>> {
        match vfs.open(path, OpenFlags::READ) {
            Ok(file) => Self::scan(&*file).map(Some),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads an open sidecar, changing nothing.
    ///
    /// # Errors
    /// Only I/O errors.
    pub fn scan(file: &dyn VfsFile) -> Result<Self> {
        let mut index = Self {
            bytes: file.len()?,
            ..Self::default()
        };
        let mut window = Window::new(file);
        let mut found = Found::default();
        let mut at = 0;
        // Where a record with an intact head and a damaged body ends: what lies in it is counted.
        let mut counted_upto = 0;
        // Whether this place belongs to a stretch without heads that is counted.
        let mut in_stretch = false;
        // Zeros that are damage, if anything follows them.
        let mut zeros = false;
        while at < index.bytes {
            let mut step = ALIGN;
            let head = window.head(at)?;
            if !matches!(head, HeadState::None) || !window.is_zero(at)? {
                index.bad_records += u32::from(std::mem::take(&mut zeros));
                index.end = index.end.max(at + ALIGN);
            }
            match head {
                HeadState::Ok(head) => {
                    in_stretch = false;
                    index.end = at + head.record_len();
                    let body = window.body(at, &head)?;
                    if body.is_some_and(|body| found.take(at, &head, body)) {
                        step = head.record_len();
                    } else {
                        index.bad_records += 1;
                        counted_upto = at + head.record_len();
                    }
                }
                HeadState::OtherVersion(version) => {
                    index.other_version = Some(version);
                    // Its length is not known, but it is no damage.
                    in_stretch = true;
                }
                HeadState::None if at >= counted_upto && !in_stretch => {
                    // Not yet counted.
                    zeros = at >= index.end;
                    index.bad_records += u32::from(!zeros);
                    in_stretch = true;
                }
                HeadState::None => {}
            }
            at += step;
        }
        // The last record may be cut off.
        index.end = index.end.min(index.bytes.next_multiple_of(ALIGN));
        index.groups = found.groups();
        Ok(index)
    }
}

/// Intact records, as they come.
#[derive(Debug, Default)]
struct Found {
    /// Descriptions, in the order of the file.
    headers: Vec<(GroupId, GroupHeader)>,
    parity: BTreeMap<(GroupId, u8), (u64, usize)>,
}

impl Found {
    /// Takes a record, and says whether it makes sense.
    fn take(&mut self, at: u64, head: &Head, body: &[u8]) -> bool {
        match head.kind {
            Kind::Parity(index) => {
                self.parity.insert((head.group(), index), (at, body.len()));
                true
            }
            Kind::Group(_) => {
                let Some(header) = decode_group(body).filter(|_| group_id(body) == head.group()) else {
                    return false;
                };
                self.headers.push((head.group(), header));
                true
            }
        }
    }

    fn groups(self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut known: BTreeMap<GroupId, ()> = BTreeMap::new();
        for (id, header) in self.headers {
            if known.insert(id, ()).is_some() {
                continue;
            }
            let len = header.shard_len();
            let place = |index: u16| {
                let index = u8::try_from(index).ok()?;
                let (at, found) = self.parity.get(&(id, index))?;
                (*found == len).then_some(*at)
            };
            let parity_at = (0..header.parity).map(place).collect();
            groups.push(Group {
                header,
                id,
                parity_at,
            });
        }
        groups.sort_by_key(|group| group.header.first_frame);
        groups
    }
}

/// A stretch of the file in memory.
struct Window<'a> {
    file: &'a dyn VfsFile,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn VfsFile) -> Self {
        Self {
            file,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// The bytes from `at`, as many as the longest record has, fewer at the end of the file.
    fn from(&mut self, at: u64) -> Result<&[u8]> {
        let longest = record_len(MAX_BODY);
        let whole = at >= self.start && at + longest <= self.start + self.bytes.len() as u64;
        let last = self.bytes.len() < READ_BYTES && !self.bytes.is_empty() && at >= self.start;
        if !whole && !last {
            self.bytes.resize(READ_BYTES, 0);
            let read = self.file.read_at(&mut self.bytes, at)?;
            self.bytes.truncate(read);
            self.start = at;
        }
        let skip = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(skip..).unwrap_or_default())
    }

    fn head(&mut self, at: u64) -> Result<HeadState> {
        let head = self.from(at)?.first_chunk::<HEAD>();
        Ok(head.map_or(HeadState::None, |head| Head::decode(head, at)))
    }

    /// Whether only zeros stand at this place of [`ALIGN`] bytes.
    fn is_zero(&mut self, at: u64) -> Result<bool> {
        let bytes = self.from(at)?;
        Ok(bytes.iter().take(ALIGN as usize).all(|byte| *byte == 0))
    }

    /// The body of a record, if it is intact.
    fn body(&mut self, at: u64, head: &Head) -> Result<Option<&[u8]>> {
        let body = self.from(at)?.get(HEAD..HEAD + head.body_len());
        Ok(body.filter(|body| head.matches(body)))
    }
}
