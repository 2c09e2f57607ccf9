//! More commits than the background keeps up with, and from several threads.

use super::*;
use RepairState::{Completed, Failed, Pending};
use walmend_sync::thread;

fn repaired(rig: &Rig) -> Vec<SymbolRange> {
    rig.io.durable_repair().iter().map(|(range, _)| *range).collect()
}

/// Whether the ranges lie end to end from 0 to `end`, none longer than `longest`.
fn assert_cover(ranges: &[SymbolRange], end: u64, longest: u64) {
    let mut next = 0;
    for range in ranges {
        assert_eq!(range.start, next, "{ranges:?}");
        assert!(range.len() <= longest, "{range}");
        next = range.end;
    }
    assert_eq!(next, end);
}

#[test]
fn a_thousand_commits_over_a_repair_that_stands_still_never_block_and_widen_ranges() {
    let runtime = runtime();
    let config = RepairConfig {
        queue_ranges: 8,
        min_group: 1,
        ..RepairConfig::default()
    };
    let rig = rig(runtime.handle(), config);
    rig.generator.hold();
    rig.commit(b"first");
    rig.generator.wait_for_calls(1);
    for _ in 0..999 {
        assert!(rig.commit(b"more").repair_pending);
    }
    // Nothing has been repaired: had one commit waited for a repair, it would still be waiting.
    assert_eq!(rig.states(1..=1000), [Pending; 1000]);
    let metrics = rig.coordinator.metrics();
    assert_eq!((metrics.queue_depth, metrics.queue_high_water), (8, 8));
    assert_eq!((metrics.widened, metrics.lag_symbols), (991, 1000));
    assert_eq!((metrics.pending_commits, metrics.commits), (1000, 1000));
    assert!(metrics.lag > Duration::ZERO);
    assert_eq!(rig.io.counters().systematic_syncs, 1000);
    rig.generator.release();
    rig.settle();
    assert_eq!(rig.states(1..=1000), [Completed; 1000]);
    assert_cover(&repaired(&rig), 1000, 128);
    assert!(
        repaired(&rig).len() <= 1 + 8 + 8,
        "neighbours are joined into full groups"
    );
    let metrics = rig.coordinator.metrics();
    assert_eq!(
        (metrics.queue_depth, metrics.lag_symbols, metrics.lag),
        (0, 0, Duration::ZERO)
    );
    assert_eq!(metrics.window.samples, 1000);
}

#[test]
fn a_thousand_commits_over_a_slow_generator_all_end_completed() {
    let runtime = runtime();
    let config = RepairConfig {
        queue_ranges: 4,
        ..one_by_one()
    };
    let config = RepairConfig {
        max_group: 64,
        ..config
    };
    let rig = rig(runtime.handle(), config);
    rig.generator.set_delay(Duration::from_millis(1));
    for _ in 0..1000 {
        rig.commit(b"x");
    }
    rig.settle();
    assert_eq!(rig.states(1..=1000), [Completed; 1000]);
    assert!(rig.coordinator.metrics().queue_high_water <= 4);
    assert_cover(&repaired(&rig), 1000, 64);
}

#[test]
fn a_widened_range_keeps_its_commits_apart() {
    let runtime = runtime();
    let config = RepairConfig {
        queue_ranges: 1,
        max_group: 10,
        ..one_by_one()
    };
    let rig = rig(runtime.handle(), config);
    rig.generator.hold();
    rig.generator.fail_at(55, GeneratorFailure::Error(broken()));
    rig.commit(b"first");
    rig.generator.wait_for_calls(1);
    for _ in 1..100 {
        rig.commit(b"more");
    }
    rig.generator.release();
    rig.settle();
    // Commit n has symbol n - 1, and the groups are 0..1, 1..11, .., 51..61, ..
    let expected: Vec<_> = (1..=100)
        .map(|commit| {
            if (52..=61).contains(&commit) {
                Failed
            } else {
                Completed
            }
        })
        .collect();
    assert_eq!(rig.states(1..=100), expected);
}

