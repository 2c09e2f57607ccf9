//! R1-R3, R5, R8: the two paths, receipts, events, the window, and repair switched off.

use super::*;
use RepairEventKind::*;

#[test]
fn the_critical_path_appends_and_syncs_once_and_does_nothing_of_the_repair() {
    let runtime = undriven();
    let rig = rig(runtime.handle(), one_by_one());
    let receipt = rig.coordinator.commit(&[b"a", b"b", b"c"]).unwrap();
    let counters = rig.io.counters();
    assert_eq!((counters.systematic_appends, counters.systematic_syncs), (1, 1));
    assert_eq!(
        (counters.reads, counters.repair_appends, counters.repair_syncs),
        (0, 0, 0)
    );
    assert!(rig.generator.calls().is_empty());
    assert_eq!(receipt.symbols, SymbolRange::new(0, 3));
    assert_eq!(rig.io.systematic(), [b"a", b"b", b"c"]);
    drop(runtime);
}

#[test]
fn repair_symbols_are_made_of_what_was_committed_and_synced() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), RepairConfig::default());
    rig.coordinator.commit(&[&[1, 2], &[4, 8]]).unwrap();
    rig.settle();
    assert_eq!(
        rig.io.durable_repair(),
        [(SymbolRange::new(0, 2), vec![vec![5, 10]])]
    );
    let counters = rig.io.counters();
    assert_eq!(
        (counters.reads, counters.repair_appends, counters.repair_syncs),
        (1, 1, 1)
    );
    assert_eq!((counters.systematic_appends, counters.systematic_syncs), (1, 1));
    let metrics = rig.coordinator.metrics();
    assert_eq!(
        (metrics.groups, metrics.systematic_bytes, metrics.repair_bytes),
        (1, 4, 2)
    );
}

#[test]
fn a_commit_is_acknowledged_while_an_earlier_repair_stands_still() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    rig.generator.hold();
    rig.commit(b"first");
    rig.generator.wait_for_calls(1);
    let second = rig.commit(b"second");
    assert!(second.durable && second.repair_pending);
    assert_eq!(rig.states(1..=2), [RepairState::Pending; 2]);
    assert_eq!(rig.coordinator.pending_count(), 2);
    rig.generator.release();
    rig.settle();
    assert_eq!(rig.states(1..=2), [RepairState::Completed; 2]);
}

#[test]
fn the_receipt_says_number_place_and_the_time_that_the_sync_took() {
    let runtime = runtime();
    let config = RepairConfig {
        first_commit: CommitSeq(41),
        ..one_by_one()
    };
    let rig = rig(runtime.handle(), config);
    let delay = Duration::from_millis(20);
    rig.io.set_sync_delay(delay);
    let first = rig.coordinator.commit(&[b"a", b"b"]).unwrap();
    let second = rig.commit(b"c");
    assert_eq!(
        (first.commit_seq, second.commit_seq),
        (CommitSeq(41), CommitSeq(42))
    );
    assert_eq!(second.symbols, SymbolRange::new(2, 1));
    assert!(first.durable && first.repair_pending);
    assert!(first.critical_path >= delay, "the sync is part of it: {first:?}");
}

#[test]
fn the_events_of_a_commit_are_in_order_numbered_from_1_and_never_go_back_in_time() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    rig.commit(b"one");
    rig.commit(b"two");
    rig.settle();
    for commit in 1..=2 {
        let expected = [
            CommitDurable,
            DurableButNotRepairable,
            CommitAcked,
            RepairStarted,
            RepairCompleted,
        ];
        assert_eq!(rig.kinds(commit), expected);
        let events = rig.coordinator.events(CommitSeq(commit));
        let numbers: Vec<u32> = events.iter().map(|event| event.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        assert!(events.iter().all(|event| event.commit_seq == CommitSeq(commit)));
        assert!(events.is_sorted_by_key(|event| event.at));
    }
}

#[test]
fn a_failed_repair_ends_with_repair_failed_and_starts_once_whatever_the_retries() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    rig.generator.fail_at(0, GeneratorFailure::Error(broken()));
    rig.commit(b"one");
    rig.settle();
    let expected = [
        CommitDurable,
        DurableButNotRepairable,
        CommitAcked,
        RepairStarted,
        RepairFailed,
    ];
    assert_eq!(rig.kinds(1), expected);
    assert_eq!(rig.generator.calls().len(), 3);
}

