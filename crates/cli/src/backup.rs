//! `backup`: one consistent copy of a database and its log.

use crate::args::Backup;
use crate::format::{bytes, count};
use crate::output::{Output, Status};
use crate::progress::Progress;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use walmend::{BackupReport, BackupSource, Pages, backup};
use walmend_error::Result;
use walmend_vfs::{ReadSource, UnixVfs};

#[derive(Debug, Serialize)]
struct Report {
    database: String,
    target: String,
    source: &'static str,
    bytes: u64,
    page_size: u32,
    pages: u32,
    log_frames: u32,
    verified_from: &'static str,
    attempts: u32,
}

/// `walmend backup`.
pub(crate) fn run(args: &Backup, out: &Output) -> Result<Status> {
    let (database, target) = (&args.target.database, &args.copy);
    let progress = Progress::steps("backing up, per cent", 100);
    let report = backup(&UnixVfs::new(), database, target, &mut |done, total| {
        progress.set(done * 100 / total.max(1));
    })?;
    drop(progress);
    if out.json() {
        out.object(&Report {
            database: database.display().to_string(),
            target: target.display().to_string(),
            source: report.source.as_str(),
            bytes: report.bytes,
            page_size: report.page_size.get(),
            pages: report.db_pages,
            log_frames: report.log_frames,
            verified_from: match report.verified_from {
                ReadSource::Device => "device",
                ReadSource::Cache => "cache",
            },
            attempts: report.attempts,
        })?;
    } else {
        out.text(&tell(&report, target, out))?;
    }
    Ok(Status::Well)
}

fn tell(report: &BackupReport, target: &Path, out: &Output) -> String {
    let mut text = format!("{}  {}\n", out.good("The backup is complete."), target.display());
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {}{value}", out.faint(&format!("{name:<16}")));
    };
    let pages = count(report.db_pages, "page");
    line(
        "size",
        format!("{}, {pages} of {}", bytes(report.bytes), report.page_size),
    );
    line("from the log", count(report.log_frames, "frame"));
    let source = match report.source {
        BackupSource::Closed => "nobody had it open",
        BackupSource::Snapshot | BackupSource::LiveStore => "a walmend store had it open, and went on",
        BackupSource::Shared => "other programs had it open, and went on",
    };
    line("meanwhile", source.into());
    let verified = match report.verified_from {
        ReadSource::Device => "read back from the device",
        ReadSource::Cache => "read back, but this file system does not let the cache be bypassed",
    };
    line("verified", verified.into());
    if report.pages == Pages::Raw {
        line(
            "goes with it",
            format!("{}-wal-meta, which says the page size", target.display()),
        );
    }
    text
}
