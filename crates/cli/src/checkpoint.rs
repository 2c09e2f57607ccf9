//! `checkpoint`: the log into the database file, verified.

use crate::args::{Checkpoint, Mode};
use crate::format::{count, number};
use crate::locked::Locked;
use crate::output::{Output, Status};
use crate::progress::Progress;
use serde::Serialize;
use std::fmt::Write;
use walmend::{CheckpointMode, CheckpointReport, LogFate, Options, Store};
use walmend_error::{Error, Result};
use walmend_vfs::{ReadSource, Vfs};

#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    frames: u32,
    pages_written: u32,
    pages_verified: u32,
    verified_from: &'static str,
    log: &'static str,
    blocked_by_readers: bool,
}

impl From<&CheckpointReport> for Report {
    fn from(report: &CheckpointReport) -> Self {
        Self {
            mode: report.mode.as_str(),
            frames: report.frames,
            pages_written: report.pages_written,
            pages_verified: report.pages_verified,
            verified_from: match report.verified_from {
                ReadSource::Device => "device",
                ReadSource::Cache => "cache",
            },
            log: report.log.as_str(),
            blocked_by_readers: report.blocked_by_readers,
        }
    }
}

impl From<Mode> for CheckpointMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Passive => Self::Passive,
            Mode::Full => Self::Full,
            Mode::Restart => Self::Restart,
            Mode::Truncate => Self::Truncate,
        }
    }
}

/// `walmend checkpoint`.
pub(crate) fn run(args: &Checkpoint, out: &Output) -> Result<Status> {
    let path = &args.target.database;
    let mode = CheckpointMode::from(args.mode);
    let progress = Progress::spinner("checkpointing");
    let report = if has_log(path)? {
        let (store, _) = Store::open(path, Options::new().create(false).repair(false))?;
        let report = store.checkpoint(mode)?;
        store.close()?;
        report
    } else {
        CheckpointReport::nothing_done(mode)
    };
    drop(progress);
    if out.json() {
        out.object(&Report::from(&report))?;
    } else {
        out.text(&tell(&report, out))?;
    }
    Ok(Status::Well)
}

/// Whether there is a log or a companion. Where there is none there is nothing to bring anywhere, and nothing
/// is created; but the database must be one, and nobody may have it open.
fn has_log(path: &std::path::Path) -> Result<bool> {
    let locked = Locked::open(path)?;
    let there = |path| Ok::<_, Error>(locked.vfs.info(path)?.is_some());
    Ok(there(&locked.files.wal)? || there(&locked.files.meta)?)
}

fn tell(report: &CheckpointReport, out: &Output) -> String {
    let mut text = format!("{}\n", out.good("The log is in the database file."));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {}{value}", out.faint(&format!("{name:<16}")));
    };
    line("frames", number(report.frames));
    line("pages written", number(report.pages_written));
    let source = match report.verified_from {
        ReadSource::Device => "read back from the device",
        ReadSource::Cache => "read back, but this file system does not let the cache be bypassed",
    };
    line(
        "pages verified",
        format!("{}, {source}", count(report.pages_verified, "page")),
    );
    let log = match report.log {
        LogFate::Kept => "kept as it is",
        LogFate::Reset => "begun anew",
        LogFate::Truncated => "empty",
    };
    line("log", log.into());
    if report.blocked_by_readers {
        line("readers", "some kept it from going further".into());
    }
    text
}
