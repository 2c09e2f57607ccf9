//! Keeping the sidecar of an open store in step with its checkpoints.
//!
//! The new versions of all stripes that a checkpoint touches are durable before the first page is written, at the places
//! that the versions in force do not have, and come into force when the pages are synced and verified.

use super::digests::Digests;
use super::layout::Layout;
use super::members::{Stripe, StripePages};
use super::standing::{Now, mark_of_header, stamp_of, unsettled};
use super::state::{Found, MOST_VOID, Sidecar, State};
use super::stripe::{Description, erase_version, write_version};
use super::work::pause;
use crate::codec::Codec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use walmend_sync::{Condvar, Mutex};
use walmend_types::{PageNumber, Result};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::{CheckpointPages, FileSet, FrameSource, PageProtection};

const TARGET: &str = "walmend::repair::database";

/// The sidecar of the database of an open store. What goes wrong with it costs protection, and no checkpoint.
#[derive(Debug)]
pub struct DatabaseProtection {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) files: FileSet,
    pub(super) db: Arc<dyn VfsFile>,
    pub(super) codec: Arc<dyn Codec>,
    /// For readers, which must not wait for whoever has `kept`.
    pub(super) digests: Digests,
    pub(super) kept: Mutex<Kept>,
    /// Signalled when a checkpoint has written, or has failed to.
    pub(super) written: Condvar,
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) sidecar: Sidecar,
    /// It is as the database is, but for what a checkpoint is about to write.
    pub(super) in_step: bool,
    /// Tells pages that an interrupted checkpoint wrote from damaged ones, until all of the log is copied.
    pub(super) judge: Option<Now>,
    /// A checkpoint is about to write, or has failed to.
    pub(super) prepared: Option<Prepared>,
    pub(super) pages: StripePages,
    pub(super) scratch: Vec<u8>,
    /// Pages that were found damaged, and can be rebuilt.
    pub(super) damaged: BTreeSet<u32>,
    /// Pages that were found damaged, and cannot be rebuilt.
    pub(super) lost: BTreeSet<u32>,
    /// Pages that were damaged, and are again what they were.
    pub(super) healed: u64,
}

/// A checkpoint that is about to write.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The database's size in pages after it.
    pages: u32,
    /// It copies all of the log.
    everything: bool,
    /// Lost pages that it writes.
    replaced: Vec<u32>,
    /// It is over, and has failed.
    pub(super) abandoned: bool,
}

impl DatabaseProtection {
    /// Opens the sidecar of a database; `None` if there is none that could be used. One that is stale or incomplete is
    /// left as it is: see [`in_step`](Self::in_step). The caller holds the exclusive lock, and the log is recovered.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`](walmend_types::Error::UnsupportedVersion), I/O errors.
    pub fn open(
        vfs: Arc<dyn Vfs>,
        files: &FileSet,
        db: Arc<dyn VfsFile>,
        codec: Arc<dyn Codec>,
    ) -> Result<Option<Self>> {
        let Found::Sidecar(sidecar) = Sidecar::open(&*vfs, &files.db, OpenFlags::WRITE)? else {
            return Ok(None);
        };
        let now = Now::look(&*vfs, files, &*db)?;
        let complete = sidecar.state.as_ref().is_some_and(|state| state.complete);
        let kept = Kept {
            in_step: complete && now.standing(sidecar.state.as_ref()).decides(),
            sidecar,
            judge: Some(now),
            prepared: None,
            pages: StripePages::default(),
            scratch: Vec::new(),
            damaged: BTreeSet::new(),
            lost: BTreeSet::new(),
            healed: 0,
        };
        let digests = Digests::new(Arc::clone(&kept.sidecar.file), kept.sidecar.layout);
        digests.bring_into_force(kept.sidecar.state.as_ref().filter(|_| kept.in_step));
        Ok(Some(Self {
            vfs,
            files: files.clone(),
            db,
            codec,
            digests,
            kept: Mutex::new(kept),
            written: Condvar::new(),
        }))
    }

    /// Whether the sidecar is kept in step with the database. Otherwise it is stale, and only
    /// [`protect_database`](super::protect_database) changes that.
    pub fn in_step(&self) -> bool {
        self.kept.lock().in_step
    }

