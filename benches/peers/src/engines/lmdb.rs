//! LMDB through heed, with its default flags: synced at each commit.

use super::{Engine, told};
use heed::byteorder::BigEndian;
use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions};
use std::path::Path;
use walmend_error::{Error, Result};

/// The most that the file may grow to.
const MAP: usize = 1 << 30;

struct Lmdb {
    env: Env,
    values: Database<'static, U64<BigEndian>, Bytes>,
}

pub(super) fn open(folder: &Path, _: usize) -> Result<Box<dyn Engine>> {
    let env = open_env(folder)?;
    let txn = env.write_txn().map_err(told)?;
    let created = env.create_databases_and_commit(txn, |opener, txn| {
        let values = opener.create_database::<U64<BigEndian>, Bytes>(txn, None)?;
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(values))
    });
    let CommitOrAbort::Commit(values) = created.map_err(told)? else {
        return Err(Error::Internal("LMDB has aborted a transaction".into()));
    };
    Ok(Box::new(Lmdb { env, values }))
}

#[allow(unsafe_code, reason = "heed has no other way to open an environment")]
fn open_env(folder: &Path) -> Result<Env> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP);
    // SAFETY: the folder was made for this environment a moment ago and is known to nobody else, so no other
    // process or environment maps or changes the file.
    unsafe { options.open(folder) }.map_err(told)
}

impl Engine for Lmdb {
    fn commit(&self, writer: usize, value: &[u8]) -> Result<()> {
        let mut txn = self.env.write_txn().map_err(told)?;
        self.values.put(&mut txn, &(writer as u64), value).map_err(told)?;
        txn.commit().map_err(told)
    }
}
