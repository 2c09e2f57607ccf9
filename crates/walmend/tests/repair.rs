//! A store makes its own log repairable, and heals it.
#![cfg(feature = "repair")]

mod common;

use common::{Random, folder_bytes, page};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use walmend::{CheckpointMode, Error, OnDamage, Options, RepairStats, Store};
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
    Random(number.into()).bytes(4096)
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
        assert!(after.end < before.end && after.bad_records == 0);
        assert!(after.bytes <= before.bytes.next_multiple_of(4096));
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

#[test]
fn a_frame_that_rots_in_an_open_store_is_mended_when_it_is_read_and_when_it_is_checkpointed() {
    for checkpoint in [false, true] {
        let (folder, path) = here();
        let store = open(&path, options());
        commit(&store, 10, 50);
        store.wait_for_repair(LONG).unwrap();
        let whole = fs::read(with_suffix(&path, "-wal")).unwrap();
        // Frame 7 holds page 9 as later ones do; frame 8 is page 13, and 99 the newest page 59.
        for (frame, byte) in [(8, 500), (99, 23)] {
            flip_in_place(&path, frame, byte);
        }
        let rotten = fs::read(with_suffix(&path, "-wal")).unwrap();
        if checkpoint {
            store.checkpoint(CheckpointMode::Full).unwrap();
        } else {
            let snapshot = store.snapshot().unwrap();
            for number in 10..60 {
                assert_eq!(snapshot.read(page(number)).unwrap(), image(number));
            }
        }
        assert_eq!(store.stats().mended_frames, 2);
        assert!(fs::read(with_suffix(&path, "-wal")).unwrap() == whole);
        // What stood there is kept, at its place.
        let files = folder_bytes(folder.path());
        let kept = files
            .iter()
            .find(|(name, _)| name.starts_with("a.db-wal-damaged-"))
            .unwrap()
            .1;
        for frame in [8, 99] {
            let start = frame_offset(frame, walmend::PageSize::DEFAULT) as usize;
            assert!(kept[start..start + 4120] == rotten[start..start + 4120]);
        }
        commit(&store, 60, 1);
        store.close().unwrap();
        assert_eq!(Store::open(&path, options()).unwrap().1.healed_frames, []);
    }
}

#[test]
fn a_frame_that_rots_beyond_repair_is_an_error_each_time_and_the_others_are_read() {
    let (_folder, path) = here();
    let store = open(&path, options());
    commit(&store, 10, 8);
    store.wait_for_repair(LONG).unwrap();
    for frame in [2, 4, 6] {
        flip_in_place(&path, frame, 600);
    }
    let snapshot = store.snapshot().unwrap();
    for _ in 0..2 {
        let errors: Vec<bool> = (10..18)
            .map(|number| snapshot.read(page(number)).is_err())
            .collect();
        assert_eq!(errors.iter().filter(|error| **error).count(), 3, "{errors:?}");
    }
    assert!(matches!(
        store.checkpoint(CheckpointMode::Full),
        Err(Error::WalCorrupt { .. })
    ));
    assert_eq!(store.stats().mended_frames, 0);
}

/// Like `flip`, in the file as it stands: a store has it open.
fn flip_in_place(db: &Path, frame: u32, byte: u64) {
    let wal = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(with_suffix(db, "-wal"))
        .unwrap();
    let offset = frame_offset(frame, walmend::PageSize::DEFAULT) + byte;
    let mut bytes = [0];
    wal.read_exact_at(&mut bytes, offset).unwrap();
    wal.write_all_at(&[bytes[0] ^ 4], offset).unwrap();
}

#[test]
fn a_log_that_was_cut_on_purpose_stays_cut_and_its_sidecar_is_kept_aside() {
    for on_damage in [OnDamage::Salvage, OnDamage::TruncateLikeSqlite] {
        let (folder, path) = here();
        let store = open(&path, options());
        commit(&store, 10, 8);
        store.close().unwrap();
        // Three frames of a group that has parity for two.
        for frame in [3, 4, 5] {
            flip(&path, frame, 600);
        }
        let error = Store::open(&path, options()).unwrap_err();
        assert!(matches!(error, Error::WalCorrupt { frame: 3, .. }), "{error}");
        let (store, report) = Store::open(&path, options().on_damage(on_damage)).unwrap();
        assert_eq!((report.recovery.commits, report.recovery.lost_commits), (1, 7));
        commit(&store, 20, 1);
        store.close().unwrap();
        let aside = |name: &String| name.starts_with("a.db-wal-fec-damaged-");
        assert_eq!(
            folder_bytes(folder.path())
                .keys()
                .filter(|name| aside(name))
                .count(),
            1
        );
        let (store, report) = Store::open(&path, options()).unwrap();
        assert_eq!((report.healed_frames, report.recovery.commits), (vec![], 2));
        assert_eq!(store.snapshot().unwrap().read(page(9)).unwrap(), image(20));
        store.close().unwrap();
        assert_eq!(covered(&path), [1, 2, 3, 4]);
    }
}

#[test]
fn a_damaged_header_brings_back_no_generation_that_the_log_has_left() {
    let (_folder, path) = here();
    let store = open(&path, options());
    commit(&store, 10, 50);
    store.wait_for_repair(LONG).unwrap();
    store.checkpoint(CheckpointMode::Restart).unwrap();
    store.close().unwrap();
    // The sidecar speaks of the old generation alone, and most of that still stands in the file.
    let store = open(&path, options().repair(false));
    commit(&store, 70, 3);
    store.close().unwrap();
    let wal = with_suffix(&path, "-wal");
    let whole = fs::read(&wal).unwrap();
    let mut damaged = whole.clone();
    damaged[25] ^= 5;
    fs::write(&wal, &damaged).unwrap();
    let error = Store::open(&path, options()).unwrap_err();
    assert!(matches!(error, Error::WalCorrupt { .. }), "{error}");
    assert!(fs::read(&wal).unwrap() == damaged);
    // One bit alone can be told without any parity, and it is the newer generation that comes back.
    damaged[25] = whole[25] ^ 4;
    fs::write(&wal, &damaged).unwrap();
    let (store, report) = Store::open(&path, options()).unwrap();
    assert_eq!((report.healed_frames, report.recovery.commits), (vec![0], 3));
    store.close().unwrap();
    assert!(fs::read(&wal).unwrap()[..32] == whole[..32]);
}

#[test]
fn what_has_parity_counts_as_acknowledged_although_the_watermark_is_older() {
    let (folder, path) = here();
    let store = open(&path, options());
    commit(&store, 10, 1);
    // As after a power loss: the companion is as it was after the first commit, and all the rest has reached the disk.
    let meta = fs::read(with_suffix(&path, "-wal-meta")).unwrap();
    commit(&store, 11, 7);
    store.wait_for_repair(LONG).unwrap();
    for suffix in ["", "-wal", "-wal-fec"] {
        let from = with_suffix(&path, suffix);
        fs::copy(from, folder.path().join(format!("b.db{suffix}"))).unwrap();
    }
    let path = folder.path().join("b.db");
    fs::write(with_suffix(&path, "-wal-meta"), meta).unwrap();
    // The last commit, beyond repair: without the sidecar that would be a torn tail.
    for frame in [14, 15, 16] {
        flip(&path, frame, 600);
    }
    let error = Store::open(&path, options()).unwrap_err();
    assert!(matches!(error, Error::WalCorrupt { frame: 14, .. }), "{error}");
    fs::remove_file(wal_sidecar_path(&path)).unwrap();
    let (_store, report) = Store::open(&path, options()).unwrap();
    assert_eq!(report.recovery.commits, 6);
}
