//! Ranges that wait: a bounded queue that widens.

use super::api::SymbolRange;
use super::history::History;
use std::collections::VecDeque;
use std::time::Duration;

/// A range of commits whose symbols lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) first: u64,
    pub(super) last: u64,
    /// How many there are: fewer than the numbers between when some numbers were never used.
    pub(super) commits: u64,
    pub(super) symbols: SymbolRange,
    /// When the oldest became durable.
    pub(super) durable: Duration,
    /// When the oldest was queued.
    pub(super) queued: Duration,
}

impl Job {
    /// Takes in the job that comes right after this one; answers whether it does.
    fn absorb(&mut self, next: &Self) -> bool {
        if self.symbols.end != next.symbols.start {
            return false;
        }
        self.last = next.last;
        self.commits += next.commits;
        self.symbols.end = next.symbols.end;
        true
    }

    /// Cuts at most `max` symbols' worth of whole commits off the front, and answers the rest. Where the history
    /// does not reach back to the first commit, the boundaries are lost: all that is older goes in one piece.
    fn cut(&mut self, max: u64, history: &History) -> Option<Self> {
        if self.symbols.len() <= max {
            return None;
        }
        let mut known = history.range(self.first, self.last).peekable();
        let mut commits = 0;
        if known.peek()?.commit == self.first {
            let fits = |end: u64| end - self.symbols.start <= max;
            while known
                .next_if(|record| commits == 0 || fits(record.symbols.end))
                .is_some()
            {
                commits += 1;
            }
        } else {
            commits = self.commits - known.clone().count() as u64;
        }
        let next = known.peek()?;
        let rest = Self {
            first: next.commit,
            commits: self.commits - commits,
            symbols: SymbolRange {
                start: next.symbols.start,
                end: self.symbols.end,
            },
            durable: next.durable,
            ..*self
        };
        self.last = next.commit - 1;
        self.commits = commits;
        self.symbols.end = rest.symbols.start;
        Some(rest)
    }
}

/// How a job came into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// In a place of its own.
    Queued,
    /// There was no room: a range was widened.
    Widened,
    /// There was no room, and no range to widen: none of them lies next to another.
    Refused,
}

#[derive(Debug)]
pub(super) struct Queue {
    jobs: VecDeque<Job>,
    limit: usize,
    /// Of all jobs together.
    symbols: u64,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            jobs: VecDeque::new(),
            limit,
            symbols: 0,
        }
    }

    pub(super) fn push(&mut self, job: Job) -> Pushed {
        let pushed = self.place(job);
        if pushed != Pushed::Refused {
            self.symbols += job.symbols.len();
        }
        pushed
    }

    fn place(&mut self, job: Job) -> Pushed {
        if self.jobs.len() < self.limit {
            self.jobs.push_back(job);
            return Pushed::Queued;
        }
        if self.jobs.back_mut().is_some_and(|back| back.absorb(&job)) {
            return Pushed::Widened;
        }
        // The new one starts a run of its own: make room by joining what lies side by side.
        let mut joined: VecDeque<Job> = VecDeque::with_capacity(self.limit);
        for job in self.jobs.drain(..) {
            if !joined.back_mut().is_some_and(|back| back.absorb(&job)) {
                joined.push_back(job);
            }
        }
        self.jobs = joined;
        if self.jobs.len() == self.limit {
            return Pushed::Refused;
        }
        self.jobs.push_back(job);
        Pushed::Widened
    }

    /// The next group: whole neighbours from the front, up to `max` symbols, or one commit that is larger.
    pub(super) fn take(&mut self, max: u64, history: &History) -> Option<Job> {
        let mut job = self.jobs.pop_front()?;
        while job.symbols.len() < max
            && let Some(next) = self.jobs.front()
            && job.absorb(next)
        {
            self.jobs.pop_front();
        }
        if let Some(rest) = job.cut(max, history) {
            self.jobs.push_front(rest);
        }
        self.symbols -= job.symbols.len();
        Some(job)
    }

    /// The first job, if all its symbols lie before position `end`.
    pub(super) fn take_before(&mut self, end: u64) -> Option<Job> {
        let job = self.jobs.pop_front_if(|job| job.symbols.end <= end)?;
        self.symbols -= job.symbols.len();
        Some(job)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Job> {
        self.symbols = 0;
        self.jobs.drain(..)
    }

    pub(super) fn front(&self) -> Option<&Job> {
        self.jobs.front()
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn symbols(&self) -> u64 {
        self.symbols
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::Record;
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// Symbols of a commit, and how many positions lie unused before them.
        Push(u64, u64),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        let gap = prop_oneof![5 => Just(0u64), 1 => 1u64..3];
        prop_oneof![
            3 => (1u64..6, gap).prop_map(|(symbols, gap)| Step::Push(symbols, gap)),
            1 => Just(Step::Take),
        ]
    }

    proptest! {
        #[test]
        fn every_commit_that_was_not_refused_is_taken_once_whole_and_in_order(
            steps in prop::collection::vec(step(), 1..150),
            limit in 1usize..6,
            max in 1u64..12,
            kept in 1usize..200,
        ) {
            let mut queue = Queue::new(limit);
            let mut history = History::new(kept);
            // Commits in the queue, and their symbols.
            let mut waiting: VecDeque<(u64, SymbolRange)> = VecDeque::new();
            let (mut commit, mut position) = (0, 0);
            let ends = std::iter::repeat_n(Step::Take, 150 * 6);
            for step in steps.into_iter().chain(ends) {
                match step {
                    Step::Push(symbols, gap) => {
                        commit += 1;
                        let symbols = SymbolRange::new(position + gap, symbols);
                        position = symbols.end;
                        history.push(Record::new(commit, symbols, Duration::ZERO));
                        let (durable, queued) = (Duration::ZERO, Duration::ZERO);
                        let job = Job { first: commit, last: commit, commits: 1, symbols, durable, queued };
                        let runs = 1 + waiting.iter().zip(waiting.iter().skip(1))
                            .filter(|(one, two)| one.1.end != two.1.start).count();
                        match queue.push(job) {
                            Pushed::Refused => prop_assert!(runs >= limit && waiting.back().unwrap().1.end != symbols.start),
                            Pushed::Queued | Pushed::Widened => waiting.push_back((commit, symbols)),
                        }
                    }
                    Step::Take => {
                        let Some(job) = queue.take(max, &history) else {
                            prop_assert!(waiting.is_empty());
                            continue;
                        };
                        let taken: Vec<_> = waiting.drain(..job.commits as usize).collect();
                        let end = taken[taken.len() - 1];
                        prop_assert_eq!((job.first, job.symbols.start), (taken[0].0, taken[0].1.start));
                        prop_assert!(job.last >= end.0 && waiting.front().is_none_or(|next| job.last < next.0));
                        prop_assert_eq!(job.symbols.end, end.1.end);
                        prop_assert!(taken.windows(2).all(|pair| pair[0].1.end == pair[1].1.start));
                        let forgotten = history.get(job.first).is_none();
                        prop_assert!(job.symbols.len() <= max || job.commits == 1 || forgotten);
                    }
                }
                prop_assert!(queue.len() <= limit);
                prop_assert_eq!(queue.symbols(), waiting.iter().map(|(_, symbols)| symbols.len()).sum::<u64>());
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
