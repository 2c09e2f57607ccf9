//! Real processes under real abuse, and the soak: the program in `crates/torture`, which reads the options itself.

use crate::Result;
use crate::cargo::{Workspace, run as run_command};

/// The task. What is killed and starved is the ordinary build, whose debug assertions are part of what watches; a soak
/// measures, and takes the optimized one.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let mut program = vec!["run", "--quiet", "-p", "walmend-torture"];
    if args.iter().any(|arg| arg == "--soak") {
        program.push("--release");
    }
    program.push("--");
    let folder = workspace.target_dir().join("torture");
    let mut command = workspace.cargo(program);
    command.args(args);
    if !args.iter().any(|arg| arg == "--dir") {
        command.arg("--dir").arg(folder);
    }
    run_command(&mut command)
}
