//! The checksum of SQLite's WAL, in its serial and in its combinable form.
//!
//! For each pair of 32-bit words: `s0 += x[i] + s1; s1 += x[i+1] + s0`, wrapping (SQLite file format
//! description, section 4.2). It is linear modulo 2^32: with the state as a vector and
//! `A = [[1,1],[1,2]]`, one pair is `state = A*state + (x0, x0+x1)`. So for a block of n bytes
//! `chain(state, block) = A^(n/8) * state + chain((0,0), block)`: the second term needs no predecessor, and
//! the matrix is one constant per block length. So each writer works out the parts of its own pages, and the
//! thread that appends only combines them; the scan checks a frame against any seed without reading it again;
//! and long blocks go through vector registers.
//!
//! It is a weak checksum: flipping bit 31 of two words a multiple of three apart goes unnoticed.

mod lanes;

/// How the words of a log are read for its checksum; the magic number of the log says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// Magic 0x377f0682. What walmend writes.
    Little,
    /// Magic 0x377f0683.
    Big,
}

/// The state of the checksum. All zeros is the state before the first byte of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Checksum {
    /// The first word.
    pub s0: u32,
    /// The second word.
    pub s1: u32,
}

impl Checksum {
    /// The state after `bytes`.
    ///
    /// # Panics
    /// If the length is no multiple of 8.
    #[must_use]
    pub fn extend(self, order: ByteOrder, bytes: &[u8]) -> Self {
        const LONG: Transition = Transition::over(lanes::LONG);
        const SHORT: Transition = Transition::over(lanes::SHORT);
        let mut state = self;
        let mut rest = bytes;
        for (len, transition) in [(lanes::LONG, LONG), (lanes::SHORT, SHORT)] {
            while let Some((block, behind)) = rest.split_at_checked(len) {
                let Some(part) = lanes::part(order, block) else {
                    return state.extend_serial(order, rest);
                };
                state = transition.combine(state, part);
                rest = behind;
            }
        }
        state.extend_serial(order, rest)
    }

    /// The part of a whole page, for [`Transition::combine`] and
    /// [`PageImage::with_checksum_part`](walmend_types::PageImage::with_checksum_part).
    ///
    /// # Panics
    /// If the length is no multiple of 8.
    #[must_use]
    pub fn part(order: ByteOrder, page: &[u8]) -> Self {
        Self::default().extend(order, page)
    }

    /// The state after `bytes`, word by word as SQLite does it. Answers what [`extend`](Self::extend) does, which
    /// is faster for anything longer than a header.
    ///
    /// # Panics
    /// If the length is no multiple of 8.
    #[must_use]
    pub fn extend_serial(self, order: ByteOrder, bytes: &[u8]) -> Self {
        let (pairs, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty(), "the checksum covers whole pairs of words");
        let Self { mut s0, mut s1 } = self;
        // Two loops, so that the order is not decided once per pair.
        match order {
            ByteOrder::Little => {
                for [a, b, c, d, e, f, g, h] in pairs {
                    s0 = s0
                        .wrapping_add(u32::from_le_bytes([*a, *b, *c, *d]))
                        .wrapping_add(s1);
                    s1 = s1
                        .wrapping_add(u32::from_le_bytes([*e, *f, *g, *h]))
                        .wrapping_add(s0);
                }
            }
            ByteOrder::Big => {
                for [a, b, c, d, e, f, g, h] in pairs {
                    s0 = s0
                        .wrapping_add(u32::from_be_bytes([*a, *b, *c, *d]))
                        .wrapping_add(s1);
                    s1 = s1
                        .wrapping_add(u32::from_be_bytes([*e, *f, *g, *h]))
                        .wrapping_add(s0);
                }
            }
        }
        Self { s0, s1 }
    }

    /// As `(s0, s1)`.
    pub const fn pair(self) -> (u32, u32) {
        (self.s0, self.s1)
    }
}

impl From<(u32, u32)> for Checksum {
    fn from((s0, s1): (u32, u32)) -> Self {
        Self { s0, s1 }
    }
}

/// What a block of a given length does to the state that comes before it: the matrix A^(n/8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition([[u32; 2]; 2]);

