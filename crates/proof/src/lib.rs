//! What proves the other crates, and what none of them uses.
//!
//! - [`naive`]: SQLite's rule of what counts in a log, written again, as simply as can be.
//! - [`targets`]: functions of arbitrary bytes. `fuzz/` gives them what libFuzzer finds; a test replays its
//!   corpora on any compiler.

pub mod naive;
pub mod targets;
