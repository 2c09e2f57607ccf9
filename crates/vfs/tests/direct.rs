//! Files that are written past the page cache: whatever is written, in whatever order, reads back, through this file
//! and through another one, on the simulated disk and on the real one.

use proptest::prelude::*;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use walmend_vfs::sim::{CrashKeep, Nth, SimVfs};
use walmend_vfs::{
    AlignedBuf, DIRECT_BLOCK, DirectFile, DirectWrites, MemoryVfs, OpenFlags, SyncMode, UnixVfs, Vfs, VfsFile,
};

#[derive(Debug, Clone)]
enum Step {
    Write {
        offset: usize,
        lens: Vec<usize>,
    },
    /// Where the last write or append ended.
    Append {
        lens: Vec<usize>,
    },
    Truncate(usize),
    Preallocate(usize),
    /// Fills the cache.
    Read,
    Sync,
}

fn step() -> impl Strategy<Value = Step> {
    let lens = || prop::collection::vec(prop_oneof![0usize..40, 500usize..4200], 0..4);
    prop_oneof![
        2 => (0usize..20_000, lens()).prop_map(|(offset, lens)| Step::Write { offset, lens }),
        6 => lens().prop_map(|lens| Step::Append { lens }),
        1 => (0usize..20_000).prop_map(Step::Truncate),
        1 => (0usize..20_000).prop_map(Step::Preallocate),
        2 => Just(Step::Read),
        1 => Just(Step::Sync),
    ]
}

/// What the file must hold, byte by byte.
#[derive(Default)]
struct Model {
    bytes: Vec<u8>,
    tail: usize,
}

impl Model {
    fn write(&mut self, offset: usize, bytes: &[u8], append: bool) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        let stop = end.next_multiple_of(DIRECT_BLOCK);
        self.bytes.resize(self.bytes.len().max(stop), 0);
        self.bytes[offset..end].copy_from_slice(bytes);
        if append {
            self.bytes[end..stop].fill(0);
        }
        self.tail = end;
    }
}

