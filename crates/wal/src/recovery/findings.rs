//! What is in the files, read without changing anything.

use super::decide::{Behind, Facts, HeaderFact, Origin};
use super::evidence::whereabouts;
use crate::companion::{CompanionState, Generation};
use crate::files::FileSet;
use crate::scan::{Fault, HeaderState, Scan, ScanHints};
use walmend_types::{Error, PageSize, Result, Salts};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};

/// One damaged frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The frame, from 1; 0 stands for the header of the log.
    pub frame: u32,
    /// What is wrong with it.
    pub what: Fault,
    /// Whether it is certain that acknowledged data is concerned.
    pub certain: bool,
}

/// A log and its companion as they were found.
#[derive(Debug, Clone)]
pub struct Findings {
    /// The files.
    pub files: FileSet,
    /// The log; `None` if there is no such file.
    pub scan: Option<Scan>,
    /// The companion; `None` if there is no such file.
    pub meta: Option<CompanionState>,
    /// Where the log comes from.
    pub origin: Origin,
    /// The last frame that is known to be durable; 0 where nothing is known of this log.
    pub durable_frame: u32,
    /// The last frame that is known to be durable from elsewhere.
    protected: u32,
    /// The log holds other content at the durable frame than was acknowledged.
    pub other_history: bool,
    /// Damaged frames, ascending.
    pub damage: Vec<Damage>,
    /// Frames behind the damage that are valid when seeded from the stored checksum before them.
    pub frames_behind: u32,
    /// Whole commits among them.
    pub commits_behind: u32,
    /// Commits that would be lost if the log were cut at the break.
    pub lost_commits: u32,
    synced_every_commit: bool,
    /// The header is of the generation before the one that the companion speaks of.
    stale_header: bool,
}

