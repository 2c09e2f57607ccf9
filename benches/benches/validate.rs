//! What it costs to find conflicts, by the length of the history: it is to be that of the write set alone.

use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use walmend_commit::{CommitSeq, FirstCommitterWins, PageNumber, TxnId, WriteSet, WriteSetValidator};

/// Pages of one request.
const PAGES: u32 = 4;
/// Requests that take turns.
const REQUESTS: u32 = 4096;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("validate");
    group.throughput(Throughput::Elements(1));
    for history in [10_000, 10_000_000] {
        // Snapshots come and go: what they cannot conflict with is forgotten.
        let mut bench = Bench::after(history, false);
        group.bench_function(BenchmarkId::new("pruned", history), |bencher| {
            bencher.iter(|| bench.commit());
        });
    }
    for history in [10_000, 10_000_000] {
        // One old snapshot, and every page that was ever committed has to be remembered.
        let mut bench = Bench::after(history, true);
        group.bench_function(BenchmarkId::new("old_snapshot", history), |bencher| {
            bencher.iter(|| bench.commit());
        });
    }
    group.finish();
    criterion.final_summary();
}

struct Bench {
    validator: FirstCommitterWins,
    requests: Vec<WriteSet>,
    last: u64,
    old_snapshot: bool,
}

impl Bench {
    /// After one commit for each of `history` pages.
    fn after(history: u32, old_snapshot: bool) -> Self {
        let page = |number| PageNumber::new(number).expect("from 1");
        // Spread over the history by a multiplication that hits every page of it once (Fibonacci hashing).
        let spread = |number: u32| 1 + (u64::from(number) * 2_654_435_761 % u64::from(history)) as u32;
        let request = |number: u32| WriteSet::new((0..PAGES).map(|at| page(spread(number * PAGES + at))));
        let mut bench = Self {
            validator: FirstCommitterWins::new(history),
            requests: (0..REQUESTS).map(request).collect(),
            last: 0,
            old_snapshot,
        };
        for number in 1..=history {
            bench.admit(&WriteSet::new([page(number)]));
        }
        bench
    }

    fn commit(&mut self) {
        let writes = self.requests[(self.last % u64::from(REQUESTS)) as usize].clone();
        self.admit(black_box(&writes));
    }

    /// Admits and publishes one request that conflicts with nothing.
    fn admit(&mut self, writes: &WriteSet) {
        let snapshot = CommitSeq(self.last);
        self.last += 1;
        let admitted = self
            .validator
            .admit(TxnId(self.last), snapshot, writes, None, CommitSeq(self.last));
        assert!(admitted.is_ok(), "everybody has seen everything");
        let oldest = if self.old_snapshot { 0 } else { self.last };
        self.validator.published(CommitSeq(self.last), CommitSeq(oldest));
    }
}
