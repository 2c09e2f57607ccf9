//! R6: the runtime is the caller's, and can go away.

use super::*;
use RepairEventKind::*;
use RepairState::{Completed, Failed, Pending};

#[test]
fn after_the_runtime_was_shut_down_a_commit_is_durable_and_its_repair_failed_and_not_pending() {
    for runtime in [runtime(), undriven()] {
        let rig = rig(runtime.handle(), one_by_one());
        // Not shutdown_background: with threads of its own it can still accept, and cancel, a task right after.
        drop(runtime);
        for commit in 1..=2 {
            let receipt = rig.commit(b"durable all the same");
            assert!(receipt.durable && !receipt.repair_pending);
            assert_eq!(rig.states([commit]), [Failed]);
            assert_eq!(
                rig.kinds(commit),
                [CommitDurable, DurableButNotRepairable, CommitAcked, RepairFailed]
            );
        }
        assert_eq!(rig.coordinator.pending_count(), 0);
        rig.settle();
        assert_eq!(rig.io.systematic().len(), 2);
        assert!(rig.generator.calls().is_empty());
    }
}

#[test]
fn a_shutdown_during_a_repair_fails_what_waits_and_the_group_in_work_ends_as_it_ends() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    rig.generator.hold();
    for symbol in [b"a", b"b", b"c"] {
        assert!(rig.commit(symbol).repair_pending);
    }
    rig.generator.wait_for_calls(1);
    runtime.shutdown_background();
    // The task is dropped by another thread: it has happened when only the group in work is left.
    while rig.coordinator.pending_count() > 1 {
        walmend_sync::thread::yield_now();
    }
    assert_eq!(rig.states(1..=3), [Pending, Failed, Failed]);
    let late = rig.commit(b"d");
    assert!(late.durable && !late.repair_pending);
    rig.generator.release();
    rig.settle();
    assert_eq!(rig.states(1..=4), [Completed, Failed, Failed, Failed]);
    assert_eq!(rig.io.durable_repair().len(), 1);
}

#[test]
fn a_shutdown_ends_the_pause_before_a_retry() {
    let runtime = runtime();
    let config = RepairConfig {
        backoff: LONG,
        retries: u32::MAX,
        ..one_by_one()
    };
    let rig = rig(runtime.handle(), config);
    rig.generator.fail_at(0, GeneratorFailure::Error(broken()));
    rig.commit(b"a");
    rig.generator.wait_for_calls(1);
    drop(runtime); // waits for its blocking threads: would not come back while retries go on
    assert_eq!(rig.states([1]), [Failed]);
    assert_eq!(rig.coordinator.pending_count(), 0);
}

#[test]
fn a_runtime_that_goes_without_ever_having_run_fails_what_was_pending() {
    let runtime = undriven();
    let rig = rig(runtime.handle(), one_by_one());
    assert!(
        rig.commit(b"a").repair_pending,
        "handed over: nobody knows yet that it will not run"
    );
    assert_eq!(rig.states([1]), [Pending]);
    drop(runtime);
    assert_eq!(rig.states([1]), [Failed]);
    rig.settle();
    assert_eq!(
        rig.kinds(1),
        [CommitDurable, DurableButNotRepairable, CommitAcked, RepairFailed]
    );
}

#[test]
fn an_offer_to_a_runtime_that_is_gone_has_receipts_without_pending_repairs() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    drop(runtime);
    let now = std::time::Instant::now();
    let commits = [1, 2].map(|number| DurableCommit {
        commit_seq: CommitSeq(number),
        symbols: SymbolRange::new(number, 1),
        started: now,
        durable: now,
    });
    let receipts = rig.coordinator.offer(&commits).unwrap();
    assert!(
        receipts
            .iter()
            .all(|receipt| receipt.durable && !receipt.repair_pending)
    );
    assert_eq!(rig.states(1..=2), [Failed; 2]);
}

#[test]
fn a_shutdown_while_threads_commit_leaves_every_commit_durable_and_nothing_pending() {
    for round in 0..20 {
        let runtime = runtime();
        let config = RepairConfig {
            queue_ranges: 2,
            ..one_by_one()
        };
        let rig = rig(runtime.handle(), config);
        let receipts: Vec<CommitReceipt> = walmend_sync::thread::scope(|scope| {
            let writer = || (0..100).map(|_| rig.commit(b"x")).collect::<Vec<_>>();
            let writers: Vec<_> = (0..3).map(|_| scope.spawn(writer)).collect();
            rig.generator.wait_for_calls(1 + round);
            drop(runtime);
            writers
                .into_iter()
                .flat_map(|writer| writer.join().unwrap())
                .collect()
        });
        rig.settle();
        assert_eq!((receipts.len(), rig.coordinator.pending_count()), (300, 0));
        for receipt in receipts {
            let state = rig.states([receipt.commit_seq.0])[0];
            assert!(receipt.durable && state != Pending);
            assert!(
                receipt.repair_pending || state == Failed,
                "{receipt:?} is {state:?}"
            );
        }
        assert_eq!(rig.io.systematic().len(), 300);
    }
}
