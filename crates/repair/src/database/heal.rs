//! Healing a database: the only step that writes to it.

use super::check::{Examined, Examiner, Wrong};
use super::layout::FORMAT;
use super::members::{Stripe, StripePages};
use super::standing::{Finding, Now, Standing, unsettled};
use super::state::{Found, Sidecar, State};
use super::window::Window;
use super::work::{Work, pause};
use crate::codec::Codec;
use crate::record::{HEAD, RecordHead, RecordState, put_record, record_len};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use walmend_sync::Mutex;
use walmend_types::{Error, PageNumber, PageSize, Result, SyncMode};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::{ExpectedPage, FileSet, PageDigest, PageVerdict, verify_pages, with_suffix};

const KIND_ASIDE: u8 = 5;
/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// What healing a database did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatabaseHealReport {
    /// Pages that are again what they were when they were protected, ascending.
    pub pages_healed: Vec<u32>,
    /// Damaged pages that could not be rebuilt, ascending.
    pub unhealable: Vec<u32>,
    /// Pages that differ, and nobody can say whether they were damaged or written: they were left alone.
    pub undecided: Vec<u32>,
    /// How many pages were written since they were protected, as the log shows: they were left alone.
    pub written: u32,
    /// Where the damaged pages are kept as they were; `None` if nothing was written.
    pub kept_aside: Option<PathBuf>,
    /// What the protection was worth.
    pub standing: Standing,
    /// Records of the sidecar that are not intact.
    pub bad_records: u32,
}

/// Heals the pages of a database from its sidecar; `None` if there is none. Where nothing is damaged no page is
/// written. With `trust_sidecar`, pages that nobody can judge count as damaged: if another program wrote them since they
/// were protected, that is undone.
///
/// All damaged pages are kept aside before the first one is written. Interrupted anywhere, it can be started again. The log is to be healed first: it tells which pages were
/// written. The caller holds the exclusive lock on the database.
///
/// # Errors
/// [`Error::UnsupportedVersion`] for a sidecar of another version, [`Error::Cancelled`] (what was healed so far
/// stays so), I/O errors; also if the device does not hold what was written. Damage that cannot be healed is no
/// error, but in the report.
pub fn heal_database(
    vfs: &dyn Vfs,
    files: &FileSet,
    codec: &dyn Codec,
    trust_sidecar: bool,
    work: &Work<'_>,
) -> Result<Option<DatabaseHealReport>> {
    let sidecar = match Sidecar::open(vfs, &files.db, OpenFlags::WRITE)? {
        Found::Absent => return Ok(None),
        Found::Unusable => {
            return Ok(Some(DatabaseHealReport {
                pages_healed: Vec::new(),
                unhealable: Vec::new(),
                undecided: Vec::new(),
                written: 0,
                kept_aside: None,
                standing: Standing::Stale,
                bad_records: 1,
            }));
        }
        Found::Sidecar(sidecar) => sidecar,
    };
    let db = vfs.open(&files.db, OpenFlags::WRITE)?;
    let examiner = Examiner::new(vfs, files, &*db, sidecar)?;
    let healer = Healer {
        vfs,
        files,
        codec,
        trust_sidecar,
        work,
        earlier: Earlier::open(vfs, &files.db, examiner.sidecar.state.as_ref())?,
        examiner: &examiner,
        aside: Mutex::new(None),
        healed: Mutex::new(Vec::new()),
    };
    let found = work.each_window(0..examiner.windows()?, |number, window: &mut Window| {
        let examined = examiner.examine(number, window, work)?;
        healer.look(window, examined)
    })?;
    let mut all = Vec::with_capacity(found.len());
    let mut stripes = Vec::new();
    for (outcome, to_heal) in found {
        all.push(outcome);
        stripes.extend(to_heal);
    }
    let aside = healer.aside.lock().take();
    let state = healer.begin(aside.as_ref())?;
    // There are no more than pages.
    let done = work.each_window(0..stripes.len() as u32, |number, pages: &mut StripePages| {
        work.done(0)?;
        healer.heal(stripes[number as usize], pages)
    });
    let healed = std::mem::take(&mut *healer.healed.lock());
    // Also after a failure: what was written is to be durable.
    settle(&*db, examiner.sidecar.layout.page_size, &healed)?;
    all.extend(done?);
    let mut report = DatabaseHealReport {
        pages_healed: healed.iter().map(|page| page.page.get()).collect(),
        unhealable: Vec::new(),
        undecided: Vec::new(),
        written: 0,
        kept_aside: aside.map(|aside| aside.path),
        standing: examiner.standing,
        bad_records: examiner.sidecar.bad_records,
    };
    for outcome in all {
        report.unhealable.extend(outcome.unhealable);
        report.undecided.extend(outcome.undecided);
        report.written += outcome.written;
        report.bad_records += outcome.bad_records;
    }
    for pages in [
        &mut report.pages_healed,
        &mut report.unhealable,
        &mut report.undecided,
    ] {
        pages.sort_unstable();
    }
    let mut sidecar = examiner.sidecar;
    sidecar.state = state;
    stamp(vfs, files, &*db, &mut sidecar, &report)?;
    if !report.pages_healed.is_empty() {
        tracing::warn!(
            target: "walmend::repair::heal",
            database = %files.db.display(),
            healed = report.pages_healed.len(),
            unhealable = report.unhealable.len(),
            "database healed"
        );
    }
    Ok(Some(report))
}

