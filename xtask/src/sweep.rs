//! Simulated crashes of a log with everything around it: `crates/proof/src/sweep`, in the release profile.

use crate::Result;
use crate::cargo::{Workspace, run as run_command};

/// The task. The program itself reads the options, and says which there are.
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