fn whole(file: &dyn VfsFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn follow(vfs: &dyn Vfs, path: &Path, steps: &[Step]) {
    let plain = vfs.open(path, OpenFlags::CREATE).unwrap();
    let other = vfs.open(path, OpenFlags::READ).unwrap();
    let file = DirectFile::new(Arc::clone(&plain));
    let mut model = Model::default();
    for (number, step) in (1u8..).zip(steps) {
        let data = |lens: &[usize]| -> Vec<Vec<u8>> {
            (0u8..)
                .zip(lens)
                .map(|(part, len)| vec![number.wrapping_mul(16).wrapping_add(part) | 1; *len])
                .collect()
        };
        match step {
            Step::Write { offset, lens } => {
                let data = data(lens);
                let slices: Vec<IoSlice<'_>> = data.iter().map(|bytes| IoSlice::new(bytes)).collect();
                file.write_gathered(&slices, *offset as u64).unwrap();
                model.write(*offset, &data.concat(), false);
            }
            Step::Append { lens } => {
                let data = data(lens);
                let slices: Vec<IoSlice<'_>> = data.iter().map(|bytes| IoSlice::new(bytes)).collect();
                let tail = model.tail;
                file.append_gathered(&slices, tail as u64).unwrap();
                model.write(tail, &data.concat(), true);
            }
            Step::Truncate(len) => {
                file.truncate(*len as u64).unwrap();
                model.bytes.resize(*len, 0);
                model.tail = *len;
            }
            Step::Preallocate(len) => {
                let start = model.bytes.len();
                file.preallocate(start as u64, (start + len) as u64).unwrap();
                let tail = model.tail;
                model.write(start, &vec![0; *len], true);
                model.tail = tail;
            }
            Step::Read => {
                assert!(whole(&*other) == model.bytes, "{number}: {step:?}");
            }
            Step::Sync => file.sync(SyncMode::Data).unwrap(),
        }
        assert_eq!(
            file.len().unwrap(),
            model.bytes.len() as u64,
            "{number}: {step:?}"
        );
    }
    assert!(whole(&file) == model.bytes);
    assert!(whole(&*other) == model.bytes);
    let mut device = vec![0; model.bytes.len()];
    let read = other.read_from_device(&mut device, 0).unwrap();
    assert_eq!(read.bytes, model.bytes.len());
    assert!(device == model.bytes);
}

proptest! {
    #[test]
    fn whatever_is_written_reads_back_on_the_simulated_disk(steps in prop::collection::vec(step(), 1..30)) {
        follow(&SimVfs::new(1), Path::new("/a"), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_reads_back_on_the_real_disk(steps in prop::collection::vec(step(), 1..30)) {
        // Beside the build and not in the temporary folder: that may lie in memory, which has no direct writes.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("a");
        let vfs = UnixVfs::new();
        if vfs.direct_writes(&path) != DirectWrites::Unavailable {
            follow(&vfs, &path, &steps);
        }
    }
}

#[test]
fn a_write_of_many_chunks_arrives_whole() {
    let vfs = SimVfs::new(1);
    let file = DirectFile::new(vfs.open(Path::new("/a"), OpenFlags::CREATE).unwrap());
    let bytes: Vec<u8> = (0..5_000_000u32).map(|at| (at % 251) as u8).collect();
    file.append_gathered(&[IoSlice::new(&bytes[..7]), IoSlice::new(&bytes[7..])], 33)
        .unwrap();
    assert!(whole(&file)[33..33 + bytes.len()] == bytes);
    // The tail that was kept is that of the last chunk.
    file.append_gathered(&[IoSlice::new(b"next")], 33 + bytes.len() as u64)
        .unwrap();
    let found = whole(&file);
    assert!(found[33..33 + bytes.len()] == bytes);
    assert_eq!(&found[33 + bytes.len()..][..4], b"next");
}

#[test]
fn what_is_kept_of_a_failed_write_is_not_believed() {
    let vfs = SimVfs::new(1);
    let file = DirectFile::new(vfs.open(Path::new("/a"), OpenFlags::CREATE).unwrap());
    file.append_gathered(&[IoSlice::new(b"one")], 0).unwrap();
    vfs.fail_write_at(Nth::call(1), 0, std::io::ErrorKind::Other);
    file.append_gathered(&[IoSlice::new(b"two")], 3).unwrap_err();
    file.append_gathered(&[IoSlice::new(b"xyz")], 6).unwrap();
    assert_eq!(&whole(&file)[..9], b"one\0\0\0xyz");
}

#[test]
fn a_direct_write_is_durable_only_after_a_sync() {
    let vfs = SimVfs::new(1);
    let file = vfs.open(Path::new("/a"), OpenFlags::CREATE).unwrap();
    let mut blocks = AlignedBuf::zeroed(DIRECT_BLOCK);
    blocks.fill(7);
    file.write_direct(&blocks, 0).unwrap();
    assert_eq!(
        vfs.fork().crash(CrashKeep::None).dump(Path::new("/a")).unwrap(),
        b""
    );
    // Torn at sectors: every other one of the eight.
    let kept = vfs.fork().crash(CrashKeep::Subset([true, false].repeat(4)));
    let torn = kept.dump(Path::new("/a")).unwrap();
    assert_eq!((torn[511], torn[512], torn[1024]), (7, 0, 7));
    file.sync(SyncMode::Data).unwrap();
    let kept = vfs.crash(CrashKeep::None).dump(Path::new("/a")).unwrap();
    assert!(kept == vec![7; DIRECT_BLOCK]);
}

#[test]
fn a_lost_direct_write_is_not_in_the_cache_either() {
    let vfs = SimVfs::new(1);
    let file = vfs.open(Path::new("/a"), OpenFlags::CREATE).unwrap();
    let mut blocks = AlignedBuf::zeroed(DIRECT_BLOCK);
    file.write_direct(&blocks, 0).unwrap();
    blocks.fill(7);
    vfs.lose_write_at(Nth::call(1));
    file.write_direct(&blocks, 0).unwrap();
    assert!(whole(&*file) == vec![0; DIRECT_BLOCK]);
}

#[test]
fn what_is_not_aligned_is_refused_and_what_cannot_be_direct_says_so() {
    let blocks = AlignedBuf::zeroed(2 * DIRECT_BLOCK);
    let sim = SimVfs::new(1);
    let file = sim.open(Path::new("/a"), OpenFlags::CREATE).unwrap();
    file.write_direct(&blocks, 512).unwrap_err();
    file.write_direct(&blocks[..100], 0).unwrap_err();
    file.write_direct(&blocks[8..8 + DIRECT_BLOCK], 0).unwrap_err();
    assert_eq!(file.len().unwrap(), 0);
    assert_eq!(sim.direct_writes(Path::new("/a")), DirectWrites::Slower);

    let memory = MemoryVfs::new();
    let file = memory.open(Path::new("/a"), OpenFlags::CREATE).unwrap();
    assert_eq!(memory.direct_writes(Path::new("/a")), DirectWrites::Unavailable);
    file.write_direct(&blocks, 0).unwrap_err();
}
