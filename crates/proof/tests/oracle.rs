//! SQLite as the oracle: it writes logs of all kinds, and walmend and SQLite have to make the same of them.
//!
//! `WALMEND_ORACLE=n` takes n logs; `cargo xtask oracle` does, in the release profile.

use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use walmend::{Error, OnDamage, Options, PageNumber, Pages, Store};
use walmend_proof::{Random, naive};

/// A database and its log.
#[derive(Clone)]
struct Files {
    db: Vec<u8>,
    wal: Vec<u8>,
    page_size: usize,
    /// How much of the log may be in the database already. What a sync has proven, no crash tears off.
    copied: usize,
}

fn count(default: u64) -> u64 {
    let wished = std::env::var("WALMEND_ORACLE")
        .ok()
        .and_then(|value| value.parse().ok());
    wished.unwrap_or(default)
}

/// In memory where that can be had: nothing here is about the disk.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

fn wal_of(db: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", db.display()))
}

/// A log by SQLite: transactions of all sizes, some rolled back, some so large that they spill; checkpoints and
/// restarts.
fn by_sqlite(random: &mut Random) -> Files {
    let folder = folder();
    let path = folder.path().join("theirs.db");
    let page_size = *random.pick(&[512, 512, 1024, 1024, 2048, 4096, 4096, 8192, 16384, 32768, 65536]);
    let connection = Connection::open(&path).unwrap();
    // The default is to checkpoint at 1000 pages; here the program decides.
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
             PRAGMA wal_autocheckpoint=0; PRAGMA cache_size={}; PRAGMA auto_vacuum={};
             CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB); CREATE INDEX i ON t(x);",
            5 + random.below(20),
            random.below(2)
        ))
        .unwrap();
    // The salts of the log at its last checkpoint, and its length.
    let mut copied = (vec![], 0);
    for _ in 0..2 + random.below(14) {
        match random.below(12) {
            0 => {
                checkpoint(&connection, MODES[random.below(4) as usize]);
                let wal = fs::read(wal_of(&path)).unwrap();
                copied = (wal.get(16..24).unwrap_or_default().to_vec(), wal.len());
            }
            1 => connection.execute_batch("VACUUM").unwrap(),
            _ => transaction(&connection, random, page_size),
        }
    }
    let wal = fs::read(wal_of(&path)).unwrap();
    let same = wal.get(16..24) == Some(&copied.0[..]);
    Files {
        db: fs::read(&path).unwrap(),
        wal,
        page_size: page_size as usize,
        copied: if same { copied.1 } else { 0 },
    }
}

const MODES: [&str; 4] = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];

fn checkpoint(connection: &Connection, mode: &str) {
    connection
        .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
        .unwrap();
}

fn transaction(connection: &Connection, random: &mut Random, page_size: u64) {
    connection.execute_batch("BEGIN").unwrap();
    // Now and then more than the cache holds.
    let statements = if random.one_in(5) { 60 } else { 1 + random.below(4) };
    for _ in 0..statements {
        let len = random.below(page_size.min(4096));
        match random.below(5) {
            0 => connection
                .execute("DELETE FROM t WHERE id % 7 = ?1", [random.below(7) as i64])
                .unwrap(),
            1 => connection
                .execute(
                    "UPDATE t SET x = randomblob(?1) WHERE id % 5 = ?2",
                    [len as i64, random.below(5) as i64],
                )
                .unwrap(),
            _ => connection
                .execute("INSERT INTO t(x) VALUES (randomblob(?1))", [len as i64])
                .unwrap(),
        };
    }
    let end = if random.one_in(4) { "ROLLBACK" } else { "COMMIT" };
    connection.execute_batch(end).unwrap();
}

/// What becomes of the end of a log: nothing, a cut, zeros, or rubbish behind it.
fn with_torn_tail(files: &mut Files, random: &mut Random) {
    let wal = &mut files.wal;
    if wal.is_empty() {
        return;
    }
    let loose = (wal.len() - files.copied) as u64;
    match random.below(6) {
        0 => wal.truncate(files.copied + random.below(loose + 1) as usize),
        1 => wal.truncate(wal.len() - random.below(loose.min(9000) + 1) as usize),
        2 => wal.extend(vec![0; random.below(9000) as usize]),
        3 => wal.extend((0..random.below(9000)).map(|_| random.next() as u8)),
        _ => {}
    }
}

/// The pages as SQLite finds them, after its own recovery, and what its integrity check says.
fn theirs(files: &Files) -> (Vec<Vec<u8>>, String) {
    let folder = folder();
    let path = folder.path().join("theirs.db");
    fs::write(&path, &files.db).unwrap();
    fs::write(wal_of(&path), &files.wal).unwrap();
    let connection = Connection::open(&path).unwrap();
    let verdict = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0));
    let verdict = verdict.unwrap_or_else(|error| error.to_string());
    checkpoint(&connection, "TRUNCATE");
    let pages = fs::read(&path).unwrap();
    let pages = pages.chunks(files.page_size).map(<[u8]>::to_vec).collect();
    (pages, verdict)
}

