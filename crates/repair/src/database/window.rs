//! One window of a database in memory, and its stripes beside it.

use super::layout::{Layout, SOURCES, Side};
use super::state::Sidecar;
use super::stripe::Version;
use super::work::Work;
use crate::codec::Codec;
use std::collections::BTreeMap;
use walmend_types::Result;
use walmend_vfs::VfsFile;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes read in one go, and hashed while they are in the processor's cache.
const PIECE: usize = 1 << 20;

/// The pages of a window, as they are in the file. One is used for many windows in turn.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pub(crate) number: u32,
    bytes: Vec<u8>,
    digests: Vec<u128>,
    page_size: usize,
    /// For reading stripes.
    pub(crate) scratch: Vec<u8>,
}

impl Window {
    /// Reads a window of a database of `pages` pages. The file may end earlier.
    ///
    /// # Errors
    /// I/O errors, and what [`Work::done`] says.
    pub(crate) fn read(
        &mut self,
        db: &dyn VfsFile,
        layout: &Layout,
        number: u32,
        pages: u32,
        work: &Work<'_>,
    ) -> Result<()> {
        self.number = number;
        self.page_size = layout.page_size.as_usize();
        self.digests.clear();
        let len = layout.pages_in(number, pages) as usize * self.page_size;
        self.bytes.resize(len, 0);
        let start = u64::from(number) * super::layout::WINDOW;
        let mut at = 0;
        while at < len {
            let end = (at + PIECE).min(len);
            let piece = &mut self.bytes[at..end];
            let wanted = piece.len();
            let read = db.read_at(piece, start + at as u64)?;
            let whole = read / self.page_size * self.page_size;
            self.digests
                .extend(piece[..whole].chunks_exact(self.page_size).map(xxh3_128));
            work.done(wanted as u64)?;
            if read < wanted {
                break;
            }
            at = end;
        }
        Ok(())
    }

    /// The page at this place of the window, `None` if the file ends before it does.
    pub(crate) fn page(&self, place: usize) -> Option<&[u8]> {
        self.digests.get(place)?;
        self.bytes
            .get(place * self.page_size..(place + 1) * self.page_size)
    }

    /// Its digest.
    pub(crate) fn digest(&self, place: usize) -> Option<u128> {
        self.digests.get(place).copied()
    }

    /// Reads what the sidecar has on a stripe of this window.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn stripe(&mut self, sidecar: &Sidecar, stripe: u32) -> Result<Stripe> {
        let (file, layout) = (&*sidecar.file, &sidecar.layout);
        let state = sidecar.state.as_ref();
        let in_force = state.map_or(u64::MAX, |state| state.epoch);
        let mut stripe = Stripe {
            number: stripe,
            current: None,
            newer: None,
            void: None,
        };
        for side in Side::BOTH {
            let place = (self.number, stripe.number, side);
            let Some(version) = Version::read(file, layout, place, false, &mut self.scratch)? else {
                continue;
            };
            let epoch = version.description.epoch;
            if state.is_some_and(|state| state.void.contains(&epoch)) {
                stripe.void = Some(side);
                continue;
            }
            let kept = if epoch <= in_force {
                &mut stripe.current
            } else {
                &mut stripe.newer
            };
            if kept.as_ref().is_none_or(|kept| kept.description.epoch < epoch) {
                *kept = Some(version);
            }
        }
        // A state that is lost may have brought it into force.
        stripe.current = stripe.current.or_else(|| stripe.newer.take());
        if let Some(current) = &mut stripe.current {
            let place = (self.number, stripe.number, current.side);
            if let Some(whole) = Version::read(file, layout, place, true, &mut self.scratch)? {
                *current = whole;
            }
        }
        Ok(stripe)
    }
}

/// What the sidecar has on a stripe.
#[derive(Debug)]
pub(crate) struct Stripe {
    pub(crate) number: u32,
    /// The version in force.
    pub(crate) current: Option<Version>,
    /// One that a checkpoint was about to bring into force.
    pub(crate) newer: Option<Version>,
    /// Where one lies that never came into force.
    pub(crate) void: Option<Side>,
}

impl Stripe {
    /// The positions, below `limit`, of the pages that are as no version has them.
    pub(crate) fn differing(&self, layout: &Layout, window: &Window, limit: usize) -> Vec<usize> {
        let Some(current) = &self.current else {
            return Vec::new();
        };
        (0..current.description.digests.len().min(limit))
            .filter(|&position| {
                let found = window.digest(layout.place(self.number, position));
                let as_in = |version: &Version| found.is_some() && found == version.digest(position);
                !as_in(current) && !self.newer.as_ref().is_some_and(as_in)
            })
            .collect()
    }

    /// Whether a version has as many parity shards left as pages differ from it.
    pub(crate) fn could_rebuild(&self, layout: &Layout, window: &Window) -> bool {
        self.current.iter().chain(&self.newer).any(|version| {
            let digests = version.description.digests.iter().enumerate();
            let lost = digests
                .filter(|(position, digest)| {
                    window.digest(layout.place(self.number, *position)) != Some(**digest)
                })
                .count();
            lost <= version.parity_left()
        })
    }

    /// Rebuilds the pages that differ from a version of this stripe: whichever can do it. Answers them by position,
    /// each with the digest that it must have, or `None` if too little is left.
    ///
    /// # Errors
    /// I/O errors, and what the codec says.
    pub(crate) fn rebuild(
        &self,
        sidecar: &Sidecar,
        window: &Window,
        codec: &dyn Codec,
    ) -> Result<Option<BTreeMap<usize, Vec<u8>>>> {
        for version in self.current.iter().chain(&self.newer) {
            if let Some(rebuilt) = rebuild(version, sidecar, self.number, window, codec)? {
                return Ok(Some(rebuilt));
            }
        }
        Ok(None)
    }
}

fn rebuild(
    version: &Version,
    sidecar: &Sidecar,
    stripe: u32,
    window: &Window,
    codec: &dyn Codec,
) -> Result<Option<BTreeMap<usize, Vec<u8>>>> {
    let layout = &sidecar.layout;
    let zeros = vec![0; layout.page_size.as_usize()];
    let mut sources: Vec<Option<&[u8]>> = vec![Some(&zeros); SOURCES];
    let mut lost = Vec::new();
    for (position, source) in sources.iter_mut().enumerate() {
        let Some(wanted) = version.digest(position) else {
            break;
        };
        let place = layout.place(stripe, position);
        *source = window
            .page(place)
            .filter(|_| window.digest(place) == Some(wanted));
        if source.is_none() {
            lost.push((position, wanted));
        }
    }
    if lost.len() > version.parity_left() {
        return Ok(None);
    }
    let parity = version.read_parity(&*sidecar.file, layout, lost.len())?;
    if parity.iter().flatten().count() < lost.len() {
        return Ok(None);
    }
    let parity: Vec<Option<&[u8]>> = parity.iter().map(Option::as_deref).collect();
    let rebuilt: BTreeMap<usize, Vec<u8>> = codec.rebuild(&sources, &parity)?.into_iter().collect();
    // A wrong survivor makes a wrong result without any other sign.
    let right = |(position, wanted): &(usize, u128)| {
        rebuilt
            .get(position)
            .is_some_and(|bytes| xxh3_128(bytes) == *wanted)
    };
    Ok(lost.iter().all(right).then_some(rebuilt))
}
