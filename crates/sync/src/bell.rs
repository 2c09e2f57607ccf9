//! A bell: many threads wait for it, and one call wakes them all.
//!
//! On Linux a bell is one futex word, so waking sixty threads is one system call and not sixty; elsewhere, and under
//! loom, a mutex and a condition variable stand behind the same word.

use crate::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// The lowest bit of the word: somebody may be asleep. The others count how often the bell was rung.
const ASLEEP: u32 = 1;
const ONE_RING: u32 = 2;

/// Wakes threads that wait for news, which stand somewhere else: what is rung for has to be there before the ring, and
/// whoever waits [listens](Self::listen) first, then looks for the news, and only then [waits](Self::wait). Each bell
/// has a cache line of its own.
///
/// ```
/// use walmend_sync::{Bell, Mutex, thread};
///
/// let (bell, news) = (Bell::new(), Mutex::new(None));
/// thread::scope(|scope| {
///     scope.spawn(|| {
///         *news.lock() = Some("rain");
///         bell.ring_all();
///     });
///     loop {
///         let heard = bell.listen();
///         if news.lock().is_some() {
///             break;
///         }
///         bell.wait(heard, None);
///     }
/// });
/// ```
#[derive(Debug)]
#[repr(align(64))]
pub struct Bell {
    word: Word,
}

/// How often a bell had been rung; see [`Bell::listen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard(u32);

impl Bell {
    /// A bell that nobody waits for.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "loom's parts have no default")]
    pub fn new() -> Self {
        Self { word: Word::new() }
    }

    /// What was heard up to now. News that came before a ring that was heard are seen afterwards.
    pub fn listen(&self) -> Heard {
        // Acquire, with the Release of a ring.
        Heard(self.word.value.load(Ordering::Acquire) & !ASLEEP)
    }

    /// Sleeps until the bell is rung once more than was `heard`, or until the deadline, if there is one; sometimes not
    /// as long. Under loom a deadline comes at once, after the other threads had their chance.
    pub fn wait(&self, heard: Heard, deadline: Option<Instant>) {
        let asleep = heard.0 | ASLEEP;
        // Whoever rings from here on sees that somebody sleeps; and if it has rung already, nobody does.
        let told = self
            .word
            .value
            .compare_exchange(heard.0, asleep, Ordering::Relaxed, Ordering::Relaxed);
        match told {
            Ok(_) => self.word.sleep(asleep, deadline),
            Err(now) if now == asleep => self.word.sleep(asleep, deadline),
            Err(_) => {}
        }
    }

    /// Wakes everybody.
    pub fn ring_all(&self) {
        let value = &self.word.value;
        let mut old = value.load(Ordering::Relaxed);
        // Nobody sleeps afterwards, so the next ring has nobody to wake.
        while let Err(now) = value.compare_exchange_weak(
            old,
            (old & !ASLEEP).wrapping_add(ONE_RING),
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            old = now;
        }
        if old & ASLEEP != 0 {
            self.word.wake_all();
        }
    }

    /// Wakes one of those that sleep. Whoever is about to sleep does not, so more than one may look for the news.
    pub fn ring_one(&self) {
        if self.word.value.fetch_add(ONE_RING, Ordering::Release) & ASLEEP != 0 {
            self.word.wake_one();
        }
    }
}

#[cfg(all(target_os = "linux", not(walmend_loom)))]
use linux::Word;
#[cfg(not(all(target_os = "linux", not(walmend_loom))))]
use portable::Word;

#[cfg(all(target_os = "linux", not(walmend_loom)))]
mod linux {
    use super::{AtomicU32, Instant};
    use rustix::thread::futex::{self, Flags, Timespec};

    #[derive(Debug)]
    pub(super) struct Word {
        pub(super) value: AtomicU32,
    }

    impl Word {
        pub(super) fn new() -> Self {
            Self {
                value: AtomicU32::new(0),
            }
        }

