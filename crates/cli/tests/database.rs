//! Whole-database protection on databases that SQLite made: what rots is healed, and what SQLite wrote is never undone.

mod common;

use common::{contents, on, with_suffix};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;
use walmend_vfs::Random;

const MIB: usize = 1 << 20;

/// A database of about so many bytes, closed.
fn database(folder: &Path, bytes: usize, journal_mode: &str) -> PathBuf {
    let path = folder.join("a.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .pragma_update_and_check(None, "journal_mode", journal_mode, |_| Ok(()))
        .unwrap();
    // Only the content counts here.
    connection.pragma_update(None, "synchronous", "off").unwrap();
    connection
        .execute_batch("create table t(id integer primary key, data blob)")
        .unwrap();
    connection
        .execute(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?1)
             insert into t(data) select randomblob(950) from n",
            [(bytes / 1015) as i64],
        )
        .unwrap();
    connection.close().unwrap();
    path
}

/// Changes the database file as a disk does: without leaving another time.
fn rot(path: &Path, damage: impl FnOnce(&mut Vec<u8>)) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    damage(&mut bytes);
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.set_modified(modified).unwrap();
}

fn integrity(path: &Path) -> String {
    let connection = Connection::open(path).unwrap();
    connection
        .query_row("pragma integrity_check", [], |row| row.get(0))
        .unwrap()
}

fn pages(json: &Value, name: &str) -> Vec<u64> {
    json[name]
        .as_array()
        .unwrap()
        .iter()
        .map(|page| page.as_u64().unwrap())
        .collect()
}

/// Damage of every kind, one after the other, healed each time.
#[expect(clippy::print_stdout, reason = "the ignored test shows how long it takes")]
fn heals_everything(bytes: usize) {
    let folder = TempDir::new().unwrap();
    let path = database(folder.path(), bytes, "delete");
    on("protect", &path, &[]).ends_with(0);
    let whole = fs::read(&path).unwrap();
    let mut random = Random(bytes as u64);
    let mut check = |name: &str, damage: &mut dyn FnMut(&mut Vec<u8>, &mut Random)| {
        rot(&path, |bytes| damage(bytes, &mut random));
        let found = on("verify", &path, &[]).ends_with(1).json();
        let bad = pages(&found["db_sidecar"], "bad_pages");
        assert!(!bad.is_empty(), "{name}");
        let started = Instant::now();
        let healed = on("heal", &path, &[]).ends_with(0).json();
        let healed = pages(&healed, "pages_healed");
        println!(
            "{bytes} bytes, {name}: {} pages healed in {:?}",
            healed.len(),
            started.elapsed()
        );
        assert!(fs::read(&path).unwrap() == whole, "{name}");
        on("verify", &path, &[]).ends_with(0);
    };
    check("1000 flips", &mut |bytes, random| {
        for _ in 0..1000 {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
    });
    check("1 MiB of zeros", &mut |bytes, random| {
        let len = MIB.min(bytes.len());
        let at = random.below(bytes.len() - len + 1);
        bytes[at..at + len].fill(0);
    });
    check("swaps", &mut |bytes, random| {
        for _ in 0..20 {
            let (a, b) = (random.below(bytes.len() / 4096), random.below(bytes.len() / 4096));
            let saved = bytes[a * 4096..][..4096].to_vec();
            bytes.copy_within(b * 4096..(b + 1) * 4096, a * 4096);
            bytes[b * 4096..][..4096].copy_from_slice(&saved);
        }
        bytes[..100].fill(0xee);
    });
    check("tail", &mut |bytes, _| {
        let len = bytes.len() - bytes.len() / 50;
        bytes.truncate(len);
    });
    assert_eq!(integrity(&path), "ok");
}

/// With the time of its last write a shorter file was cut by nobody; SQLite itself says in the header when it was.
#[test]
fn a_file_that_sqlite_made_shorter_is_not_made_longer_again() {
    let folder = TempDir::new().unwrap();
    let path = database(folder.path(), 1_000_000, "wal");
    on("protect", &path, &[]).ends_with(0);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("delete from t where id % 2 = 0; vacuum; pragma wal_checkpoint(truncate)")
        .unwrap();
    connection.close().unwrap();
    let shorter = fs::read(&path).unwrap();
    // A power loss can take back the time.
    for back in [false, true] {
        if back {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(modified).unwrap();
        }
        let found = on("verify", &path, &[]).json();
        assert_eq!(pages(&found["db_sidecar"], "bad_pages").len(), 0, "{back}");
        assert_eq!(found["db_sidecar"]["stale"], json!(true), "{back}");
        let healed = on("heal", &path, &[]).json();
        assert_eq!(pages(&healed, "pages_healed").len(), 0, "{back}");
        assert!(fs::read(&path).unwrap() == shorter, "{back}");
    }
    // Cut by a program, which leaves its time: the missing pages may have been written before, so they are undecided.
    on("protect", &path, &[]).ends_with(0);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(shorter.len() as u64 - 50_000).unwrap();
    drop(file);
    let healed = on("heal", &path, &[]).json();
    assert_eq!(pages(&healed, "pages_healed").len(), 0);
    assert!(!pages(&healed, "undecided_pages").is_empty());
    on("heal", &path, &["--trust-sidecar"]).ends_with(0);
    assert!(fs::read(&path).unwrap() == shorter);
}

#[test]
fn a_megabyte_of_sqlite_is_healed_byte_for_byte() {
    heals_everything(1_000_000);
}

#[test]
#[ignore = "takes a minute and gigabytes"]
fn a_hundred_megabytes_and_a_gigabyte_are_healed_byte_for_byte() {
    heals_everything(100_000_000);
    heals_everything(1_000_000_000);
}

#[test]
fn verify_tells_the_sidecar_as_documented_and_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let path = database(folder.path(), 300_000, "wal");
    assert_eq!(
        on("verify", &path, &[]).ends_with(0).json()["db_sidecar"],
        Value::Null
    );
    on("protect", &path, &[]).ends_with(0);
    rot(&path, |bytes| bytes[5 * 4096 + 77] ^= 8);
    let before = contents(folder.path());
    for command in ["inspect", "verify"] {
        let json = on(command, &path, &[]).ends_with(1).json();
        let sidecar = &json["db_sidecar"];
        assert_eq!(sidecar["path"], with_suffix(&path, "-fec").to_str().unwrap());
        assert_eq!(sidecar["pages_covered"], json["database"]["pages"]);
        assert_eq!(sidecar["bad_pages"], json!([6]));
        assert_eq!(
            (&sidecar["bad_records"], &sidecar["stale"]),
            (&json!(0), &json!(false))
        );
    }
    assert!(contents(folder.path()) == before);
}

