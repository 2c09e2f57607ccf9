//! [`Stats`] for whatever collects numbers, through the `metrics` facade (feature `metrics`).

use crate::stats::{RepairStats, Stats};
use metrics::{counter, gauge};

impl Stats {
    /// Hands every number to the recorder that the program has installed: what only grows as a counter, whose name
    /// ends in `_total`, everything else as a gauge, times in seconds. `database` becomes the label of that name.
    ///
    /// Nothing is recorded by itself: call it before each scrape, or every few seconds. Without a recorder it does
    /// nothing.
    pub fn record(&self, database: &str) {
        let total = |name: &'static str, value: u64| {
            counter!(name, "database" => database.to_owned()).absolute(value);
        };
        let now = |name: &'static str, value: f64| gauge!(name, "database" => database.to_owned()).set(value);
        total("walmend_commits_total", self.commits);
        total("walmend_batches_total", self.batches);
        total("walmend_syncs_total", self.syncs);
        total("walmend_conflicts_total", self.conflicts);
        total("walmend_failed_total", self.failed);
        total("walmend_mended_frames_total", self.mended_frames);
        total("walmend_automatic_checkpoints_total", self.automatic_checkpoints);
        now(
            "walmend_checkpoint_blocked",
            f64::from(u8::from(self.checkpoint_blocked.is_some())),
        );
        now("walmend_channel_occupancy", self.occupancy as f64);
        now("walmend_channel_capacity", self.capacity as f64);
        now("walmend_log_frames", self.log_frames.into());
        now("walmend_log_backfilled_frames", self.backfilled_frames.into());
        now("walmend_log_bytes", self.log_bytes as f64);
        now("walmend_db_pages", self.db_pages.into());
        now("walmend_commit_seq", self.commit_seq.0 as f64);
        now("walmend_readers", self.readers as f64);
        now("walmend_poisoned", f64::from(u8::from(self.poisoned.is_some())));
        if let Some(repair) = &self.repair {
            record_repair(repair, total, now);
        }
    }
}

fn record_repair(stats: &RepairStats, total: impl Fn(&'static str, u64), now: impl Fn(&'static str, f64)) {
    total("walmend_repair_completed_commits_total", stats.completed_commits);
    total("walmend_repair_failed_commits_total", stats.failed_commits);
    total("walmend_repair_groups_total", stats.groups);
    total("walmend_repair_groups_left_total", stats.groups_left);
    total("walmend_repair_failed_groups_total", stats.failed_groups);
    total("walmend_repair_retries_total", stats.retries);
    total("walmend_repair_frame_bytes_total", stats.frame_bytes);
    total("walmend_repair_parity_bytes_total", stats.parity_bytes);
    now("walmend_repair_queue_depth", stats.queue_depth as f64);
    now("walmend_repair_pending_commits", stats.pending_commits as f64);
    now("walmend_repair_lag_frames", stats.lag_frames as f64);
    now("walmend_repair_lag_seconds", stats.lag.as_secs_f64());
    now(
        "walmend_repair_window_p50_seconds",
        stats.window_p50.as_secs_f64(),
    );
    now(
        "walmend_repair_window_p99_seconds",
        stats.window_p99.as_secs_f64(),
    );
    now(
        "walmend_repair_window_max_seconds",
        stats.window_max.as_secs_f64(),
    );
}

#[cfg(test)]
mod tests {
    use crate::{Options, PageNumber, Store};
    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use walmend_sync::Mutex;

    type Values = Arc<Mutex<BTreeMap<String, f64>>>;

    /// Keeps the last value of each name, with its labels.
    #[derive(Default)]
    struct Last(Values);

    struct Cell(String, Values);

    impl Cell {
        fn of(key: &Key, values: &Values) -> Arc<Self> {
            let labels: Vec<_> = key
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            Arc::new(Self(
                format!("{} {}", key.name(), labels.join(" ")),
                Arc::clone(values),
            ))
        }
    }

    impl CounterFn for Cell {
        fn increment(&self, _: u64) {
            unreachable!("totals are absolute");
        }
        fn absolute(&self, value: u64) {
            self.1.lock().insert(self.0.clone(), value as f64);
        }
    }

    impl GaugeFn for Cell {
        fn increment(&self, _: f64) {
            unreachable!("gauges are set");
        }
        fn decrement(&self, _: f64) {
            unreachable!("gauges are set");
        }
        fn set(&self, value: f64) {
            self.1.lock().insert(self.0.clone(), value);
        }
    }

    impl Recorder for Last {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Cell::of(key, &self.0))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Cell::of(key, &self.0))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn the_numbers_of_a_store_reach_the_recorder_under_its_label() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path().join("a.db"), Options::new()).unwrap();
        for value in 0..3 {
            let mut txn = store.begin().unwrap();
            txn.write(PageNumber::ONE, vec![value; 4096]).unwrap();
            assert!(txn.commit().is_committed());
        }
        let stats = store.stats();
        let recorder = Last::default();
        metrics::with_local_recorder(&recorder, || stats.record("a"));
        let values = recorder.0.lock();
        assert_eq!(values["walmend_commits_total database=a"], 3.0);
        assert_eq!(values["walmend_log_frames database=a"], 3.0);
        assert_eq!(values["walmend_poisoned database=a"], 0.0);
        let repair = values.keys().filter(|name| name.contains("_repair_")).count();
        assert_eq!(repair > 0, stats.repair.is_some());
    }
}
