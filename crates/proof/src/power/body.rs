//! What the machine writes: pages in groups, each group from one version to the next in one transaction.

use crate::Random;
use std::ops::Range;

/// Number, version.
const HEAD: usize = 16;

/// The content of one page, or of one row: it follows from its number and its version alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    /// Which one, from 0.
    pub id: u32,
    /// How often its group was committed.
    pub version: u64,
}

impl Body {
    /// Fills `bytes`, which are at least 16.
    ///
    /// # Panics
    /// If they are fewer.
    pub fn fill(self, bytes: &mut [u8]) {
        bytes[..8].copy_from_slice(&u64::from(self.id).to_le_bytes());
        bytes[8..HEAD].copy_from_slice(&self.version.to_le_bytes());
        let own = Random(u64::from(self.id)).next();
        let mut random = Random(own.wrapping_add(self.version));
        for chunk in bytes[HEAD..].chunks_mut(8) {
            chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
        }
    }

    /// What `bytes` are, if they are whole: not one bit may differ.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let id = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let body = Self {
            id: u32::try_from(id).ok()?,
            version: u64::from_le_bytes(bytes.get(8..HEAD)?.try_into().ok()?),
        };
        let mut whole = vec![0; bytes.len()];
        body.fill(&mut whole);
        (whole == bytes).then_some(body)
    }
}

/// The groups: 1 to 6 pages each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups(
    /// How many.
    pub u32,
);

impl Groups {
    /// The numbers of the pages of one group.
    pub fn ids(self, group: u32) -> Range<u32> {
        let before = |group: u32| group / 6 * 21 + (group % 6) * (group % 6 + 1) / 2;
        before(group)..before(group + 1)
    }

    /// Pages of all groups together.
    pub fn len(self) -> u32 {
        self.ids(self.0).start
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_back_and_one_bit_of_it_shows() {
        let body = Body {
            id: 7,
            version: 1 << 40,
        };
        let mut bytes = [0; 301];
        body.fill(&mut bytes);
        assert_eq!(Body::read(&bytes), Some(body));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Body::read(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Body::read(&[]), None);
    }

    #[test]
    fn groups_follow_each_other_without_a_gap() {
        let groups = Groups(20);
        let mut next = 0;
        for group in 0..20 {
            let ids = groups.ids(group);
            assert_eq!(ids.start, next);
            assert_eq!(ids.len() as u32, group % 6 + 1);
            next = ids.end;
        }
        assert_eq!(groups.len(), next);
    }
}