struct Ours {
    pages: Vec<Vec<u8>>,
    dropped: u32,
    decision: String,
}

/// The pages as walmend finds them, after its own recovery; an error changes no file.
fn ours(files: &Files) -> Result<Ours, Error> {
    let folder = folder();
    let path = folder.path().join("ours.db");
    fs::write(&path, &files.db).unwrap();
    fs::write(wal_of(&path), &files.wal).unwrap();
    let opened = Store::open(&path, Options::new().on_damage(OnDamage::Refuse).preallocate(0));
    let (store, report) = opened.inspect_err(|_| {
        assert!(fs::read(&path).unwrap() == files.db);
        assert!(fs::read(wal_of(&path)).unwrap() == files.wal);
    })?;
    let snapshot = store.snapshot().unwrap();
    let pages = (1..=snapshot.db_pages())
        .map(|page| snapshot.read(PageNumber::new(page).unwrap()).unwrap())
        .collect();
    Ok(Ours {
        pages,
        dropped: report.recovery.dropped_frames,
        decision: report.recovery.decision.as_str().into(),
    })
}

fn assert_same(ours: &[Vec<u8>], theirs: &[Vec<u8>], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}: pages");
    for (number, (one, other)) in (1..).zip(ours.iter().zip(theirs)) {
        assert!(one == other, "{what}: page {number}");
    }
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "the figures, for whoever asks with --nocapture"
)]
fn walmend_and_sqlite_arrive_at_the_same_content() {
    let mut kinds = [0u64; 4];
    for seed in 0..count(60) {
        let mut random = Random(seed);
        let mut files = by_sqlite(&mut random);
        with_torn_tail(&mut files, &mut random);
        if random.one_in(2) {
            naive::to_big_endian(&mut files.wal);
            kinds[0] += 1;
        }
        let what = format!("log {seed}, pages of {}", files.page_size);
        let (theirs, verdict) = theirs(&files);
        assert_eq!(verdict, "ok", "{what}");
        // What is cut off is no damage, and nothing behind it tells of it.
        let ours = ours(&files).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_same(&ours.pages, &theirs, &what);
        let prefix = naive::prefix(&files.wal);
        kinds[1] += u64::from(
            prefix
                .as_ref()
                .is_some_and(|prefix| prefix.valid > prefix.committed),
        );
        kinds[2] += u64::from(ours.decision == "torn_tail");
        kinds[3] += u64::from(prefix.is_none_or(|prefix| prefix.committed == 0));
    }
    println!(
        "{} logs: {} big-endian, {} with frames of no commit at the end, {} with a torn tail, {} without a commit",
        count(60),
        kinds[0],
        kinds[1],
        kinds[2],
        kinds[3]
    );
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "the figures, for whoever asks with --nocapture"
)]
fn damage_inside_a_log_never_drops_a_commit_in_silence() {
    let (mut refused, mut intact, mut reported, mut lost_by_sqlite) = (0, 0, 0, 0u64);
    for seed in 0..count(60) {
        let mut random = Random(seed ^ 0xdead);
        let mut files = by_sqlite(&mut random);
        if random.one_in(2) {
            naive::to_big_endian(&mut files.wal);
        }
        let Some(prefix) = naive::prefix(&files.wal).filter(|prefix| prefix.committed > 1) else {
            continue;
        };
        let (truth, verdict) = theirs(&files);
        assert_eq!(verdict, "ok", "log {seed}");
        // One bit, anywhere in what was committed.
        let end = 32 + prefix.committed as usize * (24 + files.page_size);
        let at = match random.below(8) {
            0 => random.below(32),
            _ => random.below(end as u64),
        } as usize;
        let frame = at.checked_sub(32).map_or(0, |at| at / (24 + files.page_size) + 1) as u32;
        files.wal[at] ^= 1 << random.below(8);
        let what = format!(
            "log {seed}, pages of {}, byte {at}, frame {frame}: {prefix:?}",
            files.page_size
        );
        let left = naive::prefix(&files.wal).map_or(0, |left| left.commits);
        lost_by_sqlite += u64::from(prefix.commits - left);
        match ours(&files) {
            Err(Error::WalAmbiguous { .. } | Error::WalCorrupt { .. }) => refused += 1,
            // SQLite refuses a version that it does not know as well.
            Err(Error::UnsupportedVersion { .. }) if frame == 0 => refused += 1,
            Err(error) => panic!("{what}: {error}"),
            Ok(ours) if ours.pages == truth => intact += 1,
            Ok(ours) => {
                // Nothing lies behind the last commit that could tell; but what is dropped is told.
                assert_eq!(frame, prefix.committed, "{what}: {}", ours.decision);
                assert!(ours.dropped > 0, "{what}: dropped in silence");
                // Where it had been copied already, SQLite's own mixture is no better.
                assert_same(&ours.pages, &theirs(&files).0, &what);
                reported += 1;
            }
        }
    }
    println!(
        "{refused} refused, {reported} dropped the last commit and said so, {intact} lost nothing; \
         SQLite dropped {lost_by_sqlite} commits of these logs in silence"
    );
    assert!(refused > 0);
}

