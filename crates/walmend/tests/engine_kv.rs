//! The key-value store of `examples/kv`, as an engine that has to survive.

mod common;
#[path = "../examples/kv/engine.rs"]
mod engine;
#[path = "../examples/kv/node.rs"]
mod node;

use common::Random;
use common::child::{self, Child};
use engine::{Kv, KvError};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use walmend_sync::thread;

const WRITERS: usize = 4;

#[test]
fn the_tree_holds_what_a_map_would_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.kv");
    let mut random = Random(7);
    let mut model = BTreeMap::new();
    let mut kv = Kv::open(&path).unwrap();
    for step in 0..3000 {
        let len = 1 + random.below(200) as usize;
        let key = format!("{:0len$}", random.below(900)).into_bytes();
        if random.below(4) == 0 {
            assert_eq!(kv.delete(&key).unwrap(), model.remove(&key).is_some());
        } else {
            let len = random.below(790) as usize;
            let value = random.bytes(len);
            kv.set(&key, &value).unwrap();
            model.insert(key, value);
        }
        if step % 1000 == 999 {
            kv.close().unwrap();
            kv = Kv::open(&path).unwrap();
        }
    }
    assert_eq!(kv.all().unwrap(), model.clone().into_iter().collect::<Vec<_>>());
    for key in model.keys().take(50) {
        assert_eq!(kv.get(key).unwrap().as_ref(), model.get(key));
    }
    assert_eq!(kv.get(b"not there").unwrap(), None);
    assert!(matches!(kv.set(b"key", &[0; 998]), Err(KvError::TooLarge(1001))));
}

#[test]
fn writers_that_retry_lose_no_update() {
    let folder = tempfile::tempdir().unwrap();
    let kv = Kv::open(&folder.path().join("a.kv")).unwrap();
    let rounds: u64 = 200;
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let kv = &kv;
            scope.spawn(move || {
                for round in 0..rounds {
                    kv.update(|tree| {
                        let before = tree.get(b"counter")?.map_or(0, |bytes| number(&bytes));
                        tree.set(b"counter", &(before + 1).to_le_bytes())?;
                        tree.set(format!("{writer} {round:05}").as_bytes(), &[7; 300])
                    })
                    .unwrap();
                    if writer == 0 && round % 50 == 0 {
                        kv.checkpoint().unwrap();
                    }
                }
            });
        }
    });
    let counter = kv.get(b"counter").unwrap().unwrap();
    assert_eq!(number(&counter), rounds * WRITERS as u64);
    assert_eq!(kv.all().unwrap().len() as u64, rounds * WRITERS as u64 + 1);
    kv.close().unwrap();
}

#[test]
fn what_was_acknowledged_before_a_sigkill_is_there() {
    if let Some((_, path)) = child::role() {
        return write_until_killed(&path);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.kv");
    let mut acknowledged = [0_u64; WRITERS];
    for life in 0..10 {
        let mut child = Child::start("what_was_acknowledged_before_a_sigkill_is_there", "write", &path);
        for _ in 0..100 + 37 * life {
            let said = child.hear();
            let (writer, n) = said.split_once(' ').unwrap();
            acknowledged[writer.parse::<usize>().unwrap()] = n.parse().unwrap();
        }
        child.kill();

        let kv = Kv::open(&path).unwrap();
        let pairs = kv.all().unwrap();
        assert!(pairs.is_sorted(), "life {life}");
        for (writer, acknowledged) in acknowledged.iter().enumerate() {
            // Each transaction moves a writer's counter and adds a pair: whole, or not at all.
            let last = kv.get(format!("last {writer}").as_bytes()).unwrap();
            let last = last.map_or(0, |bytes| number(&bytes));
            assert!(last >= *acknowledged, "life {life}: {last} of {acknowledged}");
            let prefix = format!("pair {writer} ");
            let count = pairs
                .iter()
                .filter(|(key, _)| key.starts_with(prefix.as_bytes()))
                .count();
            assert_eq!(count as u64, last, "life {life}, writer {writer}");
        }
        kv.close().unwrap();
    }
}

fn write_until_killed(path: &Path) {
    let kv = Kv::open(path).unwrap();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let kv = &kv;
            scope.spawn(move || {
                loop {
                    let last = format!("last {writer}");
                    let update = kv.update(|tree| {
                        let n = tree.get(last.as_bytes())?.map_or(0, |bytes| number(&bytes)) + 1;
                        tree.set(last.as_bytes(), &n.to_le_bytes())?;
                        tree.set(format!("pair {writer} {n:06}").as_bytes(), &[3; 200])?;
                        Ok(n)
                    });
                    child::say(&format!("{writer} {}", update.unwrap().0));
                }
            });
        }
        loop {
            thread::sleep(Duration::from_millis(20));
            kv.checkpoint().unwrap();
        }
    });
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}