#[test]
fn commits_that_the_history_has_forgotten_are_repaired_and_keep_their_states() {
    let runtime = runtime();
    let config = RepairConfig {
        queue_ranges: 2,
        max_group: 10,
        history: 5,
        ..one_by_one()
    };
    let rig = rig(runtime.handle(), config);
    rig.generator.hold();
    rig.commit(b"first");
    rig.generator.wait_for_calls(1);
    for _ in 1..200 {
        rig.commit(b"more");
    }
    assert_eq!(rig.states(1..=200), [Pending; 200]);
    rig.generator.release();
    rig.settle();
    assert_eq!(rig.states(1..=200), [Completed; 200]);
    assert_cover(&repaired(&rig), 200, 10);
    assert!(rig.coordinator.events(CommitSeq(195)).is_empty());
    assert_eq!(rig.kinds(196).last(), Some(&RepairEventKind::RepairCompleted));
    assert!(rig.coordinator.metrics().window.samples <= 5);
}

#[test]
fn a_full_queue_of_ranges_that_do_not_touch_fails_the_repair_of_a_new_one() {
    let runtime = runtime();
    let config = RepairConfig {
        queue_ranges: 2,
        ..one_by_one()
    };
    let rig = rig(runtime.handle(), config);
    rig.generator.hold();
    for _ in 0..100 {
        // So that every position can be read back.
        rig.io.append_systematic(CommitSeq(0), &[b"x"]).unwrap();
    }
    let offer = |number: u64, start| {
        let now = std::time::Instant::now();
        let commit = DurableCommit {
            commit_seq: CommitSeq(number),
            symbols: SymbolRange::new(start, 1),
            started: now,
            durable: now,
        };
        rig.coordinator.offer(&[commit]).unwrap()[0]
    };
    assert!(offer(1, 0).repair_pending);
    rig.generator.wait_for_calls(1);
    assert!(offer(2, 10).repair_pending && offer(3, 20).repair_pending);
    let refused = offer(4, 30);
    assert!(refused.durable && !refused.repair_pending);
    // The next to the last one in the queue still finds a range to widen.
    assert!(offer(5, 40).durable);
    assert_eq!(rig.states(1..=5), [Pending, Pending, Pending, Failed, Failed]);
    rig.generator.release();
    rig.settle();
    assert_eq!(
        rig.states(1..=5),
        [Completed, Completed, Completed, Failed, Failed]
    );
    assert!(offer(6, 50).repair_pending, "there is room again");
    rig.settle();
    assert_eq!(rig.states([6]), [Completed]);
}

#[test]
fn neighbours_in_a_full_queue_make_room_for_a_range_that_touches_none() {
    let runtime = runtime();
    let config = RepairConfig {
        queue_ranges: 2,
        ..one_by_one()
    };
    let rig = rig(runtime.handle(), config);
    rig.generator.hold();
    for _ in 0..100 {
        rig.io.append_systematic(CommitSeq(0), &[b"x"]).unwrap();
    }
    let now = std::time::Instant::now();
    let commits = |places: &[(u64, u64)]| -> Vec<DurableCommit> {
        let commit = |&(number, start)| DurableCommit {
            commit_seq: CommitSeq(number),
            symbols: SymbolRange::new(start, 1),
            started: now,
            durable: now,
        };
        places.iter().map(commit).collect()
    };
    rig.coordinator.offer(&commits(&[(1, 0)])).unwrap();
    rig.generator.wait_for_calls(1);
    rig.coordinator
        .offer(&commits(&[(2, 10), (3, 11), (4, 50)]))
        .unwrap();
    rig.generator.release();
    rig.settle();
    assert_eq!(rig.states(1..=4), [Completed; 4]);
    let starts: Vec<u64> = repaired(&rig).iter().map(|range| range.start).collect();
    assert_eq!(starts, [0, 10, 11, 50]);
}

