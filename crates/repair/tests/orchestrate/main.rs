//! The repair coordinator, driven from outside, over symbols in memory.
#![cfg(not(walmend_loom))]

mod commit;
mod failures;
mod load;
mod model;
mod shutdown;
mod waiting;

use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use walmend_repair::*;
use walmend_types::{CommitSeq, Error};

/// Long enough for any machine; a test that reaches it has failed.
const LONG: Duration = Duration::from_secs(60);

/// What a test works with.
struct Rig {
    io: MemoryRepairIo,
    generator: MemoryGenerator,
    coordinator: RepairCoordinator,
}

/// One group per commit, no pause before a retry.
fn one_by_one() -> RepairConfig {
    RepairConfig {
        min_group: 1,
        max_group: 1,
        backoff: Duration::ZERO,
        ..RepairConfig::default()
    }
}

fn rig(handle: &Handle, config: RepairConfig) -> Rig {
    let (io, generator) = (MemoryRepairIo::new(), MemoryGenerator::new());
    let coordinator = RepairCoordinator::new(
        Arc::new(io.clone()),
        Arc::new(generator.clone()),
        handle.clone(),
        config,
    )
    .unwrap();
    Rig {
        io,
        generator,
        coordinator,
    }
}

/// A runtime that drives itself, without timers or I/O: none may be needed.
fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).build().unwrap()
}

/// A runtime that runs only inside its own `block_on`.
fn undriven() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

impl Rig {
    /// Commits one symbol.
    fn commit(&self, symbol: &[u8]) -> CommitReceipt {
        self.coordinator.commit(&[symbol]).unwrap()
    }

    fn states(&self, commits: impl IntoIterator<Item = u64>) -> Vec<RepairState> {
        let state = |commit| self.coordinator.state(CommitSeq(commit)).unwrap();
        commits.into_iter().map(state).collect()
    }

    fn kinds(&self, commit: u64) -> Vec<RepairEventKind> {
        let events = self.coordinator.events(CommitSeq(commit));
        events.iter().map(|event| event.kind).collect()
    }

    fn settle(&self) {
        self.coordinator.wait_for_background_repair(LONG).unwrap();
    }
}

fn broken() -> Error {
    Error::Internal("told to fail".into())
}
