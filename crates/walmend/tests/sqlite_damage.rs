//! One flipped bit in the middle of a log: what walmend says of it, what it refuses, and what SQLite makes of
//! the same bytes beside it.

mod common;

use common::codec::Wal;
use common::sqlite::{self, connect, rows};
use common::{
    assert_same_pages, copy, file_pages, findings, folder_bytes, meta_of, open, page, refused, store_pages,
    wal_of,
};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use walmend::{CheckpointMode, CommitSeq, Decision, Error, OnDamage, Options, Pages, Store};
use walmend_wal::{Damage, Fault};

const COMMITS: u32 = 1000;
const PAGE: usize = 1024;

/// A log of a thousand commits, each of one row more, and what is in it.
struct Log {
    folder: TempDir,
    db: PathBuf,
    wal: Wal,
    /// Whether walmend wrote it.
    ours: bool,
}

/// As SQLite writes it.
fn by_sqlite() -> Log {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live.db");
    let connection = connect(&live);
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={PAGE}; CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE INDEX i ON t(x); \
             PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"
        ))
        .unwrap();
    let mut insert = connection
        .prepare("INSERT INTO t(x) VALUES (printf('row %d', ?1))")
        .unwrap();
    for number in 0..COMMITS {
        insert.execute([number * 7919 % 1000]).unwrap();
    }
    let db = copy(&live, &folder.path().join("left"), &["-wal"]);
    let wal = Wal::parse(&fs::read(wal_of(&db)).unwrap()).unwrap();
    assert_eq!(wal.commits().len(), COMMITS as usize);
    assert!(
        wal.frames.len() > 2 * COMMITS as usize,
        "commits have several frames"
    );
    Log {
        folder,
        db,
        wal,
        ours: false,
    }
}

/// The same commits again, through a store.
fn by_walmend() -> Log {
    let source = by_sqlite();
    let folder = tempfile::tempdir().unwrap();
    let db = copy(&source.db, &folder.path().join("left"), &[]);
    let (store, report) = open(&db);
    assert_eq!(report.pages, Pages::Sqlite);
    for frames in source.wal.transactions() {
        commit(&store, frames);
    }
    store.close().unwrap();
    let wal = Wal::parse(&fs::read(wal_of(&db)).unwrap()).unwrap();
    assert_eq!(wal.commits(), source.wal.commits());
    Log {
        folder,
        db,
        wal,
        ours: true,
    }
}

fn commit(store: &Store, frames: &[common::codec::Frame]) -> CommitSeq {
    let mut txn = store.begin().unwrap();
    for frame in frames {
        txn.write(page(frame.page), frame.data.clone()).unwrap();
    }
    txn.set_db_pages(frames.last().unwrap().commit).unwrap();
    txn.commit().into_result().unwrap()
}

/// A place in a frame, and what walmend calls damage there.
const PLACES: [(&str, usize, Fault); 5] = [
    ("page", 24 + 700, Fault::Page),
    ("page number", 3, Fault::Page),
    ("commit field", 6, Fault::Page),
    ("salt", 13, Fault::Salt),
    ("checksum", 18, Fault::StoredChecksum),
];

impl Log {
    /// A copy of the files with one bit flipped.
    fn flipped(&self, name: &str, offset: usize) -> PathBuf {
        let db = copy(&self.db, &self.folder.path().join(name), &["-wal", "-wal-meta"]);
        let mut log = fs::read(wal_of(&db)).unwrap();
        log[offset] ^= 0x04;
        fs::write(wal_of(&db), log).unwrap();
        db
    }

    /// Whole commits before a frame, and all that are not.
    fn split_at(&self, frame: usize) -> (u64, u64) {
        let before = self
            .wal
            .commits()
            .iter()
            .filter(|&&commit| commit < frame)
            .count() as u64;
        (before, u64::from(COMMITS) - before)
    }

