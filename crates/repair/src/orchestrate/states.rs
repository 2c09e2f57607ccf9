//! States by interval: a widened range costs one entry, however many commits it holds.

use super::report::RepairState;
use std::collections::BTreeMap;

/// Runs of commits that share a state. Bounded: the oldest run that is not pending is forgotten first.
#[derive(Debug)]
pub(super) struct States {
    /// First commit of a run: last commit, state. Runs are apart, or differ in state.
    runs: BTreeMap<u64, (u64, RepairState)>,
    limit: usize,
}

impl States {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            runs: BTreeMap::new(),
            limit: limit.max(2),
        }
    }

    pub(super) fn get(&self, commit: u64) -> Option<RepairState> {
        let (_, &(last, state)) = self.runs.range(..=commit).next_back()?;
        (commit <= last).then_some(state)
    }

    /// Adds a commit that is newer than all others.
    pub(super) fn push(&mut self, commit: u64, state: RepairState) {
        // Mostly it goes on as before.
        if let Some(mut newest) = self.runs.last_entry()
            && newest.get().1 == state
            && newest.get().0.checked_add(1) == Some(commit)
        {
            newest.get_mut().0 = commit;
            return;
        }
        self.runs.insert(commit, (commit, state));
        self.join(commit);
        self.trim();
    }

    /// Gives a new state to those of `first..=last` that are known.
    pub(super) fn set(&mut self, first: u64, last: u64, state: RepairState) {
        self.split(first);
        if let Some(next) = last.checked_add(1) {
            self.split(next);
        }
        let starts: Vec<u64> = self.runs.range(first..=last).map(|(&start, _)| start).collect();
        for &start in &starts {
            if let Some(run) = self.runs.get_mut(&start) {
                run.1 = state;
            }
        }
        for start in starts {
            self.join(start);
        }
        if let Some(next) = last.checked_add(1) {
            self.join(next);
        }
        self.trim();
    }

    /// Makes `at` the first of a run, if it lies inside one.
    fn split(&mut self, at: u64) {
        let Some((&start, &(last, state))) = self.runs.range(..at).next_back() else {
            return;
        };
        if at <= last {
            self.runs.insert(start, (at - 1, state));
            self.runs.insert(at, (last, state));
        }
    }

    /// Joins the run that starts at `at` to the one before it, if they touch and agree.
    fn join(&mut self, at: u64) {
        let Some(&(last, state)) = self.runs.get(&at) else {
            return;
        };
        if let Some((&start, &(end, before))) = self.runs.range(..at).next_back()
            && end + 1 == at
            && before == state
        {
            self.runs.remove(&at);
            self.runs.insert(start, (last, state));
        }
    }

    fn trim(&mut self) {
        while self.runs.len() > self.limit {
            let done = self.runs.iter().find(|(_, run)| run.1 != RepairState::Pending);
            if let Some(start) = done.map(|(&start, _)| start) {
                self.runs.remove(&start);
                continue;
            }
            // All is pending, with numbers between that no commit has: these now count as pending too.
            let mut oldest = self.runs.iter();
            let (Some((&start, _)), Some((&second, &(last, state)))) = (oldest.next(), oldest.next()) else {
                return;
            };
            self.runs.remove(&second);
            self.runs.insert(start, (last, state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RepairState::{Completed, Failed, NotScheduled, Pending};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_say_what_a_table_of_all_commits_says(
            steps in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..10, 0usize..3), 1..120),
        ) {
            let mut states = States::new(usize::MAX);
            let mut table: BTreeMap<u64, RepairState> = BTreeMap::new();
            let mut next = 1;
            for (push, at, length, state) in steps {
                let state = [Pending, Completed, Failed][state];
                if push {
                    next += length / 9; // now and then a number that no commit has
                    states.push(next, state);
                    table.insert(next, state);
                    next += 1;
                } else {
                    states.set(at, at + length, state);
                    table.range_mut(at..=at + length).for_each(|entry| *entry.1 = state);
                }
                for commit in 0..next + 2 {
                    prop_assert_eq!(states.get(commit), table.get(&commit).copied());
                }
            }
            let runs: Vec<_> = states.runs.iter().map(|(&first, &(last, state))| (first, last, state)).collect();
            for pair in runs.windows(2) {
                prop_assert!(pair[0].1 + 1 < pair[1].0 || pair[0].2 != pair[1].2, "not joined: {:?}", pair);
            }
        }
    }

    #[test]
    fn what_is_forgotten_first_is_the_oldest_that_is_not_pending() {
        let mut states = States::new(3);
        for (commit, state) in [
            (1, Pending),
            (2, Completed),
            (3, Failed),
            (4, Completed),
            (5, Pending),
        ] {
            states.push(commit, state);
        }
        let known: Vec<_> = (1..=5).map(|commit| states.get(commit)).collect();
        assert_eq!(known, [Some(Pending), None, None, Some(Completed), Some(Pending)]);
    }

    #[test]
    fn pending_runs_are_never_forgotten_but_bridged() {
        let mut states = States::new(2);
        for commit in [1, 3, 5, 7] {
            states.push(commit, Pending);
        }
        assert!(
            [1, 3, 5, 7]
                .iter()
                .all(|&commit| states.get(commit) == Some(Pending))
        );
        assert_eq!(states.runs.len(), 2);
    }

    #[test]
    fn a_million_commits_of_one_state_are_one_run() {
        let mut states = States::new(8);
        for commit in 1..=1_000_000 {
            states.push(commit, NotScheduled);
        }
        assert_eq!(states.runs.len(), 1);
        assert_eq!(states.get(777_777), Some(NotScheduled));
    }
}
