//! The other systems, each with the settings that its own documents give for durable commits.

mod fjall;
mod lmdb;
mod okaywal;
mod redb;
mod sqlite;

use std::fmt::Display;
use std::path::Path;
use walmend_error::{Error, Result};

/// Bytes of a value.
pub(crate) const VALUE: usize = 4096;

/// An open database in which every writer has one value.
pub(crate) trait Engine: Sync {
    /// Replaces the value of `writer`; durable on return.
    fn commit(&self, writer: usize, value: &[u8]) -> Result<()>;
}

/// Opens a new database in a new folder, for so many writers.
type Open = fn(&Path, usize) -> Result<Box<dyn Engine>>;

/// Every system, by the name that it has in tables.
pub(crate) const PEERS: &[(&str, Open)] = &[
    ("okaywal", okaywal::open),
    ("SQLite", sqlite::open),
    ("fjall", fjall::open),
    ("LMDB", lmdb::open),
    ("redb", redb::open),
];

/// Their errors, as ours.
fn told(error: impl Display) -> Error {
    Error::Invalid(error.to_string())
}
