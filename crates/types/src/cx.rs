//! Cancellation: a token with children and an optional deadline.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use walmend_error::{Error, Result};
use walmend_sync::Mutex;
use walmend_sync::atomic::{AtomicBool, Ordering};

/// A cancellation token that long-running calls carry and look at.
///
/// Cancelling it cancels its children, never its parent. Clones share one token.
///
/// ```
/// use walmend_types::Cx;
///
/// let parent = Cx::new();
/// let child = parent.child();
/// parent.cancel();
/// assert!(child.is_cancelled());
/// assert!(child.check().is_err());
/// ```
#[derive(Clone)]
pub struct Cx(Arc<Inner>);

struct Inner {
    cancelled: AtomicBool,
    started: Instant,
    deadline: Option<Instant>,
    hooks: Mutex<Hooks>,
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Hooks {
    next_id: u64,
    on_cancel: Vec<(u64, Hook)>,
    children: Vec<Weak<Inner>>,
}

impl Cx {
    /// A token that is cancelled only by [`cancel`](Self::cancel).
    pub fn new() -> Self {
        Self::build(false, None)
    }

    /// A token that also counts as cancelled once `timeout` has passed; one too long for the clock never passes.
    pub fn with_timeout(timeout: Duration) -> Self {
        Self::build(false, Instant::now().checked_add(timeout))
    }

    /// A token that is cancelled with this one, and whose deadline is this one's.
    pub fn child(&self) -> Self {
        let mut hooks = self.0.hooks.lock();
        let child = Self::build(self.0.cancelled.load(Ordering::Acquire), self.0.deadline);
        hooks.children.retain(|weak| weak.strong_count() > 0);
        hooks.children.push(Arc::downgrade(&child.0));
        child
    }

    fn build(cancelled: bool, deadline: Option<Instant>) -> Self {
        Self(Arc::new(Inner {
            cancelled: AtomicBool::new(cancelled),
            started: Instant::now(),
            deadline,
            hooks: Mutex::new(Hooks::default()),
        }))
    }

    /// Cancels this token and its children, and runs what [`on_cancel`](Self::on_cancel) left. Idempotent.
    pub fn cancel(&self) {
        let (on_cancel, children) = {
            let mut hooks = self.0.hooks.lock();
            self.0.cancelled.store(true, Ordering::Release);
            (
                std::mem::take(&mut hooks.on_cancel),
                std::mem::take(&mut hooks.children),
            )
        };
        // Outside the lock: a hook may well look at this token.
        for (_, hook) in on_cancel {
            hook();
        }
        for child in children.iter().filter_map(Weak::upgrade) {
            Self(child).cancel();
        }
    }

    /// Whether [`cancel`](Self::cancel) was called on this token or an ancestor. A deadline does not count.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// The deadline, if there is one.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// `Ok` while neither cancelled nor past the deadline.
    ///
    /// # Errors
    /// [`Error::Cancelled`] or [`Error::DeadlineExceeded`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match self.0.deadline {
            Some(deadline) if Instant::now() >= deadline => {
                let waited_ms = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
                Err(Error::DeadlineExceeded { waited_ms })
            }
            _ => Ok(()),
        }
    }

    /// Runs `hook` on cancellation (at once if that has happened), so that a waiting thread can be woken.
    /// Dropping the guard takes the hook back.
    #[must_use = "dropping the guard takes the hook back"]
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) -> CancelGuard {
        let mut hooks = self.0.hooks.lock();
        let id = hooks.next_id;
        hooks.next_id += 1;
        if self.0.cancelled.load(Ordering::Acquire) {
            drop(hooks);
            hook();
        } else {
            hooks.on_cancel.push((id, Box::new(hook)));
        }
        CancelGuard {
            cx: Arc::downgrade(&self.0),
            id,
        }
    }
}

impl Default for Cx {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Cx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx")
            .field("cancelled", &self.is_cancelled())
            .field("deadline", &self.0.deadline)
            .finish_non_exhaustive()
    }
}

/// Keeps a hook of [`Cx::on_cancel`] in place.
pub struct CancelGuard {
    cx: Weak<Inner>,
    id: u64,
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if let Some(cx) = self.cx.upgrade() {
            let mut hooks = cx.hooks.lock();
            if let Some(place) = hooks.on_cancel.iter().position(|(id, _)| *id == self.id) {
                // The hook may own anything: drop it outside the lock.
                let hook = hooks.on_cancel.swap_remove(place);
                drop(hooks);
                drop(hook);
            }
        }
    }
}

impl fmt::Debug for CancelGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelGuard").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::*;
    use walmend_sync::atomic::AtomicUsize;

    #[test]
    fn cancelling_reaches_children_and_their_children_but_not_the_parent() {
        let root = Cx::new();
        let child = root.child();
        let grandchild = child.child();
        child.cancel();
        assert!(grandchild.is_cancelled());
        assert!(!root.is_cancelled());
        assert!(child.child().is_cancelled(), "a child born late is cancelled too");
    }

    #[test]
    fn a_deadline_fails_the_check_without_cancelling() {
        let cx = Cx::with_timeout(Duration::ZERO);
        assert!(matches!(cx.check(), Err(Error::DeadlineExceeded { .. })));
        assert!(matches!(cx.child().check(), Err(Error::DeadlineExceeded { .. })));
        assert!(!cx.is_cancelled());
    }

    #[test]
    fn hooks_run_once_at_cancellation_and_not_after_their_guard_is_gone() {
        let runs = Arc::new(AtomicUsize::new(0));
        let count = |runs: &Arc<AtomicUsize>| {
            let runs = Arc::clone(runs);
            move || {
                runs.fetch_add(1, Ordering::Relaxed);
            }
        };
        let cx = Cx::new();
        let kept = cx.on_cancel(count(&runs));
        drop(cx.on_cancel(count(&runs)));
        cx.cancel();
        cx.cancel();
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        let _late = cx.on_cancel(count(&runs));
        assert_eq!(
            runs.load(Ordering::Relaxed),
            2,
            "a hook set too late runs at once"
        );
        drop(kept);
    }
}
