//! The workspace as cargo describes it, and child processes that say what they are.

use crate::Result;
use cargo_metadata::{Metadata, MetadataCommand, Package, Target, TargetKind};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where everything is.
pub(crate) struct Workspace {
    /// What `cargo metadata --no-deps` says: our packages, their targets and direct dependencies.
    pub(crate) metadata: Metadata,
}

impl Workspace {
    /// Asks cargo about the workspace that the current directory belongs to.
    pub(crate) fn load() -> Result<Self> {
        Ok(Self {
            metadata: MetadataCommand::new().no_deps().exec()?,
        })
    }

    /// The folder of the top `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        self.metadata.workspace_root.as_std_path()
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target_dir(&self) -> &Path {
        self.metadata.target_directory.as_std_path()
    }

    /// The target folder of builds under `--cfg walmend_loom`. Apart from the ordinary one, because other
    /// `RUSTFLAGS` would make every switch between the two a full build.
    pub(crate) fn loom_dir(&self) -> PathBuf {
        self.target_dir().join("loom")
    }

    /// The test targets that hold loom models: those whose name starts with `loom`.
    pub(crate) fn loom_targets(&self) -> impl Iterator<Item = (&Package, &Target)> {
        self.metadata.packages.iter().flat_map(|package| {
            package
                .targets
                .iter()
                .filter(|target| target.kind.contains(&TargetKind::Test) && target.name.starts_with("loom"))
                .map(move |target| (package, target))
        })
    }

    /// The packages with loom models, each once, as `-p` arguments.
    pub(crate) fn loom_packages(&self) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        for (package, _) in self.loom_targets() {
            if args.last().map(String::as_str) != Some(package.name.as_str()) {
                args.extend(["-p".into(), package.name.to_string()]);
            }
        }
        args
    }

    /// A path as people want to see it: from the root of the workspace.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(self.root()).unwrap_or(path)
    }

    /// `cargo` with these arguments, to be run at the root.
    pub(crate) fn cargo<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Command {
        // Set by cargo for this very process; it names the toolchain that was chosen at the top.
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(program);
        command.current_dir(self.root()).args(args);
        // `cargo run` describes the package xtask to us; the cargo below us has others to build.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        command
    }

    /// Like [`cargo`](Self::cargo), under `--cfg walmend_loom`.
    pub(crate) fn loom_cargo<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Command {
        let mut command = self.cargo(args);
        command
            .env("RUSTFLAGS", "--cfg walmend_loom")
            .env("CARGO_TARGET_DIR", self.loom_dir());
        command
    }
}

/// Runs a command with our own input and output, and fails if it fails.
pub(crate) fn run(command: &mut Command) -> Result {
    let line = announce(command);
    let status = command
        .status()
        .map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("`{line}` failed ({status})").into())
}

/// Prints the command as one would type it, and answers it.
pub(crate) fn announce(command: &Command) -> String {
    let line = shown(command);
    eprintln!("$ {line}");
    line
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            line.push_str(&format!("{}={} ", name.to_string_lossy(), quoted(value)));
        }
    }
    let program = Path::new(command.get_program());
    line.push_str(&match program.file_name() {
        Some(name) if name == "cargo" => "cargo".into(),
        _ => quoted(program.as_os_str()),
    });
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&quoted(arg));
    }
    line
}

/// The text in quotes where a shell would otherwise take it apart.
fn quoted(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{text}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("/somewhere/bin/cargo");
        command
            .env("RUSTFLAGS", "--cfg x")
            .args(["test", "--test", "loom*"]);
        assert_eq!(shown(&command), "RUSTFLAGS='--cfg x' cargo test --test 'loom*'");
    }
}
