//! Protecting a database file, and healing it.

#![cfg(not(walmend_loom))]

mod database_rig;

use database_rig::{Random, Rig, rot};
use std::fs;
use std::path::Path;
use walmend_repair::{DatabaseCheck, ReedSolomon, Standing, Work, protect_database};
use walmend_sync::atomic::{AtomicU64, Ordering};
use walmend_types::{Cx, PageSize, Salts};
use walmend_vfs::sim::{Nth, SimVfs};
use walmend_wal::{ByteOrder, FileSet, FrameHeader, WalHeader};

const MIB: usize = 1 << 20;

#[test]
fn damage_of_every_kind_is_healed_byte_for_byte_at_every_page_size() {
    for (page_size, pages) in [(512, 3000), (4096, 1), (4096, 2), (4096, 1000), (65536, 40)] {
        let rig = Rig::new(page_size, pages, 7);
        let whole = rig.read();
        rig.protect();
        let check = rig.check();
        assert_eq!((check.pages_covered, check.damaged.len()), (pages as u32, 0));
        assert_eq!(check.standing, Standing::Current);
        let mut random = Random(page_size.into());
        rig.damage(|bytes| {
            // Page 1, flips, a swap, and the tail.
            bytes[..page_size as usize].fill(0);
            for _ in 0..pages / 20 {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            if pages > 4 {
                let (one, two) = (rig.page(2), rig.page(4));
                let saved = bytes[one.clone()].to_vec();
                bytes.copy_within(two.clone(), one.start);
                bytes[two].copy_from_slice(&saved);
            }
        });
        let found = rig.check();
        assert!(!found.damaged.is_empty() && found.unhealable.is_empty());
        let damaged = rig.read();
        let healed = rig.heal();
        assert!(rig.read() == whole, "{page_size}");
        assert_eq!(healed.pages_healed, found.damaged);
        let aside = fs::read(healed.kept_aside.unwrap()).unwrap();
        for &page in &healed.pages_healed {
            let before = &damaged[rig.page(page)];
            assert!(aside.windows(before.len()).any(|kept| kept == before), "{page}");
        }
        // Nothing is left to do, and nothing is done.
        let again = rig.heal();
        assert_eq!((again.pages_healed.len(), again.kept_aside), (0, None));
        assert_eq!(rig.check().standing, Standing::Current);
    }
}

#[test]
fn what_a_log_brought_before_it_began_anew_is_not_undone_where_the_time_of_the_file_was_lost() {
    let rig = Rig::new(4096, 100, 3);
    rig.protect();
    let written = Random(8).bytes(4096);
    // Checkpointed by a program that then began its log anew; a power loss took the time back, as it can after
    // fdatasync.
    rig.damage(|bytes| bytes[rig.page(5)].copy_from_slice(&written));
    let header = WalHeader {
        byte_order: ByteOrder::Little,
        page_size: PageSize::DEFAULT,
        checkpoint_seq: 1,
        salts: Salts { salt1: 8, salt2: 9 },
    };
    let page = Random(9).bytes(4096);
    let frame = FrameHeader::chained(&header, header.checksum(), 7, 100, &page);
    let log = [&header.encode()[..], &frame.encode(), &page].concat();
    fs::write(rig.db().with_extension("db-wal"), log).unwrap();
    assert_eq!(rig.check().standing, Standing::Stale);
    let healed = rig.heal();
    assert_eq!((healed.pages_healed.len(), healed.undecided), (0, vec![5]));
    assert!(rig.read()[rig.page(5)] == written);
}

#[test]
fn a_page_that_a_power_loss_tore_in_a_checkpoint_is_not_undecided_while_the_log_holds_it() {
    let rig = Rig::new(4096, 100, 3);
    // Before the first log: nothing in it can say that it goes on from here.
    rig.protect();
    let page = Random(9).bytes(4096);
    let header = WalHeader {
        byte_order: ByteOrder::Little,
        page_size: PageSize::DEFAULT,
        checkpoint_seq: 0,
        salts: Salts { salt1: 8, salt2: 9 },
    };
    let frame = FrameHeader::chained(&header, header.checksum(), 7, 100, &page);
    let log = [&header.encode()[..], &frame.encode(), &page].concat();
    fs::write(rig.db().with_extension("db-wal"), log).unwrap();
    let torn = [&page[..512], &rig.read()[rig.page(7)][512..]].concat();
    rig.write(7, &torn);
    rig.write(30, &page);
    let check = rig.check();
    assert_eq!((check.standing, check.written), (Standing::Touched, 1));
    assert_eq!((check.damaged.len(), &check.undecided[..]), (0, &[30][..]));
    assert_eq!(rig.heal().undecided, [30]);
    assert!(rig.read()[rig.page(7)] == torn);
}

#[test]
fn a_mebibyte_of_zeros_and_a_lost_tail_are_healed_across_windows() {
    let rig = Rig::new(4096, 8192 + 700, 1);
    let whole = rig.read();
    rig.protect();
    rig.damage(|bytes| bytes[9 * MIB + 1234..10 * MIB + 1234].fill(0));
    assert_eq!(rig.heal().pages_healed.len(), 257);
    assert!(rig.read() == whole);
    // Shorter than it was, with the time of its last write: nobody cut it.
    rig.damage(|bytes| bytes.truncate(bytes.len() - 777_777));
    assert_eq!(rig.heal().pages_healed.len(), 190);
    assert!(rig.read() == whole);
    // With another time somebody may have cut it on purpose.
    let file = fs::File::options().write(true).open(rig.db()).unwrap();
    file.set_len(whole.len() as u64 - 777_777).unwrap();
    drop(file);
    assert_eq!(rig.check().standing, Standing::Stale);
    assert!(rig.heal().pages_healed.is_empty());
    assert_eq!(rig.heal_with(true).pages_healed.len(), 190);
    assert!(rig.read() == whole);
    assert_eq!(rig.check().standing, Standing::Current);
}

#[test]
fn what_another_program_wrote_is_undecided_and_never_undone_unless_the_sidecar_is_trusted() {
    let rig = Rig::new(4096, 500, 2);
    let protected = rig.read();
    rig.protect();
    rig.write(77, &[7; 4096]);
    rig.damage(|bytes| bytes[100 * 4096] ^= 1);
    let before = rig.read();
    let check = rig.check();
    assert_eq!(check.standing, Standing::Touched);
    assert_eq!((check.damaged.len(), &check.undecided[..]), (0, &[77, 101][..]));
    let healed = rig.heal();
    assert_eq!((healed.pages_healed.len(), healed.undecided.len()), (0, 2));
    assert!(rig.read() == before);
    assert_eq!(rig.heal_with(true).pages_healed, [77, 101]);
    assert!(rig.read() == protected);
}

#[test]
fn protect_renews_only_what_changed_and_takes_what_is_there_where_it_was_stale() {
    let rig = Rig::new(4096, 8192 * 2, 3);
    assert_eq!(rig.protect().pages_renewed, 8192 * 2);
    assert_eq!(rig.protect().pages_renewed, 0);
    rig.write(5, &[7; 4096]);
    rig.write(8192 + 70, &[8; 4096]);
    let again = rig.protect();
    assert_eq!(
        (again.before, again.pages_renewed),
        (Some(Standing::Touched), 256)
    );
    let whole = rig.read();
    rig.damage(|bytes| bytes[4 * 4096..5 * 4096].fill(0));
    assert_eq!(rig.heal().pages_healed, [5]);
    assert!(rig.read() == whole);
}

#[test]
fn protect_does_not_take_damage_for_content() {
    let rig = Rig::new(4096, 300, 4);
    let whole = rig.read();
    rig.protect();
    rig.damage(|bytes| bytes[12345] ^= 4);
    let report = rig.protect();
    assert_eq!(report.damaged, [4]);
    assert_eq!(rig.heal().pages_healed, [4]);
    assert!(rig.read() == whole);
}

#[test]
fn a_database_that_grew_or_shrank_is_protected_as_it_is_now() {
    let rig = Rig::new(4096, 130, 5);
    rig.protect();
    for pages in [131, 8200, 500, 64, 63, 1, 200] {
        let mut bytes = rig.read();
        bytes.resize(pages * 4096, 0x5a);
        fs::write(rig.db(), &bytes).unwrap();
        assert_eq!(rig.protect().pages, pages as u32);
        let check = rig.check();
        assert_eq!(
            (check.pages_covered, check.bad_records),
            (pages as u32, 0),
            "{pages}"
        );
        rig.damage(|bytes| bytes[(pages - 1) * 4096..].fill(0));
        assert_eq!(rig.heal().pages_healed, [pages as u32]);
        assert!(rig.read() == bytes, "{pages}");
    }
}

#[test]
fn an_interrupted_protect_goes_on_where_it_stopped() {
    let rig = Rig::new(4096, 8192 * 20, 6);
    let cx = Cx::new();
    let read = AtomicU64::new(0);
    let stop = |bytes| {
        read.store(bytes, Ordering::Relaxed);
        if bytes > 330 * MIB as u64 {
            cx.cancel();
        }
    };
    assert!(rig.try_protect(&Work::new(&cx).progress(&stop)).is_err());
    // What is done protects already.
    let check = rig.check();
    assert!(!check.complete && check.pages_covered >= 8192 * 8);
    rig.damage(|bytes| bytes[5000] ^= 1);
    assert_eq!(rig.heal().pages_healed, [2]);
    let again = Cx::new();
    let report = rig.try_protect(&Work::new(&again).threads(2)).unwrap();
    // What was done behind the last synced step is looked at again, and found to be right.
    assert!(report.pages_skipped >= 8192 * 8);
    assert!(report.pages_renewed >= 8192 * 8 && report.pages_renewed + report.pages_skipped <= 8192 * 20);
    assert!(rig.check().complete);
}

#[test]
fn too_much_damage_in_a_stripe_is_reported_and_its_pages_are_left_alone() {
    // One page per stripe more than there is parity: 17 times the stride of 64 pages.
    let rig = Rig::new(4096, 8192, 8);
    rig.protect();
    rig.damage(|bytes| {
        for position in 0..17 {
            bytes[position * 64 * 4096] ^= 1;
        }
        bytes[4096] ^= 1;
    });
    let damaged = rig.read();
    let check = rig.check();
    assert_eq!((check.damaged.len(), check.unhealable.len()), (18, 17));
    let report = rig.heal();
    assert_eq!((report.pages_healed, report.unhealable.len()), (vec![2], 17));
    let after = rig.read();
    assert!(after[..4096] == damaged[..4096] && after[8192..] == damaged[8192..]);
}

#[test]
fn a_database_of_a_few_pages_is_rebuilt_even_if_nothing_is_left_of_it() {
    let rig = Rig::new(4096, 1024, 9);
    let whole = rig.read();
    rig.protect();
    rig.damage(|bytes| bytes.fill(0));
    assert_eq!(rig.heal().pages_healed.len(), 1024);
    assert!(rig.read() == whole);
}

#[test]
fn damage_in_the_sidecar_costs_only_what_it_hits() {
    let rig = Rig::new(4096, 2000, 10);
    let whole = rig.read();
    rig.protect();
    let sidecar = fs::read(rig.fec()).unwrap();
    let mut random = Random(11);
    for round in 0..40 {
        let at = match round {
            // Both headers, both states, and the first stripe.
            0..5 => round * 4096 + random.below(60) as usize,
            _ => random.below(sidecar.len() as u64) as usize,
        };
        rot(&rig.fec(), |bytes| bytes[at] ^= 1 << random.below(8));
        rig.damage(|bytes| bytes[300 * 4096..303 * 4096].fill(9));
        let check = rig.check();
        assert_eq!((check.damaged.len(), check.unhealable.len()), (3, 0), "{at}");
        assert_eq!(rig.heal().pages_healed, [301, 302, 303], "{at}");
        assert!(rig.read() == whole);
        fs::write(rig.fec(), &sidecar).unwrap();
        rig.protect();
    }
}

#[test]
fn without_any_header_the_page_size_is_told_from_the_stripes_and_the_sidecar_must_be_trusted() {
    let rig = Rig::new(1024, 2000, 12);
    let whole = rig.read();
    rig.protect();
    rot(&rig.fec(), |bytes| bytes[..20_000].fill(0xff));
    rig.damage(|bytes| bytes[300_000..310_000].fill(9));
    let check = rig.check();
    assert_eq!((check.standing, check.undecided.len()), (Standing::Stale, 11));
    assert!(check.bad_records > 0);
    assert_eq!(rig.heal_with(true).pages_healed.len(), 11);
    assert!(rig.read() == whole);
    // The next protect makes all of it whole.
    rig.protect();
    assert_eq!(
        (rig.check().bad_records, rig.check().standing),
        (0, Standing::Current)
    );
}

#[test]
fn a_sidecar_of_nonsense_protects_nothing_and_is_replaced() {
    let rig = Rig::new(4096, 100, 13);
    for nonsense in [vec![], vec![0; 100_000], Random(1).bytes(100_000)] {
        fs::write(rig.fec(), nonsense).unwrap();
        let check = rig.check();
        assert_eq!((check.pages_covered, check.bad_records), (0, 1));
        assert!(rig.heal().pages_healed.is_empty());
        rig.protect();
        assert_eq!(rig.check().pages_covered, 100);
    }
}

#[test]
fn a_rate_holds_the_walk_back() {
    let rig = Rig::new(4096, 1024, 14);
    let cx = Cx::new();
    let started = std::time::Instant::now();
    rig.try_protect(&Work::new(&cx).rate(Some(16 * MIB as u64)))
        .unwrap();
    // Four mebibytes at sixteen a second: a lower bound, which no machine can be too slow for.
    assert!(started.elapsed().as_millis() >= 240);
}

/// Healing stops between two pages that are windows apart; the file has another time then, and there is no log to tell.
#[test]
fn a_healing_that_stops_between_windows_is_finished_without_being_told_to_trust() {
    let rig = Rig::new(4096, 8192 * 2 + 100, 15);
    let whole = rig.read();
    rig.protect();
    let pages = [3, 9, 8192 + 5, 8192 * 2 + 50];
    let damage = |bytes: &mut Vec<u8>| {
        for page in pages {
            bytes[rig.page(page).start + 9] ^= 1;
        }
    };
    for healed_first in 1..pages.len() {
        let cx = Cx::new();
        let calls = AtomicU64::new(0);
        let all = whole.len() as u64;
        // Everything is read once; then each stripe is announced before it is healed.
        let stop = |read: u64| {
            if read >= all && calls.fetch_add(1, Ordering::Relaxed) > healed_first as u64 {
                cx.cancel();
            }
        };
        rig.damage(damage);
        assert!(rig.try_heal(&Work::new(&cx).progress(&stop)).is_err());
        let differing = rig.read().iter().zip(&whole).filter(|(a, b)| a != b).count();
        assert_eq!(differing, pages.len() - healed_first);
        let healed = rig.heal();
        assert_eq!(
            (healed.pages_healed.len(), healed.undecided.len()),
            (pages.len() - healed_first, 0)
        );
        assert!(rig.read() == whole);
        assert_eq!(rig.check().standing, Standing::Current);
    }
}

#[test]
fn pages_that_the_device_does_not_give_back_are_healed_and_never_protected_as_they_are() {
    let path = Path::new("/a.db");
    let whole = Random(16).bytes(300 * 512);
    let (files, cx) = (FileSet::of(path), Cx::new());
    let page_size = PageSize::new(512).unwrap();
    let protect = |vfs: &SimVfs| protect_database(vfs, &files, page_size, &ReedSolomon, &Work::new(&cx));
    // The first read is for the header; the piece fails, and then a page of it.
    let failing = |call| {
        let vfs = SimVfs::new(1);
        vfs.put(path, &whole);
        vfs.fail_read_at(Nth::call(2).of("a.db"));
        vfs.fail_read_at(Nth::call(call).of("a.db"));
        vfs
    };
    assert!(protect(&failing(3)).is_err() && protect(&failing(40)).is_err());
    // A piece that can be read page by page is no obstacle.
    let vfs = failing(1000);
    protect(&vfs).unwrap();
    vfs.disarm();
    for call in [3, 40] {
        vfs.fail_read_at(Nth::call(2).of("a.db"));
        vfs.fail_read_at(Nth::call(call).of("a.db"));
        let found = DatabaseCheck::make(&vfs, &files, &Work::new(&cx))
            .unwrap()
            .unwrap();
        vfs.disarm();
        assert_eq!((found.damaged.len(), found.unhealable.len()), (1, 0), "{call}");
    }
    assert!(vfs.dump(path).unwrap() == whole);
}
