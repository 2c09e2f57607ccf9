//! What a bench says: a table and bars for people, one object for scripts, a picture for documents.

use crate::bars::{Bar, Bars};
use crate::format::{Align, Table, count, number};
use crate::output::Output;
use crate::svg::{Chart, Series};
use serde::Serialize;
use std::fmt::Write;

/// The report, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) pages_per_commit: u32,
    pub(super) page_size: u32,
    pub(super) seconds: f64,
    /// The writers were tasks, not threads.
    #[serde(rename = "async")]
    pub(super) tasks: bool,
    pub(super) in_memory: bool,
    pub(super) rows: Vec<Row>,
}

/// One number of writers. Rates are medians over the windows, latencies are over all commits.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) writers: u32,
    pub(super) commits_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
    pub(super) syncs_per_commit: f64,
    /// The better one of the two ways to write.
    pub(super) raw_commits_per_second: f64,
    pub(super) ratio: f64,
    pub(super) raw_kind: &'static str,
    pub(super) raw_buffered_commits_per_second: f64,
    /// `None` where the file system has no O_DIRECT.
    pub(super) raw_direct_commits_per_second: Option<f64>,
    /// Commits of the writer with the fewest, over those of the writer with the most.
    pub(super) least_over_most: f64,
}

impl Report {
    pub(super) fn text(&self, out: &Output) -> String {
        let kind = if self.tasks { "tasks" } else { "threads" };
        let mut text = format!(
            "{} {}\n\n",
            out.strong("walmend bench"),
            out.faint(&format!(
                "{kind}, {} of {} bytes per commit, {} s per row",
                count(self.pages_per_commit, "page"),
                number(self.page_size),
                self.seconds
            ))
        );
        let mut table = Table::new([
            ("writers", Align::Right),
            ("commits/s", Align::Right),
            ("p50 us", Align::Right),
            ("p99 us", Align::Right),
            ("max us", Align::Right),
            ("syncs/commit", Align::Right),
            ("raw limit/s", Align::Right),
            ("ratio", Align::Right),
            ("least/most", Align::Right),
        ]);
        for row in &self.rows {
            table.row([
                number(row.writers),
                rounded(row.commits_per_second),
                rounded(row.p50_us),
                rounded(row.p99_us),
                rounded(row.max_us),
                format!("{:.3}", row.syncs_per_commit),
                format!("{} {}", rounded(row.raw_commits_per_second), row.raw_kind),
                format!("{:.2}", row.ratio),
                format!("{:.2}", row.least_over_most),
            ]);
        }
        text.push_str(&table.text(out));
        let _ = write!(text, "\n{}", self.bars().text(out));
        if self.in_memory {
            text.push_str(
                "\nThe folder is in memory, where syncs are free: with --dir on a disk they are real.\n",
            );
        }
        text
    }

    /// For each row the commits, and, fainter, what is left to the raw limit.
    fn bars(&self) -> Bars {
        let bar = |row: &Row| Bar {
            label: number(row.writers),
            strong: row.commits_per_second,
            faint: row.raw_commits_per_second,
            note: rounded(row.commits_per_second),
        };
        Bars {
            across: "writers",
            strong: "commits/s",
            faint: "raw limit",
            bars: self.rows.iter().map(bar).collect(),
        }
    }

    pub(super) fn chart(&self) -> Chart {
        let series = |name: &str, rate: fn(&Row) -> f64| Series {
            name: name.into(),
            values: self.rows.iter().map(|row| Some(rate(row))).collect(),
        };
        Chart {
            title: "Durable commits per second".into(),
            across: "writers".into(),
            labels: self.rows.iter().map(|row| row.writers.to_string()).collect(),
            series: vec![
                series("walmend", |row| row.commits_per_second),
                series("raw limit of the disk", |row| row.raw_commits_per_second),
            ],
        }
    }
}

fn rounded(value: f64) -> String {
    number(value.round() as u64)
}
