//! redb with its default durability, `Immediate`.

use super::{Engine, told};
use redb::{Database, TableDefinition};
use std::path::Path;
use walmend_error::Result;

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("kv");

struct Redb(Database);

pub(super) fn open(folder: &Path, _: usize) -> Result<Box<dyn Engine>> {
    let database = Database::create(folder.join("a.redb")).map_err(told)?;
    Ok(Box::new(Redb(database)))
}

impl Engine for Redb {
    fn commit(&self, writer: usize, value: &[u8]) -> Result<()> {
        let txn = self.0.begin_write().map_err(told)?;
        let mut table = txn.open_table(TABLE).map_err(told)?;
        table.insert(writer as u64, value).map_err(told)?;
        drop(table);
        txn.commit().map_err(told)
    }
}