#[test]
fn scrub_heals_as_heal_does() {
    let folder = TempDir::new().unwrap();
    let path = database(folder.path(), 300_000, "wal");
    on("protect", &path, &[]).ends_with(0);
    let whole = fs::read(&path).unwrap();
    rot(&path, |bytes| bytes[9 * 4096..11 * 4096].fill(1));
    let json = on("scrub", &path, &["--rate", "100"]).ends_with(0).json();
    assert_eq!(pages(&json, "pages_healed"), [10, 11]);
    assert_eq!(json["unhealable_pages"], json!([]));
    assert!(fs::read(&path).unwrap() == whole);
    let aside = json["kept_aside"].as_str().unwrap().to_owned();
    assert!(Path::new(&aside).exists());
    on("scrub", &path, &["--rate", "0"]).ends_with(2);
}

#[test]
fn a_first_page_that_is_gone_is_healed_whatever_of_it_is_damaged() {
    let folder = TempDir::new().unwrap();
    let path = database(folder.path(), 300_000, "wal");
    on("protect", &path, &[]).ends_with(0);
    let whole = fs::read(&path).unwrap();
    for at in [0, 16, 17, 18, 24, 28, 92] {
        rot(&path, |bytes| bytes[at] ^= 0x41);
        on("verify", &path, &[]).ends_with(1);
        let json = on("heal", &path, &[]).ends_with(0).json();
        assert_eq!(pages(&json, "pages_healed"), [1], "{at}");
        assert!(fs::read(&path).unwrap() == whole, "{at}");
    }
}

#[test]
fn what_sqlite_wrote_after_protect_is_stale_and_not_undone_in_either_journal_mode() {
    for journal_mode in ["delete", "wal"] {
        let folder = TempDir::new().unwrap();
        let path = database(folder.path(), 300_000, journal_mode);
        on("protect", &path, &[]).ends_with(0);
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "update t set data = randomblob(950) where id % 7 = 0; insert into t(data) values (1)",
            )
            .unwrap();
        connection.close().unwrap();
        let whole = fs::read(&path).unwrap();
        let json = on("heal", &path, &[]).json();
        assert_eq!(
            (&json["stale"], &json["pages_healed"]),
            (&json!(true), &json!([]))
        );
        assert!(fs::read(&path).unwrap() == whole);
        assert_eq!(
            on("verify", &path, &[]).json()["db_sidecar"]["stale"],
            json!(true)
        );
        // Protected again, it is as good as ever.
        on("protect", &path, &[]).ends_with(0);
        rot(&path, |bytes| bytes[40_000] ^= 1);
        on("heal", &path, &[]).ends_with(0);
        assert!(fs::read(&path).unwrap() == whole);
        assert_eq!(integrity(&path), "ok");
    }
}

