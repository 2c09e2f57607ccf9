//! Numbers from a seed.

/// Random numbers that a seed repeats, on every machine: the splitmix64 generator (Steele, Lea, Flood: "Fast
/// splittable pseudorandom number generators", OOPSLA 2014). For
/// tests and plans, not for secrets.
///
/// ```
/// use walmend_vfs::Random;
///
/// let mut random = Random(7);
/// let (die, page) = (random.below(6) + 1, random.bytes(4096));
/// assert!((1..=6).contains(&die) && page.len() == 4096);
/// assert_eq!(Random(7).below(6) + 1, die);
/// ```
#[derive(Debug, Clone)]
pub struct Random(
    /// The seed, and later the state.
    pub u64,
);

impl Random {
    /// The next 64 bits.
    #[expect(
        clippy::should_implement_trait,
        reason = "numbers never end: there is no Option"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `limit` - 1, or 0 for a limit that is not above 0. The bias of the remainder does not matter here.
    pub fn below<T: Copy + Default + TryInto<u64> + TryFrom<u64>>(&mut self, limit: T) -> T {
        let drawn = self.next();
        match limit.try_into() {
            Ok(limit) if limit > 0 => T::try_from(drawn % limit).unwrap_or_default(),
            _ => T::default(),
        }
    }

    /// One time in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// So many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_answers_the_published_sequence() {
        // The first outputs of splitmix64 for the seed 1234567, as widely published for checking.
        let mut random = Random(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn what_is_drawn_keeps_to_its_limit_and_reaches_both_ends() {
        let mut random = Random(1);
        let drawn: Vec<usize> = (0..1000).map(|_| random.below(4)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&0), Some(&3)));
        assert_eq!(
            (random.below(0u64), random.below(1u32), random.below(-3i32)),
            (0, 0, 0)
        );
        assert_eq!(random.bytes(13).len(), 13);
        assert!(random.one_in(1));
    }
}
