//! The failure rules on a real file system that runs full: ext4 on a loop device over a small tmpfs. It needs
//! root; elsewhere these tests say so and pass.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use walmend::{CheckpointMode, CommitOutcome, Error, LogIo, Options, PageNumber, Store};

/// A file system of its own, gone when this is dropped.
struct Disk {
    folder: tempfile::TempDir,
    /// The loop device, once there is one.
    device: Option<String>,
    /// How the file system is mounted.
    options: &'static str,
}

/// Runs a program; answers what it printed.
fn run(program: &str, args: &[&dyn AsRef<OsStr>]) -> Result<String, String> {
    let output = Command::new(program)
        .args(args.iter().map(|arg| arg.as_ref()))
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!(
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

impl Disk {
    /// `None`, with a word why, where this machine does not allow it.
    #[expect(clippy::print_stdout, reason = "a test that was skipped says so")]
    fn make(backing_mib: u32, image_mib: u64, features: &str, options: &'static str) -> Option<Self> {
        let mut disk = Self {
            folder: tempfile::tempdir().unwrap(),
            device: None,
            options,
        };
        match disk.set_up(backing_mib, image_mib, features) {
            Ok(()) => Some(disk),
            Err(why) => {
                println!("skipped, no loop device here: {why}");
                None
            }
        }
    }

    fn set_up(&mut self, backing_mib: u32, image_mib: u64, features: &str) -> Result<(), String> {
        fs::create_dir(self.backing()).unwrap();
        fs::create_dir(self.path()).unwrap();
        let size = format!("size={backing_mib}m");
        run(
            "mount",
            &[&"-t", &"tmpfs", &"-o", &size, &"tmpfs", &self.backing()],
        )?;
        let image = fs::File::create(self.image()).unwrap();
        image.set_len(image_mib << 20).unwrap();
        let make: &[&dyn AsRef<OsStr>] = &[
            &"-q",
            &"-b",
            &"4096",
            &"-m",
            &"0",
            &"-O",
            &features,
            &"-E",
            &"lazy_journal_init=1",
            &self.image(),
        ];
        run("mkfs.ext4", make)?;
        let device = run("losetup", &[&"--find", &"--show", &self.image()])?;
        let queue = Path::new("/sys/block")
            .join(device.trim_start_matches("/dev/"))
            .join("queue");
        self.device = Some(device);
        // A loop device calls a request done of which only the first pages found room (measured: frames were
        // gone whose sync had succeeded). So that it tells the truth, a request is one page.
        fs::write(queue.join("max_sectors_kb"), "4").map_err(|error| error.to_string())?;
        self.mount()
    }

    fn backing(&self) -> PathBuf {
        self.folder.path().join("backing")
    }

    fn image(&self) -> PathBuf {
        self.backing().join("image")
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn mount(&self) -> Result<(), String> {
        let device = self.device.as_deref().unwrap_or_default();
        let options = ["-t", "ext4", "-o", self.options];
        run(
            "mount",
            &[
                &options[0],
                &options[1],
                &options[2],
                &options[3],
                &device,
                &self.path(),
            ],
        )
        .map(drop)
    }

    /// Forgets everything that is cached: what is there afterwards is on the disk.
    fn remount(&self) {
        run("umount", &[&self.path()]).unwrap();
        self.mount().unwrap();
    }

    fn grow_backing(&self, mib: u32) {
        let size = format!("remount,size={mib}m");
        run("mount", &[&"-o", &size, &self.backing()]).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily where it is busy: nothing may outlive a test that failed.
        let unmount = |mounted: &PathBuf| {
            if run("umount", &[mounted]).is_err() {
                let _ = run("umount", &[&"-l", mounted]);
            }
        };
        unmount(&self.path());
        if let Some(device) = &self.device {
            let _ = run("losetup", &[&"-d", device]);
        }
        unmount(&self.backing());
    }
}

const PAGES: u32 = 64;

/// What was acknowledged, page by page, and what is not known.
#[derive(Debug, Clone)]
struct Model {
    versions: Vec<u32>,
    unknown: Option<(u32, u32)>,
    next: u32,
}

impl Model {
    fn new() -> Self {
        Self {
            versions: vec![0; PAGES as usize],
            unknown: None,
            next: 1,
        }
    }

    fn commit(&mut self, store: &Store) -> CommitOutcome {
        let version = self.next;
        self.next += 1;
        let page = version % PAGES;
        let mut txn = store.begin().unwrap();
        txn.write(
            PageNumber::new(page + 1).unwrap(),
            version.to_be_bytes().repeat(1024),
        )
        .unwrap();
        let outcome = txn.commit();
        match &outcome {
            CommitOutcome::Committed { .. } => self.versions[page as usize] = version,
            CommitOutcome::OutcomeUnknown { token, .. } => {
                assert!(token.is_some());
                self.unknown = Some((page, version));
            }
            _ => {}
        }
        outcome
    }

    /// Checks everything there is, and settles what was unknown.
    fn check(&mut self, store: &Store) {
        let snapshot = store.snapshot().unwrap();
        for page in 0..PAGES.min(snapshot.db_pages()) {
            let bytes = snapshot.read(PageNumber::new(page + 1).unwrap()).unwrap();
            let found = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            assert!(
                bytes == found.to_be_bytes().repeat(1024),
                "page {page} is of one version"
            );
            if self.unknown == Some((page, found)) {
                self.versions[page as usize] = found;
            }
            assert_eq!(found, self.versions[page as usize], "page {page}");
        }
        let highest = self.versions.iter().rposition(|version| *version > 0);
        assert!(highest.is_none_or(|highest| (highest as u32) < snapshot.db_pages()));
        self.unknown = None;
    }
}

fn open(path: &Path) -> Store {
    Store::open(path, Options::new()).unwrap().0
}

fn fill(path: &Path) {
    let zeros = vec![1; 1 << 16];
    let mut file = fs::File::create(path).unwrap();
    loop {
        match std::io::Write::write(&mut file, &zeros) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
                break;
            }
        }
    }
}

#[test]
fn a_full_file_system_refuses_commits_until_there_is_space_and_loses_none() {
    let Some(disk) = Disk::make(64, 48, "has_journal", "rw") else {
        return;
    };
    let (path, filler) = (disk.path().join("a.db"), disk.path().join("filler"));
    let mut model = Model::new();
    let store = open(&path);
    for _ in 0..100 {
        assert!(model.commit(&store).is_committed());
    }
    fill(&filler);
    let mut committed = 0;
    let refused = loop {
        match model.commit(&store) {
            CommitOutcome::Committed { .. } => committed += 1,
            other => break other,
        }
        assert!(committed < 20_000, "the disk never ran full");
    };
    match refused {
        CommitOutcome::NotCommitted { reason } => assert!(matches!(reason, Error::Full { .. }), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.stats().poisoned, None);
    model.check(&store);
    // The database cannot grow either; the log is kept.
    let checkpoint = store.checkpoint(CheckpointMode::Truncate);
    assert!(matches!(checkpoint, Err(Error::Full { .. })), "{checkpoint:?}");
    assert!(matches!(model.commit(&store), CommitOutcome::NotCommitted { .. }));
    model.check(&store);

    fs::remove_file(&filler).unwrap();
    for _ in 0..100 {
        assert!(model.commit(&store).is_committed());
    }
    drop(store);
    disk.remount();
    let store = open(&path);
    model.check(&store);
    store.checkpoint(CheckpointMode::Truncate).unwrap();
    model.check(&store);
    store.close().unwrap();
}

#[test]
fn a_sync_that_really_fails_ends_all_writing_and_loses_no_commit() {
    // A journal that cannot be written makes the file system read-only, so that it has to be mounted again.
    // Without one, the store is reopened over a cache that shows what is not on the disk.
    for (features, options, cold) in [
        ("has_journal", "rw", true),
        ("^has_journal", "dioread_lock", false),
        ("^has_journal", "dioread_nolock", false),
    ] {
        // More file system than there is room for: it runs out when the dirty pages are written back.
        let Some(disk) = Disk::make(16, 256, features, options) else {
            return;
        };
        let path = disk.path().join("a.db");
        let mut model = Model::new();
        // Past the page cache it is the append that fails.
        let buffered = Options::new().log_io(LogIo::Buffered);
        let (store, _) = Store::open(&path, buffered).unwrap();
        let mut committed = 0;
        let failed = loop {
            match model.commit(&store) {
                CommitOutcome::Committed { .. } => committed += 1,
                other => break other,
            }
            assert!(committed < 20_000, "no sync ever failed");
        };
        assert!(committed > 100, "{committed}");
        assert!(
            matches!(failed, CommitOutcome::OutcomeUnknown { .. }),
            "{failed:?}"
        );
        assert!(store.stats().poisoned.is_some());
        let later = model.commit(&store);
        assert!(
            matches!(
                &later,
                CommitOutcome::NotCommitted {
                    reason: Error::Poisoned { .. }
                }
            ),
            "{later:?}"
        );
        let unknown = model.unknown.take();
        model.check(&store);
        model.unknown = unknown;
        let _ = store.close();
        disk.grow_backing(400);
        if cold {
            disk.remount();
        }
        // After a failed write, ext4 without dioread_lock may leave blocks marked as unwritten, under a cache that takes
        // them for written: another sync succeeds, and the device still reads zeros. Recovery sees it, drops the cache,
        // and goes on with what is there.
        model.check(&open(&path));
        // What was found is what stays.
        disk.remount();
        let store = open(&path);
        model.check(&store);
        for _ in 0..100 {
            assert!(model.commit(&store).is_committed());
        }
        store.checkpoint(CheckpointMode::Truncate).unwrap();
        model.check(&store);
        store.close().unwrap();
    }
}

#[test]
fn past_the_page_cache_a_device_that_runs_full_refuses_commits_and_loses_none() {
    let Some(disk) = Disk::make(16, 256, "has_journal", "rw") else {
        return;
    };
    let path = disk.path().join("a.db");
    let mut model = Model::new();
    let (store, _) = Store::open(&path, Options::new().log_io(LogIo::Direct)).unwrap();
    assert_eq!(store.stats().log_io, LogIo::Direct);
    let mut committed = 0;
    let failed = loop {
        match model.commit(&store) {
            CommitOutcome::Committed { .. } => committed += 1,
            other => break other,
        }
        assert!(committed < 20_000, "no write ever failed");
    };
    assert!(committed > 100, "{committed}");
    // Which of the two depends on whether the zeroed headers find room on the device.
    assert!(
        matches!(
            failed,
            CommitOutcome::NotCommitted { .. } | CommitOutcome::OutcomeUnknown { .. }
        ),
        "{failed:?}"
    );
    let unknown = model.unknown.take();
    model.check(&store);
    model.unknown = unknown;
    let _ = store.close();
    disk.grow_backing(400);
    disk.remount();
    let store = open(&path);
    model.check(&store);
    for _ in 0..100 {
        assert!(model.commit(&store).is_committed());
    }
    model.check(&store);
    store.close().unwrap();
}
