//! What a disk may hold after a loss of power.
//!
//! On the medium for certain is what a finished flush is about: the writes that the machine was told of *before* it
//! sent the flush. Of all others that had arrived by then, answered or not, any subset of the sectors may be there;
//! of a sector that was written more than once, any of its states since the last certain one.
//!
//! File systems write their superblock in place, and cannot be mounted if half of it is old: ext4 and btrfs count on a
//! disk that writes 4 KiB whole. So that block is kept or lost as a whole.

use super::recording::{Event, Recording};
use crate::Random;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The blocks, in bytes from the start of the disk, where ext4 and btrfs have their superblock.
const SUPERBLOCKS: [std::ops::Range<u64>; 2] = [0..4096, 65536..69632];

/// Which of the writes that are not certain are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of them.
    All,
    /// None: as if only the machine had been stopped.
    None,
    /// Each sector with this probability, in percent.
    Sectors(u64),
    /// Each write as a whole with this probability, in percent.
    Writes(u64),
    /// A single write.
    One,
    /// All but a single write.
    AllButOne,
}

impl Loss {
    /// One of them.
    pub fn draw(random: &mut Random) -> Self {
        match random.below(8) {
            0 => Self::All,
            1 => Self::None,
            2 | 3 => Self::Sectors(*random.pick(&[5, 50, 95])),
            4 | 5 => Self::Writes(*random.pick(&[5, 50, 95])),
            6 => Self::One,
            _ => Self::AllButOne,
        }
    }
}

/// What became of the writes that were not certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Writes that were not certain.
    pub uncertain: u64,
    /// Sectors of them that were kept.
    pub kept: u64,
    /// Sectors of them that were lost.
    pub lost: u64,
}

/// The disk at one point of a recording after the other; the points must not go back.
#[derive(Debug)]
pub struct Images<'a> {
    recording: &'a Recording,
    /// Bytes that the disk writes whole or not at all.
    sector: usize,
    /// The disk as of the first [`applied`](Self::applied) events.
    base: PathBuf,
    applied: usize,
    /// When the machine was told of a write, by its number.
    written: HashMap<u64, usize>,
    /// Of each flush that finished: when it did, and when it had arrived.
    flushes: Vec<(usize, usize)>,
}

impl<'a> Images<'a> {
    /// `base` is the disk at the beginning of the recording; it is changed. A `sector`, in bytes, is written whole or
    /// not at all.
    pub fn new(recording: &'a Recording, base: &Path, sector: usize) -> Self {
        let mut written = HashMap::new();
        let mut arrived = HashMap::new();
        let mut flushes = Vec::new();
        for (place, event) in recording.events.iter().enumerate() {
            match event {
                Event::Written(id) => drop(written.insert(*id, place)),
                Event::Flush(id) => drop(arrived.insert(*id, place)),
                Event::Flushed(id) => flushes.extend(arrived.get(id).map(|arrived| (place, *arrived))),
                Event::Write { .. } | Event::Said(_) => {}
            }
        }
        Self {
            recording,
            sector,
            base: base.to_path_buf(),
            applied: 0,
            written,
            flushes,
        }
    }

