//! The database file of an open store rots, and is healed beside its commits and checkpoints.

#![cfg(feature = "repair")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend::{CheckpointMode, Options, PageNumber, Pages, ScrubStats, Store};
use walmend_repair::{DatabaseCheck, Standing, Work};
use walmend_sync::thread;
use walmend_types::{Cx, PageSize};
use walmend_vfs::sim::SimVfs;
use walmend_wal::FileSet;

const DB: &str = "/a.db";
const PAGE: usize = 512;
const PAGES: u32 = 60;

fn open(vfs: &SimVfs) -> Store {
    let options = Options::new()
        .vfs(Arc::new(vfs.clone()))
        .pages(Pages::Raw)
        .page_size(PageSize::new(PAGE as u32).unwrap())
        .preallocate(0)
        .repair(false)
        .protect_database(true)
        .scrub(u64::MAX, Duration::from_millis(1));
    Store::open(DB, options).unwrap().0
}

fn write(store: &Store, page: u32, byte: u8) {
    let mut txn = store.begin().unwrap();
    txn.write(PageNumber::new(page).unwrap(), [byte; PAGE]).unwrap();
    txn.commit().into_result().unwrap();
}

/// A store whose pages are all in the database file, each full of its own number.
fn full() -> (SimVfs, Store) {
    let vfs = SimVfs::new(1);
    let store = open(&vfs);
    for page in 1..=PAGES {
        write(&store, page, page as u8);
    }
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    (vfs, store)
}

fn rot(vfs: &SimVfs, page: u32) {
    assert!(vfs.flip_bit(Path::new(DB), u64::from(page - 1) * PAGE as u64 + 77, 4));
}

fn scrubbed(store: &Store) -> ScrubStats {
    store.stats().protection.unwrap().scrub.unwrap()
}

fn wait(store: &Store, until: impl Fn(&ScrubStats) -> bool) {
    let begun = Instant::now();
    while !until(&scrubbed(store)) {
        assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", store.stats());
        thread::sleep(Duration::from_millis(1));
    }
}

/// Until all of the database was compared that is there now.
fn wait_for_a_pass(store: &Store) {
    let passes = scrubbed(store).passes;
    wait(store, |stats| stats.passes >= passes + 2);
}

fn check(vfs: &SimVfs) -> DatabaseCheck {
    let cx = Cx::new();
    DatabaseCheck::make(vfs, &FileSet::of(Path::new(DB)), &Work::new(&cx))
        .unwrap()
        .unwrap()
}

#[test]
fn what_rots_in_an_open_store_is_healed_and_counted() {
    let (vfs, store) = full();
    let whole = vfs.dump(Path::new(DB)).unwrap();
    for page in [1, 17, PAGES] {
        rot(&vfs, page);
    }
    wait(&store, |stats| stats.healed_pages == 3);
    assert!(vfs.dump(Path::new(DB)).unwrap() == whole);
    let stats = store.stats().protection.unwrap();
    assert!(stats.in_step && stats.damaged_pages.is_empty() && stats.lost_pages.is_empty());
    assert_eq!(stats.scrub.unwrap().last_failure, None);
    store.close().unwrap();
    let now = check(&vfs);
    assert_eq!((now.standing, now.damaged.len()), (Standing::Current, 0));
}

#[test]
fn scrubbing_that_is_held_up_heals_nothing_until_it_goes_on() {
    let (vfs, store) = full();
    store.pause_scrub(true);
    let healed = scrubbed(&store).healed_pages;
    rot(&vfs, 9);
    thread::sleep(Duration::from_millis(50));
    assert!(scrubbed(&store).paused);
    assert_eq!(scrubbed(&store).healed_pages, healed);
    store.pause_scrub(false);
    wait(&store, |stats| stats.healed_pages == healed + 1);
    assert!(!scrubbed(&store).paused);
    store.close().unwrap();
}

#[test]
fn beside_commits_checkpoints_and_rot_everything_stays_as_it_was_committed() {
    let (vfs, store) = full();
    let mut expected: Vec<u8> = (1..=PAGES).map(|page| page as u8).collect();
    let modes = [
        CheckpointMode::Passive,
        CheckpointMode::Full,
        CheckpointMode::Restart,
        CheckpointMode::Truncate,
    ];
    let mut healed_beside = 0;
    for round in 0..200_u32 {
        for step in 0..3 {
            let page = 1 + (round * 7 + step * 19) % PAGES;
            expected[page as usize - 1] = (round + step) as u8;
            write(&store, page, (round + step) as u8);
        }
        rot(&vfs, 1 + round * 11 % PAGES);
        if round % 9 == 0 {
            // With commits in the log that are not in the database yet.
            wait_for_a_pass(&store);
        }
        store.checkpoint(modes[round as usize % modes.len()]).unwrap();
        healed_beside = scrubbed(&store).healed_pages;
    }
    assert!(healed_beside > 0, "it went on meanwhile");
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    wait_for_a_pass(&store);
    for page in 1..=PAGES {
        let found = store.snapshot().unwrap().read(PageNumber::new(page).unwrap());
        assert_eq!(found.unwrap(), [expected[page as usize - 1]; PAGE], "page {page}");
    }
    assert!(store.stats().protection.unwrap().in_step);
    store.close().unwrap();
    let now = check(&vfs);
    assert_eq!(
        (now.standing, now.damaged.len(), now.undecided.len()),
        (Standing::Current, 0, 0)
    );
}
