//! Keeping the sidecar of an open store in step with its checkpoints.
//!
//! The new versions of all stripes that a checkpoint touches are durable before the first page is written, at the places
//! that the versions in force do not have, and come into force when the pages are synced and verified. Parity is always
//! made from whole stripes, never from a difference: after a crash in between, old and new could no longer be told.

use super::layout::{SOURCES, Side};
use super::standing::{Finding, Now, Standing, mark_of_header, stamp_of, unsettled};
use super::state::{Found, MOST_VOID, Sidecar, State};
use super::stripe::{Description, encode_parity, erase_version, write_version};
use super::window::{Stripe, Window};
use super::work::{Work, pause};
use crate::codec::Codec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use walmend_sync::Mutex;
use walmend_types::{Cx, PageNumber, Result};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::{CheckpointPages, FileSet, FrameSource, PageProtection};
use xxhash_rust::xxh3::xxh3_128;

const TARGET: &str = "walmend::repair::database";

/// The sidecar of the database of an open store. What goes wrong with it costs protection, and no checkpoint.
#[derive(Debug)]
pub struct DatabaseProtection {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) files: FileSet,
    pub(super) db: Arc<dyn VfsFile>,
    codec: Arc<dyn Codec>,
    pub(super) kept: Mutex<Kept>,
}

