//! Orchestration: what is durable becomes repairable, off the critical path. [`RepairCoordinator`] says how.
//!
//! `coordinator` is the critical path, `background` the other one; between them stands `ledger`, everything that
//! one lock protects: the `queue`, the `states`, the `history`. `api` is what an engine implements, `memory` one
//! such engine, `report` what callers are told.

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
