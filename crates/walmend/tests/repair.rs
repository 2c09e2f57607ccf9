//! A store makes its own log repairable, and heals it.
#![cfg(feature = "repair")]

mod common;

use common::{Random, folder_bytes, page};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use walmend::{CheckpointMode, Error, Options, RepairStats, Store};
use walmend_repair::{SidecarIndex, wal_sidecar_path};
use walmend_sync::thread;
use walmend_vfs::UnixVfs;
use walmend_wal::{frame_offset, with_suffix};

const LONG: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options::new()
}

fn open(path: &Path, options: Options) -> Store {
    Store::open(path, options).unwrap().0
}

/// Commits the pages `first..first + count`, each in a transaction of its own with page 9.
fn commit(store: &Store, first: u32, count: u32) {
    for number in first..first + count {
        let mut txn = store.begin().unwrap();
        txn.write(page(number), image(number)).unwrap();
        txn.write(page(9), image(number)).unwrap();
        txn.commit().into_result().unwrap();
    }
}

fn image(number: u32) -> Vec<u8> {
    Random::new(number.into()).bytes(4096)
}

fn repair(store: &Store) -> RepairStats {
    store.stats().repair.unwrap()
}

fn sidecar(db: &Path) -> SidecarIndex {
    SidecarIndex::read(&UnixVfs::new(), &wal_sidecar_path(db))
        .unwrap()
        .unwrap_or_default()
}

/// The frames of which all parity is there, in order.
fn covered(db: &Path) -> Vec<u32> {
    let groups = sidecar(db).groups;
    let whole = groups
        .iter()
        .filter(|group| group.parity_left() == usize::from(group.header.parity));
    let mut frames: Vec<u32> = whole
        .flat_map(|group| group.header.first_frame..=group.header.last_frame())
        .collect();
    frames.sort_unstable();
    frames
}

fn flip(db: &Path, frame: u32, byte: u64) {
    let wal = with_suffix(db, "-wal");
    let mut bytes = fs::read(&wal).unwrap();
    bytes[(frame_offset(frame, walmend::PageSize::DEFAULT) + byte) as usize] ^= 4;
    fs::write(&wal, bytes).unwrap();
}

fn here() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    (folder, path)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap()
}

#[test]
fn what_is_committed_is_repairable_once_it_was_waited_for_and_heals_at_the_next_opening() {
    let (_folder, path) = here();
    let store = open(&path, options());
    commit(&store, 10, 100);
    store.wait_for_repair(LONG).unwrap();
    let stats = repair(&store);
    assert_eq!(
        (stats.pending_commits, stats.lag_frames, stats.queue_depth),
        (0, 0, 0)
    );
    assert_eq!((stats.completed_commits, stats.failed_commits), (100, 0));
    assert_eq!(stats.frame_bytes, 200 * 4120);
    assert!(stats.window_p50 > Duration::ZERO && stats.window_p50 <= stats.window_max);
    store.close().unwrap();
    assert_eq!(covered(&path), (1..=200).collect::<Vec<u32>>());

    let whole = fs::read(with_suffix(&path, "-wal")).unwrap();
    for (frame, byte) in [(1, 3), (77, 1000), (200, 4119)] {
        flip(&path, frame, byte);
    }
    let (store, report) = Store::open(&path, options()).unwrap();
    assert_eq!(report.healed_frames, [1, 77, 200]);
    assert!(report.healed_from.unwrap().exists());
    assert!(fs::read(with_suffix(&path, "-wal")).unwrap() == whole);
    let snapshot = store.snapshot().unwrap();
    for number in 10..110 {
        assert_eq!(snapshot.read(page(number)).unwrap(), image(number));
    }
}

#[test]
fn closing_waits_for_the_repair() {
    let (_folder, path) = here();
    let store = open(&path, options());
    commit(&store, 10, 7);
    store.close().unwrap();
    assert_eq!(covered(&path), (1..=14).collect::<Vec<u32>>());
}

