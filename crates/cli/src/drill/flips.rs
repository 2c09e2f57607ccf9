//! Steps 3 and 4: random bits of the log flip, and then of the database file; `verify` finds them, `heal` mends them,
//! and every byte is as before.

use super::random::Random;
use crate::sidecar::Sidecar;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use walmend_error::{Error, Result};
use walmend_repair::ProtectedDatabase;
use walmend_types::PageNumber;
use walmend_vfs::{OpenFlags, UnixVfs, Vfs};
use walmend_wal::{FileSet, frame_offset, frame_size};

/// The parts of the plan that flips are drawn from.
const IN_LOG: u64 = 0x666c_6970;
const IN_DATABASE: u64 = 0x666c_6971;

/// What is hit, frames or pages by number, and where: an offset in the file and a bit.
type Targets = BTreeMap<u32, (u64, u32)>;

/// What became of the flipped bits.
#[derive(Debug, Default)]
pub(super) struct Flips {
    pub(super) flipped: u32,
    pub(super) found: u32,
    pub(super) healed: u32,
    pub(super) problems: Vec<String>,
}

/// Flips up to `wanted` bits in the log of a database that nobody has open: each in a frame of its own, and in no
/// group more than it has parity for. Fewer where the log does not bear as many.
pub(super) fn in_log(db: &Path, wanted: u32, seed: u64) -> Result<Flips> {
    let vfs = UnixVfs::new();
    let files = FileSet::of(db);
    let targets = frames(&vfs, &files, wanted, &mut Random::new(seed, IN_LOG))?;
    if targets.is_empty() {
        return Ok(Flips::default());
    }
    let log = vfs.open(&files.wal, OpenFlags::READ)?;
    let contents = || -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(log.len()?).unwrap_or(usize::MAX)];
        log.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let before = contents()?;
    strike(&files.wal, &targets)?;
    let verified = walmend("verify", db, 1)?;
    let damage = verified["wal"]["damage"].as_array().into_iter().flatten();
    let found = damage.filter_map(|damage| damage["frame"].as_u64()).collect();
    let healed = numbers(&walmend("heal", db, 0)?["frames_healed"]);
    let mut flips = Flips::new("log", &targets, &found, &healed);
    if contents()? != before {
        flips
            .problems
            .push("the healed log is not what it was before its bits were flipped".into());
    }
    Ok(flips)
}

/// Flips up to `wanted` bits in the file of a protected database that nobody has open: each in a page of its own, and
/// in no stripe more than it has parity for. Fewer where the database does not bear as many. Whether every byte is as
/// before is for the caller to compare.
pub(super) fn in_database(db: &Path, wanted: u32, seed: u64) -> Result<Flips> {
    let known = ProtectedDatabase::read(&UnixVfs::new(), &FileSet::of(db))?;
    let Some(known) = known else {
        return Ok(Flips {
            problems: vec!["the database has no sidecar although its store protects it".into()],
            ..Flips::default()
        });
    };
    let targets = pages(&known, wanted, &mut Random::new(seed, IN_DATABASE))?;
    if targets.is_empty() {
        return Ok(Flips::default());
    }
    strike(db, &targets)?;
    let found = numbers(&walmend("verify", db, 1)?["db_sidecar"]["bad_pages"]);
    let healed = numbers(&walmend("heal", db, 0)?["pages_healed"]);
    Ok(Flips::new("database file", &targets, &found, &healed))
}

impl Flips {
    fn new(place: &str, targets: &Targets, found: &BTreeSet<u64>, healed: &BTreeSet<u64>) -> Self {
        let hit: BTreeSet<u64> = targets.keys().map(|number| u64::from(*number)).collect();
        let count = |set: &BTreeSet<u64>| u32::try_from(hit.intersection(set).count()).unwrap_or(u32::MAX);
        let mut flips = Self {
            flipped: count(&hit),
            found: count(found),
            healed: count(healed),
            problems: Vec::new(),
        };
        if (flips.found, flips.healed) != (flips.flipped, flips.flipped) {
            flips.problems.push(format!(
                "of {} bits flipped in the {place} {} were found, and {} healed",
                flips.flipped, flips.found, flips.healed
            ));
        }
        flips
    }
}

