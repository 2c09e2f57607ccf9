//! What a drill says at its end.

use crate::bars::{Bar, Bars};
use crate::format::{bytes, count, number};
use crate::output::Output;
use crate::svg::{Chart, Series};
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

/// The report, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) writers: u32,
    pub(super) pages: u32,
    pub(super) page_size: u32,
    /// Commits that the child's stores made, whether anybody heard of them or not.
    pub(super) commits: u64,
    pub(super) acknowledged: u64,
    pub(super) lost: u64,
    pub(super) torn: u64,
    /// Commits of killed children that recovery brought back.
    pub(super) recovered: u64,
    /// Of these, the ones whose acknowledgement the kill cut off.
    pub(super) unacknowledged: u64,
    pub(super) kills: u32,
    pub(super) kills_in_checkpoint: u32,
    pub(super) torn_tails: u32,
    pub(super) checkpoints: u64,
    /// Bits flipped in the log and in the database file, together.
    pub(super) flips: u32,
    pub(super) flips_in_database: u32,
    pub(super) flips_found: u32,
    pub(super) flips_healed: u32,
    pub(super) commits_per_second: f64,
    pub(super) syncs_per_commit: f64,
    pub(super) repair_window_us: RepairWindow,
    pub(super) pages_verified: u32,
    /// `None` if the drill ended before its last checkpoint.
    pub(super) verified_from: Option<&'static str>,
    pub(super) identical: bool,
    pub(super) problems: Vec<String>,
    /// Where the files are, if they were kept.
    pub(super) result: Option<String>,
    pub(super) seconds: Seconds,
    #[serde(skip)]
    pub(super) lives: Vec<Row>,
    #[serde(skip)]
    pub(super) in_memory: bool,
    #[serde(skip)]
    pub(super) from_source: bool,
}

/// How long commits were durable but not repairable: the median life's median, the worst 99 in 100 of a life, the
/// longest of all. A killed life counts as far as it had reported.
#[derive(Debug, Default, Serialize)]
pub(super) struct RepairWindow {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

/// What took how long.
#[derive(Debug, Default, Serialize)]
pub(super) struct Seconds {
    pub(super) preparing: f64,
    pub(super) committing: f64,
    pub(super) recovering: f64,
    pub(super) checking: f64,
    pub(super) healing: f64,
    pub(super) finishing: f64,
    pub(super) total: f64,
}

impl Report {
    /// Whether nothing was lost, torn or changed.
    pub(super) fn passed(&self) -> bool {
        self.lost == 0 && self.torn == 0 && self.identical && self.problems.is_empty()
    }

    /// What stands above the lives.
    pub(super) fn opening(&self, folder: &str, groups: usize, out: &Output) -> String {
        let size = u64::from(self.pages) * u64::from(self.page_size);
        let kind = if self.from_source {
            "of the source"
        } else {
            "of the drill's own"
        };
        let mut text = format!(
            "{} {}\n\n{} commit {} {kind} ({}) to a real store, in transactions of several pages;\n\
             {}. Each time the store is recovered, and every page checked.\n",
            out.strong("walmend drill"),
            out.faint(&format!("seed {}, in {folder}", self.seed)),
            capital(&count(self.writers, "writer")),
            count(self.pages, "page"),
            bytes(size),
            match self.kills {
                0 => "nobody kills their process this time".to_owned(),
                1 => "their process is killed once, without warning".to_owned(),
                kills => format!("their process is killed {} times, without warning", number(kills)),
            },
        );
        let _ = writeln!(
            text,
            "{} of pages change together, so that half a transaction would show.",
            capital(&count(groups as u64, "group"))
        );
        if self.in_memory {
            text.push_str(
                "The folder is in memory, where syncs are free: with --dir on a disk they are real.\n",
            );
        }
        let heading = format!(
            "\n  {:>4}  {:>12}  {:>9}  {:>10}  {:>11}  {:>8}  {}",
            "life", "acknowledged", "recovered", "log frames", "torn frames", "recovery", "killed in"
        );
        let _ = writeln!(text, "{}", out.strong(&heading));
        text
    }

    /// What came back of each life.
    pub(super) fn chart(&self) -> Chart {
        let series = |name: &str, value: fn(&Row) -> f64| Series {
            name: name.into(),
            values: self.lives.iter().map(|row| Some(value(row))).collect(),
        };
        Chart {
            title: format!(
                "{} acknowledged, {} lost in {}",
                count(self.acknowledged, "commit"),
                number(self.lost),
                count(self.kills, "kill")
            ),
            across: "life".into(),
            labels: self.lives.iter().map(|row| row.life.to_string()).collect(),
            series: vec![
                series("recovered", |row| row.recovered as f64),
                series("acknowledged", |row| row.acknowledged as f64),
                series("frames in the log", |row| row.log_frames.into()),
            ],
        }
    }

