//! A second reading of the WAL format, straight from section 4 of the SQLite file format description and
//! sharing nothing with walmend's own.

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) page: u32,
    /// Pages of the database if this frame commits, else 0.
    pub(crate) commit: u32,
    pub(crate) data: Vec<u8>,
}

/// The valid prefix of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wal {
    pub(crate) page_size: usize,
    pub(crate) sequence: u32,
    pub(crate) salts: [u32; 2],
    pub(crate) frames: Vec<Frame>,
}

const LITTLE: u32 = 0x377f_0682;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn sum(big: bool, mut state: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    for pair in bytes.chunks(8) {
        let read = |at: usize| {
            let bytes: [u8; 4] = pair[at..at + 4].try_into().unwrap();
            if big {
                u32::from_be_bytes(bytes)
            } else {
                u32::from_le_bytes(bytes)
            }
        };
        state[0] = state[0].wrapping_add(read(0)).wrapping_add(state[1]);
        state[1] = state[1].wrapping_add(read(4)).wrapping_add(state[0]);
    }
    state
}

impl Wal {
    /// Reads a log; `None` if its header does not verify.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let magic = word(bytes.get(..32)?, 0);
        let big = magic == LITTLE + 1;
        let mut state = sum(big, [0, 0], &bytes[..24]);
        if (magic != LITTLE && !big) || state != [word(bytes, 24), word(bytes, 28)] {
            return None;
        }
        let mut wal = Self {
            page_size: word(bytes, 8) as usize,
            sequence: word(bytes, 12),
            salts: [word(bytes, 16), word(bytes, 20)],
            frames: Vec::new(),
        };
        for frame in bytes[32..].chunks_exact(24 + wal.page_size) {
            state = sum(big, state, &frame[..8]);
            state = sum(big, state, &frame[24..]);
            let sound = word(frame, 0) != 0
                && [word(frame, 8), word(frame, 12)] == wal.salts
                && [word(frame, 16), word(frame, 20)] == state;
            if !sound {
                break;
            }
            wal.frames.push(Frame {
                page: word(frame, 0),
                commit: word(frame, 4),
                data: frame[24..].to_vec(),
            });
        }
        Some(wal)
    }

    /// The bytes of the log, with the checksum in the given byte order.
    pub(crate) fn encode(&self, big: bool) -> Vec<u8> {
        self.encode_with(big, 3_007_000)
    }

    /// The bytes of the log, if it were of another version.
    pub(crate) fn encode_version(&self, version: u32) -> Vec<u8> {
        self.encode_with(false, version)
    }

    fn encode_with(&self, big: bool, version: u32) -> Vec<u8> {
        let page_size = u32::try_from(self.page_size).unwrap();
        let fields = [
            LITTLE + u32::from(big),
            version,
            page_size,
            self.sequence,
            self.salts[0],
            self.salts[1],
        ];
        let mut bytes: Vec<u8> = fields.into_iter().flat_map(u32::to_be_bytes).collect();
        let mut state = sum(big, [0, 0], &bytes);
        bytes.extend(state.into_iter().flat_map(u32::to_be_bytes));
        for frame in &self.frames {
            let start = bytes.len();
            bytes.extend(frame.page.to_be_bytes());
            bytes.extend(frame.commit.to_be_bytes());
            state = sum(big, state, &bytes[start..]);
            state = sum(big, state, &frame.data);
            bytes.extend(self.salts.into_iter().chain(state).flat_map(u32::to_be_bytes));
            bytes.extend(&frame.data);
        }
        bytes
    }

    /// Where frame `frame` (from 1) starts, in bytes.
    pub(crate) fn offset(&self, frame: usize) -> usize {
        32 + (frame - 1) * (24 + self.page_size)
    }

    /// The frames that commit, from 1.
    pub(crate) fn commits(&self) -> Vec<usize> {
        let numbered = self.frames.iter().zip(1..);
        numbered
            .filter(|(frame, _)| frame.commit != 0)
            .map(|(_, number)| number)
            .collect()
    }

    /// The frames of each whole transaction.
    pub(crate) fn transactions(&self) -> impl Iterator<Item = &[Frame]> {
        let whole = self.commits().last().copied().unwrap_or(0);
        self.frames[..whole].split_inclusive(|frame| frame.commit != 0)
    }
}