    /// Pages that were found damaged and are not healed yet, because a checkpoint was writing: they can be, and its end
    /// does it.
    pub fn damaged(&self) -> Vec<u32> {
        self.kept.lock().damaged.iter().copied().collect()
    }

    /// Pages that were found damaged, and cannot be rebuilt. Reading them fails.
    pub fn lost(&self) -> Vec<u32> {
        self.kept.lock().lost.iter().copied().collect()
    }

    /// How many pages were damaged, and are again what they were, since it was opened.
    pub fn healed(&self) -> u64 {
        self.kept.lock().healed
    }

    /// Says in the sidecar how the store leaves the database, durably. Waits a few milliseconds if it was written just
    /// now. To be called when nothing is written any more.
    pub fn close(&self) {
        let mut kept = self.kept.lock();
        if !kept.in_step {
            return;
        }
        let closed = self.restamp(&mut kept, true).and_then(|()| kept.sidecar.sync());
        self.note(&mut kept, closed);
    }

    /// Whatever happens to the sidecar: the database comes first.
    pub(super) fn note(&self, kept: &mut Kept, done: Result<()>) {
        if let Err(error) = done {
            tracing::error!(target: TARGET, database = %self.files.db.display(), %error, "the database is no longer protected");
            kept.in_step = false;
            self.digests.bring_into_force(None);
        }
    }

    /// The file as it is now, in the next state.
    pub(super) fn restamp(&self, kept: &mut Kept, wait: bool) -> Result<()> {
        let Some(state) = kept.sidecar.state.clone() else {
            return Ok(());
        };
        let stamp = stamp_of(&*self.vfs, &self.files.db, &*self.db)?;
        if wait {
            pause(unsettled(&stamp));
        }
        let next = State {
            stamp,
            log: mark_of_header(&*self.vfs, &self.files)?,
            settled: wait || unsettled(&stamp).is_zero(),
            ..state
        };
        kept.sidecar.write_state(next)
    }

    fn prepare_pages(&self, kept: &mut Kept, checkpoint: &CheckpointPages<'_>) -> Result<()> {
        let Some(state) = kept.sidecar.state.clone() else {
            return Ok(());
        };
        let mut void = state.void.clone();
        if state.pending != 0 {
            // What an earlier attempt wrote is in the log.
            kept.judge = Some(Now::look(&*self.vfs, &self.files, &*self.db)?);
            void.push(state.pending);
            if void.len() > MOST_VOID {
                kept.sidecar.erase(&void)?;
                kept.sidecar.sync()?;
                void.clear();
            }
        }
        let pending = 1 + void.iter().copied().fold(state.epoch, u64::max);
        let before = state.pages;
        kept.sidecar.write_state(State {
            pending,
            void,
            ..state
        })?;
        // No version of this epoch may lie anywhere unless the state says that it never came into force.
        kept.sidecar.sync()?;
        let layout = kept.sidecar.layout;
        let size = self.db.len()?.div_ceil(u64::from(layout.page_size.get()));
        let last = checkpoint.pages.last().map_or(0, |(page, _)| page.get());
        // A database has at most 2^32 - 1 pages.
        let after = checkpoint.db_pages.unwrap_or_else(|| last.max(size as u32));
        for (place, sources) in by_stripe(checkpoint, &layout, before, after) {
            let members = layout.members(place.0, place.1, after);
            if members > 0 {
                let written = sources
                    .into_iter()
                    .map(|source| {
                        let mut bytes = vec![0; layout.page_size.as_usize()];
                        checkpoint.read(source, &mut bytes)?;
                        Ok((layout.locate(source.0.get()).2, bytes))
                    })
                    .collect::<Result<BTreeMap<usize, Vec<u8>>>>()?;
                self.prepare_stripe(kept, place, members, pending, &written)?;
            }
        }
        kept.sidecar.sync()?;
        let lost = kept.lost.iter().copied();
        let written = |page: &u32| {
            let found = checkpoint
                .pages
                .binary_search_by_key(page, |(page, _)| page.get());
            found.is_ok() || *page > after
        };
        kept.prepared = Some(Prepared {
            pages: after,
            everything: checkpoint.db_pages.is_some(),
            replaced: lost.filter(written).collect(),
            abandoned: false,
        });
        Ok(())
    }

