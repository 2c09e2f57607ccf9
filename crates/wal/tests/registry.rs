//! The lock registry, and the probe against real processes.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use walmend_types::PageNumber;
use walmend_wal::{LivenessProbe, LockOwner, LockRegistry, OsProbe};

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

fn owner(pid: u32) -> LockOwner {
    LockOwner {
        pid,
        ..LockOwner::current()
    }
}

/// A child that waits until it is killed, and who it is.
fn child() -> (Child, LockOwner) {
    let child = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let owner = LockOwner {
        pid: child.id(),
        start_time: fields[19].parse().unwrap(),
        ..LockOwner::current()
    };
    (child, owner)
}

#[test]
fn registering_twice_answers_the_same_sequence_and_another_owner_another_one() {
    let registry = LockRegistry::new();
    let first = registry.register(page(7), owner(1));
    assert_eq!(first, 1, "sequences start at 1");
    assert_eq!(registry.register(page(7), owner(1)), first);
    assert_ne!(registry.register(page(7), owner(2)), first);
    assert_ne!(registry.register(page(8), owner(1)), first);
    assert_eq!((registry.len(), registry.is_empty()), (3, false));
    assert!(registry.deregister(page(7), owner(1)));
    assert!(!registry.deregister(page(7), owner(1)));
    assert!(
        registry.register(page(7), owner(1)) > 3,
        "no sequence comes twice"
    );
    let taken = registry.deregister_sequence(2).unwrap();
    assert_eq!((taken.page, taken.owner.pid), (page(7), 2));
    assert_eq!(registry.deregister_sequence(2), None);
}

#[test]
fn the_locks_of_dead_owners_are_released_and_told_and_no_others() {
    let registry = LockRegistry::new();
    for number in 1..=6 {
        registry.register(page(number), owner(100 + number % 3));
    }
    let released = registry.release_dead_locks(&|owner: &LockOwner| owner.pid != 101);
    let pages: Vec<u32> = released.iter().map(|lock| lock.page.get()).collect();
    assert_eq!(pages, [1, 4]);
    assert_eq!(registry.len(), 4);
    assert!(registry.snapshot().iter().all(|lock| lock.owner.pid != 101));
    assert!(registry.release_dead_locks(&|_: &LockOwner| true).is_empty());
}

#[test]
fn each_owner_is_probed_once_however_many_locks_it_has() {
    let registry = LockRegistry::new();
    for number in 1..=1000 {
        registry.register(page(number), owner(number % 4));
    }
    let probes = std::cell::Cell::new(0);
    registry.release_dead_locks(&|_: &LockOwner| {
        probes.set(probes.get() + 1);
        true
    });
    assert_eq!(probes.get(), 4);
}

