//! The pages of one stripe, and what the sidecar has on them.

use super::layout::{Layout, SOURCES, Side};
use super::state::Sidecar;
use super::stripe::Version;
use crate::codec::Codec;
use std::collections::BTreeMap;
use walmend_types::Result;
use xxhash_rust::xxh3::xxh3_128;

/// The pages of a stripe as they are in the database file, each with its digest.
#[derive(Debug)]
pub(crate) struct Members<'a>(Vec<Option<(&'a [u8], u128)>>);

impl<'a> Members<'a> {
    /// The page at each position, `None` where the file ends before it.
    pub(crate) fn new(page: impl FnMut(usize) -> Option<(&'a [u8], u128)>) -> Self {
        Self((0..SOURCES).map(page).collect())
    }

    pub(crate) fn page(&self, position: usize) -> Option<&'a [u8]> {
        self.0.get(position).copied().flatten().map(|(page, _)| page)
    }

    pub(crate) fn digest(&self, position: usize) -> Option<u128> {
        self.0.get(position).copied().flatten().map(|(_, digest)| digest)
    }
}

/// The pages of one stripe in memory, where its window is not. One is used for many stripes in turn.
#[derive(Debug, Default)]
pub(crate) struct StripePages {
    bytes: Vec<u8>,
    digests: Vec<Option<u128>>,
}

impl StripePages {
    /// Reads the pages of a stripe at these positions with `read`, which takes an offset in the database. Those that the device does not give back are left out, as damage.
    pub(crate) fn read(
        &mut self,
        read: impl Fn(&mut [u8], u64) -> Result<usize>,
        layout: &Layout,
        (window, stripe): (u32, u32),
        positions: impl Iterator<Item = usize>,
    ) {
        let page_size = layout.page_size.as_usize();
        self.bytes.resize(SOURCES * page_size, 0);
        self.digests.clear();
        self.digests.resize(SOURCES, None);
        for position in positions {
            let page = &mut self.bytes[position * page_size..(position + 1) * page_size];
            let at = layout.page_at(layout.page(window, stripe, position));
            if matches!(read(page, at), Ok(read) if read == page_size) {
                self.digests[position] = Some(xxh3_128(page));
            }
        }
    }

    pub(crate) fn members(&self) -> Members<'_> {
        let page_size = self.bytes.len() / SOURCES;
        Members::new(|position| {
            let digest = self.digests.get(position).copied().flatten()?;
            Some((
                &self.bytes[position * page_size..(position + 1) * page_size],
                digest,
            ))
        })
    }
}

/// What the sidecar has on a stripe.
#[derive(Debug)]
pub(crate) struct Stripe {
    pub(crate) window: u32,
    pub(crate) number: u32,
    /// The version in force.
    pub(crate) current: Option<Version>,
    /// One that a checkpoint was about to bring into force.
    pub(crate) newer: Option<Version>,
    /// Where one lies that never came into force.
    pub(crate) void: Option<Side>,
}

