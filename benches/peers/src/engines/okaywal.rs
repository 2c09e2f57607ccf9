//! okaywal: a bare log, with its default settings. There is no database behind it that checkpoints would have to
//! write to.

use super::{Engine, told};
use okaywal::{Configuration, LogVoid, WriteAheadLog};
use std::path::Path;
use walmend_error::Result;

struct OkayWal(WriteAheadLog);

pub(super) fn open(folder: &Path, _: usize) -> Result<Box<dyn Engine>> {
    let log = Configuration::default_for(folder).open(LogVoid).map_err(told)?;
    Ok(Box::new(OkayWal(log)))
}

impl Engine for OkayWal {
    fn commit(&self, writer: usize, value: &[u8]) -> Result<()> {
        let mut entry = self.0.begin_entry().map_err(told)?;
        // A log has no keys of its own: which value it is has to stand in the entry.
        entry.write_chunk(&(writer as u64).to_le_bytes()).map_err(told)?;
        entry.write_chunk(value).map_err(told)?;
        entry.commit().map(drop).map_err(told)
    }
}
