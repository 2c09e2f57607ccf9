//! Logs that SQLite left behind: what `inspect` counts is what SQLite's own recovery arrives at, and what
//! `checkpoint` makes of them is what SQLite's own checkpoint makes.

mod common;

use common::{
    Recovered, big_endian, commits_among, contents, copy, dump, new_database, on, sqlite_recovers, wal_of,
};
use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PAGE_SIZES: [u32; 3] = [512, 4096, 65536];

fn schema(connection: &Connection) {
    connection
        .execute_batch(
            "create table t(id integer primary key, data blob);
             create table u(name text unique, number real);
             create index t_by_size on t(length(data));",
        )
        .unwrap();
}

fn insert(connection: &Connection, rows: u32) {
    for row in 0..rows {
        connection
            .execute(
                "insert into t(data) values (randomblob(100 + ?1 % 7 * 200))",
                [row],
            )
            .unwrap();
    }
}

/// Twelve commits, one of them an update of everything.
fn commits(connection: &Connection) {
    schema(connection);
    insert(connection, 10);
    connection
        .execute_batch("update t set data = randomblob(300)")
        .unwrap();
}

/// Rollbacks and savepoints between the commits.
fn rollbacks(connection: &Connection) {
    schema(connection);
    insert(connection, 5);
    connection
        .execute_batch(
            "begin; insert into t(data) values (randomblob(5000)); rollback;
             begin; insert into u values ('kept', 1.5); savepoint s; insert into u values ('gone', 2.5);
             rollback to s; release s; commit;
             savepoint outer_one; insert into t(data) values (x'00'); release outer_one;",
        )
        .unwrap();
}

/// A transaction larger than the cache, so that its frames are in the log long before its end; rolled back,
/// and only partly overwritten by the commit that follows.
fn spills(connection: &Connection) {
    schema(connection);
    insert(connection, 5);
    connection.pragma_update(None, "cache_size", 10).unwrap();
    connection
        .execute_batch(
            "begin;
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 300)
             insert into t(data) select randomblob(2000) from n;
             rollback;
             insert into u values ('after the rollback', 3.5);",
        )
        .unwrap();
}

/// A transaction larger than the cache that commits.
fn large(connection: &Connection) {
    connection.pragma_update(None, "cache_size", 10).unwrap();
    schema(connection);
    connection
        .execute_batch(
            "begin;
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 200)
             insert into t(data) select randomblob(2000) from n;
             commit;
             delete from t where id % 3 = 0;",
        )
        .unwrap();
}

/// A log that was begun anew after checkpoints, with frames of the earlier generation behind the new ones.
fn restarted(connection: &Connection) {
    schema(connection);
    insert(connection, 30);
    for rows in [8, 3] {
        connection
            .query_row("pragma wal_checkpoint(restart)", [], |_| Ok(()))
            .unwrap();
        insert(connection, rows);
    }
}

/// Partly checkpointed, because a reader needed the rest; and shrunk afterwards.
fn shrunk(connection: &Connection) {
    connection
        .execute_batch("pragma auto_vacuum = full; vacuum")
        .unwrap();
    schema(connection);
    insert(connection, 40);
    connection
        .query_row("pragma wal_checkpoint(passive)", [], |_| Ok(()))
        .unwrap();
    connection.execute_batch("delete from t where id > 5").unwrap();
}