    /// Everything that has to hold after a flip in `frame`, of which `lost` commits are at stake.
    fn check(&self, name: &str, frame: usize, fault: Fault, offset: usize) {
        let (kept, lost) = self.split_at(frame);
        let what = format!("{name}, frame {frame}, log of walmend's: {}", self.ours);
        let db = self.flipped(name, offset);
        let frame = u32::try_from(frame).unwrap();

        // It is named, and nothing else is.
        let found = findings(&db);
        let certain = self.ours;
        let named = Damage {
            frame,
            what: fault,
            certain,
        };
        assert_eq!(found.damage, [named], "{what}");
        assert_eq!(u64::from(found.lost_commits), lost, "{what}");

        // Opening is refused, with the numbers, and changes nothing.
        let at = if frame == 0 {
            0
        } else {
            self.wal.offset(frame as usize) as u64
        };
        match refused(&db, Options::new()) {
            Error::WalCorrupt {
                path,
                frame: named,
                offset,
                lost_commits,
                ..
            } if self.ours => {
                assert_eq!(
                    (path, named, offset, lost_commits),
                    (wal_of(&db), frame, at, lost),
                    "{what}"
                );
            }
            Error::WalAmbiguous {
                path,
                frame: named,
                offset,
                commits_behind,
            } if !self.ours => {
                assert_eq!(
                    (path, named, offset, commits_behind),
                    (wal_of(&db), frame, at, lost),
                    "{what}"
                );
            }
            other => panic!("{what}: {other}"),
        }

        // SQLite loses exactly these commits, and says nothing.
        let theirs = copy(&db, &self.folder.path().join(format!("{name}-theirs")), &["-wal"]);
        let connection = connect(&theirs);
        assert_eq!(sqlite::integrity(&connection), "ok", "{what}");
        assert_eq!(
            sqlite::count(&connection, "t"),
            kept,
            "{what}: rows that SQLite still has"
        );
        assert_eq!(u64::from(COMMITS) - kept, lost);
        let expected = rows(&connection);
        drop(connection);
        assert!(!wal_of(&theirs).exists(), "with its evidence");

        for on_damage in [OnDamage::TruncateLikeSqlite, OnDamage::Salvage] {
            let what = format!("{what}, {on_damage:?}");
            let folder = self.folder.path().join(format!("{name}-{on_damage:?}"));
            let ours = copy(&db, &folder, &["-wal", "-wal-meta"]);
            let (store, report) =
                Store::open(&ours, Options::new().on_damage(on_damage).repair(false)).unwrap();
            assert_eq!(u64::from(report.recovery.commits), kept, "{what}");
            assert_eq!(u64::from(report.recovery.lost_commits), lost, "{what}");
            match on_damage {
                OnDamage::Salvage => {
                    assert_eq!(report.recovery.decision, Decision::Salvaged);
                    let aside = report.recovery.kept_aside.expect("a copy");
                    assert!(
                        fs::read(aside).unwrap() == fs::read(wal_of(&db)).unwrap(),
                        "{what}: the copy"
                    );
                }
                _ => {
                    assert_eq!(report.recovery.decision, Decision::Truncated);
                    assert_eq!(report.recovery.kept_aside, None);
                    assert_eq!(folder_bytes(&folder).len(), 3, "database, log and companion");
                }
            }
            assert_same_pages(&store_pages(&store), &file_pages(&theirs, PAGE), &what);
            store.checkpoint(CheckpointMode::Truncate).unwrap();
            store.close().unwrap();
            assert_same_pages(&file_pages(&ours, PAGE), &file_pages(&theirs, PAGE), &what);
            sqlite::assert_same_rows(&rows(&connect(&ours)), &expected, &what);
        }
    }

    fn check_all_places(&self) {
        assert_eq!(findings(&self.db).damage, []);
        let commits = self.wal.commits();
        let middle = commits[commits.len() / 2];
        assert!(
            middle - commits[commits.len() / 2 - 1] > 1,
            "not alone in its commit"
        );
        // A commit frame, and one that is none.
        for (kind, frame) in [("commit", middle), ("inner", middle - 1)] {
            for (place, at, fault) in PLACES {
                self.check(
                    &format!("{place}-{kind}"),
                    frame,
                    fault,
                    self.wal.offset(frame) + at,
                );
            }
        }
        // Magic, page size, salt, checksum.
        for at in [2, 10, 17, 25] {
            self.check(&format!("header-{at}"), 0, Fault::Header, at);
        }
    }
}

#[test]
fn one_flipped_bit_in_sqlites_log_is_named_and_nothing_is_dropped_in_silence() {
    by_sqlite().check_all_places();
}

#[test]
fn one_flipped_bit_in_our_log_is_named_and_certain() {
    by_walmend().check_all_places();
}

