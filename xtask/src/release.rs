//! The release checklist: what must hold before anything is published. It publishes nothing.
//!
//! All checks run, whatever the earlier ones say. A tool that is not installed leaves its check out, and says so.

use crate::args::Args;
use crate::cargo::{Workspace, announce, run as run_command};
use crate::{Result, tidy};
use cargo_metadata::{DependencyKind, Package};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What else there is to do by hand; it takes hours, or judgement.
const BY_HAND: &str = "\
Not checked here: `cargo xtask ci`, `sweep`, `oracle`, `bugs`, `fuzz --targets` and `torture` (docs/testing.md), and
`peers` for the figures of the README. Then take `publish = false` out of the root Cargo.toml, tag, and publish the
crates lowest layer first: `cargo publish --workspace` knows the order.";

/// How a check ended.
enum Outcome {
    Holds(String),
    LeftOut(String),
    Fails(Vec<String>),
}

impl Outcome {
    /// Holds, with this to say, unless there are findings.
    fn of(findings: Vec<String>, holds: impl Into<String>) -> Self {
        match findings.is_empty() {
            true => Self::Holds(holds.into()),
            false => Self::Fails(findings),
        }
    }
}

/// What the checks look at.
struct Release<'a> {
    workspace: &'a Workspace,
    /// Those with a layer, which users may depend on.
    packages: Vec<&'a Package>,
    version: String,
    baseline: Option<String>,
    build: bool,
}

type Check = fn(&Release<'_>) -> Result<Outcome>;

const CHECKS: &[(&str, Check)] = &[
    ("tree", clean_tree),
    ("versions", one_version),
    ("changelog", changelog),
    ("metadata", metadata),
    ("licences", licences),
    ("msrv", msrv),
    ("deny", deny),
    ("package", package),
    ("semver", semver),
];

/// The task.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let mut args = Args::new(args);
    let baseline = args.value("--baseline")?;
    let build = args.flag("--build");
    args.finish()?;
    let packages: Vec<&Package> = workspace
        .metadata
        .packages
        .iter()
        .filter(|package| tidy::has_layer(&package.name))
        .collect();
    let version = packages
        .first()
        .ok_or("no package has a layer")?
        .version
        .to_string();
    let release = Release {
        workspace,
        packages,
        version,
        baseline,
        build,
    };
    let mut failed = Vec::new();
    let mut lines = String::new();
    for (name, check) in CHECKS {
        let (verdict, details) = match check(&release) {
            Ok(Outcome::Holds(text)) => ("ok", vec![text]),
            Ok(Outcome::LeftOut(why)) => ("left out", vec![why]),
            Ok(Outcome::Fails(findings)) => ("FAILS", findings),
            Err(error) => ("FAILS", vec![error.to_string()]),
        };
        if verdict == "FAILS" {
            failed.push(*name);
        }
        for (number, detail) in details.iter().enumerate() {
            let (name, verdict) = if number == 0 { (*name, verdict) } else { ("", "") };
            lines.push_str(&format!("{name:10} {verdict:9} {detail}\n"));
        }
    }
    println!("\nwalmend {}\n\n{lines}\n{BY_HAND}", release.version);
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("not ready: {}", failed.join(", ")).into()),
    }
}

fn clean_tree(release: &Release<'_>) -> Result<Outcome> {
    let output = git(release.workspace.root(), &["status", "--porcelain"])?;
    let changes: Vec<String> = output.lines().take(10).map(Into::into).collect();
    Ok(Outcome::of(changes, "nothing is uncommitted"))
}

/// All packages have one version, and ask for that one of each other.
fn one_version(release: &Release<'_>) -> Result<Outcome> {
    let wanted = format!("^{}", release.version);
    let mut findings = Vec::new();
    for package in &release.packages {
        if package.version.to_string() != release.version {
            findings.push(format!(
                "{} is {}, others are {}",
                package.name, package.version, release.version
            ));
        }
        for dependency in &package.dependencies {
            let asked = dependency.req.to_string();
            let shipped = dependency.kind != DependencyKind::Development;
            if tidy::has_layer(&dependency.name) && shipped && asked != wanted {
                findings.push(format!(
                    "{} asks for {} {asked}, not {wanted}",
                    package.name, dependency.name
                ));
            }
        }
    }
    Ok(Outcome::of(
        findings,
        format!("{} crates, all {}", release.packages.len(), release.version),
    ))
}

fn changelog(release: &Release<'_>) -> Result<Outcome> {
    let text = fs::read_to_string(release.workspace.root().join("CHANGELOG.md"))?;
    let heading = text.lines().find(|line| is_section(line, &release.version));
    Ok(match heading {
        Some(heading) => Outcome::Holds(heading.into()),
        None => Outcome::Fails(vec![format!(
            "CHANGELOG.md has no section `## {} - DATE`",
            release.version
        )]),
    })
}

/// Whether a line of the changelog begins the section of a version.
fn is_section(line: &str, version: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    matches!(words.as_slice(), ["##", name, ..] if name.trim_matches(['[', ']']) == version)
}

/// What a registry shows of a crate, and what builds its documentation.
fn metadata(release: &Release<'_>) -> Result<Outcome> {
    let mut findings = Vec::new();
    for package in &release.packages {
        let mut needs = |there: bool, what: &str| {
            if !there {
                findings.push(format!("{}: {what}", package.name));
            }
        };
        needs(package.description.is_some(), "no description");
        needs(package.license.is_some(), "no license");
        needs(package.rust_version.is_some(), "no rust-version");
        needs((1..=5).contains(&package.keywords.len()), "one to five keywords");
        needs(!package.categories.is_empty(), "no categories");
        needs(package.readme.is_some(), "no readme");
        let optional = package.features.keys().any(|feature| feature != "default");
        let all = package.metadata["docs"]["rs"]["all-features"].as_bool();
        needs(
            !optional || all == Some(true),
            "features that docs.rs would not show",
        );
    }
    Ok(Outcome::of(findings, "descriptions, keywords, readmes, docs.rs"))
}

