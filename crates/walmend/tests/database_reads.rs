//! The database file rots while a store is open, and readers and checkpoints meet it: what is read is always what was
//! committed, or the read fails.

#![cfg(feature = "repair")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use walmend::{CheckpointMode, Error, Options, PageNumber, Pages, ProtectionStats, Store};
use walmend_repair::{DatabaseCheck, Standing, Work, db_sidecar_path};
use walmend_sync::atomic::{AtomicBool, AtomicU32, Ordering};
use walmend_sync::thread;
use walmend_types::{Cx, PageSize, Result};
use walmend_vfs::sim::{Call, Nth, SimVfs};
use walmend_wal::FileSet;

const DB: &str = "/a.db";
const PAGE: usize = 512;

fn open(vfs: &SimVfs) -> Store {
    let options = Options::new()
        .vfs(Arc::new(vfs.clone()))
        .pages(Pages::Raw)
        .page_size(PageSize::new(PAGE as u32).unwrap())
        .preallocate(0)
        .repair(false)
        .protect_database(true);
    Store::open(DB, options).unwrap().0
}

fn content(page: u32, version: u8) -> [u8; PAGE] {
    let mut bytes = [version; PAGE];
    bytes[..4].copy_from_slice(&page.to_be_bytes());
    bytes
}

fn write(store: &Store, pages: impl IntoIterator<Item = u32>, version: u8) {
    let mut txn = store.begin().unwrap();
    for page in pages {
        txn.write(PageNumber::new(page).unwrap(), content(page, version))
            .unwrap();
    }
    txn.commit().into_result().unwrap();
}

/// A store whose pages are all in the database file.
fn full(pages: u32) -> (SimVfs, Store) {
    let vfs = SimVfs::new(1);
    let store = open(&vfs);
    for from in (1..=pages).step_by(1000) {
        write(&store, from..=pages.min(from + 999), 1);
    }
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    (vfs, store)
}

fn read(store: &Store, page: u32) -> Result<Vec<u8>> {
    store.snapshot().unwrap().read(PageNumber::new(page).unwrap())
}

fn rot(vfs: &SimVfs, page: u32) {
    let at = u64::from(page - 1) * PAGE as u64 + 77;
    assert!(vfs.flip_bit(Path::new(DB), at, 4));
}

fn on_file(vfs: &SimVfs, page: u32) -> Vec<u8> {
    let all = vfs.dump(Path::new(DB)).unwrap();
    all[(page as usize - 1) * PAGE..page as usize * PAGE].to_vec()
}

/// Makes all parity of the sidecar unusable, and leaves the digests.
fn lose_parity(vfs: &SimVfs) {
    let path = db_sidecar_path(Path::new(DB));
    let sidecar = vfs.dump(&path).unwrap();
    let mut lost = 0;
    for at in (0..sidecar.len()).step_by(64) {
        // Magic, version, and the kind of a parity shard.
        if sidecar[at..].starts_with(b"WMdb") && sidecar[at + 6] == 2 {
            assert!(vfs.flip_bit(&path, at as u64 + 100, 0));
            lost += 1;
        }
    }
    assert!(lost > 0);
}

fn protection(store: &Store) -> ProtectionStats {
    store.stats().protection.unwrap()
}

fn check(vfs: &SimVfs) -> DatabaseCheck {
    let cx = Cx::new();
    DatabaseCheck::make(vfs, &FileSet::of(Path::new(DB)), &Work::new(&cx))
        .unwrap()
        .unwrap()
}

#[test]
fn a_page_that_rotted_in_the_database_file_is_read_as_it_was_and_healed() {
    let (vfs, store) = full(60);
    for page in [1, 17, 60] {
        rot(&vfs, page);
        assert_eq!(read(&store, page).unwrap(), content(page, 1));
        assert_eq!(on_file(&vfs, page), content(page, 1));
    }
    // A transaction reads no other way.
    rot(&vfs, 5);
    let txn = store.begin().unwrap();
    assert_eq!(txn.read(PageNumber::new(5).unwrap()).unwrap(), content(5, 1));
    drop(txn);
    let stats = protection(&store);
    assert_eq!(
        (stats.healed_pages, stats.damaged_pages.len(), stats.in_step),
        (4, 0, true)
    );
    let kept = vfs.files();
    let kept = kept
        .iter()
        .filter(|path| path.to_string_lossy().contains("-damaged-"));
    assert_eq!(kept.count(), 4, "the damaged bytes are kept aside");
    store.close().unwrap();
    assert_eq!(check(&vfs).standing, Standing::Current);
}

