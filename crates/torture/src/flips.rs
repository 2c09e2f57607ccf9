//! Bits that flip in files that nobody has open: no more than parity can mend, or far more.

use crate::files::{SUFFIXES, with};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use walmend_proof::Random;
use walmend_repair::{HealPlan, ProtectedDatabase, ReedSolomon, SidecarIndex, wal_sidecar_path};
use walmend_types::PageNumber;
use walmend_vfs::{OpenFlags, UnixVfs, Vfs};
use walmend_wal::{FileSet, frame_offset, frame_size};

/// What was done to the files of a database.
#[derive(Debug, Default)]
pub(crate) struct Strike {
    /// File, offset and bit of each flip, or what else was done, for the record.
    pub(crate) done: Vec<String>,
    /// Frames of the log, or pages of the database, that must be found damaged.
    pub(crate) hit: u64,
    /// Pages of the database file are among them: they have to be healed before the store is opened.
    pub(crate) in_database: bool,
}

/// Flips bits that lose nothing: no more frames of a group, and pages of a stripe, than there is parity for; one bit of the log's
/// header, or of the companion; any bits of the parity, if nothing else has to be mended with it. `closed` says that the
/// database was closed in good order: after a kill in the middle of a checkpoint its parity may cover less.
///
/// # Errors
/// I/O errors.
pub(crate) fn within_parity(db: &Path, random: &mut Random, closed: bool) -> Result<Strike, String> {
    let mut strike = Strike::default();
    match random.below(6) {
        0 => strike.anywhere(&with(db, "-wal-fec"), 1 + random.below(20), random)?,
        1 => strike.anywhere(&with(db, "-fec"), 1 + random.below(20), random)?,
        2 => {
            // In one of its five records.
            let at = random.below(5) * 4096 + random.below(256);
            strike.bits(&with(db, "-wal-meta"), &[(at, random.below(8))])?;
        }
        3 => {
            strike.frames(db, 1 + random.below(3), random)?;
            // The first 32 bytes of the log, if there is parity that knows them.
            if strike.hit > 0 {
                let at = random.below(32);
                strike.bits(&with(db, "-wal"), &[(at, random.below(8))])?;
            }
        }
        _ => {
            strike.frames(db, 1 + random.below(24), random)?;
            if closed {
                strike.pages(db, 1 + random.below(24), random)?;
            }
        }
    }
    Ok(strike)
}

/// Damages one of database, log and companion, and perhaps its parity too, beyond anything that can be mended.
///
/// # Errors
/// I/O errors.
pub(crate) fn beyond_parity(db: &Path, random: &mut Random) -> Result<Strike, String> {
    let mut strike = Strike::default();
    let mut files = vec![with(db, random.pick::<&str>(&SUFFIXES[..3]))];
    if random.one_in(2) {
        files.push(with(db, random.pick::<&str>(&SUFFIXES[3..])));
    }
    for file in files {
        strike.wreck(&file, random)?;
    }
    Ok(strike)
}

impl Strike {
    /// Flips these bits as a failing disk does: the file gets no other time of change.
    fn bits(&mut self, path: &Path, bits: &[(u64, u64)]) -> Result<(), String> {
        if !path.exists() {
            return Ok(());
        }
        let len = fs::metadata(path).map_err(|error| error.to_string())?.len();
        keeping_time(path, |file| {
            for (offset, bit) in bits.iter().filter(|(offset, _)| *offset < len) {
                let mut byte = [0];
                file.read_exact_at(&mut byte, *offset)?;
                file.write_all_at(&[byte[0] ^ 1 << bit], *offset)?;
                self.done
                    .push(format!("{} byte {offset} bit {bit}", path.display()));
            }
            Ok(())
        })
    }

    fn anywhere(&mut self, path: &Path, count: u64, random: &mut Random) -> Result<(), String> {
        let len = fs::metadata(path).map_or(0, |metadata| metadata.len());
        let bits: Vec<_> = (0..count).map(|_| (random.below(len), random.below(8))).collect();
        self.bits(path, &bits)
    }

