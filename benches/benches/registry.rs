//! The lock registry: what one operation costs with few and with many locks registered. The cost must not grow with
//! their number.

use criterion::Criterion;
use std::hint::black_box;
use std::time::Instant;
use walmend_commit::PageNumber;
use walmend_wal::{LockOwner, LockRegistry};

/// An owner of this machine that differs in its number alone.
fn owner(pid: u32) -> LockOwner {
    LockOwner {
        pid,
        ..LockOwner::current()
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let owners: Vec<LockOwner> = (1..=16).map(owner).collect();
    for locks in [100u32, 10_000, 100_000] {
        let registry = LockRegistry::new();
        for number in 0..locks {
            registry.register(page(number + 1), owners[number as usize % owners.len()]);
        }
        let mut next = 0;
        criterion.bench_function(&format!("registry/register_and_deregister/{locks}"), |bencher| {
            bencher.iter(|| {
                next = (next + 7919) % locks;
                let added = page(locks + 1 + next);
                let sequence = registry.register(added, black_box(owners[3]));
                registry.deregister(added, owners[3]);
                sequence
            });
        });
        criterion.bench_function(&format!("registry/register_again/{locks}"), |bencher| {
            bencher.iter(|| {
                next = (next + 7919) % locks;
                registry.register(page(next + 1), owners[next as usize % owners.len()])
            });
        });
    }
    criterion.bench_function("registry/100000_registrations", |bencher| {
        bencher.iter_custom(|rounds| {
            let started = Instant::now();
            for _ in 0..rounds {
                let registry = LockRegistry::new();
                for number in 1..=100_000 {
                    registry.register(page(number), owners[number as usize % owners.len()]);
                }
                black_box(registry.len());
            }
            started.elapsed()
        });
    });
    criterion.final_summary();
}

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).expect("not 0")
}
