//! The rules of the house that no compiler checks. One rule per function; all findings are listed at once.

mod events;
mod files;
mod links;
mod models;
pub(crate) mod modules;
mod packages;
mod sources;

use crate::Result;
use crate::args::Args;
use crate::cargo::Workspace;
use files::Files;
pub(crate) use packages::has_layer;
use std::fmt;
use std::path::{Path, PathBuf};

/// Something that breaks a rule, or nearly does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: PathBuf,
    /// From 1; 0 stands for the whole file.
    line: usize,
    message: String,
    /// Worth a look, but nothing fails.
    hint: bool,
}

impl Finding {
    fn new(path: impl Into<PathBuf>, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line,
            message: message.into(),
            hint: false,
        }
    }

    fn hint(path: impl Into<PathBuf>, line: usize, message: impl Into<String>) -> Self {
        Self {
            hint: true,
            ..Self::new(path, line, message)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.hint { "hint" } else { "error" };
        let line = self.line.max(1);
        write!(f, "{}:{line}: {severity}: {}", self.path.display(), self.message)
    }
}

/// The task.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    Args::new(args).finish()?;
    let files = Files::load(workspace)?;
    let mut findings = Vec::new();
    findings.extend(packages::layers(workspace));
    findings.extend(packages::pins(workspace));
    findings.extend(packages::folders(workspace)?);
    findings.extend(packages::lock_files(&files));
    findings.extend(modules::dead_files(workspace, &files)?);
    findings.extend(models::check(workspace)?);
    let mut events = events::Events::default();
    for (path, text) in files.texts() {
        if is_source(path) {
            events.note(path, text);
            findings.extend(sources::check(path, text));
        }
        if !path.ends_with("Cargo.lock") {
            findings.extend(files::registry_addresses(path, text));
        }
        if path.extension().is_some_and(|extension| extension == "md") {
            findings.extend(links::check(workspace.root(), path, text));
        }
    }
    for (_, text) in files.texts().filter(|(path, _)| events::Events::is_table(path)) {
        findings.extend(events.check(text));
    }
    findings.sort();

    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| !finding.hint).count();
    let checked = files.texts().count();
    if errors > 0 {
        return Err(format!("{errors} findings in {checked} files").into());
    }
    eprintln!("{checked} files are tidy");
    Ok(())
}

/// Whether it is one of our Rust files.
fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
        && ["crates", "xtask", "benches"]
            .iter()
            .any(|top| path.starts_with(top))
}
