//! Two-phase commit channel and group commit, for any log.
//!
//! Writers hand requests to a [`Pipeline`]. Whoever commits and finds nobody leading takes what is there as one
//! batch, validates it, appends it to a log, makes it durable with one sync, publishes it, and answers every
//! writer in it; the next batch is appended during that sync. The log is whatever implements [`WalBatchWriter`]; what
//! conflicts with what is up to a [`WriteSetValidator`].
//!
//! ```
//! use walmend_commit::*;
//!
//! let log = MemoryWriter::new();
//! let group = GroupCommit::new(log.clone(), FirstCommitterWins::new(0), GroupConfig::default());
//! let pipeline = Pipeline::start(group, 16)?;
//!
//! let writes = WriteSet::new([PageNumber::new(1)?]);
//! let request = CommitRequest::new(TxnId(1), CommitSeq(0), writes, "hello");
//! assert_eq!(pipeline.commit(request).into_result()?, CommitSeq(1));
//! assert_eq!(log.published()[0].payload, "hello");
//! # Ok::<(), Error>(())
//! ```
//!
//! The parts can be had one by one: the two-phase [`channel`], in which writers reserve a place and then send, and
//! which delivers in the order of the reservations; the [`GroupCommit`] for one thread that does all the work; the
//! functions that say how large a batch and a channel should be.
//!
//! # What a writer can rely on
//!
//! - `Committed` means durable and visible; `NotCommitted` means that no crash will bring it back; everything
//!   else is `OutcomeUnknown`, with a token to ask with after reopening. See [`CommitOutcome`].
//! - Every ticket is answered, whatever panics.
//! - A conflict is answered after the batch that it lost to is visible, so that a retry sees the winner.
//!
//! # What it is not
//!
//! Not a log, not a transaction manager: it keeps no pages and hands out no snapshots. Write sets alone give
//! snapshot isolation, which permits write skew; requests that bring their [`ReadSet`] are serializable. It uses no
//! async runtime and needs none.

mod channel;
mod config;
mod group;
mod memory;
mod permit;
mod pipeline;
mod receiver;
mod report;
mod run;
mod sizing;
mod stages;
#[cfg(not(walmend_loom))]
mod threads;
mod ticket;
mod totals;
mod validate;

pub use channel::{
    DEFAULT_CAPACITY, Reserve, Sender, TryReserveError, capacity_from_setting, channel, channel_with_deadline,
};
pub use config::GroupConfig;
pub use group::GroupCommit;
pub use memory::{Failure, MemoryCommit, MemoryCounters, MemoryMark, MemoryWriter};
pub use permit::{Permit, SendError};
pub use pipeline::Pipeline;
pub use receiver::{Receiver, Recv, RecvError};
pub use report::{BatchReport, Committed, Conflicted, Drained, Failed, LoopEnd, LoopReport, Phase};
#[cfg(not(walmend_loom))]
pub use run::spawn;
pub use sizing::{conformal_batch_size, little_law_capacity, optimal_batch_size};
pub use ticket::{Sent, Ticket};
pub use totals::{SharedTotals, Totals};
pub use validate::FirstCommitterWins;

pub use walmend_types::{
    Append, AppendFailure, BatchEntry, CommitOutcome, CommitRequest, CommitSeq, Conflict, Cx, Error,
    OutcomeToken, PageNumber, Poison, ReadSet, Result, TxnId, WalBatchSync, WalBatchWriter, WriteSet,
    WriteSetValidator,
};

/// What other threads may use, and what they may be given: the build fails where that stops being true.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    const fn sent<T: Send>() {}
    shared::<Sender<()>>();
    shared::<Ticket>();
    shared::<SharedTotals>();
    shared::<MemoryWriter<()>>();
    sent::<Receiver<()>>();
    sent::<Permit<()>>();
    sent::<GroupCommit<(), MemoryWriter<()>, FirstCommitterWins>>();
};

/// The README's example is compiled and run.
#[cfg(all(doctest, not(walmend_loom)))]
#[doc = include_str!("../README.md")]
struct Readme;