    /// Writes the version that a stripe will have once the pages in `written`, by position, are in the database.
    fn prepare_stripe(
        &self,
        kept: &mut Kept,
        place: (u32, u32),
        members: usize,
        epoch: u64,
        written: &BTreeMap<usize, Vec<u8>>,
    ) -> Result<()> {
        let layout = kept.sidecar.layout;
        let mut stripe = Stripe::find(&kept.sidecar, place, false, &mut kept.scratch)?;
        let (digests, parity) = self.make_version(kept, &mut stripe, members, written)?;
        let description = Description {
            window: place.0,
            stripe: place.1,
            page_size: layout.page_size.get(),
            epoch,
            digests,
        };
        let (file, side) = (&*kept.sidecar.file, stripe.next_side());
        write_version(file, &layout, side, &description, &parity, &mut kept.scratch)
    }
}

impl PageProtection for DatabaseProtection {
    fn prepare(&self, checkpoint: &CheckpointPages<'_>) {
        let mut kept = self.kept.lock();
        kept.prepared = None;
        if kept.in_step {
            let prepared = self.prepare_pages(&mut kept, checkpoint);
            self.note(&mut kept, prepared);
        }
    }

    fn written(&self) {
        let mut kept = self.kept.lock();
        // Whoever waits goes on when the lock is free.
        self.written.notify_all();
        let Some(prepared) = kept.prepared.take().filter(|_| kept.in_step) else {
            return;
        };
        let windows_done = kept.sidecar.layout.windows(prepared.pages);
        if let Some(state) = &mut kept.sidecar.state {
            state.epoch = state.pending;
            state.pending = 0;
            state.pages = prepared.pages;
            state.windows_done = windows_done;
        }
        if prepared.everything {
            kept.judge = None;
        }
        for page in prepared.replaced {
            kept.lost.remove(&page);
        }
        let done = self.restamp(&mut kept, false).and_then(|()| kept.sidecar.sync());
        self.note(&mut kept, done);
        if kept.in_step {
            self.digests.bring_into_force(kept.sidecar.state.as_ref());
            self.heal_noted(&mut kept);
        }
    }

    fn abandoned(&self) {
        if let Some(prepared) = &mut self.kept.lock().prepared {
            prepared.abandoned = true;
        }
        self.written.notify_all();
    }

    fn log_reset(&self) {
        let mut kept = self.kept.lock();
        if kept.in_step {
            let done = self.restamp(&mut kept, false);
            self.note(&mut kept, done);
        }
    }
}

/// The pages of a checkpoint, stripe by stripe; also the stripes that get more pages or fewer without it.
fn by_stripe(
    checkpoint: &CheckpointPages<'_>,
    layout: &Layout,
    before: u32,
    after: u32,
) -> BTreeMap<(u32, u32), Vec<FrameSource>> {
    let mut stripes: BTreeMap<(u32, u32), Vec<FrameSource>> = BTreeMap::new();
    for source in checkpoint.pages {
        let page: PageNumber = source.0;
        let (window, stripe, _) = layout.locate(page.get());
        stripes.entry((window, stripe)).or_default().push(*source);
    }
    if before != after && after > 0 {
        let from = before.min(after).max(1);
        let (first, last) = (layout.locate(from).0, layout.locate(after).0);
        for window in first..=last {
            for stripe in 0..layout.stripes() {
                if layout.members(window, stripe, before) != layout.members(window, stripe, after) {
                    stripes.entry((window, stripe)).or_default();
                }
            }
        }
    }
    stripes
}

impl Sidecar {
    /// Erases all versions of these epochs. Not durable before a sync.
    ///
    /// # Errors
    /// I/O errors.
    fn erase(&self, epochs: &[u64]) -> Result<()> {
        self.each_version(|place, version| {
            if epochs.contains(&version.description.epoch) {
                erase_version(&*self.file, &self.layout, place)?;
            }
            Ok(())
        })
    }
}
