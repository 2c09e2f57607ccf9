//! Step 3: random bits of the log flip; `verify` finds them, `heal` mends them, and every byte is as before.

use super::random::Random;
use crate::sidecar::Sidecar;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use walmend_error::{Error, Result};
use walmend_vfs::{OpenFlags, UnixVfs, Vfs, VfsFile};
use walmend_wal::{FileSet, frame_offset, frame_size};

/// The part of the plan that flips are drawn from.
const PART: u64 = 0x666c_6970;

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
pub(super) fn run(db: &Path, wanted: u32, seed: u64) -> Result<Flips> {
    let vfs = UnixVfs::new();
    let files = FileSet::of(db);
    let targets = targets(&vfs, &files, wanted, &mut Random::new(seed, PART))?;
    let mut flips = Flips {
        flipped: u32::try_from(targets.len()).unwrap_or(u32::MAX),
        ..Flips::default()
    };
    if targets.is_empty() {
        return Ok(flips);
    }
    let log = vfs.open(&files.wal, OpenFlags::WRITE)?;
    let before = contents(&*log)?;
    for (offset, bit) in targets.values() {
        let mut byte = [0];
        log.read_exact_at(&mut byte, *offset)?;
        log.write_at(&[byte[0] ^ 1 << bit], *offset)?;
    }
    let frames: BTreeSet<u64> = targets.keys().map(|frame| u64::from(*frame)).collect();
    let count = |found: BTreeSet<u64>| u32::try_from(frames.intersection(&found).count()).unwrap_or(u32::MAX);

    let verified = walmend("verify", db, 1)?;
    let damage = verified["wal"]["damage"].as_array();
    flips.found = count(
        damage
            .into_iter()
            .flatten()
            .filter_map(|damage| damage["frame"].as_u64())
            .collect(),
    );
    let healed = walmend("heal", db, 0)?;
    let healed = healed["frames_healed"].as_array();
    flips.healed = count(healed.into_iter().flatten().filter_map(Value::as_u64).collect());

    if (flips.found, flips.healed) != (flips.flipped, flips.flipped) {
        flips.problems.push(format!(
            "of {} flipped bits {} were found, and {} healed",
            flips.flipped, flips.found, flips.healed
        ));
    }
    if contents(&*log)? != before {
        flips
            .problems
            .push("the healed log is not what it was before its bits were flipped".into());
    }
    Ok(flips)
}

/// The frames to be hit, and where: an offset in the log and a bit.
fn targets(
    vfs: &UnixVfs,
    files: &FileSet,
    wanted: u32,
    random: &mut Random,
) -> Result<BTreeMap<u32, (u64, u32)>> {
    let mut targets = BTreeMap::new();
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

fn contents(file: &dyn VfsFile) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
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