/// Makes the healed pages durable, and reads them back from the device.
pub(super) fn settle(db: &dyn VfsFile, page_size: PageSize, healed: &[ExpectedPage]) -> Result<()> {
    if healed.is_empty() {
        return Ok(());
    }
    db.sync(SyncMode::Full)?;
    let verification = verify_pages(db, page_size, healed)?;
    match verification.verdict {
        PageVerdict::Match => Ok(()),
        PageVerdict::Mismatch { page, .. } => Err(Error::DatabaseCorrupt {
            path: db.path().to_path_buf(),
            page: page.get(),
            detail: "it was rebuilt, written and synced, but something else is there".into(),
        }),
    }
}

/// Records that the healing is over, and, where every page is known to be what it should be, the new stamp of the file.
fn stamp(
    vfs: &dyn Vfs,
    files: &FileSet,
    db: &dyn VfsFile,
    sidecar: &mut Sidecar,
    report: &DatabaseHealReport,
) -> Result<()> {
    let Some(state) = sidecar.state.clone() else {
        return Ok(());
    };
    let healed = !report.pages_healed.is_empty();
    let known = report.undecided.is_empty() && report.written == 0 && state.pending == 0;
    if !healed && state.aside == (0, 0) && (!known || report.standing == Standing::Current) {
        return Ok(());
    }
    let mut next = State {
        aside: (0, 0),
        ..state
    };
    if known {
        let before = Now::look(vfs, files, db)?.stamp;
        pause(unsettled(&before));
        let now = Now::look(vfs, files, db)?;
        next.stamp = now.stamp;
        next.log = now.mark();
        next.settled = now.stamp == before || unsettled(&now.stamp).is_zero();
    }
    sidecar.write_state(next)?;
    sidecar.sync()
}

struct Healer<'a> {
    vfs: &'a dyn Vfs,
    files: &'a FileSet,
    codec: &'a dyn Codec,
    trust_sidecar: bool,
    work: &'a Work<'a>,
    examiner: &'a Examiner<'a>,
    /// What an interrupted healing kept.
    earlier: Option<Earlier>,
    aside: Mutex<Option<Aside>>,
    healed: Mutex<Vec<ExpectedPage>>,
}

/// What became of a window, or of a stripe.
#[derive(Debug, Default)]
struct Outcome {
    unhealable: Vec<u32>,
    undecided: Vec<u32>,
    written: u32,
    bad_records: u32,
}

impl Outcome {
    /// Nothing can be done about these.
    fn add(&mut self, wrong: &[Wrong], trust_sidecar: bool) {
        for wrong in wrong {
            match wrong.finding {
                Finding::Damaged => self.unhealable.push(wrong.page),
                Finding::Undecided if trust_sidecar => self.unhealable.push(wrong.page),
                Finding::Undecided => self.undecided.push(wrong.page),
                Finding::Written => self.written += 1,
            }
        }
    }
}

