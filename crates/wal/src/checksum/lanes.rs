//! The part of a block as a dot product, 32 words at a time.
//!
//! The checksum of a block that starts from (0,0) is linear in its words. Counted from the end of the block, the word
//! at distance `d` goes into `s0` with weight `F(d)` and into `s1` with weight `F(d + 1)`, where `F` are the
//! Fibonacci numbers modulo 2^32: the powers of `A = [[1,1],[1,2]]` consist of them. A sum of products has no order,
//! so unlike the chain it fills vector registers.

use super::{ByteOrder, Checksum};
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

/// The longest block that [`part`] takes, in bytes: its weights fill a quarter of a first-level cache.
pub(super) const LONG: usize = 4096;
/// The block for what is left of the smaller pages, in bytes.
pub(super) const SHORT: usize = 512;

/// Sums kept apart. With 16 the compiler's AVX-512 code was 20 times slower.
const LANES: usize = 32;
const WORDS: usize = LONG / 4;

/// `FIBONACCI[WORDS - d]` is `F(d)`, modulo 2^32: in the order of the words, which is from far to near.
static FIBONACCI: [u32; WORDS + 1] = {
    let mut numbers = [0u32; WORDS + 1];
    numbers[WORDS - 1] = 1;
    let mut at = WORDS - 1;
    while at > 0 {
        at -= 1;
        numbers[at] = numbers[at + 1].wrapping_add(numbers[at + 2]);
    }
    numbers
};

/// The part of a block of [`LONG`] or [`SHORT`] bytes, or `None` on a processor where the chain itself is faster: SSE2
/// has no multiplication of four words at once.
#[multiversion(targets("x86_64+avx2+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub(super) fn part(order: ByteOrder, block: &[u8]) -> Option<Checksum> {
    if !target_cfg_f!(target_feature = "avx2") {
        return None;
    }
    Some(match order {
        ByteOrder::Little => dot(block, u32::from_le_bytes),
        ByteOrder::Big => dot(block, u32::from_be_bytes),
    })
}

// Inlined, so that it is compiled for the processor that `part` was chosen for.
#[inline(always)]
fn dot(block: &[u8], word: impl Fn([u8; 4]) -> u32) -> Checksum {
    let words = block.as_chunks::<4>().0;
    let weights = &FIBONACCI[WORDS - words.len()..];
    let (mut sums0, mut sums1) = ([0u32; LANES], [0u32; LANES]);
    let words = words.as_chunks::<LANES>().0;
    let weights0 = weights[1..].as_chunks::<LANES>().0;
    let weights1 = weights.as_chunks::<LANES>().0;
    for ((words, weights0), weights1) in words.iter().zip(weights0).zip(weights1) {
        for lane in 0..LANES {
            let word = word(words[lane]);
            sums0[lane] = sums0[lane].wrapping_add(word.wrapping_mul(weights0[lane]));
            sums1[lane] = sums1[lane].wrapping_add(word.wrapping_mul(weights1[lane]));
        }
    }
    let sum = |sums: [u32; LANES]| sums.into_iter().fold(0, u32::wrapping_add);
    Checksum {
        s0: sum(sums0),
        s1: sum(sums1),
    }
}

#[cfg(all(test, not(walmend_loom), target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn every_processor_with_avx2_uses_the_lanes() {
        let part = part(ByteOrder::Little, &[1; LONG]);
        assert_eq!(part.is_some(), std::arch::is_x86_feature_detected!("avx2"));
    }
}
