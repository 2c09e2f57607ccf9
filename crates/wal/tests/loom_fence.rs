//! Models of the recovery fence. Time passes where a model says so, by `expire`.
#![cfg(walmend_loom)]

use std::sync::{Arc, OnceLock};
use std::time::Duration;
use walmend_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use walmend_sync::model::{Builder, model};
use walmend_sync::thread;
use walmend_types::ErrorKind;
use walmend_wal::RecoveryFence;

/// Under loom a budget never runs out by itself.
const BUDGET: Duration = RecoveryFence::DEFAULT_BUDGET;

/// Up to this many preemptions; three threads without a bound take hours.
fn bounded(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// What the fence protects. It fails a model in which two are inside at once.
#[derive(Default)]
struct Inside {
    taken: AtomicBool,
    /// loom returns only to the *last* access of each object. Without an access that a holder shares with one who
    /// is still to come, it never tries the order in which the latter parks before the release.
    steps: AtomicU64,
}

impl Inside {
    fn arrive(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    fn visit(&self) {
        assert!(!self.taken.swap(true, Ordering::Relaxed), "two hold the fence");
        self.steps.fetch_add(1, Ordering::Relaxed);
        assert!(self.taken.swap(false, Ordering::Relaxed));
    }
}

/// Notes what happened in any run of a model: a model that never gets there proves nothing.
#[derive(Default, Clone)]
struct Seen(Arc<OnceLock<()>>);

impl Seen {
    fn note(&self) {
        let _ = self.0.set(());
    }

    fn was(&self) -> bool {
        self.0.get().is_some()
    }
}

/// Each thread acquires once; then the fence is free, and as many releases were counted.
fn all_are_served(threads: usize) {
    let fence = RecoveryFence::new();
    let inside = Arc::new(Inside::default());
    let others: Vec<_> = (1..threads)
        .map(|_| {
            let (fence, inside) = (fence.clone(), Arc::clone(&inside));
            thread::spawn(move || {
                inside.arrive();
                let _guard = fence.acquire(BUDGET).unwrap();
                inside.visit();
            })
        })
        .collect();
    let guard = fence.acquire(BUDGET).unwrap();
    inside.visit();
    drop(guard);
    for other in others {
        other.join().unwrap();
    }
    assert_eq!(fence.generation(), threads as u64);
    assert!(fence.try_acquire().is_some());
}

#[test]
fn two_acquire_at_once() {
    model(|| all_are_served(2));
}

#[test]
fn three_acquire_at_once() {
    bounded(3, || all_are_served(3));
}

#[test]
fn release_while_another_is_about_to_park() {
    model(|| {
        let fence = RecoveryFence::new();
        let guard = fence.try_acquire().unwrap();
        let releaser = thread::spawn(move || drop(guard));
        // After a lost wake-up this parks for good, which loom reports as a deadlock.
        drop(fence.acquire(BUDGET).unwrap());
        releaser.join().unwrap();
        assert_eq!(fence.generation(), 2);
        assert!(fence.try_acquire().is_some());
    });
}

#[test]
fn try_acquire_during_a_hand_over() {
    bounded(3, || {
        let fence = RecoveryFence::new();
        let inside = Arc::new(Inside::default());
        let guard = fence.try_acquire().unwrap();
        let waiter = thread::spawn({
            let (fence, inside) = (fence.clone(), Arc::clone(&inside));
            move || {
                inside.arrive();
                let _guard = fence.acquire(BUDGET).unwrap();
                inside.visit();
            }
        });
        let barger = thread::spawn({
            let (fence, inside) = (fence.clone(), Arc::clone(&inside));
            move || match fence.try_acquire() {
                Some(_guard) => {
                    inside.visit();
                    1
                }
                None => 0,
            }
        });
        inside.visit();
        drop(guard);
        waiter.join().unwrap();
        let barged = barger.join().unwrap();
        assert_eq!(fence.generation(), 2 + barged);
    });
}

#[test]
fn expiry_while_the_fence_is_released() {
    let (held, gave_up) = (Seen::default(), Seen::default());
    let notes = (held.clone(), gave_up.clone());
    bounded(3, move || {
        let (held, gave_up) = &notes;
        let fence = RecoveryFence::new();
        let guard = fence.try_acquire().unwrap();
        let clock = thread::spawn({
            let fence = fence.clone();
            move || fence.expire(0)
        });
        let releaser = thread::spawn(move || drop(guard));
        let served = match fence.acquire(BUDGET) {
            Ok(guard) => {
                held.note();
                assert!(fence.try_acquire().is_none());
                drop(guard);
                1
            }
            Err(error) => {
                gave_up.note();
                assert_eq!(error.kind(), ErrorKind::BusyRecovery);
                0
            }
        };
        clock.join().unwrap();
        releaser.join().unwrap();
        // Held or given up, and in both cases the fence is free afterwards: no hand-over went to nobody.
        assert_eq!(fence.generation(), 1 + served);
        assert!(fence.try_acquire().is_some());
    });
    assert!(held.was() && gave_up.was());
}

#[test]
fn expiry_of_the_first_waiter_while_a_second_one_queues() {
    let (both, one) = (Seen::default(), Seen::default());
    let notes = (both.clone(), one.clone());
    bounded(2, move || {
        let (both, one) = &notes;
        let fence = RecoveryFence::new();
        let guard = fence.try_acquire().unwrap();
        let waiter = thread::spawn({
            let fence = fence.clone();
            move || u64::from(fence.acquire(BUDGET).map(drop).is_ok())
        });
        let clock = thread::spawn({
            let fence = fence.clone();
            move || {
                fence.expire(0);
                drop(guard);
            }
        });
        let served_here = u64::from(fence.acquire(BUDGET).map(drop).is_ok());
        let served = served_here + waiter.join().unwrap();
        clock.join().unwrap();
        // Only the first in the queue could run out of time.
        match served {
            1 => one.note(),
            2 => both.note(),
            _ => panic!("{served} were served"),
        }
        assert_eq!(fence.generation(), 1 + served);
        assert!(fence.try_acquire().is_some());
    });
    assert!(both.was() && one.was());
}

#[test]
fn what_one_holder_wrote_the_next_one_sees() {
    model(|| {
        let fence = RecoveryFence::new();
        let value = Arc::new(AtomicU64::new(0));
        let add = |fence: &RecoveryFence, value: &AtomicU64| {
            let _guard = fence.acquire(BUDGET).unwrap();
            let seen = value.load(Ordering::Relaxed);
            value.store(seen + 1, Ordering::Relaxed);
        };
        let other = thread::spawn({
            let (fence, value) = (fence.clone(), Arc::clone(&value));
            move || add(&fence, &value)
        });
        add(&fence, &value);
        other.join().unwrap();
        assert_eq!(value.load(Ordering::Relaxed), 2);
    });
}