impl Healer<'_> {
    /// Keeps the pages of a window that are damaged, or may be, as they are: not durable yet. Answers the stripes that have
    /// some; what there is to say of the others is in the outcome.
    fn look(&self, window: &Window, examined: Examined) -> Result<(Outcome, Vec<(u32, u32)>)> {
        let layout = &self.examiner.sidecar.layout;
        let mut outcome = Outcome {
            bad_records: examined.bad_records,
            ..Outcome::default()
        };
        let mut to_heal = Vec::new();
        for (stripe, wrong) in examined.stripes {
            let candidates = wrong.iter().filter(|wrong| self.may_heal(wrong));
            let numbers: Vec<(u32, usize)> = candidates.map(|wrong| (wrong.page, wrong.position)).collect();
            if numbers.is_empty() {
                outcome.add(&wrong, self.trust_sidecar);
                continue;
            }
            let pages = window.members(layout, stripe.number);
            for (page, position) in numbers {
                self.keep(page, pages.page(position))?;
            }
            to_heal.push((stripe.window, stripe.number));
        }
        Ok((outcome, to_heal))
    }

    fn may_heal(&self, wrong: &Wrong) -> bool {
        let earlier = self.earlier.as_ref();
        wrong.healable
            && match wrong.finding {
                Finding::Damaged => true,
                Finding::Undecided => {
                    self.trust_sidecar
                        || earlier.is_some_and(|earlier| earlier.pages.contains_key(&wrong.page))
                }
                Finding::Written => false,
            }
    }

    fn keep(&self, page: u32, found: Option<&[u8]>) -> Result<()> {
        let mut aside = self.aside.lock();
        let aside = match &mut *aside {
            Some(aside) => aside,
            none => none.insert(Aside::create(self.vfs, &self.files.db)?),
        };
        if let Some(found) = found {
            return aside.append(page, found);
        }
        // The file ends in this page, or before it, or it cannot be read.
        let layout = &self.examiner.sidecar.layout;
        let mut before = vec![0; layout.page_size.as_usize()];
        let read = self
            .work
            .read(self.examiner.db, &mut before, layout.page_at(page));
        let read = read.unwrap_or(0);
        aside.append(page, &before[..read])
    }

    /// Makes what is kept durable, and says in the sidecar where it is. Answers the state then.
    fn begin(&self, aside: Option<&Aside>) -> Result<Option<State>> {
        let sidecar = &self.examiner.sidecar;
        let mut state = sidecar.state.clone();
        let Some(aside) = aside else { return Ok(state) };
        aside.file.sync(SyncMode::Full)?;
        if let Some(state) = &mut state {
            state.sequence += 1;
            state.aside = aside.id;
            state.write(&*sidecar.file)?;
            sidecar.sync()?;
        }
        Ok(state)
    }

    /// Heals the pages of a stripe. What there is of them is kept aside.
    fn heal(&self, (window, number): (u32, u32), pages: &mut StripePages) -> Result<Outcome> {
        let Examiner { db, sidecar, .. } = self.examiner;
        let layout = &sidecar.layout;
        let limit = layout.members(window, number, self.examiner.pages());
        let stripe = Stripe::find(sidecar, (window, number), true, &mut Vec::new())?;
        let read = |page: &mut [u8], at| self.work.read(*db, page, at);
        pages.read(read, layout, (window, number), 0..limit);
        let pages = pages.members();
        let wrong = self
            .examiner
            .wrong(&stripe, &pages, &stripe.differing(&pages, limit))?;
        let rebuilt = stripe.rebuild(sidecar, &pages, self.codec)?;
        let mut outcome = Outcome::default();
        for wrong in wrong {
            let right = rebuilt.get(&wrong.position);
            let damaged = match wrong.finding {
                Finding::Damaged => true,
                Finding::Written => {
                    outcome.written += 1;
                    continue;
                }
                Finding::Undecided => {
                    self.trust_sidecar || self.is_left_over(&wrong, pages.page(wrong.position), right)?
                }
            };
            match right {
                _ if !damaged => outcome.undecided.push(wrong.page),
                None => outcome.unhealable.push(wrong.page),
                Some(right) => {
                    db.write_at(right, layout.page_at(wrong.page))?;
                    self.healed.lock().push(ExpectedPage {
                        page: PageNumber::new(wrong.page)?,
                        digest: PageDigest::of(right),
                    });
                }
            }
        }
        Ok(outcome)
    }

    /// Whether a page is what an interrupted healing left: each sector as it was before, or as it is to be.
    fn is_left_over(&self, wrong: &Wrong, found: Option<&[u8]>, rebuilt: Option<&Vec<u8>>) -> Result<bool> {
        let (Some(earlier), Some(rebuilt)) = (&self.earlier, rebuilt) else {
            return Ok(false);
        };
        let Some(before) = earlier.page(wrong.page)? else {
            return Ok(false);
        };
        let Some(found) = found else {
            return Ok(before.len() < rebuilt.len());
        };
        // What was cut off reads as zeros as soon as a later page is written.
        let mut before = before;
        before.resize(rebuilt.len(), 0);
        let sectors = found.chunks(SECTOR).zip(before.chunks(SECTOR));
        let mut sectors = sectors.zip(rebuilt.chunks(SECTOR));
        Ok(sectors.all(|((found, before), rebuilt)| found == before || found == rebuilt))
    }
}

