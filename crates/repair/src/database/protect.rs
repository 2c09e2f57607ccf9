//! Making the sidecar of a database that is there, and bringing it up to date.

use super::heal::heal_database;
use super::layout::{SOURCES, Side};
use super::members::{Members, Stripe};
use super::standing::{Finding, Now, Standing, unsettled};
use super::state::{Found, Sidecar, State, db_sidecar_path};
use super::stripe::{Description, encode_parity, erase_version, write_version};
use super::window::Window;
use super::work::{Work, pause};
use crate::codec::Codec;
use walmend_types::{Error, PageSize, Result, SyncMode};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::FileSet;

/// So many windows for each thread are protected before the sidecar is synced, and says so.
const WINDOWS_PER_SYNC: u32 = 8;

/// What protecting a database did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatabaseProtectReport {
    /// Pages of the database file.
    pub pages: u32,
    /// How many of them are in stripes that were made anew.
    pub pages_renewed: u32,
    /// How many need not be looked at, because an interrupted run had done it.
    pub pages_skipped: u32,
    /// Damaged pages, ascending: their stripes were left as they are, so that they can be healed.
    pub damaged: Vec<u32>,
    /// Bytes of the sidecar, holes included.
    pub sidecar_bytes: u64,
    /// What the protection was worth before; `None` if there was none.
    pub before: Option<Standing>,
}

/// Protects a database file: makes its sidecar, or renews the stripes of it that changed. Pages that are known to be
/// damaged are not protected, but reported; where the protection is stale, what is in the file counts.
///
/// Interrupted, the next run goes on where this one stopped, unless the database was written meanwhile. The database
/// file is synced, and otherwise not written, but for finishing a healing that was interrupted. Memory: a window of 32 MiB and its parity for each thread. The caller
/// holds the exclusive lock on the database.
///
/// # Errors
/// [`Error::UnsupportedVersion`] for a sidecar of another version, [`Error::Cancelled`], I/O errors.
pub fn protect_database(
    vfs: &dyn Vfs,
    files: &FileSet,
    page_size: PageSize,
    codec: &dyn Codec,
    work: &Work<'_>,
) -> Result<DatabaseProtectReport> {
    if let Found::Sidecar(sidecar) = Sidecar::open(vfs, &files.db, OpenFlags::READ)?
        && sidecar.state.is_some_and(|state| state.aside != (0, 0))
    {
        // What it left looks like somebody's write, and is none.
        heal_database(vfs, files, codec, false, work)?;
    }
    let db = vfs.open(&files.db, OpenFlags::WRITE)?;
    // What is protected is durable first.
    db.sync(SyncMode::Full)?;
    let pages = u32::try_from(db.len()? / u64::from(page_size.get())).map_err(|_| {
        Error::Invalid(format!(
            "{} has more pages than a database can have",
            files.db.display()
        ))
    })?;
    let now = Now::look(vfs, files, &*db)?;
    let found = Sidecar::open(vfs, &files.db, OpenFlags::WRITE)?;
    let (mut sidecar, before) = match found {
        Found::Sidecar(sidecar) if sidecar.layout.page_size == page_size => {
            let standing = now.standing(sidecar.state.as_ref());
            (sidecar, Some(standing))
        }
        Found::Sidecar(sidecar) if now.standing(sidecar.state.as_ref()) != Standing::Stale => {
            return Err(Error::DatabaseCorrupt {
                path: files.db.clone(),
                page: 1,
                detail: format!(
                    "it says that pages have {page_size} bytes, and they had {}: heal the database first",
                    sidecar.layout.page_size
                ),
            });
        }
        _ => (Sidecar::create(vfs, &files.db, page_size)?, None),
    };
    if sidecar.bad_records > 0 {
        sidecar.write_headers()?;
    }
    let mut run = Run {
        db: &*db,
        pages,
        standing: before.unwrap_or(Standing::Stale),
        now,
        codec,
        epoch: 0,
        void: Vec::new(),
    };
    let first = run.begin(&mut sidecar)?;
    let layout = sidecar.layout;
    let mut report = DatabaseProtectReport {
        pages,
        pages_skipped: (u64::from(first) * u64::from(layout.window_pages())).min(pages.into()) as u32,
        before,
        ..DatabaseProtectReport::default()
    };
    work.done(u64::from(report.pages_skipped) * u64::from(page_size.get()))?;
    let all = layout.windows(pages);
    let step = WINDOWS_PER_SYNC * u32::try_from(work.thread_count()).unwrap_or(1);
    let mut next = first;
    while next < all {
        let end = all.min(next.saturating_add(step));
        let done = work.each_window(next..end, |window, memory: &mut Window| {
            run.protect_window(&sidecar, window, memory, work)
        });
        for outcome in done? {
            report.pages_renewed += outcome.renewed;
            report.damaged.extend(outcome.damaged);
        }
        next = end;
        sidecar.sync()?;
        run.progress(&mut sidecar, next)?;
    }
    report.damaged.sort_unstable();
    // What may lie behind belonged to a longer database.
    let end = layout.slot_at(all, 0, Side::A);
    if sidecar.file.len()? > end {
        sidecar.file.truncate(end)?;
    }
    run.finish(vfs, files, &mut sidecar)?;
    report.sidecar_bytes = vfs.info(&db_sidecar_path(&files.db))?.map_or(0, |info| info.len);
    Ok(report)
}

