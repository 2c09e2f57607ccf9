//! What the simulated disk does wrong when it is told to.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use walmend_sync::thread;
use walmend_vfs::sim::{Call, CrashKeep, Fault, Nth, RandomFaults, SimVfs};
use walmend_vfs::{ErrorKind, OpenFlags, SyncMode, Vfs, VfsFile};

const DB: &str = "/a.db";

fn open(vfs: &dyn Vfs) -> Arc<dyn VfsFile> {
    vfs.open(Path::new(DB), OpenFlags::CREATE).unwrap()
}

/// Three sectors of ones, synced.
fn ones() -> (SimVfs, Arc<dyn VfsFile>) {
    let vfs = SimVfs::new(1);
    let file = open(&vfs);
    file.write_at(&[1; 1536], 0).unwrap();
    file.sync(SyncMode::Full).unwrap();
    (vfs, file)
}

fn cached(vfs: &SimVfs) -> Vec<u8> {
    vfs.dump(Path::new(DB)).unwrap()
}

fn durable(vfs: &SimVfs) -> Vec<u8> {
    vfs.dump_durable(Path::new(DB)).unwrap()
}

/// The numbers that the sectors are full of.
fn sectors(bytes: &[u8]) -> Vec<u8> {
    let one = |sector: &[u8]| {
        assert!(sector.iter().all(|byte| *byte == sector[0]));
        sector[0]
    };
    bytes.chunks(512).map(one).collect()
}

#[test]
fn a_torn_sector_is_new_at_one_end_and_old_at_the_other() {
    let (vfs, file) = ones();
    file.write_at(&[2; 512], 512).unwrap();
    let mut kinds = BTreeSet::new();
    for seed in 0..400 {
        let after = vfs.fork().crash(CrashKeep::Torn(seed));
        let bytes = cached(&after);
        assert_eq!(sectors(&bytes[..512]), [1]);
        assert_eq!(sectors(&bytes[1024..]), [1]);
        let changes = bytes[512..1024]
            .windows(2)
            .filter(|pair| pair[0] != pair[1])
            .count();
        assert!(changes < 2, "{seed}");
        kinds.insert((bytes[512], bytes[1023], changes));
    }
    // Not there, there, only a first part, only a last part.
    assert_eq!(
        Vec::from_iter(kinds),
        [(1, 1, 0), (1, 2, 1), (2, 1, 1), (2, 2, 0)]
    );
}

#[test]
fn a_sync_that_lies_leaves_everything_to_the_next_crash_or_sync() {
    let (vfs, file) = ones();
    file.write_at(&[2; 1536], 0).unwrap();
    vfs.lie_at_sync(Nth::call(1));
    file.sync(SyncMode::Full).unwrap();
    assert_eq!(durable(&vfs), [1; 1536]);
    assert_eq!(cached(&vfs.fork().crash(CrashKeep::None)), [1; 1536]);
    file.sync(SyncMode::Full).unwrap();
    assert_eq!(durable(&vfs), [2; 1536]);
}

#[test]
fn a_lost_write_is_cached_and_stays_off_the_disk_until_it_is_written_again() {
    let (vfs, file) = ones();
    vfs.lose_write_at(Nth::call(1));
    file.write_at(&[2; 512], 512).unwrap();
    file.sync(SyncMode::Full).unwrap();
    assert_eq!(sectors(&cached(&vfs)), [1, 2, 1]);
    assert_eq!(sectors(&durable(&vfs)), [1, 1, 1]);
    let mut device = [0; 1536];
    file.read_from_device(&mut device, 0).unwrap();
    assert_eq!(sectors(&device), [1, 1, 1]);
    file.write_at(&[2], 600).unwrap();
    file.sync(SyncMode::Full).unwrap();
    assert_eq!(sectors(&durable(&vfs)), [1, 2, 1]);
    vfs.lose_write_at(Nth::call(1));
    file.write_at(&[3; 512], 512).unwrap();
    file.drop_cache().unwrap();
    assert_eq!(sectors(&cached(&vfs)), [1, 2, 1], "shown no longer");
}

#[test]
fn a_misdirected_write_lands_elsewhere_on_the_disk_alone() {
    for (by, expected) in [(1, [1, 1, 2]), (2, [2, 1, 1]), (3, [1, 2, 1])] {
        let (vfs, file) = ones();
        vfs.misdirect_write_at(Nth::call(1).of(".db"), by);
        file.write_at(&[2; 512], 512).unwrap();
        assert_eq!(sectors(&cached(&vfs)), [1, 2, 1]);
        let mut device = [0; 1536];
        file.read_from_device(&mut device, 0).unwrap();
        assert_eq!(sectors(&device), expected);
        file.sync(SyncMode::Full).unwrap();
        assert_eq!(sectors(&durable(&vfs)), expected);
    }
}

