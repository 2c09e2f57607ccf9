//! `bench`: durable commits per second by number of writers, beside the raw limit of the same disk.
//!
//! Commits and raw writes take turns in short windows, so that both see the same disk in the same mood; the log
//! is reset between them, and never within one.

mod driver;
mod raw;
mod report;
mod store;

use crate::args;
use crate::folder::Folder;
use crate::output::{Output, Status};
use crate::progress::Progress;
use driver::{Totals, on_threads};
use raw::RawFile;
use report::{Report, Row};
use std::path::Path;
use std::time::Duration;
use store::Bench;
use walmend::PageSize;
use walmend_error::{Error, Result};

/// The length of a window that is aimed at, in seconds: it bounds how long the log gets.
const WINDOW: f64 = 0.1;
/// No row is measured in fewer windows.
const FEWEST_WINDOWS: u32 = 3;
/// The most bytes that all writers together may commit at once.
const MOST_AT_ONCE: u64 = 256 << 20;

/// What every row has in common.
#[derive(Debug, Clone, Copy)]
struct Plan {
    page_size: PageSize,
    pages: u32,
    tasks: bool,
    windows: u32,
    window: Duration,
}

/// `walmend bench`.
pub(crate) fn run(args: &args::Bench, out: &Output) -> Result<Status> {
    let plan = Plan::new(args)?;
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = Folder::temporary("walmend-bench-", &parent)?;
    let mut report = Report {
        pages_per_commit: args.pages_per_commit,
        page_size: args.page_size,
        seconds: args.seconds,
        tasks: args.tasks,
        in_memory: folder.is_in_memory(),
        rows: Vec::new(),
    };
    let steps = args.writers.len() as u64 * u64::from(plan.windows);
    let progress = Progress::steps("measuring", steps);
    let mut done = 0;
    for (number, &writers) in args.writers.iter().enumerate() {
        let row = plan.row(&folder.file(&number.to_string()), writers, || {
            done += 1;
            progress.set(done);
        })?;
        report.rows.push(row);
    }
    drop(progress);
    drop(folder);
    if let Some(path) = &args.svg {
        report.chart().write(path)?;
    }
    match out.json() {
        true => out.object(&report)?,
        false => out.text(&report.text(out))?,
    }
    Ok(Status::Well)
}

impl Plan {
    fn new(args: &args::Bench) -> Result<Self> {
        let page_size = PageSize::new(args.page_size)?;
        let most = args.writers.iter().copied().max().unwrap_or(1);
        let at_once = u64::from(most) * u64::from(args.pages_per_commit) * u64::from(args.page_size);
        if at_once > MOST_AT_ONCE {
            return Err(Error::Invalid(format!(
                "{most} writers with {} pages of {} bytes would commit {at_once} bytes at once, more than \
                 {MOST_AT_ONCE}: take less of one of them",
                args.pages_per_commit, args.page_size
            )));
        }
        let windows = ((args.seconds / WINDOW).round() as u32).max(FEWEST_WINDOWS);
        Ok(Self {
            page_size,
            pages: args.pages_per_commit,
            tasks: args.tasks,
            windows,
            window: Duration::from_secs_f64(args.seconds / f64::from(windows)),
        })
    }

    /// One row. `step` is called after every window.
    fn row(&self, folder: &Path, writers: u32, mut step: impl FnMut()) -> Result<Row> {
        std::fs::create_dir(folder).map_err(|error| Error::io("create", folder, None, error))?;
        let frame = self.page_size.as_usize() + 24;
        let mut raw = RawFile::create(
            &folder.join("raw"),
            writers as usize * self.pages as usize * frame,
        )?;
        let mut bench = Bench::create(
            &folder.join("bench.db"),
            self.page_size,
            writers,
            self.pages,
            self.tasks,
            true,
        )?;
        // The first window lets the log grow to its length, and counts for nothing.
        bench.run(self.window)?;

        let mut commits = Totals::new(writers as usize)?;
        let (mut buffered, mut direct) = (Totals::new(1)?, Totals::new(1)?);
        let (mut committed, mut syncs) = (0, 0);
        for _ in 0..self.windows {
            bench.reset_log()?;
            let before = bench.stats();
            commits.add(&bench.run(self.window)?)?;
            let after = bench.stats();
            committed += after.commits - before.commits;
            syncs += after.syncs - before.syncs;
            buffered.add(&on_threads(&mut [|| raw.write_buffered()], self.window / 2)?)?;
            if raw.has_direct() {
                direct.add(&on_threads(&mut [|| raw.write_direct()], self.window / 2)?)?;
            }
            step();
        }
        bench.close()?;

        let rate = commits.rate()?;
        let per_write = f64::from(writers);
        let buffered = buffered.rate()? * per_write;
        let direct = match raw.has_direct() {
            true => Some(direct.rate()? * per_write),
            false => None,
        };
        let (raw_kind, limit) = match direct {
            Some(direct) if direct > buffered => ("direct", direct),
            _ => ("buffered", buffered),
        };
        // The next row has the disk to itself.
        drop(raw);
        std::fs::remove_dir_all(folder).map_err(|error| Error::io("remove", folder, None, error))?;
        Ok(Row {
            writers,
            commits_per_second: rate,
            p50_us: commits.quantile_us(0.5),
            p99_us: commits.quantile_us(0.99),
            max_us: commits.quantile_us(1.0),
            syncs_per_commit: syncs as f64 / committed as f64,
            raw_commits_per_second: limit,
            ratio: rate / limit,
            raw_kind,
            raw_buffered_commits_per_second: buffered,
            raw_direct_commits_per_second: direct,
            least_over_most: commits.least_over_most(),
        })
    }
}
