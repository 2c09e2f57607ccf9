//! One node of the tree, as it lies in its page.
//!
//! ```text
//! 0    magic "kv1L" (leaf) or "kv1N" (inner)
//! 4    u16 number of entries
//! 6    inner only: u32 page of the child left of the first entry
//! ...  entries, ascending by key: u16 key length, key, then
//!      leaf: u16 value length, value; inner: u32 page of the child whose keys are >= this key
//! ```

use super::engine::KvError;
use walmend::PageNumber;

const LEAF: &[u8; 4] = b"kv1L";
const INNER: &[u8; 4] = b"kv1N";

/// A key and its value together; four of the largest fit into a page, so that a node can always be split.
pub(crate) const LARGEST_ENTRY: usize = 1000;

#[derive(Debug)]
pub(crate) enum Node {
    Leaf(Vec<(Vec<u8>, Vec<u8>)>),
    Inner {
        first: PageNumber,
        rest: Vec<(Vec<u8>, PageNumber)>,
    },
}

impl Node {
    /// The bytes that it takes up in a page.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Leaf(entries) => 6 + entries.iter().map(|(k, v)| 4 + k.len() + v.len()).sum::<usize>(),
            Self::Inner { rest, .. } => 10 + rest.iter().map(|(k, _)| 6 + k.len()).sum::<usize>(),
        }
    }

    /// Cuts off the upper half, by bytes; answers its first key. A node that has outgrown its page has at least
    /// four entries, so that both halves have some.
    pub(crate) fn split(&mut self) -> (Vec<u8>, Self) {
        let half = self.size() / 2;
        match self {
            Self::Leaf(entries) => {
                let upper =
                    entries.split_off(middle(entries.iter().map(|(k, v)| 4 + k.len() + v.len()), half));
                (upper[0].0.clone(), Self::Leaf(upper))
            }
            Self::Inner { rest, .. } => {
                let mut upper = rest.split_off(middle(rest.iter().map(|(k, _)| 6 + k.len()), half));
                let (key, first) = upper.remove(0);
                (key, Self::Inner { first, rest: upper })
            }
        }
    }

    pub(crate) fn encode(&self, page_size: usize) -> Vec<u8> {
        let mut page = Vec::with_capacity(page_size);
        match self {
            Self::Leaf(entries) => {
                page.extend_from_slice(LEAF);
                page.extend_from_slice(&(entries.len() as u16).to_le_bytes());
                for (key, value) in entries {
                    put(&mut page, key);
                    put(&mut page, value);
                }
            }
            Self::Inner { first, rest } => {
                page.extend_from_slice(INNER);
                page.extend_from_slice(&(rest.len() as u16).to_le_bytes());
                page.extend_from_slice(&first.get().to_le_bytes());
                for (key, child) in rest {
                    put(&mut page, key);
                    page.extend_from_slice(&child.get().to_le_bytes());
                }
            }
        }
        page.resize(page_size, 0);
        page
    }

    pub(crate) fn decode(number: PageNumber, page: &[u8]) -> Result<Self, KvError> {
        let mut left = page;
        Self::parse(&mut left).ok_or(KvError::NotANode { page: number })
    }

    fn parse(left: &mut &[u8]) -> Option<Self> {
        let magic = take(left, 4)?;
        let count = u16_of(left)?;
        match magic.try_into().ok()? {
            LEAF => (0..count)
                .map(|_| Some((text(left)?, text(left)?)))
                .collect::<Option<_>>()
                .map(Self::Leaf),
            INNER => Some(Self::Inner {
                first: child(left)?,
                rest: (0..count)
                    .map(|_| Some((text(left)?, child(left)?)))
                    .collect::<Option<_>>()?,
            }),
            _ => None,
        }
    }
}

/// How many of these sizes stay below `half`, but at least one and not all.
fn middle(sizes: impl ExactSizeIterator<Item = usize>, half: usize) -> usize {
    let count = sizes.len();
    let mut sum = 0;
    let below = sizes.take_while(|size| {
        sum += size;
        sum < half
    });
    below.count().clamp(1, count - 1)
}

fn put(page: &mut Vec<u8>, bytes: &[u8]) {
    page.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    page.extend_from_slice(bytes);
}

fn take<'a>(left: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, tail) = left.split_at_checked(len)?;
    *left = tail;
    Some(head)
}

fn u16_of(left: &mut &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(take(left, 2)?.try_into().ok()?))
}

fn text(left: &mut &[u8]) -> Option<Vec<u8>> {
    let len = u16_of(left)?;
    Some(take(left, len.into())?.to_vec())
}

fn child(left: &mut &[u8]) -> Option<PageNumber> {
    PageNumber::new(u32::from_le_bytes(take(left, 4)?.try_into().ok()?)).ok()
}
