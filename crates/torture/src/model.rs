//! What one store was told and said, and whether what is found fits. It has only the lines that the worker wrote, and
//! walmend has no part in the judging: what must be there after a kill is `History`'s to say; who saw and wrote over what is
//! worked out here from the commit numbers.

use crate::protocol::Pairs;
use std::collections::{BTreeMap, BTreeSet};
use walmend_vfs::sim::{Cells, History};

/// The transactions of one store, over the lives of its workers.
#[derive(Debug, Default)]
pub(crate) struct Model {
    history: History,
    /// The number of the next transaction.
    pub(crate) next_txn: u64,
    /// Which commits wrote a cell in this life, ascending, and which transaction each was.
    versions: BTreeMap<u32, Vec<(u64, u64)>>,
    /// What was there when this life began.
    settled: BTreeMap<u32, u64>,
    /// Commit numbers of this life.
    seqs: BTreeMap<u64, u64>,
    /// What this life has begun, until it is judged.
    begun: BTreeMap<u64, Begun>,
    /// What was seen in this life, until it is judged: bounds of the commit number, and cells.
    seen: Vec<(&'static str, u64, u64, Pairs)>,
    /// Cells that the worker is telling after opening.
    telling: Cells,
    /// The commit number at which the store was opened.
    opened_at: u64,
    /// What `settle` answered last: the unknown ones that are there.
    pub(crate) kept_unknown: BTreeSet<u64>,
    /// Its files were wrecked: what is told after an opening is not what counts.
    pub(crate) is_wrecked: bool,
    pub(crate) counts: Counts,
}

#[derive(Debug)]
struct Begun {
    snapshot: u64,
    cells: Vec<u32>,
    reads: Pairs,
    seq: Option<u64>,
}

/// What was judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) committed: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) snapshots: u64,
    pub(crate) backups: u64,
    pub(crate) serializable: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            next_txn: 1,
            ..Self::default()
        }
    }

    /// A store was opened, and its last commit has this number.
    pub(crate) fn open(&mut self, seq: u64) {
        self.opened_at = seq;
        self.telling.clear();
    }

    pub(crate) fn tell(&mut self, cells: &[(u32, u64)]) {
        let there = cells.iter().filter(|(_, txn)| *txn != 0);
        self.telling
            .extend(there.map(|(cell, txn)| (u64::from(*cell), *txn)));
    }

    /// All that is there has been told: from now on it is what counts.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn stated(&mut self) -> Result<(), String> {
        self.judge()?;
        let found = std::mem::take(&mut self.telling);
        let settled = self.history.settle(&found, self.opened_at);
        self.kept_unknown = settled.map_err(|violation| format!("after opening: {violation}"))?;
        self.begin_life(&found);
        Ok(())
    }

    /// Whether what was told after the last opening is all there was.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn check_told(&self) -> Result<(), String> {
        self.check(&self.telling)
    }

    fn begin_life(&mut self, found: &Cells) {
        self.settled = found
            .iter()
            .filter_map(|(cell, txn)| Some((u32::try_from(*cell).ok()?, *txn)))
            .collect();
        self.versions.clear();
        self.seqs.clear();
        self.begun.clear();
        self.seen.clear();
    }

    /// A transaction begins.
    ///
    /// # Errors
    /// If the worker counts otherwise than we do.
    pub(crate) fn begin(
        &mut self,
        txn: u64,
        snapshot: u64,
        cells: Vec<u32>,
        reads: Pairs,
    ) -> Result<(), String> {
        let number = self.history.begin(cells.iter().map(|cell| u64::from(*cell)));
        if (number, self.next_txn) != (txn, txn) {
            return Err(format!("the worker calls transaction {number} {txn}"));
        }
        self.next_txn += 1;
        let begun = Begun {
            snapshot,
            cells,
            reads,
            seq: None,
        };
        self.begun.insert(txn, begun);
        Ok(())
    }

    /// # Errors
    /// A number that was used twice, or is not above all that was there at the opening.
    pub(crate) fn committed(&mut self, txn: u64, seq: u64) -> Result<(), String> {
        self.counts.committed += 1;
        self.history.committed(txn, seq);
        if seq <= self.opened_at {
            return Err(format!(
                "transaction {txn} was committed under {seq}, but the store was opened at {}",
                self.opened_at
            ));
        }
        if let Some(other) = self.seqs.insert(seq, txn) {
            return Err(format!(
                "transactions {other} and {txn} were both committed under {seq}"
            ));
        }
        if let Some(begun) = self.begun.get_mut(&txn) {
            begun.seq = Some(seq);
            for cell in &begun.cells {
                self.versions.entry(*cell).or_default().push((seq, txn));
            }
        }
        Ok(())
    }

    pub(crate) fn not_committed(&mut self, txn: u64) {
        self.counts.refused += 1;
        self.begun.remove(&txn);
        self.history.not_committed(txn);
    }

    pub(crate) fn unknown(&mut self, txn: u64) {
        self.counts.unknown += 1;
        self.history.unknown(txn);
    }

    /// Something saw these cells as they were at one commit between the two.
    pub(crate) fn saw(&mut self, what: &'static str, low: u64, high: u64, cells: Pairs) {
        self.seen.push((what, low, high, cells));
    }

    /// What a reader of the files found while nobody had them open.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn check(&self, found: &Cells) -> Result<(), String> {
        let checked = self.history.check(found);
        checked.map(drop).map_err(|violation| violation.to_string())
    }

    /// Judges everything that was said in this life; to be called at its end, when all that was said has been heard.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn judge(&mut self) -> Result<(), String> {
        for versions in self.versions.values_mut() {
            versions.sort_unstable();
        }
        for (txn, begun) in &self.begun {
            let Some(seq) = begun.seq else { continue };
            if seq <= begun.snapshot {
                return Err(format!(
                    "transaction {txn} was committed under {seq} over a snapshot of {}",
                    begun.snapshot
                ));
            }
            for cell in &begun.cells {
                if let Some((other_seq, other)) = self.between(*cell, begun.snapshot, seq) {
                    return Err(format!(
                        "transaction {txn}, over the snapshot of {}, was committed under {seq} although transaction \
                         {other} had written cell {cell} under {other_seq}",
                        begun.snapshot
                    ));
                }
            }
            for (cell, read) in &begun.reads {
                if let Some((other_seq, other)) = self.between(*cell, begun.snapshot, seq) {
                    return Err(format!(
                        "the serializable transaction {txn} read {read} in cell {cell} at {}, and was committed under \
                         {seq} although transaction {other} wrote it under {other_seq}",
                        begun.snapshot
                    ));
                }
            }
            if !begun.reads.is_empty() {
                self.counts.serializable += 1;
                self.judge_view("transaction", begun.snapshot, begun.snapshot, &begun.reads)?;
            }
        }
        for (what, low, high, cells) in std::mem::take(&mut self.seen) {
            self.judge_view(what, low, high, &cells)?;
            match what {
                "backup" => self.counts.backups += 1,
                _ => self.counts.snapshots += 1,
            }
        }
        Ok(())
    }

    /// A commit that wrote the cell after one number and before another.
    fn between(&self, cell: u32, after: u64, before: u64) -> Option<(u64, u64)> {
        let versions = self.versions.get(&cell)?;
        let at = versions.partition_point(|(seq, _)| *seq <= after);
        versions.get(at).copied().filter(|(seq, _)| *seq < before)
    }

    /// Whether there is a commit, from `low` to `high`, after which the cells were like this. What is known by its
    /// commit number is judged by that; what was published and could not be reported any more must have been begun.
    fn judge_view(
        &self,
        what: &str,
        mut low: u64,
        mut high: u64,
        cells: &[(u32, u64)],
    ) -> Result<(), String> {
        let (first, last) = (low, high);
        for (cell, txn) in cells {
            let none = Vec::new();
            let versions = self.versions.get(cell).unwrap_or(&none);
            let wrong = |expected: &str| {
                Err(format!(
                    "a {what} of {first} to {last} shows transaction {txn} in cell {cell}; {expected}"
                ))
            };
            let at = if *txn == self.settled.get(cell).copied().unwrap_or(0) {
                None
            } else {
                match versions.iter().position(|(_, other)| other == txn) {
                    Some(at) => Some(at),
                    // It was published, and the worker ended before it could say so: its number is not known.
                    None if self
                        .begun
                        .get(txn)
                        .is_some_and(|begun| begun.seq.is_none() && begun.cells.contains(cell)) =>
                    {
                        continue;
                    }
                    None => return wrong("which never wrote it"),
                }
            };
            let (from, next) = match at {
                None => (0, versions.first()),
                Some(at) => (versions[at].0, versions.get(at + 1)),
            };
            low = low.max(from);
            high = high.min(next.map_or(u64::MAX, |(seq, _)| seq - 1));
            if low > high {
                let newest = versions.iter().rev().find(|(seq, _)| *seq <= last);
                return wrong(&format!("expected {newest:?} (number, transaction)"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cell 1 written under 11 by 1 and under 13 by 3, cell 2 under 12 by 2; transaction 4 unknown.
    fn model() -> Model {
        let mut model = Model::new();
        model.open(10);
        model.stated().unwrap();
        for (txn, snapshot, cell, seq) in [(1, 10, 1, 11), (2, 10, 2, 12), (3, 12, 1, 13)] {
            model.begin(txn, snapshot, vec![cell], vec![]).unwrap();
            model.committed(txn, seq).unwrap();
        }
        model.begin(4, 13, vec![2], vec![]).unwrap();
        model
    }

    #[test]
    fn a_view_fits_if_there_was_such_a_moment() {
        for (low, high, cells, fits) in [
            (13, 13, vec![(1, 3), (2, 2)], true),
            (12, 12, vec![(1, 1), (2, 2)], true),
            (13, 13, vec![(1, 1), (2, 2)], false),
            (10, 13, vec![(1, 1), (2, 0)], true),
            (10, 13, vec![(1, 3), (2, 0)], false),
            (13, 14, vec![(2, 4)], true),
            (13, 14, vec![(1, 4)], false),
            (10, 13, vec![(1, 9)], false),
        ] {
            let mut model = model();
            model.saw("snapshot", low, high, cells.clone());
            assert_eq!(model.judge().is_ok(), fits, "{low} {high} {cells:?}");
        }
    }

    #[test]
    fn a_lost_update_is_found() {
        let mut model = model();
        model.begin(5, 12, vec![1], vec![]).unwrap();
        model.committed(5, 14).unwrap();
        assert!(model.judge().unwrap_err().contains("cell 1"));
    }

    #[test]
    fn a_serializable_transaction_that_read_what_was_written_over_is_found() {
        for (snapshot, read, fits) in [(13, (1, 3), true), (12, (1, 1), false), (13, (1, 1), false)] {
            let mut model = model();
            model.begin(5, snapshot, vec![7], vec![read]).unwrap();
            model.committed(5, 14).unwrap();
            assert_eq!(model.judge().is_ok(), fits, "{snapshot} {read:?}");
        }
    }

    #[test]
    fn a_number_that_was_used_before_is_found() {
        let mut model = model();
        model.begin(5, 13, vec![1], vec![]).unwrap();
        assert!(model.committed(5, 13).is_err());
        let mut model = self::model();
        model.begin(5, 13, vec![1], vec![]).unwrap();
        assert!(model.committed(5, 10).is_err());
    }

    #[test]
    fn what_was_acknowledged_has_to_be_there_after_opening() {
        for (cells, fits) in [
            (vec![(1, 3), (2, 2)], true),
            (vec![(1, 3), (2, 4)], true),
            (vec![(1, 1), (2, 2)], false),
            (vec![(1, 3)], false),
        ] {
            let mut model = model();
            model.open(13);
            model.tell(&cells);
            assert_eq!(model.stated().is_ok(), fits, "{cells:?}");
        }
    }
}
