//! Random histories for the first-committer-wins validator, against a model that keeps all of history.
#![cfg(not(walmend_loom))]

use proptest::prelude::*;
use walmend_commit::*;

#[derive(Debug, Clone)]
enum Op {
    /// How far back the snapshot lies, the pages, the size if one is named, and what was read if that counts.
    Admit(u64, Vec<u32>, Option<u32>, Option<(Vec<u32>, bool)>),
    /// How many of the unpublished are rolled back.
    RollBack(u64),
    /// How many are published, and how far back the oldest snapshot lies.
    Publish(u64, u64),
}

/// Mostly a few pages that collide; sometimes so many that the validator prunes.
fn pages() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![
        4 => prop::collection::vec(1..40_u32, 0..5),
        1 => (1..2000_u32, 100..600_u32).prop_map(|(from, count)| (from..from + count).collect()),
    ]
}

fn reads() -> impl Strategy<Value = Option<(Vec<u32>, bool)>> {
    prop::option::weighted(
        0.4,
        (prop::collection::vec(1..60_u32, 0..6), prop::bool::weighted(0.2)),
    )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..12_u64, pages(), prop::option::weighted(0.2, 1..60_u32), reads())
            .prop_map(|(back, pages, size, reads)| Op::Admit(back, pages, size, reads)),
        1 => (0..5_u64).prop_map(Op::RollBack),
        3 => (0..5_u64, 0..6_u64).prop_map(|(count, back)| Op::Publish(count, back)),
    ]
}

struct Commit {
    seq: u64,
    writes: WriteSet,
    before: u32,
    after: u32,
}

impl Commit {
    /// Whether a request that did not see this commit loses to it. `now` is the size of the database.
    fn beats(&self, writes: &WriteSet, now: u32) -> bool {
        let any_behind = |writes: &WriteSet, end: u32| writes.pages().iter().any(|page| page.get() > end);
        let same_page = writes
            .pages()
            .iter()
            .any(|page| self.writes.pages().contains(page));
        let behind_my_cut = self.after < self.before && any_behind(writes, self.after);
        let sized = writes.db_pages().is_some_and(|size| {
            let behind_its_cut = size < now && any_behind(&self.writes, size);
            self.before != self.after || behind_its_cut
        });
        same_page || behind_my_cut || sized
    }

    /// Whether what was read is no longer so after this commit.
    fn outdates(&self, reads: &ReadSet) -> bool {
        let changed = |page: &PageNumber| {
            let cut_off = self.after < self.before && page.get() > self.after;
            cut_off || self.writes.pages().contains(page)
        };
        reads.pages().iter().any(changed) || reads.size() && self.before != self.after
    }
}

fn run(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut validator = FirstCommitterWins::new(20);
    let mut history: Vec<Commit> = Vec::new();
    let (mut published, mut oldest) = (0, 0);
    for op in ops {
        let last = history.last().map_or(0, |commit| commit.seq);
        let now = history.last().map_or(20, |commit| commit.after);
        match op {
            Op::Admit(back, pages, size, reads) => {
                let snapshot = last.saturating_sub(back).max(oldest);
                let mut writes = WriteSet::new(pages.into_iter().map(|page| PageNumber::new(page).unwrap()));
                if let Some(size) = size {
                    writes = writes.with_db_pages(size);
                }
                let reads = reads.map(|(pages, size)| {
                    let reads = ReadSet::new(pages.into_iter().map(|page| PageNumber::new(page).unwrap()));
                    if size { reads.with_size() } else { reads }
                });
                let outdates = |commit: &Commit| reads.as_ref().is_some_and(|reads| commit.outdates(reads));
                let seq = last + 1;
                let winners: Vec<u64> = history
                    .iter()
                    .filter(|commit| commit.seq > snapshot)
                    .filter(|commit| commit.beats(&writes, now) || outdates(commit))
                    .map(|commit| commit.seq)
                    .collect();
                let (txn, snapshot) = (TxnId(seq * 10), CommitSeq(snapshot));
                match validator.admit(txn, snapshot, &writes, reads.as_ref(), CommitSeq(seq)) {
                    Ok(()) => {
                        prop_assert!(winners.is_empty(), "{:?} should have won", winners);
                        let after = writes.size_after(now);
                        history.push(Commit {
                            seq,
                            writes,
                            before: now,
                            after,
                        });
                    }
                    Err(lost) => {
                        prop_assert!(
                            winners.contains(&lost.winner_seq.0),
                            "{:?}, not {:?}",
                            lost,
                            winners
                        );
                        prop_assert_eq!(lost.winner, TxnId(lost.winner_seq.0 * 10));
                    }
                }
            }
            Op::RollBack(count) => {
                let from = (last + 1).saturating_sub(count).max(published + 1);
                validator.rollback_from(CommitSeq(from));
                history.retain(|commit| commit.seq < from);
            }
            Op::Publish(count, back) => {
                published = (published + count).min(last);
                oldest = published.saturating_sub(back).max(oldest);
                validator.published(CommitSeq(published), CommitSeq(oldest));
            }
        }
        let size = history.last().map_or(20, |commit| commit.after);
        prop_assert_eq!(validator.db_pages(), size);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_admits_exactly_what_the_whole_history_admits(ops in prop::collection::vec(op(), 1..80)) {
        run(ops)?;
    }
}

#[test]
fn nothing_that_a_live_snapshot_can_conflict_with_is_ever_forgotten() {
    // More than is worth a pruning, so that there is one at every few of them.
    let mut validator = FirstCommitterWins::new(0);
    let page = |number: u64| WriteSet::new([PageNumber::new(u32::try_from(number).unwrap()).unwrap()]);
    for seq in 1..=3000 {
        let admitted = validator.admit(TxnId(seq), CommitSeq(seq - 1), &page(seq), None, CommitSeq(seq));
        assert!(admitted.is_ok());
        validator.published(CommitSeq(seq), CommitSeq(0));
        let first = validator.admit(TxnId(9999), CommitSeq(0), &page(1), None, CommitSeq(seq + 1));
        assert_eq!(
            first.map_err(|lost| lost.winner_seq),
            Err(CommitSeq(1)),
            "after {seq}"
        );
    }
}
