//! The tasks that are one or two calls of cargo.

use crate::args::Args;
use crate::cargo::{Workspace, run};
use crate::{Result, tidy};

/// Formatting of every package.
pub(crate) fn fmt(workspace: &Workspace, args: &[String]) -> Result {
    let mut args = Args::new(args);
    let fix = args.flag("--fix");
    args.finish()?;
    let check: &[&str] = if fix { &[] } else { &["--check"] };
    run(workspace.cargo(["fmt", "--all"]).args(check))
        .map_err(|error| format!("{error}; `cargo xtask fmt --fix` changes it").into())
}

/// Clippy, with warnings denied: of everything, of each crate alone without its features, and under the models' cfg.
pub(crate) fn lint(workspace: &Workspace, args: &[String]) -> Result {
    Args::new(args).finish()?;
    let all = ["clippy", "--workspace", "--all-targets", "--all-features"];
    run(workspace.cargo(all).args(["--", "-D", "warnings"]))?;
    // As users build them: one crate alone, with no feature that tests or other crates switch on. A store that repairs
    // nothing needs no tokio.
    for package in workspace
        .metadata
        .packages
        .iter()
        .filter(|package| tidy::has_layer(&package.name))
    {
        let minimal = [
            "clippy",
            "--no-default-features",
            "-p",
            package.name.as_str(),
            "--lib",
            "--bins",
        ];
        run(workspace.cargo(minimal).args(["--", "-D", "warnings"]))?;
    }

    let packages = workspace.loom_packages();
    if packages.is_empty() {
        return Ok(());
    }
    // Only what the models compile: other tests use crates that do not build under the cfg. In the release
    // profile, so that build scripts and macros are shared with the models themselves.
    run(workspace
        .loom_cargo(["clippy", "--release", "--lib", "--test", "loom*"])
        .args(packages)
        .args(["--", "-D", "warnings"]))
}

/// Unit and integration tests, then doctests (which cargo does not run together with a choice of targets).
pub(crate) fn test(workspace: &Workspace, args: &[String]) -> Result {
    Args::new(args).finish()?;
    let everything = ["test", "--workspace", "--all-features"];
    run(workspace
        .cargo(everything)
        .args(["--lib", "--bins", "--tests", "--examples", "--no-fail-fast"]))?;
    run(workspace.cargo(everything).arg("--doc"))
}

/// The API documentation.
pub(crate) fn doc(workspace: &Workspace, args: &[String]) -> Result {
    Args::new(args).finish()?;
    run(workspace
        .cargo(["doc", "--workspace", "--no-deps", "--all-features"])
        .env("RUSTDOCFLAGS", "-D warnings"))
}

/// The package that compares with other stores, from the root.
const PEERS: &str = "benches/peers/Cargo.toml";

/// The benches.
pub(crate) fn bench(workspace: &Workspace, args: &[String]) -> Result {
    run(workspace.cargo(["bench", "-p", "walmend-benches"]).args(args))
}

/// The other stores beside ours. They are a workspace of their own, with a target folder of its own, so that no
/// ordinary build compiles them; the arguments are theirs to read.
pub(crate) fn peers(workspace: &Workspace, args: &[String]) -> Result {
    let manifest = workspace.root().join(PEERS);
    run(workspace
        .cargo(["run", "--release", "--manifest-path"])
        .arg(manifest)
        .arg("--")
        .args(args)
        .env("CARGO_TARGET_DIR", workspace.target_dir().join("peers")))
}
