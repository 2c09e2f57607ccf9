//! Power cuts of a whole virtual machine. `cargo xtask power` builds what it needs and starts it.
//!
//! ```text
//! power run --kernel K --initramfs I --walmend W --dir D [...]    on the machine at hand, as root
//! power worker ENGINE PAGES LOG WRITERS SEED                      in the virtual one
//! ```
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that talks to a person"
)]

mod after;
mod database;
mod machine;
mod report;
mod settings;
mod sqlite;
mod without_syncs;
mod worker;

use after::{DATABASE, Mounted};
use report::{Phase, Report};
use settings::{Settings, Work};
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use walmend_proof::Random;
use walmend_proof::power::{Event, Expected, Images, Loss, Recording};

/// Where the machine has its disk.
const DISK: &str = "/disk";
/// Failed images that are kept.
const KEPT: u64 = 5;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = args
        .split_first()
        .map_or(("", &args[..]), |(first, rest)| (first, rest));
    let done = match command {
        "worker" => Work::from_words(rest).and_then(|work| {
            let why = worker::work(&work, &Path::new(DISK).join(DATABASE));
            worker::say(&format!("failed: {}", why.replace('\n', " ")));
            Err(why)
        }),
        "run" => Settings::parse(rest).and_then(|settings| {
            let done = run(&settings);
            // Whatever matters was copied out of it.
            let _ = fs::remove_dir_all(&settings.scratch);
            done
        }),
        _ => Err("`run` or `worker`; see `cargo xtask help`".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let dir = &settings.dir;
    for folder in [dir, &settings.scratch] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let start = settings.scratch.join("start.img");
    make_disk(settings, &start)?;
    let mut random = Random(settings.work.seed);
    let mut expected = Expected::new(settings.work.groups);
    let mut report = Report::new(settings);
    for life in 1..=settings.lives {
        let recording = dir.join(format!("life-{life}.recording"));
        let disk = settings.scratch.join("disk.img");
        copy(&start, &disk)?;
        if let Err(error) = machine::live(settings, random.next(), &disk, &recording) {
            copy(&start, &dir.join(format!("failed-{life}-start.img")))?;
            return report.machine_failed(life, &error);
        }
        fs::remove_file(&disk).map_err(text)?;
        let recorded = Recording::load(&recording).map_err(text)?;
        expected = cuts(
            settings,
            life,
            &recorded,
            &start,
            expected,
            &mut random,
            &mut report,
        )?;
        if report.failed() == 0 {
            fs::remove_file(&recording).map_err(text)?;
        }
    }
    report.finish()
}

/// Cuts the power at points of one recording; leaves in `start` the disk on which the next life begins, and answers
/// what is known of that one.
fn cuts(
    settings: &Settings,
    life: u64,
    recording: &Recording,
    start: &Path,
    mut expected: Expected,
    random: &mut Random,
    report: &mut Report,
) -> Result<Expected, String> {
    let text = |error: std::io::Error| error.to_string();
    expected = expected.before(recording.events.iter().filter_map(|event| match event {
        Event::Said(line) => Some(line.as_str()),
        _ => None,
    }));
    let points = points(recording, settings.cuts, random);
    let next = random.below(points.len() as u64) as usize;
    let image = settings.scratch.join("cut.img");
    let kept = settings.scratch.join("next.img");
    let mut images = Images::new(recording, start, sector(settings));
    let mut heard = 0;
    let mut phase = Phase::Opening;
    let mut begins_with = expected.clone();
    for (cut, point) in points.into_iter().enumerate() {
        for event in &recording.events[heard..point] {
            if let Event::Said(line) = event {
                expected.hear(line);
                phase = phase.after(line);
            }
        }
        heard = point;
        let loss = Loss::draw(random);
        let losses = images.cut(point, loss, random, &image).map_err(text)?;
        if cut == next {
            copy(&image, &kept)?;
            begins_with = expected.clone();
        }
        let unseen = settings.scratch.join("unseen.img");
        copy(&image, &unseen)?;
        let after = after::look(settings, &image, &expected, random.one_in(2));
        report.add(life, point, phase, &expected, loss, losses, &after)?;
        if !after.problems.is_empty() && report.failed() <= KEPT {
            copy(&unseen, &settings.dir.join(format!("failed-{life}-{point}.img")))?;
        }
    }
    report.life(life, recording);
    fs::rename(&kept, start).map_err(text)?;
    Ok(begins_with)
}

/// After which events to cut, in their order: a third of them before the machine is at work, where there is a disk to
/// recover; always right after a request to the disk or an answer, not only after a line.
fn points(recording: &Recording, count: u64, random: &mut Random) -> Vec<usize> {
    let said = |word: &str| {
        let is_it = |event: &Event| matches!(event, Event::Said(line) if line == word);
        recording.events.iter().position(is_it)
    };
    let ready = said("ready").unwrap_or(0) as u64;
    let all = recording.events.len() as u64;
    let mut points: Vec<usize> = (0..count)
        .map(|cut| match cut % 3 {
            0 => 1 + random.below(ready),
            _ => 1 + ready + random.below(all - ready),
        })
        .map(|point| usize::try_from(point.min(all)).unwrap_or(usize::MAX))
        .collect();
    points.sort_unstable();
    points
}

/// What the disk writes whole. A page is larger, and a frame of the log lies across two of either. XFS cannot be mounted
/// where a block of a B-tree was torn, and its recovery does not mend it.
fn sector(settings: &Settings) -> usize {
    match settings.file_system.as_str() {
        "xfs" => 4096,
        _ => 512,
    }
}

/// An empty file system, or one with an SQLite database in which every row is at version 0.
fn make_disk(settings: &Settings, image: &Path) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    // The smallest that each of them makes.
    let (megabytes, options): (u64, &[&str]) = match settings.file_system.as_str() {
        "ext4" => (64, &["-q", "-F", "-J", "size=4"]),
        "xfs" => (300, &["-q", "-f", "-s", "size=4096"]),
        "btrfs" => (128, &["-q", "-f"]),
        other => return Err(format!("no file system `{other}`: ext4, xfs or btrfs")),
    };
    let file = fs::File::create(image).map_err(text)?;
    file.set_len(megabytes << 20).map_err(text)?;
    drop(file);
    let mkfs = format!("mkfs.{}", settings.file_system);
    after::run(Command::new(mkfs).args(options).arg(image))?;
    if settings.work.pages == database::Pages::Sqlite {
        let mounted = Mounted::new(settings, image, "rw")?;
        let db = mounted.file(DATABASE);
        database::make(&db, settings.work.groups).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    after::run(Command::new("cp").arg("--sparse=auto").arg("--").args([from, to]))
}