#[test]
fn a_killed_owner_is_dead_before_and_after_somebody_waits_for_it() {
    let probe = OsProbe::new();
    let (mut child, owner) = child();
    assert!(probe.is_alive(&owner));
    let registry = LockRegistry::new();
    registry.register(page(3), owner);
    assert!(registry.release_dead_locks(&probe).is_empty());
    child.kill().unwrap();
    // Not waited for yet: it is on its way to being a zombie, and then stays one.
    while probe.is_alive(&owner) {
        walmend_sync::thread::yield_now();
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", owner.pid)).unwrap();
    assert!(stat.contains(") Z "), "{stat}");
    assert_eq!(registry.release_dead_locks(&probe).len(), 1);
    child.wait().unwrap();
    assert!(!probe.is_alive(&owner));
}

#[test]
fn a_process_that_got_the_number_of_a_dead_owner_is_not_that_owner() {
    let probe = OsProbe::new();
    let (mut child, owner) = child();
    let before = LockOwner {
        start_time: owner.start_time - 1,
        ..owner
    };
    assert!(!probe.is_alive(&before));
    assert!(probe.is_alive(&owner));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn another_boot_is_dead_and_another_namespace_is_left_alone() {
    let probe = OsProbe::new();
    let us = LockOwner::current();
    assert!(probe.is_alive(&us));
    assert!(!probe.is_alive(&LockOwner { pid: 0, ..us }));
    let another_boot = LockOwner {
        boot_id: us.boot_id ^ 1,
        ..us
    };
    assert!(!probe.is_alive(&another_boot));
    // A number that nobody has here may well be somebody there.
    let free = (1..)
        .find(|pid| !fs::exists(format!("/proc/{}", 4_000_000 - pid)).unwrap())
        .unwrap();
    let nobody = LockOwner {
        pid: 4_000_000 - free,
        ..us
    };
    assert!(!probe.is_alive(&nobody));
    for pid_namespace in [us.pid_namespace + 1, 0] {
        assert!(
            probe.is_alive(&LockOwner {
                pid_namespace,
                ..nobody
            }),
            "{pid_namespace}"
        );
    }
    // What is not known of the boot proves nothing; the rest still does.
    assert!(!probe.is_alive(&LockOwner { boot_id: 0, ..nobody }));
    assert!(probe.is_alive(&LockOwner {
        boot_id: 0,
        start_time: 0,
        ..us
    }));
}

#[test]
#[allow(clippy::print_stdout, reason = "a test that was left out says so")]
fn a_process_whose_first_thread_has_ended_is_alive_although_it_shows_as_a_zombie() {
    // System call 60 ends the calling thread alone (x86-64); the other one sleeps on.
    let script = "import threading, time, ctypes\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n\
                  ctypes.CDLL(None).syscall(60, 0)";
    let python = Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::null())
        .spawn();
    let (true, Ok(mut child)) = (cfg!(target_arch = "x86_64"), python) else {
        println!("left out: needs python3 on x86-64");
        return;
    };
    let path = format!("/proc/{}/stat", child.id());
    let stat = loop {
        let stat = fs::read_to_string(&path).unwrap();
        if stat.contains(") Z ") {
            break stat;
        }
        walmend_sync::thread::yield_now();
    };
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let owner = LockOwner {
        pid: child.id(),
        start_time: fields[19].parse().unwrap(),
        ..LockOwner::current()
    };
    let alive = OsProbe::new().is_alive(&owner);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(alive, "{stat}");
    assert!(!OsProbe::new().is_alive(&owner));
}

#[derive(Debug, Clone)]
enum Step {
    Register(u32, u32),
    Deregister(u32, u32),
    DeregisterSequence(u64),
    Bury(u32),
    Move,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u32..6, 0u32..4).prop_map(|(page, pid)| Step::Register(page, pid)),
        2 => (1u32..6, 0u32..4).prop_map(|(page, pid)| Step::Deregister(page, pid)),
        1 => (0u64..12).prop_map(Step::DeregisterSequence),
        1 => (0u32..4).prop_map(Step::Bury),
        1 => Just(Step::Move),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Against a model that is one list.
    #[test]
    fn the_registry_keeps_book(steps in steps()) {
        let mut registry = LockRegistry::new();
        let mut model: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        let mut last = 0;
        for step in steps {
            match step {
                Step::Register(number, pid) => {
                    let known = model.iter().find(|(_, pair)| **pair == (number, pid)).map(|(sequence, _)| *sequence);
                    let expected = known.unwrap_or(last + 1);
                    prop_assert_eq!(registry.register(page(number), owner(pid)), expected);
                    last = last.max(expected);
                    model.insert(expected, (number, pid));
                }
                Step::Deregister(number, pid) => {
                    let before = model.len();
                    model.retain(|_, pair| *pair != (number, pid));
                    prop_assert_eq!(registry.deregister(page(number), owner(pid)), model.len() < before);
                }
                Step::DeregisterSequence(sequence) => {
                    let found = registry.deregister_sequence(sequence).map(|lock| (lock.page.get(), lock.owner.pid));
                    prop_assert_eq!(found, model.remove(&sequence));
                }
                Step::Bury(pid) => {
                    let released = registry.release_dead_locks(&|owner: &LockOwner| owner.pid != pid);
                    let expected: Vec<u64> =
                        model.iter().filter(|(_, pair)| pair.1 == pid).map(|(sequence, _)| *sequence).collect();
                    prop_assert_eq!(released.iter().map(|lock| lock.sequence).collect::<Vec<_>>(), expected);
                    model.retain(|_, pair| pair.1 != pid);
                }
                Step::Move => registry = LockRegistry::from_bytes(&registry.to_bytes()).unwrap(),
            }
            let found: Vec<_> =
                registry.snapshot().iter().map(|lock| (lock.sequence, (lock.page.get(), lock.owner.pid))).collect();
            prop_assert_eq!(found, model.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(registry.len(), model.len());
            for (number, pid) in [(1, 0), (2, 1), (5, 3)] {
                let other = model.values().any(|pair| pair.0 == number && pair.1 != pid);
                prop_assert_eq!(registry.is_held_by_another(page(number), owner(pid)), other);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_registry_or_an_error(bytes in prop::collection::vec(0u8..3, 0..200)) {
        if let Ok(registry) = LockRegistry::from_bytes(&bytes) {
            prop_assert_eq!(LockRegistry::from_bytes(&registry.to_bytes()).unwrap().snapshot(), registry.snapshot());
        }
    }
}