#[test]
fn the_next_opening_repairs_what_the_sidecar_does_not_cover_and_nothing_else() {
    let (_folder, path) = here();
    for (first, with) in [(10, true), (30, false), (50, true), (70, false)] {
        let store = open(&path, options().repair(with));
        commit(&store, first, 20);
        store.close().unwrap();
    }
    assert_eq!(covered(&path), (1..=120).collect::<Vec<u32>>());
    let store = open(&path, options());
    store.wait_for_repair(LONG).unwrap();
    assert_eq!(repair(&store).completed_commits, 20);
    commit(&store, 90, 1);
    store.close().unwrap();
    assert_eq!(covered(&path), (1..=162).collect::<Vec<u32>>());
    let bytes = sidecar(&path).bytes;
    let store = open(&path, options());
    store.wait_for_repair(LONG).unwrap();
    assert_eq!(repair(&store).groups, 0);
    store.close().unwrap();
    assert_eq!(sidecar(&path).bytes, bytes);
}

#[test]
fn after_a_reset_the_sidecar_begins_anew() {
    for mode in [CheckpointMode::Restart, CheckpointMode::Truncate] {
        let (_folder, path) = here();
        let store = open(&path, options());
        commit(&store, 10, 100);
        store.wait_for_repair(LONG).unwrap();
        let before = sidecar(&path);
        store.checkpoint(mode).unwrap();
        commit(&store, 10, 3);
        store.wait_for_repair(LONG).unwrap();
        let after = sidecar(&path);
        assert_eq!(covered(&path), (1..=6).collect::<Vec<u32>>());
        assert_ne!(after.groups[0].header.salts, before.groups[0].header.salts);
        assert!(after.bytes < before.bytes && after.bad_records == 0);
        store.close().unwrap();
        flip(&path, 5, 100);
        assert_eq!(Store::open(&path, options()).unwrap().1.healed_frames, [5]);
    }
}

#[test]
fn checkpoints_that_reset_the_log_all_the_time_leave_no_repair_failed() {
    let (_folder, path) = here();
    let store = open(&path, options());
    thread::scope(|scope| {
        let writer = scope.spawn(|| commit(&store, 10, 400));
        while !writer.is_finished() {
            store.checkpoint(CheckpointMode::Restart).unwrap();
        }
    });
    store.wait_for_repair(LONG).unwrap();
    let stats = repair(&store);
    assert_eq!(
        (stats.completed_commits, stats.failed_commits),
        (400, 0),
        "{stats:?}"
    );
    // After the last reset, so that the sidecar speaks of this generation.
    commit(&store, 10, 1);
    let frames = store.stats().log_frames;
    store.close().unwrap();
    assert_eq!(covered(&path), (1..=frames).collect::<Vec<u32>>());
}

#[test]
fn a_commit_of_more_frames_than_a_group_holds_is_repairable() {
    let (_folder, path) = here();
    let store = open(&path, options());
    let mut txn = store.begin().unwrap();
    for number in 1..=300 {
        txn.write(page(number), image(number)).unwrap();
    }
    txn.commit().into_result().unwrap();
    store.close().unwrap();
    assert_eq!(covered(&path), (1..=300).collect::<Vec<u32>>());
}

#[test]
fn switched_off_there_is_no_repair_and_no_sidecar() {
    let (folder, path) = here();
    let store = open(&path, options().repair(false));
    commit(&store, 10, 20);
    assert_eq!(store.stats().repair, None);
    store.wait_for_repair(Duration::ZERO).unwrap();
    store.close().unwrap();
    assert!(!folder_bytes(folder.path()).contains_key("a.db-wal-fec"));
}

#[test]
fn switched_off_a_sidecar_that_is_there_heals_all_the_same() {
    let (_folder, path) = here();
    let store = open(&path, options());
    commit(&store, 10, 20);
    store.close().unwrap();
    flip(&path, 12, 99);
    let (_store, report) = Store::open(&path, options().repair(false)).unwrap();
    assert_eq!(report.healed_frames, [12]);
}