#[test]
fn commits_behind_a_break_count_as_acknowledged_if_the_caller_knows_that_they_were_synced() {
    let log = by_sqlite();
    let frame = log.wal.commits()[500];
    let db = log.flipped("synced", log.wal.offset(frame) + 100);
    match refused(&db, Options::new().writer_synced_every_commit(true)) {
        Error::WalCorrupt {
            frame: named,
            lost_commits,
            ..
        } => {
            assert_eq!((named as usize, lost_commits), (frame, 500));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn damage_in_the_last_commit_is_certain_in_our_log_and_a_torn_tail_in_sqlites() {
    let (theirs, ours) = (by_sqlite(), by_walmend());
    let commits = ours.wal.commits();
    let last = ours.wal.frames.len();
    assert_eq!(commits.last(), Some(&last), "zeros follow");
    match refused(&ours.flipped("last", ours.wal.offset(last) + 100), Options::new()) {
        Error::WalCorrupt {
            frame, lost_commits, ..
        } => assert_eq!((frame as usize, lost_commits), (last, 1)),
        other => panic!("{other}"),
    }
    // SQLite's own log does not say whether that was a commit or half a write.
    let commits = theirs.wal.commits();
    let last = theirs.wal.frames.len();
    let db = theirs.flipped("last", theirs.wal.offset(last) + 100);
    assert_eq!(findings(&db).damage, []);
    let frames = last - commits[commits.len() - 2];
    let (store, report) = open(&db);
    assert_eq!(report.recovery.decision, Decision::TornTail);
    assert_eq!(report.recovery.dropped_frames as usize, frames);
    assert_eq!(
        (report.recovery.commits, report.commit_seq.0),
        (COMMITS - 1, u64::from(COMMITS) - 1)
    );
    store.close().unwrap();
    assert_eq!(sqlite::count(&connect(&db), "t"), u64::from(COMMITS) - 1);
}

/// A store's files as a power loss may leave them: the log with everything, the companion as it was when the
/// first `synced` of `commits` commits were acknowledged.
struct Torn {
    log: Log,
    /// The frames that the old companion knows.
    known: usize,
    synced: u32,
}

fn torn(synced: u32, commits: u32) -> Torn {
    let source = by_sqlite();
    let folder = tempfile::tempdir().unwrap();
    let db = copy(&source.db, &folder.path().join("left"), &[]);
    let (store, _) = open(&db);
    let old = folder.path().join("old-meta");
    for (frames, number) in source.wal.transactions().take(commits as usize).zip(1..) {
        commit(&store, frames);
        if number == synced {
            fs::copy(meta_of(&db), &old).unwrap();
        }
    }
    store.close().unwrap();
    fs::copy(old, meta_of(&db)).unwrap();
    let wal = Wal::parse(&fs::read(wal_of(&db)).unwrap()).unwrap();
    assert_eq!(wal.commits().len(), commits as usize);
    Torn {
        known: wal.commits()[synced as usize - 1],
        synced,
        log: Log {
            folder,
            db,
            wal,
            ours: true,
        },
    }
}

impl Torn {
    /// A copy whose log ends after `bytes`.
    fn cut(&self, bytes: usize) -> PathBuf {
        let db = copy(
            &self.log.db,
            &self.log.folder.path().join(format!("cut-{bytes}")),
            &["-wal", "-wal-meta"],
        );
        let log = fs::read(wal_of(&db)).unwrap();
        fs::write(wal_of(&db), &log[..bytes]).unwrap();
        db
    }

    /// The first commits, and nothing else, are in the store: as SQLite sees it.
    fn check_kept(&self, db: &Path, kept: u32, what: &str) {
        let theirs = copy(db, &db.parent().unwrap().join("theirs"), &["-wal"]);
        assert_eq!(sqlite::count(&connect(&theirs), "t"), u64::from(kept), "{what}");
        let (store, report) = open(db);
        assert_eq!(
            (report.recovery.commits, report.commit_seq.0),
            (kept, kept.into()),
            "{what}"
        );
        assert_same_pages(&store_pages(&store), &file_pages(&theirs, PAGE), what);
    }
}

#[test]
fn a_torn_last_batch_is_dropped_and_reported() {
    // The 40th commit or one soon after it splits a page, and so has many frames.
    let source = by_sqlite();
    let lengths: Vec<usize> = source.wal.transactions().map(<[_]>::len).collect();
    let last = (40..200).max_by_key(|&place| lengths[place]).unwrap() as u32;
    let torn = torn(last, last + 1);
    let frames = torn.log.wal.frames.len() - torn.known;
    assert!(frames >= 2);
    let start = |frame: usize| torn.log.wal.offset(frame);
    let size = 24 + PAGE;
    // Cut at the start of each frame of the last batch, within its header, and one byte before its end.
    for whole in 0..frames {
        for rest in [0, 10, 24, size - 1] {
            let what = format!("{whole} whole frames of {frames} and {rest} bytes");
            let db = torn.cut(start(torn.known + whole + 1) + rest);
            // Up to its salts, what is left of a frame belongs to nobody.
            let dropped = whole + usize::from(rest >= 16);
            let expected = if dropped == 0 {
                Decision::Clean
            } else {
                Decision::TornTail
            };
            let found = findings(&db);
            assert_eq!((&found.damage[..], found.lost_commits), (&[][..], 0), "{what}");
            let again = copy(&db, &db.parent().unwrap().join("again"), &["-wal", "-wal-meta"]);
            let report = open(&again).1.recovery;
            assert_eq!(report.decision, expected, "{what}");
            assert_eq!(
                (report.dropped_frames as usize, report.lost_commits),
                (dropped, 0),
                "{what}"
            );
            torn.check_kept(&db, torn.synced, &what);
        }
    }
    // Whole, it counts, although nobody recorded that it was synced.
    torn.check_kept(
        &torn.cut(start(torn.known + frames) + size),
        torn.synced + 1,
        "all of it",
    );
}

#[test]
fn what_a_crash_can_leave_behind_a_break_is_a_torn_tail_and_what_it_cannot_is_damage() {
    let torn = torn(20, 100);
    let promised = findings(&torn.log.db)
        .meta
        .and_then(|meta| meta.generation)
        .unwrap()
        .largest_batch;
    let reach = torn.known + 2 * promised as usize;
    let broken = torn.log.wal.offset(torn.known + 1) + 100;
    let commits = torn.log.wal.commits();
    let near = *commits.iter().rfind(|&&commit| commit <= reach).unwrap();
    let far = *commits.iter().find(|&&commit| commit > reach).unwrap();
    for (end, within) in [(near, true), (far, false)] {
        let db = torn.cut(torn.log.wal.offset(end + 1));
        let mut log = fs::read(wal_of(&db)).unwrap();
        log[broken] ^= 1;
        fs::write(wal_of(&db), log).unwrap();
        let at_stake = commits
            .iter()
            .filter(|&&commit| commit > torn.known && commit <= end)
            .count();
        if within {
            let copy = copy(&db, &db.parent().unwrap().join("again"), &["-wal", "-wal-meta"]);
            let report = open(&copy).1.recovery;
            assert_eq!(report.decision, Decision::TornTail);
            assert_eq!(report.dropped_frames as usize, end - torn.known);
            assert_eq!(
                report.lost_commits as usize, at_stake,
                "dropped, though never acknowledged"
            );
            torn.check_kept(&db, torn.synced, "near");
        } else {
            match refused(&db, Options::new()) {
                Error::WalCorrupt {
                    frame, lost_commits, ..
                } => {
                    assert_eq!(
                        (frame as usize, lost_commits as usize),
                        (torn.known + 1, at_stake)
                    );
                }
                other => panic!("{other}"),
            }
        }
    }
}

/// Where a write may harm its sector's neighbours, SQLite repeats the commit frame up to the sector's end.
#[test]
fn a_commit_that_sqlite_has_padded_to_the_sector_is_at_stake_once() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live.db");
    let connection = rusqlite::Connection::open(format!("file:{}?psow=0", live.display())).unwrap();
    connection
        .execute_batch(
            "PRAGMA page_size=512; CREATE TABLE t(id INTEGER PRIMARY KEY, x); PRAGMA journal_mode=WAL; \
             PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0",
        )
        .unwrap();
    for _ in 0..100 {
        connection
            .execute_batch("INSERT INTO t(x) VALUES ('row')")
            .unwrap();
    }
    let db = copy(&live, &folder.path().join("left"), &["-wal"]);
    let wal = Wal::parse(&fs::read(wal_of(&db)).unwrap()).unwrap();
    let commits = wal.commits();
    assert!(commits.len() > 300, "repeated: {}", commits.len());
    // The first frame of the 51st transaction, behind the padding of the 50th.
    let ends: Vec<usize> = commits
        .iter()
        .copied()
        .filter(|&end| wal.frames.get(end) != wal.frames.get(end - 1))
        .collect();
    assert_eq!(ends.len(), 100);
    let frame = ends[49] + 1;
    let mut log = fs::read(wal_of(&db)).unwrap();
    log[wal.offset(frame) + 100] ^= 1;
    fs::write(wal_of(&db), log).unwrap();
    match refused(&db, Options::new()) {
        Error::WalAmbiguous {
            frame: named,
            commits_behind,
            ..
        } => {
            assert_eq!((named as usize, commits_behind), (frame, 50));
        }
        other => panic!("{other}"),
    }
    assert_eq!(sqlite::count(&connect(&db), "t"), 50);
}
