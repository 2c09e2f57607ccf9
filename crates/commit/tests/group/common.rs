//! What the tests of the group commit share.

use std::path::Path;
use walmend_commit::*;

pub(crate) type Group = GroupCommit<u64, MemoryWriter<u64>, FirstCommitterWins>;

/// A group commit over a log in memory.
pub(crate) struct Bench {
    pub(crate) log: MemoryWriter<u64>,
    pub(crate) group: Group,
    number: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(GroupConfig::default())
    }

    pub(crate) fn with(config: GroupConfig) -> Self {
        let log = MemoryWriter::new();
        Self {
            group: GroupCommit::new(log.clone(), FirstCommitterWins::new(0), config),
            log,
            number: 0,
        }
    }

    /// One batch, and the answers to its tickets.
    pub(crate) fn process(
        &mut self,
        requests: impl IntoIterator<Item = CommitRequest<u64>>,
    ) -> (BatchReport, Vec<CommitOutcome>) {
        let (batch, tickets): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .map(|request| {
                self.number += 1;
                Sent::new(self.number, request)
            })
            .unzip();
        let report = self.group.process_batch(batch);
        let outcomes = tickets
            .iter()
            .map(|ticket| ticket.try_outcome().expect("answered by now"))
            .collect();
        (report, outcomes)
    }

    /// The next request is refused for this reason, and does not reach the log.
    pub(crate) fn assert_writing_has_ended(&mut self, reason: &str) {
        let before = self.log.counters();
        let (report, outcomes) = self.process([request(999, u64::MAX, [999])]);
        assert!(report.phases.is_empty());
        match &outcomes[0] {
            CommitOutcome::NotCommitted {
                reason: Error::Poisoned { reason: found },
            } => assert!(found.contains(reason), "{found}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(self.log.counters(), before);
    }
}

fn writes(pages: impl IntoIterator<Item = u32>) -> WriteSet {
    WriteSet::new(pages.into_iter().map(|page| PageNumber::new(page).unwrap()))
}

/// A request whose payload is its transaction's number.
pub(crate) fn request(txn: u64, snapshot: u64, pages: impl IntoIterator<Item = u32>) -> CommitRequest<u64> {
    CommitRequest::new(TxnId(txn), CommitSeq(snapshot), writes(pages), txn)
}

pub(crate) fn fault(what: &str) -> Error {
    Error::io("write", Path::new(what), None, std::io::Error::other("planted"))
}