#[test]
fn on_a_runtime_of_the_callers_it_repairs_as_well() {
    let (_folder, path) = here();
    let runtime = runtime();
    let store = open(&path, options().repair_on(runtime.handle().clone()));
    commit(&store, 10, 20);
    store.wait_for_repair(LONG).unwrap();
    assert_eq!(covered(&path), (1..=40).collect::<Vec<u32>>());
    store.close().unwrap();
}

#[test]
fn a_runtime_that_is_gone_leaves_commits_durable_and_the_next_opening_makes_up_for_it() {
    let (_folder, path) = here();
    let runtime = runtime();
    let store = open(&path, options().repair_on(runtime.handle().clone()));
    commit(&store, 10, 5);
    store.wait_for_repair(LONG).unwrap();
    drop(runtime);
    commit(&store, 15, 5);
    store.wait_for_repair(LONG).unwrap();
    let stats = repair(&store);
    assert_eq!((stats.completed_commits, stats.failed_commits), (5, 5));
    store.close().unwrap();
    assert_eq!(covered(&path), (1..=10).collect::<Vec<u32>>());
    open(&path, options()).close().unwrap();
    assert_eq!(covered(&path), (1..=20).collect::<Vec<u32>>());
}

#[test]
fn waiting_on_a_runtime_that_nobody_drives_is_an_error_at_the_deadline() {
    let (_folder, path) = here();
    let idle = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = open(&path, options().repair_on(idle.handle().clone()));
    commit(&store, 10, 5);
    let error = store.wait_for_repair(Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { .. }), "{error}");
    assert_eq!(repair(&store).pending_commits, 5);
    drop(idle);
    store.close().unwrap();
}

#[test]
fn closed_or_dropped_inside_a_runtime_it_does_not_wait_and_writes_nothing_more() {
    let (_folder, path) = here();
    for close in [true, false] {
        let runtime = runtime();
        runtime.block_on(async {
            let store = open(&path, options());
            commit(&store, 10, 30);
            if close {
                store.close().unwrap();
            } else {
                drop(store);
            }
        });
        // The files are another's now.
        let sidecar = fs::read(wal_sidecar_path(&path)).ok();
        thread::sleep(Duration::from_millis(50));
        assert!(fs::read(wal_sidecar_path(&path)).ok() == sidecar);
    }
    let store = open(&path, options());
    let frames = store.stats().log_frames;
    store.close().unwrap();
    assert_eq!(covered(&path), (1..=frames).collect::<Vec<u32>>());
}

#[test]
fn a_sidecar_that_cannot_be_written_costs_protection_and_no_commit() {
    let (_folder, path) = here();
    fs::create_dir(wal_sidecar_path(&path)).unwrap();
    let store = open(&path, options());
    commit(&store, 10, 20);
    store.wait_for_repair(LONG).unwrap();
    let stats = repair(&store);
    assert_eq!((stats.completed_commits, stats.failed_commits), (0, 20));
    assert!(stats.last_failure.is_some());
    store.close().unwrap();
    fs::remove_dir(wal_sidecar_path(&path)).unwrap();
    open(&path, options()).close().unwrap();
    assert_eq!(covered(&path), (1..=40).collect::<Vec<u32>>());
}

#[test]
fn frames_that_rotted_before_their_repair_are_not_protected() {
    let (_folder, path) = here();
    let idle = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = open(&path, options().repair_on(idle.handle().clone()));
    commit(&store, 10, 20);
    flip(&path, 3, 1234);
    let waited = thread::scope(|scope| {
        let waiting = scope.spawn(|| store.wait_for_repair(LONG));
        idle.block_on(async {
            while !waiting.is_finished() {
                tokio::task::yield_now().await;
            }
        });
        waiting.join().unwrap()
    });
    waited.unwrap();
    let stats = repair(&store);
    assert_eq!((stats.completed_commits, stats.failed_commits), (0, 20));
    assert!(stats.last_failure.unwrap().contains("damaged"));
    assert_eq!(covered(&path), []);
    drop(idle);
}
