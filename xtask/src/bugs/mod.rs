//! Deliberate bugs: each is put into a copy of the tree, and a test that is named for it must fail.
//!
//! What is in [`list`] is a bug that somebody could write. One that no test catches is a hole in the tests; one whose
//! text is no longer found has to be put anew, because the code has changed under it (`--check`, which CI runs).

mod list;

use crate::args::Args;
use crate::cargo::Workspace;
use crate::ci::seconds;
use crate::{Result, cargo};
use list::{BUGS, Bug};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A test that takes this long with a bug hangs because of it.
const HANGS: Duration = Duration::from_secs(240);

/// The task.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let mut args = Args::new(args);
    let only_check = args.flag("--check");
    let filter = args.word();
    args.finish()?;
    let bugs: Vec<&Bug> = BUGS
        .iter()
        .filter(|bug| {
            let wanted =
                |filter: &String| bug.name.contains(filter.as_str()) || bug.file.contains(filter.as_str());
            filter.as_ref().is_none_or(wanted)
        })
        .collect();
    if bugs.is_empty() {
        return Err("no bug has that in its name or file".into());
    }
    let lost: Vec<String> = bugs
        .iter()
        .filter_map(|bug| apply(workspace.root(), bug).err().map(|error| error.to_string()))
        .collect();
    if !lost.is_empty() {
        return Err(lost.join("\n").into());
    }
    eprintln!("{} bugs can be put into the tree", bugs.len());
    if only_check {
        return Ok(());
    }
    let copy = Copy::make(workspace)?;
    let mut missed = Vec::new();
    for (number, bug) in bugs.iter().enumerate() {
        let started = Instant::now();
        let caught = copy.try_bug(bug)?;
        let took = seconds(started.elapsed());
        let said = match &caught {
            Some(by) => format!("caught by {by}"),
            None => "NOT CAUGHT".into(),
        };
        println!("{:2}  {:72} {took:>8}  {said}", number + 1, bug.name);
        if caught.is_none() {
            missed.push(bug.name);
        }
    }
    println!("{} of {} bugs were caught", bugs.len() - missed.len(), bugs.len());
    if missed.is_empty() {
        Ok(())
    } else {
        Err(format!("not caught: {}", missed.join("; ")).into())
    }
}

/// The file with the bug in it.
fn apply(root: &Path, bug: &Bug) -> Result<String> {
    let path = root.join(bug.file);
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", bug.file))?;
    match text.matches(bug.find).count() {
        1 if bug.find != bug.replace => Ok(text.replace(bug.find, bug.replace)),
        1 => Err(format!("`{}` changes nothing", bug.name).into()),
        count => Err(format!(
            "`{}`: its text is {count} times in {}, not once; put the bug anew in xtask/src/bugs/list.rs",
            bug.name, bug.file
        )
        .into()),
    }
}

/// A copy of the tree with a target folder of its own, so that a bug costs one incremental build.
struct Copy {
    root: PathBuf,
    target: PathBuf,
}

impl Copy {
    fn make(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.target_dir().join("bugs");
        let (root, target) = (folder.join("tree"), folder.join("target"));
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(workspace.root())
            .output()?;
        for file in String::from_utf8(listed.stdout)?
            .split('\0')
            .filter(|file| !file.is_empty())
        {
            let (from, to) = (workspace.root().join(file), root.join(file));
            if from.is_file() {
                fs::create_dir_all(to.parent().unwrap_or(&root))?;
                fs::copy(from, to)?;
            }
        }
        Ok(Self { root, target })
    }

    /// What catches the bug, if anything does.
    fn try_bug(&self, bug: &Bug) -> Result<Option<String>> {
        let path = self.root.join(bug.file);
        let sound = fs::read_to_string(&path)?;
        let with_bug = apply(&self.root, bug)?;
        fs::write(&path, with_bug)?;
        let built = self.cargo(bug, true).output()?;
        let caught = if built.status.success() {
            self.test(bug)
        } else {
            let said = String::from_utf8_lossy(&built.stderr).into_owned();
            Err(format!("with the bug `{}` the tree does not compile:\n{said}", bug.name).into())
        };
        fs::write(&path, sound)?;
        caught
    }

    fn cargo(&self, bug: &Bug, build_only: bool) -> Command {
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_INCREMENTAL", "1")
            .env_remove("RUST_BACKTRACE")
            .args(["test", "-p", bug.package, "--all-features"]);
        match bug.test {
            "lib" => command.arg("--lib"),
            test => command.args(["--test", test]),
        };
        if build_only {
            command.arg("--no-run");
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs the test; the names of what failed.
    fn test(&self, bug: &Bug) -> Result<Option<String>> {
        let output = self.root.join("output");
        let file = fs::File::create(&output)?;
        let mut child = self
            .cargo(bug, false)
            .args(["--", bug.filter])
            .stdout(file)
            .stderr(Stdio::null())
            // A group of its own: if it hangs, the test under cargo has to end as well.
            .process_group(0)
            .spawn()?;
        let started = Instant::now();
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if started.elapsed() > HANGS => {
                    let group = format!("-{}", child.id());
                    cargo::run(Command::new("kill").args(["-KILL", "--", &group]))?;
                    child.wait()?;
                    return Ok(Some(format!("{}: it hangs", bug.test)));
                }
                None => thread::sleep(Duration::from_millis(50)),
            }
        };
        let said = fs::read_to_string(&output)?;
        let ran = said
            .lines()
            .any(|line| line.starts_with("running ") && !line.contains(" 0 tests"));
        if !ran {
            return Err(format!("`{}`: no test has `{}` in its name", bug.name, bug.filter).into());
        }
        if status.success() {
            return Ok(None);
        }
        let failed: Vec<&str> = said
            .lines()
            .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
            .collect();
        let first = failed.first().copied().unwrap_or("an abort");
        Ok(Some(match failed.len() {
            0 | 1 => format!("{}: {first}", bug.test),
            more => format!("{}: {first} and {} more", bug.test, more - 1),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_bug_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = BUGS.iter().map(|bug| bug.name).collect();
        assert_eq!(names.len(), BUGS.len());
        assert!(BUGS.len() >= 25);
    }
}
