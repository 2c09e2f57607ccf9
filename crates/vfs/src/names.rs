//! Paths and random numbers of the file systems that are not the machine's own.

use crate::random::Random;
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

/// A generator that threads share.
#[derive(Debug)]
pub(crate) struct SharedRandom(Mutex<Random>);

impl SharedRandom {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(Random(seed)))
    }

    /// Another generator that goes on from here as this one does.
    #[cfg(feature = "sim")]
    pub(crate) fn fork(&self) -> Self {
        Self::new(self.0.lock().0)
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.lock().next()
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
}
