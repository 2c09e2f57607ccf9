//! First committer wins.

use std::collections::HashMap;
use walmend_types::{CommitSeq, Conflict, PageNumber, ReadSet, TxnId, WriteSet, WriteSetValidator};

/// Snapshot isolation by write sets: a request conflicts iff a page that it writes has a version newer than
/// its snapshot. Requests that were admitted count at once, published or not, so within a batch the earlier
/// one wins.
///
/// The size of the database is treated like a page wherever a request names it (page `None` in the
/// [`Conflict`]), and a commit that shrinks the database counts as a new version of every page behind the new
/// end: otherwise an update of such a page and the cut could both commit, and one of them would be lost.
///
/// The cost of an admission is that of its write set, not of the history; only a request that shrinks the
/// database looks at all known versions.
///
/// Write sets alone permit *write skew*: two transactions that each read what the other one writes, and
/// write different pages, both commit. A request that brings its [`ReadSet`] is validated against that too:
/// then it commits only if it would have read the same at the moment of its commit, and such transactions
/// are serializable among each other, in the order of their commit numbers (backward validation of Kung and
/// Robinson, "On Optimistic Methods for Concurrency Control", TODS 1981; SQLite's BEGIN CONCURRENT does the
/// same).
///
/// ```
/// use walmend_commit::*;
///
/// let mut validator = FirstCommitterWins::new(10);
/// let writes = WriteSet::new([PageNumber::new(3)?]);
/// assert!(validator.admit(TxnId(1), CommitSeq(0), &writes, None, CommitSeq(1)).is_ok());
/// let lost = validator.admit(TxnId(2), CommitSeq(0), &writes, None, CommitSeq(2)).unwrap_err();
/// assert_eq!((lost.page, lost.winner), (Some(PageNumber::new(3)?), TxnId(1)));
/// assert!(validator.admit(TxnId(2), CommitSeq(1), &writes, None, CommitSeq(2)).is_ok());
///
/// // Serializable: it read page 3 before commit 2 changed it.
/// let (reads, elsewhere) = (ReadSet::new([PageNumber::new(3)?]), WriteSet::new([PageNumber::new(4)?]));
/// assert!(validator.admit(TxnId(3), CommitSeq(1), &elsewhere, Some(&reads), CommitSeq(3)).is_err());
/// assert!(validator.admit(TxnId(3), CommitSeq(1), &elsewhere, None, CommitSeq(3)).is_ok());
/// # Ok::<(), walmend_commit::Error>(())
/// ```
#[derive(Debug)]
pub struct FirstCommitterWins {
    versions: HashMap<PageNumber, Version>,
    db_pages: u32,
    /// The last change of the size.
    sized: Version,
    /// Commits that shrank the database, in commit order.
    cuts: Vec<Cut>,
    /// Admitted and not published, in commit order.
    undo: Vec<Undo>,
    /// What the undo records restore, in the same order.
    undo_pages: Vec<(PageNumber, Option<Version>)>,
    /// Prune when there are more versions than this: twice what the last pruning left, so that its cost is
    /// spread over as many admissions.
    prune_above: usize,
}

/// Fewer versions than this are not worth a pruning.
const PRUNE_FROM: usize = 1024;

#[derive(Debug, Clone, Copy, Default)]
struct Version {
    seq: CommitSeq,
    txn: TxnId,
}

impl Version {
    fn beats(self, snapshot: CommitSeq) -> bool {
        self.seq > snapshot
    }

