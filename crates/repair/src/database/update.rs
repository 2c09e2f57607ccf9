//! The next version of a stripe: from the difference where few of its pages change, from all of its pages otherwise.
//!
//! The code is linear: the parity of old XOR new, XORed onto the old parity, is the new parity. Old pages and old parity
//! count only if they are what their digests say, so that neither damage nor what an interrupted checkpoint left gets in:
//! where one is not, all pages are looked at.

use super::layout::{Layout, SOURCES};
use super::live::{DatabaseProtection, Kept};
use super::members::Stripe;
use super::standing::{Finding, Standing};
use super::stripe::{encode_parity, parity_of};
use std::collections::BTreeMap;
use walmend_types::Result;
use xxhash_rust::xxh3::xxh3_128;

const TARGET: &str = "walmend::repair::database";

/// What a version is made of: the digests of its pages, and their parity.
pub(super) type Made = (Vec<u128>, Vec<Vec<u8>>);

impl DatabaseProtection {
    /// Makes what a stripe of `members` pages is to have once the pages in `written`, by position, are in the database.
    pub(super) fn make_version(
        &self,
        kept: &mut Kept,
        stripe: &mut Stripe,
        members: usize,
        written: &BTreeMap<usize, Vec<u8>>,
    ) -> Result<Made> {
        match self.make_from_difference(kept, stripe, members, written)? {
            Some(made) => Ok(made),
            None => self.make_from_all_pages(kept, stripe, members, written),
        }
    }

    /// `None` where that does not pay, or something is not what it should be.
    fn make_from_difference(
        &self,
        kept: &mut Kept,
        stripe: &Stripe,
        members: usize,
        written: &BTreeMap<usize, Vec<u8>>,
    ) -> Result<Option<Made>> {
        let Some(current) = &stripe.current else {
            return Ok(None);
        };
        let before = current.description.digests.len();
        let changed: Vec<usize> = (0..before)
            .filter(|position| *position >= members || written.contains_key(position))
            .collect();
        let shards = parity_of(members);
        let all_new = (before..members).all(|position| written.contains_key(&position));
        let left_alone = members.saturating_sub(written.len());
        if shards > parity_of(before) || !all_new || changed.len() + shards > left_alone {
            return Ok(None);
        }
        let layout = kept.sidecar.layout;
        let place = (stripe.window, stripe.number);
        kept.pages.read(
            |page, at| self.db.read_at(page, at),
            &layout,
            place,
            changed.iter().copied(),
        );
        let pages = kept.pages.members();
        let old = |position: usize| pages.page(position);
        if changed
            .iter()
            .any(|&position| pages.digest(position) != current.digest(position))
        {
            return Ok(None);
        }
        let parity = current.read_parity(&*kept.sidecar.file, &layout, shards)?;
        if parity[..shards].iter().any(Option::is_none) {
            return Ok(None);
        }
        let zeros = vec![0; layout.page_size.as_usize()];
        let mut digests = current.description.digests.clone();
        digests.resize(members, 0);
        let mut differences: Vec<(usize, Vec<u8>)> = Vec::with_capacity(changed.len());
        let added = written.keys().filter(|position| **position >= before);
        for &position in changed.iter().chain(added) {
            let new = written.get(&position);
            if let Some(new) = new {
                digests[position] = xxh3_128(new);
            }
            let mut difference = new.unwrap_or(&zeros).clone();
            xor(&mut difference, old(position).unwrap_or(&zeros));
            differences.push((position, difference));
        }
        let mut sources: Vec<&[u8]> = vec![&zeros; SOURCES];
        for (position, difference) in &differences {
            sources[*position] = difference;
        }
        let mut made = encode_parity(&*self.codec, &sources, &zeros)?;
        made.truncate(shards);
        for (shard, before) in made.iter_mut().zip(parity.iter().flatten()) {
            xor(shard, before);
        }
        Ok(Some((digests, made)))
    }

    fn make_from_all_pages(
        &self,
        kept: &mut Kept,
        stripe: &mut Stripe,
        members: usize,
        written: &BTreeMap<usize, Vec<u8>>,
    ) -> Result<Made> {
        let layout = kept.sidecar.layout;
        let place = (stripe.window, stripe.number);
        let others = (0..members).filter(|position| !written.contains_key(position));
        kept.pages
            .read(|page, at| self.db.read_at(page, at), &layout, place, others);
        let mut damaged = stripe.differing(&kept.pages.members(), members);
        damaged.retain(|position| !written.contains_key(position));
        let damaged = kept.judged(stripe, damaged)?;
        let mut rebuilt = BTreeMap::new();
        if !damaged.is_empty() {
            *stripe = Stripe::find(&kept.sidecar, place, true, &mut kept.scratch)?;
            kept.pages
                .read(|page, at| self.db.read_at(page, at), &layout, place, 0..SOURCES);
            rebuilt = stripe.rebuild(&kept.sidecar, &kept.pages.members(), &*self.codec)?;
        }
        let zeros = vec![0; layout.page_size.as_usize()];
        let found = kept.pages.members();
        let mut pages: Vec<&[u8]> = Vec::with_capacity(SOURCES);
        let mut digests = Vec::with_capacity(members);
        for position in 0..members {
            let known = written.get(&position).or_else(|| rebuilt.get(&position));
            // What lies behind the end of the file will read as zeros.
            let page = known
                .map(Vec::as_slice)
                .or_else(|| found.page(position))
                .unwrap_or(&zeros);
            pages.push(page);
            // A page that is lost keeps its digest, so that it stays known to be damaged; the parity has what is there, and
            // goes on protecting the others.
            let lost = damaged.contains(&position) && known.is_none();
            let digest = stripe.digest(position).filter(|_| lost);
            digests.push(digest.unwrap_or_else(|| xxh3_128(page)));
        }
        let parity = encode_parity(&*self.codec, &pages, &zeros)?;
        for position in damaged {
            let page = layout.page(stripe.window, stripe.number, position);
            kept.found_damaged(page, rebuilt.contains_key(&position));
        }
        Ok((digests, parity))
    }
}

impl Kept {
    /// Those of the pages of a stripe which differ from it that are damaged.
    fn judged(&self, stripe: &Stripe, differing: Vec<usize>) -> Result<Vec<usize>> {
        let layout: Layout = self.sidecar.layout;
        let Some(now) = &self.judge else {
            return Ok(differing);
        };
        let found = self.pages.members();
        let mut damaged = Vec::new();
        for position in differing {
            let page = layout.page(stripe.window, stripe.number, position);
            let wanted = stripe.digest(position).unwrap_or_default();
            let finding = now.judge(Standing::FollowedByLog, page, found.digest(position), wanted)?;
            if finding == Finding::Damaged {
                damaged.push(position);
            }
        }
        Ok(damaged)
    }

    /// Remembers a damaged page, and says so once.
    pub(super) fn found_damaged(&mut self, page: u32, healable: bool) {
        let (into, other) = if healable {
            (&mut self.damaged, &mut self.lost)
        } else {
            (&mut self.lost, &mut self.damaged)
        };
        other.remove(&page);
        if !into.insert(page) {
            return;
        }
        if healable {
            tracing::warn!(target: TARGET, page, "a damaged page of the database");
        } else {
            tracing::error!(target: TARGET, page, "a damaged page of the database that cannot be rebuilt");
        }
    }
}

fn xor(into: &mut [u8], other: &[u8]) {
    for (byte, other) in into.iter_mut().zip(other) {
        *byte ^= other;
    }
}
