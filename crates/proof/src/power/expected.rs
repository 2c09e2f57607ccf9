//! What must be there after a loss of power: all that was acknowledged, and of the rest whole transactions.

use super::body::{Body, Groups};

/// What is known of each group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    groups: Groups,
    versions: Vec<u64>,
    /// What the machine will have said by the end of its life. Its lines come by another way than its writes, and may
    /// come later; so only this says how far a group can have come.
    by_its_end: Vec<u64>,
    /// How many acknowledgements it has heard.
    pub acknowledged: u64,
}

/// What was found of one page or row: nothing, something that is not whole, or a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is not there: as good as version 0.
    Nothing,
    /// Bytes that nobody wrote.
    Rubbish,
    /// A body.
    Whole(Body),
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged transactions that are not there.
    pub lost: u64,
    /// Groups whose pages are not all of one version, or are none.
    pub torn: u64,
    /// Groups at a version that nobody has written.
    pub invented: u64,
    /// Transactions that are there although nobody had heard of them: their acknowledgement was cut off.
    pub unheard: u64,
    /// What is wrong, for a person.
    pub problems: Vec<String>,
}

impl Expected {
    /// Before anything was written.
    pub fn new(groups: Groups) -> Self {
        Self {
            groups,
            versions: vec![0; groups.0 as usize],
            by_its_end: vec![0; groups.0 as usize],
            acknowledged: 0,
        }
    }

    /// Before a life of which these are all the lines.
    #[must_use]
    pub fn before<'a>(mut self, lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut at_its_end = self.clone();
        lines.into_iter().for_each(|line| at_its_end.hear(line));
        self.by_its_end = at_its_end.versions;
        self
    }

    /// Takes in a line of the machine's: `ack GROUP VERSION` and `seen GROUP VERSION` count.
    pub fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        let what = words.next();
        let mut number = || words.next()?.parse::<u64>().ok();
        let (Some(what @ ("ack" | "seen")), Some(group), Some(version)) = (what, number(), number()) else {
            return;
        };
        let group = usize::try_from(group).unwrap_or(usize::MAX);
        if let Some(known) = self.versions.get_mut(group) {
            *known = version.max(*known);
            self.acknowledged += u64::from(what == "ack");
        }
    }

    /// The version at which a group is known to be.
    pub fn version(&self, group: u32) -> u64 {
        self.versions.get(group as usize).copied().unwrap_or(0)
    }

    /// Compares with what is there.
    pub fn check(&self, mut found: impl FnMut(u32) -> Found) -> Verdict {
        let mut verdict = Verdict::default();
        for group in 0..self.groups.0 {
            let known = self.version(group);
            let most = known.max(self.by_its_end[group as usize]) + 1;
            let bodies: Vec<Found> = self.groups.ids(group).map(&mut found).collect();
            let version = |(id, found): (u32, &Found)| match found {
                Found::Nothing => Some(0),
                Found::Whole(body) if body.id == id => Some(body.version),
                Found::Whole(_) | Found::Rubbish => None,
            };
            let versions: Vec<Option<u64>> = self.groups.ids(group).zip(&bodies).map(version).collect();
            let whole = versions.iter().all(|version| *version == versions[0]);
            match versions[0].filter(|_| whole) {
                None => {
                    verdict.torn += 1;
                    verdict.problems.push(format!(
                        "group {group} is not whole: {versions:?}, {known} was acknowledged"
                    ));
                }
                Some(version) if version < known => {
                    verdict.lost += known - version;
                    verdict.problems.push(format!(
                        "group {group} is at version {version}, {known} was acknowledged"
                    ));
                }
                Some(version) if version > most => {
                    verdict.invented += 1;
                    verdict.problems.push(format!(
                        "group {group} is at version {version}, which its writer never came to"
                    ));
                }
                Some(version) => verdict.unheard += version - known,
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(id: u32, version: u64) -> Found {
        Found::Whole(Body { id, version })
    }

    /// Groups 0 (page 0), 1 (pages 1 and 2) and 2 (3 to 5); the first two were acknowledged.
    fn expected() -> Expected {
        let mut expected = Expected::new(Groups(3));
        for line in ["ack 0 1", "seen 1 6", "ack 1 7", "ready", "ack 9 1", "ack 1"] {
            expected.hear(line);
        }
        assert_eq!(expected.acknowledged, 2);
        expected
    }

    #[test]
    fn what_was_acknowledged_is_enough_and_one_more_is_unheard() {
        let state = |id| match id {
            0 => whole(0, 1),
            1 | 2 => whole(id, 7),
            _ => Found::Nothing,
        };
        assert_eq!(expected().check(state), Verdict::default());
        let more = |id| if id >= 3 { whole(id, 1) } else { state(id) };
        let verdict = expected().check(more);
        assert_eq!((verdict.unheard, verdict.problems.len()), (1, 0));
    }

    #[test]
    fn lost_torn_and_invented_transactions_show() {
        let verdict = |one: Found, two: Found| {
            expected().check(|id| match id {
                0 => whole(0, 1),
                1 => one,
                2 => two,
                _ => Found::Nothing,
            })
        };
        assert_eq!(verdict(whole(1, 5), whole(2, 5)).lost, 2);
        assert_eq!(verdict(Found::Nothing, Found::Nothing).lost, 7);
        assert_eq!(verdict(whole(1, 7), whole(2, 8)).torn, 1);
        assert_eq!(verdict(whole(1, 7), Found::Rubbish).torn, 1);
        assert_eq!(verdict(whole(1, 7), whole(1, 7)).torn, 1);
        assert_eq!(verdict(whole(1, 9), whole(2, 9)).invented, 1);
    }

    #[test]
    fn a_line_that_comes_late_makes_no_transaction_an_invented_one() {
        let late = expected().before(["ack 1 8", "ack 1 9"]);
        let at = |version| {
            let found = |id| match id {
                0 => whole(0, 1),
                1 | 2 => whole(id, version),
                _ => Found::Nothing,
            };
            late.check(found)
        };
        assert_eq!((at(10).invented, at(10).unheard), (0, 3));
        assert_eq!(at(11).invented, 1);
        assert_eq!(at(6).lost, 1);
    }
}
