//! One flipped bit: found and named, never dropped without a word.

mod common;

use common::{contents, copy, crashed, flip, frame_at, on, rows, wal_of, walmend, with_suffix};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use walmend::{Options, PageNumber, PageSize, Pages, Store};

const COMMITS: u32 = 60;

/// A log of SQLite's with one flipped bit in the page of a frame in the middle; answers that frame too.
fn flipped() -> (TempDir, PathBuf, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, COMMITS);
    let frames = on("inspect", &path, &[]).json()["wal"]["committed_frames"]
        .as_u64()
        .unwrap();
    let frame = frames / 2;
    flip(&wal_of(&path), frame_at(frame, 4096) + 24 + 1234, 5);
    (folder, path, frame)
}

#[test]
fn verify_names_the_frame_and_fails() {
    let (_folder, path, frame) = flipped();
    let wal = on("verify", &path, &[]).ends_with(1).json()["wal"].clone();
    let damage = wal["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 1, "{wal}");
    assert_eq!(damage[0]["frame"], frame);
    assert_eq!(damage[0]["what"], "page");
    assert_eq!(
        damage[0]["certain"], false,
        "SQLite's own log does not say what was acknowledged"
    );
    assert_eq!(damage[0]["healable"], false);
    assert_eq!(wal["valid_frames"], frame - 1);
    assert_eq!(wal["end"], "checksum");
    let commits = wal["commits"].as_u64().unwrap() + wal["commits_after_damage"].as_u64().unwrap();
    // The commit that the damaged frame belongs to is neither before the damage nor whole behind it, unless
    // the frame was not its last.
    assert!(
        commits == u64::from(COMMITS) || commits + 1 == u64::from(COMMITS),
        "{wal}"
    );

    let certain = on("verify", &path, &["--writer-synced-every-commit"])
        .ends_with(1)
        .json();
    assert_eq!(certain["wal"]["damage"][0]["certain"], true);

    on("inspect", &path, &[]).ends_with(1);
    let text = walmend(["verify", path.to_str().unwrap()]).ends_with(1).stdout;
    assert!(text.contains(&format!("is damaged at frame {frame}")), "{text}");
}

#[test]
fn recover_changes_nothing_and_says_what_is_at_stake_while_sqlite_drops_it_silently() {
    let (folder, path, frame) = flipped();
    let before = contents(folder.path());
    let run = on("recover", &path, &[]).ends_with(1);
    assert_eq!(contents(folder.path()), before);
    let report = run.json();
    assert_eq!(report["decision"], "ambiguous");
    let kept = report["commits"].as_u64().unwrap();
    let lost = report["lost_commits"].as_u64().unwrap();
    assert_eq!(kept + lost, u64::from(COMMITS));
    let stake = format!("commits {} to {COMMITS} ({lost} commits)", kept + 1);
    assert!(
        run.stderr.contains(&format!("frame {frame}")) && run.stderr.contains(&stake),
        "{run:?}"
    );
    assert!(run.stderr.contains("--on-damage truncate") && run.stderr.contains("--on-damage salvage"));

    let told = on("recover", &path, &["--writer-synced-every-commit"]).ends_with(1);
    assert_eq!(told.json()["decision"], "refused");
    let refused = on("checkpoint", &path, &[]).ends_with(1);
    assert_eq!(refused.json()["error"]["kind"], "wal_ambiguous");
    assert_eq!(contents(folder.path()), before);

    let oracle = folder.path().join("oracle.db");
    copy(&path, &oracle);
    // One row per commit, but for the one that made the table.
    assert_eq!(
        rows(&oracle),
        kept - 1,
        "SQLite: no error, and {lost} commits fewer"
    );
}

#[test]
fn truncating_does_what_sqlite_does_and_says_what_was_lost() {
    let (folder, path, _) = flipped();
    let oracle = folder.path().join("oracle.db");
    copy(&path, &oracle);
    let run = on("recover", &path, &["--on-damage", "truncate"]).ends_with(0);
    let report = run.json();
    assert_eq!(report["decision"], "truncated");
    assert!(report["dropped_frames"].as_u64().unwrap() > 0);
    let lost = report["lost_commits"].as_u64().unwrap();
    assert!(
        run.stderr.contains(&format!("These {lost} commits were dropped")),
        "{run:?}"
    );
    on("verify", &path, &[]).ends_with(0);
    assert_eq!(rows(&path), rows(&oracle));
    assert_eq!(rows(&path) + 1, u64::from(COMMITS) - lost);
}

#[test]
fn salvaging_keeps_the_damaged_log_aside() {
    let (_folder, path, _) = flipped();
    let damaged = fs::read(wal_of(&path)).unwrap();
    let run = on("recover", &path, &["--on-damage", "salvage"]).ends_with(0);
    let report = run.json();
    assert_eq!(report["decision"], "salvaged");
    let aside = report["kept_aside"].as_str().unwrap();
    assert!(run.stderr.contains(aside), "{run:?}");
    assert_eq!(fs::read(aside).unwrap(), damaged);
    on("verify", &path, &[]).ends_with(0);
}

#[test]
fn a_torn_tail_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, COMMITS);
    let frames = on("inspect", &path, &[]).json()["wal"]["slots"].as_u64().unwrap();
    flip(&wal_of(&path), frame_at(frames, 4096) + 4000, 1);
    let wal = on("verify", &path, &[]).ends_with(0).json()["wal"].clone();
    assert_eq!(wal["end"], "checksum");
    let report = on("recover", &path, &[]).ends_with(0).json();
    assert_eq!(report["decision"], "torn_tail");
    assert_eq!(
        report["dropped_frames"],
        frames - wal["committed_frames"].as_u64().unwrap()
    );
    assert_eq!(report["lost_commits"], 0);
    assert_eq!(rows(&path), u64::from(COMMITS) - 2);
}

