//! What a store said, kept apart from it, and whether what is found later fits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a store holds: the transaction that wrote each cell last. A cell is whatever is written as a whole, such as
/// a page; those that were never written are not in the map.
pub type Cells = BTreeMap<u64, u64>;

/// The transactions of a store, what it said of each, and the checks that follow:
///
/// - what was **committed** is there, whole, in the order of the commit numbers, and the numbers ascend;
/// - what was **not committed** is never seen again;
/// - what is **unknown** is there whole or not at all, behind everything that was committed; what nothing was said
///   of counts as unknown;
/// - a snapshot shows exactly the commits up to its own ([`at`](Self::at)).
///
/// It knows nothing of the store but this, so that any engine can be tested with it: let every transaction write its
/// own number, as given by [`begin`](Self::begin), into each of its cells.
///
/// ```
/// use walmend_vfs::sim::{Cells, History};
///
/// let mut history = History::default();
/// let one = history.begin([10, 11]);
/// history.committed(one, 1);
/// let two = history.begin([11, 12]);
/// history.unknown(two);
/// assert!(history.check(&Cells::from([(10, one), (11, one)])).is_ok());
/// assert!(history.check(&Cells::from([(10, one), (11, two), (12, two)])).is_ok());
/// assert!(history.check(&Cells::from([(10, one), (11, two)])).is_err()); // half of it
/// assert!(history.check(&Cells::from([(10, one)])).is_err()); // lost
/// ```
#[derive(Debug, Clone, Default)]
pub struct History {
    txns: Vec<Txn>,
    /// What everything that is settled left.
    settled: Cells,
    /// The newest commit number.
    last: u64,
    /// Committed since the history began or was settled, by commit number.
    committed: BTreeMap<u64, u64>,
    ordered: bool,
}

#[derive(Debug, Clone)]
struct Txn {
    cells: BTreeSet<u64>,
    said: Said,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Committed,
    NotCommitted,
    /// Recovery decided: it is there, or it is not.
    Settled(bool),
}

/// What does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Committed, and something else, older or nothing, is in one of its cells.
    Lost {
        /// The transaction.
        txn: u64,
        /// The cell.
        cell: u64,
        /// What is in it.
        found: Option<u64>,
    },
    /// A cell holds what was never committed.
    Invented {
        /// The cell.
        cell: u64,
        /// What is in it.
        found: u64,
    },
    /// Unknown, and there in part.
    Torn {
        /// The transaction.
        txn: u64,
        /// A cell of it with something older.
        cell: u64,
    },
    /// Unknown and there, while one that was begun before it is not, or the other way round where both wrote one
    /// cell.
    Reordered {
        /// The transaction that should not be there without the other one.
        txn: u64,
        /// The other one.
        without: u64,
    },
    /// A commit number that is not above all earlier ones.
    Number {
        /// The transaction.
        txn: u64,
        /// Its commit number.
        seq: u64,
        /// The newest one before.
        last: u64,
    },
    /// A snapshot that shows something else than the commits up to its own.
    Snapshot {
        /// The commit that it says it shows.
        seq: u64,
        /// The cell.
        cell: u64,
        /// What should be in it.
        expected: Option<u64>,
        /// What is in it.
        found: Option<u64>,
    },
}

impl History {
    /// A history of a store whose transactions commit in the order in which they begin: of those that are unknown, a
    /// first part is there.
    pub fn in_order() -> Self {
        Self {
            ordered: true,
            ..Self::default()
        }
    }

    /// A transaction that is going to write these cells; answers its number, from 1 on.
    pub fn begin(&mut self, cells: impl IntoIterator<Item = u64>) -> u64 {
        self.txns.push(Txn {
            cells: cells.into_iter().collect(),
            said: Said::Nothing,
        });
        self.txns.len() as u64
    }

    /// The store said that it is committed, under this number.
    pub fn committed(&mut self, txn: u64, seq: u64) {
        self.txn(txn).said = Said::Committed;
        self.committed.insert(seq, txn);
    }

