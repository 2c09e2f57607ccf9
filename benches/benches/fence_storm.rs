//! The recovery fence under a storm: 8 threads, 4 acquisitions each, each held for about a microsecond.
//! The whole storm is to end well under 50 ms.

use criterion::Criterion;
use std::hint::black_box;
use std::time::{Duration, Instant};
use walmend_benches::timed_threads;
use walmend_sync::hint;
use walmend_wal::RecoveryFence;

const THREADS: usize = 8;
const ACQUISITIONS: u64 = 4;
const HELD: Duration = Duration::from_micros(1);

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("fence/storm_of_8_threads", |bencher| {
        bencher.iter_custom(|storms| (0..storms).map(|_| storm()).sum());
    });
    criterion.bench_function("fence/uncontended", |bencher| {
        let fence = RecoveryFence::new();
        bencher.iter(|| drop(black_box(fence.try_acquire())));
    });
    criterion.final_summary();
}

fn storm() -> Duration {
    let fence = RecoveryFence::new();
    let took = timed_threads(THREADS, |_| {
        for _ in 0..ACQUISITIONS {
            let guard = fence
                .acquire(RecoveryFence::DEFAULT_BUDGET)
                .expect("well within the budget");
            let since = Instant::now();
            while since.elapsed() < HELD {
                hint::spin_loop();
            }
            drop(guard);
        }
    });
    assert_eq!(fence.generation(), THREADS as u64 * ACQUISITIONS);
    took
}