        /// Sleeps if the word is still what it is expected to be, which the kernel looks at under its own lock.
        pub(super) fn sleep(&self, expected: u32, deadline: Option<Instant>) {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // A time that the kernel cannot count is as good as none.
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            // Rung, not expected any more, interrupted, or too late: whoever waits looks for itself.
            let _ = futex::wait(&self.value, Flags::PRIVATE, expected, timeout.as_ref());
        }

        pub(super) fn wake_one(&self) {
            self.wake(1);
        }

        pub(super) fn wake_all(&self) {
            self.wake(i32::MAX as u32);
        }

        fn wake(&self, sleepers: u32) {
            // It fails only for a word that is no memory.
            let _ = futex::wake(&self.value, Flags::PRIVATE, sleepers);
        }
    }
}

#[cfg(any(test, walmend_loom, not(target_os = "linux")))]
mod portable {
    use super::{AtomicU32, Instant, Ordering};
    use crate::{Condvar, Mutex};

    #[derive(Debug)]
    pub(super) struct Word {
        pub(super) value: AtomicU32,
        asleep: Mutex<()>,
        rung: Condvar,
    }

    impl Word {
        pub(super) fn new() -> Self {
            Self {
                value: AtomicU32::new(0),
                asleep: Mutex::new(()),
                rung: Condvar::new(),
            }
        }

        pub(super) fn sleep(&self, expected: u32, deadline: Option<Instant>) {
            let asleep = self.asleep.lock();
            if self.value.load(Ordering::Relaxed) != expected {
                return;
            }
            match deadline {
                None => drop(self.rung.wait(asleep)),
                #[cfg(walmend_loom)]
                Some(_) => {
                    drop(asleep);
                    crate::thread::yield_now();
                }
                #[cfg(not(walmend_loom))]
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    drop(self.rung.wait_timeout(asleep, left));
                }
            }
        }

        pub(super) fn wake_one(&self) {
            // Whoever found the word as expected is asleep once this lock is free.
            drop(self.asleep.lock());
            self.rung.notify_one();
        }

        pub(super) fn wake_all(&self) {
            drop(self.asleep.lock());
            self.rung.notify_all();
        }
    }
}

#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::*;
    use crate::{has_passed, thread};
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn whoever_listened_before_the_ring_does_not_sleep() {
        let bell = Bell::new();
        let heard = bell.listen();
        bell.ring_all();
        bell.wait(heard, None);
        let heard = bell.listen();
        bell.ring_one();
        bell.wait(heard, None);
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let bell = Bell::new();
        let deadline = Instant::now() + Duration::from_millis(2);
        while !has_passed(deadline) {
            bell.wait(bell.listen(), Some(deadline));
        }
    }

    #[test]
    fn one_ring_wakes_everybody() {
        let (bell, news) = (Arc::new(Bell::new()), Arc::new(crate::Mutex::new(false)));
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let (bell, news) = (Arc::clone(&bell), Arc::clone(&news));
                thread::spawn(move || {
                    loop {
                        let heard = bell.listen();
                        if *news.lock() {
                            return;
                        }
                        bell.wait(heard, None);
                    }
                })
            })
            .collect();
        *news.lock() = true;
        bell.ring_all();
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// What stands behind a bell where there is no futex.
    #[test]
    fn the_portable_word_sleeps_only_while_it_is_what_was_expected() {
        let word = Arc::new(portable::Word::new());
        word.sleep(1, None);
        let past = Instant::now() - Duration::from_secs(1);
        word.sleep(0, Some(past));
        let sleeper = {
            let word = Arc::clone(&word);
            thread::spawn(move || {
                while word.value.load(Ordering::Acquire) == 0 {
                    word.sleep(0, None);
                }
            })
        };
        word.value.store(1, Ordering::Release);
        word.wake_one();
        word.wake_all();
        sleeper.join().unwrap();
    }
}
