//! The four phases of a batch, and what becomes of it when something fails.

use crate::common::{Bench, fault, request};
use walmend_commit::*;

const ALL: [Phase; 4] = [Phase::Validate, Phase::WalAppend, Phase::Fsync, Phase::Publish];

fn committed(outcome: &CommitOutcome) -> Option<u64> {
    match outcome {
        CommitOutcome::Committed { commit_seq, .. } => Some(commit_seq.0),
        _ => None,
    }
}

fn is_unknown(outcome: &CommitOutcome) -> bool {
    matches!(outcome, CommitOutcome::OutcomeUnknown { .. })
}

/// Nothing happened, and the reason says so.
fn is_not_committed(outcome: &CommitOutcome, reason: &str) -> bool {
    matches!(outcome, CommitOutcome::NotCommitted { reason: found } if found.to_string().contains(reason))
}

#[test]
fn a_batch_goes_through_four_phases_with_one_sync() {
    let mut bench = Bench::new();
    let (report, outcomes) = bench.process([request(1, 0, [1]), request(2, 0, [2]), request(3, 0, [3])]);
    assert_eq!((&report.phases[..], report.fsyncs), (&ALL[..], 1));
    assert_eq!(
        outcomes.iter().map(committed).collect::<Vec<_>>(),
        [Some(1), Some(2), Some(3)]
    );
    let counters = bench.log.counters();
    assert_eq!((counters.appends, counters.syncs, counters.publishes), (1, 1, 1));
    let published: Vec<_> = bench
        .log
        .published()
        .iter()
        .map(|commit| commit.commit_seq.0)
        .collect();
    assert_eq!(published, [1, 2, 3]);
}

#[test]
fn an_empty_batch_has_no_phase() {
    let mut bench = Bench::new();
    let (report, _) = bench.process([]);
    assert_eq!((report.phases.len(), report.fsyncs, report.requests()), (0, 0, 0));
    assert_eq!(bench.group.totals().snapshot(), Totals::default());
    assert_eq!(bench.log.counters(), MemoryCounters::default());
}

#[test]
fn a_batch_of_losers_is_only_validated() {
    let mut bench = Bench::new();
    bench.process([request(1, 0, [5])]);
    let before = bench.log.counters();
    let (report, outcomes) = bench.process([request(2, 0, [5]), request(3, 0, [5, 6])]);
    assert_eq!((&report.phases[..], report.fsyncs), (&[Phase::Validate][..], 0));
    assert_eq!(report.conflicted.len(), 2);
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, CommitOutcome::Conflict(_)))
    );
    assert_eq!(bench.log.counters(), before, "the log was left alone");
}

#[test]
fn in_a_mixed_batch_the_valid_commit_with_distinct_offsets_and_numbers_and_txn_ids_may_repeat() {
    let mut bench = Bench::new();
    bench.process([request(1, 0, [5])]);
    let (report, outcomes) = bench.process([
        request(7, 1, [1]),
        request(8, 0, [5]),
        request(7, 1, [2]),
        request(9, 1, [2]),
        request(7, 1, [3]),
    ]);
    let committed: Vec<_> = report
        .committed
        .iter()
        .map(|commit| (commit.number, commit.txn.0, commit.commit_seq.0))
        .collect();
    assert_eq!(committed, [(2, 7, 2), (4, 7, 3), (6, 7, 4)]);
    assert!(
        report
            .committed
            .windows(2)
            .all(|pair| pair[0].wal_offset < pair[1].wal_offset)
    );
    let conflicted: Vec<_> = report
        .conflicted
        .iter()
        .map(|lost| (lost.number, lost.txn.0))
        .collect();
    assert_eq!(conflicted, [(3, 8), (5, 9)]);
    // Each ticket says what the report says.
    for commit in &report.committed {
        let outcome = &outcomes[commit.number as usize - 2];
        assert!(
            matches!(outcome, CommitOutcome::Committed { wal_offset, commit_seq }
            if (*wal_offset, *commit_seq) == (commit.wal_offset, commit.commit_seq))
        );
    }
}

