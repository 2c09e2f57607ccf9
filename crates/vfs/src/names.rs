//! Paths and random numbers of the file systems that are not the machine's own.

use std::path::{Component, Path, PathBuf};
use walmend_sync::Mutex;

/// The one absolute name of a path, worked out from the text alone: there are no links and no directories.
/// Relative paths start at `/`.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut name = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(part) => name.push(part),
            Component::ParentDir => {
                name.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    name
}

/// Repeatable random numbers: the splitmix64 generator (Steele, Lea, Flood: "Fast splittable pseudorandom
/// number generators", OOPSLA 2014).
#[derive(Debug)]
pub(crate) struct Random(Mutex<u64>);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// Another generator that goes on from here as this one does.
    #[cfg(feature = "sim")]
    pub(crate) fn fork(&self) -> Self {
        Self::new(*self.0.lock())
    }

    pub(crate) fn next(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_spellings_of_a_path_are_one_name() {
        for path in ["/a/b", "a/b", "./a//b", "/a/c/../b", "../a/b"] {
            assert_eq!(normal(Path::new(path)), Path::new("/a/b"), "{path}");
        }
    }

    #[test]
    fn the_generator_answers_the_published_sequence() {
        // The first outputs of splitmix64 for the seed 1234567, as widely published for checking.
        let random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }
}