#[test]
fn a_live_log_tells_what_sqlite_checkpointed_from_what_rotted_whatever_the_time_of_the_file() {
    let folder = TempDir::new().unwrap();
    let path = database(folder.path(), 300_000, "wal");
    let write = |checkpoint: bool| {
        let connection = Connection::open(&path).unwrap();
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        connection
            .execute_batch("update t set data = randomblob(950) where id % 31 = 3")
            .unwrap();
        if checkpoint {
            connection
                .query_row("pragma wal_checkpoint(passive)", [], |_| Ok(()))
                .unwrap();
        }
        connection.close().unwrap();
    };
    write(false);
    on("protect", &path, &[]).ends_with(0);
    write(false);
    write(true);
    let whole = fs::read(&path).unwrap();
    let json = on("verify", &path, &[]).ends_with(0).json();
    assert_eq!(json["db_sidecar"]["stale"], json!(false));
    assert!(json["db_sidecar"]["written_pages"].as_u64().unwrap() > 5);
    // Damage that leaves another time, in a page that the log does not hold.
    let inspected = on("inspect", &path, &["--frames"]).ends_with(0).json();
    let frames = inspected["wal"]["frames"].as_array().unwrap();
    let page = (2..)
        .find(|page| frames.iter().all(|frame| frame["page"] != json!(page)))
        .unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0x55; 100], (page - 1) * 4096).unwrap();
    let healed = on("heal", &path, &[]).ends_with(0).json();
    assert_eq!(pages(&healed, "pages_healed"), [page]);
    assert!(fs::read(&path).unwrap() == whole);
    assert_eq!(integrity(&path), "ok");
}

/// Writes, checkpoints by either side, protections and damage in any order. A page is after healing as it was before
/// the damage, or as it was damaged; and all of them as before, where the protection was not stale.
#[test]
fn healing_never_makes_up_a_page_whatever_happened_before() {
    let seeds = std::env::var("WALMEND_SEEDS").map_or(6, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let folder = TempDir::new().unwrap();
        let mode = if seed % 3 == 0 { "delete" } else { "wal" };
        let path = database(folder.path(), 120_000, mode);
        let mut random = Random(seed);
        on("protect", &path, &[]).ends_with(0);
        for step in 0..14 {
            match random.below(6) {
                0 | 1 => {
                    let connection = Connection::open(&path).unwrap();
                    let keep_log = random.below(2) == 0;
                    connection
                        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep_log)
                        .unwrap();
                    let modulus = 1 + random.below(40);
                    connection
                        .execute_batch(&format!(
                            "update t set data = randomblob(950) where id % {modulus} = 0"
                        ))
                        .unwrap();
                    if random.below(2) == 0 {
                        let how = ["passive", "full", "restart", "truncate"][random.below(4)];
                        connection
                            .query_row(&format!("pragma wal_checkpoint({how})"), [], |_| Ok(()))
                            .unwrap();
                    }
                    connection.close().unwrap();
                }
                2 if mode == "wal" => {
                    let how = ["passive", "full", "restart", "truncate"][random.below(4)];
                    on("checkpoint", &path, &["--mode", how]).ends_with(0);
                }
                3 => {
                    on("protect", &path, &[]).ends_with(0);
                }
                _ => {
                    let before = fs::read(&path).unwrap();
                    rot(&path, |bytes| {
                        for _ in 0..=random.below(4) {
                            let at = random.below(bytes.len());
                            bytes[at] ^= 1 << random.below(8);
                        }
                    });
                    let damaged = fs::read(&path).unwrap();
                    let json = on("heal", &path, &[]).json();
                    let after = fs::read(&path).unwrap();
                    assert_eq!(after.len(), before.len());
                    for (page, after) in after.chunks(4096).enumerate() {
                        let place = page * 4096..page * 4096 + after.len();
                        assert!(
                            *after == before[place.clone()] || *after == damaged[place],
                            "seed {seed}, step {step}, page {}: {json}",
                            page + 1
                        );
                    }
                    if json["stale"] == json!(false) && after != before {
                        // Left to the log, which holds a newer version.
                        let left: Vec<usize> = (0..after.len() / 4096)
                            .filter(|page| after[page * 4096..][..4096] != before[page * 4096..][..4096])
                            .collect();
                        let log = fs::read(with_suffix(&path, "-wal")).unwrap();
                        for page in left {
                            let number = (page as u32 + 1).to_be_bytes();
                            assert!(
                                log[32..]
                                    .chunks(4096 + 24)
                                    .any(|frame| frame.starts_with(&number)),
                                "seed {seed}, step {step}, page {}: {json}",
                                page + 1
                            );
                        }
                    }
                    rot(&path, |bytes| bytes.clone_from(&before));
                }
            }
            assert_eq!(integrity_of_copy(&path), "ok", "seed {seed}, step {step}");
        }
    }
}

/// What SQLite says of a copy, so that looking changes nothing.
fn integrity_of_copy(path: &Path) -> String {
    let folder = TempDir::new().unwrap();
    let copy = folder.path().join("copy.db");
    common::copy(path, &copy);
    integrity(&copy)
}
