//! What was measured, as tables in Markdown, as CSV, and as a picture.

use crate::driver::Totals;
use crate::svg::{Chart, Series};
use crate::{CALM, Measured, Options, Subject, targets};
use nix::sys::statfs::statfs;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;
use walmend_error::{Error, Result};

pub(crate) const WALMEND: &str = "walmend";
pub(crate) const TASKS: &str = "walmend, async tasks";
pub(crate) const NO_REPAIR: &str = "walmend, no repair symbols";
pub(crate) const RAW_BUFFERED: &str = "raw limit, buffered";
pub(crate) const RAW_DIRECT: &str = "raw limit, direct";

/// One system with one number of writers.
#[derive(Default)]
pub(crate) struct Cell {
    /// `None` where it cannot be measured on this file system.
    pub(crate) totals: Option<Totals>,
    /// Commits that one measured step stands for.
    per_step: f64,
    commits: u64,
    syncs: u64,
}

/// Everything that was measured.
pub(crate) struct Report {
    names: Vec<&'static str>,
    writers: Vec<u32>,
    /// By system, then by number of writers.
    cells: Vec<Vec<Cell>>,
    conditions: String,
    /// Measurements, and how many of them others disturbed all the same.
    measured: usize,
    disturbed: usize,
}

impl Cell {
    /// The median over the rounds, in commits per second.
    fn rate(&self) -> Option<f64> {
        let rate = self.totals.as_ref()?.rate().ok()?;
        Some(rate * self.per_step)
    }

    pub(crate) fn syncs_per_commit(&self) -> Option<f64> {
        (self.commits > 0).then(|| self.syncs as f64 / self.commits as f64)
    }
}

