//! The property tests that feed arbitrary bytes to the parsers, with many more cases than a test run has.
//!
//! They are ordinary tests whose names contain `any_bytes`, built like all tests, with overflow checks on.
//! proptest takes the number of cases from the environment and keeps what failed in a regression file.
//! Targets for coverage-guided fuzzing come with the proof work; they need a nightly compiler.

use crate::Result;
use crate::args::Args;
use crate::cargo::{Workspace, announce};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// What the names of such tests contain.
pub(crate) const MARK: &str = "any_bytes";

/// The task.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let mut args = Args::new(args);
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
