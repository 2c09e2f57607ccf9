//! `protect` and `heal` on logs that SQLite left: one flipped bit costs SQLite what lies behind it, and walmend
//! nothing.

mod common;

use common::{big_endian, contents, copy, dump, flip, frame_at, new_database, on, rows, wal_of, with_suffix};
use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use walmend_vfs::Random;

/// A database whose log holds `commits` transactions of about two frames, as a crash left it. All of them but the
/// first made one row.
fn left_by_sqlite(folder: &Path, page_size: u32, commits: u32) -> PathBuf {
    let (live, path) = (folder.join("live.db"), folder.join("a.db"));
    let connection = new_database(&live, page_size);
    // The copy is taken from the cache: syncs would only cost time.
    connection.pragma_update(None, "synchronous", "off").unwrap();
    connection
        .execute_batch(
            "begin; create table t(id integer primary key, data blob);
             create table last(id integer); insert into last values (0); commit",
        )
        .unwrap();
    for _ in 1..commits {
        connection
            .execute_batch(
                "begin; insert into t(data) values (randomblob(60)); update last set id = id + 1; commit",
            )
            .unwrap();
    }
    copy(&live, &path);
    drop(connection);
    path
}

fn sidecar_of(database: &Path) -> PathBuf {
    with_suffix(database, "-wal-fec")
}

fn copy_all(database: &Path, to: &Path) {
    copy(database, to);
    fs::copy(sidecar_of(database), sidecar_of(to)).unwrap();
}

