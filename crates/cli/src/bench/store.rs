//! The store that is measured, and its writers: threads, or tasks.

use super::driver::{Tally, Window, on_threads};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use walmend::{CheckpointMode, Options, PageNumber, PageSize, Stats, Store, Txn};
use walmend_error::{Error, Result};

/// A store with pages of its own for every writer.
#[derive(Debug)]
pub(super) struct Bench {
    store: Store,
    writers: Vec<Writer>,
    /// Where the writers are tasks.
    runtime: Option<Runtime>,
}

/// One writer: commits its pages, with another content each time.
#[derive(Debug)]
struct Writer {
    store: Store,
    first: u32,
    pages: u32,
    image: Arc<[u8]>,
    version: u64,
}

impl Bench {
    /// Creates the database with every page that will be written. With `repair`, repair symbols are made of
    /// what is committed.
    pub(super) fn create(
        path: &Path,
        page_size: PageSize,
        writers: u32,
        pages: u32,
        tasks: bool,
        repair: bool,
    ) -> Result<Self> {
        let (store, _) = Store::open(path, Options::new().page_size(page_size).repair(repair))?;
        let writer = |number| Writer {
            store: store.clone(),
            first: 1 + number * pages,
            pages,
            image: vec![number as u8; page_size.as_usize()].into(),
            version: 0,
        };
        let mut writers: Vec<Writer> = (0..writers).map(writer).collect();
        for writer in &mut writers {
            writer.commit()?;
        }
        let runtime = match tasks {
            true => Some(runtime()?),
            false => None,
        };
        Ok(Self {
            store,
            writers,
            runtime,
        })
    }

    /// Empties the log, so that the next window writes over what is there and the file grows no further.
    pub(super) fn reset_log(&self) -> Result<()> {
        let report = self.store.checkpoint(CheckpointMode::Restart)?;
        match report.blocked_by_readers {
            true => Err(Error::Internal(
                "a checkpoint was blocked, but nobody reads".into(),
            )),
            false => Ok(()),
        }
    }

    /// Lets every writer commit back to back for this long.
    pub(super) fn run(&mut self, length: Duration) -> Result<Vec<Tally>> {
        match &self.runtime {
            None => {
                let writers = self.writers.iter_mut();
                let mut commits: Vec<_> = writers.map(|writer| || writer.commit()).collect();
                on_threads(&mut commits, length)
            }
            Some(runtime) => {
                let window = Window::next(self.writers.len(), length);
                let (tallies, writers) =
                    runtime.block_on(as_tasks(std::mem::take(&mut self.writers), window))?;
                self.writers = writers;
                Ok(tallies)
            }
        }
    }

    /// Counters of the store.
    pub(super) fn stats(&self) -> Stats {
        self.store.stats()
    }

    /// Closes the store.
    pub(super) fn close(self) -> Result<()> {
        self.store.close()
    }
}

/// Spawns every writer as a task of its own, and waits for all of them.
async fn as_tasks(writers: Vec<Writer>, window: Window) -> Result<(Vec<Tally>, Vec<Writer>)> {
    let running: Vec<_> = writers
        .into_iter()
        .map(|writer| tokio::spawn(writer.commit_until_the_end(window)))
        .collect();
    let (mut tallies, mut writers) = (Vec::new(), Vec::new());
    for task in running {
        let joined = task.await;
        let (tally, writer) =
            joined.map_err(|error| Error::Internal(format!("a writer has died: {error}")))??;
        tallies.push(tally);
        writers.push(writer);
    }
    Ok((tallies, writers))
}

fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread()
        .build()
        .map_err(|error| Error::Internal(format!("there can be no tokio runtime: {error}")))
}

impl Writer {
    fn txn(&mut self) -> Result<Txn> {
        self.version += 1;
        // The store has let go of it, so this copies nothing, as little as the other stores' writers do.
        Arc::make_mut(&mut self.image)[..8].copy_from_slice(&self.version.to_le_bytes());
        let mut txn = self.store.begin()?;
        for page in self.first..self.first + self.pages {
            txn.write(PageNumber::new(page)?, Arc::clone(&self.image))?;
        }
        Ok(txn)
    }

    fn commit(&mut self) -> Result<()> {
        self.txn()?.commit().into_result().map(drop)
    }

    async fn commit_until_the_end(mut self, window: Window) -> Result<(Tally, Self)> {
        let mut tally = Tally::new(window)?;
        loop {
            let started = Instant::now();
            self.txn()?.commit_async().await.into_result()?;
            if !tally.note(started, Instant::now()) {
                return Ok((tally, self));
            }
        }
    }
}