    /// Makes `image` the disk after a loss of power right after the first `events` events.
    ///
    /// # Errors
    /// Of reading and writing; `InvalidInput` if the point lies before that of the call before.
    pub fn cut(
        &mut self,
        events: usize,
        loss: Loss,
        random: &mut Random,
        image: &Path,
    ) -> io::Result<Losses> {
        let certain = self.certain(events);
        let base = OpenOptions::new().write(true).open(&self.base)?;
        let recording = self.recording;
        // What nothing can undo any more goes into the base once and for all.
        while self.applied < events {
            match &recording.events[self.applied] {
                Event::Write { id, .. } if !self.is_certain(*id, certain) => break,
                event => self.apply(event, &base, |_| true)?,
            }
            self.applied += 1;
        }
        let rest = recording
            .events
            .get(self.applied..events)
            .ok_or(io::ErrorKind::InvalidInput)?;
        copy(&self.base, image)?;
        let image = OpenOptions::new().write(true).open(image)?;
        let uncertain = rest
            .iter()
            .filter(|event| matches!(event, Event::Write { id, .. } if !self.is_certain(*id, certain)))
            .count() as u64;
        let chosen = random.below(uncertain);
        let mut losses = Losses::default();
        for event in rest {
            let Event::Write { id, offset, .. } = event else {
                continue;
            };
            if self.is_certain(*id, certain) {
                self.apply(event, &image, |_| true)?;
                continue;
            }
            let is_chosen = losses.uncertain == chosen;
            losses.uncertain += 1;
            let is_superblock = |block: &std::ops::Range<u64>| block.contains(offset);
            let whole = match loss {
                Loss::Sectors(percent) if SUPERBLOCKS.iter().any(is_superblock) => {
                    Some(random.below(100) >= percent)
                }
                Loss::All => Some(false),
                Loss::None => Some(true),
                Loss::Writes(percent) => Some(random.below(100) >= percent),
                Loss::One => Some(!is_chosen),
                Loss::AllButOne => Some(is_chosen),
                Loss::Sectors(_) => None,
            };
            self.apply(event, &image, |_| {
                let keep = match (whole, loss) {
                    (None, Loss::Sectors(percent)) => random.below(100) >= percent,
                    (whole, _) => whole.unwrap_or(true),
                };
                *if keep { &mut losses.kept } else { &mut losses.lost } += 1;
                keep
            })?;
        }
        Ok(losses)
    }

    /// What the machine was told of before this event is on the medium after the first `events` events.
    fn certain(&self, events: usize) -> usize {
        let finished = self.flushes.iter().take_while(|(flushed, _)| *flushed < events);
        finished.map(|(_, arrived)| *arrived).max().unwrap_or(0)
    }

    fn is_certain(&self, id: u64, certain: usize) -> bool {
        self.written.get(&id).is_some_and(|written| *written < certain)
    }

    fn apply(&self, event: &Event, to: &File, mut keep: impl FnMut(usize) -> bool) -> io::Result<()> {
        let Event::Write { offset, len, at, .. } = event else {
            return Ok(());
        };
        let bytes = self.recording.bytes(*at, *len)?;
        for (number, sector) in bytes.chunks(self.sector).enumerate() {
            if keep(number) {
                to.write_all_at(sector, offset + (number * self.sector) as u64)?;
            }
        }
        Ok(())
    }
}

