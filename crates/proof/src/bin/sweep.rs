//! `cargo xtask sweep`: simulated crashes, as many as asked, and what did not survive one.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that talks to a person"
)]

use std::process::ExitCode;
use std::time::Instant;
use walmend_proof::sweep::{Program, Setup, Tally, case, exhaustive, random, shrink};
use walmend_sync::thread;
use walmend_types::PageSize;

const HELP: &str = "sweep [--crashes N] [--seed S] [--threads T] [--case SEED NUMBER]

--crashes  at least so many in all (200000)
--seed     of the programs that are drawn (from the clock); the same seed and threads, the same crashes
--threads  how many work at once (as many as there are cores)
--case     runs one case again, and makes it small";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), String> {
    let number = |name: &str, place: usize| -> Result<Option<u64>, String> {
        let Some(at) = args.iter().position(|arg| arg == name) else {
            return Ok(None);
        };
        let value = args.get(at + place).ok_or(HELP)?;
        value.parse().map(Some).map_err(|_| HELP.into())
    };
    let known = ["--crashes", "--seed", "--threads", "--case"];
    if args
        .iter()
        .any(|arg| arg.parse::<u64>().is_err() && !known.contains(&arg.as_str()))
    {
        return Err(HELP.into());
    }
    if let (Some(seed), Some(which)) = (number("--case", 1)?, number("--case", 2)?) {
        return again(seed, which);
    }
    let crashes = number("--crashes", 1)?.unwrap_or(200_000);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = number("--seed", 1)?.unwrap_or_else(|| clock.map_or(1, |now| now.as_secs()));
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let threads = number("--threads", 1)?.unwrap_or(cores).max(1);
    let started = Instant::now();

    let mut all = Tally::default();
    for (name, setup) in setups() {
        let began = Instant::now();
        let tally = exhaustive(&Program::small(setup), 24, 6).map_err(|what| format!("{name}: {what}"))?;
        report(name, tally, began);
        all = all.plus(tally);
    }
    let began = Instant::now();
    let share = crashes.saturating_sub(all.crashes).div_ceil(threads);
    let done: Vec<_> = thread::scope(|scope| {
        let at_work: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || random(seed.wrapping_add(thread << 32), share, 40)))
            .collect();
        at_work.into_iter().map(|thread| thread.join()).collect()
    });
    let mut drawn = Tally::default();
    for one in done {
        match one {
            Ok(Ok(tally)) => drawn = drawn.plus(tally),
            Ok(Err((seed, which, what))) => {
                eprintln!("{what}");
                return again(seed, which)
                    .and(Err(format!("seed {seed}, case {which}: it did not fail again")));
            }
            Err(_) => return Err(format!("a panic, with --seed {seed}")),
        }
    }
    report("by chance", drawn, began);
    all = all.plus(drawn);
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{} crashes, {} of them in a recovery and {} in the recovery from such a one; 0 violations; {:.1} s, {:.0} a second; seed {seed}",
        all.crashes,
        all.in_recovery,
        all.in_second,
        seconds,
        all.crashes as f64 / seconds
    );
    Ok(())
}

fn report(name: &str, tally: Tally, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{name:44} {:6} programs {:8} crashes {:7} in recovery {:6} in a second one {seconds:6.1} s",
        tally.programs, tally.crashes, tally.in_recovery, tally.in_second
    );
}

/// Runs a case again, and shows the smallest one that fails like it.
fn again(seed: u64, number: u64) -> Result<(), String> {
    match shrink(&case(seed, number)) {
        None => {
            println!("seed {seed}, case {number}: survived");
            Ok(())
        }
        Some((smallest, what)) => Err(format!(
            "{what}\n{smallest:#?}\nAgain: cargo xtask sweep --case {seed} {number}"
        )),
    }
}

fn setups() -> Vec<(&'static str, Setup)> {
    let page_size = |bytes| PageSize::new(bytes).unwrap_or_default();
    vec![
        ("every operation, small pages", Setup::SMALL),
        (
            "every operation, watermark always synced",
            Setup {
                sync_watermark: true,
                preallocate: 0,
                ..Setup::SMALL
            },
        ),
        (
            "every operation, pages of several sectors",
            Setup {
                page_size: page_size(1024),
                preallocate: 8192,
                ..Setup::SMALL
            },
        ),
        (
            "every operation, several pages in a sector",
            Setup {
                large_sectors: true,
                ..Setup::SMALL
            },
        ),
    ]
}
