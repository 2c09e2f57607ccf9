//! One body of tests over every file system: what holds for one holds for all.

use std::io::IoSlice;
use std::path::Path;
use walmend_vfs::sim::SimVfs;

use walmend_vfs::{
    ErrorKind, LockHolder, LockKind, LockRange, MemoryVfs, OpenFlags, ReadSource, SyncMode, UnixVfs, Vfs,
};

/// Runs a test on each file system, in an empty folder.
fn on_each(test: impl Fn(&dyn Vfs, &Path)) {
    let folder = tempfile::tempdir().unwrap();
    test(&UnixVfs::new(), folder.path());
    test(&MemoryVfs::new(), Path::new("/folder"));
    test(&SimVfs::new(1), Path::new("/folder"));
}

fn kind<T>(result: walmend_vfs::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.kind(),
    }
}

/// Bytes that differ from offset to offset, so that misplaced ones show.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn range(start: u64, len: u64) -> LockRange {
    LockRange { start, len }
}

#[test]
fn what_is_written_is_read_back_from_any_offset() {
    on_each(|vfs, folder| {
        let file = vfs.open(&folder.join("a"), OpenFlags::CREATE).unwrap();
        let bytes = pattern(20_000);
        file.write_at(&bytes, 0).unwrap();
        file.write_at(b"other", 4094).unwrap();
        let mut expected = bytes;
        expected[4094..4099].copy_from_slice(b"other");
        for (offset, len) in [(0, 20_000), (1, 1), (4090, 20), (511, 514), (19_999, 1), (0, 0)] {
            let mut read = vec![0; len];
            assert_eq!(file.read_at(&mut read, offset as u64).unwrap(), len);
            assert_eq!(read, expected[offset..offset + len]);
        }
    });
}

#[test]
fn a_read_is_short_only_at_the_end_of_the_file() {
    on_each(|vfs, folder| {
        let file = vfs.open(&folder.join("a"), OpenFlags::CREATE).unwrap();
        file.write_at(b"0123456789", 0).unwrap();
        let mut buf = [0xee; 8];
        assert_eq!(file.read_at(&mut buf, 6).unwrap(), 4);
        assert_eq!(&buf, b"6789\xee\xee\xee\xee");
        assert_eq!(file.read_at(&mut buf, 10).unwrap(), 0);
        assert_eq!(file.read_at(&mut buf, 1 << 40).unwrap(), 0);
        assert_eq!(kind(file.read_exact_at(&mut buf, 6)), ErrorKind::Io);
        file.read_exact_at(&mut buf, 2).unwrap();
        assert_eq!(&buf, b"23456789");
    });
}

#[test]
fn more_buffers_than_one_call_can_take_are_written_in_order() {
    on_each(|vfs, folder| {
        let file = vfs.open(&folder.join("a-wal"), OpenFlags::CREATE).unwrap();
        // 600 frames of a header and a page each, with empty buffers in between.
        let bytes = pattern(600 * 1048);
        let mut bufs = vec![IoSlice::new(&[])];
        for frame in bytes.chunks(1048) {
            bufs.push(IoSlice::new(&frame[..24]));
            bufs.push(IoSlice::new(&[]));
            bufs.push(IoSlice::new(&frame[24..]));
        }
        assert!(bufs.len() > 1024);
        file.write_gathered(&bufs, 32).unwrap();
        assert_eq!(file.len().unwrap(), 32 + bytes.len() as u64);
        let mut read = vec![0; bytes.len()];
        file.read_exact_at(&mut read, 32).unwrap();
        assert!(read == bytes);
        let mut head = [1; 32];
        file.read_exact_at(&mut head, 0).unwrap();
        assert_eq!(head, [0; 32], "a gap reads as zeros");
    });
}

#[test]
fn writing_nothing_changes_nothing() {
    on_each(|vfs, folder| {
        let file = vfs.open(&folder.join("a"), OpenFlags::CREATE).unwrap();
        file.write_at(&[], 100).unwrap();
        file.write_gathered(&[], 100).unwrap();
        file.write_gathered(&[IoSlice::new(&[]), IoSlice::new(&[])], 100)
            .unwrap();
        file.preallocate(100, 100).unwrap();
        assert!(file.is_empty().unwrap());
    });
}