#[test]
fn a_page_that_the_device_does_not_give_back_is_rebuilt() {
    let (vfs, store) = full(60);
    vfs.fail_read_at(Nth::call(1).of("a.db"));
    assert_eq!(read(&store, 9).unwrap(), content(9, 1));
    // Both the reader and whoever looks again fail to read it.
    vfs.disarm();
    vfs.fail_read_at(Nth::call(1).of("a.db"));
    vfs.fail_read_at(Nth::call(2).of("a.db"));
    assert_eq!(read(&store, 10).unwrap(), content(10, 1));
    assert!(protection(&store).in_step);
    store.close().unwrap();
}

#[test]
fn a_page_that_cannot_be_rebuilt_is_refused_until_it_is_written_anew() {
    // Two pages of a stripe: there are 512 stripes.
    let (vfs, store) = full(600);
    lose_parity(&vfs);
    rot(&vfs, 5);
    let refused = |store: &Store| match read(store, 5) {
        Err(Error::DatabaseCorrupt { page, .. }) => page == 5,
        other => panic!("{other:?}"),
    };
    assert!(refused(&store) && refused(&store));
    assert_eq!(protection(&store).lost_pages, [5]);
    assert_eq!(read(&store, 517).unwrap(), content(517, 1));
    // Making its stripe anew does not make damage of it that counts as content.
    write(&store, [517], 2);
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    assert!(refused(&store));
    // And the other page is protected again.
    rot(&vfs, 517);
    assert_eq!(read(&store, 517).unwrap(), content(517, 2));
    store.close().unwrap();
    assert_eq!(check(&vfs).unhealable, [5]);
    let store = open(&vfs);
    assert!(refused(&store));
    write(&store, [5], 3);
    assert_eq!(read(&store, 5).unwrap(), content(5, 3));
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    assert_eq!(read(&store, 5).unwrap(), content(5, 3));
    assert_eq!(protection(&store).lost_pages.len(), 0);
    rot(&vfs, 5);
    assert_eq!(read(&store, 5).unwrap(), content(5, 3));
    store.close().unwrap();
    assert_eq!(
        (check(&vfs).standing, check(&vfs).damaged.len()),
        (Standing::Current, 0)
    );
}

/// Large enough that a changed page is cheaper to account for by its difference than by all pages of its stripe.
#[test]
fn parity_that_was_changed_by_the_difference_rebuilds_as_well_as_parity_of_whole_stripes() {
    const STRIPES: u32 = 512;
    let pages = 40 * STRIPES;
    let (vfs, store) = full(pages);
    // Of the stripe of page 3: one page rots where nobody looks, and others change, again and again.
    rot(&vfs, 3 + 7 * STRIPES);
    for version in 2..6 {
        write(&store, [3, 3 + u32::from(version) * STRIPES], version);
        store.checkpoint(CheckpointMode::Restart).unwrap();
    }
    let stats = protection(&store);
    assert_eq!(
        (stats.healed_pages, stats.damaged_pages.len()),
        (0, 0),
        "nothing but what changed was read"
    );
    assert_eq!(
        read(&store, 3 + 7 * STRIPES).unwrap(),
        content(3 + 7 * STRIPES, 1)
    );
    assert_eq!(protection(&store).healed_pages, 1);
    // As many pages as there is parity, changed and unchanged ones.
    let expected = |page: u32| match (page - 3) / STRIPES {
        0 => content(page, 5),
        version @ 2..6 => content(page, version as u8),
        _ => content(page, 1),
    };
    let damaged: Vec<u32> = (0..16).map(|position| 3 + position * STRIPES).collect();
    for &page in &damaged {
        rot(&vfs, page);
    }
    for &page in &damaged {
        assert_eq!(read(&store, page).unwrap(), expected(page), "page {page}");
    }
    // An old page that rotted must not get into the difference.
    rot(&vfs, 4);
    write(&store, [4], 9);
    store.checkpoint(CheckpointMode::Restart).unwrap();
    let whole = vfs.dump(Path::new(DB)).unwrap();
    for position in 0..16 {
        rot(&vfs, 4 + position * STRIPES);
    }
    for position in 0..16 {
        read(&store, 4 + position * STRIPES).unwrap();
    }
    assert!(vfs.dump(Path::new(DB)).unwrap() == whole);
    store.close().unwrap();
    let now = check(&vfs);
    assert_eq!(
        (now.standing, now.damaged.len(), now.bad_records),
        (Standing::Current, 0, 0)
    );
}

