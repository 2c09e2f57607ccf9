//! The whole store on a disk that loses power, fails syncs and writes, and runs full, with several writers at
//! work: what was acknowledged is there, what was refused is not, and a token tells about the rest.

#[path = "../../wal/tests/double/mod.rs"]
mod double;

use double::{DoubleVfs, Fault};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use walmend::{
    CheckpointMode, CommitOutcome, CommitSeq, Error, Options, OutcomeToken, PageNumber, PageSize, Pages,
    Store,
};
use walmend_sync::thread;
use walmend_vfs::Vfs;
use walmend_vfs::sim::{CrashKeep, Nth, SimVfs};

const WRITERS: u32 = 4;
const PAGE: usize = 1024;

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

fn image(version: u32) -> Vec<u8> {
    version.to_be_bytes().repeat(PAGE / 4)
}

fn options(vfs: &(impl Vfs + Clone + 'static)) -> Options {
    // The faults are counted out: nothing else may write meanwhile.
    Options::new()
        .repair(false)
        .page_size(PageSize::new(1024).unwrap())
        .preallocate(8192)
        .vfs(Arc::new(vfs.clone()))
}

fn open(vfs: &(impl Vfs + Clone + 'static), path: &str) -> Result<Store, Error> {
    Store::open(path, options(vfs)).map(|(store, _)| store)
}

/// What one writer knows. It writes its own two pages, both with the same, ever higher version.
#[derive(Debug, Clone)]
struct Writer {
    number: u32,
    /// The last version that was acknowledged.
    sure: u32,
    /// The version that may be there, with its token.
    unknown: Option<(u32, Option<OutcomeToken>)>,
    next: u32,
    last_seq: CommitSeq,
}

impl Writer {
    fn all() -> Vec<Self> {
        (0..WRITERS)
            .map(|number| Self {
                number,
                sure: 0,
                unknown: None,
                next: 1,
                last_seq: CommitSeq(0),
            })
            .collect()
    }

    fn pages(&self) -> [PageNumber; 2] {
        [page(self.number + 1), page(self.number + 1 + WRITERS)]
    }

    fn commit(&mut self, store: &Store) -> Result<CommitOutcome, Error> {
        assert!(self.unknown.is_none());
        let mut txn = store.begin()?;
        for page in self.pages() {
            txn.write(page, image(self.next))?;
        }
        let version = self.next;
        self.next += 1;
        let outcome = txn.commit();
        match &outcome {
            CommitOutcome::Committed { commit_seq, .. } => {
                assert!(*commit_seq > self.last_seq);
                (self.sure, self.last_seq) = (version, *commit_seq);
            }
            CommitOutcome::OutcomeUnknown { token, .. } => self.unknown = Some((version, *token)),
            CommitOutcome::NotCommitted { .. } => {}
            CommitOutcome::Conflict(conflict) => panic!("nobody else writes these pages: {conflict:?}"),
        }
        Ok(outcome)
    }

    /// The version that both pages have.
    fn read(&self, store: &Store) -> u32 {
        let snapshot = store.snapshot().unwrap();
        let versions = self.pages().map(|page| {
            if page.get() > snapshot.db_pages() {
                return 0;
            }
            let bytes = snapshot.read(page).unwrap();
            let version = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            assert!(bytes == image(version), "page {page}");
            version
        });
        assert_eq!(
            versions[0], versions[1],
            "half a transaction of writer {}",
            self.number
        );
        versions[0]
    }

    /// Checks a store that was just opened, and settles what was unknown.
    fn settle(&mut self, store: &Store, what: &dyn std::fmt::Debug) {
        let found = self.read(store);
        let there = match self.unknown.take() {
            Some((version, token)) => {
                let there = found == version;
                if let Some(told) = token.and_then(|token| store.outcome(token)) {
                    assert_eq!(told, there, "{what:?}");
                }
                there
            }
            None => false,
        };
        assert!(there || found == self.sure, "{what:?}: found {found} of {self:?}");
        self.sure = found;
    }
}

/// Several writers at once until they have had enough, or until one is not answered "committed"; checkpoints
/// beside them. Answers whether all went well.
fn work(store: &Store, writers: &mut [Writer], rounds: u32) -> bool {
    thread::scope(|scope| {
        let at_work: Vec<_> = writers
            .iter_mut()
            .map(|writer| {
                scope.spawn(move || {
                    (0..rounds).all(|_| matches!(writer.commit(store), Ok(CommitOutcome::Committed { .. })))
                })
            })
            .collect();
        let checkpoints = scope.spawn(move || {
            [
                CheckpointMode::Passive,
                CheckpointMode::Restart,
                CheckpointMode::Truncate,
            ]
            .into_iter()
            .all(|mode| store.checkpoint(mode).is_ok())
        });
        let well: Vec<bool> = at_work.into_iter().map(|writer| writer.join().unwrap()).collect();
        checkpoints.join().unwrap() && well.into_iter().all(|well| well)
    })
}

/// Opens what was left, checks it, checks that it stays that way over a loss of power, and goes on with it.
fn check(disk: &SimVfs, path: &str, mut writers: Vec<Writer>, what: &dyn std::fmt::Debug) {
    let store = open(disk, path).unwrap_or_else(|error| panic!("{what:?}: {error}"));
    for writer in &mut writers {
        writer.settle(&store, what);
    }
    let disk = disk.fork().crash(CrashKeep::None);
    drop(store);
    let store = open(&disk, path).unwrap();
    for writer in &mut writers {
        writer.settle(&store, &(what, "after another crash"));
        assert!(matches!(
            writer.commit(&store),
            Ok(CommitOutcome::Committed { .. })
        ));
    }
    store.close().unwrap();
}

#[test]
fn the_power_goes_at_any_operation_of_several_writers() {
    const PATH: &str = "/power.db";
    let mut finished = 0;
    for op in (1..60).chain((60..400).step_by(7)) {
        let vfs = SimVfs::new(op);
        vfs.crash_at_op(op);
        let mut writers = Writer::all();
        let store = open(&vfs, PATH);
        let well = store.as_ref().is_ok_and(|store| work(store, &mut writers, 12));
        finished += u32::from(well);
        for keep in [
            CrashKeep::None,
            CrashKeep::All,
            CrashKeep::Random(op),
            CrashKeep::Random(op + 1),
        ] {
            check(
                &vfs.fork().crash(keep.clone()),
                PATH,
                writers.clone(),
                &(op, keep),
            );
        }
        check(&vfs.fork().kill(), PATH, writers, &(op, "killed"));
    }
    assert!(finished < 60, "the power must go while they work: {finished}");
}

#[test]
fn any_sync_fails_under_several_writers() {
    const PATH: &str = "/sync.db";
    let mut poisoned = 0;
    for (n, keep) in (1..40).flat_map(|n| [(n, CrashKeep::None), (n, CrashKeep::Random(n))]) {
        let what = (n, &keep);
        let vfs = SimVfs::new(n);
        vfs.fail_sync_at(Nth::call(n), keep.clone());
        let mut writers = Writer::all();
        let store = open(&vfs, PATH).or_else(|_| open(&vfs, PATH)).unwrap();
        work(&store, &mut writers, 6);
        if let Some(reason) = store.stats().poisoned {
            poisoned += 1;
            assert!(reason.contains("sync"), "{reason}");
            for writer in &mut writers {
                // Reads go on, and show what was acknowledged alone.
                assert_eq!(writer.read(&store), writer.sure, "{what:?}");
                if writer.unknown.is_none() {
                    assert!(matches!(
                        writer.commit(&store),
                        Ok(CommitOutcome::NotCommitted { .. })
                    ));
                }
            }
            assert!(matches!(
                store.checkpoint(CheckpointMode::Full),
                Err(Error::Poisoned { .. })
            ));
        }
        for seed in 0..2 {
            check(
                &vfs.fork().crash(CrashKeep::Random(seed)),
                PATH,
                writers.clone(),
                &(what, seed),
            );
        }
        check(&vfs.fork().kill(), PATH, writers.clone(), &(what, "killed"));
        drop(store);
        vfs.disarm();
        check(&vfs, PATH, writers, &(what, "reopened in the same process"));
    }
    assert!(poisoned > 20, "{poisoned}");
}

#[test]
fn any_write_fails_under_several_writers() {
    const PATH: &str = "/write.db";
    for n in 1..60 {
        for (landed, error) in [
            (0, ErrorKind::Other),
            (700, ErrorKind::StorageFull),
            (u64::MAX, ErrorKind::Other),
        ] {
            let what = (n, landed, error);
            let vfs = SimVfs::new(n);
            vfs.fail_write_at(Nth::call(n), landed, error);
            let mut writers = Writer::all();
            let store = open(&vfs, PATH).or_else(|_| open(&vfs, PATH)).unwrap();
            work(&store, &mut writers, 6);
            check(
                &vfs.fork().crash(CrashKeep::Random(n)),
                PATH,
                writers.clone(),
                &what,
            );
            if store.stats().poisoned.is_none() {
                vfs.disarm();
                assert!(
                    work(&store, &mut writers, 2),
                    "{what:?}: one failure is not the end"
                );
                check(
                    &vfs.fork().crash(CrashKeep::Random(n)),
                    PATH,
                    writers.clone(),
                    &what,
                );
            }
            drop(store);
            check(&vfs, PATH, writers, &(what, "reopened in the same process"));
        }
    }
}

#[test]
fn a_full_disk_refuses_commits_until_there_is_space_again() {
    const PATH: &str = "/full.db";
    for bytes in (0..60_000).step_by(1300) {
        let vfs = SimVfs::new(1);
        let mut writers = Writer::all();
        let store = open(&vfs, PATH).unwrap();
        vfs.enospc_after(bytes);
        work(&store, &mut writers, 20);
        assert_eq!(store.stats().poisoned, None);
        for writer in &writers {
            assert!(writer.unknown.is_none(), "{bytes}: {writer:?}");
            assert_eq!(writer.read(&store), writer.sure);
        }
        check(
            &vfs.fork().crash(CrashKeep::Random(bytes)),
            PATH,
            writers.clone(),
            &bytes,
        );
        vfs.disarm();
        assert!(work(&store, &mut writers, 3));
        check(
            &vfs.fork().crash(CrashKeep::None),
            PATH,
            writers,
            &(bytes, "space again"),
        );
    }
}

#[test]
fn a_disk_that_is_full_from_the_start_is_a_clear_error_and_leaves_what_can_be_opened_later() {
    const PATH: &str = "/no-room.db";
    for bytes in (0..40_000).step_by(250) {
        let vfs = SimVfs::new(1);
        vfs.enospc_after(bytes);
        let opened = open(&vfs, PATH);
        match &opened {
            Ok(_) => assert!(bytes > 20_480, "{bytes}"),
            Err(error) => assert!(matches!(error, Error::Full { .. }), "{bytes}: {error}"),
        }
        drop(opened);
        vfs.disarm();
        check(
            &vfs.fork().crash(CrashKeep::Random(bytes)),
            PATH,
            Writer::all(),
            &bytes,
        );
        check(&vfs, PATH, Writer::all(), &bytes);
    }
}

#[test]
fn a_crash_while_a_store_is_created_leaves_what_can_be_opened() {
    const PATH: &str = "/created.db";
    for (pages, size) in [
        (Pages::Raw, 4096),
        (Pages::Sqlite, 4096),
        (Pages::Raw, 65536),
        (Pages::Sqlite, 65536),
    ] {
        let options = |vfs: &SimVfs| {
            Options::new()
                .pages(pages)
                .page_size(PageSize::new(size).unwrap())
                .vfs(Arc::new(vfs.clone()))
        };
        for op in 1.. {
            let vfs = SimVfs::new(1);
            vfs.crash_at_op(op);
            let created = Store::open(PATH, options(&vfs));
            let done = created.is_ok();
            let forks = [CrashKeep::None, CrashKeep::All]
                .into_iter()
                .chain((0..30).map(CrashKeep::Random));
            for keep in forks {
                let disk = vfs.fork().crash(keep.clone());
                let (store, report) = Store::open(PATH, options(&disk))
                    .unwrap_or_else(|error| panic!("{pages:?} {size}, operation {op}, {keep:?}: {error}"));
                assert_eq!(report.pages, pages);
                let image = store.snapshot().unwrap();
                assert_eq!(image.db_pages(), u32::from(pages == Pages::Sqlite));
            }
            if done {
                break;
            }
        }
    }
}

#[test]
fn a_panic_in_the_log_answers_every_writer_and_the_store_goes_on() {
    const PATH: &str = "/panic.db";
    let sim = SimVfs::new(1);
    let vfs = DoubleVfs::new(&sim);
    let store = open(&vfs, PATH).unwrap();
    let mut writers = Writer::all();
    assert!(work(&store, &mut writers, 2));
    vfs.arm(Fault::PanicAfterWrite { suffix: "-wal" });
    let outcome = writers[0].commit(&store).unwrap();
    assert!(
        matches!(&outcome, CommitOutcome::NotCommitted { reason } if reason.to_string().contains("panicked")),
        "{outcome:?}"
    );
    assert_eq!(store.stats().poisoned, None);
    check(
        &sim.fork().crash(CrashKeep::All),
        PATH,
        writers.clone(),
        &"panicked",
    );
    assert!(work(&store, &mut writers, 2));
    check(
        &sim.fork().crash(CrashKeep::None),
        PATH,
        writers.clone(),
        &"went on",
    );
    // So that the log has a generation, and the next write to its companion is a watermark.
    assert!(writers[0].commit(&store).unwrap().is_committed());
    // A panic behind the append cannot be undone: writing ends, reading does not.
    vfs.arm(Fault::PanicAfterWrite { suffix: "-wal-meta" });
    let outcome = writers[0].commit(&store).unwrap();
    assert!(
        matches!(outcome, CommitOutcome::OutcomeUnknown { token: Some(_), .. }),
        "{outcome:?}"
    );
    assert_eq!(writers[0].read(&store), writers[0].sure);
    assert!(store.stats().poisoned.is_some());
    store.close().unwrap();
    check(&sim, PATH, writers, &"reopened");
}

#[test]
fn opening_fails_cleanly_at_any_call_and_gives_the_database_up() {
    const PATH: &str = "/open.db";
    let vfs = SimVfs::new(1);
    let mut writers = Writer::all();
    let store = open(&vfs, PATH).unwrap();
    assert!(work(&store, &mut writers, 3));
    for writer in &mut writers {
        assert!(writer.commit(&store).unwrap().is_committed());
    }
    let left = vfs.fork().kill();
    type Arm = fn(&SimVfs, Nth);
    let arms: [Arm; 3] = [
        |vfs, nth| vfs.fail_sync_at(nth, CrashKeep::None),
        |vfs, nth| vfs.fail_write_at(nth, 9, ErrorKind::Other),
        |vfs, nth| vfs.fail_read_at(nth),
    ];
    for arm in arms {
        let mut failed = 0;
        for n in 1.. {
            let disk = left.fork();
            arm(&disk, Nth::call(n));
            let opened = open(&disk, PATH);
            let done = opened.is_ok();
            failed += u32::from(!done);
            drop(opened);
            disk.disarm();
            // The lock is free, and nothing is lost.
            check(&disk, PATH, writers.clone(), &n);
            if done {
                break;
            }
        }
        assert!(failed > 0);
    }
    assert!(left.dump(Path::new(PATH)).is_some());
}
