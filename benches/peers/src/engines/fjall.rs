//! fjall, whose journal is synced with `fdatasync` after each write.

use super::{Engine, told};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;
use walmend_error::Result;

struct Fjall {
    database: Database,
    values: Keyspace,
}

pub(super) fn open(folder: &Path, _: usize) -> Result<Box<dyn Engine>> {
    let database = Database::builder(folder).open().map_err(told)?;
    let values = database
        .keyspace("kv", KeyspaceCreateOptions::default)
        .map_err(told)?;
    Ok(Box::new(Fjall { database, values }))
}

impl Engine for Fjall {
    fn commit(&self, writer: usize, value: &[u8]) -> Result<()> {
        let key = (writer as u64).to_be_bytes();
        self.values.insert(key, value).map_err(told)?;
        self.database.persist(PersistMode::SyncData).map_err(told)
    }
}
