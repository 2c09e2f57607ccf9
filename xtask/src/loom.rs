//! Runs every loom model, each in a process of its own, and counts them.
//!
//! A job that selects no model passes without having checked anything, so three numbers have to agree: the
//! `#[test]` functions in the source, the models that the built test lists, and those that ran and passed.

use crate::args::Args;
use crate::cargo::{Workspace, announce};
use crate::ci::seconds;
use crate::tidy::modules;
use crate::{Result, syntax};
use cargo_metadata::{Message, Package, Target};
use std::collections::VecDeque;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A model that takes longer than this keeps people from running it: it should be made smaller.
const LONG: Duration = Duration::from_secs(60);

/// One test target with loom models, built.
struct ModelSet {
    /// Package and target.
    name: String,
    executable: PathBuf,
    /// Where cargo would run it.
    folder: PathBuf,
    models: Vec<String>,
}

/// The task.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result {
    let mut args = Args::new(args);
    let filter = args.word();
    args.finish()?;
    let sets = build(workspace)?;
    if sets.is_empty() {
        return Err("there is no test target named loom*: nothing was checked".into());
    }
    let wanted = |model: &&String| filter.as_ref().is_none_or(|filter| model.contains(filter));
    let mut failed = Vec::new();
    let mut ran = 0;
    for set in &sets {
        let models: VecDeque<&String> = set.models.iter().filter(wanted).collect();
        if !models.is_empty() {
            ran += models.len();
            failed.extend(run_models(set, models));
        }
    }
    if ran == 0 {
        return Err("no model matches the filter: nothing was checked".into());
    }
    if !failed.is_empty() {
        return Err(format!(
            "{} of {ran} loom models failed: {}",
            failed.len(),
            failed.join(", ")
        )
        .into());
    }
    eprintln!("\n{ran} loom models passed");
    Ok(())
}

/// Builds all model sets in one go, and checks that each of them holds what its source says.
fn build(workspace: &Workspace) -> Result<Vec<ModelSet>> {
    let packages = workspace.loom_packages();
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = workspace.loom_cargo([
        "test",
        "--release",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    command
        .args(packages)
        .args(["--test", "loom*"])
        .stdout(Stdio::piped());
    let line = announce(&command);
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().ok_or("cargo has no output")?;
    let mut executables = Vec::new();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message?
            && let Some(executable) = artifact.executable
        {
            executables.push((artifact.package_id, artifact.target.name, executable));
        }
    }
    if !child.wait()?.success() {
        return Err(format!("`{line}` failed").into());
    }

    let mut sets = Vec::new();
    for (package, target) in workspace.loom_targets() {
        let built = executables
            .iter()
            .find(|(id, name, _)| *id == package.id && *name == target.name)
            .ok_or_else(|| format!("{} {} was not built", package.name, target.name))?;
        sets.push(model_set(package, target, built.2.as_std_path())?);
    }
    Ok(sets)
}

/// Asks a built test for its models.
fn model_set(package: &Package, target: &Target, executable: &Path) -> Result<ModelSet> {
    let name = format!("{} {}", package.name, target.name);
    let output = Command::new(executable)
        .args(["--list", "--format", "terse"])
        .output()?;
    let models = listed(&String::from_utf8_lossy(&output.stdout));
    let expected = models_in_source(target.src_path.as_std_path())?;
    if models.is_empty() {
        return Err(format!("{name}: no model was built: nothing would be checked").into());
    }
    if models.len() != expected {
        let built = models.len();
        return Err(format!("{name}: {expected} models in the source, but {built} were built").into());
    }
    Ok(ModelSet {
        name,
        executable: executable.to_owned(),
        folder: package
            .manifest_path
            .parent()
            .map_or_else(PathBuf::new, Into::into),
        models,
    })
}

/// The test functions of a target, in all of its files.
pub(crate) fn models_in_source(root: &Path) -> Result<usize> {
    let mut count = 0;
    for file in modules::reachable(root)? {
        count += syntax::count_tests(&syntax::tokens(&fs::read_to_string(file)?));
    }
    Ok(count)
}

/// The names in the output of `--list --format terse`.
fn listed(output: &str) -> Vec<String> {
    let names = output.lines().filter_map(|line| line.strip_suffix(": test"));
    names.map(String::from).collect()
}

/// Runs models, as many at a time as there are cores; answers the names of those that failed.
fn run_models(set: &ModelSet, models: VecDeque<&String>) -> Vec<String> {
    println!("\nrunning {} loom models of {}", models.len(), set.name);
    let started = Instant::now();
    let count = models.len();
    let queue = Mutex::new(models);
    let failed = Mutex::new(Vec::new());
    let next = || lock(&queue).pop_front();
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers.min(count) {
            scope.spawn(|| {
                while let Some(model) = next() {
                    if !run_model(set, model) {
                        lock(&failed).push(format!("{}::{model}", set.name));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    // The closing line of libtest, so that whoever counts tests counts models as well.
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        if failed.is_empty() { "ok" } else { "FAILED" },
        count - failed.len(),
        failed.len(),
        started.elapsed().as_secs_f64(),
    );
    failed
}

/// Runs one model and prints how it went.
fn run_model(set: &ModelSet, model: &str) -> bool {
    let started = Instant::now();
    let output = Command::new(&set.executable)
        .current_dir(&set.folder)
        .args(["--exact", model, "--test-threads", "1", "--nocapture"])
        .stdin(Stdio::null())
        .output();
    let took = started.elapsed();
    let (passed, text) = match output {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            (output.status.success() && ran_one(&text), text)
        }
        Err(error) => (false, format!("cannot start: {error}")),
    };
    let note = if took > LONG {
        ": too long, make it smaller"
    } else {
        ""
    };
    let verdict = if passed { "ok" } else { "FAILED" };
    println!("test {model} ... {verdict} ({}{note})", seconds(took));
    if !passed {
        eprintln!("--- output of {model}\n{text}\n---");
    }
    passed
}

/// Whether exactly one test ran and passed; an ignored one did not run.
fn ran_one(output: &str) -> bool {
    output.contains("test result: ok. 1 passed; 0 failed; 0 ignored;")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_list_of_a_test() {
        let output = "one: test\nmodule::two: test\nslow: benchmark\n\n";
        assert_eq!(listed(output), ["one", "module::two"]);
    }

    #[test]
    fn an_ignored_model_did_not_run() {
        assert!(ran_one(
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured"
        ));
        assert!(!ran_one(
            "test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured"
        ));
        assert!(!ran_one(
            "test result: ok. 0 passed; 0 failed; 0 ignored; 3 filtered out"
        ));
    }
}
