//! What only the machine's own file system can show.

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use walmend_vfs::{
    ErrorKind, LockHolder, LockKind, LockRange, OpenFlags, ReadSource, SyncMode, UnixVfs, Vfs,
};

/// Names the file to lock, in a child of a test.
const CHILD: &str = "WALMEND_VFS_TEST_LOCK";

fn kind<T>(result: walmend_vfs::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.kind(),
    }
}

/// Starts this test program again, as a process that runs only the named test, which plays the child.
fn child(test: &str, path: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains("the child is ready")),
        "the child ended early"
    );
    child
}

/// In the child: says that all is prepared, and stays until the parent closes the pipe.
fn wait_for_parent() {
    std::io::stdout().write_all(b"\nthe child is ready\n").unwrap();
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_holder_of_a_posix_lock_is_named_by_its_pid() {
    if let Some(path) = std::env::var_os(CHILD) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: LockRange::SHARED.start as libc::off_t,
            l_len: LockRange::SHARED.len as libc::off_t,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_SETLK(&lock)).unwrap();
        return wait_for_parent();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let file = UnixVfs::new().open(&path, OpenFlags::CREATE).unwrap();
    let child = child("the_holder_of_a_posix_lock_is_named_by_its_pid", &path);
    let holder = file.lock_holder(LockRange::SHARED, LockKind::Shared).unwrap();
    assert_eq!(
        holder,
        Some(LockHolder {
            pid: Some(child.id())
        })
    );
    assert!(!file.try_lock(LockRange::SHARED, LockKind::Shared).unwrap());
    assert!(file.try_lock(LockRange::PENDING, LockKind::Exclusive).unwrap());
    end(child);
    assert!(file.try_lock(LockRange::SHARED, LockKind::Exclusive).unwrap());
}

#[test]
fn the_locks_of_a_killed_process_are_gone() {
    if let Some(path) = std::env::var_os(CHILD) {
        let file = UnixVfs::new().open(Path::new(&path), OpenFlags::WRITE).unwrap();
        assert!(file.try_lock(LockRange::PENDING, LockKind::Exclusive).unwrap());
        return wait_for_parent();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let file = UnixVfs::new().open(&path, OpenFlags::CREATE).unwrap();
    let mut child = child("the_locks_of_a_killed_process_are_gone", &path);
    assert!(!file.try_lock(LockRange::PENDING, LockKind::Shared).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(file.try_lock(LockRange::PENDING, LockKind::Exclusive).unwrap());
}

#[test]
fn a_directory_or_a_pipe_is_not_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let vfs = UnixVfs::new();
    for flags in [OpenFlags::READ, OpenFlags::WRITE, OpenFlags::CREATE] {
        let error = vfs.open(folder.path(), flags).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotADatabase);
        assert!(error.to_string().contains("it is a directory"), "{error}");
    }
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    for flags in [OpenFlags::READ, OpenFlags::WRITE] {
        assert_eq!(kind(vfs.open(&pipe, flags)), ErrorKind::NotADatabase);
    }
    assert!(!vfs.info(&pipe).unwrap().unwrap().regular);
}

#[test]
fn a_file_that_can_only_be_read_is_refused_for_writing() {
    // The kernel lets nobody write this one, root included, whatever the file system of the tests.
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let vfs = UnixVfs::new();
    for flags in [OpenFlags::WRITE, OpenFlags::CREATE] {
        assert_eq!(kind(vfs.open(path, flags)), ErrorKind::ReadOnly);
    }
    let file = vfs.open(path, OpenFlags::READ).unwrap();
    let mut id = [0; 36];
    file.read_exact_at(&mut id, 0).unwrap();
    assert_eq!(vfs.boot_id().as_bytes(), id);
}

#[test]
fn links_are_followed_and_resolved() {
    let folder = tempfile::tempdir().unwrap();
    let vfs = UnixVfs::new();
    fs::create_dir(folder.path().join("real")).unwrap();
    let (real, link) = (folder.path().join("real/a.db"), folder.path().join("link.db"));
    std::os::unix::fs::symlink(&real, &link).unwrap();
    assert_eq!(vfs.info(&link).unwrap(), None, "it leads nowhere yet");
    let file = vfs.open(&link, OpenFlags::CREATE).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync(SyncMode::Full).unwrap();
    assert_eq!(fs::read(&real).unwrap(), b"x");
    assert_eq!(vfs.canonical(&link).unwrap(), fs::canonicalize(&real).unwrap());
    assert_eq!(vfs.info(&link).unwrap(), vfs.info(&real).unwrap());
}

#[test]
fn a_file_can_be_named_relative_to_the_current_folder() {
    let name = format!("walmend-vfs-test-{}", std::process::id());
    let vfs = UnixVfs::new();
    drop(vfs.open(Path::new(&name), OpenFlags::CREATE_NEW).unwrap());
    let renamed = format!("{name}-renamed");
    vfs.rename(Path::new(&name), Path::new(&renamed)).unwrap();
    assert!(vfs.info(Path::new(&renamed)).unwrap().is_some());
    vfs.remove(Path::new(&renamed)).unwrap();
    assert_eq!(vfs.info(Path::new(&renamed)).unwrap(), None);
}

#[test]
fn a_missing_folder_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nowhere/a.db");
    let error = UnixVfs::new().open(&path, OpenFlags::CREATE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("nowhere/a.db"), "{error}");
}

#[test]
fn locks_keep_an_sqlite_style_lock_of_the_same_process_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let file = UnixVfs::new().open(&path, OpenFlags::CREATE).unwrap();
    assert!(file.try_lock(LockRange::SHARED, LockKind::Exclusive).unwrap());
    let sqlite = File::options().read(true).write(true).open(&path).unwrap();
    let lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LockRange::SHARED.start as libc::off_t,
        l_len: 1,
        l_pid: 0,
    };
    assert!(fcntl(&sqlite, FcntlArg::F_SETLK(&lock)).is_err());
    drop(file);
    assert!(fcntl(&sqlite, FcntlArg::F_SETLK(&lock)).is_ok());
}

#[test]
fn where_the_device_cannot_be_read_the_answer_says_cache() {
    // Files in /proc have no device.
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let file = UnixVfs::new().open(path, OpenFlags::READ).unwrap();
    let mut id = [0; 36];
    let read = file.read_from_device(&mut id, 0).unwrap();
    assert_eq!((read.bytes, read.source), (36, ReadSource::Cache));
    assert_eq!(UnixVfs::new().boot_id().as_bytes(), id);
}
