//! What cannot be done gets one clear sentence and exit 2, no panic, and changes nothing.

mod common;

use common::{Run, contents, crashed, on, rows, seal_header, wal_of, walmend};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const COMMANDS: [&str; 4] = ["inspect", "verify", "recover", "checkpoint"];

/// Runs a command that must fail, and checks what every failure has in common.
fn fails(command: &str, path: &Path, kind: &str, says: &str) -> Run {
    let folder = path.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap();
    let before = contents(folder);
    let run = on(command, path, &[]).ends_with(2);
    assert_eq!(contents(folder), before, "{command}: something changed");
    let error = run.json()["error"].clone();
    assert_eq!(error["kind"], kind, "{command}: {run:?}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(says), "{command}: {run:?}");
    assert_eq!(
        run.stderr,
        format!("walmend: {message}\n"),
        "{command}: one sentence"
    );
    run
}

#[test]
fn what_is_no_database_is_refused_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, 5);
    let header = fs::read(&path).unwrap();
    let with = |name: &str, content: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let mut page_size_0 = header.clone();
    page_size_0[16..18].copy_from_slice(&[0, 0]);
    let mut page_size_odd = header.clone();
    page_size_odd[16..18].copy_from_slice(&1000u16.to_be_bytes());
    let directory = folder.path().join("directory.db");
    fs::create_dir(&directory).unwrap();
    let cases = [
        (
            with("garbage.db", &[0x5a; 8192]),
            "not_a_database",
            "is not a database",
        ),
        (with("text.db", b"hello\n"), "not_a_database", "is not a database"),
        (directory, "not_a_database", "it is a directory"),
        (folder.path().join("missing.db"), "not_found", "does not exist"),
        (
            folder.path().join("no/such/folder.db"),
            "not_found",
            "does not exist",
        ),
        (with("empty.db", b""), "not_a_database", "empty"),
        (with("truncated.db", &header[..60]), "not_a_database", "60 bytes"),
        (
            with("page-size-0.db", &page_size_0),
            "not_a_database",
            "page size 0",
        ),
        (
            with("page-size-1000.db", &page_size_odd),
            "not_a_database",
            "page size 1000",
        ),
        (
            wal_of(&path),
            "not_a_database",
            "give the path of the main database file",
        ),
    ];
    for (path, kind, says) in cases {
        for command in COMMANDS {
            fails(command, &path, kind, says);
        }
        let dir = folder.path().join("drill");
        let run = walmend([
            "drill",
            "--json",
            "--dir",
            dir.to_str().unwrap(),
            "--source",
            path.to_str().unwrap(),
        ])
        .ends_with(2);
        assert_eq!(run.json()["error"]["kind"], kind, "{run:?}");
        let _ = fs::remove_dir_all(dir);
    }
}

#[test]
fn a_log_of_another_version_is_shown_but_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, 5);
    let log = fs::read(wal_of(&path)).unwrap();
    fs::write(wal_of(&path), of_version(&log, 3_007_001)).unwrap();
    for command in COMMANDS {
        let run = fails(command, &path, "unsupported_version", "3007001, expected 3007000");
        if ["inspect", "verify"].contains(&command) {
            assert_eq!(run.json()["wal"]["header"], "unsupported_version");
            assert_eq!(run.json()["wal"]["page_size"], 4096);
        }
    }
    let connection = rusqlite::Connection::open(&path).unwrap();
    let refused = connection.query_row("select count(*) from t", [], |row| row.get::<_, i64>(0));
    assert!(refused.is_err(), "SQLite refuses it as well");
}

/// The log with another version in its header, and the checksum that goes with it.
fn of_version(log: &[u8], version: u32) -> Vec<u8> {
    let mut log = log.to_vec();
    log[4..8].copy_from_slice(&version.to_be_bytes());
    seal_header(&mut log);
    log
}

#[test]
fn a_log_with_other_pages_than_the_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, 5);
    let other = tempfile::tempdir().unwrap();
    fs::copy(wal_of(&crashed(&other, 1024, 5)), wal_of(&path)).unwrap();
    for command in ["recover", "checkpoint"] {
        fails(command, &path, "not_a_database", "pages of 1024 bytes");
    }
}

#[test]
fn an_unfinished_rollback_is_left_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, 5);
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    journal.resize(1024, 1);
    fs::write(common::with_suffix(&path, "-journal"), journal).unwrap();
    for command in COMMANDS {
        fails(command, &path, "not_a_database", "sqlite3");
    }
}