#[test]
fn a_file_that_shrinks_and_grows_again_reads_as_zeros_there() {
    on_each(|vfs, folder| {
        let file = vfs.open(&folder.join("a"), OpenFlags::CREATE).unwrap();
        file.write_at(&[7; 3000], 0).unwrap();
        file.truncate(1000).unwrap();
        assert_eq!(file.len().unwrap(), 1000);
        file.truncate(2000).unwrap();
        assert_eq!(file.len().unwrap(), 2000);
        let mut read = vec![9; 2000];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read[..1000], [7; 1000]);
        assert_eq!(read[1000..], [0; 1000]);
    });
}

#[test]
fn preallocated_room_is_zeros_and_what_precedes_it_stays() {
    on_each(|vfs, folder| {
        let file = vfs.open(&folder.join("a"), OpenFlags::CREATE).unwrap();
        file.write_at(b"before", 0).unwrap();
        // More than one chunk, and no multiple of one.
        let end = (2 << 20) + 777;
        file.preallocate(6, end).unwrap();
        assert_eq!(file.len().unwrap(), end);
        let mut read = vec![1; end as usize];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read[..6], b"before");
        assert!(read[6..].iter().all(|&byte| byte == 0));
        assert_eq!(kind(file.preallocate(10, 9)), ErrorKind::OutOfRange);
    });
}

#[test]
fn open_flags_decide_what_may_exist_and_what_may_be_changed() {
    on_each(|vfs, folder| {
        let path = folder.join("a");
        assert_eq!(kind(vfs.open(&path, OpenFlags::READ)), ErrorKind::NotFound);
        assert_eq!(kind(vfs.open(&path, OpenFlags::WRITE)), ErrorKind::NotFound);
        let new = vfs.open(&path, OpenFlags::CREATE_NEW).unwrap();
        assert_eq!(kind(vfs.open(&path, OpenFlags::CREATE_NEW)), ErrorKind::Io);
        new.write_at(b"kept", 0).unwrap();
        let again = vfs.open(&path, OpenFlags::CREATE).unwrap();
        assert_eq!(again.len().unwrap(), 4, "an existing file is not emptied");
        assert_eq!(again.path(), path);

        let reader = vfs.open(&path, OpenFlags::READ).unwrap();
        assert_eq!(kind(reader.write_at(b"x", 0)), ErrorKind::ReadOnly);
        assert_eq!(kind(reader.truncate(0)), ErrorKind::ReadOnly);
        assert_eq!(kind(reader.preallocate(4, 9)), ErrorKind::ReadOnly);
        let exclusive = reader.try_lock(range(0, 1), LockKind::Exclusive);
        assert_eq!(kind(exclusive), ErrorKind::ReadOnly);
        assert!(reader.try_lock(range(0, 1), LockKind::Shared).unwrap());
        assert_eq!(reader.len().unwrap(), 4);

        let odd = OpenFlags {
            exclusive: true,
            ..OpenFlags::WRITE
        };
        assert_eq!(kind(vfs.open(&folder.join("b"), odd)), ErrorKind::Invalid);
    });
}

#[test]
fn a_file_created_for_reading_only_is_there_and_empty() {
    on_each(|vfs, folder| {
        let flags = OpenFlags {
            write: false,
            ..OpenFlags::CREATE
        };
        let file = vfs.open(&folder.join("a"), flags).unwrap();
        assert!(file.is_empty().unwrap());
        assert_eq!(kind(file.write_at(b"x", 0)), ErrorKind::ReadOnly);
        assert!(vfs.info(&folder.join("a")).unwrap().is_some());
    });
}