struct Run<'a> {
    db: &'a dyn VfsFile,
    pages: u32,
    standing: Standing,
    now: Now,
    codec: &'a dyn Codec,
    epoch: u64,
    /// Versions that never came into force. They are erased on the way.
    void: Vec<u64>,
}

/// What became of a window.
#[derive(Debug, Default)]
struct Outcome {
    renewed: u32,
    damaged: Vec<u32>,
}

impl Run<'_> {
    /// Says in the sidecar what is about to happen, and answers the window to begin with.
    fn begin(&mut self, sidecar: &mut Sidecar) -> Result<u32> {
        let was = sidecar.state.clone().unwrap_or_default();
        let was_in_force = match &sidecar.state {
            Some(state) => state.epoch,
            None => sidecar.highest_epoch()?,
        };
        self.void.clone_from(&was.void);
        self.void.extend((was.pending != 0).then_some(was.pending));
        self.epoch = 1 + self.void.iter().copied().fold(was_in_force, u64::max);
        let interrupted = !was.complete && was.sequence > 0;
        let first = if interrupted && self.standing == Standing::Current && was.pages == self.pages {
            was.windows_done
        } else {
            0
        };
        let state = if self.standing.decides() && (was.complete || first > 0) {
            // What is known of the pages to come stays true until they are renewed.
            State {
                epoch: self.epoch,
                pending: 0,
                void: self.void.clone(),
                ..was
            }
        } else {
            self.state(0, false)
        };
        sidecar.write_state(state)?;
        sidecar.sync()?;
        Ok(first)
    }

    fn state(&self, windows_done: u32, complete: bool) -> State {
        State {
            epoch: self.epoch,
            pages: self.pages,
            complete,
            windows_done,
            // Complete only after the wait: whatever this machine's clock says, that of the files has gone on.
            settled: complete || unsettled(&self.now.stamp).is_zero(),
            stamp: self.now.stamp,
            log: self.now.mark(),
            // A run that has seen everything leaves none.
            void: if complete { Vec::new() } else { self.void.clone() },
            ..State::default()
        }
    }

    /// So many windows are protected, durably.
    fn progress(&self, sidecar: &mut Sidecar, windows_done: u32) -> Result<()> {
        match &sidecar.state {
            Some(state) if !state.complete => sidecar.write_state(self.state(windows_done, false)),
            _ => Ok(()),
        }
    }

    fn finish(&self, vfs: &dyn Vfs, files: &FileSet, sidecar: &mut Sidecar) -> Result<()> {
        pause(unsettled(&self.now.stamp));
        let again = Now::look(vfs, files, self.db)?;
        if again.stamp != self.now.stamp {
            return Err(Error::Invalid(format!(
                "{} was written while it was being protected: protect it again",
                files.db.display()
            )));
        }
        let windows = sidecar.layout.windows(self.pages);
        sidecar.write_state(self.state(windows, true))?;
        sidecar.sync()?;
        // The older of the two would still tell what was before.
        sidecar.write_state(self.state(windows, true))?;
        sidecar.sync()
    }

    fn protect_window(
        &self,
        sidecar: &Sidecar,
        number: u32,
        window: &mut Window,
        work: &Work<'_>,
    ) -> Result<Outcome> {
        let layout = sidecar.layout;
        window.read(self.db, &layout, number, self.pages, work)?;
        let mut scratch = std::mem::take(&mut window.scratch);
        let mut outcome = Outcome::default();
        let zeros = vec![0; layout.page_size.as_usize()];
        for number in 0..layout.stripes() {
            let members = layout.members(window.number, number, self.pages);
            if members == 0 {
                break;
            }
            let stripe = Stripe::find(sidecar, (window.number, number), true, &mut scratch)?;
            if let Some(side) = stripe.void {
                erase_version(&*sidecar.file, &layout, (window.number, number, side))?;
            }
            let found = window.members(&layout, number);
            if is_current(&stripe, &found, members) {
                continue;
            }
            let damaged = self.damaged(sidecar, &stripe, &found, members)?;
            if !damaged.is_empty() {
                outcome.damaged.extend(damaged);
                continue;
            }
            let mut pages = Vec::with_capacity(SOURCES);
            let mut digests = Vec::with_capacity(members);
            for position in 0..members {
                let (Some(page), Some(digest)) = (found.page(position), found.digest(position)) else {
                    return Err(window.unreadable.clone().unwrap_or_else(|| {
                        Error::Invalid(format!(
                            "{} became shorter while it was being protected",
                            self.db.path().display()
                        ))
                    }));
                };
                pages.push(page);
                digests.push(digest);
            }
            let parity = encode_parity(self.codec, &pages, &zeros)?;
            let description = Description {
                window: window.number,
                stripe: number,
                page_size: layout.page_size.get(),
                epoch: self.epoch,
                digests,
            };
            let side = stripe.next_side();
            write_version(&*sidecar.file, &layout, side, &description, &parity, &mut scratch)?;
            // At most SOURCES.
            outcome.renewed += members as u32;
        }
        window.scratch = scratch;
        Ok(outcome)
    }

    /// The pages of a stripe that are known to be damaged.
    fn damaged(
        &self,
        sidecar: &Sidecar,
        stripe: &Stripe,
        pages: &Members<'_>,
        members: usize,
    ) -> Result<Vec<u32>> {
        let layout = sidecar.layout;
        let standing = sidecar.standing(self.standing, stripe.window);
        let mut damaged = Vec::new();
        for position in stripe.differing(pages, members) {
            let page = layout.page(stripe.window, stripe.number, position);
            // A position that differs is one that the version has.
            let wanted = stripe.digest(position).unwrap_or_default();
            if self.now.judge(standing, page, pages.digest(position), wanted)? == Finding::Damaged {
                damaged.push(page);
            }
        }
        Ok(damaged)
    }
}

/// Whether everything of the version in force is intact, and the pages are as it has them.
fn is_current(stripe: &Stripe, pages: &Members<'_>, members: usize) -> bool {
    stripe.current.as_ref().is_some_and(|current| {
        let digests = &current.description.digests;
        let same = |(position, digest): (usize, &u128)| pages.digest(position) == Some(*digest);
        current.whole() && digests.len() == members && digests.iter().enumerate().all(same)
    })
}
