//! Databases that somebody has open: looking is free, changing is refused and says who is in the way.

mod common;

use common::{contents, digests, new_database, on, walmend};
use std::fs;
use walmend::{Options, PageNumber, Store};
use walmend_sync::atomic::{AtomicBool, Ordering};
use walmend_sync::thread;

#[test]
fn a_database_that_sqlite_has_open_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let connection = new_database(&path, 4096);
    connection.execute_batch("create table t(id integer)").unwrap();
    let before = digests(folder.path());
    for command in ["recover", "checkpoint"] {
        let run = on(command, &path, &[]).ends_with(2);
        assert_eq!(run.json()["error"]["kind"], "locked");
        let pid = std::process::id().to_string();
        assert!(
            run.stderr.contains(&pid) && run.stderr.contains("SQLite"),
            "{run:?}"
        );
    }
    on("inspect", &path, &[]).ends_with(0);
    on("verify", &path, &[]).ends_with(0);
    assert_eq!(digests(folder.path()), before);
    drop(connection);
    on("recover", &path, &[]).ends_with(0);
}

#[test]
fn a_live_store_can_be_inspected_while_it_commits_and_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (store, _) = Store::open(&path, Options::new()).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut round: u32 = 0;
            while !over.load(Ordering::Relaxed) {
                round += 1;
                let mut txn = store.begin().unwrap();
                for page in 1..=5 {
                    let image = vec![(round % 251) as u8; 4096];
                    txn.write(PageNumber::new(page).unwrap(), image).unwrap();
                }
                txn.commit().into_result().unwrap();
                if round.is_multiple_of(50) {
                    let mode = match round % 100 {
                        0 => walmend::CheckpointMode::Truncate,
                        _ => walmend::CheckpointMode::Restart,
                    };
                    store.checkpoint(mode).unwrap();
                }
            }
        });
        let looks: Vec<_> = (0..40).map(|_| on("verify", &path, &[])).collect();
        let blocked: Vec<_> = ["recover", "checkpoint"]
            .map(|command| on(command, &path, &[]))
            .into();
        over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        for look in looks {
            let report = look.ends_with(0).json();
            assert_eq!(report["database"]["page_size"], 4096);
        }
        for run in blocked {
            let run = run.ends_with(2);
            assert_eq!(run.json()["error"]["kind"], "locked");
            assert!(run.stderr.contains("walmend store"), "{run:?}");
        }
    });
    store.close().unwrap();
    on("verify", &path, &[]).ends_with(0);
    on("checkpoint", &path, &[]).ends_with(0);
}

#[test]
fn what_has_no_log_gets_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("create table t(id integer)").unwrap();
    drop(connection);
    let before = contents(folder.path());
    assert_eq!(on("recover", &path, &[]).ends_with(0).json()["decision"], "clean");
    assert_eq!(on("checkpoint", &path, &[]).ends_with(0).json()["frames"], 0);
    assert_eq!(
        on("verify", &path, &[]).ends_with(0).json()["wal"],
        serde_json::Value::Null
    );
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn tracing_goes_to_standard_error_if_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = common::crashed(&folder, 4096, 5);
    assert_eq!(on("recover", &path, &[]).ends_with(0).stderr, "");
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_walmend"))
        .args(["recover", path.to_str().unwrap(), "--json"])
        .env("WALMEND_LOG", "debug")
        .output()
        .unwrap();
    assert!(run.status.success());
    assert!(
        String::from_utf8(run.stderr)
            .unwrap()
            .contains("walmend::wal::recovery")
    );
    assert!(serde_json::from_slice::<serde_json::Value>(&run.stdout).is_ok());
    let text = walmend(["recover", path.to_str().unwrap()]).ends_with(0).stdout;
    assert!(
        !text.contains('\u{1b}'),
        "no colours where nobody sees them: {text:?}"
    );
    assert!(fs::metadata(&path).is_ok());
}
