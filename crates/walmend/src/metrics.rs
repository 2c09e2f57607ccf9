//! [`Stats`] for whatever collects numbers, through the `metrics` facade (feature `metrics`).

use crate::stats::{ProtectionStats, RepairStats, ScrubStats, Stats};
use metrics::{counter, gauge};
use walmend_wal::LogIo;

impl Stats {
    /// Hands every number to the recorder that the program has installed: what only grows as a counter, whose name
    /// ends in `_total`, everything else as a gauge, times in seconds. `database` becomes the label of that name.
    ///
    /// Nothing is recorded by itself: call it before each scrape, or every few seconds. Without a recorder it does
    /// nothing.
    pub fn record(&self, database: &str) {
        let series = Series(database);
        // Every field is named, so that a new one cannot be forgotten.
        let Self {
            commits,
            batches,
            syncs,
            conflicts,
            failed,
            occupancy,
            capacity,
            log_frames,
            backfilled_frames,
            log_bytes,
            db_pages,
            commit_seq,
            readers,
            mended_frames,
            log_io,
            oldest_reader,
            automatic_checkpoints,
            checkpoint_blocked,
            poisoned,
            repair,
            protection,
        } = self;
        series.total("walmend_commits_total", *commits);
        series.total("walmend_batches_total", *batches);
        series.total("walmend_syncs_total", *syncs);
        series.total("walmend_conflicts_total", *conflicts);
        series.total("walmend_failed_total", *failed);
        series.total("walmend_mended_frames_total", *mended_frames);
        series.total("walmend_automatic_checkpoints_total", *automatic_checkpoints);
        series.now("walmend_channel_occupancy", *occupancy as f64);
        series.now("walmend_channel_capacity", *capacity as f64);
        series.now("walmend_log_frames", f64::from(*log_frames));
        series.now("walmend_log_backfilled_frames", f64::from(*backfilled_frames));
        series.now("walmend_log_bytes", *log_bytes as f64);
        series.flag("walmend_log_direct", *log_io == LogIo::Direct);
        series.now("walmend_db_pages", f64::from(*db_pages));
        series.now("walmend_commit_seq", commit_seq.0 as f64);
        series.now("walmend_readers", *readers as f64);
        // Without a reader nobody holds the log up: 0, and no commit behind.
        let age = oldest_reader.map_or(0.0, |reader| reader.age.as_secs_f64());
        let behind = oldest_reader.map_or(0, |reader| commit_seq.0.saturating_sub(reader.commit_seq.0));
        series.now("walmend_oldest_reader_seconds", age);
        series.now("walmend_oldest_reader_commits_behind", behind as f64);
        series.flag("walmend_checkpoint_blocked", checkpoint_blocked.is_some());
        let since = checkpoint_blocked
            .as_ref()
            .map_or(0.0, |blocked| blocked.since.as_secs_f64());
        series.now("walmend_checkpoint_blocked_seconds", since);
        series.flag("walmend_poisoned", poisoned.is_some());
        if let Some(repair) = repair {
            series.repair(repair);
        }
        if let Some(protection) = protection {
            series.protection(protection);
        }
    }
}

/// The series of one database.
struct Series<'a>(&'a str);

