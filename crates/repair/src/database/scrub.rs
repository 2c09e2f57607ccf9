//! Scrubbing the database of an open store, window by window.
//!
//! A window is compared and healed while the protection is held, so that no checkpoint writes to the database meanwhile:
//! what differs from the parity in force is then damaged, and nothing else.

use super::heal::{Aside, settle};
use super::live::{DatabaseProtection, Kept};
use super::state::State;
use super::work::Work;
use std::collections::BTreeMap;
use walmend_types::{Cx, PageNumber, Result, SyncMode};
use walmend_wal::{ExpectedPage, PageDigest};

const TARGET: &str = "walmend::repair::database";

/// What became of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scrubbed {
    /// It was compared.
    Window {
        /// Bytes of the database file that were read.
        bytes: u64,
        /// Pages that were damaged, and are again what they were; ascending.
        healed: Vec<u32>,
    },
    /// A checkpoint is writing: to be tried again.
    Busy,
    /// The database ends before it.
    End,
    /// The sidecar is not in step with the database: nothing can be said.
    OutOfStep,
}

impl DatabaseProtection {
    /// Compares a window of the database, which are 32 MiB each and count from 0, with the sidecar, and heals what can
    /// be healed; the damaged pages are kept in a file beside the database. Checkpoints wait for it. What cannot be
    /// healed is in [`lost`](Self::lost).
    ///
    /// # Errors
    /// I/O errors. After one of writing the sidecar is no longer kept in step.
    pub fn scrub(&self, window: u32) -> Result<Scrubbed> {
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        if !kept.in_step {
            return Ok(Scrubbed::OutOfStep);
        }
        if kept.prepared.is_some() {
            return Ok(Scrubbed::Busy);
        }
        let layout = kept.sidecar.layout;
        let pages = kept.sidecar.state.as_ref().map_or(0, |state| state.pages);
        if window >= layout.windows(pages) {
            return Ok(Scrubbed::End);
        }
        let cx = Cx::new();
        kept.window
            .read(&*self.db, &layout, window, pages, &Work::new(&cx))?;
        for found in [&mut kept.damaged, &mut kept.lost] {
            found.retain(|page| layout.locate(*page).0 != window);
        }
        let mut damaged = BTreeMap::new();
        for stripe in 0..layout.stripes() {
            let members = layout.members(window, stripe, pages);
            let found = kept.window.stripe(&kept.sidecar, stripe)?;
            let rebuilt = self.rebuild_damaged(kept, &found, members, &BTreeMap::new())?;
            let numbered = rebuilt
                .into_iter()
                .map(|(position, bytes)| (layout.page(window, stripe, position), bytes));
            damaged.extend(numbered);
        }
        if !damaged.is_empty() {
            let healed = self.put_back(kept, &damaged);
            if let Err(error) = healed {
                self.note(kept, Err(error.clone()));
                return Err(error);
            }
        }
        let bytes = u64::from(layout.pages_in(window, pages)) * u64::from(layout.page_size.get());
        let healed = damaged.into_keys().collect();
        Ok(Scrubbed::Window { bytes, healed })
    }

    /// Keeps the pages as they are, durably, and writes these over them, as `heal` does.
    fn put_back(&self, kept: &mut Kept, pages: &BTreeMap<u32, Vec<u8>>) -> Result<()> {
        let Some(state) = kept.sidecar.state.clone() else {
            return Ok(());
        };
        let layout = kept.sidecar.layout;
        let mut aside = Aside::create(&*self.vfs, &self.files.db)?;
        for (&page, bytes) in pages {
            let mut before = vec![0; bytes.len()];
            let read = self.db.read_at(&mut before, layout.page_at(page))?;
            aside.append(page, &before[..read])?;
        }
        aside.file.sync(SyncMode::Full)?;
        kept.sidecar.write_state(State {
            aside: aside.id,
            ..state
        })?;
        kept.sidecar.sync()?;
        let mut healed = Vec::with_capacity(pages.len());
        for (&page, bytes) in pages {
            self.db.write_at(bytes, layout.page_at(page))?;
            healed.push(ExpectedPage {
                page: PageNumber::new(page)?,
                digest: PageDigest::of(bytes),
            });
        }
        settle(&*self.db, layout.page_size, &healed)?;
        if let Some(state) = &mut kept.sidecar.state {
            state.aside = (0, 0);
        }
        self.restamp(kept, false)?;
        kept.sidecar.sync()?;
        kept.damaged.retain(|page| !pages.contains_key(page));
        tracing::warn!(
            target: TARGET, database = %self.files.db.display(), healed = pages.len(),
            kept_aside = %aside.path.display(), "damaged pages of the database are healed"
        );
        Ok(())
    }
}