/// A stripe of which a checkpoint has written half can be neither what it was nor what it will be.
#[test]
fn a_damaged_page_whose_stripe_is_being_written_is_read_when_that_is_over() {
    const STRIPES: u32 = 512;
    let (vfs, store) = full(41 * STRIPES);
    let mates = || (1..41).map(|position| 3 + position * STRIPES);
    write(&store, mates(), 2);
    rot(&vfs, 3);
    let held = vfs.hold_at(Nth::call(20).of("a.db"), Call::Write);
    thread::scope(|scope| {
        let checkpoint = scope.spawn(|| store.checkpoint(CheckpointMode::Passive).unwrap());
        held.wait();
        let reader = scope.spawn(|| read(&store, 3).unwrap());
        // It waits, or it is not there yet: either way it gets the page.
        thread::sleep(Duration::from_millis(30));
        drop(held);
        checkpoint.join().unwrap();
        assert_eq!(reader.join().unwrap(), content(3, 1));
    });
    let stats = protection(&store);
    assert!(stats.in_step && stats.lost_pages.is_empty(), "{stats:?}");
    assert_eq!(read(&store, 3).unwrap(), content(3, 1));
    assert_eq!(on_file(&vfs, 3), content(3, 1));
    // One that fails half-way leaves the pages in the log, and the next one brings all of them.
    write(&store, mates(), 3);
    rot(&vfs, 3);
    vfs.fail_write_at(Nth::call(20).of("a.db"), 0, std::io::ErrorKind::Other);
    assert!(store.checkpoint(CheckpointMode::Passive).is_err());
    assert!(matches!(
        read(&store, 3),
        Err(Error::DatabaseCorrupt { page: 3, .. })
    ));
    for page in mates() {
        assert_eq!(read(&store, page).unwrap(), content(page, 3));
    }
    store.checkpoint(CheckpointMode::Passive).unwrap();
    assert_eq!(protection(&store).lost_pages, [3]);
    store.close().unwrap();
}

#[test]
fn readers_beside_checkpoints_and_rot_see_what_was_committed() {
    const WRITTEN: u32 = 20;
    const PAGES: u32 = 60;
    let (vfs, store) = full(PAGES);
    let (stop, committed) = (AtomicBool::new(false), AtomicU32::new(1));
    let version_of = |bytes: &[u8], page: u32| {
        let version = bytes[PAGE - 1];
        assert_eq!(bytes, content(page, version), "page {page}");
        version
    };
    thread::scope(|scope| {
        for reader in 0..2_u32 {
            let (store, stop, committed) = (&store, &stop, &committed);
            scope.spawn(move || {
                let mut page = reader * 7;
                while !stop.load(Ordering::Relaxed) {
                    let at_least = committed.load(Ordering::Acquire);
                    let snapshot = store.snapshot().unwrap();
                    for _ in 0..40 {
                        page = page % PAGES + 1;
                        let bytes = snapshot.read(PageNumber::new(page).unwrap()).unwrap();
                        let version = u32::from(version_of(&bytes, page));
                        let expected = if page <= WRITTEN {
                            version >= at_least
                        } else {
                            version == 1
                        };
                        assert!(expected, "page {page}: {version}, committed {at_least}");
                    }
                }
            });
        }
        let modes = [
            CheckpointMode::Passive,
            CheckpointMode::Full,
            CheckpointMode::Restart,
            CheckpointMode::Truncate,
        ];
        for round in 2..=200_u32 {
            write(&store, 1..=WRITTEN, round as u8);
            committed.store(round, Ordering::Release);
            rot(&vfs, WRITTEN + 1 + round * 11 % (PAGES - WRITTEN));
            store.checkpoint(modes[round as usize % modes.len()]).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(protection(&store).healed_pages > 0);
    for page in 1..=PAGES {
        let version = if page <= WRITTEN { 200 } else { 1 };
        assert_eq!(read(&store, page).unwrap(), content(page, version), "page {page}");
    }
    let stats = protection(&store);
    assert!(
        stats.in_step && stats.damaged_pages.is_empty() && stats.lost_pages.is_empty(),
        "{stats:?}"
    );
    store.close().unwrap();
    let now = check(&vfs);
    assert_eq!((now.standing, now.damaged.len()), (Standing::Current, 0));
}
