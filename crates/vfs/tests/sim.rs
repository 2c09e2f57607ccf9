//! The rules of the simulated disk, one by one.

use std::io;
use std::path::Path;
use std::sync::Arc;
use walmend_vfs::sim::{CrashKeep, Nth, PendingChange, PendingKind, SectorSize, SimOpKind, SimVfs};
use walmend_vfs::{ErrorKind, LockKind, LockRange, OpenFlags, SyncMode, Vfs, VfsFile};

const DB: &str = "/a.db";
const WAL: &str = "/a.db-wal";

fn open(vfs: &dyn Vfs, path: &str) -> Arc<dyn VfsFile> {
    vfs.open(Path::new(path), OpenFlags::CREATE).unwrap()
}

fn kind<T>(result: walmend_vfs::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.kind(),
    }
}

fn read(file: &dyn VfsFile, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn read_device(file: &dyn VfsFile, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let read = file.read_from_device(&mut bytes, offset).unwrap();
    bytes.truncate(read.bytes);
    bytes
}

/// Three sectors of ones, synced, then three of twos, not synced.
fn ones_then_twos() -> (SimVfs, Arc<dyn VfsFile>) {
    let vfs = SimVfs::new(1);
    let file = open(&vfs, DB);
    file.write_at(&[1; 1536], 0).unwrap();
    file.sync(SyncMode::Data).unwrap();
    file.write_at(&[2; 1536], 0).unwrap();
    (vfs, file)
}

#[test]
fn a_crash_keeps_what_was_synced_and_what_it_is_told_to() {
    let (vfs, _file) = ones_then_twos();
    let after = |keep| vfs.fork().crash(keep).dump(Path::new(DB)).unwrap();
    assert_eq!(after(CrashKeep::None), [1; 1536]);
    assert_eq!(after(CrashKeep::All), [2; 1536]);
    let middle = after(CrashKeep::Subset(vec![false, true]));
    assert_eq!(middle[..512], [1; 512]);
    assert_eq!(middle[512..1024], [2; 512]);
    assert_eq!(middle[1024..], [1; 512]);
    let drawn: Vec<_> = (0..200).map(|seed| after(CrashKeep::Random(seed))).collect();
    assert_eq!(drawn[7], after(CrashKeep::Random(7)));
    // Eight outcomes are possible, and two hundred seeds meet them all.
    let distinct: std::collections::BTreeSet<_> = drawn.into_iter().collect();
    assert_eq!(distinct.len(), 8);
}

#[test]
fn pending_changes_are_listed_in_the_order_of_the_bits() {
    let vfs = SimVfs::new(1);
    let (db, wal) = (open(&vfs, DB), open(&vfs, WAL));
    db.write_at(&[1; 100], 500).unwrap();
    wal.truncate(7).unwrap();
    db.write_at(&[2; 10], 0).unwrap();
    let change = |file: &str, kind| PendingChange {
        file: file.into(),
        kind,
    };
    let sector = |offset, len| PendingKind::Sector { offset, len };
    assert_eq!(
        vfs.pending(),
        [
            change(DB, sector(0, 512)),
            change(DB, sector(512, 88)),
            change(WAL, PendingKind::Length(7)),
            change(DB, sector(0, 512)),
        ]
    );
    let bits = vec![false, true, true, false];
    let after = vfs.crash(CrashKeep::Subset(bits));
    assert!(after.pending().is_empty());
    let db = after.dump(Path::new(DB)).unwrap();
    assert_eq!(db[..512], [0; 512], "a lost sector before a kept one is zeros");
    assert_eq!(db[512..], [1; 88]);
    assert_eq!(after.dump(Path::new(WAL)).unwrap(), [0; 7]);
}

#[test]
fn sectors_can_have_4096_bytes() {
    let vfs = SimVfs::with_sectors(1, SectorSize::Bytes4096);
    let file = open(&vfs, DB);
    file.write_at(&[1; 5000], 0).unwrap();
    assert_eq!(vfs.pending().len(), 2);
    let after = vfs.crash(CrashKeep::Subset(vec![true]));
    assert_eq!(after.dump(Path::new(DB)).unwrap(), [1; 4096]);
}

#[test]
fn a_later_write_to_a_sector_carries_the_earlier_one() {
    let vfs = SimVfs::new(1);
    let file = open(&vfs, DB);
    file.write_at(b"first", 0).unwrap();
    file.write_at(b"second", 5).unwrap();
    let after = vfs.crash(CrashKeep::Subset(vec![false, true]));
    assert_eq!(after.dump(Path::new(DB)).unwrap(), b"firstsecond");
}

#[test]
fn a_truncation_survives_a_crash_or_does_not() {
    let vfs = SimVfs::new(1);
    let file = open(&vfs, WAL);
    file.write_at(&[1; 600], 0).unwrap();
    file.sync(SyncMode::Full).unwrap();
    file.truncate(100).unwrap();
    let after = |vfs: &SimVfs, keep| vfs.fork().crash(keep).dump(Path::new(WAL)).unwrap();
    assert_eq!(after(&vfs, CrashKeep::None), [1; 600]);
    assert_eq!(after(&vfs, CrashKeep::All), [1; 100]);
    file.sync(SyncMode::Data).unwrap();
    assert_eq!(
        after(&vfs, CrashKeep::None),
        [1; 600],
        "a data sync owes nobody the loss of length"
    );
    assert_eq!(file.len().unwrap(), 100);
    assert!(read_device(&*file, 100, 10).is_empty());
    file.sync(SyncMode::Full).unwrap();
    assert_eq!(after(&vfs, CrashKeep::None), [1; 100]);
}

#[test]
fn a_data_sync_makes_growth_durable() {
    let vfs = SimVfs::new(1);
    let file = open(&vfs, WAL);
    file.truncate(700).unwrap();
    file.write_at(b"x", 900).unwrap();
    file.sync(SyncMode::Data).unwrap();
    let durable = vfs.dump_durable(Path::new(WAL)).unwrap();
    assert_eq!(durable.len(), 901);
    assert_eq!((durable[899], durable[900]), (0, b'x'));
    assert!(vfs.pending().is_empty());
}

#[test]
fn a_crash_ends_handles_locks_and_the_old_file_system() {
    let vfs = SimVfs::new(1);
    let file = open(&vfs, DB);
    assert!(file.try_lock(LockRange::PENDING, LockKind::Exclusive).unwrap());
    let boot = vfs.boot_id();
    let after = vfs.crash(CrashKeep::All);
    assert_eq!(kind(file.write_at(b"x", 0)), ErrorKind::Io);
    assert_eq!(kind(file.read_at(&mut [0], 0)), ErrorKind::Io);
    assert_eq!(kind(file.read_from_device(&mut [0], 0)), ErrorKind::Io);
    assert_eq!(kind(file.sync(SyncMode::Full)), ErrorKind::Io);
    assert_eq!(kind(file.len()), ErrorKind::Io);
    assert_eq!(kind(file.truncate(0)), ErrorKind::Io);
    assert_eq!(kind(file.unlock(LockRange::PENDING)), ErrorKind::Io);
    assert_eq!(kind(vfs.open(Path::new(DB), OpenFlags::READ)), ErrorKind::Io);
    assert_eq!(kind(vfs.info(Path::new(DB))), ErrorKind::Io);
    assert_eq!(kind(vfs.remove(Path::new(DB))), ErrorKind::Io);
    let again = open(&after, DB);
    assert!(again.try_lock(LockRange::PENDING, LockKind::Exclusive).unwrap());
    drop(file);
    let other = open(&after, DB);
    assert!(
        !other.try_lock(LockRange::PENDING, LockKind::Shared).unwrap(),
        "dropping a dead handle releases nothing of the living"
    );
    assert_ne!(after.boot_id(), boot);
}

#[test]
fn a_kill_keeps_the_cache_and_a_crash_after_it_does_not() {
    let (vfs, file) = ones_then_twos();
    assert!(file.try_lock(LockRange::PENDING, LockKind::Exclusive).unwrap());
    let boot = vfs.boot_id();
    let vfs = vfs.kill();
    assert_eq!(vfs.boot_id(), boot);
    assert_eq!(kind(file.len()), ErrorKind::Io);
    let next = open(&vfs, DB);
    assert!(next.try_lock(LockRange::PENDING, LockKind::Exclusive).unwrap());
    assert_eq!(read(&*next, 0, 1536), [2; 1536]);
    assert_eq!(vfs.pending().len(), 3);
    assert_eq!(
        vfs.fork().crash(CrashKeep::None).dump(Path::new(DB)).unwrap(),
        [1; 1536]
    );
    next.sync(SyncMode::Data).unwrap();
    assert_eq!(
        vfs.crash(CrashKeep::None).dump(Path::new(DB)).unwrap(),
        [2; 1536],
        "the next process's sync covers what the killed one wrote"
    );
}

#[test]
fn after_a_failed_sync_the_cache_is_stale_and_the_next_sync_succeeds_without_the_data() {
    let (vfs, file) = ones_then_twos();
    vfs.fail_sync_at(Nth::call(1), CrashKeep::Subset(vec![true, false, false]));
    assert_eq!(kind(file.sync(SyncMode::Data)), ErrorKind::Io);
    assert!(vfs.pending().is_empty());
    assert_eq!(read(&*file, 0, 1536), [2; 1536], "the cache still shows it");
    let device = read_device(&*file, 0, 1536);
    assert_eq!(device[..512], [2; 512]);
    assert_eq!(device[512..], [1; 1024]);
    file.sync(SyncMode::Data).unwrap();
    assert_eq!(vfs.dump_durable(Path::new(DB)).unwrap(), device);
    // Touching one byte of a stale sector makes the whole sector dirty again.
    file.write_at(&[2], 1024).unwrap();
    file.sync(SyncMode::Data).unwrap();
    let durable = vfs.crash(CrashKeep::None).dump(Path::new(DB)).unwrap();
    assert_eq!(durable[512..1024], [1; 512]);
    assert_eq!(durable[1024..], [2; 512]);
}

#[test]
fn after_a_failed_sync_a_device_read_ends_where_the_file_does() {
    let vfs = SimVfs::new(1);
    let file = open(&vfs, WAL);
    file.write_at(&[1; 1000], 0).unwrap();
    vfs.fail_sync_at(Nth::call(1), CrashKeep::None);
    assert!(file.sync(SyncMode::Full).is_err());
    assert_eq!(read_device(&*file, 0, 2000), [0; 1000]);
    assert_eq!(vfs.crash(CrashKeep::None).dump(Path::new(WAL)).unwrap(), []);
}

#[test]
fn faults_strike_the_call_they_were_armed_for_and_only_once() {
    let vfs = SimVfs::new(1);
    let (db, wal) = (open(&vfs, DB), open(&vfs, WAL));
    vfs.fail_sync_at(Nth::call(2).of("-wal"), CrashKeep::All);
    wal.sync(SyncMode::Data).unwrap();
    db.sync(SyncMode::Full).unwrap();
    db.sync(SyncMode::Full).unwrap();
    assert!(wal.sync(SyncMode::Data).is_err());
    wal.sync(SyncMode::Data).unwrap();

    vfs.fail_read_at(Nth::call(2));
    db.read_at(&mut [0], 0).unwrap();
    assert_eq!(kind(db.read_from_device(&mut [0], 0)), ErrorKind::Io);
    db.read_at(&mut [0], 0).unwrap();

    vfs.fail_write_at(Nth::call(1), 3, io::ErrorKind::StorageFull);
    assert_eq!(kind(db.write_at(b"abcdef", 0)), ErrorKind::Full);
    assert_eq!(vfs.dump(Path::new(DB)).unwrap(), b"abc");
    vfs.fail_write_at(Nth::call(1), 99, io::ErrorKind::Other);
    assert_eq!(kind(db.write_at(b"xyz", 0)), ErrorKind::Io);
    assert_eq!(
        vfs.dump(Path::new(DB)).unwrap(),
        b"xyz",
        "an error after the last byte"
    );

    vfs.fail_write_at(Nth::call(1), 0, io::ErrorKind::Other);
    vfs.disarm();
    db.write_at(b"xyz", 0).unwrap();
}

#[test]
fn a_full_disk_takes_bytes_up_to_the_last_one() {
    for room in 0..12 {
        let vfs = SimVfs::new(1);
        let (db, wal) = (open(&vfs, DB), open(&vfs, WAL));
        wal.write_at(b"old", 0).unwrap();
        vfs.enospc_after(room);
        let result = wal.write_at(b"new bytes", 1);
        // Two of the nine overwrite, seven grow the file.
        let landed = (2 + room).min(9) as usize;
        assert_eq!(result.is_ok(), landed == 9);
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Full);
            assert!(error.to_string().contains(&format!("offset {}", 1 + landed)));
        }
        let expected = [b"o".as_slice(), &b"new bytes"[..landed]].concat();
        assert_eq!(vfs.dump(Path::new(WAL)).unwrap(), expected);
        wal.write_at(b"!", 0).unwrap();
        if room < 7 {
            assert_eq!(kind(db.write_at(b"x", 0)), ErrorKind::Full);
            assert_eq!(kind(db.preallocate(0, 5)), ErrorKind::Full);
            assert_eq!(kind(db.truncate(5)), ErrorKind::Full);
            wal.truncate(0).unwrap();
            db.write_at(b"x", 0).unwrap();
        }
    }
}

