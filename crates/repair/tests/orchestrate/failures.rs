//! R7: what fails in one repair, and the failures of the critical path.

use super::*;
use RepairState::{Completed, Failed};

/// Commits five symbols one by one, where the repair of the third fails for good.
fn third_of_five_fails(failure: GeneratorFailure) -> Rig {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    rig.generator.fail_at(2, failure);
    for symbol in [b"a", b"b", b"c", b"d", b"e"] {
        assert!(rig.commit(symbol).durable);
    }
    rig.settle();
    rig
}

#[test]
fn a_generator_that_fails_fails_its_own_repair_and_no_other() {
    let rig = third_of_five_fails(GeneratorFailure::Error(broken()));
    assert_eq!(
        rig.states(1..=5),
        [Completed, Completed, Failed, Completed, Completed]
    );
    let metrics = rig.coordinator.metrics();
    assert_eq!((metrics.groups, metrics.failed_groups), (4, 1));
    assert_eq!((metrics.completed_commits, metrics.failed_commits), (4, 1));
    assert!(metrics.last_failure.unwrap().to_string().contains("told to fail"));
}

#[test]
fn a_generator_that_panics_fails_its_own_repair_and_no_other() {
    let rig = third_of_five_fails(GeneratorFailure::Panic);
    assert_eq!(
        rig.states(1..=5),
        [Completed, Completed, Failed, Completed, Completed]
    );
    let failure = rig.coordinator.metrics().last_failure.unwrap().to_string();
    assert!(failure.contains("panic in a repair"), "{failure}");
}

#[test]
fn a_repair_is_tried_again_as_often_as_configured_and_no_more() {
    for (failures, retries, state) in [
        (2, 2, Completed),
        (3, 2, Failed),
        (1, 0, Failed),
        (0, 0, Completed),
    ] {
        let runtime = runtime();
        let rig = rig(
            runtime.handle(),
            RepairConfig {
                retries,
                ..one_by_one()
            },
        );
        for _ in 0..failures {
            rig.generator.fail_next(GeneratorFailure::Error(broken()));
        }
        rig.commit(b"one");
        rig.settle();
        assert_eq!(rig.states([1]), [state], "{failures} failures, {retries} retries");
        let tried = (failures + 1).min(retries + 1);
        assert_eq!(rig.generator.calls().len(), tried as usize);
        assert_eq!(rig.coordinator.metrics().retries, u64::from(tried) - 1);
    }
}

#[test]
fn storage_that_fails_once_in_the_background_costs_an_attempt() {
    for call in [
        RepairIoCall::ReadSystematic,
        RepairIoCall::AppendRepair,
        RepairIoCall::SyncRepair,
    ] {
        for failure in [
            RepairIoFailure::Error(call, broken()),
            RepairIoFailure::Panic(call),
        ] {
            let runtime = runtime();
            let rig = rig(runtime.handle(), one_by_one());
            rig.io.fail_next(failure);
            rig.commit(b"one");
            rig.settle();
            assert_eq!(rig.states([1]), [Completed], "{call:?}");
            assert_eq!(rig.coordinator.metrics().retries, 1);
            // After a failed sync the symbols are appended once more: the sync may have lost the first ones.
            let appends = if call == RepairIoCall::ReadSystematic {
                1
            } else {
                2
            };
            assert_eq!(rig.io.counters().repair_appends, appends, "{call:?}");
        }
    }
}

#[test]
fn storage_that_keeps_failing_fails_one_repair_and_the_next_succeeds() {
    let runtime = runtime();
    let rig = rig(
        runtime.handle(),
        RepairConfig {
            retries: 1,
            ..one_by_one()
        },
    );
    for _ in 0..2 {
        rig.io
            .fail_next(RepairIoFailure::Error(RepairIoCall::SyncRepair, broken()));
    }
    rig.commit(b"one");
    rig.settle();
    rig.commit(b"two");
    rig.settle();
    assert_eq!(rig.states(1..=2), [Failed, Completed]);
}

#[test]
fn commits_of_one_group_share_its_fate_and_those_of_the_next_do_not() {
    let runtime = runtime();
    let rig = rig(
        runtime.handle(),
        RepairConfig {
            max_group: 2,
            ..one_by_one()
        },
    );
    rig.generator.hold();
    rig.generator.fail_at(2, GeneratorFailure::Panic);
    for symbol in [b"a", b"b", b"c", b"d", b"e"] {
        rig.commit(symbol);
        rig.generator.wait_for_calls(1); // the first is on its way alone; the others pair up
    }
    rig.generator.release();
    rig.settle();
    assert_eq!(
        rig.states(1..=5),
        [Completed, Failed, Failed, Completed, Completed]
    );
}

#[test]
fn a_commit_larger_than_a_group_is_repaired_in_pieces_and_failed_if_one_of_them_fails() {
    let runtime = runtime();
    let config = RepairConfig {
        max_group: 2,
        retries: 0,
        ..one_by_one()
    };
    let rig = rig(runtime.handle(), config);
    rig.generator.fail_at(3, GeneratorFailure::Error(broken()));
    rig.coordinator.commit(&[b"a", b"b", b"c", b"d", b"e"]).unwrap();
    rig.commit(b"f");
    rig.settle();
    assert_eq!(rig.states(1..=2), [Failed, Completed]);
    let repaired: Vec<_> = rig.io.durable_repair().iter().map(|(range, _)| *range).collect();
    assert_eq!(
        repaired,
        [(0, 2), (4, 1), (5, 1)].map(|(start, count)| SymbolRange::new(start, count))
    );
}

#[test]
fn an_append_that_fails_commits_nothing_and_writing_goes_on() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    rig.io
        .fail_next(RepairIoFailure::Error(RepairIoCall::AppendSystematic, broken()));
    let failed = rig.coordinator.commit(&[b"lost"]);
    assert!(matches!(failed, Err(Error::NotCommitted { .. })), "{failed:?}");
    assert_eq!(
        rig.io.counters().systematic_syncs,
        0,
        "nothing was there to be synced"
    );
    assert!(rig.coordinator.events(CommitSeq(1)).is_empty());
    assert_eq!(
        rig.commit(b"kept").commit_seq,
        CommitSeq(1),
        "the number was not used up"
    );
}

#[test]
fn a_sync_that_fails_leaves_the_outcome_unknown_and_ends_writing() {
    for failure in [
        RepairIoFailure::Error(RepairIoCall::SyncSystematic, broken()),
        RepairIoFailure::Panic(RepairIoCall::SyncSystematic),
        RepairIoFailure::Panic(RepairIoCall::AppendSystematic),
        RepairIoFailure::WrongPositions,
    ] {
        let runtime = runtime();
        let rig = rig(runtime.handle(), one_by_one());
        rig.commit(b"before");
        rig.io.fail_next(failure.clone());
        let unknown = rig.coordinator.commit(&[b"x"]);
        assert!(
            matches!(unknown, Err(Error::OutcomeUnknown { .. })),
            "{failure:?}: {unknown:?}"
        );
        let refused = rig.coordinator.commit(&[b"after"]);
        assert!(
            matches!(refused, Err(Error::Poisoned { .. })),
            "{failure:?}: {refused:?}"
        );
        assert_eq!(rig.coordinator.state(CommitSeq(2)), None);
        rig.settle();
        assert_eq!(
            rig.states([1]),
            [Completed],
            "what was durable before is still repaired"
        );
    }
}
