//! The checksum of the log, per page: word by word, in lanes, and as a part that is combined later.

use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use walmend_wal::{ByteOrder, Checksum, Transition};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    pages(&mut criterion);
    combining(&mut criterion);
    criterion.final_summary();
}

fn pages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum/page");
    for size in [512, 4096, 65_536] {
        let page: Vec<u8> = (0..size).map(|at| (at * 7 + at / 251) as u8).collect();
        group.throughput(Throughput::Bytes(size as u64));
        for (name, order) in [("little", ByteOrder::Little), ("big", ByteOrder::Big)] {
            let seed = Checksum { s0: 1, s1: 2 };
            let serial = BenchmarkId::new(format!("{name}_serial"), size);
            group.bench_with_input(serial, &page, |bencher, page| {
                bencher.iter(|| black_box(seed).extend_serial(order, black_box(page)));
            });
            let lanes = BenchmarkId::new(format!("{name}_lanes"), size);
            group.bench_with_input(lanes, &page, |bencher, page| {
                bencher.iter(|| black_box(seed).extend(order, black_box(page)));
            });
        }
    }
    group.finish();
}

/// What the serial side pays per frame once each part was worked out elsewhere.
fn combining(criterion: &mut Criterion) {
    let transition = Transition::over(8 + 4096);
    let (seed, part) = (Checksum { s0: 1, s1: 2 }, Checksum { s0: 3, s1: 4 });
    criterion.bench_function("checksum/combine", |bencher| {
        bencher.iter(|| transition.combine(black_box(seed), black_box(part)));
    });
    criterion.bench_function("checksum/transition_over_4104_bytes", |bencher| {
        bencher.iter(|| Transition::over(black_box(8 + 4096)));
    });
}
