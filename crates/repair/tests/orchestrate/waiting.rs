//! R4: counting, waiting, dropping.

use super::*;
use RepairState::{Completed, Pending};
use std::future::Future;
use std::task::{Context, Waker};
use tracing::span;
use walmend_sync::Mutex;

const SHORT: Duration = Duration::from_millis(10);

#[test]
fn waiting_on_a_runtime_that_nobody_drives_is_an_error_at_the_deadline() {
    let runtime = undriven();
    let rig = rig(runtime.handle(), one_by_one());
    rig.commit(b"a");
    let waited = rig.coordinator.wait_for_background_repair(SHORT);
    assert!(
        matches!(waited, Err(Error::DeadlineExceeded { waited_ms }) if waited_ms >= 10),
        "{waited:?}"
    );
    assert_eq!(
        (rig.coordinator.pending_count(), rig.states([1])),
        (1, vec![Pending])
    );
    // Driven at last, it catches up.
    runtime.block_on(rig.coordinator.repaired());
    assert_eq!(
        (rig.coordinator.pending_count(), rig.states([1])),
        (0, vec![Completed])
    );
}

#[test]
fn waiting_with_nothing_pending_returns_at_once() {
    let runtime = undriven();
    let rig = rig(runtime.handle(), one_by_one());
    rig.coordinator
        .wait_for_background_repair(Duration::ZERO)
        .unwrap();
    runtime.block_on(rig.coordinator.repaired());
}

#[test]
fn waiting_does_not_wait_for_what_is_committed_later() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    rig.generator.hold();
    rig.commit(b"a");
    let mut waiting = std::pin::pin!(rig.coordinator.repaired());
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    rig.commit(b"b");
    rig.generator.release_one();
    walmend_sync::block_on(waiting);
    assert_eq!(rig.states(1..=2), [Completed, Pending]);
    rig.generator.release();
}

#[test]
fn waiting_ends_a_group_that_still_waits_to_fill() {
    let runtime = runtime();
    let config = RepairConfig {
        linger: LONG * 60,
        ..RepairConfig::default()
    };
    let rig = rig(runtime.handle(), config);
    rig.commit(b"a");
    rig.settle();
    rig.commit(b"b");
    runtime.block_on(rig.coordinator.repaired());
    assert_eq!(rig.io.durable_repair().len(), 2);
}

#[test]
fn a_group_waits_until_it_is_full_or_its_time_is_up() {
    let runtime = runtime();
    let config = |linger| RepairConfig {
        min_group: 3,
        linger,
        ..RepairConfig::default()
    };
    let full = rig(runtime.handle(), config(LONG * 60));
    for symbol in [b"a", b"b", b"c"] {
        full.commit(symbol);
    }
    full.generator.wait_for_calls(1);
    assert_eq!(full.generator.calls(), [SymbolRange::new(0, 3)]);
    let timed = rig(runtime.handle(), config(SHORT));
    timed.commit(b"a");
    timed.generator.wait_for_calls(1);
    assert_eq!(timed.generator.calls(), [SymbolRange::new(0, 1)]);
}

#[test]
fn dropping_the_coordinator_waits_for_what_is_pending() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    rig.generator.set_delay(Duration::from_millis(2));
    for _ in 0..20 {
        rig.commit(b"a");
    }
    let Rig { io, coordinator, .. } = rig;
    drop(coordinator);
    assert_eq!(io.durable_repair().len(), 20);
}

#[test]
fn dropping_the_coordinator_over_a_runtime_that_nobody_drives_ends_at_its_deadline() {
    let runtime = undriven();
    let config = RepairConfig {
        drop_timeout: SHORT,
        ..one_by_one()
    };
    let rig = rig(runtime.handle(), config);
    rig.commit(b"a");
    let Rig { io, coordinator, .. } = rig;
    drop(coordinator);
    assert!(io.durable_repair().is_empty());
}

#[test]
fn dropping_the_coordinator_inside_a_runtime_detaches_and_the_repair_goes_on() {
    let runtime = undriven();
    let rig = rig(runtime.handle(), one_by_one());
    for _ in 0..3 {
        rig.commit(b"a");
    }
    let Rig {
        io,
        generator,
        coordinator,
    } = rig;
    let warnings = Warnings::default();
    runtime.block_on(async {
        // Waiting here could never end: nobody else drives this runtime.
        tracing::subscriber::with_default(warnings.clone(), || drop(coordinator));
        assert_eq!(*warnings.0.lock(), ["walmend::repair::coordinator"]);
        assert!(io.durable_repair().is_empty());
        while io.durable_repair().len() < 3 {
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(generator.calls().len(), 3);
}

#[test]
fn many_threads_and_futures_can_wait_at_once() {
    let runtime = runtime();
    let rig = rig(runtime.handle(), one_by_one());
    rig.generator.hold();
    for _ in 0..10 {
        rig.commit(b"a");
    }
    walmend_sync::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| rig.settle())).collect();
        let futures: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| walmend_sync::block_on(rig.coordinator.repaired())))
            .collect();
        rig.generator.release();
        for waiter in threads.into_iter().chain(futures) {
            waiter.join().unwrap();
        }
    });
    assert_eq!(rig.states(1..=10), [Completed; 10]);
}

#[test]
fn a_coordinator_can_be_shared_and_sent_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<RepairCoordinator>();
    shared::<MemoryRepairIo>();
    shared::<MemoryGenerator>();
}

/// Keeps the targets of warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        self.0.lock().push(event.metadata().target().into());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
