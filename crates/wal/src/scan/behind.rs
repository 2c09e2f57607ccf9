//! What lies behind a break: each slot judged by itself, and what belongs together without a header.

use super::{Fault, Slot};
use crate::checksum::{ByteOrder, Checksum, Transition};
use walmend_types::{PageSize, Salts};

/// Judges the slots behind a break, each against the best-known checksum before it: what is wrong with it, and
/// whether it ended a transaction.
pub(super) fn behind(
    slots: &[Slot],
    chain: Checksum,
    salts: Salts,
    page_size: PageSize,
    order: ByteOrder,
) -> (Vec<Option<Fault>>, Vec<bool>) {
    let transition = Transition::over(8 + page_size.as_usize());
    let over_page = Transition::over(page_size.as_usize());
    let mut seed = chain;
    let mut previous_salts = salts;
    let mut faults = Vec::with_capacity(slots.len());
    let mut ends = Vec::with_capacity(slots.len());
    for (place, slot) in slots.iter().enumerate() {
        let stored = slot.header.checksum;
        let computed = transition.combine(seed, slot.part);
        seed = stored;
        let fault = if computed == stored {
            match (slot.header.page, slot.header.salts == salts) {
                (0, _) => Some(Fault::Header),
                (_, false) => Some(Fault::Salt),
                (_, true) => None,
            }
        } else if slots.get(place + 1).is_some_and(|next| {
            let follows = |before| transition.combine(before, next.part) == next.header.checksum;
            follows(computed) && !follows(stored)
        }) {
            seed = computed;
            Some(Fault::StoredChecksum)
        } else if slot.header.page == 0 {
            Some(Fault::Header)
        } else {
            Some(Fault::Page)
        };
        // What an earlier generation left chains as well, but to a frame that has other salts, too.
        let of_generation =
            slot.header.salts == salts || (fault == Some(Fault::Salt) && previous_salts == salts);
        previous_salts = slot.header.salts;
        let commit_field = match fault {
            Some(Fault::Page | Fault::Header) => commit_field(slot, computed, over_page, order),
            _ => slot.header.db_pages,
        };
        faults.push(fault);
        ends.push(of_generation && commit_field != 0);
    }
    (faults, ends)
}

/// The commit field of a damaged frame. If nothing else is damaged, it is what the checksum says: it is the
/// second word under it, so a wrong one changes the second half of the state and only that, and what the page
/// then does to the state can be undone.
fn commit_field(slot: &Slot, computed: Checksum, over_page: Transition, order: ByteOrder) -> u32 {
    let stored = slot.header.checksum;
    let difference = over_page.undo(Checksum {
        s0: stored.s0.wrapping_sub(computed.s0),
        s1: stored.s1.wrapping_sub(computed.s1),
    });
    if difference.s0 != 0 {
        return slot.header.db_pages;
    }
    match order {
        ByteOrder::Big => slot.header.db_pages.wrapping_add(difference.s1),
        ByteOrder::Little => slot
            .header
            .db_pages
            .swap_bytes()
            .wrapping_add(difference.s1)
            .swap_bytes(),
    }
}

/// The salts of the newest generation; how a log without a usable header tells what belongs to it. A generation is
/// written over the one before it from the start, so the first two frames that belong together are of the newest one,
/// however many older ones lie behind; or it has one frame alone, which follows the header's checksum, `seed`. Where
/// nothing belongs together, the first frame says.
pub(super) fn newest_salts(seed: Checksum, slots: &[Slot], page_size: PageSize) -> Option<Salts> {
    let transition = Transition::over(8 + page_size.as_usize());
    let together = |pair: &&[Slot]| {
        let same = pair[0].header.salts == pair[1].header.salts;
        same && chained(pair[0].header.checksum, &pair[1], transition)
    };
    let alone = slots.first().filter(|slot| chained(seed, slot, transition));
    let pair = || slots.windows(2).find(together).map(|pair| &pair[0]);
    let first = || slots.iter().find(|slot| slot.header.page != 0);
    let slot = alone.or_else(pair).or_else(first)?;
    Some(slot.header.salts)
}

/// The first slot with a frame that follows the one before it; `seed` is what slot 0 may follow.
pub(super) fn first_chained(seed: Checksum, slots: &[Slot], page_size: PageSize) -> Option<usize> {
    let transition = Transition::over(8 + page_size.as_usize());
    let stored = slots.iter().map(|slot| slot.header.checksum);
    let before = std::iter::once(seed).chain(stored);
    before
        .zip(slots)
        .position(|(before, slot)| chained(before, slot, transition))
}

fn chained(before: Checksum, slot: &Slot, transition: Transition) -> bool {
    slot.header.page != 0 && transition.combine(before, slot.part) == slot.header.checksum
}
