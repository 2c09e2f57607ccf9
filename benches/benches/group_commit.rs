//! Group commit over a log in memory whose sync takes 50 us, as on a fast disk.

use criterion::{BenchmarkId, Criterion, Throughput};
use std::time::{Duration, Instant};
use walmend_benches::{request, share_of, timed_threads};
use walmend_commit::{
    CommitSeq, Cx, FirstCommitterWins, GroupCommit, GroupConfig, MemoryWriter, Sent, channel, spawn,
};

const SYNC: Duration = Duration::from_micros(50);

/// Ten pages, each written by one transaction.
const PAGES: u32 = 10;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    ten_commits(&mut criterion);
    writers(&mut criterion);
    criterion.final_summary();
}

fn group() -> GroupCommit<(), MemoryWriter<()>, FirstCommitterWins> {
    let log = MemoryWriter::new();
    log.set_sync_delay(SYNC);
    GroupCommit::new(log, FirstCommitterWins::new(0), GroupConfig::default())
}

/// What batching saves: ten commits in one batch against ten batches of one.
fn ten_commits(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("group_commit/ten_commits");
    for (name, batch) in [("one_batch", PAGES), ("ten_batches", 1)] {
        bench.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut group = group();
                let mut last = CommitSeq(0);
                let started = Instant::now();
                for _ in 0..rounds {
                    let pages: Vec<u32> = (1..=PAGES).collect();
                    for pages in pages.chunks(batch as usize) {
                        last = commit_all(&mut group, last, pages);
                    }
                }
                started.elapsed()
            });
        });
    }
    bench.finish();
}

/// Commits one request per page in one batch; answers the last commit number.
fn commit_all(
    group: &mut GroupCommit<(), MemoryWriter<()>, FirstCommitterWins>,
    last: CommitSeq,
    pages: &[u32],
) -> CommitSeq {
    let (batch, tickets): (Vec<_>, Vec<_>) = pages
        .iter()
        .map(|page| Sent::new(1, request(1, last, *page).expect("a page")))
        .unzip();
    group.process_batch(batch);
    let outcomes = tickets.into_iter().map(|ticket| ticket.wait().into_result());
    outcomes.last().expect("at least one page").expect("no conflict")
}

/// Writers on threads of their own, through the channel; the time of one commit among them.
fn writers(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("group_commit/writers");
    bench.throughput(Throughput::Elements(1));
    for count in [1, 4, 16] {
        bench.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter_custom(|commits| {
                let (sender, receiver) = channel(16);
                let cx = Cx::new();
                let thread = spawn(group(), receiver, cx.clone()).expect("a thread");
                let took = timed_threads(count, |number| {
                    let page = number as u32 + 1;
                    let mut snapshot = CommitSeq(0);
                    for _ in 0..share_of(commits, count, number) {
                        let request = request(1, snapshot, page).expect("a page");
                        let ticket = sender.reserve().and_then(|permit| Ok(permit.send(request)?));
                        let outcome = ticket.expect("open").wait();
                        snapshot = outcome.into_result().expect("nobody else writes this page");
                    }
                });
                cx.cancel();
                thread.join().expect("the loop catches panics");
                took
            });
        });
    }
    bench.finish();
}
