//! Waiting for a future on the calling thread, with no runtime: the thread parks, the waker unparks it.

use crate::thread::{self, Thread};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

/// Unparks a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(not(walmend_loom))]
thread_local! {
    static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

/// A waker that unparks the calling thread. Whoever parks must look again afterwards: a thread is also unparked
/// by what an earlier wait left behind.
#[cfg(not(walmend_loom))]
pub fn thread_waker() -> Waker {
    // While a thread ends its locals are gone already, and it can still wait.
    WAKER
        .try_with(Waker::clone)
        .unwrap_or_else(|_| Waker::from(Arc::new(Unpark(thread::current()))))
}

/// A waker that unparks the calling thread. Whoever parks must look again afterwards.
#[cfg(walmend_loom)]
pub fn thread_waker() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

/// Parks the calling thread until it is unparked, or until `deadline` if there is one. Under loom a deadline
/// comes at once, after the other threads had their chance.
pub fn park_until(deadline: Option<Instant>) {
    match deadline {
        None => thread::park(),
        #[cfg(walmend_loom)]
        Some(_) => thread::yield_now(),
        #[cfg(not(walmend_loom))]
        Some(deadline) => thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
    }
}

/// Whether a deadline has come. Under loom every one has, as soon as somebody asks.
pub fn has_passed(deadline: Instant) -> bool {
    cfg!(walmend_loom) || deadline <= Instant::now()
}

/// Runs a future to its end, parking the thread in between.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = thread_waker();
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Runs a future until its end or until `deadline`, whichever comes first; then the future is dropped and
/// the answer is `None`. Under loom the deadline never comes.
pub fn block_on_deadline<F: Future>(future: F, deadline: Instant) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = thread_waker();
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        #[cfg(walmend_loom)]
        {
            let _ = deadline;
            thread::park();
        }
        #[cfg(not(walmend_loom))]
        match deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            Some(left) => thread::park_timeout(left),
            None => return None,
        }
    }
}

#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_ready_future_wins_over_a_passed_deadline() {
        let past = Instant::now() - Duration::from_secs(1);
        assert_eq!(block_on_deadline(async { 7 }, past), Some(7));
    }

    #[test]
    fn a_future_that_never_ends_is_given_up() {
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(block_on_deadline(std::future::pending::<()>(), soon), None);
    }
}
