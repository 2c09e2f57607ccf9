//! What packages may depend on, and what belongs to each of them.

use super::Finding;
use super::files::Files;
use crate::Result;
use crate::cargo::Workspace;
use cargo_metadata::{DependencyKind, Package, TargetKind};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers of ARCHITECTURE.md. A package may use only packages of a lower layer.
const LAYERS: &[(&str, u8)] = &[
    ("walmend-error", 0),
    ("walmend-sync", 0),
    ("walmend-types", 1),
    ("walmend-vfs", 2),
    ("walmend-wal", 3),
    ("walmend-commit", 3),
    ("walmend-repair", 4),
    ("walmend", 5),
    ("walmend-cli", 6),
];

/// Packages beside the layers: they may use any of them, and none of them may use these.
const OUTSIDE: &[&str] = &["xtask", "walmend-benches", "walmend-proof", "walmend-torture"];

/// Dependencies that come with a burden, and the lowest layer that may carry it.
const BURDENS: &[(&str, u8)] = &[("tokio", 4), ("clap", 6)];

/// Formats depend on these bit for bit, so a new version has to be a decision.
const PINNED: &[&str] = &["xxhash-rust", "reed-solomon-simd"];

/// Projects whose code must not get in, not even as a dependency of a dependency.
const BANNED: &[&str] = &["fsqlite", "frankensqlite", "asupersync"];

fn layer(package: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|(name, _)| *name == package)
        .map(|(_, layer)| *layer)
}

/// Whether users may depend on a package: everything else is for those who work on walmend.
pub(crate) fn has_layer(package: &str) -> bool {
    layer(package).is_some()
}

/// A package uses lower layers only, and nothing that its layer is to be spared.
pub(crate) fn layers(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &workspace.metadata.packages {
        // Dev-dependencies of a lower crate on a higher one are cycles, which cargo allows and we need not.
        let ordinary = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development);
        for message in layer_errors(&package.name, ordinary.map(|dependency| dependency.name.as_str())) {
            findings.push(Finding::new(manifest(workspace, package), 1, message));
        }
    }
    findings
}

fn layer_errors<'a>(package: &str, dependencies: impl Iterator<Item = &'a str>) -> Vec<String> {
    if OUTSIDE.contains(&package) {
        return Vec::new();
    }
    let Some(own) = layer(package) else {
        return vec![format!(
            "{package} has no layer: give it one in xtask/src/tidy/packages.rs"
        )];
    };
    let mut errors = Vec::new();
    for dependency in dependencies {
        if let Some((_, lowest)) = BURDENS.iter().find(|(name, _)| *name == dependency)
            && own < *lowest
        {
            errors.push(format!(
                "{package} (layer {own}) uses {dependency}, allowed from layer {lowest} on"
            ));
        }
        match layer(dependency) {
            Some(other) if other >= own => errors.push(format!(
                "{package} (layer {own}) uses {dependency} (layer {other}): only lower layers may be used"
            )),
            None if dependency.starts_with("walmend") || OUTSIDE.contains(&dependency) => {
                errors.push(format!("{package} uses {dependency}, which has no layer"));
            }
            _ => {}
        }
    }
    errors
}

/// Dependencies that formats rest on are pinned to one version.
pub(crate) fn pins(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &workspace.metadata.packages {
        for dependency in &package.dependencies {
            let pinned = dependency.req.to_string().starts_with('=');
            if PINNED.contains(&dependency.name.as_str()) && !pinned {
                let message = format!("{} has to be pinned with `=`", dependency.name);
                findings.push(Finding::new(manifest(workspace, package), 1, message));
            }
        }
    }
    findings
}

/// Every package takes the workspace's lints; every crate has a README.
pub(crate) fn folders(workspace: &Workspace) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for package in &workspace.metadata.packages {
        let path = manifest(workspace, package);
        if !has_workspace_lints(&fs::read_to_string(&package.manifest_path)?) {
            findings.push(Finding::new(&path, 1, "`[lints] workspace = true` is missing"));
        }
        let library = package
            .targets
            .iter()
            .any(|target| target.kind.contains(&TargetKind::Lib));
        let readme = package.manifest_path.with_file_name("README.md");
        if path.starts_with("crates") && library && !readme.is_file() {
            findings.push(Finding::new(&path, 1, "the crate has no README.md"));
        }
    }
    Ok(findings)
}

fn has_workspace_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim);
    lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true")
}

/// No code of the banned projects.
pub(crate) fn lock_files(files: &Files) -> Vec<Finding> {
    let locks = files.texts().filter(|(path, _)| path.ends_with("Cargo.lock"));
    locks.flat_map(|(path, lock)| banned(path, lock)).collect()
}

fn banned(path: &Path, lock: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in lock.lines().enumerate() {
        let name = line
            .strip_prefix("name = \"")
            .and_then(|rest| rest.strip_suffix('"'));
        if let Some(name) = name
            && BANNED.iter().any(|banned| name.starts_with(banned))
        {
            let message = format!("`{name}` must not be a dependency");
            findings.push(Finding::new(path, number + 1, message));
        }
    }
    findings
}

fn manifest(workspace: &Workspace, package: &Package) -> PathBuf {
    workspace.shown(package.manifest_path.as_std_path()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(package: &str, dependencies: &[&str]) -> usize {
        layer_errors(package, dependencies.iter().copied()).len()
    }

    #[test]
    fn lower_layers_may_be_used_and_no_others() {
        assert_eq!(
            errors("walmend-wal", &["walmend-vfs", "walmend-error", "tracing"]),
            0
        );
        assert_eq!(errors("walmend-wal", &["walmend-commit"]), 1, "the same layer");
        assert_eq!(errors("walmend-commit", &["walmend-wal"]), 1, "the same layer");
        assert_eq!(errors("walmend-types", &["walmend"]), 1, "a higher layer");
        assert_eq!(
            errors("walmend", &["walmend-benches", "xtask"]),
            2,
            "beside the layers"
        );
        assert_eq!(errors("walmend-benches", &["walmend", "tokio"]), 0);
    }

    #[test]
    fn a_package_without_a_layer_is_found_on_both_sides() {
        assert_eq!(errors("walmend-new", &[]), 1);
        assert_eq!(errors("walmend", &["walmend-new"]), 1);
    }

    #[test]
    fn burdens_are_kept_out_of_low_layers() {
        assert_eq!(errors("walmend-wal", &["tokio", "clap"]), 2);
        assert_eq!(errors("walmend-repair", &["tokio", "clap"]), 1);
        assert_eq!(errors("walmend-cli", &["tokio", "clap"]), 0);
    }

    #[test]
    fn lints_are_taken_from_the_workspace_in_their_own_section() {
        assert!(has_workspace_lints(
            "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n"
        ));
        assert!(!has_workspace_lints("[package]\nedition.workspace = true\n"));
        assert!(!has_workspace_lints(
            "[lints]\n[dependencies]\nworkspace = true\n"
        ));
    }

    #[test]
    fn a_banned_package_is_found_in_the_lock_file() {
        let lock = "[[package]]\nname = \"serde\"\n\n[[package]]\nname = \"fsqlite-core\"\n";
        let findings = banned(Path::new("Cargo.lock"), lock);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 5);
    }
}
