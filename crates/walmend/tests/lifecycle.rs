//! What a review found: each of these failed before it was mended.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use walmend::{
    CheckpointMode, CommitOutcome, Decision, Error, LogFate, LogIo, Options, PageNumber, Store, Vfs,
};
use walmend_vfs::sim::{CrashKeep, Nth, SimVfs};

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

fn put(store: &Store, number: u32, byte: u8) {
    let mut txn = store.begin().unwrap();
    txn.write(page(number), vec![byte; 4096]).unwrap();
    txn.commit().into_result().unwrap();
}

fn get(store: &Store, number: u32) -> u8 {
    store.snapshot().unwrap().read(page(number)).unwrap()[0]
}

fn open(path: &Path) -> Store {
    Store::open(path, Options::new()).unwrap().0
}

#[test]
fn a_store_that_is_printed_for_debugging_does_not_print_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new().log_io(LogIo::Direct);
    let (store, _) = Store::open(folder.path().join("a.db"), options).unwrap();
    put(&store, 1, 1);
    let printed = format!("{store:?}");
    assert!(printed.len() < 20_000, "{} bytes", printed.len());
}

#[test]
fn a_symbolic_link_leads_to_the_log_beside_the_file_itself() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().join("real.db");
    let link = folder.path().join("link.db");
    let store = open(&real);
    put(&store, 1, 1);
    store.close().unwrap();
    symlink(&real, &link).unwrap();
    let store = open(&link);
    assert_eq!(get(&store, 1), 1);
    put(&store, 1, 2);
    store.close().unwrap();
    assert!(!folder.path().join("link.db-wal").exists());
    assert_eq!(get(&open(&real), 1), 2);
}

#[test]
fn a_link_to_a_database_that_is_gone_lets_no_log_loose_on_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real.db"), folder.path().join("link.db"));
    let (log, companion) = (
        folder.path().join("real.db-wal"),
        folder.path().join("real.db-wal-meta"),
    );
    let store = open(&real);
    put(&store, 1, 1);
    store.checkpoint(CheckpointMode::Restart).unwrap();
    put(&store, 2, 2);
    store.close().unwrap();
    fs::remove_file(&real).unwrap();
    symlink(&real, &link).unwrap();
    let before = (fs::read(&log).unwrap(), fs::read(&companion).unwrap());
    for path in [&link, &real] {
        let refused = Store::open(path, Options::new()).unwrap_err();
        assert!(matches!(refused, Error::NotADatabase { .. }), "{refused}");
        assert!(refused.to_string().contains("real.db-wal"), "{refused}");
        assert!(!real.exists(), "no new database was left behind");
        assert!(link.is_symlink());
        assert!(before == (fs::read(&log).unwrap(), fs::read(&companion).unwrap()));
    }
}

#[test]
fn pages_that_were_cut_off_come_back_as_zeros() {
    for checkpoint_between in [
        None,
        Some(CheckpointMode::Passive),
        Some(CheckpointMode::Truncate),
    ] {
        for checkpoint_before in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let store = open(&folder.path().join("a.db"));
            for number in 1..=10 {
                put(&store, number, 7);
            }
            if checkpoint_before {
                store.checkpoint(CheckpointMode::Truncate).unwrap();
            }
            let mut cut = store.begin().unwrap();
            cut.write(page(1), vec![8; 4096]).unwrap();
            cut.set_db_pages(5).unwrap();
            assert!(
                cut.read(page(8)).is_err(),
                "cut off for the transaction itself, too"
            );
            cut.commit().into_result().unwrap();
            if let Some(mode) = checkpoint_between {
                store.checkpoint(mode).unwrap();
            }
            let mut grow = store.begin().unwrap();
            grow.write(page(10), vec![9; 4096]).unwrap();
            assert_eq!(grow.read(page(8)).unwrap()[0], 0);
            grow.commit().into_result().unwrap();
            let check = || {
                let bytes: Vec<u8> = (1..=10).map(|number| get(&store, number)).collect();
                assert_eq!(
                    bytes,
                    [8, 7, 7, 7, 7, 0, 0, 0, 0, 9],
                    "{checkpoint_between:?} {checkpoint_before}"
                );
            };
            check();
            store.checkpoint(CheckpointMode::Truncate).unwrap();
            check();
        }
    }
}