#[test]
fn the_window_is_the_time_from_durable_to_completed() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    let delay = Duration::from_millis(15);
    rig.generator.set_delay(delay);
    rig.commit(b"one");
    rig.settle();
    let events = rig.coordinator.events(CommitSeq(1));
    let window = events[4].at - events[1].at;
    assert!(window >= delay);
    let stats = rig.coordinator.metrics().window;
    assert_eq!((stats.samples, stats.p50, stats.p99), (1, window, window));
    assert_eq!(stats.max, window);
}

#[test]
fn a_window_that_never_closes_is_no_sample() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    rig.generator.fail_at(0, GeneratorFailure::Panic);
    rig.commit(b"one");
    rig.settle();
    assert_eq!(rig.coordinator.metrics().window, WindowStats::default());
}

#[test]
fn a_commit_with_repair_switched_off_has_no_repair_event_at_all() {
    let io = MemoryRepairIo::new();
    let coordinator =
        RepairCoordinator::without_repair(Arc::new(io.clone()), RepairConfig::default()).unwrap();
    let receipt = coordinator.commit(&[b"one"]).unwrap();
    assert!(receipt.durable && !receipt.repair_pending);
    let kinds: Vec<_> = coordinator
        .events(receipt.commit_seq)
        .iter()
        .map(|event| event.kind)
        .collect();
    assert_eq!(kinds, [CommitDurable, CommitAcked]);
    assert_eq!(
        coordinator.state(receipt.commit_seq),
        Some(RepairState::NotScheduled)
    );
    assert_eq!(coordinator.pending_count(), 0);
    coordinator.wait_for_background_repair(Duration::ZERO).unwrap();
    let counters = io.counters();
    assert_eq!((counters.systematic_appends, counters.systematic_syncs), (1, 1));
    assert_eq!(
        (counters.reads, counters.repair_appends, counters.repair_syncs),
        (0, 0, 0)
    );
}

#[test]
fn an_engine_with_a_critical_path_of_its_own_offers_what_is_durable() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), RepairConfig::default());
    let started = std::time::Instant::now();
    // The engine's own path: two commits, one sync.
    let one = rig.io.append_systematic(CommitSeq(7), &[b"a", b"b"]).unwrap();
    let two = rig.io.append_systematic(CommitSeq(9), &[b"c"]).unwrap();
    rig.io.sync_systematic().unwrap();
    let durable = std::time::Instant::now();
    let commits = [(7, one), (9, two)].map(|(number, symbols)| DurableCommit {
        commit_seq: CommitSeq(number),
        symbols,
        started,
        durable,
    });
    let receipts = rig.coordinator.offer(&commits).unwrap();
    assert!(
        receipts
            .iter()
            .all(|receipt| receipt.durable && receipt.repair_pending)
    );
    assert!(
        receipts
            .iter()
            .all(|receipt| receipt.critical_path >= durable - started)
    );
    rig.settle();
    assert_eq!(rig.states([7, 9]), [RepairState::Completed; 2]);
    assert_eq!(
        rig.coordinator.state(CommitSeq(8)),
        None,
        "a number that no commit has"
    );
    assert_eq!(rig.io.durable_repair()[0].0, SymbolRange::new(0, 3));
}

#[test]
fn an_offer_out_of_order_or_without_symbols_is_refused_whole() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), RepairConfig::default());
    let now = std::time::Instant::now();
    let commit = |number, start, count| DurableCommit {
        commit_seq: CommitSeq(number),
        symbols: SymbolRange::new(start, count),
        started: now,
        durable: now,
    };
    for second in [commit(3, 1, 1), commit(4, 0, 1), commit(4, 1, 0)] {
        let refused = rig.coordinator.offer(&[commit(3, 0, 1), second]);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    assert_eq!(rig.coordinator.state(CommitSeq(3)), None);
    assert!(rig.coordinator.offer(&[]).unwrap().is_empty());
    assert!(matches!(rig.coordinator.commit(&[]), Err(Error::Invalid(_))));
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let io: Arc<MemoryRepairIo> = Arc::default();
    let usual = RepairConfig::default;
    let wrong = [
        RepairConfig {
            first_commit: CommitSeq(0),
            ..usual()
        },
        RepairConfig {
            queue_ranges: 0,
            ..usual()
        },
        RepairConfig {
            min_group: 0,
            ..usual()
        },
        RepairConfig {
            max_group: 15,
            ..usual()
        },
        RepairConfig {
            history: 0,
            ..usual()
        },
    ];
    for config in wrong {
        let refused = RepairCoordinator::without_repair(io.clone(), config.clone());
        assert!(matches!(refused, Err(Error::OutOfRange { .. })), "{config:?}");
    }
}
