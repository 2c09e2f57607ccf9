//! Group commit over a log in memory whose sync takes 50 us, as on a fast disk; and over one that does nothing, for what
//! the batch path itself costs.

use criterion::{BenchmarkId, Criterion, Throughput};
use std::time::{Duration, Instant};
use walmend_benches::{request, share_of, timed_threads};
use walmend_commit::{
    Append, AppendFailure, BatchEntry, CommitSeq, Cx, FirstCommitterWins, GroupCommit, GroupConfig,
    MemoryWriter, Pipeline, Result, Sent, WalBatchSync, WalBatchWriter, channel, spawn,
};

const SYNC: Duration = Duration::from_micros(50);

/// Ten pages, each written by one transaction.
const PAGES: u32 = 10;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    ten_commits(&mut criterion);
    writers(&mut criterion);
    batch_path(&mut criterion);
    lone_writer(&mut criterion);
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

/// A log that keeps nothing and takes no time.
#[derive(Clone)]
struct NoLog;

impl WalBatchWriter<()> for NoLog {
    type Mark = ();
    type Sync = Self;

    fn sync_half(&self) -> Self {
        self.clone()
    }

    fn append_batch(&mut self, batch: &[BatchEntry<'_, ()>]) -> Result<Append<()>, AppendFailure> {
        Ok(Append {
            offsets: vec![0; batch.len()],
            tokens: Vec::new(),
            mark: (),
        })
    }

    fn discard_append(&mut self) -> Result<()> {
        Ok(())
    }
}

impl WalBatchSync<()> for NoLog {
    fn sync(&self, (): &()) -> Result<()> {
        Ok(())
    }

    fn publish(&self, (): ()) {}
}

/// Validation, the four phases and the answers of one batch, on one thread.
fn batch_path(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("group_commit/batch_path");
    for size in [1u32, 8, 64] {
        let mut group = GroupCommit::new(NoLog, FirstCommitterWins::new(0), GroupConfig::default());
        let mut last = CommitSeq(0);
        bench.throughput(Throughput::Elements(size.into()));
        bench.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let (batch, tickets): (Vec<_>, Vec<_>) = (1..=size)
                    .map(|page| Sent::new(1, request(1, last, page).expect("a page")))
                    .unzip();
                group.process_batch(batch);
                for ticket in tickets {
                    last = ticket.wait().into_result().expect("no conflict");
                }
            });
        });
    }
    bench.finish();
}

/// A writer that leads its own batches, from the first phase to its answer: what a commit costs beside the log.
fn lone_writer(criterion: &mut Criterion) {
    let group = GroupCommit::new(NoLog, FirstCommitterWins::new(0), GroupConfig::default());
    let pipeline = Pipeline::start(group, 16).expect("a thread");
    let mut last = CommitSeq(0);
    criterion.bench_function("group_commit/lone_writer", |bencher| {
        bencher.iter(|| {
            let outcome = pipeline.commit(request(1, last, 1).expect("a page"));
            last = outcome.into_result().expect("nobody else writes");
        });
    });
}
