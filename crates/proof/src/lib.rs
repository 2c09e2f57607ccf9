//! What proves the other crates, and what none of them uses.
//!
//! - [`naive`]: SQLite's rule of what counts in a log, written again, as simply as can be.
//! - [`power`]: a disk for a virtual machine whose power can be cut at any moment, and what must be found on it.
//! - [`sweep`]: crashes of a log at every operation, by every way, and by chance.
//! - [`targets`]: functions of arbitrary bytes. `fuzz/` gives them what libFuzzer finds; a test replays its
//!   corpora on any compiler.

pub mod naive;
pub mod power;
pub mod sweep;
pub mod targets;

pub use walmend_vfs::Random;