#[test]
fn a_checkpoint_may_have_all_the_patience_in_the_world() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new().checkpoint_wait(Duration::MAX);
    let (store, _) = Store::open(folder.path().join("a.db"), options).unwrap();
    put(&store, 1, 1);
    assert_eq!(
        store.checkpoint(CheckpointMode::Truncate).unwrap().log,
        LogFate::Truncated
    );
}

#[test]
fn a_size_beyond_sqlites_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("a.db"));
    let mut txn = store.begin().unwrap();
    assert!(matches!(
        txn.set_db_pages(u32::MAX),
        Err(Error::OutOfRange { .. })
    ));
    assert!(matches!(
        txn.write(page(u32::MAX), vec![0; 4096]),
        Err(Error::OutOfRange { .. })
    ));
}

#[test]
fn the_watermark_counts_although_every_generation_record_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (store, _) = Store::open(&path, Options::new().repair(false)).unwrap();
    for byte in 1..=3 {
        put(&store, 1, byte);
    }
    store.close().unwrap();
    let meta = fs::OpenOptions::new()
        .write(true)
        .open(folder.path().join("a.db-wal-meta"))
        .unwrap();
    meta.write_all_at(&[0; 8192], 8192).unwrap();
    // The last acknowledged frame is damaged: nothing valid lies behind it.
    let wal = folder.path().join("a.db-wal");
    let mut bytes = fs::read(&wal).unwrap();
    bytes[32 + 2 * 4120 + 100] ^= 1;
    fs::write(&wal, &bytes).unwrap();
    match Store::open(&path, Options::new()) {
        Err(Error::WalCorrupt {
            frame, lost_commits, ..
        }) => assert_eq!((frame, lost_commits), (3, 1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_frame_that_the_end_of_the_file_cuts_off_is_a_torn_tail() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let (store, _) = Store::open(&path, Options::new().preallocate(0)).unwrap();
    put(&store, 1, 1);
    // As if the process had been killed in the middle of the next append.
    let wal = folder.path().join("a.db-wal");
    let copy = folder.path().join("b.db");
    let mut bytes = fs::read(&wal).unwrap();
    // Past the page cache the file is written in whole blocks.
    bytes.truncate(32 + 24 + 4096);
    let frame = bytes[32..].to_vec();
    bytes.extend_from_slice(&frame[..1000]);
    fs::write(folder.path().join("b.db-wal"), &bytes).unwrap();
    for suffix in ["", "-wal-meta"] {
        let from = folder.path().join(format!("a.db{suffix}"));
        fs::copy(from, folder.path().join(format!("b.db{suffix}"))).unwrap();
    }
    let (store, report) = Store::open(&copy, Options::new()).unwrap();
    assert_eq!(report.recovery.decision, Decision::TornTail);
    assert_eq!(
        (report.recovery.committed_frames, report.recovery.dropped_frames),
        (1, 1)
    );
    assert_eq!(get(&store, 1), 1);
}

#[test]
fn a_poisoned_store_does_not_deny_what_reopening_may_bring_back() {
    let vfs = SimVfs::new(1);
    let options = |vfs: &SimVfs| Options::new().vfs(Arc::new(vfs.clone()) as Arc<dyn Vfs>);
    let (store, _) = Store::open("/lifecycle-outcome.db", options(&vfs)).unwrap();
    put(&store, 1, 1);
    vfs.fail_sync_at(Nth::call(1).of("-wal"), CrashKeep::All);
    let mut txn = store.begin().unwrap();
    txn.write(page(1), vec![2; 4096]).unwrap();
    let token = match txn.commit() {
        CommitOutcome::OutcomeUnknown { token, .. } => token.unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(store.outcome(token), None);
    drop(store);
    let (store, _) = Store::open("/lifecycle-outcome.db", options(&vfs.kill())).unwrap();
    assert_eq!(store.outcome(token), Some(true));
    assert_eq!(get(&store, 1), 2);
}
