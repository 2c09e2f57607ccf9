//! The drill itself: short here, and in `cargo xtask torture` long.

mod common;

use common::{Run, contents, copy, digests, new_database, sqlite_recovers, walmend};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::Connection;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Checks what every good report says.
fn passed(run: Run, kills: u64) -> Value {
    let report = run.ends_with(0).json();
    for (name, value) in [("lost", 0), ("torn", 0), ("kills", kills)] {
        assert_eq!(report[name], value, "{name}: {report}");
    }
    assert_eq!(report["identical"], true);
    assert!(report["acknowledged"].as_u64().unwrap() > kills, "{report}");
    assert!(report["commits"].as_u64() >= report["acknowledged"].as_u64());
    assert!(report["commits_per_second"].as_f64().unwrap() > 0.0);
    assert!(report["syncs_per_commit"].as_f64().unwrap() > 0.0);
    assert!(report["syncs_per_commit"].as_f64().unwrap() <= 1.0);
    let flips = &report["flips"];
    assert_eq!((&report["flips_found"], &report["flips_healed"]), (flips, flips));
    assert!(report["flips_in_database"].as_u64().unwrap() > 0, "{report}");
    let window = |name: &str| report["repair_window_us"][name].as_u64().unwrap();
    assert!(0 < window("p50") && window("p50") <= window("p99") && window("p99") <= window("max"));
    report
}

#[test]
fn nothing_is_lost_by_five_kills() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("drill.svg");
    let picture = svg.to_str().unwrap();
    let report = passed(
        walmend(["drill", "--kills", "5", "--seed", "7", "--json", "--svg", picture]),
        5,
    );
    let picture = fs::read_to_string(&svg).unwrap();
    assert!(
        picture.starts_with("<svg ") && picture.contains("0 lost in 5 kills"),
        "{picture}"
    );
    assert_eq!(report["seed"], 7);
    assert_eq!(report["flips"], 32, "16 in the log and 16 in the database file");
    assert_eq!(report["flips_in_database"], 16);
    assert_eq!(report["result"], Value::Null, "the temporary folder is gone");
}

#[test]
fn people_get_a_report_and_a_tidy_temporary_folder() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_walmend"))
        .args(["drill", "--kills", "1", "--writers", "3"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Nothing was lost."), "{text}");
    assert!(text.contains("identical to the source"), "{text}");
    assert!(
        text.contains("16 bits in the log and 16 in the database file, 32 found, 32 healed"),
        "{text}"
    );
    assert!(text.contains(folder.path().to_str().unwrap()), "{text}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A database of at least 10 MB with tables, indexes, blobs and a half-full log, left open by its writer.
fn real_database(path: &Path) -> Connection {
    let connection = new_database(path, 4096);
    connection
        .execute_batch(
            "create table people(id integer primary key, name text not null, born real);
             create index people_by_name on people(name);
             create table pictures(id integer primary key, person integer references people, data blob);
             begin;
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
             insert into people(name, born) select 'name ' || (i * 7919 % 20000), i * 0.5 from n;
             commit;
             begin;
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 900)
             insert into pictures(person, data) select i, randomblob(1000 + i * 23) from n;
             commit;",
        )
        .unwrap();
    connection
        .query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))
        .unwrap();
    connection
        .execute_batch(
            "update people set born = born + 1 where id % 100 = 0; delete from pictures where id % 50 = 0;",
        )
        .unwrap();
    connection
}

#[test]
fn the_pages_of_a_real_database_arrive_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("real.db");
    let connection = real_database(&path);
    let dir = folder.path().join("drill");
    let before = digests(folder.path());
    // The database is in use, and part of it is in its log: the drill takes what is committed.
    let run = walmend([
        "drill",
        "--json",
        "--kills",
        "3",
        "--source",
        path.to_str().unwrap(),
        "--dir",
        dir.to_str().unwrap(),
    ]);
    let report = passed(run, 3);
    assert_eq!(report["result"], dir.to_str().unwrap());
    assert_eq!(digests(folder.path()), before, "the source was only read");

    let expected = folder.path().join("expected.db");
    copy(&path, &expected);
    sqlite_recovers(&expected);
    drop(connection);
    let expected = fs::read(&expected).unwrap();
    assert!(expected.len() >= 10_000_000, "{}", expected.len());
    let result = dir.join("drill.db");
    assert!(fs::read(&result).unwrap() == expected);
    let connection = Connection::open(&result).unwrap();
    let verdict: String = connection
        .query_row("pragma integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
}

#[test]
fn small_and_odd_databases_can_be_drilled_with() {
    for page_size in [512, 65536] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.db");
        let connection = new_database(&path, page_size);
        connection
            .execute_batch("create table t(a); insert into t values (1)")
            .unwrap();
        drop(connection);
        let run = walmend([
            "drill",
            "--json",
            "--kills",
            "2",
            "--source",
            path.to_str().unwrap(),
        ]);
        assert_eq!(passed(run, 2)["page_size"], page_size);
    }
}

#[test]
fn a_folder_that_holds_something_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("precious"), "x").unwrap();
    let before = contents(folder.path());
    let run = walmend(["drill", "--json", "--dir", folder.path().to_str().unwrap()]).ends_with(2);
    assert!(run.stderr.contains("is not empty"), "{run:?}");
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn the_child_command_is_for_the_drill_alone() {
    let run = walmend(["drill-child"]).ends_with(2);
    assert!(run.stderr.contains("walmend drill"), "{run:?}");
}

#[test]
fn an_interrupted_drill_leaves_neither_child_nor_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut drill = Command::new(env!("CARGO_BIN_EXE_walmend"))
        .args(["drill", "--kills", "1000"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(drill.id()).unwrap());
    let mut lines = BufReader::new(drill.stdout.take().unwrap()).lines();
    // The first row of the table: a child has lived by now, and another one is at work or about to be.
    assert!(lines.any(|line| line.unwrap().trim_start().starts_with("1 ")));
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(drill.wait().unwrap().code(), Some(128 + Signal::SIGTERM as i32));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let children = Command::new("pgrep").args(["-P", &pid.to_string()]).output();
    if let Ok(children) = children {
        assert!(children.stdout.is_empty(), "{children:?}");
    }
}

#[test]
fn a_drill_that_is_killed_itself_takes_its_child_along() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("drill");
    let mut drill = Command::new(env!("CARGO_BIN_EXE_walmend"))
        .args(["drill", "--kills", "1000", "--dir", dir.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(drill.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().trim_start().starts_with("1 ")));
    drill.kill().unwrap();
    drill.wait().unwrap();
    // The child sees its pipe closed and ends; then nobody has the database open. It would go on forever.
    let gone = (0..600).any(|_| {
        walmend_sync::thread::sleep(std::time::Duration::from_millis(100));
        walmend(["recover", dir.join("drill.db").to_str().unwrap()]).code == 0
    });
    assert!(gone, "the child is still at work");
}
