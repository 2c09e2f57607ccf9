//! A real process is killed at every write, sync and truncation of the sidecar, and in the middle of each write. Whatever
//! that leaves, opening and healing make nothing worse.
#![cfg(feature = "repair")]

mod common;

use common::child::{self, Child};
use common::{Random, copy, findings, page};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use walmend::{CheckpointMode, Error, Options, PageSize, Result, Store, UnixVfs, Vfs};
use walmend_sync::atomic::{AtomicU32, Ordering};
use walmend_types::SyncMode;
use walmend_vfs::{DeviceRead, FileInfo, LockHolder, LockKind, LockRange, OpenFlags, VfsFile};
use walmend_wal::{frame_offset, with_suffix};

const SIDECAR: &str = "-wal-fec";
const LONG: Duration = Duration::from_secs(60);
const TEST: &str = "killed_at_any_step_of_its_sidecar_a_store_loses_nothing_and_heals_nothing_wrong";

/// The real file system; the process kills itself at one step of the sidecar.
#[derive(Debug)]
struct KillVfs {
    inner: UnixVfs,
    steps: Arc<Steps>,
}

/// Counts down; at 0 the process dies.
#[derive(Debug)]
struct Steps(AtomicU32);

impl Steps {
    /// Whether this is the last step.
    fn last(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

fn die() {
    kill(Pid::this(), Signal::SIGKILL).unwrap();
}

impl Vfs for KillVfs {
    fn open(&self, path: &Path, flags: OpenFlags) -> Result<Arc<dyn VfsFile>> {
        let file = self.inner.open(path, flags)?;
        if !path.to_string_lossy().ends_with(SIDECAR) {
            return Ok(file);
        }
        Ok(Arc::new(KillFile {
            inner: file,
            steps: Arc::clone(&self.steps),
        }))
    }

    fn info(&self, path: &Path) -> Result<Option<FileInfo>> {
        self.inner.info(path)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.inner.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        self.inner.canonical(path)
    }

    fn random(&self) -> u64 {
        self.inner.random()
    }

    fn boot_id(&self) -> String {
        self.inner.boot_id()
    }
}

#[derive(Debug)]
struct KillFile {
    inner: Arc<dyn VfsFile>,
    steps: Arc<Steps>,
}

impl VfsFile for KillFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_gathered(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<()> {
        if self.steps.last() {
            die();
        }
        if self.steps.last() {
            let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            self.inner.write_at(&bytes[..bytes.len() / 2], offset)?;
            die();
        }
        self.inner.write_gathered(bufs, offset)
    }

    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn truncate(&self, len: u64) -> Result<()> {
        if self.steps.last() {
            die();
        }
        self.inner.truncate(len)
    }

    fn preallocate(&self, start: u64, end: u64) -> Result<()> {
        self.inner.preallocate(start, end)
    }

    fn sync(&self, mode: SyncMode) -> Result<()> {
        if self.steps.last() {
            die();
        }
        self.inner.sync(mode)
    }

    fn read_from_device(&self, buf: &mut [u8], offset: u64) -> Result<DeviceRead> {
        self.inner.read_from_device(buf, offset)
    }

    fn drop_cache(&self) -> Result<()> {
        self.inner.drop_cache()
    }

    fn try_lock(&self, range: LockRange, kind: LockKind) -> Result<bool> {
        self.inner.try_lock(range, kind)
    }

    fn unlock(&self, range: LockRange) -> Result<()> {
        self.inner.unlock(range)
    }

    fn lock_holder(&self, range: LockRange, kind: LockKind) -> Result<Option<LockHolder>> {
        self.inner.lock_holder(range, kind)
    }
}

fn image(number: u64) -> Vec<u8> {
    Random(number).bytes(4096)
}

/// Commits and repairs in two generations of the log, and once more behind a group that is there; tells of each commit.
fn play(step: u32, db: &Path) -> ! {
    let steps = Arc::new(Steps(AtomicU32::new(step)));
    let inner = UnixVfs::new();
    let options = Options::new().vfs(Arc::new(KillVfs { inner, steps }));
    let (store, _) = Store::open(db, options).unwrap();
    let commit = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            let mut txn = store.begin().unwrap();
            txn.write(page(10), image(number)).unwrap();
            txn.write(page(11), image(number)).unwrap();
            txn.commit().into_result().unwrap();
            child::say(&number.to_string());
        }
        store.wait_for_repair(LONG).unwrap();
    };
    commit(1..5);
    store.checkpoint(CheckpointMode::Restart).unwrap();
    commit(5..9);
    commit(9..12);
    store.close().unwrap();
    child::say("done");
    child::wait_for_parent();
    std::process::exit(0)
}