#[test]
fn a_short_read_ends_early_once_from_cache_and_device() {
    let (vfs, file) = ones();
    let mut buf = [0; 100];
    vfs.short_read_at(Nth::call(1), 40);
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 40);
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 100);
    vfs.short_read_at(Nth::call(2), 0);
    assert_eq!(file.read_from_device(&mut buf, 0).unwrap().bytes, 100);
    assert_eq!(file.read_from_device(&mut buf, 0).unwrap().bytes, 0);
    vfs.short_read_at(Nth::call(1), 40);
    let error = file.read_exact_at(&mut buf, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn a_bit_that_rots_is_read_wrong_and_stays_wrong() {
    let (vfs, file) = ones();
    let mut buf = [0; 100];
    vfs.rot_at_read(Nth::call(1), 8 * 10 + 3);
    assert_eq!(file.read_at(&mut buf, 50).unwrap(), 100);
    assert_eq!((buf[9], buf[10], buf[11]), (1, 9, 1));
    assert_eq!(durable(&vfs)[60], 9);
    assert_eq!(vfs.injected()[0].offset, 50);
    // Reading nothing, or behind the end, rots nothing.
    vfs.rot_at_read(Nth::call(1), 5);
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
    vfs.rot_at_read(Nth::call(1), 5);
    assert_eq!(file.read_at(&mut buf, 5000).unwrap(), 0);
}

#[test]
fn a_slow_sync_waits_and_other_calls_do_not() {
    let (vfs, file) = ones();
    file.write_at(&[2; 1536], 0).unwrap();
    let held = vfs.hold_at(Nth::call(1), Call::Sync);
    thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync(SyncMode::Full));
        held.wait();
        assert_eq!(durable(&vfs), [1; 1536]);
        file.write_at(&[3; 512], 0).unwrap();
        drop(held);
        sync.join().unwrap().unwrap();
    });
    assert_eq!(sectors(&durable(&vfs)), [3, 2, 2]);
}

#[test]
fn random_faults_keep_to_their_budget_and_come_back_with_their_seed() {
    let faults = vec![
        Fault::ReadError,
        Fault::LostWrite,
        Fault::LyingSync,
        Fault::SyncError(CrashKeep::None),
    ];
    let run = |seed| {
        let (vfs, file) = ones();
        vfs.arm_random(RandomFaults {
            seed,
            one_in: 5,
            budget: 6,
            faults: faults.clone(),
        });
        let mut answers = Vec::new();
        for round in 0..60 {
            answers.push(file.write_at(&[round; 10], 0).is_ok());
            answers.push(file.read_at(&mut [0; 10], 0).is_ok());
            answers.push(file.sync(SyncMode::Data).is_ok());
        }
        (answers, vfs.injected(), durable(&vfs))
    };
    let mut seen = Vec::new();
    for seed in 0..20 {
        let (answers, injected, left) = run(seed);
        assert_eq!(run(seed), (answers.clone(), injected.clone(), left));
        assert_eq!(injected.len(), 6);
        let failures = injected
            .iter()
            .filter(|one| matches!(one.fault, Fault::ReadError | Fault::SyncError(_)))
            .count();
        assert_eq!(answers.iter().filter(|well| !**well).count(), failures);
        seen.extend(injected.into_iter().map(|one| one.fault));
    }
    assert!(faults.iter().all(|fault| seen.contains(fault)));
}

#[test]
fn a_crash_disarms_what_has_not_struck_and_keeps_the_log_of_what_has() {
    let (vfs, file) = ones();
    vfs.fail_read_at(Nth::call(1));
    assert!(file.read_at(&mut [0], 7).is_err());
    vfs.lie_at_sync(Nth::call(1));
    vfs.arm_random(RandomFaults {
        seed: 1,
        one_in: 1,
        budget: 100,
        faults: vec![Fault::ReadError],
    });
    let vfs = vfs.crash(CrashKeep::All);
    let file = open(&vfs);
    file.read_at(&mut [0], 0).unwrap();
    file.write_at(&[9; 1536], 0).unwrap();
    file.sync(SyncMode::Full).unwrap();
    assert_eq!(durable(&vfs), [9; 1536]);
    let injected = vfs.injected();
    assert_eq!(injected.len(), 1);
    assert_eq!(
        (injected[0].op, injected[0].offset, &injected[0].fault),
        (3, 7, &Fault::ReadError)
    );
    assert_eq!(injected[0].file, Path::new(DB));
}