    /// One bit in each of up to `wanted` frames.
    fn frames(&mut self, db: &Path, wanted: u64, random: &mut Random) -> Result<(), String> {
        let vfs = UnixVfs::new();
        let failed = |error: walmend::Error| error.to_string();
        let (log, sidecar) = (with(db, "-wal"), wal_sidecar_path(db));
        if !log.exists() || !sidecar.exists() {
            return Ok(());
        }
        let (log_file, file) = (
            vfs.open(&log, OpenFlags::READ).map_err(failed)?,
            vfs.open(&sidecar, OpenFlags::READ).map_err(failed)?,
        );
        let index = SidecarIndex::scan(&*file).map_err(failed)?;
        let plan = HealPlan::make(&*log_file, &*file, &index, &ReedSolomon).map_err(failed)?;
        // Each place for one more bad frame, once.
        let mut places: Vec<_> = index
            .groups
            .iter()
            .map(|group| &group.header)
            .filter(|group| {
                let frames = group.first_frame..=group.last_frame();
                Some(group.salts) == plan.salts && plan.whole.contains(&frames)
            })
            .flat_map(|group| {
                let bearable = usize::from(group.parity).min(group.digests.len());
                std::iter::repeat_n((group.first_frame, group.last_frame(), group.page_size), bearable)
            })
            .collect();
        let mut hit = BTreeMap::new();
        while (hit.len() as u64) < wanted && !places.is_empty() {
            let place = places.swap_remove(random.below(places.len() as u64) as usize);
            let (first, last, page_size) = place;
            let frame = first + random.below(u64::from(last - first) + 1) as u32;
            let offset = frame_offset(frame, page_size) + random.below(frame_size(page_size));
            hit.entry(frame).or_insert((offset, random.below(8)));
        }
        self.hit += hit.len() as u64;
        self.bits(&log, &hit.into_values().collect::<Vec<_>>())
    }

    /// One bit in each of up to `wanted` pages.
    fn pages(&mut self, db: &Path, wanted: u64, random: &mut Random) -> Result<(), String> {
        let known = ProtectedDatabase::read(&UnixVfs::new(), &FileSet::of(db));
        let Some(known) = known.map_err(|error| error.to_string())? else {
            return Ok(());
        };
        let mut hit = BTreeMap::new();
        for (pages, bearable) in known.stripes() {
            let mut pages: Vec<u32> = pages.collect();
            for _ in 0..bearable {
                if hit.len() as u64 == wanted || pages.is_empty() {
                    break;
                }
                let page = pages.swap_remove(random.below(pages.len() as u64) as usize);
                let page = PageNumber::new(page).map_err(|error| error.to_string())?;
                let within = random.below(u64::from(known.page_size.get()));
                hit.insert(page, (page.offset(known.page_size) + within, random.below(8)));
            }
        }
        self.in_database = !hit.is_empty();
        self.hit += hit.len() as u64;
        self.bits(db, &hit.into_values().collect::<Vec<_>>())
    }

    fn wreck(&mut self, path: &Path, random: &mut Random) -> Result<(), String> {
        let Ok(metadata) = fs::metadata(path) else {
            return Ok(());
        };
        let len = metadata.len();
        match random.below(6) {
            0 => {
                let count = 1 + random.below(400);
                self.anywhere(path, count, random)
            }
            1 => self.anywhere(path, 1, random),
            2 => {
                let (at, count) = (random.below(len) / 512 * 512, 512 * (1 + random.below(128)));
                self.done
                    .push(format!("{} zeros at {at} for {count}", path.display()));
                keeping_time(path, |file| {
                    let count = usize::try_from(count.min(len - at)).unwrap_or(0);
                    file.write_all_at(&vec![0; count], at)
                })
            }
            3 => {
                let (at, count) = (random.below(len), 1 + random.below(20_000));
                self.done
                    .push(format!("{} noise at {at} for {count}", path.display()));
                let noise: Vec<u8> = (0..count.min(len - at)).map(|_| random.next() as u8).collect();
                keeping_time(path, |file| file.write_all_at(&noise, at))
            }
            4 if path.extension().is_none_or(|name| name != "db") => {
                self.done.push(format!("{} removed", path.display()));
                fs::remove_file(path).map_err(|error| error.to_string())
            }
            _ => {
                let to = random.below(len);
                self.done.push(format!("{} cut to {to}", path.display()));
                keeping_time(path, |file| file.set_len(to))
            }
        }
    }
}

fn keeping_time(path: &Path, change: impl FnOnce(&File) -> std::io::Result<()>) -> Result<(), String> {
    let work = || {
        let file = File::options().read(true).write(true).open(path)?;
        let modified = file.metadata()?.modified()?;
        change(&file)?;
        file.set_modified(modified)
    };
    work().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))
}

/// All bytes of the files of a database that hold its data.
pub(crate) fn contents(db: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let read = |suffix: &&str| {
        let path = with(db, suffix);
        Ok((path.clone(), crate::files::read(&path)?))
    };
    SUFFIXES[..2].iter().map(read).collect()
}