/// Flips one random bit of a log, `trials` times; prints what SQLite lost, and answers the sum.
#[expect(clippy::print_stdout, reason = "these are the figures of the README")]
fn side_by_side(trials: u64) -> u64 {
    const COMMITS: u32 = 1000;
    let folder = TempDir::new().unwrap();
    let path = left_by_sqlite(folder.path(), 4096, COMMITS);
    on("protect", &path, &[]).ends_with(0);
    let whole = fs::read(wal_of(&path)).unwrap();
    let all = u64::from(COMMITS) - 1;
    let mut random = Random(40);
    let mut lost = Vec::new();
    for trial in 0..trials {
        let bit = random.below(whole.len() as u64 * 8);
        let copy_of = |name: &str| {
            let to = folder.path().join(format!("{name}{trial}.db"));
            copy_all(&path, &to);
            flip(&wal_of(&to), bit / 8, (bit % 8) as u32);
            to
        };
        let theirs = copy_of("theirs");
        let kept = Connection::open(&theirs)
            .unwrap()
            .query_row("select count(*) from t", [], |row| row.get::<_, i64>(0))
            .map_or(0, |kept| kept as u64);
        lost.push(all - kept);

        let ours = copy_of("ours");
        let seen = on("verify", &ours, &[]).ends_with(1).json();
        let damage = seen["wal"]["damage"].as_array().unwrap();
        assert!(
            !damage.is_empty() && damage.iter().all(|damage| damage["healable"] == true),
            "{seen}"
        );
        let healed = on("heal", &ours, &[]).ends_with(0).json();
        assert_eq!(healed["frames_healed"].as_array().unwrap().len(), 1, "{healed}");
        assert!(fs::read(wal_of(&ours)).unwrap() == whole, "bit {bit}");
        on("verify", &ours, &[]).ends_with(0);
        assert_eq!(rows(&ours), all);
        for name in ["ours", "theirs"] {
            let prefix = format!("{name}{trial}.db");
            for entry in fs::read_dir(folder.path()).unwrap() {
                let entry = entry.unwrap();
                if entry.file_name().to_str().unwrap().starts_with(&prefix) {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        }
    }
    let sum: u64 = lost.iter().sum();
    println!(
        "{trials} trials, {} frames, {COMMITS} transactions: SQLite lost {} on average ({} to {}), walmend none",
        (whole.len() - 32) / 4120,
        sum / trials,
        lost.iter().min().unwrap(),
        lost.iter().max().unwrap()
    );
    sum
}

#[test]
fn one_flipped_bit_costs_sqlite_commits_and_walmend_none() {
    assert!(side_by_side(4) > 0);
}

#[test]
#[ignore = "the full comparison; run it with --ignored --nocapture"]
fn forty_flipped_bits_beside_sqlite() {
    assert!(side_by_side(40) > 40 * 100);
}

#[test]
fn protect_writes_the_sidecars_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let path = left_by_sqlite(folder.path(), 4096, 60);
    let before = contents(folder.path());
    let report = on("protect", &path, &[]).ends_with(0).json();
    let mut after = contents(folder.path());
    let sidecar = after.remove(&sidecar_of(&path)).unwrap().unwrap();
    let pages = after.remove(&with_suffix(&path, "-fec")).unwrap().unwrap();
    assert!(before == after);
    assert_eq!(report["wal_sidecar"]["bytes"], sidecar.len());
    assert_eq!(report["db_sidecar"]["bytes"], pages.len());
    let seen = on("inspect", &path, &["--frames"]).ends_with(0).json();
    let committed = &seen["wal"]["committed_frames"];
    assert_eq!(&report["wal_sidecar"]["frames_covered"], committed);
    assert_eq!(&seen["wal_sidecar"]["frames_covered"], committed);
    assert_eq!(seen["wal_sidecar"]["bad_records"], 0);
    let frames = seen["wal"]["frames"].as_array().unwrap();
    assert!(frames.iter().all(|frame| frame["covered"] == true));
    let again = on("protect", &path, &[]).ends_with(0).json();
    assert_eq!(
        (
            &again["wal_sidecar"]["frames_added"],
            &again["wal_sidecar"]["groups_added"]
        ),
        (&0.into(), &0.into())
    );
    assert_eq!(fs::read(sidecar_of(&path)).unwrap(), sidecar);
}

#[test]
fn logs_of_every_page_size_and_both_byte_orders_are_healed() {
    for (page_size, big) in [(512, false), (4096, true), (65536, false), (512, true)] {
        let folder = TempDir::new().unwrap();
        let path = left_by_sqlite(folder.path(), page_size, 40);
        let mut whole = fs::read(wal_of(&path)).unwrap();
        if big {
            let frames = (whole.len() - 32) as u64 / u64::from(page_size + 24);
            whole = big_endian(&whole, frames);
            fs::write(wal_of(&path), &whole).unwrap();
        }
        let intact = folder.path().join("intact.db");
        copy(&path, &intact);
        on("protect", &path, &[]).ends_with(0);
        let mut damaged = whole.clone();
        for frame in [2, 30] {
            let at = frame_at(frame, page_size) as usize;
            damaged[at..at + 500].fill(0);
        }
        fs::write(wal_of(&path), &damaged).unwrap();
        let report = on("heal", &path, &[]).ends_with(0).json();
        assert_eq!(report["frames_healed"], serde_json::json!([2, 30]));
        let aside = report["kept_aside"].as_str().unwrap();
        assert!(fs::read(aside).unwrap() == damaged);
        assert!(fs::read(wal_of(&path)).unwrap() == whole);
        assert_eq!(dump(&path), dump(&intact));
    }
}

#[test]
fn what_cannot_be_healed_is_named_and_left_as_it_is() {
    let folder = TempDir::new().unwrap();
    let path = left_by_sqlite(folder.path(), 4096, 20);
    on("protect", &path, &[]).ends_with(0);
    let mut damaged = fs::read(wal_of(&path)).unwrap();
    // Some forty frames are one group, with five or six parity shards.
    for frame in 5..=12 {
        damaged[frame_at(frame, 4096) as usize + 100] ^= 1;
    }
    fs::write(wal_of(&path), &damaged).unwrap();
    let before = contents(folder.path());
    let run = on("heal", &path, &[]).ends_with(1);
    assert_eq!(
        run.json()["unhealable_frames"],
        serde_json::json!([5, 6, 7, 8, 9, 10, 11, 12])
    );
    assert!(run.json()["kept_aside"].is_null());
    assert!(run.stderr.contains("still damaged"), "{run:?}");
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn a_history_that_sqlite_went_on_with_is_recognised() {
    let folder = TempDir::new().unwrap();
    let path = left_by_sqlite(folder.path(), 4096, 60);
    on("protect", &path, &[]).ends_with(0);
    flip(&wal_of(&path), frame_at(50, 4096) + 200, 3);
    let connection = Connection::open(&path).unwrap();
    connection
        .pragma_update(None, "wal_autocheckpoint", 0)
        .unwrap_or_default();
    connection
        .execute_batch("insert into t(data) values ('another history'); update last set id = -1")
        .unwrap();
    let other = folder.path().join("other.db");
    copy(&path, &other);
    fs::copy(sidecar_of(&path), sidecar_of(&other)).unwrap();
    drop(connection);
    let log = fs::read(wal_of(&other)).unwrap();
    let report = on("heal", &other, &[]).json();
    assert_eq!(report["frames_healed"], serde_json::json!([]));
    assert_eq!(report["other_history"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(fs::read(wal_of(&other)).unwrap(), log);
    let seen = on("inspect", &other, &[]).json();
    assert_eq!(seen["wal_sidecar"]["other_history"], 1);
    assert_eq!(seen["wal_sidecar"]["frames_covered"], 0);
}

#[test]
fn recovery_heals_before_it_decides() {
    let folder = TempDir::new().unwrap();
    let path = left_by_sqlite(folder.path(), 4096, 60);
    on("protect", &path, &[]).ends_with(0);
    flip(&wal_of(&path), frame_at(50, 4096) + 200, 3);
    let report = on("recover", &path, &["--on-damage", "truncate"])
        .ends_with(0)
        .json();
    assert_eq!(report["decision"], "healed");
    assert_eq!(report["healed_frames"], serde_json::json!([50]));
    assert_eq!(report["lost_commits"], 0);
    assert!(report["kept_aside"].is_string());
    assert_eq!(rows(&path), 59);
}

#[test]
fn damage_without_a_sidecar_is_reported_and_a_healthy_log_needs_none() {
    let folder = TempDir::new().unwrap();
    let path = left_by_sqlite(folder.path(), 4096, 20);
    let report = on("heal", &path, &[]).ends_with(0).json();
    assert_eq!(report["frames_healed"], serde_json::json!([]));
    flip(&wal_of(&path), frame_at(9, 4096) + 200, 3);
    let run = on("heal", &path, &[]).ends_with(1);
    assert_eq!(run.json()["unhealable_frames"], serde_json::json!([9]));
    assert!(run.stderr.contains("there is no sidecar"), "{run:?}");
    let run = on("protect", &path, &[]).ends_with(1);
    assert_eq!(run.json()["wal_sidecar"]["behind_damage"], true);
}

#[test]
fn damaged_parity_is_found_and_made_again() {
    let folder = TempDir::new().unwrap();
    let path = left_by_sqlite(folder.path(), 4096, 20);
    on("protect", &path, &[]).ends_with(0);
    flip(&sidecar_of(&path), 5000, 1);
    let seen = on("verify", &path, &[]).ends_with(1).json();
    assert_eq!(seen["wal_sidecar"]["bad_records"], 1);
    assert_eq!(seen["wal"]["damage"], serde_json::json!([]));
    on("protect", &path, &[]).ends_with(0);
    on("verify", &path, &[]).ends_with(0);
}

#[test]
fn a_live_sqlite_keeps_both_out() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("live.db");
    let connection = new_database(&path, 4096);
    connection
        .execute_batch("create table t(a); insert into t values (1)")
        .unwrap();
    for command in ["protect", "heal"] {
        let run = on(command, &path, &[]).ends_with(2);
        assert_eq!(run.json()["error"]["kind"], "locked");
    }
    drop(connection);
    for command in ["protect", "heal"] {
        assert_eq!(
            on(command, &folder.path().join("none.db"), &[])
                .ends_with(2)
                .json()["error"]["kind"],
            "not_found"
        );
    }
}

#[test]
fn zeros_that_a_power_loss_left_for_a_log_keep_no_database_from_being_protected() {
    let folder = TempDir::new().unwrap();
    let path = left_by_sqlite(folder.path(), 4096, 5);
    let log = fs::read(wal_of(&path)).unwrap();
    for left in [vec![0; log.len()], log[..20].to_vec()] {
        fs::write(wal_of(&path), &left).unwrap();
        assert_eq!(
            on("verify", &path, &[]).ends_with(0).json()["wal"]["header"],
            "invalid"
        );
        let report = on("protect", &path, &[]).ends_with(0).json();
        assert_eq!(report["wal_sidecar"]["frames_covered"], 0);
        assert_eq!(report["db_sidecar"]["pages_covered"], 1);
        assert_eq!(fs::read(wal_of(&path)).unwrap(), left);
    }
    // Whole commits under a damaged header are another matter.
    fs::write(wal_of(&path), &log).unwrap();
    flip(&wal_of(&path), 3, 1);
    let refused = on("protect", &path, &[]).ends_with(2).json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("header"));
}