#[derive(Debug)]
pub(super) struct Kept {
    pub(super) sidecar: Sidecar,
    /// It is as the database is, but for what a checkpoint is about to write.
    pub(super) in_step: bool,
    /// Tells pages that an interrupted checkpoint wrote from damaged ones, until all of the log is copied.
    judge: Option<Now>,
    /// The database's size in pages after the checkpoint that is prepared, and whether that copies all of the log.
    pub(super) prepared: Option<(u32, bool)>,
    pub(super) window: Window,
    /// Pages that were found damaged, and are right in the new parity.
    pub(super) damaged: BTreeSet<u32>,
    /// Pages that were found damaged, and cannot be rebuilt.
    pub(super) lost: BTreeSet<u32>,
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
            window: Window::default(),
            damaged: BTreeSet::new(),
            lost: BTreeSet::new(),
        };
        Ok(Some(Self {
            vfs,
            files: files.clone(),
            db,
            codec,
            kept: Mutex::new(kept),
        }))
    }

    /// Whether the sidecar is kept in step with the database. Otherwise it is stale, and only
    /// [`protect_database`](super::protect_database) changes that.
    pub fn in_step(&self) -> bool {
        self.kept.lock().in_step
    }

    /// Pages that checkpoints and scrubbing have found damaged, and that are healable; scrubbing heals them.
    pub fn damaged(&self) -> Vec<u32> {
        self.kept.lock().damaged.iter().copied().collect()
    }

    /// Pages that checkpoints and scrubbing have found damaged, and that cannot be rebuilt.
    pub fn lost(&self) -> Vec<u32> {
        self.kept.lock().lost.iter().copied().collect()
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
        for (number, pages) in by_window(checkpoint, &layout, before, after) {
            let overlay = pages
                .into_iter()
                .map(|source| {
                    let mut bytes = vec![0; layout.page_size.as_usize()];
                    checkpoint.read(source, &mut bytes)?;
                    Ok((source.0.get(), bytes))
                })
                .collect::<Result<BTreeMap<u32, Vec<u8>>>>()?;
            let cx = Cx::new();
            let pages = before.max(after);
            kept.window
                .read(&*self.db, &layout, number, pages, &Work::new(&cx))?;
            for stripe in 0..layout.stripes() {
                self.prepare_stripe(kept, stripe, (before, after), pending, &overlay)?;
            }
        }
        kept.sidecar.sync()?;
        kept.prepared = Some((after, checkpoint.db_pages.is_some()));
        Ok(())
    }

    /// Writes the version that a stripe of the window in memory will have.
    fn prepare_stripe(
        &self,
        kept: &mut Kept,
        number: u32,
        (before, after): (u32, u32),
        epoch: u64,
        overlay: &BTreeMap<u32, Vec<u8>>,
    ) -> Result<()> {
        let layout = kept.sidecar.layout;
        let window = kept.window.number;
        let members = layout.members(window, number, after);
        let page = |position| layout.page(window, number, position);
        let written = (0..members).any(|position| overlay.contains_key(&page(position)));
        if members == 0 || !(written || members != layout.members(window, number, before)) {
            return Ok(());
        }
        let stripe = kept.window.stripe(&kept.sidecar, number)?;
        let rebuilt = self.rebuild_damaged(kept, &stripe, members, overlay)?;
        let zeros = vec![0; layout.page_size.as_usize()];
        let mut pages: Vec<&[u8]> = Vec::with_capacity(SOURCES);
        for position in 0..members {
            let known = overlay.get(&page(position)).or_else(|| rebuilt.get(&position));
            let place = layout.place(number, position);
            let found = known.map(Vec::as_slice).or_else(|| kept.window.page(place));
            // What lies behind the end of the file will read as zeros.
            pages.push(found.unwrap_or(&zeros));
        }
        let parity = encode_parity(&*self.codec, &pages, &zeros)?;
        let description = Description {
            window,
            stripe: number,
            page_size: layout.page_size.get(),
            epoch,
            digests: pages.iter().map(|page| xxh3_128(page)).collect(),
        };
        let side = stripe
            .current
            .as_ref()
            .map_or(Side::A, |version| version.side.other());
        let file = &*kept.sidecar.file;
        write_version(file, &layout, side, &description, &parity, &mut Vec::new())
    }

    /// The pages of a stripe that rotted in the database, as they were. The new parity must not take the damage in.
    pub(super) fn rebuild_damaged(
        &self,
        kept: &mut Kept,
        stripe: &Stripe,
        members: usize,
        overlay: &BTreeMap<u32, Vec<u8>>,
    ) -> Result<BTreeMap<usize, Vec<u8>>> {
        let layout = kept.sidecar.layout;
        let number = kept.window.number;
        let mut damaged = Vec::new();
        for position in stripe.differing(&layout, &kept.window, members) {
            let page = layout.page(number, stripe.number, position);
            if overlay.contains_key(&page) {
                continue;
            }
            let wanted = stripe
                .current
                .as_ref()
                .and_then(|current| current.digest(position));
            let found = kept.window.digest(layout.place(stripe.number, position));
            let finding = match &kept.judge {
                Some(now) => now.judge(Standing::FollowedByLog, page, found, wanted.unwrap_or_default())?,
                None => Finding::Damaged,
            };
            if finding == Finding::Damaged {
                damaged.push((position, page));
            }
        }
        if damaged.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rebuilt = stripe.rebuild(&kept.sidecar, &kept.window, &*self.codec)?;
        let mut kept_right = BTreeMap::new();
        for (position, page) in damaged {
            match rebuilt.as_ref().and_then(|rebuilt| rebuilt.get(&position)) {
                Some(bytes) => {
                    tracing::warn!(target: TARGET, page, "a damaged page of the database");
                    kept_right.insert(position, bytes.clone());
                    kept.damaged.insert(page);
                }
                None => {
                    tracing::error!(target: TARGET, page, "a damaged page of the database that cannot be rebuilt");
                    kept.lost.insert(page);
                }
            }
        }
        Ok(kept_right)
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
        let Some((pages, everything)) = kept.prepared.take().filter(|_| kept.in_step) else {
            return;
        };
        let windows_done = kept.sidecar.layout.windows(pages);
        if let Some(state) = &mut kept.sidecar.state {
            state.epoch = state.pending;
            state.pending = 0;
            state.pages = pages;
            state.windows_done = windows_done;
        }
        if everything {
            kept.judge = None;
        }
        let done = self.restamp(&mut kept, false).and_then(|()| kept.sidecar.sync());
        self.note(&mut kept, done);
    }

    fn log_reset(&self) {
        let mut kept = self.kept.lock();
        if kept.in_step {
            let done = self.restamp(&mut kept, false);
            self.note(&mut kept, done);
        }
    }
}

/// The pages of a checkpoint, window by window; also the windows in which the database ends otherwise than before.
fn by_window(
    checkpoint: &CheckpointPages<'_>,
    layout: &super::layout::Layout,
    before: u32,
    after: u32,
) -> BTreeMap<u32, Vec<FrameSource>> {
    let mut windows: BTreeMap<u32, Vec<FrameSource>> = BTreeMap::new();
    for source in checkpoint.pages {
        let page: PageNumber = source.0;
        windows
            .entry(layout.locate(page.get()).0)
            .or_default()
            .push(*source);
    }
    if before != after && after > 0 {
        let from = before.min(after).max(1);
        let (first, last) = (layout.locate(from).0, layout.locate(after).0);
        for window in first..=last {
            windows.entry(window).or_default();
        }
    }
    windows
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
