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