type Story = (&'static str, fn(&Connection));

const STORIES: [Story; 6] = [
    ("commits", commits),
    ("rollbacks", rollbacks),
    ("spills", spills),
    ("large", large),
    ("restarted", restarted),
    ("shrunk", shrunk),
];

/// What a crash leaves after a story.
fn left_behind(folder: &TempDir, page_size: u32, story: Story) -> PathBuf {
    let live = folder.path().join("live.db");
    let path = folder.path().join("left.db");
    let connection = new_database(&live, page_size);
    story.1(&connection);
    copy(&live, &path);
    path
}

/// Checks `inspect` and `verify` on a log against SQLite on a copy of it; answers SQLite's frame count.
fn compare(path: &Path, byte_order: &str, what: &str) -> u64 {
    let before = contents(path.parent().unwrap());
    let inspected = on("inspect", path, &["--frames"]).ends_with(0).json();
    on("verify", path, &[]).ends_with(0);
    assert_eq!(
        contents(path.parent().unwrap()),
        before,
        "{what}: reading changed something"
    );

    let oracle = path.with_file_name(format!("oracle-{byte_order}.db"));
    copy(path, &oracle);
    let expected = sqlite_recovers(&oracle);
    let log = fs::read(wal_of(path)).unwrap();
    let wal = &inspected["wal"];
    let found = Recovered {
        committed_frames: wal["committed_frames"].as_u64().unwrap(),
        db_pages: wal["db_pages"].as_u64().unwrap(),
    };
    assert_eq!(found, expected, "{what}: {wal}");
    let commits = commits_among(&log, expected.committed_frames);
    assert_eq!(wal["commits"], commits, "{what}");
    assert_eq!(wal["header"], "ok", "{what}");
    assert_eq!(wal["byte_order"], byte_order, "{what}");
    assert_eq!(wal["damage"].as_array().unwrap().len(), 0, "{what}: {wal}");
    assert_eq!(wal["bytes"], log.len() as u64, "{what}");

    let frames = wal["frames"].as_array().unwrap();
    assert_eq!(frames.len() as u64, wal["slots"].as_u64().unwrap(), "{what}");
    let numbered: Vec<u64> = frames
        .iter()
        .filter_map(|frame| frame["commit_seq"].as_u64())
        .collect();
    assert_eq!(numbered.len() as u64, expected.committed_frames, "{what}");
    assert_eq!(numbered.last(), Some(&commits), "{what}");
    expected.committed_frames
}

#[test]
fn inspect_counts_what_sqlite_recovers_at_every_page_size_and_in_both_byte_orders() {
    for page_size in PAGE_SIZES {
        for story in STORIES {
            let folder = tempfile::tempdir().unwrap();
            let path = left_behind(&folder, page_size, story);
            let what = format!("{} with pages of {page_size}", story.0);
            let valid = on("inspect", &path, &[]).json()["wal"]["valid_frames"]
                .as_u64()
                .unwrap();
            let frames = compare(&path, "little", &what);
            assert!(frames > 0, "{what}");

            let log = fs::read(wal_of(&path)).unwrap();
            fs::write(wal_of(&path), big_endian(&log, valid)).unwrap();
            assert_eq!(
                compare(&path, "big", &what),
                frames,
                "{what}: SQLite takes the other byte order"
            );
        }
    }
}

#[test]
fn stale_frames_are_told_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = left_behind(&folder, 4096, ("restarted", restarted));
    let wal = on("inspect", &path, &[]).ends_with(0).json()["wal"].clone();
    assert_eq!(wal["end"], "salt");
    assert!(wal["slots"].as_u64() > wal["valid_frames"].as_u64());

    let folder = tempfile::tempdir().unwrap();
    let path = left_behind(&folder, 4096, ("spills", spills));
    let wal = on("inspect", &path, &[]).ends_with(0).json()["wal"].clone();
    assert_eq!(wal["end"], "checksum");
    assert!(wal["slots"].as_u64() > wal["committed_frames"].as_u64());
}

#[test]
fn checkpoint_makes_the_same_database_as_sqlites_own_checkpoint() {
    for page_size in PAGE_SIZES {
        for story in STORIES {
            let folder = tempfile::tempdir().unwrap();
            let path = left_behind(&folder, page_size, story);
            let what = format!("{} with pages of {page_size}", story.0);
            let oracle = folder.path().join("oracle.db");
            copy(&path, &oracle);
            let frames = on("inspect", &path, &[]).json()["wal"]["committed_frames"].clone();

            let report = on("checkpoint", &path, &[]).ends_with(0).json();
            assert_eq!(report["mode"], "truncate", "{what}");
            assert_eq!(report["log"], "truncated", "{what}");
            assert_eq!(report["frames"], frames, "{what}");
            assert_eq!(report["blocked_by_readers"], false, "{what}");
            assert_eq!(report["pages_written"], report["pages_verified"], "{what}");
            assert_eq!(fs::metadata(wal_of(&path)).unwrap().len(), 0, "{what}");

            let connection = Connection::open(&oracle).unwrap();
            connection
                .query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))
                .unwrap();
            drop(connection);
            assert!(
                fs::read(&path).unwrap() == fs::read(&oracle).unwrap(),
                "{what}: the pages differ"
            );
            let expected = dump(&oracle);
            assert!(expected.starts_with("ok"), "{what}");
            assert!(dump(&path) == expected, "{what}: the rows differ");
        }
    }
}

#[test]
fn sqlite_goes_on_after_a_checkpoint_in_every_mode() {
    for (mode, log) in [
        ("passive", "kept"),
        ("full", "kept"),
        ("restart", "reset"),
        ("truncate", "truncated"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = left_behind(&folder, 4096, ("commits", commits));
        let before = dump(&{
            let copied = folder.path().join("before.db");
            copy(&path, &copied);
            copied
        });
        let report = on("checkpoint", &path, &["--mode", mode]).ends_with(0).json();
        assert_eq!(report["log"], log, "{mode}");
        assert!(dump(&path) == before, "{mode}");

        let connection = Connection::open(&path).unwrap();
        connection
            .execute("insert into u values ('later', 9)", [])
            .unwrap();
        drop(connection);
        assert!(dump(&path).starts_with("ok"), "{mode}");
        on("verify", &path, &[]).ends_with(0);
        // What sqlite3 did meanwhile is no damage, and no surprise to the companion.
        on("recover", &path, &[]).ends_with(0);
    }
}

#[test]
fn recover_keeps_what_sqlite_keeps() {
    for story in STORIES {
        let folder = tempfile::tempdir().unwrap();
        let path = left_behind(&folder, 4096, story);
        let oracle = folder.path().join("oracle.db");
        copy(&path, &oracle);
        let report = on("recover", &path, &[]).ends_with(0).json();
        let torn = matches!(story.0, "spills");
        let decision = if torn { "torn_tail" } else { "clean" };
        assert_eq!(report["decision"], decision, "{}", story.0);
        assert_eq!(report["lost_commits"], 0, "{}", story.0);
        assert_eq!(
            report["dropped_frames"].as_u64().unwrap() > 0,
            torn,
            "{}",
            story.0
        );
        assert!(dump(&path) == dump(&oracle), "{}", story.0);
    }
}
