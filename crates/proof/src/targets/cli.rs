//! Any bytes as the files of a database under every command that works on one: exit status 0, 1 or 2, no panic,
//! and what only looks changes nothing.

use super::input::Input;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

const SUFFIXES: [&str; 4] = ["", "-wal", "-wal-meta", "-wal-fec"];

const COMMANDS: [&[&str]; 12] = [
    &["inspect"],
    &["inspect", "--frames"],
    &["verify"],
    &["verify", "--writer-synced-every-commit"],
    &["protect"],
    &["heal"],
    &["recover"],
    &["recover", "--on-damage", "salvage"],
    &[
        "recover",
        "--on-damage",
        "truncate",
        "--writer-synced-every-commit",
    ],
    &["checkpoint"],
    &["checkpoint", "--mode", "restart"],
    &["checkpoint", "--mode", "passive"],
];

/// The first byte says which commands are run, one after the other; the second, which files are there.
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let commands = [input.byte(), 0, input.byte()];
    let there = input.byte();
    let contents: [&[u8]; 4] = input.files();
    // In memory where that can be had: nothing here is about the disk.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let folder = folder.expect("a folder");
    let db = folder.path().join("any.db");
    for (number, (suffix, bytes)) in SUFFIXES.iter().zip(contents).enumerate() {
        if there & (1 << number) == 0 {
            fs::write(folder.path().join(format!("any.db{suffix}")), bytes).expect("written");
        }
    }
    // Each run ends with a look at what the commands before it left.
    for command in commands.map(|byte| COMMANDS[usize::from(byte) % COMMANDS.len()]) {
        let before = files(folder.path());
        let mut args: Vec<OsString> = vec!["walmend".into(), command[0].into(), db.clone().into()];
        args.extend(command[1..].iter().map(OsString::from));
        args.push("--json".into());
        let code = walmend_cli::main(args);
        assert!(code <= 2, "{command:?} answered {code}");
        let refused = command[0] == "recover" && code == 1;
        if refused || matches!(command[0], "inspect" | "verify") {
            assert!(files(folder.path()) == before, "{command:?} changed a file");
        }
    }
}

fn files(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder");
    let entries = entries.map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| (entry.file_name(), fs::read(entry.path()).expect("read")))
        .collect()
}