    /// The store said that it is not committed.
    pub fn not_committed(&mut self, txn: u64) {
        self.txn(txn).said = Said::NotCommitted;
    }

    /// The store said that it does not know; the same as if it had said nothing.
    pub fn unknown(&mut self, txn: u64) {
        self.txn(txn).said = Said::Nothing;
    }

    fn txn(&mut self, number: u64) -> &mut Txn {
        // Every number that `begin` gave out is there, and the store answers to no others.
        &mut self.txns[number as usize - 1]
    }

    /// What the commits up to a number left. What was settled counts as one commit before all others.
    pub fn at(&self, seq: u64) -> Cells {
        let mut cells = self.settled.clone();
        for txn in self.committed.range(..=seq).map(|(_, txn)| *txn) {
            for cell in &self.txns[txn as usize - 1].cells {
                cells.insert(*cell, txn);
            }
        }
        cells
    }

    /// Checks what a snapshot shows.
    ///
    /// # Errors
    /// The first violation.
    pub fn check_snapshot(&self, seq: u64, found: &Cells) -> Result<(), Violation> {
        let expected = self.at(seq);
        let cells: BTreeSet<u64> = expected.keys().chain(found.keys()).copied().collect();
        for cell in cells {
            let (expected, found) = (expected.get(&cell).copied(), found.get(&cell).copied());
            if expected != found {
                return Err(Violation::Snapshot {
                    seq,
                    cell,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }

    /// Checks what is found, now or after a crash; answers which of the unknown transactions are there.
    ///
    /// # Errors
    /// The first violation.
    pub fn check(&self, found: &Cells) -> Result<BTreeSet<u64>, Violation> {
        let mut last = self.last;
        for (&seq, &txn) in &self.committed {
            if seq <= last {
                return Err(Violation::Number { txn, seq, last });
            }
            last = seq;
        }
        let sure = self.at(u64::MAX);
        let mut there = BTreeSet::new();
        for (&cell, &txn) in found {
            let wrote = |txn: &Txn| txn.cells.contains(&cell);
            let known = usize::try_from(txn)
                .ok()
                .and_then(|txn| self.txns.get(txn.checked_sub(1)?));
            match known.filter(|known| wrote(known)).map(|known| known.said) {
                Some(Said::Nothing) => {
                    there.insert(txn);
                }
                Some(_) if sure.get(&cell) == Some(&txn) => {}
                Some(Said::Committed | Said::Settled(true)) => {
                    // An older one: of the one that should be there instead, below.
                }
                _ => return Err(Violation::Invented { cell, found: txn }),
            }
        }
        for (&cell, &txn) in &sure {
            let found = found.get(&cell).copied();
            if found != Some(txn) && !found.is_some_and(|found| there.contains(&found)) {
                return Err(Violation::Lost { txn, cell, found });
            }
        }
        self.check_unknown(found, &there)?;
        Ok(there)
    }

    /// Those that are unknown and there are whole, and follow each other in some order.
    fn check_unknown(&self, found: &Cells, there: &BTreeSet<u64>) -> Result<(), Violation> {
        // What came behind each of them, as far as cells tell.
        let mut behind: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for &txn in there {
            for &cell in &self.txns[txn as usize - 1].cells {
                match found.get(&cell) {
                    Some(other) if *other == txn => {}
                    Some(other) if there.contains(other) => {
                        behind.entry(txn).or_default().insert(*other);
                    }
                    _ => return Err(Violation::Torn { txn, cell }),
                }
            }
        }
        if self.ordered {
            let unknown = (1u64..)
                .zip(&self.txns)
                .filter(|(_, txn)| txn.said == Said::Nothing);
            for (earlier, txn) in unknown {
                // One that all of its cells were written over by later ones cannot be told.
                let hidden = txn.cells.iter().all(|cell| {
                    found
                        .get(cell)
                        .is_some_and(|other| *other > earlier && there.contains(other))
                });
                if let Some(&later) = there.range(earlier + 1..).next()
                    && !there.contains(&earlier)
                    && !hidden
                {
                    return Err(Violation::Reordered {
                        txn: later,
                        without: earlier,
                    });
                }
            }
        }
        // Taken away one by one from the end, nothing may be left over.
        let mut left = there.clone();
        loop {
            let last = left.iter().copied().find(|txn| {
                let later = behind.get(txn);
                later.is_none_or(|later| later.is_disjoint(&left))
            });
            match last {
                Some(txn) => left.remove(&txn),
                None => break,
            };
        }
        match (left.first(), left.last()) {
            (Some(&txn), Some(&without)) => Err(Violation::Reordered { txn, without }),
            _ => Ok(()),
        }
    }

    /// After a recovery: checks what is found, and what is there from now on is committed, what is not there must
    /// never come. `last` is the newest commit number that the store knows.
    ///
    /// # Errors
    /// The first violation.
    pub fn settle(&mut self, found: &Cells, last: u64) -> Result<BTreeSet<u64>, Violation> {
        let there = self.check(found)?;
        for (number, txn) in (1..).zip(&mut self.txns) {
            match txn.said {
                Said::Nothing => txn.said = Said::Settled(there.contains(&number)),
                Said::Committed => txn.said = Said::Settled(true),
                Said::NotCommitted | Said::Settled(_) => {}
            }
        }
        let newest = self.committed.last_key_value();
        if let Some((&seq, &txn)) = newest.filter(|(seq, _)| **seq > last) {
            // The next one would be used twice.
            return Err(Violation::Number { txn, seq, last });
        }
        self.committed.clear();
        self.settled.clone_from(found);
        self.last = self.last.max(last);
        Ok(there)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |found: &Option<u64>| match found {
            Some(txn) => format!("transaction {txn}"),
            None => "nothing".into(),
        };
        match self {
            Self::Lost { txn, cell, found } => write!(
                f,
                "transaction {txn} was committed, but cell {cell} holds {}",
                shown(found)
            ),
            Self::Invented { cell, found } => {
                write!(f, "cell {cell} holds transaction {found}, which must not be seen")
            }
            Self::Torn { txn, cell } => write!(f, "transaction {txn} is there, but not in cell {cell}"),
            Self::Reordered { txn, without } => {
                write!(
                    f,
                    "transaction {txn} is there without {without}, which came before it"
                )
            }
            Self::Number { txn, seq, last } => write!(
                f,
                "transaction {txn} has commit number {seq}, the newest other one is {last}"
            ),
            Self::Snapshot {
                seq,
                cell,
                expected,
                found,
            } => write!(
                f,
                "the snapshot at commit {seq} shows {} in cell {cell} instead of {}",
                shown(found),
                shown(expected)
            ),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two committed transactions over cells 1 to 3, one refused, two unknown.
    fn history(ordered: bool) -> History {
        let mut history = if ordered {
            History::in_order()
        } else {
            History::default()
        };
        for (cells, seq) in [([1, 2], 5), ([2, 3], 6)] {
            let txn = history.begin(cells);
            history.committed(txn, seq);
        }
        let refused = history.begin([1, 9]);
        history.not_committed(refused);
        history.begin([3, 4]);
        let unknown = history.begin([4, 5]);
        history.unknown(unknown);
        history
    }

    fn check(found: &[(u64, u64)]) -> Result<Vec<u64>, Violation> {
        let found = found.iter().copied().collect();
        let there = history(false).check(&found)?;
        Ok(Vec::from_iter(there))
    }

    #[test]
    fn what_fits_is_told_apart_from_what_does_not() {
        let none = [(1, 1), (2, 2), (3, 2)];
        assert_eq!(check(&none), Ok(vec![]));
        assert_eq!(check(&[(1, 1), (2, 2), (3, 4), (4, 4)]), Ok(vec![4]));
        assert_eq!(check(&[(1, 1), (2, 2), (3, 4), (4, 5), (5, 5)]), Ok(vec![4, 5]));
        let lost = |txn, cell, found| Err(Violation::Lost { txn, cell, found });
        assert_eq!(check(&[(1, 1), (2, 1), (3, 2)]), lost(2, 2, Some(1)));
        assert_eq!(check(&[(1, 1), (2, 2)]), lost(2, 3, None));
        assert_eq!(
            check(&[(1, 3), (2, 2), (3, 2)]),
            Err(Violation::Invented { cell: 1, found: 3 })
        );
        assert_eq!(
            check(&[(1, 1), (2, 2), (3, 2), (7, 1)]),
            Err(Violation::Invented { cell: 7, found: 1 })
        );
        assert_eq!(
            check(&[(1, 1), (2, 2), (3, 2), (7, 70)]),
            Err(Violation::Invented { cell: 7, found: 70 })
        );
        assert_eq!(
            check(&[(1, 1), (2, 2), (3, 4)]),
            Err(Violation::Torn { txn: 4, cell: 4 })
        );
        assert_eq!(
            check(&[(1, 1), (2, 2), (3, 2), (4, 4)]),
            Err(Violation::Torn { txn: 4, cell: 3 })
        );
    }

    #[test]
    fn where_the_order_is_known_a_later_one_does_not_come_alone() {
        let only_the_later = Cells::from([(1, 1), (2, 2), (3, 2), (4, 5), (5, 5)]);
        assert_eq!(
            Vec::from_iter(history(false).check(&only_the_later).unwrap()),
            [5]
        );
        let reordered = Violation::Reordered { txn: 5, without: 4 };
        assert_eq!(history(true).check(&only_the_later), Err(reordered));
    }

    #[test]
    fn two_that_each_wrote_over_the_other_are_in_no_order() {
        let mut history = History::default();
        history.begin([1, 2, 3]);
        history.begin([1, 2, 4]);
        let crossed = Cells::from([(1, 1), (2, 2), (3, 1), (4, 2)]);
        assert_eq!(
            history.check(&crossed),
            Err(Violation::Reordered { txn: 1, without: 2 })
        );
    }

    #[test]
    fn a_snapshot_shows_the_commits_up_to_its_own_and_nothing_else() {
        let history = history(false);
        history.check_snapshot(5, &Cells::from([(1, 1), (2, 1)])).unwrap();
        history
            .check_snapshot(6, &Cells::from([(1, 1), (2, 2), (3, 2)]))
            .unwrap();
        let wrong = history.check_snapshot(5, &Cells::from([(1, 1), (2, 2)]));
        let expected = Violation::Snapshot {
            seq: 5,
            cell: 2,
            expected: Some(1),
            found: Some(2),
        };
        assert_eq!(wrong, Err(expected));
    }

    #[test]
    fn what_recovery_decided_stays_decided() {
        let mut history = history(false);
        let with_four = Cells::from([(1, 1), (2, 2), (3, 4), (4, 4)]);
        assert_eq!(Vec::from_iter(history.settle(&with_four, 7).unwrap()), [4]);
        assert!(history.check(&with_four).unwrap().is_empty());
        let back = Cells::from([(1, 1), (2, 2), (3, 2)]);
        assert_eq!(
            history.check(&back),
            Err(Violation::Lost {
                txn: 4,
                cell: 3,
                found: Some(2)
            })
        );
        let late = Cells::from([(1, 1), (2, 2), (3, 4), (4, 5), (5, 5)]);
        assert_eq!(
            history.check(&late),
            Err(Violation::Invented { cell: 4, found: 5 })
        );
        let again = history.begin([1]);
        history.committed(again, 7);
        let expected = Violation::Number {
            txn: again,
            seq: 7,
            last: 7,
        };
        assert_eq!(history.check(&with_four), Err(expected));
    }

    #[test]
    fn a_store_that_forgets_its_newest_number_is_found_out() {
        let found = Cells::from([(1, 1), (2, 2), (3, 2)]);
        let expected = Violation::Number {
            txn: 2,
            seq: 6,
            last: 5,
        };
        assert_eq!(history(false).settle(&found, 5), Err(expected));
    }
}