#[test]
fn the_log_tells_what_was_done_in_which_order() {
    let vfs = SimVfs::new(1);
    let wal = open(&vfs, WAL);
    wal.write_at(&[1; 32], 0).unwrap();
    wal.sync(SyncMode::Full).unwrap();
    wal.preallocate(32, 1032).unwrap();
    wal.truncate(500).unwrap();
    drop(open(&vfs, WAL));
    vfs.rename(Path::new(WAL), Path::new("b")).unwrap();
    vfs.remove(Path::new("b")).unwrap();
    vfs.remove(Path::new("b")).unwrap();
    vfs.fail_sync_at(Nth::call(1), CrashKeep::None);
    wal.sync(SyncMode::Data).unwrap_err();
    let log = vfs.log();
    let kinds: Vec<_> = log.iter().map(|op| op.kind.clone()).collect();
    assert_eq!(
        kinds,
        [
            SimOpKind::Create,
            SimOpKind::Write,
            SimOpKind::Sync(SyncMode::Full),
            SimOpKind::Write,
            SimOpKind::Truncate,
            SimOpKind::Rename { to: "/b".into() },
            SimOpKind::Remove,
            SimOpKind::Sync(SyncMode::Data),
        ]
    );
    assert_eq!((log[3].offset, log[3].len), (32, 1000));
    assert_eq!(log[4].len, 500);
    assert_eq!(log[6].file, Path::new("/b"));
    assert!(log[..7].iter().all(|op| !op.failed));
    assert!(log[7].failed);
    assert_eq!((vfs.ops(), vfs.writes(), vfs.syncs()), (8, 2, 2));
}