/// The file that keeps damaged pages as they were.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) file: Arc<dyn VfsFile>,
    pub(super) path: PathBuf,
    pub(super) id: (u64, u32),
    end: u64,
}

/// `<db>-damaged-<seconds since 1970>-<n>`.
fn aside_path(db: &Path, (seconds, number): (u64, u32)) -> PathBuf {
    with_suffix(db, &format!("-damaged-{seconds}-{number}"))
}

impl Aside {
    pub(super) fn create(vfs: &dyn Vfs, db: &Path) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.map_or(1, |since| since.as_secs().max(1));
        for number in 0..100 {
            let id = (seconds, number);
            let path = aside_path(db, id);
            if vfs.info(&path)?.is_none() {
                let file = vfs.open(&path, OpenFlags::CREATE_NEW)?;
                return Ok(Self {
                    file,
                    path,
                    id,
                    end: 0,
                });
            }
        }
        Err(Error::Invalid(format!(
            "too many files with damaged pages are kept beside {}",
            db.display()
        )))
    }

    pub(super) fn append(&mut self, page: u32, bytes: &[u8]) -> Result<()> {
        let mut record = Vec::new();
        let mut id = [0; 16];
        id[..4].copy_from_slice(&page.to_be_bytes());
        put_record(&mut record, self.end, &FORMAT, (KIND_ASIDE, 0), id, bytes);
        self.file.write_at(&record, self.end)?;
        self.end += record.len() as u64;
        Ok(())
    }
}

/// What an interrupted healing kept, by page.
#[derive(Debug)]
struct Earlier {
    file: Arc<dyn VfsFile>,
    pages: BTreeMap<u32, (u64, RecordHead)>,
}

impl Earlier {
    fn open(vfs: &dyn Vfs, db: &Path, state: Option<&State>) -> Result<Option<Self>> {
        let Some(state) = state.filter(|state| state.aside != (0, 0)) else {
            return Ok(None);
        };
        let file = match vfs.open(&aside_path(db, state.aside), OpenFlags::READ) {
            Ok(file) => file,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut pages = BTreeMap::new();
        let mut at = 0;
        let mut head = [0; HEAD];
        while file.read_at(&mut head, at)? == HEAD {
            let RecordState::Ok(head) = RecordHead::decode(&FORMAT, &head, at) else {
                break;
            };
            let page = u32::from_be_bytes([head.id[0], head.id[1], head.id[2], head.id[3]]);
            pages.insert(page, (at, head));
            at += record_len(head.body_len);
        }
        Ok(Some(Self { file, pages }))
    }

    fn page(&self, page: u32) -> Result<Option<Vec<u8>>> {
        let Some((at, head)) = self.pages.get(&page) else {
            return Ok(None);
        };
        let mut body = vec![0; head.body_len];
        let read = self.file.read_at(&mut body, at + HEAD as u64)?;
        Ok((read == body.len() && head.matches(&body)).then_some(body))
    }
}
