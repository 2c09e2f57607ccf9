//! A real process is killed at every write, sync and truncation of the sidecar, and in the middle of each write. Whatever
//! that leaves, opening and healing make nothing worse.
#![cfg(feature = "repair")]

mod common;

use common::child::{self, Child};
use common::kill::{KillVfs, When};
use common::{Random, copy, findings, page};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use walmend::{CheckpointMode, Error, Options, PageSize, Store};
use walmend_wal::{frame_offset, with_suffix};

const SIDECAR: &str = "-wal-fec";
const LONG: Duration = Duration::from_secs(60);
const TEST: &str = "killed_at_any_step_of_its_sidecar_a_store_loses_nothing_and_heals_nothing_wrong";

fn image(number: u64) -> Vec<u8> {
    Random(number).bytes(4096)
}

/// Commits and repairs in two generations of the log, and once more behind a group that is there; tells of each commit.
fn play(step: &str, db: &Path) -> ! {
    let (when, number) = step.split_once('-').unwrap();
    let vfs = KillVfs::new(When::named(when)).of(SIDECAR);
    vfs.die_at(number.parse().unwrap());
    let options = Options::new().vfs(Arc::new(vfs));
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
        play(&role, &db);
    }
    const FILES: [&str; 3] = ["-wal", "-wal-meta", SIDECAR];
    let folder = tempfile::tempdir().unwrap();
    let (mut healed, mut refused) = (0, 0);
    let steps = (1..).flat_map(|number| [When::Before, When::Middle].map(|when| (number, when)));
    for (number, when) in steps {
        let step = format!("{when:?}-{number}");
        let db = folder.path().join(format!("{step}.db"));
        let mut child = Child::start(TEST, &step, &db);
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
            assert!(number > 5, "all {number} steps were gone through");
            break;
        }
    }
    assert!(healed > 0 && refused > 0, "{healed} healed, {refused} refused");
}