    /// The commits of each life, with the lost ones where there are any.
    fn bars(&self) -> Bars {
        let bar = |row: &Row| Bar {
            label: row.life.to_string(),
            strong: row.acknowledged.saturating_sub(row.lost) as f64,
            faint: row.acknowledged.max(row.recovered) as f64,
            note: match row.lost {
                0 => number(row.acknowledged),
                lost => format!("{}, {} lost", number(row.acknowledged), number(lost)),
            },
        };
        Bars {
            across: "life",
            strong: "acknowledged, and there",
            faint: "lost, or there without an acknowledgement",
            bars: self.lives.iter().map(bar).collect(),
        }
    }

    /// The end of the report.
    pub(super) fn closing(&self, out: &Output) -> String {
        let mut text = format!("\n{}", self.bars().text(out));
        let verdict = if self.passed() {
            out.good("Nothing was lost.")
        } else {
            out.bad("Something went wrong.")
        };
        let _ = writeln!(text, "\n{verdict}");
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {}{value}", out.faint(&format!("{name:<14}")));
        };
        let zero = |value: u64| match value {
            0 => out.good("0"),
            value => out.bad(&number(value)),
        };
        line(
            "commits",
            format!(
                "{}, of them acknowledged {}",
                number(self.commits),
                number(self.acknowledged)
            ),
        );
        line("lost", zero(self.lost));
        line("torn", zero(self.torn));
        line(
            "recovered",
            format!(
                "{} after {} (SIGKILL), {} of them in the middle of a checkpoint",
                count(self.recovered, "commit"),
                count(self.kills, "kill"),
                number(self.kills_in_checkpoint)
            ),
        );
        line(
            "unheard",
            format!(
                "{} whole although the kill came before the acknowledgement",
                match self.unacknowledged {
                    1 => "1 commit was".into(),
                    commits => format!("{} were", count(commits, "commit")),
                }
            ),
        );
        line(
            "speed",
            format!(
                "{} commits/s, {:.2} syncs per commit",
                number(self.commits_per_second.round() as u64),
                self.syncs_per_commit
            ),
        );
        let last = match self.verified_from {
            None => "the last one was not reached".to_owned(),
            Some(source) => format!(
                "the last one verified {}, read from the {source}",
                count(self.pages_verified, "page")
            ),
        };
        line(
            "checkpoints",
            format!("{} on the way; {last}", number(self.checkpoints)),
        );
        line(
            "flips",
            format!(
                "{} in the log and {} in the database file, {} found, {} healed",
                count(self.flips - self.flips_in_database, "bit"),
                number(self.flips_in_database),
                number(self.flips_found),
                number(self.flips_healed)
            ),
        );
        let window = &self.repair_window_us;
        let milliseconds = |microseconds: u64| microseconds as f64 / 1000.0;
        line(
            "repairable",
            format!(
                "{:.1} ms after the commit (median; 99 in 100 within {:.1} ms, all within {:.1} ms)",
                milliseconds(window.p50),
                milliseconds(window.p99),
                milliseconds(window.max)
            ),
        );
        let result = match (self.verified_from, self.identical) {
            (None, _) => out.bad("not reached"),
            (_, false) => out.bad("differs from the source"),
            (_, true) => out.good("identical to the source, byte for byte"),
        };
        line("result", result);
        let seconds = &self.seconds;
        line(
            "time",
            format!(
                "{:.1} s: {:.2} committing, {:.2} recovering, {:.2} checking, {:.2} healing, {:.2} finishing",
                seconds.total,
                seconds.committing,
                seconds.recovering,
                seconds.checking,
                seconds.healing,
                seconds.finishing
            ),
        );
        for problem in self.problems.iter().take(10) {
            line("problem", out.bad(problem));
        }
        if let Some(result) = &self.result {
            line("files", result.clone());
        }
        text
    }
}

/// One row of the table of lives.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) life: u32,
    pub(super) acknowledged: u64,
    pub(super) recovered: u64,
    /// Acknowledged, and not found again.
    pub(super) lost: u64,
    pub(super) log_frames: u32,
    pub(super) dropped_frames: u32,
    pub(super) recovery: Duration,
    pub(super) killed_in: &'static str,
}

impl Row {
    /// In the columns of [`Report::opening`].
    pub(super) fn line(&self) -> String {
        format!(
            "  {:>4}  {:>12}  {:>9}  {:>10}  {:>11}  {:>5} ms  {}\n",
            self.life,
            number(self.acknowledged),
            number(self.recovered),
            number(self.log_frames),
            number(self.dropped_frames),
            self.recovery.as_millis(),
            self.killed_in
        )
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().collect::<String>() + letters.as_str())
        .unwrap_or_default()
}