/// A package is a folder of its own: it carries the licences along.
fn licences(release: &Release<'_>) -> Result<Outcome> {
    let root = release.workspace.root();
    let mut findings = Vec::new();
    for package in &release.packages {
        let folder = package.manifest_path.as_std_path().parent().unwrap_or(root);
        for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
            if fs::read(folder.join(name)).ok() != Some(fs::read(root.join(name))?) {
                findings.push(format!("{}: {name} is missing, or another one", package.name));
            }
        }
    }
    Ok(Outcome::of(findings, "each crate carries both"))
}

/// The toolchain of every build is the oldest one that is promised: so every build checks the promise.
fn msrv(release: &Release<'_>) -> Result<Outcome> {
    let text = fs::read_to_string(release.workspace.root().join("rust-toolchain.toml"))?;
    let channel = text
        .lines()
        .find_map(|line| line.strip_prefix("channel = "))
        .ok_or("rust-toolchain.toml names no channel")?
        .trim_matches('"');
    let mut findings = Vec::new();
    for package in &release.packages {
        let promised = package
            .rust_version
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        if channel != promised
            && !channel.starts_with(&format!("{promised}."))
            && !promised.starts_with(channel)
        {
            findings.push(format!(
                "{} promises Rust {promised}, tested is {channel}",
                package.name
            ));
        }
    }
    Ok(Outcome::of(
        findings,
        format!("Rust {channel}, which builds everything here"),
    ))
}

fn deny(release: &Release<'_>) -> Result<Outcome> {
    if !is_installed("cargo-deny") {
        return Ok(Outcome::LeftOut("cargo install cargo-deny --locked".into()));
    }
    let checks = ["deny", "check", "licenses", "bans", "sources"];
    run_command(&mut release.workspace.cargo(checks))?;
    Ok(Outcome::Holds(
        "licences, bans, sources; not the advisories, which need the network".into(),
    ))
}

/// Packages a copy of what is committed, as if it were to be published.
fn package(release: &Release<'_>) -> Result<Outcome> {
    let root = release.workspace.root();
    let copy = release.workspace.target_dir().join("release-check");
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir_all(&copy)?;
    let mut archive = Command::new("git");
    archive
        .current_dir(root)
        .args(["archive", "HEAD"])
        .stdout(Stdio::piped());
    let mut archiving = archive
        .spawn()
        .map_err(|error| format!("cannot start git: {error}"))?;
    let stream = archiving.stdout.take().ok_or("git has no output")?;
    run_command(Command::new("tar").arg("-x").current_dir(&copy).stdin(stream))?;
    if !archiving.wait()?.success() {
        return Err("git archive failed".into());
    }
    // Cargo packages crates that depend on each other only if they may be published.
    let manifest = copy.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)?;
    fs::write(
        &manifest,
        text.replacen("\npublish = false\n", "\npublish = true\n", 1),
    )?;

    let mut command = release.workspace.cargo(["package", "--allow-dirty"]);
    command
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", copy.join("target"));
    for package in &release.packages {
        command.args(["-p", package.name.as_str()]);
    }
    if !release.build {
        command.arg("--no-verify");
    }
    announce(&command);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Ok(Outcome::Fails(said.lines().map(Into::into).collect()));
    }
    // Most warnings are said once for each crate.
    let warnings: BTreeSet<&str> = said.lines().filter(|line| line.starts_with("warning")).collect();
    let warnings = warnings.into_iter().map(Into::into).collect();
    let mut bytes = 0;
    for package in &release.packages {
        let name = format!("{}-{}.crate", package.name, package.version);
        bytes += fs::metadata(copy.join("target/package").join(name))?.len();
    }
    fs::remove_dir_all(&copy)?;
    let built = if release.build {
        ", built from them"
    } else {
        "; --build builds from them too"
    };
    let count = release.packages.len();
    Ok(Outcome::of(
        warnings,
        format!("{count} packages of {} kB in all{built}", bytes / 1000),
    ))
}

/// Whether the public interface breaks a promise that an earlier version made.
fn semver(release: &Release<'_>) -> Result<Outcome> {
    let Some(baseline) = &release.baseline else {
        let why = "nothing is released yet: --baseline REV compares with a commit";
        return Ok(Outcome::LeftOut(why.into()));
    };
    if !is_installed("cargo-semver-checks") {
        return Ok(Outcome::LeftOut(
            "cargo install cargo-semver-checks --locked".into(),
        ));
    }
    let mut command = release
        .workspace
        .cargo(["semver-checks", "--baseline-rev", baseline]);
    for package in release
        .packages
        .iter()
        .filter(|package| package.targets.iter().any(|target| target.is_lib()))
    {
        command.args(["-p", package.name.as_str()]);
    }
    run_command(&mut command)?;
    Ok(Outcome::Holds(format!("nothing breaks what {baseline} promised")))
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

fn git(root: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new("git").current_dir(root).args(args).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_of_the_changelog_is_that_of_its_version_alone() {
        assert!(is_section("## 0.1.0 - 2026-11-22", "0.1.0"));
        assert!(is_section("## [0.1.0]", "0.1.0"));
        assert!(!is_section("## 0.1.01", "0.1.0"));
        assert!(!is_section("## Unreleased", "0.1.0"));
        assert!(!is_section("### 0.1.0", "0.1.0"));
    }
}
