//! What CI and developers run: `cargo xtask help`.
//!
//! One task per module; [`TASKS`] is the list. Every task stops at its first failure with a non-zero exit
//! status and says how to run just that part again.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task runner talks to a person"
)]

mod args;
mod bugs;
mod cargo;
mod checks;
mod ci;
mod fuzz;
mod loom;
mod power;
mod release;
mod sweep;
mod syntax;
mod tidy;
mod torture;

use cargo::Workspace;
use std::process::ExitCode;

/// A failure is a sentence for a person; nothing ever matches on it.
type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Something that `cargo xtask` can do.
struct Task {
    name: &'static str,
    options: &'static str,
    about: &'static str,
    run: fn(&Workspace, &[String]) -> Result,
}

const TASKS: &[Task] = &[
    Task {
        name: "ci",
        options: "",
        about: "everything that must hold: fmt, lint, tidy, test, loom, doc, a short drill",
        run: ci::run,
    },
    Task {
        name: "fmt",
        options: "[--fix]",
        about: "check the formatting; --fix changes it",
        run: checks::fmt,
    },
    Task {
        name: "lint",
        options: "",
        about: "clippy on every target, and on what the loom models compile, warnings denied",
        run: checks::lint,
    },
    Task {
        name: "tidy",
        options: "",
        about: "the rules of the house: layers, the loom shim, dead files, file lengths, links",
        run: tidy::run,
    },
    Task {
        name: "test",
        options: "",
        about: "all tests with all features, then the doctests",
        run: checks::test,
    },
    Task {
        name: "loom",
        options: "[FILTER]",
        about: "every loom model (in target/loom); fails if one of them did not run",
        run: loom::run,
    },
    Task {
        name: "doc",
        options: "",
        about: "the API documentation, warnings denied",
        run: checks::doc,
    },
    Task {
        name: "bench",
        options: "[ARGS]",
        about: "the criterion benches; arguments go to cargo bench",
        run: checks::bench,
    },
    Task {
        name: "peers",
        options: "[--rounds N] [--seconds S] [--writers N,N,...] [--dir D] [--out D] [--smoke]",
        about: "walmend beside other stores and the raw limit of the disk: tables, CSV, a chart",
        run: checks::peers,
    },
    Task {
        name: "torture",
        options: "[--minutes M | --rounds N] [--modes A,B,...] [--seed S] [--smoke] | --round MODE SEED | --soak M [--out DIR]",
        about: "real processes, killed, starved, with rotting files, on disks that fail (5 minutes unless told); keeps \
                what fails; or full load for M minutes, sampled",
        run: torture::run,
    },
    Task {
        name: "power",
        options: "[--engine E] [--file-system F] [--mount OPTIONS] [--log direct|buffered] [--pages sqlite|raw] \
                  [--lives N] [--cuts N] [--seconds S] [--writers N] [--seed S]",
        about: "cuts the power of a virtual machine at random moments; as root, with qemu; without an engine, all that \
                there is",
        run: power::run,
    },
    Task {
        name: "sweep",
        options: "[--crashes N] [--seed S] [--threads T] | --case SEED NUMBER",
        about: "simulated crashes, 200000 unless told; a case that fails is made small and can be run again",
        run: sweep::run,
    },
    Task {
        name: "oracle",
        options: "[--logs N]",
        about: "logs written by SQLite, 2000 unless told: walmend and SQLite must make the same of them",
        run: sweep::oracle,
    },
    Task {
        name: "bugs",
        options: "[--check] [FILTER]",
        about: "puts each deliberate bug into a copy of the tree, and fails if no test notices; --check only looks \
                whether they still fit the code",
        run: bugs::run,
    },
    Task {
        name: "fuzz",
        options: "[--cases N] [FILTER] | --targets [--seconds N] [TARGET]",
        about: "the tests that feed arbitrary bytes to the parsers, with 100000 cases each unless told; or, on a \
                nightly compiler with cargo-fuzz, libFuzzer on each target for 600 seconds unless told",
        run: fuzz::run,
    },
    Task {
        name: "release-check",
        options: "[--baseline REV] [--build]",
        about: "the checklist of a release, which publishes nothing: versions, changelog, packages, licences; --baseline \
                compares the public interfaces with a commit, --build builds from the packages",
        run: release::run,
    },
    Task {
        name: "help",
        options: "",
        about: "this list",
        run: help,
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let name = match args.first().map_or("help", String::as_str) {
        "-h" | "--help" => "help",
        name => name,
    };
    let rest = args.get(1..).unwrap_or_default();
    let result = find(name).and_then(|task| (task.run)(&Workspace::load()?, rest));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The task of that name.
fn find(name: &str) -> Result<&'static Task> {
    TASKS
        .iter()
        .find(|task| task.name == name)
        .ok_or_else(|| format!("there is no task `{name}`; `cargo xtask help` lists them").into())
}

fn help(_: &Workspace, _: &[String]) -> Result {
    println!("cargo xtask <task> [options]\n");
    for task in TASKS {
        println!("  {:13} {}", task.name, task.about);
        if !task.options.is_empty() {
            println!("                {}", task.options);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_found_by_its_name_and_no_other_is() {
        for task in TASKS {
            assert_eq!(find(task.name).unwrap().name, task.name);
        }
        assert!(find("nonsense").is_err());
    }
}
