//! Pages of an open store's database that turn out to be damaged: when they are read, at the end of a checkpoint, and by
//! scrubbing.
//!
//! Whatever looks damaged is looked at again while the protection is held, so that no checkpoint begins to write. While
//! one does write, a reader gets the page as it was, and the file is left alone until the checkpoint is over: two who
//! sync one file could each miss the other's failure.

use super::heal::{Aside, settle};
use super::live::{DatabaseProtection, Kept};
use super::members::Stripe;
use super::scrub::PIECE;
use super::standing::{Finding, Standing};
use super::state::State;
use std::collections::{BTreeMap, BTreeSet};
use walmend_types::{Error, PageNumber, Result, SyncMode};
use walmend_wal::{ExpectedPage, PageDigest};
use xxhash_rust::xxh3::xxh3_128;

const TARGET: &str = "walmend::repair::database";

/// Where pages are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookAt {
    /// As a reader gets them.
    Cache,
    /// As they are on the disk.
    Device,
}

/// A damaged page.
#[derive(Debug)]
pub(super) struct Damaged {
    /// As it was found; shorter where the file ends in it.
    before: Vec<u8>,
    /// As it is to be.
    pub(super) right: Vec<u8>,
}

/// What became of pages that seemed damaged. Those that are not are in neither.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) damaged: BTreeMap<u32, Damaged>,
    /// They are damaged, and cannot be rebuilt.
    hopeless: Vec<u32>,
}

impl DatabaseProtection {
    /// Compares a page that a live snapshot has read from the database file with its digest. A damaged one is rebuilt,
    /// in `bytes` and, unless a checkpoint is writing, in the file; the damaged bytes are kept aside. Answers whether it
    /// is known what the page must be: not where the sidecar is not in step.
    ///
    /// # Errors
    /// [`Error::DatabaseCorrupt`] for a damaged page that cannot be rebuilt, I/O errors of reading.
    pub fn check_read(&self, page: PageNumber, bytes: &mut [u8]) -> Result<bool> {
        match self.digests.of(page.get())? {
            Some(wanted) if xxh3_128(bytes) == wanted => Ok(true),
            Some(_) => self.mend_read(page, bytes),
            None => Ok(false),
        }
    }

    #[cold]
    fn mend_read(&self, page: PageNumber, bytes: &mut [u8]) -> Result<bool> {
        let lost = || {
            Error::DatabaseCorrupt {
            path: self.files.db.clone(),
            page: page.get(),
            detail: "it is not what its digest says, and too much of its stripe is damaged for it to be rebuilt: restore it \
                     from a backup"
                .into(),
        }
        };
        let mut guard = self.kept.lock();
        loop {
            let kept = &mut *guard;
            if !kept.in_step {
                return Ok(false);
            }
            // Whoever had the lock may have healed it.
            let read = self.read_page(page.get(), bytes, LookAt::Cache).unwrap_or(0);
            bytes[read..].fill(0);
            if read == bytes.len() && self.digests.of(page.get())? == Some(xxh3_128(bytes)) {
                return Ok(true);
            }
            if kept.lost.contains(&page.get()) {
                return Err(lost());
            }
            tracing::error!(target: TARGET, %page, "a page of the database is not what its digest says");
            let mut suspects = vec![page.get()];
            if kept.prepared.is_none() {
                suspects = self.widen(kept, suspects, LookAt::Cache)?;
            }
            let found = self.damaged_among(kept, &suspects, LookAt::Cache)?;
            if let Some(damaged) = found.damaged.get(&page.get()) {
                bytes.copy_from_slice(&damaged.right);
                self.put_back(kept, &found.damaged);
                return Ok(true);
            }
            if !found.hopeless.contains(&page.get()) {
                // The device gave it back after all, or it was written, as the log shows.
                let read = self.read_page(page.get(), bytes, LookAt::Cache)?;
                bytes[read..].fill(0);
                return Ok(self.digests.of(page.get())? == Some(xxh3_128(bytes)));
            }
            // While a checkpoint writes, its stripe can be neither what it was nor what it will be.
            match &kept.prepared {
                Some(prepared) if !prepared.abandoned => guard = self.written.wait(guard),
                _ => return Err(lost()),
            }
        }
    }

