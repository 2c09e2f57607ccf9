//! Comparing a database with its sidecar, without changing anything.

use super::layout::Layout;
use super::members::{Members, Stripe};
use super::standing::{Finding, Now, Standing};
use super::state::{Found, Sidecar, db_sidecar_path};
use super::stripe::parity_of;
use super::window::Window;
use super::work::Work;
use crate::codec::ReedSolomon;
use std::iter::StepBy;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use walmend_types::{PageSize, Result};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::FileSet;

/// What a sidecar says of its database, compared with what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatabaseCheck {
    /// The sidecar.
    pub path: PathBuf,
    /// Its length in bytes, holes included.
    pub bytes: u64,
    /// Pages that have a digest and parity.
    pub pages_covered: u32,
    /// Pages that are damaged, ascending.
    pub damaged: Vec<u32>,
    /// Those of them that cannot be rebuilt.
    pub unhealable: Vec<u32>,
    /// Pages that differ, and nobody can say whether they were damaged or written.
    pub undecided: Vec<u32>,
    /// How many pages were written since they were protected, as the log shows.
    pub written: u32,
    /// Records of the sidecar that are not intact.
    pub bad_records: u32,
    /// What the protection is worth.
    pub standing: Standing,
    /// All of the database was protected; otherwise `protect_database` was interrupted.
    pub complete: bool,
}

/// What a database was when it was protected: for one whose first page is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProtectedDatabase {
    /// Bytes of a page.
    pub page_size: PageSize,
    /// The database file in pages.
    pub pages: u32,
    /// Whether its first page was that of an SQLite database.
    pub sqlite: bool,
}

impl ProtectedDatabase {
    /// What the sidecar says; `None` if there is no usable one.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`](walmend_types::Error::UnsupportedVersion), I/O errors.
    pub fn read(vfs: &dyn Vfs, files: &FileSet) -> Result<Option<Self>> {
        let Found::Sidecar(sidecar) = Sidecar::open(vfs, &files.db, OpenFlags::READ)? else {
            return Ok(None);
        };
        Ok(sidecar.state.map(|state| Self {
            page_size: sidecar.layout.page_size,
            pages: state.pages,
            sqlite: state.stamp.change_counter != 0,
        }))
    }

    /// The pages that share parity, stripe by stripe: their numbers, ascending, and how many of them can be rebuilt at
    /// once where the sidecar is intact.
    pub fn stripes(&self) -> impl Iterator<Item = (StepBy<RangeInclusive<u32>>, usize)> {
        let (layout, pages) = (Layout::new(self.page_size), self.pages);
        let places = (0..layout.windows(pages))
            .flat_map(move |window| (0..layout.stripes()).map(move |stripe| (window, stripe)));
        places.filter_map(move |(window, stripe)| {
            let members = layout.members(window, stripe, pages);
            let last = layout.page(window, stripe, members.checked_sub(1)?);
            let first = layout.page(window, stripe, 0);
            Some((
                (first..=last).step_by(layout.stripes() as usize),
                parity_of(members),
            ))
        })
    }
}

impl DatabaseCheck {
    /// Compares a database with its sidecar; `None` if there is none. Takes no lock: on a database that is being
    /// written, pages may look damaged that are not.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`](walmend_types::Error::UnsupportedVersion) for a sidecar of another version,
    /// [`Error::Cancelled`](walmend_types::Error::Cancelled), I/O errors. Damage is a finding.
    pub fn make(vfs: &dyn Vfs, files: &FileSet, work: &Work<'_>) -> Result<Option<Self>> {
        let path = db_sidecar_path(&files.db);
        let bytes = vfs.info(&path)?.map_or(0, |info| info.len);
        let mut check = Self {
            path,
            bytes,
            pages_covered: 0,
            damaged: Vec::new(),
            unhealable: Vec::new(),
            undecided: Vec::new(),
            written: 0,
            bad_records: 1,
            standing: Standing::Stale,
            complete: false,
        };
        let sidecar = match Sidecar::open(vfs, &files.db, OpenFlags::READ)? {
            Found::Absent => return Ok(None),
            Found::Unusable => return Ok(Some(check)),
            Found::Sidecar(sidecar) => sidecar,
        };
        let db = vfs.open(&files.db, OpenFlags::READ)?;
        let examiner = Examiner::new(vfs, files, &*db, sidecar)?;
        check.standing = examiner.standing;
        check.bad_records = examiner.sidecar.bad_records;
        check.complete = examiner
            .sidecar
            .state
            .as_ref()
            .is_some_and(|state| state.complete);
        let all = work.each_window(0..examiner.windows()?, |number, window: &mut Window| {
            let mut examined = examiner.examine(number, window, work)?;
            examiner.try_to_rebuild(&mut examined, window)?;
            Ok((examined.pages_covered, examined.bad_records, examined.wrong()))
        })?;
        for (pages_covered, bad_records, wrong) in all {
            check.pages_covered += pages_covered;
            check.bad_records += bad_records;
            for wrong in wrong {
                match wrong.finding {
                    Finding::Written => check.written += 1,
                    Finding::Undecided => check.undecided.push(wrong.page),
                    Finding::Damaged => {
                        check.damaged.push(wrong.page);
                        if !wrong.healable {
                            check.unhealable.push(wrong.page);
                        }
                    }
                }
            }
        }
        for pages in [&mut check.damaged, &mut check.unhealable, &mut check.undecided] {
            pages.sort_unstable();
        }
        Ok(Some(check))
    }
}

