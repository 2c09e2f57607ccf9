//! The bench: that it measures something, says it in the agreed words, and tidies up. How fast it is is no
//! matter for a test.

mod common;

use common::{Run, walmend};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A short bench in `folder`.
fn bench(folder: &Path, more: &[&str]) -> Run {
    let dir = folder.to_str().unwrap();
    walmend([&["bench", "--json", "--seconds", "0.6", "--dir", dir], more].concat())
}

/// The rows, each checked for what must hold on any machine.
fn rows(run: Run, writers: &[u64]) -> Vec<Value> {
    let report = run.ends_with(0).json();
    let rows = report["rows"].as_array().unwrap().clone();
    let found: Vec<u64> = rows.iter().map(|row| row["writers"].as_u64().unwrap()).collect();
    assert_eq!(found, writers);
    for row in &rows {
        let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name}: {row}"));
        assert!(number("commits_per_second") > 0.0, "{row}");
        assert!(number("raw_commits_per_second") > 0.0, "{row}");
        let ratio = number("commits_per_second") / number("raw_commits_per_second");
        assert!((number("ratio") / ratio - 1.0).abs() < 1e-9, "{row}");
        assert!(number("p50_us") > 0.0, "{row}");
        assert!(
            number("p50_us") <= number("p99_us") && number("p99_us") <= number("max_us"),
            "{row}"
        );
        let syncs = number("syncs_per_commit");
        // A batch may be counted a moment after its writers have gone on.
        assert!(syncs > 0.0 && syncs < 1.1, "{row}");
        assert!((0.0..=1.0).contains(&number("least_over_most")), "{row}");
        let direct = row["raw_direct_commits_per_second"].as_f64().unwrap_or(0.0);
        let best = number("raw_buffered_commits_per_second").max(direct);
        assert_eq!(number("raw_commits_per_second"), best);
        let kind = row["raw_kind"].as_str().unwrap();
        assert_eq!(kind == "direct", direct == best, "{row}");
    }
    rows
}

#[test]
fn json_has_the_agreed_fields_with_sane_values_and_the_folder_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("other"), "x").unwrap();
    let run = bench(folder.path(), &["--writers", "1,3"]);
    assert_eq!(run.stdout.lines().count(), 1, "{run:?}");
    let rows = rows(run, &[1, 3]);
    assert_eq!(
        rows[0]["syncs_per_commit"], 1.0,
        "a lone writer syncs every commit"
    );
    let names: BTreeSet<&str> = rows[0].as_object().unwrap().keys().map(String::as_str).collect();
    let agreed = [
        "writers",
        "commits_per_second",
        "p50_us",
        "p99_us",
        "max_us",
        "syncs_per_commit",
        "raw_commits_per_second",
        "ratio",
    ];
    let more = [
        "raw_kind",
        "raw_buffered_commits_per_second",
        "raw_direct_commits_per_second",
        "least_over_most",
    ];
    assert_eq!(names, agreed.into_iter().chain(more).collect());
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["other"]);
}

#[test]
fn tasks_several_pages_and_other_page_sizes_can_be_measured() {
    let folder = tempfile::tempdir().unwrap();
    for page_size in ["512", "65536"] {
        let more = [
            "--async",
            "--writers",
            "5",
            "--pages-per-commit",
            "3",
            "--page-size",
            page_size,
        ];
        rows(bench(folder.path(), &more), &[5]);
    }
}

#[test]
fn people_get_a_table_bars_and_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("bench.svg");
    let run = walmend([
        "bench",
        "--seconds",
        "0.6",
        "--writers",
        "1,2",
        "--dir",
        // A folder that is not there yet is made.
        folder.path().join("new").to_str().unwrap(),
        "--svg",
        svg.to_str().unwrap(),
    ])
    .ends_with(0);
    for word in [
        "commits/s",
        "p99 us",
        "syncs/commit",
        "raw limit/s",
        "least/most",
        "█",
    ] {
        assert!(run.stdout.contains(word), "{word}: {run:?}");
    }
    assert!(!run.stdout.contains('\u{1b}'), "no colour in a pipe: {run:?}");
    assert_eq!(run.stderr, "");
    let picture = fs::read_to_string(svg).unwrap();
    assert!(
        picture.starts_with("<svg ") && picture.contains(">walmend<"),
        "{picture}"
    );
    assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 0);
}

#[test]
fn bad_arguments_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    for (more, said) in [
        (&["--writers", "0"][..], "--writers"),
        (&["--writers", "1,x"], "--writers"),
        (&["--writers", ""], "--writers"),
        (&["--seconds", "0"], "--seconds"),
        (&["--seconds", "nan"], "--seconds"),
        (&["--pages-per-commit", "0"], "--pages-per-commit"),
        (&["--page-size", "1000"], "1000"),
        (
            &["--writers", "1024", "--pages-per-commit", "1024"],
            "take less of one of them",
        ),
    ] {
        let run = bench(folder.path(), more).ends_with(2);
        assert!(run.stderr.contains(said), "{more:?}: {run:?}");
        assert!(
            run.json()["error"]["message"].as_str().unwrap().contains(said),
            "{run:?}"
        );
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let run = bench(&file, &[]).ends_with(2);
    assert!(run.stderr.contains(file.to_str().unwrap()), "{run:?}");
}

#[test]
fn an_interrupted_bench_leaves_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_walmend"))
        .args(["bench", "--seconds", "600"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let has_database = || {
        let folders = fs::read_dir(folder.path()).unwrap().flatten();
        folders
            .into_iter()
            .any(|entry| entry.path().join("0/bench.db-wal").exists())
    };
    while !has_database() {
        assert_eq!(bench.try_wait().unwrap(), None, "it ended by itself");
        walmend_sync::thread::sleep(Duration::from_millis(10));
    }
    kill(Pid::from_raw(i32::try_from(bench.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(bench.wait().unwrap().code(), Some(128 + Signal::SIGINT as i32));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
