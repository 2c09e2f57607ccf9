//! What scripts depend on: one object on standard output whatever happens, the fields and values that
//! docs/command-line.md names, and the exit status.

mod common;

use common::{Run, copy, crashed, new_database, on, wal_of, walmend, with_suffix};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The commands of the contract, and what each needs beside the database.
const ON_DATABASES: [&str; 8] = [
    "inspect",
    "verify",
    "recover",
    "heal",
    "checkpoint",
    "protect",
    "scrub",
    "backup",
];

/// The tables of the document: command, field, type.
#[derive(Default)]
struct Documented(BTreeMap<String, BTreeMap<String, String>>);

impl Documented {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/command-line.md");
        let text = fs::read_to_string(path).unwrap();
        let mut all = Self::default();
        let mut commands: Vec<&str> = Vec::new();
        for line in text.lines() {
            if line.starts_with('#') {
                let names = line.split('`').skip(1).step_by(2);
                commands = if line.starts_with("### ") {
                    names.collect()
                } else {
                    Vec::new()
                };
            } else if let Some(row) = line.strip_prefix("| `") {
                let cells: Vec<&str> = row.split(" | ").collect();
                let field = cells[0].trim_end_matches('`');
                for command in &commands {
                    let fields = all.0.entry((*command).into()).or_default();
                    assert!(
                        fields.insert(field.into(), cells[1].into()).is_none(),
                        "{field} twice"
                    );
                }
            }
        }
        all
    }

    /// Checks everything in one object against the table of its command; answers the fields that were there.
    fn check(&self, command: &str, object: &Value) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        self.walk(command, "", object, &mut seen);
        seen
    }

    fn walk(&self, command: &str, field: &str, value: &Value, seen: &mut BTreeSet<String>) {
        let fields = &self.0[command];
        if let Some(kind) = fields.get(field) {
            assert!(fits(kind, value), "{command}: {field} is {kind}, not {value}");
            seen.insert(field.into());
        } else {
            // What only holds documented fields needs no row of its own.
            let inner = fields.keys().any(|name| {
                name.strip_prefix(field)
                    .is_some_and(|rest| field.is_empty() || rest.starts_with(['.', '[']))
            });
            assert!(inner, "{command}: {field} is not documented");
        }
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    let dot = if field.is_empty() { "" } else { "." };
                    self.walk(command, &format!("{field}{dot}{name}"), value, seen);
                }
            }
            // The members of a plain list have no rows.
            Value::Array(items) if fields.keys().any(|name| name.starts_with(&format!("{field}[]"))) => {
                for item in items {
                    self.walk(command, &format!("{field}[]"), item, seen);
                }
            }
            _ => {}
        }
    }
}

/// Whether a value is of a documented type.
fn fits(kind: &str, value: &Value) -> bool {
    if kind.starts_with('`') {
        return kind.split(", ").any(|name| match name {
            "null" => value.is_null(),
            name => value.as_str() == Some(name.trim_matches('`')),
        });
    }
    let list_of = |test: fn(&Value) -> bool| value.as_array().is_some_and(|items| items.iter().all(test));
    kind.split(" or ").any(|kind| match kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "object" => value.is_object(),
        "list" => value.is_array(),
        "list of integers" => list_of(Value::is_u64),
        "list of strings" => list_of(Value::is_string),
        kind => panic!("{kind} is no type"),
    })
}

/// The one object of a run: a line, and nothing else.
fn object(run: &Run) -> Value {
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines.len() == 1 && run.stdout.ends_with('\n'), "{run:?}");
    let object: Value = serde_json::from_str(lines[0]).unwrap();
    assert!(object.is_object(), "{run:?}");
    object
}

/// `walmend <command> <database> --json`, with a target where the command needs one.
fn run(command: &str, database: &Path) -> Run {
    match command {
        "backup" => {
            let target = with_suffix(database, "-copy");
            let _ = fs::remove_file(&target);
            on(command, database, &[target.to_str().unwrap()])
        }
        "inspect" => on(command, database, &["--frames"]),
        _ => on(command, database, &[]),
    }
}

/// A database whose log has a flipped bit in the middle, with commits behind it.
fn damaged(folder: &TempDir, name: &str) -> PathBuf {
    let whole = crashed(folder, 4096, 40);
    let path = folder.path().join(name);
    copy(&whole, &path);
    flip(&wal_of(&path), 32 + 4120 * 20 + 500);
    path
}

