//! The events of the last commits, and the windows that closed last.

use super::api::SymbolRange;
use super::report::{RepairEvent, RepairEventKind, WindowStats};
use std::collections::VecDeque;
use std::time::Duration;
use walmend_types::CommitSeq;

/// Events of one commit, at most: each kind once, and one of two ends.
const MOST_EVENTS: usize = 5;

/// What is kept of one commit. It is made on the path of the commit, so it allocates nothing.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) commit: u64,
    pub(super) symbols: SymbolRange,
    pub(super) durable: Duration,
    events: [Option<(RepairEventKind, Duration)>; MOST_EVENTS],
}

impl Record {
    pub(super) fn new(commit: u64, symbols: SymbolRange, durable: Duration) -> Self {
        Self {
            commit,
            symbols,
            durable,
            events: [
                Some((RepairEventKind::CommitDurable, durable)),
                None,
                None,
                None,
                None,
            ],
        }
    }

    /// Adds an event; its time is never before that of the last one.
    pub(super) fn add(&mut self, kind: RepairEventKind, at: Duration) {
        let last = self.events.iter().flatten().last();
        let at = at.max(last.map_or(Duration::ZERO, |event| event.1));
        let place = self.events.iter_mut().find(|event| event.is_none());
        debug_assert!(place.is_some(), "more events than there are kinds");
        if let Some(place) = place {
            *place = Some((kind, at));
        }
    }

    pub(super) fn events(&self) -> Vec<RepairEvent> {
        let numbered = (1..).zip(self.events.iter().flatten());
        numbered
            .map(|(number, &(kind, at))| RepairEvent {
                commit_seq: CommitSeq(self.commit),
                number,
                at,
                kind,
            })
            .collect()
    }
}

/// The records of the last commits, in order, and the last windows. Both bounded.
#[derive(Debug)]
pub(super) struct History {
    records: VecDeque<Record>,
    windows: VecDeque<Duration>,
    longest: Duration,
    limit: usize,
}

impl History {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            records: VecDeque::new(),
            windows: VecDeque::new(),
            longest: Duration::ZERO,
            limit,
        }
    }

    pub(super) fn push(&mut self, record: Record) {
        if self.records.len() == self.limit {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    pub(super) fn get(&self, commit: u64) -> Option<&Record> {
        self.range(commit, commit).next()
    }

    /// The records of `first..=last`, in order: those that are still kept.
    pub(super) fn range(&self, first: u64, last: u64) -> impl Iterator<Item = &Record> + Clone {
        let (from, to) = self.places(first, last);
        self.records.range(from..to)
    }

    pub(super) fn range_mut(&mut self, first: u64, last: u64) -> impl Iterator<Item = &mut Record> {
        let (from, to) = self.places(first, last);
        self.records.range_mut(from..to)
    }

    fn places(&self, first: u64, last: u64) -> (usize, usize) {
        let from = self.records.partition_point(|record| record.commit < first);
        let to = self.records.partition_point(|record| record.commit <= last);
        (from, to.max(from))
    }

    pub(super) fn close_window(&mut self, window: Duration) {
        if self.windows.len() == self.limit {
            self.windows.pop_front();
        }
        self.windows.push_back(window);
        self.longest = self.longest.max(window);
    }

    /// A copy of the last windows.
    pub(super) fn windows(&self) -> Windows {
        Windows {
            last: self.windows.iter().copied().collect(),
            longest: self.longest,
        }
    }
}

/// The last windows, in no order, and the longest of all.
pub(super) struct Windows {
    last: Vec<Duration>,
    longest: Duration,
}

impl Windows {
    pub(super) fn stats(mut self) -> WindowStats {
        self.last.sort_unstable();
        // Nearest rank: the smallest sample that at least this share of all does not exceed.
        let quantile = |percent: usize| {
            let rank = (self.last.len() * percent).div_ceil(100).max(1);
            self.last.get(rank - 1).copied().unwrap_or_default()
        };
        WindowStats {
            samples: self.last.len(),
            p50: quantile(50),
            p99: quantile(99),
            max: self.longest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_last_windows_and_the_maximum_that_of_all() {
        let mut history = History::new(100);
        assert_eq!(history.windows().stats(), WindowStats::default());
        history.close_window(Duration::from_secs(9));
        for ms in (1..=100).rev() {
            history.close_window(Duration::from_millis(ms));
        }
        let stats = history.windows().stats();
        assert_eq!(stats.samples, 100);
        assert_eq!((stats.p50.as_millis(), stats.p99.as_millis()), (50, 99));
        assert_eq!(stats.max, Duration::from_secs(9));
    }

    #[test]
    fn the_oldest_record_goes_when_there_is_no_room() {
        let mut history = History::new(2);
        for commit in [3, 5, 6] {
            history.push(Record::new(commit, SymbolRange::new(commit, 1), Duration::ZERO));
        }
        let kept: Vec<u64> = history.range(0, 9).map(|record| record.commit).collect();
        assert_eq!(kept, [5, 6]);
        assert!(history.get(3).is_none() && history.get(4).is_none() && history.get(6).is_some());
    }

    #[test]
    fn times_of_one_commit_never_go_back() {
        let mut record = Record::new(1, SymbolRange::new(0, 1), Duration::from_millis(7));
        record.add(RepairEventKind::CommitAcked, Duration::from_millis(6));
        let events = record.events();
        assert_eq!((events[0].number, events[1].number), (1, 2));
        assert_eq!(events[1].at, Duration::from_millis(7));
    }
}