/// The least a log does: header, sync, frame, sync, truncate, sync; answers how far it got.
fn scenario(vfs: &SimVfs) -> walmend_vfs::Result<()> {
    let wal = vfs.open(Path::new(WAL), OpenFlags::CREATE)?;
    wal.write_at(b"header", 0)?;
    wal.sync(SyncMode::Full)?;
    wal.write_at(b"frame", 6)?;
    wal.sync(SyncMode::Data)?;
    vfs.rename(Path::new(WAL), Path::new("/done"))
}

#[test]
fn the_power_can_go_at_every_operation() {
    let whole = SimVfs::new(1);
    scenario(&whole).unwrap();
    assert_eq!(whole.ops(), 6);
    let mut durable = Vec::new();
    for n in 1..=6 {
        let vfs = SimVfs::new(1);
        vfs.crash_at_op(n);
        assert_eq!(kind(scenario(&vfs)), ErrorKind::Io);
        assert_eq!(
            vfs.ops(),
            n - 1,
            "the operation that met the power loss did not happen"
        );
        assert_eq!(kind(vfs.open(Path::new(WAL), OpenFlags::CREATE)), ErrorKind::Io);
        let after = vfs.crash(CrashKeep::None);
        durable.push(after.dump(Path::new(WAL)));
        scenario(&after).unwrap();
    }
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    let expected = [
        None,
        bytes(""),
        bytes(""),
        bytes("header"),
        bytes("header"),
        bytes("headerframe"),
    ];
    assert_eq!(durable, expected);
}

