//! The long forms of what `crates/proof` does a little of with each run of the tests: simulated crashes of a log with
//! everything around it, and logs of SQLite's that walmend and SQLite must make the same of.

use crate::Result;
use crate::args::Args;
use crate::cargo::{Workspace, run as run_command};

/// The crashes. The program itself reads the options, and says which there are.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let program = [
        "run",
        "--release",
        "--quiet",
        "-p",
        "walmend-proof",
        "--bin",
        "sweep",
        "--",
    ];
    run_command(workspace.cargo(program).args(args))
}

/// The oracle.
pub(crate) fn oracle(workspace: &Workspace, args: &[String]) -> Result {
    let mut args = Args::new(args);
    let logs: u64 = args.value("--logs")?.unwrap_or(2000);
    args.finish()?;
    let tests = [
        "test",
        "--release",
        "-p",
        "walmend-proof",
        "--test",
        "oracle",
        "--",
        "--nocapture",
    ];
    run_command(workspace.cargo(tests).env("WALMEND_ORACLE", logs.to_string()))
}