/// The number whose image both pages hold.
fn newest(store: &Store) -> u64 {
    let snapshot = store.snapshot().unwrap();
    let found = snapshot.read(page(10)).unwrap();
    assert!(found == snapshot.read(page(11)).unwrap(), "half a transaction");
    (1..12).find(|number| image(*number) == found).unwrap()
}

fn flip(db: &Path, frame: u32) {
    let wal = with_suffix(db, "-wal");
    let mut bytes = fs::read(&wal).unwrap();
    bytes[frame_offset(frame, PageSize::DEFAULT) as usize + 333] ^= 16;
    fs::write(wal, bytes).unwrap();
}

#[test]
fn killed_at_any_step_of_its_sidecar_a_store_loses_nothing_and_heals_nothing_wrong() {
    if let Some((role, db)) = child::role() {
        play(role.parse().unwrap(), &db);
    }
    const FILES: [&str; 3] = ["-wal", "-wal-meta", SIDECAR];
    let folder = tempfile::tempdir().unwrap();
    let (mut healed, mut refused) = (0, 0);
    for step in 1.. {
        let db = folder.path().join(format!("{step}.db"));
        let mut child = Child::start(TEST, &step.to_string(), &db);
        let mut acknowledged = 0;
        let mut done = false;
        while let Some(said) = child.hear_or_end() {
            match said.parse() {
                Ok(number) => acknowledged = number,
                Err(_) => done = true,
            }
            if done {
                break;
            }
        }
        drop(child);
        let log = fs::read(with_suffix(&db, "-wal")).unwrap();

        // With damage on top: it is healed to what was there, or refused with nothing changed.
        for frame in 1..=findings(&db).durable_frame.min(4) {
            let hit = copy(&db, &folder.path().join(format!("{step}-{frame}")), &FILES);
            flip(&hit, frame);
            let damaged = fs::read(with_suffix(&hit, "-wal")).unwrap();
            match Store::open(&hit, Options::new().repair(false)) {
                Ok((store, report)) if report.healed_frames == [frame] => {
                    assert!(newest(&store) >= acknowledged, "step {step}, frame {frame}");
                    drop(store);
                    let now = fs::read(with_suffix(&hit, "-wal")).unwrap();
                    assert!(now[..log.len()] == log[..], "step {step}, frame {frame}");
                    healed += 1;
                }
                Ok((_, report)) => panic!("step {step}, frame {frame}: {report:?}"),
                Err(Error::WalCorrupt { .. }) => {
                    assert!(fs::read(with_suffix(&hit, "-wal")).unwrap() == damaged);
                    refused += 1;
                }
                Err(error) => panic!("step {step}, frame {frame}: {error}"),
            }
        }

        // Without: nothing is healed, nothing is lost, and what comes next is repairable again.
        let (store, report) = Store::open(&db, Options::new()).unwrap();
        assert_eq!(report.healed_frames, [], "step {step}");
        let found = newest(&store);
        assert!(
            found >= acknowledged,
            "step {step}: {found}, but {acknowledged} was acknowledged"
        );
        store.wait_for_repair(LONG).unwrap();
        let failed = store.stats().repair.unwrap().failed_commits;
        assert_eq!(failed, 0, "step {step}");
        store.close().unwrap();
        flip(&db, 2);
        let (store, report) = Store::open(&db, Options::new()).unwrap();
        assert_eq!(
            (report.healed_frames, newest(&store)),
            (vec![2], found),
            "step {step}"
        );
        if done {
            assert!(step > 10, "all steps were gone through");
            break;
        }
    }
    assert!(healed > 0 && refused > 0, "{healed} healed, {refused} refused");
}