#[test]
fn a_conflict_names_the_page_and_the_earlier_request_of_the_batch_wins() {
    let mut bench = Bench::new();
    let (_, outcomes) = bench.process([request(1, 0, [4, 9]), request(2, 0, [3, 9])]);
    let CommitOutcome::Conflict(conflict) = &outcomes[1] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(conflict.page.map(PageNumber::get), Some(9));
    assert_eq!((conflict.winner, conflict.winner_seq), (TxnId(1), CommitSeq(1)));
    let error = outcomes[1].clone().into_result().unwrap_err().to_string();
    assert!(
        error.contains("page 9") && error.contains("transaction 1"),
        "{error}"
    );
    assert_eq!(bench.log.log().len(), 1, "the loser was never appended");
}

#[test]
fn numbers_continue_after_the_last_one_in_use() {
    let mut bench = Bench::with(GroupConfig::default().last_seq(CommitSeq(41)));
    let (_, outcomes) = bench.process([request(1, 41, [1])]);
    assert_eq!(committed(&outcomes[0]), Some(42));
    assert_eq!(bench.group.last_seq(), CommitSeq(42));
}

#[test]
fn a_wrong_number_of_offsets_or_tokens_fails_the_batch_before_any_sync() {
    for failure in [Failure::WrongOffsets, Failure::WrongTokens] {
        let mut bench = Bench::new();
        bench.log.fail_next(failure);
        let (report, outcomes) = bench.process([request(1, 0, [1]), request(2, 0, [2])]);
        assert_eq!(&report.phases[..], &ALL[..2]);
        assert_eq!((report.fsyncs, bench.log.counters().syncs), (0, 0));
        assert!(
            outcomes
                .iter()
                .all(|outcome| is_not_committed(outcome, "internal error")),
            "{outcomes:?}"
        );
        assert_eq!(bench.log.counters().discards, 1);
        assert!(bench.log.log().is_empty() && bench.log.published().is_empty());
    }
}

#[test]
fn a_failed_append_is_undone_and_its_numbers_are_given_out_again() {
    for failure in [
        Failure::Append(fault("full")),
        Failure::AppendPanics,
        Failure::WrongOffsets,
    ] {
        let mut bench = Bench::new();
        bench.process([request(1, 0, [1])]);
        bench.log.fail_next(failure);
        let (report, outcomes) = bench.process([request(2, 1, [1, 2]), request(3, 1, [3])]);
        assert_eq!(&report.phases[..], &ALL[..2]);
        assert_eq!(report.failed.len(), 2);
        assert!(outcomes.iter().all(|outcome| is_not_committed(outcome, "")));
        assert_eq!(bench.log.log().len(), 1, "no debris");
        assert!(bench.group.poison().reason().is_none(), "writing goes on");
        // The same pages from the same snapshot: the failed batch left no version behind.
        let (_, outcomes) = bench.process([request(2, 1, [1, 2]), request(3, 1, [3])]);
        assert_eq!(
            outcomes.iter().map(committed).collect::<Vec<_>>(),
            [Some(2), Some(3)]
        );
    }
}

#[test]
fn who_lost_to_a_request_that_failed_is_told_that_nothing_was_committed() {
    let mut bench = Bench::new();
    bench.process([request(1, 0, [9])]);
    bench.log.fail_next(Failure::Append(fault("full")));
    let (report, outcomes) = bench.process([request(2, 0, [1]), request(3, 0, [1]), request(4, 0, [9])]);
    assert!(
        is_not_committed(&outcomes[1], "full"),
        "nobody has won page 1: {:?}",
        outcomes[1]
    );
    assert!(matches!(&outcomes[2], CommitOutcome::Conflict(lost) if lost.winner == TxnId(1)));
    assert_eq!((report.failed.len(), report.conflicted.len()), (2, 1));
}

