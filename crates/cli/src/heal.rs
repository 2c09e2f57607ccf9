//! `heal`: what is damaged in the log, rebuilt from its sidecar.

use crate::args::Heal;
use crate::format::count;
use crate::locked::Locked;
use crate::output::{Output, Status, complain};
use crate::progress::Progress;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;
use walmend_error::Result;
use walmend_repair::{HealReport, ReedSolomon, heal_log};
use walmend_wal::{Findings, Verdict, decide};

#[derive(Debug, Serialize)]
struct Report {
    /// 0 stands for the header of the log.
    frames_healed: Vec<u32>,
    pages_healed: [u32; 0],
    unhealable_frames: Vec<u32>,
    unhealable_pages: [u32; 0],
    kept_aside: Option<String>,
    /// First and last frame of each group that belongs to another history of this log.
    other_history: Vec<(u32, u32)>,
}

/// `walmend heal`.
pub(crate) fn run(args: &Heal, out: &Output) -> Result<Status> {
    let path = &args.target.database;
    let progress = Progress::spinner("healing the log");
    let locked = Locked::open(path)?;
    let (vfs, files) = (&locked.vfs, &locked.files);
    let healed = heal_log(vfs, files, &ReedSolomon)?;
    // What the sidecar does not know may be damaged all the same.
    let synced = args.evidence.writer_synced_every_commit;
    let left = Findings::gather(vfs, files, &*locked.db, locked.identity.page_size, synced, false)?;
    let unhealable: BTreeSet<u32> = healed
        .unhealable_frames
        .iter()
        .copied()
        .chain(left.damage.iter().map(|damage| damage.frame))
        .collect();
    drop(progress);
    let report = Report {
        frames_healed: healed.frames_healed.clone(),
        pages_healed: [],
        unhealable_frames: unhealable.into_iter().collect(),
        unhealable_pages: [],
        kept_aside: healed.kept_aside.as_ref().map(|path| path.display().to_string()),
        other_history: healed
            .other_history
            .iter()
            .map(|range| (*range.start(), *range.end()))
            .collect(),
    };
    if out.json() {
        out.object(&report)?;
    } else {
        out.text(&tell(&report, &healed, out))?;
    }
    let damaged = !report.unhealable_frames.is_empty() || matches!(decide(left.facts()), Verdict::Damaged(_));
    if !damaged {
        return Ok(Status::Well);
    }
    let reason = match (healed.protected, healed.other_history.is_empty()) {
        (false, _) => "there is no sidecar to heal it from",
        (true, false) => "the sidecar speaks of another history of this log, and nothing was changed for it",
        (true, true) => "too little of it is intact, or it was not protected",
    };
    complain(&format!(
        "the log is still damaged: {reason}. See `walmend recover {}`",
        path.display()
    ));
    Ok(Status::Damage)
}

fn tell(report: &Report, healed: &HealReport, out: &Output) -> String {
    let headline = match (report.frames_healed.len(), report.unhealable_frames.len()) {
        (0, 0) => out.good("There was nothing to heal."),
        (_, 0) => out.good("Healed: the log is again what it was."),
        (0, _) => out.bad("Nothing could be healed."),
        _ => out.bad("Healed in part."),
    };
    let mut text = format!("{headline}\n");
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {}{value}", out.faint(&format!("{name:<16}")));
    };
    line("healed", frames(&report.frames_healed));
    if !report.unhealable_frames.is_empty() {
        line("not healed", frames(&report.unhealable_frames));
    }
    if !report.other_history.is_empty() {
        let groups = count(report.other_history.len() as u64, "group");
        line(
            "other history",
            format!("{groups} of the sidecar: another program dropped these frames and wrote others"),
        );
    }
    if let Some(aside) = &healed.kept_aside {
        line("damaged log", aside.display().to_string());
    }
    text
}

/// The frames by number, the first ones of many.
fn frames(frames: &[u32]) -> String {
    let mut text = count(frames.len() as u64, "frame");
    let shown: Vec<String> = frames
        .iter()
        .take(10)
        .map(|frame| match frame {
            0 => "the header".into(),
            frame => frame.to_string(),
        })
        .collect();
    if !shown.is_empty() {
        let more = if frames.len() > shown.len() { ", ..." } else { "" };
        let _ = write!(text, ": {}{more}", shown.join(", "));
    }
    text
}
