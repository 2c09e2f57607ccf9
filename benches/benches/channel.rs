//! The way of one request through the two-phase channel, without a log behind it: what the hand-over itself costs.

use criterion::{BenchmarkId, Criterion, Throughput};
use walmend_benches::{request, share_of, timed_threads};
use walmend_commit::{CommitOutcome, CommitSeq, Sent, channel};
use walmend_sync::thread;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    one_thread(&mut criterion);
    many_senders(&mut criterion);
    criterion.final_summary();
}

/// Reserve, send, receive, answer, read the answer, on one thread: nothing ever waits.
fn one_thread(criterion: &mut Criterion) {
    let (sender, mut receiver) = channel(16);
    criterion.bench_function("channel/one_thread", |bencher| {
        bencher.iter(|| {
            let permit = sender.reserve().expect("open");
            let ticket = permit
                .send(request(1, CommitSeq(0), 1).expect("a page"))
                .expect("open");
            answer(receiver.try_recv().expect("sent"));
            ticket.wait()
        });
    });
    // A place that is given back between two others.
    criterion.bench_function("channel/reserve_and_abort", |bencher| {
        bencher.iter(|| sender.reserve().expect("open").abort());
    });
}

/// One thread receives and answers; each sender waits for its answer before it sends again.
fn many_senders(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("channel/senders");
    group.throughput(Throughput::Elements(1));
    for senders in [1, 2, 8] {
        group.bench_function(BenchmarkId::from_parameter(senders), |bencher| {
            bencher.iter_custom(|requests| {
                let (sender, mut receiver) = channel(16);
                let receiving = thread::spawn(move || {
                    while let Ok(sent) = receiver.recv() {
                        answer(sent);
                    }
                });
                let took = timed_threads(senders, |number| {
                    for _ in 0..share_of(requests, senders, number) {
                        let permit = sender.reserve().expect("open");
                        let request = request(1, CommitSeq(0), 1).expect("a page");
                        let outcome = permit.send(request).expect("open").wait();
                        assert!(outcome.is_committed());
                    }
                });
                drop(sender);
                receiving.join().expect("the receiver does not panic");
                took
            });
        });
    }
    group.finish();
}

fn answer(sent: Sent<()>) {
    let commit_seq = CommitSeq(sent.number());
    sent.resolve(CommitOutcome::Committed {
        wal_offset: 0,
        commit_seq,
    });
}
