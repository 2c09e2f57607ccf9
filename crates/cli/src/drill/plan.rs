//! What a drill is going to do; all of it follows from the seed and the size of the database.

use super::random::Random;
use std::time::Duration;
use walmend_types::PageSize;

const GROUPS: u64 = 1;
const KILLS: u64 = 2;

/// Pages that are always committed together. They belong to one writer, so that no two writers conflict.
pub(super) type Group = Vec<u32>;

/// When a child is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kill {
    /// After so many acknowledgements.
    pub(super) acks: u64,
    /// And so much later, so that it hits all the steps of a commit.
    pub(super) delay: Duration,
}

/// The groups of a database. Page 1 is in the first one, which also gives the database its size. No group holds
/// the page where SQLite's lock bytes lie.
pub(super) fn groups(seed: u64, pages: u32, page_size: PageSize) -> Vec<Group> {
    let mut random = Random::new(seed, GROUPS);
    let mut rest: Vec<u32> = (2..=pages)
        .filter(|page| *page != page_size.lock_page())
        .collect();
    // Fisher and Yates: neighbours in the file shall not be neighbours in a transaction.
    for place in (1..rest.len()).rev() {
        let other = random.within(0, place as u64);
        rest.swap(place, usize::try_from(other).unwrap_or(place));
    }
    // Large databases get larger transactions, so that a drill ends within a minute.
    let scale = scale(pages);
    let mut groups = Vec::new();
    let mut group = vec![1];
    let mut size = random.within(3, 6) * scale;
    for page in rest {
        if group.len() as u64 >= size {
            groups.push(std::mem::take(&mut group));
            size = random.within(3, 6) * scale;
        }
        group.push(page);
    }
    groups.push(group);
    groups
}

/// When the children are killed.
pub(super) fn kills(seed: u64, pages: u32, kills: u32) -> Vec<Kill> {
    let mut random = Random::new(seed, KILLS);
    let most = (8000 / scale(pages)).max(50);
    let kill = |_| Kill {
        acks: random.within(1, most),
        delay: Duration::from_micros(random.within(0, 20_000)),
    };
    (0..kills).map(kill).collect()
}

fn scale(pages: u32) -> u64 {
    u64::from(pages / 4000).clamp(1, 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_in_exactly_one_group_and_page_1_in_the_first() {
        for pages in [1, 2, 5, 2000, 9001] {
            let groups = groups(7, pages, PageSize::DEFAULT);
            assert_eq!(groups[0][0], 1);
            let mut all = groups.concat();
            all.sort_unstable();
            assert_eq!(all, (1..=pages).collect::<Vec<_>>());
        }
    }

    #[test]
    fn nobody_writes_the_lock_page() {
        let lock_page = PageSize::MAX.lock_page();
        let groups = groups(7, lock_page + 5, PageSize::MAX);
        assert!(!groups.concat().contains(&lock_page));
    }

    #[test]
    fn the_same_seed_makes_the_same_plan_and_another_one_another() {
        let plan = |seed| (groups(seed, 300, PageSize::DEFAULT), kills(seed, 300, 5));
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7).0, plan(8).0);
        assert_ne!(plan(7).1, plan(8).1);
    }

    #[test]
    fn every_life_has_an_acknowledgement_before_its_kill() {
        assert!(kills(3, 1_000_000, 1000).iter().all(|kill| kill.acks > 0));
    }
}
