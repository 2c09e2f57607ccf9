//! Whether what is there after a recovery is what was acknowledged: each group whole, at its last acknowledged
//! version, or at the one after it, whose acknowledgement the kill may have cut off.

use super::content::{Content, FINAL, Version};
use super::plan::Group;
use walmend::Snapshot;
use walmend_error::Result;
use walmend_types::PageNumber;

/// What a check of all groups found.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// The version at which each group stands.
    pub(super) versions: Vec<Version>,
    /// Transactions found that nobody had heard of: whole, but not acknowledged.
    pub(super) unheard: u64,
    /// Acknowledged transactions that are not there.
    pub(super) lost: u64,
    /// Groups whose pages are not all of one known version.
    pub(super) torn: u64,
    /// What is wrong, for a person.
    pub(super) problems: Vec<String>,
}

/// Checks every group. `before` are the versions at the beginning of the life, `acknowledged` those at its end.
///
/// # Errors
/// Errors of reading; a store that cannot be read proves nothing.
pub(super) fn groups(
    snapshot: &Snapshot,
    content: &Content,
    groups: &[Group],
    before: &[Version],
    acknowledged: &[Version],
) -> Result<Checked> {
    let mut checked = Checked::default();
    for (number, group) in groups.iter().enumerate() {
        let known = acknowledged[number];
        let found = version(snapshot, content, group, before[number], known)?;
        match found {
            Some(version) if version >= known => {
                checked.unheard += u64::from(version != known);
                checked.versions.push(version);
            }
            Some(version) => {
                checked.lost += u64::from(if known == FINAL { 1 } else { known - version });
                checked.problems.push(format!(
                    "group {number} (pages {group:?}) is at version {version}, but version {known} was acknowledged"
                ));
                checked.versions.push(version);
            }
            None => {
                checked.torn += 1;
                checked.problems.push(format!(
                    "group {number} (pages {group:?}) is not whole: version {known} was acknowledged"
                ));
                checked.versions.push(known);
            }
        }
    }
    Ok(checked)
}

/// The version that all pages of the group have; `None` if there is none.
fn version(
    snapshot: &Snapshot,
    content: &Content,
    group: &Group,
    before: Version,
    known: Version,
) -> Result<Option<Version>> {
    let next = known.checked_add(1);
    // What should be there first; then what should not, to say how much was lost.
    let candidates = [known].into_iter().chain(next).chain(older(before, known));
    for version in candidates {
        if holds(snapshot, content, group, version)? {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

fn older(before: Version, known: Version) -> Box<dyn Iterator<Item = Version>> {
    if known == FINAL {
        // The finishing life has one transaction per group.
        Box::new([before].into_iter())
    } else {
        Box::new((before..known).rev())
    }
}

fn holds(snapshot: &Snapshot, content: &Content, group: &Group, version: Version) -> Result<bool> {
    for page in group {
        if *page > snapshot.db_pages() {
            return Ok(version == 0);
        }
        if snapshot.read(PageNumber::new(*page)?)? != content.page(*page, version)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::{plan, source};
    use super::*;
    use tempfile::TempDir;
    use walmend::{Options, Pages, Store};

    const SEED: u64 = 7;

    struct Bench {
        _folder: TempDir,
        store: Store,
        content: Content,
        groups: Vec<Group>,
    }

    impl Bench {
        /// A store in which every group stands at version 2.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let image = folder.path().join("source.db");
            let source = source::make(&image, SEED).unwrap();
            let (store, _) = Store::open(folder.path().join("drill.db"), Options::new()).unwrap();
            let groups = plan::groups(SEED, source.db_pages, source.page_size);
            let content = Content::new(SEED, Pages::Raw, source.page_size, &image).unwrap();
            let bench = Self {
                _folder: folder,
                store,
                content,
                groups,
            };
            for group in 0..bench.groups.len() {
                bench.write(group, &bench.groups[group], 2);
            }
            bench
        }

        fn write(&self, group: usize, pages: &[u32], version: Version) {
            let mut txn = self.store.begin().unwrap();
            for page in pages {
                let image = self.content.page(*page, version).unwrap();
                txn.write(PageNumber::new(*page).unwrap(), image).unwrap();
            }
            let last = self.groups.concat().into_iter().max().unwrap();
            if group == 0 {
                txn.set_db_pages(last).unwrap();
            }
            txn.commit().into_result().unwrap();
        }

        fn check(&self, acknowledged: &[Version]) -> Checked {
            let before = vec![0; self.groups.len()];
            let snapshot = self.store.snapshot().unwrap();
            groups(&snapshot, &self.content, &self.groups, &before, acknowledged).unwrap()
        }
    }

    #[test]
    fn what_was_acknowledged_is_found() {
        let bench = Bench::new();
        let checked = bench.check(&vec![2; bench.groups.len()]);
        assert_eq!((checked.lost, checked.torn, checked.unheard), (0, 0, 0));
        assert_eq!(checked.versions, vec![2; bench.groups.len()]);
    }

    #[test]
    fn one_transaction_more_than_acknowledged_is_fine_and_counted() {
        let bench = Bench::new();
        let mut acknowledged = vec![2; bench.groups.len()];
        acknowledged[5] = 1;
        let checked = bench.check(&acknowledged);
        assert_eq!((checked.lost, checked.torn, checked.unheard), (0, 0, 1));
        assert!(checked.problems.is_empty());
    }

    #[test]
    fn acknowledged_transactions_that_are_missing_are_counted() {
        let bench = Bench::new();
        let mut acknowledged = vec![2; bench.groups.len()];
        acknowledged[3] = 4;
        let checked = bench.check(&acknowledged);
        assert_eq!((checked.lost, checked.torn), (2, 0));
        assert_eq!(checked.versions[3], 2);
        assert_eq!(checked.problems.len(), 1);
    }

    #[test]
    fn half_a_transaction_shows() {
        let bench = Bench::new();
        let half = &bench.groups[3][..1];
        bench.write(3, half, 3);
        let checked = bench.check(&vec![2; bench.groups.len()]);
        assert_eq!((checked.lost, checked.torn), (0, 1));
    }

    #[test]
    fn a_transaction_that_nobody_sent_shows() {
        let bench = Bench::new();
        bench.write(3, &bench.groups[3], 9);
        let checked = bench.check(&vec![2; bench.groups.len()]);
        assert_eq!((checked.lost, checked.torn), (0, 1));
    }

    #[test]
    fn a_source_that_did_not_arrive_shows() {
        let bench = Bench::new();
        let mut acknowledged = vec![2; bench.groups.len()];
        acknowledged[3] = FINAL;
        let checked = bench.check(&acknowledged);
        assert_eq!(checked.lost + checked.torn, 1);
        bench.write(3, &bench.groups[3], FINAL);
        assert!(bench.check(&acknowledged).problems.is_empty());
    }
}
