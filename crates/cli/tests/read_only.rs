//! A database on a file system that is mounted read-only: looking works, changing is refused by name. It needs root;
//! elsewhere this test says so and passes.

mod common;

use common::{contents, new_database, on, wal_of};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use walmend::{ErrorKind, Options, Store};

/// A folder, seen a second time through a read-only mount.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, with a word why, where this machine does not allow it.
    #[expect(clippy::print_stdout, reason = "a test that was skipped says so")]
    fn make(folder: &Path, at: &Path) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mount = |args: &[&Path]| {
            let output = Command::new("mount").args(args).output();
            let output = output.map_err(|error| error.to_string())?;
            match output.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            }
        };
        if let Err(why) = mount(&[Path::new("--bind"), folder, at]) {
            println!("skipped, nothing can be mounted here: {why}");
            return None;
        }
        let mounted = Self(at.to_path_buf());
        mount(&[Path::new("-o"), Path::new("remount,ro,bind"), at]).unwrap();
        Some(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn on_read_only_media_looking_works_and_changing_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (real, seen) = (folder.path().join("real"), folder.path().join("seen"));
    fs::create_dir(&real).unwrap();
    // One that SQLite left with a log, one of walmend's with all its files, and one without any log.
    let live = folder.path().join("live.db");
    let connection = new_database(&live, 4096);
    connection
        .execute_batch("create table t(id integer); insert into t values (1)")
        .unwrap();
    fs::copy(&live, real.join("sqlite.db")).unwrap();
    fs::copy(wal_of(&live), real.join("sqlite.db-wal")).unwrap();
    drop(connection);
    let (store, _) = Store::open(real.join("ours.db"), Options::new()).unwrap();
    let mut txn = store.begin().unwrap();
    txn.write(walmend::PageNumber::new(1).unwrap(), vec![7; 4096])
        .unwrap();
    txn.commit().into_result().unwrap();
    store.close().unwrap();
    fs::copy(&live, real.join("bare.db")).unwrap();
    on("protect", &real.join("ours.db"), &[]).ends_with(0);

    let Some(mounted) = Mounted::make(&real, &seen) else {
        return;
    };
    let before = contents(&real);
    for name in ["sqlite.db", "ours.db", "bare.db"] {
        let db = mounted.0.join(name);
        on("inspect", &db, &["--frames"]).ends_with(0);
        on("verify", &db, &[]).ends_with(0);
        let target = folder.path().join(format!("backup-of-{name}"));
        on("backup", &db, &[target.to_str().unwrap()]).ends_with(0);
        for command in ["recover", "checkpoint", "protect", "heal", "scrub"] {
            let run = on(command, &db, &[]).ends_with(2);
            assert_eq!(run.json()["error"]["kind"], "read_only", "{command}: {run:?}");
            assert!(run.stderr.contains(name), "{command}: {run:?}");
        }
        for create in [true, false] {
            let error = Store::open(&db, Options::new().create(create)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
            assert!(error.to_string().contains(name), "{error}");
            assert!(error.recovery_hint().contains("work on a copy"), "{error}");
        }
    }
    // A name that does not exist yet cannot be created either.
    let error = Store::open(mounted.0.join("new.db"), Options::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert!(error.to_string().contains("new.db"), "{error}");
    assert!(contents(&real) == before, "nothing was changed");
}
