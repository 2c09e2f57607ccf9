//! The property tests that feed arbitrary bytes to the parsers, with many more cases than a test run has.
//!
//! They are ordinary tests whose names contain `any_bytes`, built like all tests, with overflow checks on.
//! proptest takes the number of cases from the environment and keeps what failed in a regression file.
//!
//! With `--targets`, libFuzzer looks for inputs on its own, in `fuzz/`. It begins with real files, which a test of
//! `walmend-proof` makes, and with what is kept in `fuzz/corpus`. What it finds goes to `fuzz/corpus-live`; a crash
//! ends it, and is in `fuzz/artifacts`.

use crate::Result;
use crate::args::Args;
use crate::cargo::{Workspace, announce, run as run_command};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// What the names of such tests contain.
pub(crate) const MARK: &str = "any_bytes";

/// The task.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let mut args = Args::new(args);
    if args.flag("--targets") {
        return targets(workspace, args);
    }
    let cases: u64 = args.value("--cases")?.unwrap_or(100_000);
    let filter = args.word().unwrap_or_else(|| MARK.into());
    args.finish()?;

    // The same choice as `cargo xtask test`, so that nothing is built twice.
    let mut command = workspace.cargo(["test", "--workspace", "--all-features", "--no-fail-fast"]);
    command
        .args(["--lib", "--bins", "--tests", "--examples", "--", &filter])
        .env("PROPTEST_CASES", cases.to_string())
        .stdout(Stdio::piped());
    let line = announce(&command);
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().ok_or("cargo has no output")?;
    let mut passed = 0;
    for text in BufReader::new(stdout).lines() {
        let text = text?;
        passed += tests_passed(&text);
        println!("{text}");
    }
    if !child.wait()?.success() {
        return Err(format!("`{line}` failed").into());
    }
    if passed == 0 {
        return Err(format!("no test has `{filter}` in its name: nothing was checked").into());
    }
    eprintln!("{passed} tests passed with {cases} cases for each property");
    Ok(())
}

/// What is in `fuzz/fuzz_targets`, and the longest input that is worth trying, in bytes.
const TARGETS: &[(&str, u32)] = &[
    ("log", 8192),
    ("sidecar", 8192),
    ("recovery", 20_000),
    ("cli", 24_000),
    ("channel", 1024),
];

fn names() -> String {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

fn targets(workspace: &Workspace, mut args: Args) -> Result {
    let seconds: u64 = args.value("--seconds")?.unwrap_or(600);
    let only = args.word();
    args.finish()?;
    let chosen: Vec<_> = TARGETS
        .iter()
        .filter(|(name, _)| only.as_ref().is_none_or(|only| only == name))
        .collect();
    if chosen.is_empty() {
        return Err(format!("there is no such target: {}", names()).into());
    }
    let folder = workspace.root().join("fuzz");
    let live = folder.join("corpus-live");
    let mut seeds = workspace.cargo(["test", "-p", "walmend-proof", "--test", "corpus", "real_files"]);
    run_command(seeds.env("WALMEND_SEEDS", &live))?;
    for (name, longest) in chosen {
        // rustup chooses by the first argument; the toolchain of this process would win over it.
        let mut command = Command::new("cargo");
        command
            .current_dir(&folder)
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO")
            .args(["+nightly", "fuzz", "run", name])
            .args([live.join(name), folder.join("corpus").join(name)])
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={longest}"))
            .args(["-print_final_stats=1", "-timeout=60"])
            // What the command line prints is not wanted; a crash is still told.
            .args((*name == "cli").then_some("-close_fd_mask=1"));
        run_command(&mut command)?;
    }
    Ok(())
}

/// The number of tests in a closing line of libtest, 0 in any other line.
fn tests_passed(line: &str) -> u64 {
    line.strip_prefix("test result: ok. ")
        .and_then(|rest| rest.split_once(" passed"))
        .and_then(|(number, _)| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted_in_closing_lines_only() {
        assert_eq!(
            tests_passed("test result: ok. 12 passed; 0 failed; 0 ignored"),
            12
        );
        assert_eq!(tests_passed("test result: FAILED. 12 passed; 1 failed"), 0);
        assert_eq!(tests_passed("test a_test ... ok"), 0);
    }
}