impl Stripe {
    /// Reads what the sidecar has on a stripe. `everything` checks the parity of the version in force as well.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn find(
        sidecar: &Sidecar,
        (window, number): (u32, u32),
        everything: bool,
        scratch: &mut Vec<u8>,
    ) -> Result<Self> {
        let (file, layout) = (&*sidecar.file, &sidecar.layout);
        let state = sidecar.state.as_ref();
        let in_force = state.map_or(u64::MAX, |state| state.epoch);
        let mut stripe = Self {
            window,
            number,
            current: None,
            newer: None,
            void: None,
        };
        for side in Side::BOTH {
            let place = (window, number, side);
            let Some(version) = Version::read(file, layout, place, false, scratch)? else {
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
        // A stripe of which everything was cut off has its last version still: the pages that come back are new ones.
        let cut_off = state.is_some_and(|state| layout.members(window, number, state.pages) == 0);
        if let Some(current) = stripe.current.as_mut().filter(|_| cut_off) {
            current.description.digests.clear();
        }
        // A state that is lost may have brought it into force.
        stripe.current = stripe.current.or_else(|| stripe.newer.take());
        if let Some(current) = stripe.current.as_mut().filter(|_| everything && !cut_off) {
            let place = (window, number, current.side);
            if let Some(whole) = Version::read(file, layout, place, true, scratch)? {
                *current = whole;
            }
        }
        Ok(stripe)
    }

    /// The digest in force of the page at this position.
    pub(crate) fn digest(&self, position: usize) -> Option<u128> {
        self.current.as_ref()?.digest(position)
    }

    /// The place for the next version.
    pub(crate) fn next_side(&self) -> Side {
        self.current
            .as_ref()
            .map_or(Side::A, |version| version.side.other())
    }

    /// The positions, below `limit`, of the pages that are as no version has them.
    pub(crate) fn differing(&self, pages: &Members<'_>, limit: usize) -> Vec<usize> {
        let Some(current) = &self.current else {
            return Vec::new();
        };
        (0..current.description.digests.len().min(limit))
            .filter(|&position| {
                let found = pages.digest(position);
                let as_in = |version: &Version| found.is_some() && found == version.digest(position);
                !as_in(current) && !self.newer.as_ref().is_some_and(as_in)
            })
            .collect()
    }

    /// Whether a version has as many parity shards left as pages differ from it.
    pub(crate) fn could_rebuild(&self, pages: &Members<'_>) -> bool {
        self.current.iter().chain(&self.newer).any(|version| {
            let digests = version.description.digests.iter().enumerate();
            let lost = digests
                .filter(|(position, digest)| pages.digest(*position) != Some(**digest))
                .count();
            lost <= version.parity_left()
        })
    }

    /// Rebuilds the pages that differ from a version of this stripe, from whichever gives most of them. Answers them by
    /// position, each compared with its digest. None where too little is left.
    ///
    /// # Errors
    /// I/O errors, and what the codec says.
    pub(crate) fn rebuild(
        &self,
        sidecar: &Sidecar,
        pages: &Members<'_>,
        codec: &dyn Codec,
    ) -> Result<BTreeMap<usize, Vec<u8>>> {
        let mut most = BTreeMap::new();
        for version in self.current.iter().chain(&self.newer) {
            let rebuilt = rebuild(version, sidecar, pages, codec)?;
            if rebuilt.len() > most.len() {
                most = rebuilt;
            }
        }
        Ok(most)
    }
}

fn rebuild(
    version: &Version,
    sidecar: &Sidecar,
    pages: &Members<'_>,
    codec: &dyn Codec,
) -> Result<BTreeMap<usize, Vec<u8>>> {
    let layout = &sidecar.layout;
    let zeros = vec![0; layout.page_size.as_usize()];
    let mut sources: Vec<Option<&[u8]>> = vec![Some(&zeros); SOURCES];
    let mut lost = BTreeMap::new();
    for (position, source) in sources.iter_mut().enumerate() {
        let Some(wanted) = version.digest(position) else {
            break;
        };
        *source = pages
            .page(position)
            .filter(|_| pages.digest(position) == Some(wanted));
        if source.is_none() {
            lost.insert(position, wanted);
        }
    }
    if lost.is_empty() || lost.len() > version.parity_left() {
        return Ok(BTreeMap::new());
    }
    let parity = version.read_parity(&*sidecar.file, layout, lost.len())?;
    if parity.iter().flatten().count() < lost.len() {
        return Ok(BTreeMap::new());
    }
    let parity: Vec<Option<&[u8]>> = parity.iter().map(Option::as_deref).collect();
    let rebuilt = codec.rebuild(&sources, &parity)?.into_iter();
    // A page that was lost for good has its digest still, and something else in the parity.
    Ok(rebuilt
        .filter(|(position, bytes)| lost.get(position) == Some(&xxh3_128(bytes)))
        .collect())
}