#[test]
fn commits_from_several_threads_are_numbered_without_gap_and_all_repaired() {
    let runtime = runtime();
    let config = RepairConfig {
        queue_ranges: 4,
        ..RepairConfig::default()
    };
    let rig = rig(runtime.handle(), config);
    let mut receipts: Vec<(CommitReceipt, Vec<u8>)> = thread::scope(|scope| {
        let writer = |writer: u8| {
            let rig = &rig;
            move || {
                let commit = |number: u8| {
                    let symbol = vec![writer, number];
                    let symbols = vec![symbol.as_slice(); 1 + usize::from(number % 3)];
                    (rig.coordinator.commit(&symbols).unwrap(), symbol.clone())
                };
                (0..50).map(commit).collect::<Vec<_>>()
            }
        };
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(writer(number))).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    rig.settle();
    receipts.sort_by_key(|(receipt, _)| receipt.commit_seq);
    let stored = rig.io.systematic();
    let mut next = 0;
    for (number, (receipt, symbol)) in (1..).zip(&receipts) {
        assert_eq!(receipt.commit_seq, CommitSeq(number));
        assert_eq!(
            receipt.symbols.start, next,
            "positions are in the order of the numbers"
        );
        next = receipt.symbols.end;
        for position in receipt.symbols.start..receipt.symbols.end {
            assert_eq!(&stored[position as usize], symbol);
        }
        assert_eq!(rig.kinds(number).last(), Some(&RepairEventKind::RepairCompleted));
    }
    assert_eq!(receipts.len(), 400);
    assert_eq!(rig.states(1..=400), [Completed; 400]);
    assert_cover(&repaired(&rig), next, 128);
}

/// Nine commits of one symbol, each a group of its own, up to four of which share a sync; all have been committed
/// before the first repair.
fn nine_in_syncs_of_four(prepare: impl FnOnce(&Rig)) -> Rig {
    let runtime = undriven();
    let config = RepairConfig {
        groups_per_sync: 4,
        ..one_by_one()
    };
    let rig = rig(runtime.handle(), config);
    for symbol in 0..9_u8 {
        rig.commit(&[symbol]);
    }
    prepare(&rig);
    runtime.block_on(rig.coordinator.repaired());
    rig
}

#[test]
fn groups_that_wait_together_share_a_sync() {
    let rig = nine_in_syncs_of_four(|_| {});
    assert_eq!(rig.states(1..=9), [Completed; 9]);
    assert_cover(&repaired(&rig), 9, 1);
    assert_eq!(rig.io.counters().repair_syncs, 3);
    assert_eq!(rig.coordinator.metrics().groups, 9);
}

#[test]
fn a_shared_sync_that_fails_is_made_up_for_group_by_group() {
    let rig = nine_in_syncs_of_four(|rig| {
        rig.io
            .fail_next(RepairIoFailure::Error(RepairIoCall::SyncRepair, broken()))
    });
    assert_eq!(rig.states(1..=9), [Completed; 9]);
    // The first four are appended once more, each with a sync of its own.
    assert_eq!(rig.io.counters().repair_appends, 9 + 4);
    assert_eq!(rig.io.counters().repair_syncs, 3 + 4);
}

#[test]
fn a_group_that_fails_leaves_those_that_share_its_sync_alone() {
    let rig = nine_in_syncs_of_four(|rig| rig.generator.fail_at(2, GeneratorFailure::Panic));
    let mut states = [Completed; 9];
    states[2] = Failed;
    assert_eq!(rig.states(1..=9), states);
    assert_eq!(rig.io.counters().repair_syncs, 3);
}

#[test]
fn what_has_left_the_storage_is_completed_without_repair_symbols_and_the_rest_with_them() {
    let runtime = undriven();
    let rig = rig(runtime.handle(), one_by_one());
    for symbol in 0..5_u8 {
        rig.commit(&[symbol]);
    }
    rig.coordinator.left_before(3);
    assert_eq!(
        rig.states(1..=5),
        [Completed, Completed, Completed, Pending, Pending]
    );
    assert_eq!(rig.coordinator.pending_count(), 2);
    runtime.block_on(rig.coordinator.repaired());
    assert_eq!(rig.states(1..=5), [Completed; 5]);
    assert_eq!(repaired(&rig), [SymbolRange::new(3, 1), SymbolRange::new(4, 1)]);
    assert_eq!(rig.coordinator.metrics().groups_left, 3);
}