#[test]
fn a_removed_file_is_gone_by_name_and_lives_on_where_it_is_open() {
    on_each(|vfs, folder| {
        let path = folder.join("a");
        let file = vfs.open(&path, OpenFlags::CREATE).unwrap();
        file.write_at(b"old", 0).unwrap();
        vfs.remove(&path).unwrap();
        assert_eq!(vfs.info(&path).unwrap(), None);
        assert_eq!(kind(vfs.open(&path, OpenFlags::READ)), ErrorKind::NotFound);
        let mut read = [0; 3];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"old");
        let new = vfs.open(&path, OpenFlags::CREATE).unwrap();
        assert!(new.is_empty().unwrap());
        vfs.remove(&folder.join("never there")).unwrap();
        vfs.remove(&folder.join("no folder").join("never there")).unwrap();
    });
}

#[test]
fn a_renamed_file_replaces_what_had_the_name() {
    on_each(|vfs, folder| {
        let (from, to) = (folder.join("a"), folder.join("b"));
        assert_eq!(kind(vfs.rename(&from, &to)), ErrorKind::NotFound);
        let file = vfs.open(&from, OpenFlags::CREATE).unwrap();
        file.write_at(b"new", 0).unwrap();
        let replaced = vfs.open(&to, OpenFlags::CREATE).unwrap();
        replaced.write_at(b"older", 0).unwrap();
        let inode = vfs.info(&from).unwrap().unwrap().inode;
        vfs.rename(&from, &to).unwrap();
        assert_eq!(vfs.info(&from).unwrap(), None);
        let info = vfs.info(&to).unwrap().unwrap();
        assert_eq!((info.len, info.inode), (3, inode));
        assert_eq!(replaced.len().unwrap(), 5);
        file.write_at(b"!", 3).unwrap();
        assert_eq!(vfs.info(&to).unwrap().unwrap().len, 4);
        vfs.rename(&to, &to).unwrap();
        assert_eq!(vfs.info(&to).unwrap().unwrap().len, 4);
    });
}

#[test]
fn info_tells_length_kind_and_which_file_it_is() {
    on_each(|vfs, folder| {
        let path = folder.join("a");
        assert_eq!(vfs.info(&path).unwrap(), None);
        let file = vfs.open(&path, OpenFlags::CREATE).unwrap();
        file.write_at(&[1; 1234], 0).unwrap();
        let info = vfs.info(&path).unwrap().unwrap();
        assert!(info.regular);
        assert_eq!(info.len, 1234);
        drop(vfs.open(&folder.join("b"), OpenFlags::CREATE).unwrap());
        assert_ne!(vfs.info(&folder.join("b")).unwrap().unwrap().inode, info.inode);
        assert_eq!(vfs.info(&path.join("below a file")).unwrap(), None);
    });
}

#[test]
fn two_spellings_of_a_path_have_one_canonical_name() {
    on_each(|vfs, folder| {
        assert_eq!(kind(vfs.canonical(&folder.join("a"))), ErrorKind::NotFound);
        drop(vfs.open(&folder.join("a"), OpenFlags::CREATE).unwrap());
        let name = vfs.canonical(&folder.join("a")).unwrap();
        assert!(name.is_absolute());
        let spelled = folder
            .join(".")
            .join("..")
            .join(folder.file_name().unwrap())
            .join("a");
        assert_eq!(vfs.canonical(&spelled).unwrap(), name);
    });
}

#[test]
fn shared_locks_go_together_and_exclusive_ones_do_not() {
    on_each(|vfs, folder| {
        let path = folder.join("a");
        let one = vfs.open(&path, OpenFlags::CREATE).unwrap();
        let two = vfs.open(&path, OpenFlags::CREATE).unwrap();
        let bytes = LockRange::SHARED;
        assert!(one.try_lock(bytes, LockKind::Shared).unwrap());
        assert!(two.try_lock(bytes, LockKind::Shared).unwrap());
        assert!(
            !one.try_lock(bytes, LockKind::Exclusive).unwrap(),
            "no upgrade over another reader"
        );
        two.unlock(bytes).unwrap();
        assert!(one.try_lock(bytes, LockKind::Exclusive).unwrap());
        assert!(!two.try_lock(bytes, LockKind::Shared).unwrap());
        assert!(!two.try_lock(bytes, LockKind::Exclusive).unwrap());
        assert!(one.try_lock(bytes, LockKind::Shared).unwrap(), "downgrade");
        assert!(two.try_lock(bytes, LockKind::Shared).unwrap());
    });
}

