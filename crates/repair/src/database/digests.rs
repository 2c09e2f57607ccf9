//! The digests in force of an open store's pages, for whoever reads them.
//!
//! They are read from the sidecar stripe by stripe as they are needed, beside checkpoints: a page that a live snapshot
//! reads from the database file is not written by any checkpoint while that snapshot lives, so that every version that
//! is in force meanwhile has one and the same digest for it.

use super::layout::{Layout, Side};
use super::state::State;
use super::stripe::Version;
use std::collections::HashMap;
use std::sync::Arc;
use walmend_sync::Mutex;
use walmend_types::Result;
use walmend_vfs::VfsFile;

/// Neighbouring pages are in neighbouring stripes, and so in different parts.
const PARTS: usize = 16;
/// Stripes that one part remembers: 2 KiB each, 16 MiB in all, which is enough for 4 GiB of pages of 4 KiB.
const REMEMBERED: usize = 512;

#[derive(Debug)]
pub(super) struct Digests {
    file: Arc<dyn VfsFile>,
    layout: Layout,
    parts: Vec<Mutex<Part>>,
}

#[derive(Debug, Default)]
struct Part {
    /// What is in force; `None` while nothing is known of the pages.
    in_force: Option<InForce>,
    /// Of these stripes, by window and number. An empty list where the sidecar has none that is intact.
    stripes: HashMap<(u32, u32), Box<[u128]>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct InForce {
    epoch: u64,
    /// The pages of the database.
    pages: u32,
    void: Vec<u64>,
}

impl Digests {
    pub(super) fn new(file: Arc<dyn VfsFile>, layout: Layout) -> Self {
        Self {
            file,
            layout,
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// From now on this is in force; `None`: nothing is.
    pub(super) fn bring_into_force(&self, state: Option<&State>) {
        let in_force = state.map(|state| InForce {
            epoch: state.epoch,
            pages: state.pages,
            void: state.void.clone(),
        });
        for part in &self.parts {
            let mut part = part.lock();
            part.in_force.clone_from(&in_force);
            part.stripes.clear();
        }
    }

    /// The digest that a page must have; `None` where that is not known.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn of(&self, page: u32) -> Result<Option<u128>> {
        let (window, stripe, position) = self.layout.locate(page);
        let part = &self.parts[stripe as usize % PARTS];
        loop {
            let in_force = {
                let part = part.lock();
                let Some(in_force) = &part.in_force else {
                    return Ok(None);
                };
                if let Some(digests) = part.stripes.get(&(window, stripe)) {
                    return Ok(digests.get(position).copied());
                }
                in_force.clone()
            };
            let read = self.read(&in_force, (window, stripe))?;
            let mut part = part.lock();
            // A checkpoint may have gone on meanwhile, and the next one to where we were reading.
            if part.in_force.as_ref() == Some(&in_force) {
                if part.stripes.len() >= REMEMBERED {
                    part.stripes.clear();
                }
                let digest = read.get(position).copied();
                part.stripes.insert((window, stripe), read);
                return Ok(digest);
            }
        }
    }

    fn read(&self, in_force: &InForce, (window, stripe): (u32, u32)) -> Result<Box<[u128]>> {
        // What was cut off has left its last version behind.
        if self.layout.members(window, stripe, in_force.pages) == 0 {
            return Ok(Box::default());
        }
        let mut scratch = Vec::new();
        let mut newest: Option<Version> = None;
        for side in Side::BOTH {
            let place = (window, stripe, side);
            let Some(version) = Version::read(&*self.file, &self.layout, place, false, &mut scratch)? else {
                continue;
            };
            let epoch = version.description.epoch;
            let newer = newest
                .as_ref()
                .is_none_or(|newest| newest.description.epoch < epoch);
            if epoch <= in_force.epoch && !in_force.void.contains(&epoch) && newer {
                newest = Some(version);
            }
        }
        let digests = newest.map_or(Vec::new(), |version| version.description.digests);
        Ok(digests.into_boxed_slice())
    }
}
