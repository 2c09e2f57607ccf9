//! Orchestration: what is durable becomes repairable, off the critical path.
//!
//! A commit appends its *systematic* symbols (a log's frames), syncs them, and is acknowledged: nothing else
//! lies on its path. Afterwards a task on the caller's tokio runtime reads them back, makes *repair* symbols from
//! them, appends these to storage of their own, and syncs that. Between the two syncs the commit is durable, but
//! rot cannot be mended: this window is measured, for each commit.
//!
//! An engine brings its storage ([`CommitRepairIo`]) and a code ([`RepairSymbolGenerator`]), and either commits
//! through [`RepairCoordinator::commit`], or keeps its own critical path and passes on what it made durable
//! ([`RepairCoordinator::offer`]).
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use walmend_repair::{MemoryGenerator, MemoryRepairIo, RepairConfig, RepairCoordinator, RepairState};
//!
//! let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
//! let io = MemoryRepairIo::new();
//! let generator = Arc::new(MemoryGenerator::new());
//! let coordinator =
//!     RepairCoordinator::new(Arc::new(io.clone()), generator, runtime.handle().clone(), RepairConfig::default())?;
//!
//! let receipt = coordinator.commit(&[b"one", b"two"])?;
//! assert!(receipt.durable && receipt.repair_pending);
//! coordinator.wait_for_background_repair(Duration::from_secs(30))?;
//! assert_eq!(coordinator.state(receipt.commit_seq), Some(RepairState::Completed));
//! assert_eq!(io.durable_repair().len(), 1);
//! # Ok::<(), walmend_types::Error>(())
//! ```
//!
//! # What happens when
//!
//! - **Much is committed at once.** Neighbours become one group. The queue is bounded; when it is full, its last
//!   range widens, and a commit never waits. Only when every range in a full queue stands alone (no two of them
//!   touch), the repair of the new commit is `Failed`.
//! - **A repair fails**, by an error or a panic: it is tried again, after a pause, as often as configured. Then
//!   the commits of this group are `Failed` for good; every other group goes on. A group shares its fate, since
//!   its commits share their repair symbols.
//! - **The runtime is shut down.** What waits is `Failed`, what is committed from then on as well, and the receipt
//!   says that no repair is pending. A group that a thread has begun ends as it ends. Commits stay durable.
//! - **Nobody drives the runtime.** Repairs stay pending, and waiting for them is an error at the deadline.
//!
//! A runtime of one thread, used for nothing else, is enough: the work is done on its blocking threads, by one of
//! them at a time, so that groups reach the storage in the order of their commits.

mod api;
mod background;
mod config;
mod coordinator;
mod history;
mod ledger;
mod memory;
mod queue;
mod report;
mod states;

pub use api::{CommitRepairIo, RepairSymbolGenerator, SymbolRange};
pub use config::RepairConfig;
pub use coordinator::RepairCoordinator;
pub use memory::{
    GeneratorFailure, MemoryGenerator, MemoryRepair, MemoryRepairCounters, MemoryRepairIo, RepairIoCall,
    RepairIoFailure,
};
pub use report::{
    CommitReceipt, DurableCommit, RepairEvent, RepairEventKind, RepairMetrics, RepairState, WindowStats,
};