    /// Heals what checkpoints and readers have found damaged while the database was being written.
    pub(super) fn heal_noted(&self, kept: &mut Kept) {
        if kept.damaged.is_empty() {
            return;
        }
        let noted = kept.damaged.iter().copied().collect();
        let found = self.widen(kept, noted, LookAt::Cache);
        match found.and_then(|noted| self.damaged_among(kept, &noted, LookAt::Cache)) {
            Ok(found) => {
                kept.damaged.retain(|page| found.damaged.contains_key(page));
                self.put_back(kept, &found.damaged);
            }
            Err(error) => {
                tracing::error!(target: TARGET, database = %self.files.db.display(), %error, "damaged pages cannot be read");
            }
        }
    }

    /// Reads from the beginning of a page on.
    fn read_page(&self, page: u32, bytes: &mut [u8], at: LookAt) -> Result<usize> {
        let offset = self.digests.layout().page_at(page);
        match at {
            LookAt::Cache => self.db.read_at(bytes, offset),
            LookAt::Device => Ok(self.db.read_from_device(bytes, offset)?.bytes),
        }
    }

    /// The pages, so many behind the first `done` ones, that are not what their digests say, or cannot be read.
    pub(super) fn differing(&self, done: u32, count: u32, at: LookAt) -> Result<Vec<u32>> {
        let page_size = self.digests.layout().page_size.as_usize();
        let mut bytes = vec![0; count as usize * page_size];
        // Which page it is that cannot be read will be seen.
        let read = self.read_page(done + 1, &mut bytes, at).unwrap_or(0);
        let mut differing = Vec::new();
        for (number, page) in (done + 1..).zip(bytes.chunks_exact(page_size)) {
            let end = (number - done) as usize * page_size;
            let wanted = self.digests.of(number)?;
            if wanted.is_some_and(|wanted| end > read || xxh3_128(page) != wanted) {
                differing.push(number);
            }
        }
        Ok(differing)
    }

    /// These pages, and all others of their windows that differ: once the first one is written the file has another time,
    /// and should that be interrupted, only what is kept aside is known to be damaged.
    pub(super) fn widen(&self, kept: &Kept, suspects: Vec<u32>, at: LookAt) -> Result<Vec<u32>> {
        let layout = kept.sidecar.layout;
        let pages = kept.sidecar.state.as_ref().map_or(0, |state| state.pages);
        let windows: BTreeSet<u32> = suspects.iter().map(|page| layout.locate(*page).0).collect();
        let mut all: BTreeSet<u32> = suspects.into_iter().collect();
        let step = PIECE / layout.page_size.as_usize();
        for window in windows {
            let first = window * layout.window_pages();
            let end = first + layout.pages_in(window, pages);
            for done in (first..end).step_by(step) {
                all.extend(self.differing(done, (end - done).min(step as u32), at)?);
            }
        }
        Ok(all.into_iter().collect())
    }