#[test]
fn a_log_that_ends_within_a_frame_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = crashed(&folder, 4096, COMMITS);
    let log = fs::read(wal_of(&path)).unwrap();
    fs::write(wal_of(&path), &log[..log.len() - 1]).unwrap();
    let wal = on("verify", &path, &[]).ends_with(0).json()["wal"].clone();
    assert_eq!(wal["end"], "partial_frame");
    on("recover", &path, &[]).ends_with(0);
    assert_eq!(rows(&path), u64::from(COMMITS) - 2);
}

/// A log of walmend's own: 20 commits of two pages each, closed without a checkpoint.
fn ours(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("ours.db");
    let options = Options::new()
        .pages(Pages::Raw)
        .page_size(PageSize::new(1024).unwrap())
        .repair(false);
    let (store, _) = Store::open(&path, options).unwrap();
    for round in 0..20u8 {
        let mut txn = store.begin().unwrap();
        for page in 1..=2 {
            txn.write(PageNumber::new(page).unwrap(), vec![round; 1024])
                .unwrap();
        }
        txn.commit().into_result().unwrap();
    }
    store.close().unwrap();
    path
}

#[test]
fn in_a_log_of_ours_the_watermark_says_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = ours(&folder);
    let report = on("verify", &path, &["--frames"]).ends_with(0).json();
    assert_eq!(report["wal_meta"]["durable_frame"], 40);
    assert_eq!(report["wal_meta"]["commit_seq"], 20);
    assert_eq!(report["wal_meta"]["matches_log"], true);
    assert_eq!(report["wal"]["frames"][38]["commit_seq"], 20);
    assert_eq!(report["wal"]["frames"][37]["commit_seq"], 19);
    assert_eq!(report["wal"]["frames"][37]["db_pages"], 2);

    // The very last frame: behind it nothing is left that could tell, but the watermark does.
    flip(&wal_of(&path), frame_at(40, 1024) + 24 + 7, 0);
    let report = on("verify", &path, &[]).ends_with(1).json();
    assert_eq!(report["wal"]["damage"][0]["frame"], 40);
    assert_eq!(report["wal"]["damage"][0]["certain"], true);
    let before = contents(folder.path());
    let run = on("recover", &path, &[]).ends_with(1);
    assert_eq!(run.json()["decision"], "refused");
    assert_eq!(run.json()["lost_commits"], 1);
    assert!(run.stderr.contains("commit 20 is at stake"), "{run:?}");
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn a_log_that_is_gone_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = ours(&folder);
    fs::remove_file(wal_of(&path)).unwrap();
    let before = contents(folder.path());
    let verified = on("verify", &path, &[]).ends_with(1).json();
    assert_eq!(verified["wal"], serde_json::Value::Null);
    assert_eq!(verified["wal_meta"]["matches_log"], false);
    let run = on("recover", &path, &[]).ends_with(1);
    assert_eq!(run.json()["decision"], "refused");
    assert!(run.stderr.contains("commits up to 20"), "{run:?}");
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn a_flipped_header_is_told_from_a_log_that_never_was() {
    let (_folder, path, _) = flipped();
    flip(&wal_of(&path), 17, 2);
    let report = on("verify", &path, &[]).ends_with(1).json();
    assert_eq!(report["wal"]["header"], "invalid");
    assert_eq!(report["wal"]["damage"][0]["frame"], 0);
    assert_eq!(report["wal"]["damage"][0]["what"], "header");

    fs::write(wal_of(&path), vec![0x5a; 10_000]).unwrap();
    let report = on("verify", &path, &[]).ends_with(0).json();
    assert_eq!(
        report["wal"]["header"], "invalid",
        "SQLite ignores it, and so may we"
    );
    assert_eq!(report["wal"]["committed_frames"], 0);
    assert!(!with_suffix(&path, "-wal-meta").exists());
}
