//! All text files of the workspace, read once, and the rules for any of them.

use super::Finding;
use crate::Result;
use crate::cargo::Workspace;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Paths from the root, with their content. What is not UTF-8 is no text and not here.
pub(crate) struct Files(BTreeMap<PathBuf, String>);

impl Files {
    /// Reads everything but build output and git's own folder.
    pub(crate) fn load(workspace: &Workspace) -> Result<Self> {
        let mut texts = BTreeMap::new();
        let mut folders = vec![workspace.root().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let kind = fs::symlink_metadata(&path)?;
                if kind.is_dir() && !is_skipped(workspace, &path) {
                    folders.push(path);
                } else if kind.is_file()
                    && let Ok(text) = String::from_utf8(fs::read(&path)?)
                {
                    texts.insert(workspace.shown(&path).to_owned(), text);
                }
            }
        }
        Ok(Self(texts))
    }

    /// Every file.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.0.iter().map(|(path, text)| (path.as_path(), text.as_str()))
    }
}

fn is_skipped(workspace: &Workspace, folder: &Path) -> bool {
    folder == workspace.target_dir() || folder.ends_with("target") || folder.ends_with(".git")
}

/// Where packages come from is the machine's business: an address in the tree breaks builds that use a mirror.
pub(crate) fn registry_addresses(path: &Path, text: &str) -> Vec<Finding> {
    // Put together here, or this file would break its own rule.
    let hosts = [
        concat!("crates", ".io"),
        concat!("static.rust", "-lang.org"),
        concat!("rs", "proxy.cn"),
        concat!("sparse", "+http"),
    ];
    let sections = [concat!("[sou", "rce."), concat!("[regis", "tries")];
    let is_config = path.starts_with(".cargo") || path.ends_with("Cargo.toml");
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let host = hosts.iter().find(|host| line.contains(*host));
        let section = sections
            .iter()
            .find(|section| is_config && line.contains(*section));
        if let Some(what) = host.or(section) {
            findings.push(Finding::new(
                path,
                number + 1,
                format!("`{what}`: no registry addresses in the tree"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_address_is_found_with_its_line() {
        let text = format!("fine\nsee https://{}/crates/x\n", concat!("crates", ".io"));
        let findings = registry_addresses(Path::new("README.md"), &text);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 2);
    }

    #[test]
    fn a_replaced_source_is_found_in_cargo_files_only() {
        let text = concat!("[sou", "rce.mirror]");
        assert_eq!(registry_addresses(Path::new(".cargo/config.toml"), text).len(), 1);
        assert_eq!(registry_addresses(Path::new("docs/x.md"), text).len(), 0);
    }
}
