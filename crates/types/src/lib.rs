//! Newtypes and contracts that the layers of walmend share.
//!
//! Three groups: numbers that must not be mixed up ([`PageNumber`], [`FrameNumber`], [`CommitSeq`], ...);
//! two small tools that every layer needs ([`Cx`] to cancel, [`Poison`] to latch the first failure); and the
//! contracts between the commit pipeline and whatever log it drives ([`WalBatchWriter`], [`WalBatchSync`],
//! [`WriteSetValidator`] and their data). An engine with a log of its own implements the contracts and needs
//! nothing else of walmend but `walmend-commit`.
//!
//! ```
//! use walmend_types::{PageNumber, PageSize};
//!
//! let size = PageSize::new(4096)?;
//! let page = PageNumber::new(3)?;
//! assert_eq!(page.offset(size), 8192); // where page 3 starts in a database file
//! assert!(PageSize::new(1000).is_err());
//! # Ok::<(), walmend_error::Error>(())
//! ```

mod batch;
mod cx;
mod numbers;
mod poison;
mod request;

pub use batch::{Append, AppendFailure, BatchEntry, WalBatchSync, WalBatchWriter};
pub use cx::{CancelGuard, Cx};
pub use numbers::{CommitSeq, FrameNumber, PageNumber, PageSize, Salts, SyncMode, TxnId};
pub use poison::Poison;
pub use request::{
    CommitOutcome, CommitRequest, Conflict, OutcomeToken, PageImage, PagePayload, ReadSet, WriteSet,
    WriteSetValidator,
};

pub use walmend_error::{Error, ErrorKind, Result};

/// What other threads may use: the build fails where that stops being true.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Cx>();
    shared::<Poison>();
    shared::<CommitOutcome>();
    shared::<CommitRequest<Vec<PageImage>>>();
};

/// The README's example is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
