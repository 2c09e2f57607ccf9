//! `walmend drill` again and again, each time with a new seed and another number of writers and kills.
//!
//! The folder of a drill that passes is removed; that of one that fails is kept, and the command with its
//! seed is printed. The seed fixes the plan of a drill; when exactly a kill hits is up to the machine, so a
//! failure may take more than one repetition to show again.

use crate::args::Args;
use crate::cargo::{Workspace, announce, run as run_command};
use crate::ci::seconds;
use crate::{Result, cargo};
use serde_json::Value;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A drill takes well under a minute; one that takes this long hangs.
const HANGS: Duration = Duration::from_secs(300);

/// Seeds stay below 2^48, so that any reader of JSON can carry them.
const SEEDS: u64 = 0xffff_ffff_ffff;

/// When to stop.
#[derive(Debug)]
enum Until {
    Count(u64),
    Minutes(u64),
}

impl Until {
    fn is_over(&self, drills: u64, elapsed: Duration) -> bool {
        match self {
            Self::Count(count) => drills >= *count,
            Self::Minutes(minutes) => elapsed >= Duration::from_secs(minutes * 60),
        }
    }
}

/// What one drill does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    seed: u64,
    writers: u64,
    kills: u64,
}

/// The task.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let mut args = Args::new(args);
    let minutes = args.value("--minutes")?;
    let count = args.value("--count")?;
    let seed: Option<u64> = args.value("--seed")?;
    let writers: Option<u64> = args.value("--writers")?;
    let kills: Option<u64> = args.value("--kills")?;
    args.finish()?;
    let until = match (minutes, count) {
        (Some(_), Some(_)) => return Err("--minutes and --count exclude each other".into()),
        (_, Some(count)) => Until::Count(count),
        (minutes, None) => Until::Minutes(minutes.unwrap_or(5)),
    };

    run_command(&mut workspace.cargo(["build", "--release", "-p", "walmend-cli"]))?;
    let walmend = workspace.target_dir().join("release/walmend");
    let folder = workspace.target_dir().join("torture");
    let started = Instant::now();
    let mut drills = 0;
    // The first drill takes a given seed as it is, so that the printed command repeats just that one.
    let mut next_seed = seed.unwrap_or_else(random);
    while !until.is_over(drills, started.elapsed()) {
        let mut plan = Plan::from_seed(next_seed);
        plan.writers = writers.unwrap_or(plan.writers);
        plan.kills = kills.unwrap_or(plan.kills);
        drill(&walmend, &folder.join(plan.seed.to_string()), plan)?;
        drills += 1;
        next_seed = mix(next_seed) & SEEDS;
    }
    eprintln!("{drills} drills passed in {}", seconds(started.elapsed()));
    Ok(())
}

impl Plan {
    /// 1 to 16 writers and 2 to 12 kills.
    fn from_seed(seed: u64) -> Self {
        let random = mix(seed);
        Self {
            seed,
            writers: 1 + random % 16,
            kills: 2 + (random >> 32) % 11,
        }
    }
}

/// One drill, in `folder`.
fn drill(walmend: &Path, folder: &Path, plan: Plan) -> Result {
    fs::create_dir_all(folder)?;
    let mut command = Command::new(walmend);
    command.arg("drill").arg("--json");
    for (name, value) in [
        ("--writers", plan.writers),
        ("--kills", plan.kills),
        ("--seed", plan.seed),
    ] {
        command.arg(name).arg(value.to_string());
    }
    let repeat = cargo::shown(&command);
    command.arg("--dir").arg(folder);
    announce(&command);

    let started = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let (status, output) = wait(child)?;
    let verdict = match status {
        None => Err(format!("it hung: no end after {}", seconds(HANGS)).into()),
        Some(status) if !status.success() => Err(format!("it ended with {status}: {output}").into()),
        Some(_) => check(&output, plan.kills),
    };
    let summary = verdict.map_err(|error: Box<dyn std::error::Error>| {
        format!(
            "the drill with seed {} failed: {error}\nIts files: {}\nTo repeat it: {repeat}",
            plan.seed,
            folder.display()
        )
    })?;
    eprintln!("{summary}, {}", seconds(started.elapsed()));
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// The exit status and the standard output of a drill; no status if it had to be killed.
fn wait(mut child: Child) -> Result<(Option<ExitStatus>, String)> {
    let started = Instant::now();
    // One object of JSON fits into a pipe's buffer, so it can be read after the end.
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if started.elapsed() > HANGS {
            child.kill()?;
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let output = child.wait_with_output()?;
    Ok((status, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Whether the report of a drill says what it must; answers it in one line.
fn check(report: &str, kills: u64) -> Result<String> {
    let report: Value = serde_json::from_str(report)
        .map_err(|error| format!("its report is not one JSON object ({error}): {report}"))?;
    let number = |name: &str| {
        report[name]
            .as_u64()
            .ok_or_else(|| format!("its report has no number `{name}`: {report}"))
    };
    let acknowledged = number("acknowledged")?;
    let killed = number("kills")?;
    if number("lost")? != 0 || number("torn")? != 0 || report["identical"] != Value::Bool(true) {
        return Err(format!("commits were lost or changed: {report}").into());
    }
    if acknowledged == 0 || killed != kills {
        return Err(format!("it did not do what it was asked to: {report}").into());
    }
    Ok(format!(
        "{acknowledged} commits acknowledged, {killed} kills, 0 lost, 0 torn"
    ))
}

/// A number that was not there before: the standard library seeds its hashers from the system.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id()) & SEEDS
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"acknowledged": 7, "lost": 0, "torn": 0, "kills": 5, "identical": true}"#;

    #[test]
    fn a_report_without_losses_passes() {
        assert!(check(GOOD, 5).unwrap().contains("7 commits"));
    }

    #[test]
    fn a_report_with_a_loss_or_a_gap_fails() {
        for (from, to) in [
            (r#""lost": 0"#, r#""lost": 1"#),
            (r#""torn": 0"#, r#""torn": 1"#),
            (r#""identical": true"#, r#""identical": false"#),
            (r#""acknowledged": 7"#, r#""acknowledged": 0"#),
            (r#""kills": 5"#, r#""kills": 4"#),
            (r#""lost": 0, "#, ""),
            ("{", ""),
        ] {
            let report = GOOD.replacen(from, to, 1);
            assert_ne!(report, GOOD);
            assert!(check(&report, 5).is_err(), "{report}");
        }
    }

    #[test]
    fn a_plan_stays_in_its_ranges_and_follows_its_seed() {
        let mut seed = 1;
        for _ in 0..1000 {
            let plan = Plan::from_seed(seed);
            assert!((1..=16).contains(&plan.writers) && (2..=12).contains(&plan.kills));
            assert_eq!(plan, Plan::from_seed(seed));
            seed = mix(seed);
        }
    }
}