/// Flips the bits as a failing disk does: the file gets no other time of change.
fn strike(path: &Path, targets: &Targets) -> Result<()> {
    let failed = |what, offset| move |error| Error::io(what, path, offset, error);
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed("open", None))?;
    let metadata = file.metadata().map_err(failed("look at", None))?;
    let modified = metadata.modified().map_err(failed("look at", None))?;
    for (offset, bit) in targets.values() {
        let mut byte = [0];
        file.read_exact_at(&mut byte, *offset)
            .map_err(failed("read", Some(*offset)))?;
        file.write_all_at(&[byte[0] ^ 1 << bit], *offset)
            .map_err(failed("write", Some(*offset)))?;
    }
    file.set_modified(modified)
        .map_err(failed("set the time of", None))
}

/// The pages to be hit.
fn pages(known: &ProtectedDatabase, wanted: u32, random: &mut Random) -> Result<Targets> {
    // Nothing is ever stored where SQLite's lock bytes lie.
    let stored = |page: &u32| *page != known.page_size.lock_page();
    // Each place for one more bad page, once.
    let mut places: Vec<_> = known
        .stripes()
        .flat_map(|(pages, bearable)| {
            let bearable = bearable.min(pages.clone().filter(stored).count());
            std::iter::repeat_n(pages, bearable)
        })
        .collect();
    let mut targets = Targets::new();
    while targets.len() < wanted as usize && !places.is_empty() {
        let place = random.within(0, places.len() as u64 - 1);
        let stripe = places.swap_remove(usize::try_from(place).unwrap_or(0));
        let left: Vec<u32> = stripe
            .filter(stored)
            .filter(|page| !targets.contains_key(page))
            .collect();
        let page = left[usize::try_from(random.within(0, left.len() as u64 - 1)).unwrap_or(0)];
        let within = random.within(0, u64::from(known.page_size.get()) - 1);
        let offset = PageNumber::new(page)?.offset(known.page_size) + within;
        targets.insert(page, (offset, u32::try_from(random.within(0, 7)).unwrap_or(0)));
    }
    Ok(targets)
}

/// The frames to be hit.
fn frames(vfs: &UnixVfs, files: &FileSet, wanted: u32, random: &mut Random) -> Result<Targets> {
    let mut targets = Targets::new();
    let Some(sidecar) = Sidecar::examine(vfs, files)? else {
        return Ok(targets);
    };
    let covered: BTreeSet<_> = sidecar
        .plan
        .whole
        .iter()
        .map(|range| (*range.start(), *range.end()))
        .collect();
    let groups = sidecar.index.groups.iter().map(|group| &group.header);
    // Each place for one more bad frame, once.
    let mut places: Vec<(u32, u32, u64)> = groups
        .filter(|group| {
            Some(group.salts) == sidecar.plan.salts
                && covered.contains(&(group.first_frame, group.last_frame()))
        })
        .flat_map(|group| {
            let bearable = usize::from(group.parity).min(group.digests.len());
            let place = (
                group.first_frame,
                group.last_frame(),
                u64::from(group.page_size.get()),
            );
            std::iter::repeat_n(place, bearable)
        })
        .collect();
    while targets.len() < wanted as usize && !places.is_empty() {
        let place = random.within(0, places.len() as u64 - 1);
        let (first, last, page_size) = places.swap_remove(usize::try_from(place).unwrap_or(0));
        let page_size = walmend_types::PageSize::new(u32::try_from(page_size).unwrap_or(0))?;
        loop {
            let frame = u32::try_from(random.within(first.into(), last.into())).unwrap_or(last);
            if targets.contains_key(&frame) {
                continue;
            }
            let offset = frame_offset(frame, page_size) + random.within(0, frame_size(page_size) - 1);
            targets.insert(frame, (offset, u32::try_from(random.within(0, 7)).unwrap_or(0)));
            break;
        }
    }
    Ok(targets)
}

fn numbers(list: &Value) -> BTreeSet<u64> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_u64).collect()
}

/// Runs one of our own commands on `db`, and gives its JSON object.
fn walmend(command: &str, db: &Path, status: i32) -> Result<Value> {
    let program =
        std::env::current_exe().map_err(|error| Error::io("find", "myself".as_ref(), None, error))?;
    let output = Command::new(&program)
        .arg(command)
        .arg(db)
        .arg("--json")
        .output()
        .map_err(|error| Error::io("run", &program, None, error))?;
    if output.status.code() != Some(status) {
        return Err(Error::Invalid(format!(
            "`walmend {command}` ended with {}, where {status} was expected: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        )));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| Error::Internal(format!("`walmend {command} --json` printed no JSON: {error}")))
}