/// Pages with their images, and the size of the database after them.
type Transaction = (Vec<(u32, Vec<u8>)>, u32);

fn transactions(wal: &[u8]) -> Vec<Transaction> {
    let prefix = naive::prefix(wal).unwrap();
    let word = |bytes: &[u8], at: usize| u32::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    let (mut all, mut pages) = (Vec::new(), Vec::new());
    let frames = wal[32..].chunks_exact(24 + prefix.page_size);
    for frame in frames.take(prefix.committed as usize) {
        pages.push((word(frame, 0), frame[24..].to_vec()));
        if word(frame, 4) != 0 {
            all.push((std::mem::take(&mut pages), word(frame, 4)));
        }
    }
    all
}

/// The rows of a database of SQLite's, after its integrity check.
fn rows(db: &[u8], wal: Option<&[u8]>, what: &str) -> i64 {
    let folder = folder();
    let path = folder.path().join("theirs.db");
    fs::write(&path, db).unwrap();
    if let Some(wal) = wal {
        fs::write(wal_of(&path), wal).unwrap();
    }
    let connection = Connection::open(&path).unwrap();
    let ok: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(ok, "ok", "{what}");
    connection
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn after_any_crash_real_sqlite_sees_every_acknowledged_commit_and_a_sound_database() {
    use std::sync::Arc;
    use walmend::CheckpointMode;
    use walmend_vfs::sim::{CrashKeep, SimVfs};

    // One row to a transaction, so that rows count commits.
    let (before, log) = {
        let folder = folder();
        let path = folder.path().join("source.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "PRAGMA page_size=512; PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB);
                 CREATE INDEX i ON t(x); PRAGMA wal_checkpoint(TRUNCATE)",
            )
            .unwrap();
        let before = fs::read(&path).unwrap();
        for _ in 0..12 {
            connection
                .execute("INSERT INTO t(x) VALUES (randomblob(150))", [])
                .unwrap();
        }
        (before, fs::read(wal_of(&path)).unwrap())
    };
    let transactions = transactions(&log);
    assert_eq!(transactions.len(), 12);
    let path = Path::new("/a.db");
    let options = |disk: &SimVfs| {
        let disk = Arc::new(disk.clone());
        Options::new().pages(Pages::Sqlite).preallocate(4096).vfs(disk)
    };
    // Commits with checkpoints in between; answers how many were acknowledged.
    let run = |disk: &SimVfs| -> Option<i64> {
        let mut acknowledged = 0;
        let (store, _) = Store::open(path, options(disk)).ok()?;
        for (number, (pages, size)) in transactions.iter().enumerate() {
            let Ok(mut txn) = store.begin() else { break };
            for (page, image) in pages {
                txn.write(PageNumber::new(*page).unwrap(), image.clone()).unwrap();
            }
            txn.set_db_pages(*size).unwrap();
            if txn.commit().into_result().is_err() {
                break;
            }
            acknowledged += 1;
            let done = match number {
                3 => store.checkpoint(CheckpointMode::Passive),
                5 => store.checkpoint(CheckpointMode::Truncate),
                8 => store.checkpoint(CheckpointMode::Restart),
                _ => continue,
            };
            if done.is_err() {
                break;
            }
        }
        Some(acknowledged)
    };
    let fresh = || {
        let disk = SimVfs::new(5);
        disk.put(path, &before);
        disk
    };
    let whole = fresh();
    assert_eq!(run(&whole), Some(12));
    let step = if count(0) > 0 { 1 } else { 5 };
    for op in (1..whole.ops()).step_by(step) {
        let disk = fresh();
        disk.crash_at_op(op);
        let acknowledged = run(&disk).unwrap_or(0);
        let fits = |rows: i64, what: &str| {
            assert!(
                (acknowledged..=acknowledged + 1).contains(&rows),
                "{what}: {rows} rows of {acknowledged}"
            );
        };
        // A kill: sqlite3 takes over without walmend.
        let killed = disk.fork().kill();
        let what = format!("operation {op}, killed");
        fits(
            rows(
                &killed.dump(path).unwrap(),
                killed.dump(Path::new("/a.db-wal")).as_deref(),
                &what,
            ),
            &what,
        );
        // A power loss: walmend recovers, closes, and sqlite3 goes on.
        for keep in [
            CrashKeep::None,
            CrashKeep::All,
            CrashKeep::Random(op),
            CrashKeep::Torn(op),
        ] {
            let what = format!("operation {op}, {keep:?}");
            let left = disk.fork().crash(keep);
            let (store, _) =
                Store::open(path, options(&left)).unwrap_or_else(|error| panic!("{what}: {error}"));
            store.close().unwrap();
            let wal = left.dump(Path::new("/a.db-wal"));
            fits(rows(&left.dump(path).unwrap(), wal.as_deref(), &what), &what);
        }
    }
}
