//! `protect`: the sidecar of the log, made or extended.

use crate::args::Protect;
use crate::format::{bytes, count};
use crate::locked::Locked;
use crate::output::{Output, Status, complain};
use crate::progress::Progress;
use serde::Serialize;
use std::fmt::Write;
use walmend_error::Result;
use walmend_repair::{ProtectReport, ReedSolomon, protect_log, wal_sidecar_path};

#[derive(Debug, Serialize)]
struct Report {
    wal_sidecar: Sidecar,
}

#[derive(Debug, Serialize)]
struct Sidecar {
    path: String,
    bytes: u64,
    frames_covered: u32,
    frames_added: u32,
    groups_added: u32,
    /// Whole commits behind damage, which are not protected.
    behind_damage: bool,
}

/// `walmend protect`.
pub(crate) fn run(args: &Protect, out: &Output) -> Result<Status> {
    let path = &args.target.database;
    let progress = Progress::spinner("protecting the log");
    let locked = Locked::open(path)?;
    let report = protect_log(&locked.vfs, &locked.files, &ReedSolomon)?;
    drop(progress);
    if out.json() {
        out.object(&Report {
            wal_sidecar: Sidecar {
                path: wal_sidecar_path(&locked.files.db).display().to_string(),
                bytes: report.sidecar_bytes,
                frames_covered: report.already_covered + report.newly_covered,
                frames_added: report.newly_covered,
                groups_added: report.groups_added,
                behind_damage: report.behind_damage,
            },
        })?;
    } else {
        out.text(&tell(&report, out))?;
    }
    if !report.behind_damage {
        return Ok(Status::Well);
    }
    complain(&format!(
        "the log breaks behind frame {}, with whole commits behind the break: what follows is not protected. See \
         `walmend verify {}`",
        report.committed_frames,
        path.display()
    ));
    Ok(Status::Damage)
}

fn tell(report: &ProtectReport, out: &Output) -> String {
    if report.committed_frames == 0 {
        return "There is nothing to protect: the log holds no commit.\n".into();
    }
    let mut text = format!("{}\n", out.good("The log is protected."));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {}{value}", out.faint(&format!("{name:<16}")));
    };
    line("as before", count(report.already_covered, "frame"));
    let groups = count(report.groups_added, "group");
    line(
        "added",
        format!("{} in {groups}", count(report.newly_covered, "frame")),
    );
    line("sidecar", bytes(report.sidecar_bytes));
    text
}
