//! That names are made durable: the system calls of `UnixVfs`, as strace sees them. Where there is no strace, or it may not
//! look, this test says so and passes.
#![cfg(not(walmend_loom))]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use walmend_types::SyncMode;
use walmend_vfs::{OpenFlags, UnixVfs, Vfs};

const FOLDER: &str = "WALMEND_TEST_FOLDER";
const TEST: &str = "every_call_that_makes_or_takes_a_name_syncs_the_directory_before_it_returns";

/// What is traced.
fn play(folder: &Path) {
    let vfs = UnixVfs::new();
    let [here, there] = ["here", "there"].map(|name| folder.join(name));
    let file = vfs.open(&here.join("a"), OpenFlags::CREATE_NEW).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync(SyncMode::Full).unwrap();
    // It is there by now, but whoever made it may have been killed before its own sync.
    drop(vfs.open(&here.join("a"), OpenFlags::CREATE).unwrap());
    vfs.rename(&here.join("a"), &here.join("b")).unwrap();
    vfs.rename(&here.join("b"), &there.join("b")).unwrap();
    vfs.rename_new(&there.join("b"), &there.join("c")).unwrap();
    vfs.remove(&there.join("c")).unwrap();
    vfs.remove(&there.join("never was")).unwrap();
}

/// What a line of strace's says of a name in the folder, or of a sync, in short: `create here/a`, `sync here`. Failed
/// calls, and those of files elsewhere, say nothing.
fn event(line: &str, folder: &str) -> Option<String> {
    let call = line.split_once(' ').map_or(line, |(_, call)| call).trim_start();
    let (name, rest) = call.split_once('(')?;
    let names: Vec<&str> = rest
        .split(['"', '<', '>'])
        .filter_map(|part| part.strip_prefix(folder))
        .map(|part| part.trim_start_matches('/'))
        .collect();
    let first = names.first()?;
    let last = names.last()?;
    let done = !rest.contains("= -1") || rest.contains("ENOENT");
    match name {
        "open" | "openat" if rest.contains("O_CREAT") => Some(format!("create {first}")),
        "rename" | "renameat" | "renameat2" if done => Some(format!("rename {first} {last}")),
        "unlink" | "unlinkat" if done => Some(format!("remove {first}")),
        "fsync" | "fdatasync" if done => Some(format!("sync {first}")),
        _ => None,
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "a test that was skipped says so")]
fn every_call_that_makes_or_takes_a_name_syncs_the_directory_before_it_returns() {
    if let Some(folder) = env::var_os(FOLDER) {
        play(&PathBuf::from(folder));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    for name in ["here", "there"] {
        std::fs::create_dir(path.join(name)).unwrap();
    }
    let traced = path.join("trace");
    let calls = "trace=open,openat,rename,renameat,renameat2,unlink,unlinkat,fsync,fdatasync";
    let output = Command::new("strace")
        .args(["-f", "-y", "-s", "4096", "-e", calls, "-o"])
        .arg(&traced)
        .arg(env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(FOLDER, &path)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return println!("skipped, no strace: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && said.contains("ptrace") {
        return println!("skipped, strace may not look here: {said}");
    }
    assert!(output.status.success(), "{said}");
    let trace = std::fs::read_to_string(&traced).unwrap();
    let events: Vec<String> = trace
        .lines()
        .filter_map(|line| event(line, path.to_str().unwrap()))
        .collect();
    assert_eq!(
        events,
        [
            "create here/a",
            "sync here",
            "sync here/a",
            "create here/a",
            "sync here",
            "rename here/a here/b",
            "sync here",
            "rename here/b there/b",
            // The new name first: between the two the file may have both names, but never none.
            "sync there",
            "sync here",
            "rename there/b there/c",
            "sync there",
            "remove there/c",
            "sync there",
            "remove there/never was",
            "sync there",
        ],
        "{trace}"
    );
}