#[test]
fn an_append_that_cannot_be_undone_ends_all_writing() {
    let mut bench = Bench::new();
    bench.log.fail_next(Failure::Append(fault("full")));
    bench.log.fail_next(Failure::Discard(fault("gone")));
    let (report, outcomes) = bench.process([request(1, 0, [1]), request(2, 0, [2]), request(3, 0, [2])]);
    assert_eq!(report.fsyncs, 0);
    // Half of the batch reached the log, so only the first one has a token.
    assert!(
        matches!(&outcomes[0], CommitOutcome::OutcomeUnknown { token: Some(token), .. } if token.frame == 1)
    );
    assert!(matches!(
        &outcomes[1],
        CommitOutcome::OutcomeUnknown { token: None, .. }
    ));
    assert!(is_not_committed(&outcomes[2], ""), "a loser was never appended");
    bench.assert_writing_has_ended("gone");
}

#[test]
fn a_failed_sync_ends_all_writing_and_leaves_the_outcome_unknown() {
    for failure in [Failure::Sync(fault("sync")), Failure::SyncPanics] {
        let mut bench = Bench::new();
        bench.log.fail_next(failure);
        let (report, outcomes) = bench.process([request(1, 0, [1]), request(2, 0, [2]), request(3, 0, [2])]);
        assert_eq!((&report.phases[..], report.fsyncs), (&ALL[..3], 1));
        for (outcome, frame) in outcomes.iter().zip(1..=2) {
            assert!(
                matches!(outcome, CommitOutcome::OutcomeUnknown { token: Some(token), .. } if token.frame == frame)
            );
        }
        assert!(is_not_committed(&outcomes[2], ""), "a loser was never appended");
        assert!(bench.log.published().is_empty());
        bench.assert_writing_has_ended("sync");
        assert_eq!(bench.log.counters().syncs, 1, "a sync is never tried again");
    }
}

#[test]
fn a_publication_that_panics_ends_all_writing_and_is_not_called_committed() {
    let mut bench = Bench::new();
    bench.log.fail_next(Failure::PublishPanics);
    let (report, outcomes) = bench.process([request(1, 0, [1])]);
    assert_eq!(&report.phases[..], &ALL[..]);
    assert!(is_unknown(&outcomes[0]));
    bench.assert_writing_has_ended("publishing panicked");
}

#[test]
fn a_latch_set_by_somebody_else_ends_all_writing() {
    let poison = Poison::new();
    let mut bench = Bench::with(GroupConfig::default().poison(poison.clone()));
    bench.process([request(1, 0, [1])]);
    poison.set(fault("elsewhere"));
    bench.assert_writing_has_ended("elsewhere");
    assert_eq!(bench.log.published().len(), 1, "what is published stays");
}

#[test]
fn totals_count_what_the_reports_say_and_can_be_read_elsewhere() {
    let mut bench = Bench::new();
    let totals = bench.group.totals();
    bench.process([request(1, 0, [1]), request(2, 0, [1]), request(3, 0, [3])]);
    bench.process([request(4, 0, [3])]);
    bench.log.fail_next(Failure::Append(fault("full")));
    bench.process([request(5, 2, [4])]);
    let seen = walmend_sync::thread::spawn(move || totals.snapshot())
        .join()
        .unwrap();
    assert_eq!((seen.batches, seen.commits, seen.conflicts), (3, 2, 2));
    assert_eq!((seen.failed, seen.syncs, seen.largest_batch), (1, 1, 3));
}

/// A validator that does something of its own at each admission.
struct Hooked {
    inner: FirstCommitterWins,
    on_admit: Box<dyn Fn(TxnId) + Send>,
}

impl WriteSetValidator for Hooked {
    fn admit(
        &mut self,
        txn: TxnId,
        snapshot: CommitSeq,
        writes: &WriteSet,
        reads: Option<&ReadSet>,
        seq: CommitSeq,
    ) -> Result<(), Conflict> {
        (self.on_admit)(txn);
        self.inner.admit(txn, snapshot, writes, reads, seq)
    }

    fn rollback_from(&mut self, seq: CommitSeq) {
        self.inner.rollback_from(seq);
    }

