//! The recovery fence with real threads and a real clock.
#![cfg(not(walmend_loom))]

use std::path::Path;
use std::time::Duration;
use walmend_sync::atomic::{AtomicU32, Ordering};
use walmend_sync::thread;
use walmend_types::{Error, ErrorKind};
use walmend_wal::{FenceGuard, RecoveryFence};

/// Longer than any test takes.
const FOREVER: Duration = Duration::from_secs(600);

#[test]
fn only_one_guard_exists_and_dropping_it_lets_the_next_in() {
    let fence = RecoveryFence::new();
    let clone = fence.clone();
    let guard = fence.try_acquire().unwrap();
    assert!(fence.try_acquire().is_none());
    assert!(clone.try_acquire().is_none());
    drop(guard);
    let guard = clone.acquire(Duration::ZERO).unwrap();
    assert!(fence.try_acquire().is_none());
    drop(guard);
}

#[test]
fn the_default_budget_is_ten_times_100_ms() {
    assert_eq!(RecoveryFence::DEFAULT_BUDGET, 10 * Duration::from_millis(100));
}

#[test]
fn a_used_up_budget_is_busy_and_says_how_long_it_waited() {
    let fence = RecoveryFence::new();
    let guard = fence.try_acquire().unwrap();
    let error = fence.acquire(Duration::from_millis(20)).unwrap_err();
    let Error::BusyRecovery { waited_ms } = error else {
        panic!("{error}");
    };
    assert!(waited_ms >= 20);
    assert!(error.is_transient());
    let error = fence.acquire(Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BusyRecovery);
    // Those who gave up leave nothing behind: the release frees the fence for anybody.
    drop(guard);
    assert!(fence.try_acquire().is_some());
}

#[test]
fn a_parked_waiter_is_woken_by_the_release() {
    let fence = RecoveryFence::new();
    let guard = fence.try_acquire().unwrap();
    thread::scope(|scope| {
        // Whoever is not woken waits for 600 s, and the test with it.
        let waiter = scope.spawn(|| fence.acquire(FOREVER).map(drop));
        thread::sleep(Duration::from_millis(10));
        drop(guard);
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(fence.generation(), 2);
}

#[test]
fn a_budget_that_no_clock_can_hold_waits_all_the_same() {
    let fence = RecoveryFence::new();
    let guard = fence.try_acquire().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| fence.acquire(Duration::MAX).map(drop));
        thread::sleep(Duration::from_millis(5));
        drop(guard);
        waiter.join().unwrap().unwrap();
    });
}

#[test]
fn a_guard_is_owned_and_may_be_dropped_on_another_thread() {
    fn owned<T: Send + 'static>(_: &T) {}
    let fence = RecoveryFence::new();
    let guard: FenceGuard = fence.try_acquire().unwrap();
    owned(&guard);
    thread::spawn(move || drop(guard)).join().unwrap();
    assert_eq!(fence.generation(), 1);
    assert!(fence.try_acquire().is_some());
}

#[test]
fn a_holder_that_panics_releases_the_fence() {
    let fence = RecoveryFence::new();
    let inside = fence.clone();
    let holder = thread::spawn(move || {
        let _guard = inside.try_acquire();
        panic!("on purpose");
    });
    assert!(holder.join().is_err());
    assert!(fence.try_acquire().is_some());
}

#[test]
fn a_storm_of_threads_is_served_one_at_a_time_and_each_release_counts() {
    let fence = RecoveryFence::new();
    let inside = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let guard = fence.acquire(FOREVER).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                    std::hint::black_box((0..200).sum::<u32>());
                    assert_eq!(inside.fetch_sub(1, Ordering::Relaxed), 1);
                    drop(guard);
                }
            });
        }
    });
    assert_eq!(fence.generation(), 8 * 200);
}

#[test]
fn waiters_that_give_up_among_others_never_take_the_fence_with_them() {
    let fence = RecoveryFence::new();
    let served = AtomicU32::new(0);
    thread::scope(|scope| {
        for worker in 0..6u64 {
            let (fence, served) = (&fence, &served);
            scope.spawn(move || {
                for round in 0..100 {
                    // Budgets around the time that others hold it, so that many run out just then.
                    let budget = Duration::from_micros((worker * 37 + round * 13) % 300);
                    if let Ok(guard) = fence.acquire(budget) {
                        served.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_micros(50));
                        drop(guard);
                    }
                }
            });
        }
    });
    assert_eq!(fence.generation(), served.load(Ordering::Relaxed).into());
    assert!(fence.try_acquire().is_some());
}

#[test]
fn one_path_has_one_fence_in_the_process_while_anybody_holds_on_to_it() {
    let path = Path::new("/fence-test/a.db");
    let guard = RecoveryFence::for_path(path).try_acquire().unwrap();
    // The fence itself is gone, but its guard keeps it.
    assert!(RecoveryFence::for_path(path).try_acquire().is_none());
    assert!(
        RecoveryFence::for_path(Path::new("/fence-test/b.db"))
            .try_acquire()
            .is_some()
    );
    drop(guard);
    let fence = RecoveryFence::for_path(path);
    assert!(fence.try_acquire().is_some());
    assert_eq!(RecoveryFence::for_path(path).generation(), fence.generation());
}
