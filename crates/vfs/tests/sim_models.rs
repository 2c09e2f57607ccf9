//! The simulated disk against models of its own: memory, the last sync, the versions of a sector.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use walmend_vfs::sim::{CrashKeep, Nth, SectorSize, SimVfs};
use walmend_vfs::{LockKind, LockRange, MemoryVfs, OpenFlags, SyncMode, Vfs, VfsFile};

fn open(vfs: &dyn Vfs, path: &str) -> Arc<dyn VfsFile> {
    vfs.open(Path::new(path), OpenFlags::CREATE).unwrap()
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

/// One step of a random program over three files.
#[derive(Debug, Clone)]
enum Step {
    Write {
        file: usize,
        offset: u64,
        len: usize,
        byte: u8,
    },
    Truncate {
        file: usize,
        len: u64,
    },
    Preallocate {
        file: usize,
        start: u64,
        len: u64,
    },
    Sync {
        file: usize,
        mode: SyncMode,
    },
    Read {
        file: usize,
        offset: u64,
        len: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    Remove {
        file: usize,
    },
    Lock {
        file: usize,
        other: bool,
        start: u64,
        len: u64,
        kind: Option<LockKind>,
    },
}

const NAMES: [&str; 3] = ["/a", "/b", "/c"];

fn step() -> impl Strategy<Value = Step> {
    let file = 0..NAMES.len();
    let mode = prop_oneof![Just(SyncMode::Data), Just(SyncMode::Full)];
    let lock = prop_oneof![
        Just(None),
        Just(Some(LockKind::Shared)),
        Just(Some(LockKind::Exclusive))
    ];
    prop_oneof![
        6 => (file.clone(), 0..3000_u64, 0..1500_usize, any::<u8>())
            .prop_map(|(file, offset, len, byte)| Step::Write { file, offset, len, byte }),
        2 => (file.clone(), 0..3000_u64).prop_map(|(file, len)| Step::Truncate { file, len }),
        1 => (file.clone(), 0..3000_u64, 0..1500_u64)
            .prop_map(|(file, start, len)| Step::Preallocate { file, start, len }),
        2 => (file.clone(), mode).prop_map(|(file, mode)| Step::Sync { file, mode }),
        3 => (file.clone(), 0..4000_u64, 0..2000_usize)
            .prop_map(|(file, offset, len)| Step::Read { file, offset, len }),
        1 => (file.clone(), file.clone()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => file.clone().prop_map(|file| Step::Remove { file }),
        2 => (file, any::<bool>(), 0..8_u64, 1..8_u64, lock)
            .prop_map(|(file, other, start, len, kind)| Step::Lock { file, other, start, len, kind }),
    ]
}

/// A file system with each file opened twice. A file that loses its name is opened anew.
struct Machine<'a> {
    vfs: &'a dyn Vfs,
    files: Vec<[Arc<dyn VfsFile>; 2]>,
}

impl<'a> Machine<'a> {
    fn new(vfs: &'a dyn Vfs) -> Self {
        let files = NAMES
            .iter()
            .map(|name| [open(vfs, name), open(vfs, name)])
            .collect();
        Self { vfs, files }
    }

    /// Does a step; answers everything that can be seen of it.
    fn run(&mut self, step: &Step) -> Vec<u8> {
        match *step {
            Step::Write {
                file,
                offset,
                len,
                byte,
            } => {
                let bytes: Vec<u8> = (0..len).map(|at| byte.wrapping_add(at as u8)).collect();
                self.files[file][0].write_at(&bytes, offset).unwrap();
            }
            Step::Truncate { file, len } => self.files[file][0].truncate(len).unwrap(),
            Step::Preallocate { file, start, len } => {
                self.files[file][0].preallocate(start, start + len).unwrap();
            }
            Step::Sync { file, mode } => self.files[file][0].sync(mode).unwrap(),
            Step::Read { file, offset, len } => {
                let mut bytes = vec![0xee; len];
                let read = self.files[file][1].read_at(&mut bytes, offset).unwrap();
                let device = read_device(&*self.files[file][1], offset, len);
                assert_eq!(bytes[..read], device);
                bytes.extend_from_slice(&(read as u64).to_le_bytes());
                return bytes;
            }
            Step::Rename { from, to } => {
                self.vfs
                    .rename(Path::new(NAMES[from]), Path::new(NAMES[to]))
                    .unwrap();
                self.reopen();
            }
            Step::Remove { file } => {
                self.vfs.remove(Path::new(NAMES[file])).unwrap();
                self.reopen();
            }
            Step::Lock {
                file,
                other,
                start,
                len,
                kind,
            } => {
                let file = &self.files[file][usize::from(other)];
                let range = LockRange { start, len };
                return match kind {
                    Some(kind) => {
                        let held = file.lock_holder(range, kind).unwrap().is_some();
                        vec![u8::from(held), u8::from(file.try_lock(range, kind).unwrap())]
                    }
                    None => {
                        file.unlock(range).unwrap();
                        vec![]
                    }
                };
            }
        }
        vec![]
    }

    fn reopen(&mut self) {
        self.files = Machine::new(self.vfs).files;
    }

    fn contents(&self) -> Vec<Vec<u8>> {
        self.files
            .iter()
            .map(|[file, _]| read(&**file, 0, file.len().unwrap() as usize))
            .collect()
    }
}

fn dump_all(vfs: &SimVfs) -> Vec<Vec<u8>> {
    NAMES
        .iter()
        .map(|name| vfs.dump(Path::new(name)).unwrap())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_faults_the_simulation_cannot_be_told_from_memory(
        steps in prop::collection::vec(step(), 0..60),
        large in any::<bool>(),
    ) {
        let sectors = if large { SectorSize::Bytes4096 } else { SectorSize::Bytes512 };
        let (sim, memory) = (SimVfs::with_sectors(3, sectors), MemoryVfs::with_seed(3));
        let (mut one, mut two) = (Machine::new(&sim), Machine::new(&memory));
        for step in &steps {
            prop_assert_eq!(one.run(step), two.run(step), "{:?}", step);
        }
        prop_assert_eq!(one.contents(), two.contents());
        prop_assert_eq!(sim.random(), memory.random());
        // A crash that loses nothing, and a kill, leave the same.
        let expected = two.contents();
        prop_assert_eq!(dump_all(&sim.fork().crash(CrashKeep::All)), expected.clone());
        prop_assert_eq!(dump_all(&sim.kill()), expected);
    }

    #[test]
    fn a_crash_that_keeps_nothing_goes_back_to_the_last_full_sync(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let sim = SimVfs::new(3);
        let mut machine = Machine::new(&sim);
        // By inode, since names move; a new file is empty.
        let mut synced: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let inode = |name: &str| sim.info(Path::new(name)).unwrap().unwrap().inode;
        for step in &steps {
            let mut step = step.clone();
            if let Step::Sync { file, mode } = &mut step {
                *mode = SyncMode::Full;
                synced.insert(inode(NAMES[*file]), sim.dump(Path::new(NAMES[*file])).unwrap());
            }
            machine.run(&step);
        }
        let expected: Vec<Vec<u8>> = NAMES
            .iter()
            .map(|name| synced.get(&inode(name)).cloned().unwrap_or_default())
            .collect();
        prop_assert_eq!(dump_all(&sim.crash(CrashKeep::None)), expected);
    }

    #[test]
    fn after_any_crash_each_sector_is_one_of_its_versions_since_the_last_sync(
        writes in prop::collection::vec((0..2000_u64, 1..1200_usize, any::<u8>(), 0..5_u8), 1..30),
        seed in any::<u64>(),
    ) {
        const LEN: usize = 4096;
        let sim = SimVfs::new(3);
        let file = open(&sim, "/a");
        file.preallocate(0, LEN as u64).unwrap();
        file.sync(SyncMode::Full).unwrap();
        let mut content = vec![0; LEN];
        let mut versions = vec![content.clone()];
        for (offset, len, byte, sync) in writes {
            let at = offset as usize;
            file.write_at(&vec![byte; len], offset).unwrap();
            content[at..at + len].fill(byte);
            if sync == 0 {
                file.sync(SyncMode::Data).unwrap();
                versions.clear();
            }
            versions.push(content.clone());
        }
        let after = sim.crash(CrashKeep::Random(seed)).dump(Path::new("/a")).unwrap();
        prop_assert_eq!(after.len(), LEN);
        for (index, sector) in after.chunks(512).enumerate() {
            let known = versions.iter().any(|version| &version[index * 512..][..512] == sector);
            prop_assert!(known, "sector {}", index);
        }
    }

    #[test]
    fn a_failed_sync_and_a_crash_at_the_same_point_can_leave_the_same(
        steps in prop::collection::vec(step(), 0..40),
        seed in any::<u64>(),
    ) {
        let sim = SimVfs::new(3);
        let mut machine = Machine::new(&sim);
        for step in &steps {
            machine.run(step);
        }
        machine.files[1][0].sync(SyncMode::Full).unwrap();
        machine.files[2][0].sync(SyncMode::Full).unwrap();
        // All that is pending now belongs to one file, so the same seed means the same changes.
        let crashed = sim.fork().crash(CrashKeep::Random(seed));
        sim.fail_sync_at(Nth::call(1), CrashKeep::Random(seed));
        prop_assert!(machine.files[0][0].sync(SyncMode::Data).is_err());
        prop_assert!(sim.pending().is_empty());
        machine.files[0][0].sync(SyncMode::Full).unwrap();
        prop_assert_eq!(dump_all(&sim.crash(CrashKeep::All)), dump_all(&crashed));
    }
}