    fn published(&mut self, through: CommitSeq, oldest_snapshot: CommitSeq) {
        self.inner.published(through, oldest_snapshot);
    }
}

type HookedGroup = GroupCommit<u64, MemoryWriter<u64>, Hooked>;

fn hooked(
    config: GroupConfig,
    on_admit: impl Fn(TxnId) + Send + 'static,
) -> (MemoryWriter<u64>, HookedGroup) {
    let log = MemoryWriter::new();
    let validator = Hooked {
        inner: FirstCommitterWins::new(0),
        on_admit: Box::new(on_admit),
    };
    (log.clone(), GroupCommit::new(log, validator, config))
}

/// Each transaction writes the page of its own number.
fn process(group: &mut HookedGroup, txns: &[u32]) -> (BatchReport, Vec<CommitOutcome>) {
    let (batch, tickets): (Vec<_>, Vec<_>) = txns
        .iter()
        .map(|txn| Sent::new((*txn).into(), request((*txn).into(), 0, [*txn])))
        .unzip();
    let report = group.process_batch(batch);
    (report, tickets.into_iter().map(Ticket::wait).collect())
}

#[test]
fn a_panicking_validator_fails_its_batch_and_no_other() {
    let (log, mut group) = hooked(GroupConfig::default(), |txn| {
        assert_ne!(txn, TxnId(13), "a validator that was told to panic");
    });
    let (report, outcomes) = process(&mut group, &[1, 13]);
    assert_eq!(report.phases, [Phase::Validate]);
    assert!(
        outcomes
            .iter()
            .all(|outcome| is_not_committed(outcome, "validator panicked"))
    );
    let (_, outcomes) = process(&mut group, &[1, 2]);
    assert_eq!(
        outcomes.iter().map(committed).collect::<Vec<_>>(),
        [Some(1), Some(2)]
    );
    assert_eq!(log.counters().appends, 1);
}

#[test]
fn once_the_latch_is_set_what_was_appended_is_not_even_synced() {
    let poison = Poison::new();
    let latch = poison.clone();
    let (log, mut group) = hooked(GroupConfig::default().poison(poison), move |_| {
        // Somebody else's sync of the same file failed meanwhile, and took the blame for these pages: one that
        // succeeds now would prove nothing.
        latch.set(fault("elsewhere"));
    });
    let (report, outcomes) = process(&mut group, &[1]);
    assert_eq!(report.phases, ALL[..2]);
    assert!(is_unknown(&outcomes[0]));
    assert!(log.published().is_empty());
}

#[test]
fn the_validator_forgets_what_no_snapshot_can_conflict_with() {
    let mut bench = Bench::with(GroupConfig::default().oldest_snapshot(|| CommitSeq(u64::MAX)));
    for round in 0..100_u32 {
        let snapshot = u64::from(round);
        let batch = request(
            u64::from(round),
            snapshot,
            (round * 100 + 1)..=(round * 100 + 100),
        );
        let (report, _) = bench.process([batch]);
        assert_eq!(report.committed.len(), 1);
    }
    assert!(bench.group.validator().versions() <= 2048);
}

/// A payload that cannot be copied into the log: its copying panics, and so does dropping what it panics with.
struct Explosive;

struct Bomb;

impl Clone for Explosive {
    fn clone(&self) -> Self {
        std::panic::panic_any(Bomb)
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a panic that was told to panic");
    }
}

#[test]
fn a_request_that_was_handed_to_the_log_is_never_called_not_committed_by_accident() {
    let log = MemoryWriter::new();
    let mut group = GroupCommit::new(log, FirstCommitterWins::new(0), GroupConfig::default());
    let request = CommitRequest::new(TxnId(1), CommitSeq(0), WriteSet::default(), Explosive);
    let (sent, ticket) = Sent::new(1, request);
    let batch = std::panic::AssertUnwindSafe(|| group.process_batch(vec![sent]));
    assert!(
        std::panic::catch_unwind(batch).is_err(),
        "no guard can stop this one"
    );
    assert!(is_unknown(&ticket.wait()));
}