    fn conflict(self, page: Option<PageNumber>) -> Conflict {
        Conflict {
            page,
            winner: self.txn,
            winner_seq: self.seq,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    by: Version,
    kept: u32,
}

#[derive(Debug, Clone, Copy)]
struct Undo {
    seq: CommitSeq,
    /// How many of `undo_pages` belong to it.
    pages: usize,
    db_pages: u32,
    sized: Version,
}

impl FirstCommitterWins {
    /// A validator that knows no versions, for a database of `db_pages` pages.
    pub fn new(db_pages: u32) -> Self {
        Self {
            versions: HashMap::new(),
            db_pages,
            sized: Version::default(),
            cuts: Vec::new(),
            undo: Vec::new(),
            undo_pages: Vec::new(),
            prune_above: PRUNE_FROM,
        }
    }

    /// The same with versions that are known already, each with the commit that made it: for an engine that is opened
    /// again and whose transactions may have begun before that. Where a page comes twice, the later commit counts; who
    /// committed is not known any more, so that a [`Conflict`] with one of them names transaction 0.
    ///
    /// ```
    /// use walmend_commit::*;
    ///
    /// let page = PageNumber::new(3)?;
    /// let mut validator = FirstCommitterWins::new(10).with_versions([(page, CommitSeq(7))]);
    /// let writes = WriteSet::new([page]);
    /// assert!(validator.admit(TxnId(1), CommitSeq(6), &writes, None, CommitSeq(8)).is_err());
    /// assert!(validator.admit(TxnId(1), CommitSeq(7), &writes, None, CommitSeq(8)).is_ok());
    /// # Ok::<(), walmend_commit::Error>(())
    /// ```
    #[must_use]
    pub fn with_versions(mut self, versions: impl IntoIterator<Item = (PageNumber, CommitSeq)>) -> Self {
        for (page, seq) in versions {
            let known = self.versions.entry(page).or_default();
            known.seq = known.seq.max(seq);
        }
        self.prune_above = (self.versions.len() * 2).max(PRUNE_FROM);
        self
    }

    /// How many pages it remembers a version of.
    pub fn versions(&self) -> usize {
        self.versions.len()
    }

    /// The size of the database after everything admitted so far, in pages.
    pub fn db_pages(&self) -> u32 {
        self.db_pages
    }

    /// The last admitted commit of a page, with its transaction, unless forgotten.
    pub fn version(&self, page: PageNumber) -> Option<(CommitSeq, TxnId)> {
        self.versions.get(&page).map(|version| (version.seq, version.txn))
    }

    /// Whether any of these pages, ascending, has changed since the snapshot.
    fn check_pages(&self, snapshot: CommitSeq, pages: &[PageNumber]) -> Result<(), Conflict> {
        for page in pages {
            if let Some(version) = self.versions.get(page)
                && version.beats(snapshot)
            {
                return Err(version.conflict(Some(*page)));
            }
        }
        if let Some(highest) = pages.last() {
            // The newest cut first; there are hardly ever any.
            for cut in self.cuts.iter().rev().take_while(|cut| cut.by.beats(snapshot)) {
                if highest.get() > cut.kept {
                    return Err(cut.by.conflict(Some(*highest)));
                }
            }
        }
        Ok(())
    }

    fn check_reads(&self, snapshot: CommitSeq, reads: &ReadSet) -> Result<(), Conflict> {
        if reads.size() && self.sized.beats(snapshot) {
            return Err(self.sized.conflict(None));
        }
        self.check_pages(snapshot, reads.pages())
    }

    fn check_writes(&self, snapshot: CommitSeq, writes: &WriteSet) -> Result<(), Conflict> {
        self.check_pages(snapshot, writes.pages())?;
        let Some(size) = writes.db_pages() else {
            return Ok(());
        };
        if self.sized.beats(snapshot) {
            return Err(self.sized.conflict(None));
        }
        if size < self.db_pages {
            let lost = self
                .versions
                .iter()
                .filter(|(page, version)| page.get() > size && version.beats(snapshot))
                .min_by_key(|(page, _)| **page);
            if let Some((page, version)) = lost {
                return Err(version.conflict(Some(*page)));
            }
        }
        Ok(())
    }
}

impl WriteSetValidator for FirstCommitterWins {
    fn admit(
        &mut self,
        txn: TxnId,
        snapshot: CommitSeq,
        writes: &WriteSet,
        reads: Option<&ReadSet>,
        seq: CommitSeq,
    ) -> Result<(), Conflict> {
        self.check_writes(snapshot, writes)?;
        if let Some(reads) = reads {
            self.check_reads(snapshot, reads)?;
        }
        let version = Version { seq, txn };
        self.undo.push(Undo {
            seq,
            pages: writes.pages().len(),
            db_pages: self.db_pages,
            sized: self.sized,
        });
        for page in writes.pages() {
            let before = self.versions.insert(*page, version);
            self.undo_pages.push((*page, before));
        }
        let size = writes.size_after(self.db_pages);
        if size < self.db_pages {
            self.cuts.push(Cut {
                by: version,
                kept: size,
            });
        }
        if size != self.db_pages {
            self.db_pages = size;
            self.sized = version;
        }
        Ok(())
    }

    fn rollback_from(&mut self, seq: CommitSeq) {
        while let Some(undo) = self.undo.pop_if(|undo| undo.seq >= seq) {
            // Newest first, and a write set names a page once: the oldest value is restored last.
            for (page, before) in self.undo_pages.drain(self.undo_pages.len() - undo.pages..) {
                match before {
                    Some(version) => self.versions.insert(page, version),
                    None => self.versions.remove(&page),
                };
            }
            self.db_pages = undo.db_pages;
            self.sized = undo.sized;
        }
        self.cuts.retain(|cut| cut.by.seq < seq);
    }

    fn published(&mut self, through: CommitSeq, oldest_snapshot: CommitSeq) {
        let published = self.undo.partition_point(|undo| undo.seq <= through);
        let pages: usize = self.undo.drain(..published).map(|undo| undo.pages).sum();
        self.undo_pages.drain(..pages);

        let forget = through.min(oldest_snapshot);
        if !self.cuts.is_empty() {
            // A published cut says nothing more once a later published one kept no more pages.
            let mut least = u32::MAX;
            let mut newest_first: Vec<Cut> = std::mem::take(&mut self.cuts);
            newest_first.reverse();
            newest_first.retain(|cut| {
                if cut.by.seq > through {
                    return true;
                }
                let says_more = cut.kept < least && cut.by.seq > forget;
                least = least.min(cut.kept);
                says_more
            });
            newest_first.reverse();
            self.cuts = newest_first;
        }
        if self.versions.len() > self.prune_above {
            // A version that an undo record may restore is older than `through` as well, but a rollback
            // only brings back what no live snapshot can conflict with.
            self.versions.retain(|_, version| version.seq > forget);
            self.prune_above = (self.versions.len() * 2).max(PRUNE_FROM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u32) -> PageNumber {
        PageNumber::new(number).unwrap()
    }

    fn pages(numbers: impl IntoIterator<Item = u32>) -> WriteSet {
        WriteSet::new(numbers.into_iter().map(page))
    }

    /// Admits as transaction `seq`, as commit `seq`.
    fn admit(
        validator: &mut FirstCommitterWins,
        snapshot: u64,
        writes: &WriteSet,
        seq: u64,
    ) -> Result<(), (Option<u32>, u64)> {
        validator
            .admit(TxnId(seq), CommitSeq(snapshot), writes, None, CommitSeq(seq))
            .map_err(|lost| {
                assert_eq!(lost.winner.0, lost.winner_seq.0);
                (lost.page.map(PageNumber::get), lost.winner_seq.0)
            })
    }

    #[test]
    fn the_first_to_commit_a_page_wins_and_the_loser_leaves_no_trace() {
        let mut validator = FirstCommitterWins::new(10);
        assert_eq!(admit(&mut validator, 0, &pages([2, 3]), 1), Ok(()));
        assert_eq!(admit(&mut validator, 0, &pages([1, 3, 9]), 2), Err((Some(3), 1)));
        assert_eq!(
            admit(&mut validator, 0, &pages([1, 9]), 2),
            Ok(()),
            "1 and 9 are untouched"
        );
        assert_eq!(
            admit(&mut validator, 1, &pages([2, 3]), 3),
            Ok(()),
            "it saw commit 1"
        );
    }

    #[test]
    fn what_was_committed_before_the_engine_was_opened_again_counts_the_latest_of_each_page() {
        let known = [
            (page(3), CommitSeq(7)),
            (page(3), CommitSeq(5)),
            (page(4), CommitSeq(6)),
        ];
        let mut validator = FirstCommitterWins::new(10).with_versions(known);
        let lost = validator.admit(TxnId(1), CommitSeq(6), &pages([3]), None, CommitSeq(8));
        assert_eq!(lost.unwrap_err().winner_seq, CommitSeq(7));
        assert_eq!(admit(&mut validator, 6, &pages([4]), 8), Ok(()));
        validator.rollback_from(CommitSeq(8));
        assert_eq!(
            validator.version(page(4)),
            Some((CommitSeq(6), TxnId(0))),
            "no rollback takes it away"
        );
    }

    #[test]
    fn of_two_that_read_what_the_other_writes_both_commit_under_snapshots_and_one_if_serializable() {
        let reads = ReadSet::new([page(1), page(2)]);
        for (reads, second) in [(None, Ok(())), (Some(&reads), Err(Some(page(1))))] {
            let mut validator = FirstCommitterWins::new(10);
            let mut admit = |seq: u64, writes: &WriteSet| {
                validator
                    .admit(TxnId(seq), CommitSeq(0), writes, reads, CommitSeq(seq))
                    .map_err(|lost| lost.page)
            };
            assert_eq!(admit(1, &pages([1])), Ok(()));
            assert_eq!(admit(2, &pages([2])), second);
        }
    }

    #[test]
    fn a_size_that_was_read_conflicts_iff_it_changed_and_a_page_that_was_cut_off_has_changed() {
        let mut validator = FirstCommitterWins::new(10);
        let mut serializable = |snapshot: u64, reads: ReadSet, writes: &WriteSet, seq: u64| {
            validator
                .admit(
                    TxnId(seq),
                    CommitSeq(snapshot),
                    writes,
                    Some(&reads),
                    CommitSeq(seq),
                )
                .map_err(|lost| (lost.page, lost.winner_seq.0))
        };
        let size = || ReadSet::default().with_size();
        assert_eq!(serializable(0, size(), &pages([2]), 1), Ok(()));
        assert_eq!(
            serializable(0, size(), &pages([12]), 2),
            Ok(()),
            "it grew by this very one"
        );
        assert_eq!(serializable(1, size(), &pages([3]), 3), Err((None, 2)));
        assert_eq!(serializable(1, ReadSet::default(), &pages([3]), 3), Ok(()));
        assert_eq!(serializable(3, size(), &pages([1]).with_db_pages(5), 4), Ok(()));
        assert_eq!(
            serializable(3, ReadSet::new([page(9)]), &pages([4]), 5),
            Err((Some(page(9)), 4))
        );
        assert_eq!(serializable(3, ReadSet::new([page(5)]), &pages([4]), 5), Ok(()));
    }

    #[test]
    fn an_explicit_size_conflicts_iff_the_size_changed_after_the_snapshot() {
        let mut validator = FirstCommitterWins::new(10);
        assert_eq!(admit(&mut validator, 0, &pages([12]), 1), Ok(()));
        assert_eq!(validator.db_pages(), 12);
        let explicit = pages([1]).with_db_pages(20);
        assert_eq!(admit(&mut validator, 0, &explicit, 2), Err((None, 1)));
        assert_eq!(
            admit(&mut validator, 0, &pages([2]), 2),
            Ok(()),
            "an implicit size does not"
        );
        assert_eq!(
            admit(&mut validator, 1, &explicit, 3),
            Ok(()),
            "commit 2 left the size alone"
        );
        assert_eq!(validator.db_pages(), 20);
    }

    #[test]
    fn cutting_pages_off_and_updating_them_exclude_each_other() {
        let cut = pages([1]).with_db_pages(10);
        let mut validator = FirstCommitterWins::new(20);
        assert_eq!(admit(&mut validator, 0, &cut, 1), Ok(()));
        assert_eq!(admit(&mut validator, 0, &pages([15]), 2), Err((Some(15), 1)));
        assert_eq!(admit(&mut validator, 0, &pages([9]), 2), Ok(()));
        assert_eq!(
            admit(&mut validator, 1, &pages([15]), 3),
            Ok(()),
            "it saw the cut"
        );

        let mut validator = FirstCommitterWins::new(20);
        assert_eq!(admit(&mut validator, 0, &pages([15]), 1), Ok(()));
        assert_eq!(admit(&mut validator, 0, &cut, 2), Err((Some(15), 1)));
        assert_eq!(admit(&mut validator, 1, &cut, 2), Ok(()));
    }

    #[test]
    fn a_rollback_restores_versions_size_and_cuts() {
        let mut validator = FirstCommitterWins::new(20);
        assert_eq!(admit(&mut validator, 0, &pages([5, 6]), 1), Ok(()));
        validator.published(CommitSeq(1), CommitSeq(0));
        assert_eq!(admit(&mut validator, 1, &pages([5, 7]), 2), Ok(()));
        assert_eq!(admit(&mut validator, 2, &pages([5]).with_db_pages(8), 3), Ok(()));
        validator.rollback_from(CommitSeq(2));
        assert_eq!((validator.db_pages(), validator.versions()), (20, 2));
        assert_eq!(validator.version(page(5)), Some((CommitSeq(1), TxnId(1))));
        assert_eq!(validator.version(page(7)), None);
        assert_eq!(
            admit(&mut validator, 1, &pages([5, 7, 15]).with_db_pages(30), 2),
            Ok(())
        );
        assert_eq!(
            admit(&mut validator, 0, &pages([6]), 3),
            Err((Some(6), 1)),
            "commit 1 stands"
        );
    }

    #[test]
    fn what_is_published_is_not_rolled_back() {
        let mut validator = FirstCommitterWins::new(20);
        assert_eq!(admit(&mut validator, 0, &pages([1]), 1), Ok(()));
        assert_eq!(admit(&mut validator, 0, &pages([2]), 2), Ok(()));
        validator.published(CommitSeq(1), CommitSeq(0));
        validator.rollback_from(CommitSeq(1));
        assert_eq!(admit(&mut validator, 0, &pages([1]), 2), Err((Some(1), 1)));
        assert_eq!(admit(&mut validator, 0, &pages([2]), 2), Ok(()));
    }

    #[test]
    fn pruning_bounds_the_memory_and_forgets_nothing_that_a_live_snapshot_needs() {
        let mut validator = FirstCommitterWins::new(0);
        let kept = 100;
        for seq in 1..=20_000_u64 {
            let fresh = pages([u32::try_from(seq).unwrap()]);
            assert_eq!(admit(&mut validator, seq - 1, &fresh, seq), Ok(()));
            validator.published(CommitSeq(seq), CommitSeq(seq.saturating_sub(kept)));
            assert!(validator.versions() <= PRUNE_FROM + 1);
            assert!(validator.undo.is_empty() && validator.undo_pages.is_empty());
        }
        for back in 0..kept {
            let number = u32::try_from(20_000 - back).unwrap();
            assert_eq!(
                admit(&mut validator, 20_000 - kept, &pages([number]), 20_001),
                Err((Some(number), 20_000 - back))
            );
        }
    }

    #[test]
    fn repeated_cuts_are_remembered_once() {
        let mut validator = FirstCommitterWins::new(1000);
        for seq in 1..=500_u64 {
            let cut = pages([1]).with_db_pages(if seq % 2 == 0 { 1000 } else { 10 });
            assert_eq!(admit(&mut validator, seq - 1, &cut, seq), Ok(()));
            validator.published(CommitSeq(seq), CommitSeq(0));
        }
        assert_eq!(validator.cuts.len(), 1);
        assert_eq!(
            admit(&mut validator, 498, &pages([11]), 501),
            Err((Some(11), 499))
        );
    }
}
