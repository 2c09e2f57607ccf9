//! Loom models are where `cargo xtask loom` finds them.

use super::Finding;
use crate::cargo::Workspace;
use crate::{Result, loom};
use cargo_metadata::Package;
use std::fs;
use std::path::Path;

/// What makes a package switch to loom.
const SHIM: &str = "walmend-sync";

/// Each loom target has models, is compiled under the cfg only, and belongs to a package that the cfg reaches.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut total = 0;
    for (package, target) in workspace.loom_targets() {
        let source = target.src_path.as_std_path();
        let path = workspace.shown(source);
        let models = loom::models_in_source(source)?;
        total += models;
        if models == 0 {
            findings.push(Finding::new(
                path,
                1,
                "no #[test] function: there is no model here",
            ));
        }
        findings.extend(gate(path, &fs::read_to_string(source)?));
        if !reaches_shim(package) {
            let message = format!(
                "{} does not use {SHIM}: the cfg changes nothing there",
                package.name
            );
            findings.push(Finding::new(path, 1, message));
        }
    }
    if total == 0 {
        findings.push(Finding::new("Cargo.toml", 1, "the workspace has no loom model"));
    }
    Ok(findings)
}

/// Without the gate an ordinary test run would compile the models against std.
fn gate(path: &Path, source: &str) -> Option<Finding> {
    let gate = "#![cfg(walmend_loom)]";
    let gated = source.lines().any(|line| line.trim() == gate);
    (!gated).then(|| Finding::new(path, 1, format!("`{gate}` is missing")))
}

fn reaches_shim(package: &Package) -> bool {
    package.name.as_str() == SHIM
        || package
            .dependencies
            .iter()
            .any(|dependency| dependency.name == SHIM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_file_without_the_gate_is_found() {
        let path = Path::new("tests/loom.rs");
        assert_eq!(gate(path, "//! Models.\n#![cfg(walmend_loom)]\n"), None);
        assert!(gate(path, "//! Models.\n// #![cfg(walmend_loom)]\n").is_some());
    }
}