#[test]
fn usage_errors_are_told_in_json_too() {
    for args in [
        &["verify", "--json"][..],
        &["verify", "--json", "--no-such-option", "a.db"],
        &["recover", "--json", "--on-damage", "pray", "a.db"],
        &["checkpoint", "--json", "--mode", "sideways", "a.db"],
        &["drill", "--json", "--writers", "0"],
        &["no-such-command", "--json"],
    ] {
        let run = walmend(args).ends_with(2);
        assert_eq!(run.json()["error"]["kind"], "usage", "{run:?}");
        assert!(!run.json()["error"]["message"].as_str().unwrap().is_empty());
        assert!(
            run.stderr.contains("Usage") || run.stderr.contains("--help"),
            "{run:?}"
        );
    }
}

#[test]
fn every_help_teaches_with_an_example() {
    for command in COMMANDS.into_iter().chain(["drill"]) {
        let run = walmend([command, "--help"]).ends_with(0);
        assert!(run.stdout.contains("Example") && run.stdout.contains(&format!("walmend {command}")));
    }
    assert!(walmend(["--help"]).ends_with(0).stdout.contains("Exit status"));
    assert!(!walmend(["--help"]).stdout.contains("drill-child"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 512, 2000);
    let shell = format!(
        "{} inspect {} --frames | head -n 1; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_walmend"),
        path.display()
    );
    let output = Command::new("bash").args(["-c", &shell]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("\n0\n"), "{text}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_full_standard_output_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, 5);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_walmend"))
        .args(["inspect", path.to_str().unwrap()])
        .stdout(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2));
}

/// Something that has to be undone whatever happens.
struct Undo(Command);

impl Drop for Undo {
    fn drop(&mut self) {
        let undone = self.0.status();
        assert!(undone.is_ok_and(|status| status.success()), "{:?}", self.0);
    }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// Runs a command that needs root; `false`, with a notice, where it cannot be done.
#[expect(clippy::print_stderr, reason = "a test that is left out must say so")]
fn as_root(words: &[&str]) -> bool {
    let output = command(words).output();
    let done = output.as_ref().is_ok_and(|output| output.status.success());
    if !done {
        eprintln!("left out: {words:?} cannot be done here: {output:?}");
    }
    done
}

#[test]
fn a_read_only_file_is_read_but_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, 5);
    let name = path.to_str().unwrap();
    let mut mode = fs::metadata(&path).unwrap().permissions();
    mode.set_readonly(true);
    fs::set_permissions(&path, mode).unwrap();
    // Root may write to any file but an immutable one.
    let root = fs::File::options().write(true).open(&path).is_ok();
    if root && !as_root(&["chattr", "+i", name]) {
        return;
    }
    let _undo = root.then(|| Undo(command(&["chattr", "-i", name])));
    on("inspect", &path, &[]).ends_with(0);
    on("verify", &path, &[]).ends_with(0);
    for command in ["recover", "checkpoint"] {
        fails(command, &path, "read_only", "it is read-only");
    }
}

#[test]
fn a_full_disk_is_told_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    let mounted = folder.path().join("disk");
    fs::create_dir(&mounted).unwrap();
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let (disk, place) = (image.to_str().unwrap(), mounted.to_str().unwrap());
    if !as_root(&["mkfs.ext4", "-q", "-m", "0", disk]) || !as_root(&["mount", "-o", "loop", disk, place]) {
        return;
    }
    let _undo = Undo(command(&["umount", place]));

    let made = tempfile::tempdir().unwrap();
    let source = crashed(&made, 4096, 400);
    let path = mounted.join("a.db");
    common::copy(&source, &path);
    let ballast = mounted.join("ballast");
    // Writes until nothing more fits, to the last block.
    let filled = Command::new("dd")
        .args(["if=/dev/zero", &format!("of={}", ballast.display()), "bs=4096"])
        .output()
        .unwrap();
    assert!(!filled.status.success(), "the disk is full");

    let data = |path: &Path| (fs::read(path).unwrap(), fs::read(wal_of(path)).unwrap());
    let before = data(&path);
    on("inspect", &path, &[]).ends_with(0);
    on("verify", &path, &[]).ends_with(0);
    for command in ["recover", "checkpoint"] {
        let run = on(command, &path, &[]).ends_with(2);
        assert_eq!(run.json()["error"]["kind"], "full", "{run:?}");
        assert!(run.stderr.contains("no room left"), "{run:?}");
        assert!(data(&path) == before, "{command}: database or log changed");
    }
    let dir = mounted.join("drill");
    let run = walmend(["drill", "--json", "--dir", dir.to_str().unwrap()]).ends_with(2);
    assert_eq!(run.json()["error"]["kind"], "full", "{run:?}");
    let _ = fs::remove_dir_all(dir);

    fs::remove_file(ballast).unwrap();
    on("checkpoint", &path, &[]).ends_with(0);
    assert_eq!(rows(&path), 399, "with room, everything is still there");
}