/// A database and its sidecar, side by side.
#[derive(Debug)]
pub(crate) struct Examiner<'a> {
    pub(crate) db: &'a dyn VfsFile,
    pub(crate) sidecar: Sidecar,
    pub(crate) now: Now,
    pub(crate) standing: Standing,
}

/// What was found in a window.
#[derive(Debug, Default)]
pub(crate) struct Examined {
    pub(crate) pages_covered: u32,
    pub(crate) bad_records: u32,
    /// The stripes that have a page which is not as it was protected.
    pub(crate) stripes: Vec<(Stripe, Vec<Wrong>)>,
}

/// A page that is not as it was protected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wrong {
    pub(crate) page: u32,
    pub(crate) position: usize,
    pub(crate) finding: Finding,
    /// As many parity shards are left as pages of the stripe differ.
    pub(crate) healable: bool,
}

impl Examined {
    fn wrong(&self) -> Vec<Wrong> {
        let wrong = self.stripes.iter().flat_map(|(_, wrong)| wrong);
        wrong.copied().collect()
    }
}

impl<'a> Examiner<'a> {
    pub(crate) fn new(vfs: &dyn Vfs, files: &FileSet, db: &'a dyn VfsFile, sidecar: Sidecar) -> Result<Self> {
        let now = Now::look(vfs, files, db)?;
        let standing = now.standing(sidecar.state.as_ref());
        Ok(Self {
            db,
            sidecar,
            now,
            standing,
        })
    }

    /// How many pages the sidecar is about; as many as it has room for, where no state says so.
    pub(crate) fn pages(&self) -> u32 {
        self.sidecar.state.as_ref().map_or(u32::MAX, |state| state.pages)
    }

    pub(crate) fn windows(&self) -> Result<u32> {
        match &self.sidecar.state {
            Some(state) => Ok(self.sidecar.layout.windows(state.pages)),
            None => self.sidecar.windows(),
        }
    }

    pub(crate) fn examine(&self, number: u32, window: &mut Window, work: &Work<'_>) -> Result<Examined> {
        let layout = &self.sidecar.layout;
        window.read(self.db, layout, number, self.pages(), work)?;
        let expected = self
            .sidecar
            .state
            .as_ref()
            .is_some_and(|state| state.speaks_of(number));
        let mut examined = Examined::default();
        let mut scratch = std::mem::take(&mut window.scratch);
        for number in 0..layout.stripes() {
            let limit = layout.members(window.number, number, self.pages());
            if limit == 0 {
                break;
            }
            let stripe = Stripe::find(&self.sidecar, (window.number, number), true, &mut scratch)?;
            let Some(current) = &stripe.current else {
                examined.bad_records += u32::from(expected);
                continue;
            };
            examined.bad_records += current.bad_records;
            // At most SOURCES.
            examined.pages_covered += current.description.digests.len().min(limit) as u32;
            let pages = window.members(layout, number);
            let differing = stripe.differing(&pages, limit);
            if differing.is_empty() {
                continue;
            }
            let wrong = self.wrong(&stripe, &pages, &differing)?;
            examined.stripes.push((stripe, wrong));
        }
        window.scratch = scratch;
        Ok(examined)
    }

    /// Counting what is left does not tell that a page was lost for good, and the parity made without it.
    fn try_to_rebuild(&self, examined: &mut Examined, window: &Window) -> Result<()> {
        for (stripe, wrong) in &mut examined.stripes {
            if wrong
                .iter()
                .any(|wrong| wrong.healable && wrong.finding == Finding::Damaged)
            {
                let pages = window.members(&self.sidecar.layout, stripe.number);
                let rebuilt = stripe.rebuild(&self.sidecar, &pages, &ReedSolomon)?;
                for wrong in wrong {
                    wrong.healable = rebuilt.contains_key(&wrong.position);
                }
            }
        }
        Ok(())
    }

    /// What the pages of a stripe are that differ from it.
    pub(crate) fn wrong(
        &self,
        stripe: &Stripe,
        pages: &Members<'_>,
        differing: &[usize],
    ) -> Result<Vec<Wrong>> {
        let layout = &self.sidecar.layout;
        let standing = self.sidecar.standing(self.standing, stripe.window);
        let healable = stripe.could_rebuild(pages);
        let judge = |&position: &usize| {
            let page = layout.page(stripe.window, stripe.number, position);
            // A position that differs is one that the version has.
            let wanted = stripe.digest(position).unwrap_or_default();
            let finding = self.now.judge(standing, page, pages.digest(position), wanted)?;
            Ok(Wrong {
                page,
                position,
                finding,
                healable,
            })
        };
        differing.iter().map(judge).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stripes_of_a_database_hold_each_page_once() {
        for pages in [0, 1, 63, 64, 65, 8192, 8193, 20_000] {
            let known = ProtectedDatabase {
                page_size: PageSize::new(4096).unwrap(),
                pages,
                sqlite: false,
            };
            let mut all = Vec::new();
            for (stripe, bearable) in known.stripes() {
                let members: Vec<u32> = stripe.collect();
                assert_eq!(bearable, members.len().min(16));
                all.extend(members);
            }
            all.sort_unstable();
            assert_eq!(all, (1..=pages).collect::<Vec<_>>());
        }
    }
}