impl Transition {
    /// The transition over `bytes` bytes.
    ///
    /// # Panics
    /// If the length is no multiple of 8.
    pub const fn over(bytes: usize) -> Self {
        assert!(
            bytes.is_multiple_of(8),
            "the checksum covers whole pairs of words"
        );
        let mut power = [[1, 0], [0, 1]];
        let mut square = [[1, 1], [1, 2]];
        let mut exponent = bytes / 8;
        while exponent > 0 {
            if exponent % 2 == 1 {
                power = multiply(power, square);
            }
            square = multiply(square, square);
            exponent /= 2;
        }
        Self(power)
    }

    /// The state after a block, from the state before it and the block's own part, which is
    /// `Checksum::default().extend(order, block)`.
    #[must_use]
    pub fn combine(&self, before: Checksum, part: Checksum) -> Checksum {
        let [[a, b], [c, d]] = self.0;
        let row = |x: u32, y: u32| x.wrapping_mul(before.s0).wrapping_add(y.wrapping_mul(before.s1));
        Checksum {
            s0: row(a, b).wrapping_add(part.s0),
            s1: row(c, d).wrapping_add(part.s1),
        }
    }

    /// The state before a block of zeros, from the state after it.
    #[must_use]
    pub fn undo(&self, after: Checksum) -> Checksum {
        // The determinant is 1, so the inverse is the adjugate.
        let [[a, b], [c, d]] = self.0;
        let row = |x: u32, y: u32| x.wrapping_mul(after.s0).wrapping_sub(y.wrapping_mul(after.s1));
        Checksum {
            s0: row(d, b),
            s1: row(c, a).wrapping_neg(),
        }
    }
}

const fn multiply([[a, b], [c, d]]: [[u32; 2]; 2], [[e, f], [g, h]]: [[u32; 2]; 2]) -> [[u32; 2]; 2] {
    const fn cell(x: u32, y: u32, z: u32, w: u32) -> u32 {
        x.wrapping_mul(z).wrapping_add(y.wrapping_mul(w))
    }
    [
        [cell(a, b, e, g), cell(a, b, f, h)],
        [cell(c, d, e, g), cell(c, d, f, h)],
    ]
}

#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_read_in_the_order_that_the_magic_says() {
        let bytes = [1, 0, 0, 0, 2, 0, 0, 0];
        assert_eq!(
            Checksum::default().extend(ByteOrder::Little, &bytes).pair(),
            (1, 3)
        );
        let big = Checksum::default().extend(ByteOrder::Big, &bytes);
        assert_eq!(big.pair(), (0x0100_0000, 0x0300_0000));
    }

    proptest! {
        #[test]
        fn lanes_and_combined_parts_equal_the_serial_chain_at_every_page_size_in_both_byte_orders(
            shift in 9u32..=16,
            seed in any::<u64>(),
            extra in 0usize..20,
            before in any::<(u32, u32)>(),
        ) {
            // Every word differs, and high bits are as frequent as low ones.
            let mut state = seed;
            let bytes: Vec<u8> = (0..(1usize << shift) / 8 + extra)
                .flat_map(|_| {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    (state ^ state >> 29).to_le_bytes()
                })
                .collect();
            let before = Checksum::from(before);
            for order in [ByteOrder::Little, ByteOrder::Big] {
                let serial = before.extend_serial(order, &bytes);
                prop_assert_eq!(before.extend(order, &bytes), serial);
                let part = Checksum::part(order, &bytes);
                prop_assert_eq!(Transition::over(bytes.len()).combine(before, part), serial);
            }
        }

        #[test]
        fn combined_parts_equal_the_serial_chain(
            blocks in prop::collection::vec((prop::collection::vec(any::<[u8; 8]>(), 0..80), any::<bool>()), 1..6),
            s0 in any::<u32>(),
            s1 in any::<u32>(),
        ) {
            let order = if blocks[0].1 { ByteOrder::Little } else { ByteOrder::Big };
            let mut serial = Checksum { s0, s1 };
            let mut combined = serial;
            for (pairs, _) in &blocks {
                let bytes = pairs.concat();
                serial = serial.extend_serial(order, &bytes);
                let part = Checksum::default().extend_serial(order, &bytes);
                combined = Transition::over(bytes.len()).combine(combined, part);
            }
            prop_assert_eq!(serial, combined);
            let zeros = Transition::over(8 * blocks.len());
            prop_assert_eq!(zeros.undo(zeros.combine(serial, Checksum::default())), serial);
        }
    }
}