/// Copies a file, its holes as holes.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut cp = std::process::Command::new("cp");
    let status = cp.arg("--sparse=auto").arg("--").args([from, to]).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("cp ended with {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::recording::Recorder;
    use super::*;
    use std::fs;

    /// Behind the first block, which is never torn.
    const START: usize = 4096;
    const AT: u64 = START as u64;
    const SECTOR: usize = 512;

    struct Bench {
        folder: tempfile::TempDir,
    }

    impl Bench {
        /// A disk of zeros.
        fn new() -> Self {
            let bench = Self {
                folder: tempfile::tempdir().unwrap(),
            };
            fs::write(bench.path("base"), [0; START + 4 * SECTOR]).unwrap();
            bench
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn record(&self, what: impl FnOnce(&mut Recorder) -> io::Result<()>) -> Recording {
            let mut recorder = Recorder::create(&self.path("recording")).unwrap();
            what(&mut recorder).unwrap();
            recorder.finish().unwrap();
            Recording::load(&self.path("recording")).unwrap()
        }

        /// The first byte of each of four sectors after a cut.
        fn cut(&self, images: &mut Images<'_>, events: usize, loss: Loss, seed: u64) -> [u8; 4] {
            let image = self.path("image");
            images.cut(events, loss, &mut Random(seed), &image).unwrap();
            let bytes = fs::read(image).unwrap();
            [0, 1, 2, 3].map(|sector| bytes[START + sector * SECTOR])
        }
    }

    fn sector(byte: u8) -> [u8; SECTOR] {
        [byte; SECTOR]
    }

    #[test]
    fn only_what_was_answered_before_a_finished_flush_arrived_is_certain() {
        let bench = Bench::new();
        let recording = bench.record(|disk| {
            disk.write(1, AT, &sector(1))?;
            disk.written(1)?;
            disk.write(2, AT + 512, &sector(2))?;
            disk.flush(3)?;
            disk.written(2)?;
            disk.write(4, AT + 1024, &sector(4))?;
            disk.written(4)?;
            disk.flushed(3)
        });
        let mut images = Images::new(&recording, &bench.path("base"), SECTOR);
        assert_eq!(bench.cut(&mut images, 0, Loss::None, 1), [0, 0, 0, 0]);
        assert_eq!(bench.cut(&mut images, 1, Loss::None, 1), [1, 0, 0, 0]);
        assert_eq!(bench.cut(&mut images, 7, Loss::All, 1), [0, 0, 0, 0]);
        assert_eq!(bench.cut(&mut images, 7, Loss::None, 1), [1, 2, 4, 0]);
        assert_eq!(bench.cut(&mut images, 8, Loss::All, 1), [1, 0, 0, 0]);
        assert_eq!(bench.cut(&mut images, 8, Loss::None, 1), [1, 2, 4, 0]);
    }

    #[test]
    fn of_a_sector_written_again_any_state_since_the_certain_one_may_be_there() {
        let bench = Bench::new();
        let recording = bench.record(|disk| {
            disk.write(1, AT, &sector(1))?;
            disk.written(1)?;
            disk.flush(2)?;
            disk.flushed(2)?;
            disk.write(3, AT, &sector(3))?;
            disk.write(4, AT, &sector(4))
        });
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            fs::write(bench.path("base"), [0; START + 4 * SECTOR]).unwrap();
            let mut images = Images::new(&recording, &bench.path("base"), SECTOR);
            seen.insert(bench.cut(&mut images, 6, Loss::Sectors(50), seed)[0]);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 3, 4]);
    }

    #[test]
    fn a_certain_write_covers_an_earlier_one_that_is_not() {
        let bench = Bench::new();
        let recording = bench.record(|disk| {
            disk.write(1, AT, &sector(1))?;
            disk.write(2, AT, &sector(2))?;
            disk.written(2)?;
            disk.flush(3)?;
            disk.flushed(3)?;
            disk.written(1)
        });
        let mut images = Images::new(&recording, &bench.path("base"), SECTOR);
        assert_eq!(bench.cut(&mut images, 6, Loss::None, 1), [2, 0, 0, 0]);
        assert_eq!(bench.cut(&mut images, 6, Loss::All, 1), [2, 0, 0, 0]);
    }

    #[test]
    fn a_write_can_be_torn_between_its_sectors_and_one_write_alone_can_be_lost_or_kept() {
        let bench = Bench::new();
        let recording = bench.record(|disk| {
            disk.write(1, AT, &[sector(1), sector(2)].concat())?;
            disk.write(2, AT + 1024, &sector(3))?;
            disk.write(3, AT + 1536, &sector(4))
        });
        let mut images = Images::new(&recording, &bench.path("base"), SECTOR);
        let all =
            |images: &mut Images<'_>, loss| (0..100).map(|seed| bench.cut(images, 3, loss, seed)).collect();
        let torn: Vec<[u8; 4]> = all(&mut images, Loss::Sectors(50));
        assert!(torn.iter().any(|[first, second, ..]| *first == 0 && *second == 2));
        let one: Vec<[u8; 4]> = all(&mut images, Loss::One);
        assert!(one.contains(&[0, 0, 3, 4]) && one.contains(&[1, 2, 3, 0]));
        let but_one: Vec<[u8; 4]> = all(&mut images, Loss::AllButOne);
        assert!(but_one.contains(&[1, 2, 0, 0]) && but_one.contains(&[0, 0, 0, 4]));
    }

    #[test]
    fn a_superblock_is_not_torn() {
        let bench = Bench::new();
        let recording = bench.record(|disk| disk.write(1, 1024, &[sector(1), sector(2)].concat()));
        let mut images = Images::new(&recording, &bench.path("base"), SECTOR);
        for seed in 0..50 {
            bench.cut(&mut images, 1, Loss::Sectors(50), seed);
            let bytes = fs::read(bench.path("image")).unwrap();
            assert!(
                matches!([bytes[1024], bytes[1536]], [0, 0] | [1, 2]),
                "seed {seed}"
            );
        }
    }
}
