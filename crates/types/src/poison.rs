//! The latch that ends all writing after the first failure that leaves durability in doubt.

use std::sync::{Arc, OnceLock};
use walmend_error::{Error, Result};

/// Set once, by the first failure, and never cleared: only reopening starts afresh.
///
/// After a failed sync the kernel may have marked the pages clean, so that the next sync "succeeds" without
/// them (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020). Hence no retry.
/// Clones share one latch.
#[derive(Debug, Clone, Default)]
pub struct Poison(Arc<OnceLock<Error>>);

impl Poison {
    /// A latch that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Latches the failure, unless an earlier one already stands; answers whether this one is the first.
    pub fn set(&self, error: Error) -> bool {
        self.0.set(error).is_ok()
    }

    /// The first failure, if there was one.
    pub fn reason(&self) -> Option<&Error> {
        self.0.get()
    }

    /// `Ok` while the latch is not set.
    ///
    /// # Errors
    /// [`Error::Poisoned`], naming the first failure.
    pub fn check(&self) -> Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some(first) => Err(Error::Poisoned {
                reason: first.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_stands_in_every_clone() {
        let latch = Poison::new();
        let other = latch.clone();
        assert!(latch.check().is_ok());
        assert!(other.set(Error::Internal("first".into())));
        assert!(!latch.set(Error::Internal("second".into())));
        assert!(latch.check().unwrap_err().to_string().contains("first"));
    }
}