    /// Looks again at pages that seem damaged: those that are, with what they are to be. Notes those that cannot be
    /// rebuilt.
    pub(super) fn damaged_among(&self, kept: &mut Kept, suspects: &[u32], at: LookAt) -> Result<Found> {
        let layout = kept.sidecar.layout;
        let mut stripes: BTreeMap<(u32, u32), BTreeSet<usize>> = BTreeMap::new();
        for &page in suspects {
            let (window, stripe, position) = layout.locate(page);
            stripes.entry((window, stripe)).or_default().insert(position);
        }
        let mut all = Found::default();
        for (place, positions) in stripes {
            let stripe = Stripe::find(&kept.sidecar, place, true, &mut kept.scratch)?;
            let mut wrong: BTreeMap<usize, (u32, Vec<u8>)> = BTreeMap::new();
            for position in positions {
                let page = layout.page(place.0, place.1, position);
                let Some(wanted) = stripe.digest(position) else {
                    continue;
                };
                let mut before = vec![0; layout.page_size.as_usize()];
                // What the device does not give back is damage.
                let read = self.read_page(page, &mut before, at).unwrap_or(0);
                let whole = (read == before.len()).then(|| xxh3_128(&before));
                let finding = match &kept.judge {
                    _ if whole == Some(wanted) => continue,
                    Some(now) => now.judge(Standing::FollowedByLog, page, whole, wanted)?,
                    None => Finding::Damaged,
                };
                if finding == Finding::Damaged {
                    before.truncate(read);
                    wrong.insert(position, (page, before));
                }
            }
            if wrong.is_empty() {
                continue;
            }
            // Others of the stripe, and a page that rotted on the disk, may be right in the cache.
            let members = stripe
                .current
                .as_ref()
                .map_or(0, |current| current.description.digests.len());
            kept.pages
                .read(|page, at| self.db.read_at(page, at), &layout, place, 0..members);
            let pages = kept.pages.members();
            let mut rebuilt = stripe.rebuild(&kept.sidecar, &pages, &*self.codec)?;
            let mut outcome = Vec::with_capacity(wrong.len());
            for (position, (page, before)) in wrong {
                let wanted = stripe.digest(position);
                let cached = pages.page(position).filter(|_| pages.digest(position) == wanted);
                let right = rebuilt
                    .remove(&position)
                    .filter(|bytes| Some(xxh3_128(bytes)) == wanted)
                    .or_else(|| cached.map(<[u8]>::to_vec));
                outcome.push((page, right.map(|right| Damaged { before, right })));
            }
            for (page, found) in outcome {
                // What cannot be rebuilt while a checkpoint writes may well be behind it.
                if found.is_some() || kept.prepared.is_none() {
                    kept.found_damaged(page, found.is_some());
                }
                match found {
                    Some(found) => drop(all.damaged.insert(page, found)),
                    None => all.hopeless.push(page),
                }
            }
        }
        Ok(all)
    }

    /// Keeps these pages as they were found, durably, and writes the right ones over them, as `heal` does; not while a
    /// checkpoint writes. Answers those that are healed.
    pub(super) fn put_back(&self, kept: &mut Kept, pages: &BTreeMap<u32, Damaged>) -> Vec<u32> {
        if pages.is_empty() || kept.prepared.is_some() {
            return Vec::new();
        }
        let aside = match self.keep_aside(pages) {
            Ok(aside) => aside,
            // Nothing was changed. The pages stay noted.
            Err(error) => {
                tracing::error!(
                    target: TARGET, database = %self.files.db.display(), %error,
                    "damaged pages cannot be kept aside, and so are not healed"
                );
                return Vec::new();
            }
        };
        let written = self.write_over(kept, &aside, pages);
        if written.is_err() {
            self.note(kept, written);
            return Vec::new();
        }
        kept.damaged.retain(|page| !pages.contains_key(page));
        kept.healed += pages.len() as u64;
        tracing::warn!(
            target: TARGET, database = %self.files.db.display(), healed = pages.len(),
            kept_aside = %aside.path.display(), "damaged pages of the database are healed"
        );
        pages.keys().copied().collect()
    }

    fn keep_aside(&self, pages: &BTreeMap<u32, Damaged>) -> Result<Aside> {
        let mut aside = Aside::create(&*self.vfs, &self.files.db)?;
        let kept_all = pages
            .iter()
            .try_for_each(|(&page, damaged)| aside.append(page, &damaged.before))
            .and_then(|()| aside.file.sync(SyncMode::Full));
        if let Err(error) = kept_all {
            // What is half there is of no use to anybody.
            let _ = self.vfs.remove(&aside.path);
            return Err(error);
        }
        Ok(aside)
    }

    fn write_over(&self, kept: &mut Kept, aside: &Aside, pages: &BTreeMap<u32, Damaged>) -> Result<()> {
        let Some(state) = kept.sidecar.state.clone() else {
            return Ok(());
        };
        let layout = kept.sidecar.layout;
        kept.sidecar.write_state(State {
            aside: aside.id,
            ..state
        })?;
        kept.sidecar.sync()?;
        let mut healed = Vec::with_capacity(pages.len());
        for (&page, damaged) in pages {
            self.db.write_at(&damaged.right, layout.page_at(page))?;
            healed.push(ExpectedPage {
                page: PageNumber::new(page)?,
                digest: PageDigest::of(&damaged.right),
            });
        }
        settle(&*self.db, layout.page_size, &healed)?;
        if let Some(state) = &mut kept.sidecar.state {
            state.aside = (0, 0);
        }
        self.restamp(kept, false)?;
        kept.sidecar.sync()
    }
}