impl Series<'_> {
    fn total(&self, name: &'static str, value: u64) {
        counter!(name, "database" => self.0.to_owned()).absolute(value);
    }

    fn now(&self, name: &'static str, value: f64) {
        gauge!(name, "database" => self.0.to_owned()).set(value);
    }

    fn flag(&self, name: &'static str, value: bool) {
        self.now(name, f64::from(u8::from(value)));
    }

    fn repair(&self, stats: &RepairStats) {
        let RepairStats {
            queue_depth,
            pending_commits,
            completed_commits,
            failed_commits,
            lag_frames,
            lag,
            groups,
            groups_left,
            failed_groups,
            retries,
            frame_bytes,
            parity_bytes,
            // A text; that there was one shows in the retries.
            last_failure: _,
            window_p50,
            window_p99,
            window_max,
        } = stats;
        self.total("walmend_repair_completed_commits_total", *completed_commits);
        self.total("walmend_repair_failed_commits_total", *failed_commits);
        self.total("walmend_repair_groups_total", *groups);
        self.total("walmend_repair_groups_left_total", *groups_left);
        self.total("walmend_repair_failed_groups_total", *failed_groups);
        self.total("walmend_repair_retries_total", *retries);
        self.total("walmend_repair_frame_bytes_total", *frame_bytes);
        self.total("walmend_repair_parity_bytes_total", *parity_bytes);
        self.now("walmend_repair_queue_depth", *queue_depth as f64);
        self.now("walmend_repair_pending_commits", *pending_commits as f64);
        self.now("walmend_repair_lag_frames", *lag_frames as f64);
        self.now("walmend_repair_lag_seconds", lag.as_secs_f64());
        self.now("walmend_repair_window_p50_seconds", window_p50.as_secs_f64());
        self.now("walmend_repair_window_p99_seconds", window_p99.as_secs_f64());
        self.now("walmend_repair_window_max_seconds", window_max.as_secs_f64());
    }

    fn protection(&self, stats: &ProtectionStats) {
        let ProtectionStats {
            in_step,
            damaged_pages,
            lost_pages,
            healed_pages,
            scrub,
        } = stats;
        self.flag("walmend_protection_in_step", *in_step);
        self.now("walmend_protection_damaged_pages", damaged_pages.len() as f64);
        self.now("walmend_protection_lost_pages", lost_pages.len() as f64);
        self.total("walmend_protection_healed_pages_total", *healed_pages);
        let Some(ScrubStats {
            passes,
            pass_bytes,
            bytes,
            healed_pages,
            paused,
            last_failure,
        }) = scrub
        else {
            return;
        };
        self.total("walmend_scrub_passes_total", *passes);
        self.total("walmend_scrub_bytes_total", *bytes);
        self.total("walmend_scrub_healed_pages_total", *healed_pages);
        self.now("walmend_scrub_pass_bytes", *pass_bytes as f64);
        self.flag("walmend_scrub_paused", *paused);
        self.flag("walmend_scrub_failing", last_failure.is_some());
    }
}

#[cfg(test)]
mod tests {
    use crate::{Options, PageNumber, Store};
    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };
    use std::collections::BTreeMap;
    use std::sync::Arc;
    #[cfg(feature = "repair")]
    use std::{collections::BTreeSet, time::Duration};
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
        let snapshot = store.snapshot().unwrap();
        let mut txn = store.begin().unwrap();
        txn.write(PageNumber::ONE, vec![9; 4096]).unwrap();
        assert!(txn.commit().is_committed());
        let stats = store.stats();
        drop(snapshot);
        let recorder = Last::default();
        metrics::with_local_recorder(&recorder, || stats.record("a"));
        let values = recorder.0.lock();
        assert_eq!(values["walmend_commits_total database=a"], 4.0);
        assert_eq!(values["walmend_log_frames database=a"], 4.0);
        assert_eq!(values["walmend_poisoned database=a"], 0.0);
        assert!(values["walmend_oldest_reader_seconds database=a"] > 0.0);
        assert_eq!(values["walmend_oldest_reader_commits_behind database=a"], 1.0);
        let repair = values.keys().filter(|name| name.contains("_repair_")).count();
        assert_eq!(repair > 0, stats.repair.is_some());
    }

    #[cfg(feature = "repair")]
    #[test]
    fn every_series_is_documented_and_every_documented_one_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::new()
            .protect_database(true)
            .scrub(1 << 20, Duration::from_secs(3600));
        let (store, _) = Store::open(folder.path().join("a.db"), options).unwrap();
        let mut txn = store.begin().unwrap();
        txn.write(PageNumber::ONE, vec![1; 4096]).unwrap();
        assert!(txn.commit().is_committed());
        store.checkpoint(crate::CheckpointMode::Truncate).unwrap();
        let stats = store.stats();
        assert!(
            stats
                .protection
                .as_ref()
                .is_some_and(|stats| stats.scrub.is_some())
        );
        let recorder = Last::default();
        metrics::with_local_recorder(&recorder, || stats.record("a"));
        let values = recorder.0.lock();
        let recorded: BTreeSet<&str> = values.keys().filter_map(|key| key.split(' ').next()).collect();

        let document = include_str!("../../../docs/observability.md");
        let rows = document.lines().filter(|line| line.starts_with("| `walmend_"));
        let documented: BTreeSet<&str> = rows
            .flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
            .collect();
        assert_eq!(recorded, documented);
    }
}