#[test]
fn a_stop_at_an_operation_can_be_a_kill_too() {
    let vfs = SimVfs::new(1);
    vfs.crash_at_op(3);
    assert!(scenario(&vfs).is_err());
    let after = vfs.kill();
    assert_eq!(after.dump(Path::new(WAL)).unwrap(), b"header");
    scenario(&after).unwrap();
}

#[test]
fn names_are_durable_at_once_and_contents_are_not() {
    let vfs = SimVfs::new(1);
    open(&vfs, "/old").write_at(b"old", 0).unwrap();
    open(&vfs, "/new").write_at(b"new", 0).unwrap();
    let removed = open(&vfs, "/removed");
    vfs.rename(Path::new("/new"), Path::new("/old")).unwrap();
    vfs.remove(Path::new("/removed")).unwrap();
    removed.write_at(b"still open", 0).unwrap();
    let after = vfs.crash(CrashKeep::None);
    assert_eq!(after.files(), [Path::new("/old")]);
    assert_eq!(after.dump(Path::new("/old")).unwrap(), []);
}

#[test]
fn a_flipped_bit_is_flipped_everywhere() {
    let (vfs, file) = ones_then_twos();
    assert!(vfs.flip_bit(Path::new(DB), 700, 7));
    assert_eq!(read(&*file, 700, 1), [0x82]);
    assert_eq!(vfs.dump_durable(Path::new(DB)).unwrap()[700], 0x81);
    file.sync(SyncMode::Data).unwrap();
    assert_eq!(vfs.dump_durable(Path::new(DB)).unwrap()[700], 0x82);
    assert!(!vfs.flip_bit(Path::new(DB), 1536, 0));
    assert!(!vfs.flip_bit(Path::new("/none"), 0, 0));
}