impl Report {
    /// With empty cells.
    pub(crate) fn new(options: &Options, folder: &Path, subjects: &[(&'static str, Subject)]) -> Self {
        let row = |_| options.writers.iter().map(|_| Cell::default()).collect();
        Self {
            names: subjects.iter().map(|(name, _)| *name).collect(),
            writers: options.writers.clone(),
            cells: subjects.iter().map(row).collect(),
            conditions: format!(
                "{}. Medians of {} rounds of {} s each, all systems interleaved.",
                machine(folder),
                options.rounds,
                options.seconds
            ),
            measured: 0,
            disturbed: 0,
        }
    }

    /// Adds what was measured to the cell of a system and a number of writers, given by their places.
    pub(crate) fn add(&mut self, name: usize, writers: usize, measured: &Measured) -> Result<()> {
        self.measured += 1;
        self.disturbed += usize::from(measured.others > CALM);
        let cell = &mut self.cells[name][writers];
        let totals = match &mut cell.totals {
            Some(totals) => totals,
            none => none.insert(Totals::new(measured.tallies.len())?),
        };
        totals.add(&measured.tallies)?;
        cell.per_step = measured.per_step;
        let (commits, syncs) = measured.syncs.unwrap_or((0, 0));
        cell.commits += commits;
        cell.syncs += syncs;
        Ok(())
    }

    /// The cell of a system and a number of writers, if it was measured.
    pub(crate) fn find(&self, name: &str, writers: u32) -> Option<&Cell> {
        let row = self.names.iter().position(|known| *known == name)?;
        let column = self.writers.iter().position(|known| *known == writers)?;
        self.cells.get(row)?.get(column)
    }

    /// Commits per second of a system with a number of writers, if it was measured.
    pub(crate) fn rate(&self, name: &str, writers: u32) -> Option<f64> {
        self.find(name, writers)?.rate()
    }

    /// Writes all three files, and prints the first.
    pub(crate) fn write(&self, folder: &Path, took: Duration) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, None, error))?;
        let markdown = self.markdown(took);
        for (name, text) in [
            ("peers.md", &markdown),
            ("peers.csv", &self.csv()),
            ("peers.svg", &self.svg()),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|error| Error::io("write", &path, None, error))?;
        }
        println!("{markdown}");
        eprintln!("written to {}: peers.md, peers.csv, peers.svg", folder.display());
        Ok(())
    }

    fn markdown(&self, took: Duration) -> String {
        let mut text = format!(
            "{} During {} of {} measurements other programs used more than {:.0}% of the processors. The whole \
             run took {} s.\n\n",
            self.conditions,
            self.disturbed,
            self.measured,
            CALM * 100.0,
            took.as_secs()
        );
        let heads: Vec<String> = self
            .writers
            .iter()
            .map(|writers| format!("T={writers}"))
            .collect();
        self.table(&mut text, "commits/s", &heads, |cell| {
            cell.rate()
                .map_or("-".into(), |rate| thousands(rate.round() as u64))
        });
        self.table(&mut text, "p50 / p99 in us", &heads, |cell| match &cell.totals {
            Some(totals) => format!(
                "{} / {}",
                thousands(totals.quantile_us(0.5).round() as u64),
                thousands(totals.quantile_us(0.99).round() as u64)
            ),
            None => "-".into(),
        });
        self.table(&mut text, "least / most commits of any writer", &heads, |cell| {
            let totals = cell.totals.as_ref();
            totals.map_or("-".into(), |totals| format!("{:.2}", totals.least_over_most()))
        });
        let _ = writeln!(text, "| syncs per commit | {} |", heads.join(" | "));
        let _ = writeln!(text, "|---|{}", "---:|".repeat(heads.len()));
        for (name, cells) in self.names.iter().zip(&self.cells) {
            let cells: Vec<String> = cells
                .iter()
                .filter_map(|cell| Some(format!("{:.3}", cell.syncs_per_commit()?)))
                .collect();
            if !cells.is_empty() {
                let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
            }
        }
        text.push('\n');
        text.push_str(&targets::markdown(self));
        text
    }

    fn table(&self, text: &mut String, title: &str, heads: &[String], show: impl Fn(&Cell) -> String) {
        let _ = writeln!(text, "| {title} | {} |", heads.join(" | "));
        let _ = writeln!(text, "|---|{}", "---:|".repeat(heads.len()));
        for (name, cells) in self.names.iter().zip(&self.cells) {
            let cells: Vec<String> = cells.iter().map(&show).collect();
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text.push('\n');
    }

    fn csv(&self) -> String {
        let mut text = String::from(
            "system,writers,commits_per_second,p50_us,p99_us,max_us,least_over_most,syncs_per_commit\n",
        );
        for (name, cells) in self.names.iter().zip(&self.cells) {
            for (writers, cell) in self.writers.iter().zip(cells) {
                let (Some(totals), Some(rate)) = (&cell.totals, cell.rate()) else {
                    continue;
                };
                let syncs = cell
                    .syncs_per_commit()
                    .map_or(String::new(), |syncs| format!("{syncs:.4}"));
                let _ = writeln!(
                    text,
                    "\"{name}\",{writers},{rate:.0},{:.1},{:.1},{:.1},{:.3},{syncs}",
                    totals.quantile_us(0.5),
                    totals.quantile_us(0.99),
                    totals.quantile_us(1.0),
                    totals.least_over_most()
                );
            }
        }
        text
    }

    fn svg(&self) -> String {
        let series = self.names.iter().zip(&self.cells).map(|(name, cells)| Series {
            name: (*name).to_owned(),
            values: cells.iter().map(Cell::rate).collect(),
        });
        Chart {
            title: "Durable commits of 4 KiB per second".into(),
            across: "writers".into(),
            labels: self.writers.iter().map(ToString::to_string).collect(),
            series: series.collect(),
        }
        .svg()
    }
}

/// The machine, as far as it says what it is.
fn machine(folder: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("an unnamed processor", |(_, model)| model.trim());
    let cores = walmend_sync::thread::available_parallelism().map_or(0, Into::into);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{model}, {cores} cores, Linux {}, {}",
        kernel.trim(),
        file_system(folder)
    )
}

fn file_system(folder: &Path) -> String {
    use nix::sys::statfs::{
        BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
    };
    let Ok(system) = statfs(folder) else {
        return "an unknown file system".into();
    };
    let known = [
        (EXT4_SUPER_MAGIC, "ext4"),
        (XFS_SUPER_MAGIC, "XFS"),
        (BTRFS_SUPER_MAGIC, "Btrfs"),
        (OVERLAYFS_SUPER_MAGIC, "overlayfs"),
        (TMPFS_MAGIC, "tmpfs, where syncs are free"),
    ];
    let name = known.iter().find(|(magic, _)| *magic == system.filesystem_type());
    name.map_or("an unnamed file system", |(_, name)| name).into()
}

/// `1234567` as `1,234,567`.
fn thousands(value: u64) -> String {
    match value {
        0..1000 => value.to_string(),
        _ => format!("{},{:03}", thousands(value / 1000), value % 1000),
    }
}
