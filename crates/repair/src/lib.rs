//! Repair symbols for what is durable.
//!
//! A [`Codec`] makes parity and rebuilds from it. The sidecar of a log ([`SidecarWriter`], [`SidecarIndex`]) keeps it;
//! [`protect_log`] makes the sidecar of a log that is there, a [`HealPlan`] says what it can do, and [`heal_log`] does it.
//! The [`RepairCoordinator`] makes repair symbols off the critical path, for any storage; [`LogRepair`] is walmend's own
//! log as such a storage.

mod codec;
mod database;
mod heal;
mod log;
mod orchestrate;
mod record;
mod sidecar;

pub use codec::{Codec, ReedSolomon, SHARD_ALIGN, shard_len};
pub use database::{
    DatabaseCheck, DatabaseHealReport, DatabaseProtectReport, DatabaseProtection, ProtectedDatabase,
    Scrubbed, Standing, Work, db_sidecar_path, heal_database, protect_database,
};
pub use heal::{
    HealPlan, HealReport, Healed, ProtectReport, SidecarProtection, heal_and_examine, heal_log, protect_log,
};
pub use log::LogRepair;
pub use orchestrate::{
    CommitReceipt, CommitRepairIo, DurableCommit, GeneratorFailure, MemoryGenerator, MemoryRepair,
    MemoryRepairCounters, MemoryRepairIo, RepairConfig, RepairCoordinator, RepairEvent, RepairEventKind,
    RepairIoCall, RepairIoFailure, RepairMetrics, RepairState, RepairSymbolGenerator, SymbolRange,
    WindowStats,
};
pub use sidecar::{
    Group, GroupHeader, MAX_PARITY, MAX_SOURCES, SidecarIndex, SidecarWriter, parity_for, wal_sidecar_path,
};

// What the functions above take and give, so that this crate is all that one has to name.
pub use walmend_types::{CommitSeq, Cx, Error, ErrorKind, PageSize, Result};
pub use walmend_vfs::{MemoryVfs, UnixVfs, Vfs, VfsFile};
pub use walmend_wal::FileSet;

/// The README's examples are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// What other threads may use: the build fails where that stops being true.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<RepairCoordinator>();
    shared::<MemoryRepairIo>();
    shared::<HealPlan>();
};