/// Flips a bit as a disk does: without leaving another time.
fn flip(path: &Path, at: usize) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    fs::File::open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn every_field_is_documented_and_every_documented_field_is_there() {
    let documented = Documented::read();
    let folder = tempfile::tempdir().unwrap();
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut note = |command: &str, run: &Run| {
        let fields = documented.check(command, &object(run));
        seen.entry(command.into()).or_default().extend(fields);
    };

    // Healthy, from the first look to the last.
    let path = crashed(&folder, 4096, 40);
    for command in [
        "protect",
        "inspect",
        "verify",
        "heal",
        "scrub",
        "backup",
        "recover",
        "verify",
        "checkpoint",
    ] {
        note(command, &run(command, &path).ends_with(0));
    }
    // Damaged, and healed from parity: the log, then the database file.
    let path = crashed(&folder, 4096, 40);
    run("protect", &path).ends_with(0);
    flip(&wal_of(&path), 32 + 4120 * 20 + 500);
    for command in ["verify", "inspect"] {
        note(command, &run(command, &path).ends_with(1));
    }
    note("recover", &run("recover", &path).ends_with(0));
    run("checkpoint", &path).ends_with(0);
    run("protect", &path).ends_with(0);
    flip(&path, 4096 + 200);
    note("scrub", &run("scrub", &path).ends_with(0));
    // Damaged beyond healing.
    let path = damaged(&folder, "damaged.db");
    for command in ["verify", "inspect", "heal", "scrub", "recover", "protect"] {
        note(command, &run(command, &path).ends_with(1));
    }
    note(
        "recover",
        &on("recover", &path, &["--on-damage", "salvage"]).ends_with(0),
    );
    // Parity of frames that SQLite dropped, and wrote over under the same salts.
    let path = another_history(&folder);
    for command in ["heal", "scrub", "verify"] {
        note(command, &run(command, &path).ends_with(1));
    }
    // A log of another version.
    let path = crashed(&folder, 4096, 5);
    let mut log = fs::read(wal_of(&path)).unwrap();
    log[4..8].copy_from_slice(&3_007_001_u32.to_be_bytes());
    common::seal_header(&mut log);
    fs::write(wal_of(&path), log).unwrap();
    for command in ["verify", "inspect"] {
        note(command, &run(command, &path).ends_with(2));
    }
    note(
        "drill",
        &walmend(["drill", "--kills", "1", "--flips", "2", "--json"]).ends_with(0),
    );
    let bench = ["bench", "--writers", "1,2", "--seconds", "0.1", "--json"];
    note("bench", &walmend(bench).ends_with(0));

    for (command, fields) in &documented.0 {
        let missing: Vec<_> = fields
            .keys()
            .filter(|field| !seen[command].contains(*field))
            .collect();
        let with_frames = missing.iter().all(|field| field.starts_with("wal.frames"));
        assert!(
            missing.is_empty() || (command == "verify" && with_frames),
            "{command} never says {missing:?}"
        );
    }
}

/// A protected log that SQLite recovered after damage, so that it dropped the frames behind, and then went on with.
fn another_history(folder: &TempDir) -> PathBuf {
    let path = crashed(folder, 4096, 40);
    run("protect", &path).ends_with(0);
    flip(&wal_of(&path), 32 + 4120 * 20 + 500);
    let live = new_database(&path, 4096);
    let add = "insert into t(data) values (randomblob(900))";
    for _ in 0..8 {
        live.execute(add, []).unwrap();
    }
    let left = folder.path().join("another.db");
    copy(&path, &left);
    fs::copy(with_suffix(&path, "-wal-fec"), with_suffix(&left, "-wal-fec")).unwrap();
    left
}

#[test]
fn every_command_fails_with_one_object_one_sentence_and_exit_2() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.db");
    let mut runs: Vec<Run> = ON_DATABASES
        .iter()
        .map(|command| run(command, &missing))
        .collect();
    let name = missing.to_str().unwrap();
    runs.push(walmend(["drill", "--json", "--source", name]));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    runs.push(walmend(["bench", "--json", "--dir", file.to_str().unwrap()]));
    for run in runs {
        let run = run.ends_with(2);
        let error = &object(&run)["error"];
        let message = error["message"].as_str().unwrap();
        assert_eq!(run.stderr, format!("walmend: {message}\n"));
        assert_eq!(error.as_object().unwrap().len(), 2, "{run:?}");
        assert!(
            ["not_found", "invalid"].contains(&error["kind"].as_str().unwrap()),
            "{run:?}"
        );
    }
}

#[test]
fn every_usage_error_is_one_object_and_exit_2() {
    let mut lines: Vec<Vec<&str>> = vec![vec!["--json"], vec!["no-such-command", "--json"]];
    for command in ON_DATABASES
        .into_iter()
        .chain(["drill", "bench", "completions", "man"])
    {
        lines.push(vec![command, "--json", "--no-such-option"]);
        lines.push(vec!["--json", command]);
    }
    for command in ON_DATABASES {
        lines.push(vec![command, "--json"]);
        lines.push(vec![command, "a.db", "b.db", "c.db", "--json"]);
    }
    for args in lines {
        let run = walmend(&args).ends_with(2);
        let error = &object(&run)["error"];
        assert_eq!(error["kind"], "usage", "{args:?}: {run:?}");
        let message = error["message"].as_str().unwrap();
        assert!(
            !message.is_empty() && !message.contains('\n'),
            "{args:?}: {run:?}"
        );
        assert!(
            run.stderr.contains("--help") || run.stderr.contains("Usage"),
            "{args:?}: {run:?}"
        );
    }
}

#[test]
fn damage_is_exit_1_for_every_command_that_meets_it() {
    for command in ON_DATABASES {
        let folder = tempfile::tempdir().unwrap();
        let path = damaged(&folder, "damaged.db");
        let run = run(command, &path).ends_with(1);
        object(&run);
        assert_eq!(
            run.stderr.is_empty(),
            ["inspect", "verify"].contains(&command),
            "{command}: the report says it, or one sentence does: {run:?}"
        );
    }
}

#[test]
fn json_keeps_standard_output_to_itself_whatever_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, 10);
    for command in ON_DATABASES {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_walmend"))
            .args([command, path.to_str().unwrap(), "--json"])
            .args((command == "backup").then(|| with_suffix(&path, "-copy")))
            .env("WALMEND_LOG", "trace")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "{command}: {text}");
    }
}