#[test]
fn locks_of_different_bytes_do_not_meet() {
    on_each(|vfs, folder| {
        let path = folder.join("a");
        let one = vfs.open(&path, OpenFlags::CREATE).unwrap();
        let two = vfs.open(&path, OpenFlags::CREATE).unwrap();
        assert!(one.try_lock(LockRange::PENDING, LockKind::Exclusive).unwrap());
        assert!(two.try_lock(LockRange::RESERVED, LockKind::Exclusive).unwrap());
        assert!(one.try_lock(range(10, 10), LockKind::Exclusive).unwrap());
        assert!(two.try_lock(range(20, 1), LockKind::Exclusive).unwrap());
        assert!(!two.try_lock(range(19, 1), LockKind::Exclusive).unwrap());
        one.unlock(range(12, 4)).unwrap();
        assert!(
            two.try_lock(range(12, 4), LockKind::Exclusive).unwrap(),
            "a hole in a longer lock"
        );
        assert!(!two.try_lock(range(11, 1), LockKind::Shared).unwrap());
        assert!(!two.try_lock(range(16, 1), LockKind::Shared).unwrap());
        one.unlock(range(500, 3)).unwrap();
        assert_eq!(
            kind(one.try_lock(range(0, 0), LockKind::Shared)),
            ErrorKind::Invalid
        );
        assert_eq!(kind(one.unlock(range(u64::MAX, 1))), ErrorKind::OutOfRange);
    });
}

#[test]
fn a_dropped_file_releases_its_locks_and_no_others() {
    on_each(|vfs, folder| {
        let path = folder.join("a");
        let one = vfs.open(&path, OpenFlags::CREATE).unwrap();
        let two = vfs.open(&path, OpenFlags::CREATE).unwrap();
        let three = vfs.open(&path, OpenFlags::CREATE).unwrap();
        assert!(one.try_lock(range(0, 5), LockKind::Exclusive).unwrap());
        assert!(two.try_lock(range(5, 5), LockKind::Exclusive).unwrap());
        drop(one);
        assert!(three.try_lock(range(0, 5), LockKind::Exclusive).unwrap());
        assert!(!three.try_lock(range(5, 5), LockKind::Exclusive).unwrap());
    });
}

#[test]
fn a_lock_holder_is_reported_to_others_only() {
    on_each(|vfs, folder| {
        let path = folder.join("a");
        let one = vfs.open(&path, OpenFlags::CREATE).unwrap();
        let two = vfs.open(&path, OpenFlags::CREATE).unwrap();
        let bytes = LockRange::PENDING;
        assert_eq!(two.lock_holder(bytes, LockKind::Exclusive).unwrap(), None);
        assert!(one.try_lock(bytes, LockKind::Shared).unwrap());
        assert_eq!(two.lock_holder(bytes, LockKind::Shared).unwrap(), None);
        assert_eq!(one.lock_holder(bytes, LockKind::Exclusive).unwrap(), None);
        assert_eq!(
            two.lock_holder(bytes, LockKind::Exclusive).unwrap(),
            Some(LockHolder { pid: None }),
            "a lock of an open file has no process"
        );
    });
}