#[test]
fn what_is_put_there_is_durable() {
    let vfs = SimVfs::new(1);
    let file = open(&vfs, DB);
    file.write_at(b"pending", 0).unwrap();
    vfs.put(Path::new(DB), b"put");
    vfs.put(Path::new("c"), b"new");
    assert_eq!(read(&*file, 0, 3), b"put");
    let after = vfs.crash(CrashKeep::All);
    assert_eq!(after.dump(Path::new(DB)).unwrap(), b"put");
    assert_eq!(after.dump(Path::new("/c")).unwrap(), b"new");
}

#[test]
fn a_fork_goes_its_own_way() {
    let (vfs, file) = ones_then_twos();
    let fork = vfs.fork();
    assert_eq!(fork.pending(), vfs.pending());
    assert_eq!(fork.random(), vfs.random());
    assert_eq!(fork.ops(), 0);
    open(&fork, DB).write_at(&[3; 1536], 0).unwrap();
    open(&fork, WAL).write_at(&[4; 10], 0).unwrap();
    assert_eq!(fork.pending()[..3], vfs.pending());
    assert_eq!(fork.pending()[6].file, Path::new(WAL), "later changes come later");
    assert_eq!(read(&*file, 0, 1536), [2; 1536]);
    file.sync(SyncMode::Full).unwrap();
    assert_eq!(fork.dump_durable(Path::new(DB)).unwrap(), [1; 1536]);
}
