//! Models of the pipeline: leadership and its hand-over, the crew, and the end. Each one is named after what must hold,
//! and says which race it hunts.
//!
//! `RUSTFLAGS="--cfg walmend_loom" cargo test -p walmend-commit --release --test loom_pipeline`
//!
//! Planted one at a time, to see that the models can fail, each of these bugs stopped the model named:
//! an end of a sync that tells nobody to look: `the_end_of_a_sync_finds_the_next_leader`, `closing_waits_for_what_was_sent`;
//! a writer that is called to look and not woken: `two_writers_lead_or_follow_and_both_are_answered` and six more;
//! bells that are rung before the answers are there: the same one and two more;
//! a writer that listens to its bell only after it has looked for its answer: several, by a deadlock.
//! A writer that leaves with a call to look is not found here: see the test at the end of src/channel/lead.rs.
#![cfg(walmend_loom)]

use std::sync::Arc;
use std::time::Duration;
use walmend_commit::*;
use walmend_sync::{model, thread};

type TestPipeline = Pipeline<u64, MemoryWriter<u64>, FirstCommitterWins>;

fn explore(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

fn request(txn: u64) -> CommitRequest<u64> {
    CommitRequest::new(TxnId(txn), CommitSeq(0), WriteSet::default(), txn)
}

/// A model has no clock, so nobody waits for company.
fn start(capacity: i64, config: GroupConfig) -> (MemoryWriter<u64>, Arc<TestPipeline>) {
    let log = MemoryWriter::new();
    let group = GroupCommit::new(log.clone(), FirstCommitterWins::new(0), config.gather(false));
    let pipeline = Pipeline::start(group, capacity).unwrap();
    (log, Arc::new(pipeline))
}

/// Commits, and sees that it is published by the time of the answer.
fn commit(log: &MemoryWriter<u64>, pipeline: &TestPipeline, txn: u64) {
    assert!(pipeline.commit(request(txn)).is_committed());
    assert!(log.published().iter().any(|commit| commit.payload == txn));
}

fn committing(
    log: &MemoryWriter<u64>,
    pipeline: &Arc<TestPipeline>,
    txns: impl IntoIterator<Item = u64> + Send + 'static,
) -> thread::JoinHandle<()> {
    let (log, pipeline) = (log.clone(), Arc::clone(pipeline));
    thread::spawn(move || txns.into_iter().for_each(|txn| commit(&log, &pipeline, txn)))
}

fn assert_published(log: &MemoryWriter<u64>, count: u64) {
    let published = log.published();
    let seqs: Vec<u64> = published.iter().map(|commit| commit.commit_seq.0).collect();
    assert!(seqs.iter().copied().eq(1..=count), "{seqs:?}");
    let mut txns: Vec<u64> = published.iter().map(|commit| commit.payload).collect();
    txns.sort_unstable();
    txns.dedup();
    assert_eq!(txns.len() as u64, count);
}

/// Race: one writer arrives while the other one takes a batch, appends it, begins its sync, ends it, or answers.
#[test]
fn two_writers_lead_or_follow_and_both_are_answered() {
    explore(3, || {
        let (log, pipeline) = start(2, GroupConfig::default());
        let other = committing(&log, &pipeline, [2]);
        commit(&log, &pipeline, 1);
        other.join().unwrap();
        assert_published(&log, 2);
    });
}

/// Race: with batches of one, leadership changes hands at each request, and a batch is appended while the one before
/// it is in its sync.
#[test]
fn leadership_goes_back_and_forth_between_two_writers() {
    explore(2, || {
        let (log, pipeline) = start(2, GroupConfig::default().batch_limit(1));
        let other = committing(&log, &pipeline, [3, 4]);
        commit(&log, &pipeline, 1);
        commit(&log, &pipeline, 2);
        other.join().unwrap();
        assert_published(&log, 4);
    });
}

/// Race: with one place, each writer waits for a place and then for leadership.
#[test]
fn two_writers_through_one_place_are_all_served() {
    explore(2, || {
        let (log, pipeline) = start(1, GroupConfig::default());
        let other = committing(&log, &pipeline, [3, 4]);
        commit(&log, &pipeline, 1);
        commit(&log, &pipeline, 2);
        other.join().unwrap();
        assert_published(&log, 4);
    });
}

/// Race: a writer arrives while another one leads, and writers that were answered before are still away: nobody
/// is told to lead when the sync begins, so somebody must be when it ends.
#[test]
fn the_end_of_a_sync_finds_the_next_leader() {
    explore(2, || {
        let (log, pipeline) = start(4, GroupConfig::default());
        // Three in the first batch, of whom two will not be back.
        let sender = pipeline.sender().unwrap();
        let tickets = [10, 11].map(|txn| sender.reserve().unwrap().send(request(txn)).unwrap());
        commit(&log, &pipeline, 12);
        assert!(tickets.into_iter().all(|ticket| ticket.wait().is_committed()));
        let other = committing(&log, &pipeline, [2]);
        commit(&log, &pipeline, 1);
        other.join().unwrap();
        assert_published(&log, 5);
    });
}

/// Race: a request without a thread of its own comes while a writer leads, ends its lead, or has gone, and its ticket
/// is dropped at once: the crew commits it all the same, and then learns of the end.
#[test]
fn the_crew_commits_what_nobody_waits_for() {
    explore(2, || {
        let (log, pipeline) = start(2, GroupConfig::default());
        let crew = {
            let pipeline = Arc::clone(&pipeline);
            thread::spawn(move || pipeline.serve(0))
        };
        let permit = pipeline.sender().unwrap().reserve().unwrap();
        drop(permit.send(request(1)).unwrap());
        commit(&log, &pipeline, 2);
        pipeline.close();
        crew.join().unwrap();
        assert_published(&log, 2);
    });
}

/// Race: both of the crew look, wait, and are told, while a request comes and the pipeline is closed.
#[test]
fn a_ticket_is_answered_by_either_of_the_crew_and_both_learn_of_the_end() {
    explore(2, || {
        let (log, pipeline) = start(1, GroupConfig::default());
        let crew = [0, 1].map(|member| {
            let pipeline = Arc::clone(&pipeline);
            thread::spawn(move || pipeline.serve(member))
        });
        let permit = pipeline.sender().unwrap().reserve().unwrap();
        let ticket = permit.send(request(1)).unwrap();
        assert!(ticket.wait().is_committed());
        pipeline.close();
        crew.into_iter().for_each(|member| member.join().unwrap());
        assert_published(&log, 1);
    });
}

/// Race: the permit that holds a writer up is aborted while that one looks and waits.
#[test]
fn a_writer_behind_an_aborted_permit_leads() {
    explore(3, || {
        let (log, pipeline) = start(2, GroupConfig::default());
        let permit = pipeline.sender().unwrap().reserve().unwrap();
        let writer = committing(&log, &pipeline, [2]);
        permit.abort();
        writer.join().unwrap();
        assert_published(&log, 1);
    });
}

/// Race: the permit that holds a writer up is sent at the very moment when its deadline has come.
#[test]
fn a_permit_past_its_deadline_is_sent_or_revoked_and_holds_nobody_up() {
    explore(3, || {
        let config = GroupConfig::default().reservation_deadline(Duration::ZERO);
        let (log, pipeline) = start(2, config);
        let permit = pipeline.sender().unwrap().reserve().unwrap();
        let writer = committing(&log, &pipeline, [2]);
        let sent = permit.send(request(1));
        writer.join().unwrap();
        match sent {
            // Nobody but the writer leads here, and it may have been gone by then.
            Ok(ticket) => drop(ticket),
            Err(refused) => assert!(matches!(refused.error, Error::Revoked)),
        }
        if pipeline.occupancy() > 0 {
            commit(&log, &pipeline, 3);
        }
    });
}

/// Race: the pipeline is closed while a writer arrives, leads, or is answered. What was taken in is committed, and
/// nothing else is; the end comes after the last publication.
#[test]
fn closing_waits_for_what_was_sent() {
    explore(3, || {
        let (log, pipeline) = start(1, GroupConfig::default());
        let writer = {
            let pipeline = Arc::clone(&pipeline);
            thread::spawn(move || pipeline.commit(request(1)).is_committed())
        };
        pipeline.close();
        let published = log.published().len();
        let committed = writer.join().unwrap();
        assert_eq!(published, usize::from(committed));
    });
}

/// Race: the sync of one batch fails while the next one is appended, or waits: that one is never published.
#[test]
fn a_failed_sync_fails_what_was_appended_behind_it() {
    explore(3, || {
        let (log, pipeline) = start(2, GroupConfig::default().batch_limit(1));
        log.fail_next(Failure::Sync(Error::Internal("planted".into())));
        let other = {
            let pipeline = Arc::clone(&pipeline);
            thread::spawn(move || pipeline.commit(request(2)))
        };
        let outcomes = [pipeline.commit(request(1)), other.join().unwrap()];
        assert!(outcomes.iter().all(|outcome| !outcome.is_committed()));
        assert!(log.published().is_empty());
        assert_eq!(log.counters().syncs, 1, "a failed sync is the last one");
    });
}

/// Race: the append of one batch fails while the one before it is in its sync. It is cleared away after that sync, and
/// takes nothing of the other one with it.
#[test]
fn a_failed_append_leaves_the_batch_before_it_alone() {
    explore(3, || {
        let (log, pipeline) = start(2, GroupConfig::default().batch_limit(1));
        log.fail_next(Failure::Append(Error::Internal("planted".into())));
        let other = {
            let pipeline = Arc::clone(&pipeline);
            thread::spawn(move || pipeline.commit(request(2)))
        };
        let outcomes = [pipeline.commit(request(1)), other.join().unwrap()];
        let committed = outcomes.iter().filter(|outcome| outcome.is_committed()).count();
        assert_eq!((committed, log.published().len(), log.log().len()), (1, 1, 1));
    });
}