#[test]
fn what_was_synced_is_read_from_the_device() {
    on_each(|vfs, folder| {
        let file = vfs.open(&folder.join("a"), OpenFlags::CREATE).unwrap();
        // More than one call's worth of blocks, and an end inside of a block.
        let bytes = pattern((1 << 20) + 10_000);
        file.write_at(&bytes, 0).unwrap();
        file.sync(SyncMode::Full).unwrap();
        for (offset, len) in [
            (0, bytes.len()),
            (32, 4120),
            (4095, 2),
            (8192, 4096),
            (1 << 20, 10_000),
            (5000, 0),
        ] {
            let mut read = vec![0; len];
            let result = file.read_from_device(&mut read, offset as u64).unwrap();
            assert_eq!(result.bytes, len);
            assert!(read == bytes[offset..offset + len], "{offset} {len}");
        }
        let mut read = [0xee; 100];
        let near_end = bytes.len() as u64 - 60;
        let result = file.read_from_device(&mut read, near_end).unwrap();
        assert_eq!(result.bytes, 60);
        assert_eq!(read[..60], bytes[bytes.len() - 60..]);
        assert_eq!(read[60..], [0xee; 40]);
        let behind = file
            .read_from_device(&mut read, bytes.len() as u64 + 9000)
            .unwrap();
        assert_eq!(behind.bytes, 0);
        if folder.starts_with("/folder") {
            assert_eq!(result.source, ReadSource::Device);
        }
    });
}

#[test]
fn unsynced_writes_are_seen_by_a_device_read_as_well() {
    on_each(|vfs, folder| {
        let file = vfs.open(&folder.join("a"), OpenFlags::CREATE).unwrap();
        file.write_at(&[1; 9000], 0).unwrap();
        file.sync(SyncMode::Data).unwrap();
        file.write_at(&[2; 100], 5000).unwrap();
        let mut read = [0; 102];
        assert_eq!(file.read_from_device(&mut read, 4999).unwrap().bytes, 102);
        assert_eq!(read[0], 1);
        assert_eq!(read[1..101], [2; 100]);
        assert_eq!(read[101], 1);
    });
}

#[test]
fn dropping_the_cache_loses_nothing_synced_or_not() {
    on_each(|vfs, folder| {
        let file = vfs.open(&folder.join("a"), OpenFlags::CREATE).unwrap();
        file.drop_cache().unwrap();
        file.write_at(&[1; 9000], 0).unwrap();
        file.sync(SyncMode::Full).unwrap();
        file.write_at(&[2; 100], 5000).unwrap();
        file.drop_cache().unwrap();
        let mut read = [0; 9000];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read[..5000] == [1; 5000] && read[5100..] == [1; 3900]);
        assert_eq!(read[5000..5100], [2; 100]);
    });
}

#[test]
fn offsets_that_no_file_has_are_refused() {
    on_each(|vfs, folder| {
        let file = vfs.open(&folder.join("a"), OpenFlags::CREATE).unwrap();
        let last = i64::MAX as u64;
        let mut buf = [0; 2];
        assert_eq!(kind(file.read_at(&mut buf, last)), ErrorKind::OutOfRange);
        assert_eq!(kind(file.write_at(&buf, last)), ErrorKind::OutOfRange);
        assert_eq!(kind(file.write_at(&buf, u64::MAX)), ErrorKind::OutOfRange);
        assert_eq!(kind(file.truncate(last + 1)), ErrorKind::OutOfRange);
        assert_eq!(kind(file.preallocate(0, last + 1)), ErrorKind::OutOfRange);
        assert_eq!(kind(file.read_from_device(&mut buf, last)), ErrorKind::OutOfRange);
        assert!(file.is_empty().unwrap());
    });
}

#[test]
fn salts_differ_from_call_to_call() {
    on_each(|vfs, _| {
        let drawn: Vec<u64> = (0..4).map(|_| vfs.random()).collect();
        let mut distinct = drawn.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), drawn.len());
    });
}

#[test]
fn clones_share_files_and_seeds_repeat() {
    let memory = MemoryVfs::with_seed(5);
    let file = memory.open(Path::new("a"), OpenFlags::CREATE).unwrap();
    file.write_at(b"x", 0).unwrap();
    assert_eq!(memory.clone().info(Path::new("/a")).unwrap().unwrap().len, 1);
    assert_eq!(memory.random(), MemoryVfs::with_seed(5).random());
    assert_ne!(MemoryVfs::with_seed(6).random(), MemoryVfs::with_seed(5).random());
}
