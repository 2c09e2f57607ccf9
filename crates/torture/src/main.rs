//! Real processes under real abuse: `cargo xtask torture`.
//!
//! The parent starts workers, kills them, starves them, flips bits in their files, and after each of them compares what
//! is there with what they said. See `docs/testing.md`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that talks to a person"
)]

mod clock;
mod contender;
mod content;
mod disk;
mod files;
mod flips;
mod life;
mod model;
mod modes;
mod protocol;
mod report;
mod round;
mod soak;
mod worker;

use modes::Mode;
use report::Tally;
use round::Plan;
use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use walmend_proof::Random;

const HELP: &str = "torture [--minutes M | --rounds N] [--modes A,B,...] [--seed S] [--smoke] [--dir D]
torture --round MODE SEED
torture --soak M [--out DIR]

--minutes  rounds of all modes in turn, for so long (5)
--rounds   so many of each mode
--modes    only these: kill, flips, rot, many, full, length, fds, memory, clock, sqlite, drill
--seed     of the whole run (from the clock)
--smoke    short rounds
--dir      where the files are (target/torture)
--round    one round again
--soak     full load for M minutes, with memory, descriptors, threads and files sampled
--out      where the table and the picture of a soak go (the folder of the soak)";

/// A failed round more ends the run.
const MOST_FAILURES: usize = 10;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("worker") => worker::live(),
        Some("contender") => {
            let seed = args.get(2).and_then(|seed| seed.parse().ok()).unwrap_or(0);
            contender::live(args.get(1).map_or(Path::new(""), Path::new), seed);
            Ok(())
        }
        // As the command line tool, and for the drill, which starts this very program.
        Some("verify" | "heal" | "drill" | "drill-child") => {
            return ExitCode::from(walmend_cli::main(std::env::args_os()));
        }
        _ => parent(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parent(args: &[String]) -> Result<(), String> {
    let text = |name: &str| -> Result<Option<&String>, String> {
        match args.iter().position(|arg| arg == name) {
            None => Ok(None),
            Some(at) => args
                .get(at + 1)
                .map(Some)
                .ok_or_else(|| format!("{name} needs a value\n{HELP}")),
        }
    };
    let number = |name: &str| -> Result<Option<u64>, String> {
        let value = text(name)?.map(|value| value.parse());
        value
            .transpose()
            .map_err(|_| format!("{name} needs a number\n{HELP}"))
    };
    let known = [
        "--minutes",
        "--rounds",
        "--modes",
        "--seed",
        "--dir",
        "--round",
        "--soak",
        "--out",
    ];
    let mut words = args.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--smoke" => {}
            "--round" => drop((words.next(), words.next())),
            word if known.contains(&word) => drop(words.next()),
            _ => return Err(HELP.into()),
        }
    }
    let folder = match text("--dir")? {
        Some(folder) => PathBuf::from(folder),
        None => Path::new("target").join("torture"),
    };
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let folder = folder.canonicalize().map_err(|error| error.to_string())?;
    let seed = number("--seed")?.unwrap_or_else(|| RandomState::new().hash_one(0) & 0xffff_ffff);
    if let Some(minutes) = number("--soak")? {
        let out = text("--out")?.map(PathBuf::from);
        return soak::run(&folder, Duration::from_secs(minutes * 60), seed, out.as_deref());
    }
    let mut run = Run {
        folder,
        short: args.iter().any(|arg| arg == "--smoke"),
        tallies: BTreeMap::new(),
        failures: Vec::new(),
    };
    if let Some(name) = text("--round")? {
        let at = args.iter().position(|arg| arg == "--round").unwrap_or(0);
        let mode = Mode::named(name).ok_or(HELP)?;
        let seed = args.get(at + 2).and_then(|seed| seed.parse().ok()).ok_or(HELP)?;
        run.round(mode, seed);
        return run.end(Instant::now(), seed);
    }
    let modes: Vec<Mode> = match text("--modes")? {
        None => Mode::ALL.to_vec(),
        Some(names) => {
            let modes = names.split(',').map(|name| Mode::named(name).ok_or(HELP));
            modes.collect::<Result<_, _>>()?
        }
    };
    let rounds = match (number("--rounds")?, number("--minutes")?, run.short) {
        (Some(rounds), _, _) => Some(rounds),
        (None, None, true) => Some(1),
        _ => None,
    };
    let time = Duration::from_secs(60 * number("--minutes")?.unwrap_or(5));
    let started = Instant::now();
    let mut random = Random(seed);
    println!("seed {seed}, files in {}", run.folder.display());
    'all: for count in 0.. {
        if rounds.is_some_and(|rounds| count == rounds) {
            break;
        }
        for mode in &modes {
            // Seeds stay below 2^48, so that any reader of JSON can carry them.
            run.round(*mode, random.next() >> 16);
            let over = rounds.is_none() && started.elapsed() >= time;
            if over || run.failures.len() > MOST_FAILURES {
                break 'all;
            }
        }
    }
    run.end(started, seed)
}

/// What has come of a run so far.
struct Run {
    folder: PathBuf,
    short: bool,
    tallies: BTreeMap<Mode, Tally>,
    failures: Vec<String>,
}

impl Run {
    /// One round; the folder of one that fails is kept.
    fn round(&mut self, mode: Mode, seed: u64) {
        let folder = self.folder.join(format!("{}-{seed}", mode.name()));
        let tally = self.tallies.entry(mode).or_default();
        if tally.skipped.is_some() {
            return;
        }
        let begun = Instant::now();
        let before = (tally.lives, tally.committed);
        let plan = Plan {
            mode,
            seed,
            short: self.short,
        };
        let _ = fs::remove_dir_all(&folder);
        let done = fs::create_dir_all(&folder)
            .map_err(|error| error.to_string())
            .and_then(|()| round::run(plan, &folder, tally));
        let (lives, commits) = (tally.lives - before.0, tally.committed - before.1);
        let took = begun.elapsed().as_secs_f64();
        println!(
            "{:8} seed {seed:15} {lives:3} lives {commits:7} commits {took:6.1} s",
            mode.name()
        );
        match done {
            Ok(()) => {
                let _ = fs::remove_dir_all(&folder);
            }
            Err(what) => {
                tally.blame(&what);
                let failure = format!(
                    "{} seed {seed}: {what}\nIts files: {}\nTo repeat it: cargo xtask torture --round {} {seed}{}",
                    mode.name(),
                    folder.display(),
                    mode.name(),
                    if self.short { " --smoke" } else { "" }
                );
                let _ = fs::write(folder.join("failure.txt"), &failure);
                eprintln!("FAILED {failure}");
                self.failures.push(failure);
            }
        }
    }

    fn end(self, started: Instant, seed: u64) -> Result<(), String> {
        println!("{}", report::table(&self.tallies));
        println!(
            "seed {seed}, {:.0} s, {} rounds failed",
            started.elapsed().as_secs_f64(),
            self.failures.len()
        );
        match self.failures.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "{} rounds failed; their folders were kept",
                self.failures.len()
            )),
        }
    }
}