impl Findings {
    /// Reads a log and its companion. `page_size` is the database's; `live` says that a store is writing to
    /// the log right now, so that nothing behind the watermark means anything.
    ///
    /// # Errors
    /// Only I/O errors: damage is a finding.
    pub fn gather(
        vfs: &dyn Vfs,
        files: &FileSet,
        db: &dyn VfsFile,
        page_size: PageSize,
        synced_every_commit: bool,
        live: bool,
    ) -> Result<Self> {
        let meta = CompanionState::read(vfs, &files.meta)?;
        let limit = live.then(|| {
            meta.as_ref()
                .and_then(|meta| meta.watermark.as_ref())
                .map_or(0, |mark| mark.frame)
        });
        let salts = meta
            .as_ref()
            .and_then(|meta| meta.generation)
            // All zeros stand for a log that was left, not for salts; what was left may still be there.
            .map(|generation| [generation.salts, generation.previous])
            .and_then(|salts| salts.into_iter().find(|salts| *salts != Salts::default()));
        let mut stale_header = false;
        let scan = match vfs.open(&files.wal, OpenFlags::READ) {
            Ok(file) => {
                let hints = ScanHints {
                    page_size,
                    salts,
                    limit,
                    stale_header,
                };
                let scan = Scan::read(&*file, hints)?;
                stale_header = meta.as_ref().is_some_and(|meta| is_stale(meta, &scan));
                Some(match stale_header {
                    true => Scan::read(
                        &*file,
                        ScanHints {
                            stale_header,
                            ..hints
                        },
                    )?,
                    false => scan,
                })
            }
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let origin = match &meta {
            Some(meta) if stale_header => known(meta),
            Some(meta) => match origin(meta, scan.as_ref()) {
                Some(origin) => origin,
                None => Origin::Replaced(whereabouts(vfs, files, db, page_size, meta, scan.as_ref())?),
            },
            None => Origin::NoRecord,
        };
        let mut findings = Self {
            files: files.clone(),
            scan,
            meta,
            origin,
            durable_frame: 0,
            protected: 0,
            other_history: false,
            damage: Vec::new(),
            frames_behind: 0,
            commits_behind: 0,
            lost_commits: 0,
            synced_every_commit,
            stale_header,
        };
        findings.judge();
        Ok(findings)
    }

    /// Takes into account that the frames up to `frame` are known to be durable from elsewhere than the companion:
    /// after a power loss its watermark can be older than they are. Of another program's log nothing is known.
    #[must_use]
    pub fn protected_upto(mut self, frame: u32) -> Self {
        if frame > self.durable_frame && self.origin.is_known() {
            self.protected = frame;
            self.damage.clear();
            self.judge();
        }
        self
    }

    fn judge(&mut self) {
        let Some(scan) = &self.scan else { return };
        let mark = self.meta.as_ref().and_then(|meta| {
            let salts = match self.stale_header {
                true => meta.generation?.salts,
                false => scan.salts()?,
            };
            meta.watermark_of(salts)
        });
        if self.origin.is_known()
            && let Some(mark) = mark
        {
            self.durable_frame = mark.frame;
            let stored = scan.slot(mark.frame).map(|slot| slot.header.checksum);
            let intact = mark.frame <= scan.valid_frames;
            self.other_history = mark.frame > 0 && intact && stored != Some(mark.checksum);
        }
        self.durable_frame = self.durable_frame.max(self.protected);
        if self.origin == Origin::ResetPending {
            return;
        }
        let behind = scan.last_commit_behind().unwrap_or(0);
        // With a watermark of the last one to write, what a crash can leave behind it is no damage.
        let far = self.origin != Origin::Known || behind > self.crash_reach();
        let reach = if far { behind } else { 0 }.max(self.durable_frame);
        let header_bad = scan.header == HeaderState::Invalid;
        // The header is synced before the first frame, so under a bad one even an unacknowledged frame is damage.
        if reach > scan.valid_frames || self.other_history || (header_bad && self.origin.is_known()) {
            // Once there is damage, all that lies behind it is worth telling.
            let reach = reach.max(behind);
            if header_bad {
                self.damage.push(Damage {
                    frame: 0,
                    what: Fault::Header,
                    certain: self.origin.is_known() || self.synced_every_commit,
                });
            }
            // Of frames that are not there at all, the first one says enough.
            let last = reach.min(
                u32::try_from(scan.slots.len())
                    .unwrap_or(u32::MAX)
                    .saturating_add(1),
            );
            // Without a header, nothing can be said of frame 1.
            for frame in scan.valid_frames + 1 + u32::from(header_bad)..=last {
                if let Some(what) = scan.fault(frame) {
                    let certain = frame <= self.durable_frame
                        || self.synced_every_commit
                        || self.origin == Origin::Known;
                    self.damage.push(Damage { frame, what, certain });
                }
            }
            if self.other_history {
                let frame = self.durable_frame;
                self.damage.push(Damage {
                    frame,
                    what: Fault::StoredChecksum,
                    certain: true,
                });
            }
            (self.frames_behind, self.commits_behind) = scan.count_behind();
        }
        self.lost_commits = self.commits_between(scan.committed_frames, reach.max(behind));
    }

    /// The furthest frame that a crash can leave written: two batches behind the last frame that was synced.
    /// After a power loss the watermark may be older than that; but what was synced is unbroken, so if the
    /// break is no damage, then everything up to it was.
    pub(super) fn crash_reach(&self) -> u32 {
        let committed = self.scan.as_ref().map_or(0, |scan| scan.committed_frames);
        let generation = self.meta.as_ref().and_then(|meta| meta.generation);
        let largest = generation.map_or(0, |generation| generation.largest_batch);
        self.durable_frame
            .max(committed)
            .saturating_add(largest.saturating_mul(2))
    }

    /// Commits that end in `(after, upto]`. In a log of SQLite's, a commit frame that repeats the one before it
    /// pads a sector; in one of walmend's it is a commit of its own.
    fn commits_between(&self, after: u32, upto: u32) -> u32 {
        let Some(scan) = &self.scan else { return 0 };
        let padded = !self.origin.is_known();
        let ends = (after + 1..=upto)
            .filter(|frame| scan.ends_transaction(*frame) && !(padded && scan.repeats_commit(*frame)));
        u32::try_from(ends.count()).unwrap_or(u32::MAX)
    }

    /// The facts that the decision depends on.
    pub fn facts(&self) -> Facts {
        let Some(scan) = &self.scan else {
            return Facts {
                header: HeaderFact::Absent,
                origin: self.origin,
                covers_durable: true,
                behind: Behind::Nothing,
                tail: false,
                synced_every_commit: self.synced_every_commit,
            };
        };
        let behind = match scan.last_commit_behind() {
            None => Behind::Nothing,
            Some(frame) if self.origin == Origin::Known && frame <= self.crash_reach() => Behind::Near,
            Some(_) => Behind::Far,
        };
        Facts {
            header: match scan.header {
                HeaderState::Absent => HeaderFact::Absent,
                HeaderState::Ok(_) => HeaderFact::Ok,
                HeaderState::Invalid => HeaderFact::Invalid,
                HeaderState::UnsupportedVersion(_) => HeaderFact::Unsupported,
            },
            origin: self.origin,
            covers_durable: scan.committed_frames >= self.durable_frame && !self.other_history,
            behind,
            tail: scan.last_of_generation > scan.committed_frames || scan.partial_of_generation,
            synced_every_commit: self.synced_every_commit,
        }
    }
}

/// Whether the header of the log is of the generation before the one that has acknowledged commits. A new header is
/// synced before the first frame behind it: a device that answers the old one again has lost writes, and by the old
/// salts those commits would look like a reset that did not come to its end.
fn is_stale(meta: &CompanionState, scan: &Scan) -> bool {
    let (Some(generation), Some(header)) = (meta.generation, scan.header.ok()) else {
        return false;
    };
    let known = generation.salts != Salts::default() && generation.previous != Salts::default();
    let acknowledged = meta
        .watermark_of(generation.salts)
        .is_some_and(|mark| mark.frame > 0);
    known && acknowledged && header.salts == generation.previous
}

/// The origin of a log that the companion knows: nobody is the owner after a close in good order; a killed store is
/// still named.
fn known(meta: &CompanionState) -> Origin {
    match meta.owner.as_ref().is_some_and(|owner| owner.pid == 0) {
        true => Origin::GivenUp,
        false => Origin::Known,
    }
}

/// Where the log comes from, as far as salts tell; `None` if it is not the one that the companion knows.
fn origin(meta: &CompanionState, scan: Option<&Scan>) -> Option<Origin> {
    let generation = match (meta.generation, &meta.watermark) {
        (Some(generation), _) => generation,
        (None, Some(mark)) => Generation {
            salts: mark.salts,
            ..Generation::default()
        },
        (None, None) => return Some(Origin::NoRecord),
    };
    let mark = meta.watermark_of(generation.salts).map_or(0, |mark| mark.frame);
    let log_emptied = generation.salts == Salts::default();
    let Some((scan, salts)) = scan.and_then(|scan| Some((scan, scan.salts()?))) else {
        // Nothing there: as it should be after the log was emptied, or before its first frame.
        return (log_emptied || mark == 0).then_some(Origin::ResetPending);
    };
    if salts == generation.salts && !log_emptied {
        return Some(known(meta));
    }
    if salts == generation.previous && scan.committed_frames <= generation.previous_frames {
        return Some(Origin::ResetPending);
    }
    // The reset stopped within the header. Most slots may then be of a generation older still, but no slot is of
    // the new one, and the first one is of the one that was reset.
    let first = scan.slot(1).map(|slot| slot.header.salts);
    if scan.header == HeaderState::Invalid && mark == 0 && first == Some(generation.previous) {
        return Some(Origin::ResetPending);
    }
    // The newest generation record is lost, but the watermark knows the log.
    if meta.watermark_of(salts).is_some_and(|mark| mark.frame > 0) {
        return Some(known(meta));
    }
    // Another program began a log of its own after ours was emptied: that is what emptying is for.
    log_emptied.then_some(Origin::NoRecord)
}
