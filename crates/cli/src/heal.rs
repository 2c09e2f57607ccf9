//! `heal` and `scrub`: what is damaged in the log and in the database file, rebuilt from their sidecars.

use crate::args::{Heal, Scrub, Target};
use crate::database::{self, listed};
use crate::format::count;
use crate::interrupt;
use crate::locked::Locked;
use crate::output::{Output, Status, complain};
use crate::progress::Progress;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;
use walmend_error::Result;
use walmend_repair::{DatabaseHealReport, HealReport, ReedSolomon, Standing, Work, heal_database, heal_log};
use walmend_wal::{Findings, Verdict, decide};

#[derive(Debug, Serialize)]
struct Report {
    /// 0 stands for the header of the log.
    frames_healed: Vec<u32>,
    pages_healed: Vec<u32>,
    unhealable_frames: Vec<u32>,
    unhealable_pages: Vec<u32>,
    /// Pages that differ, and may have been written just as well as damaged.
    undecided_pages: Vec<u32>,
    /// The damaged log if there is one, or else the damaged pages.
    kept_aside: Option<String>,
    /// The damaged pages.
    pages_kept_aside: Option<String>,
    /// First and last frame of each group that belongs to another history of this log.
    other_history: Vec<(u32, u32)>,
    /// Another program wrote to the database since it was protected.
    stale: bool,
}

/// How it is done.
#[derive(Debug, Clone, Copy, Default)]
struct How {
    writer_synced_every_commit: bool,
    trust_sidecar: bool,
    rate: Option<u64>,
    /// What rots is the disk, and not what is cached.
    from_device: bool,
    threads: usize,
}

/// `walmend heal`.
pub(crate) fn run(args: &Heal, out: &Output) -> Result<Status> {
    let how = How {
        writer_synced_every_commit: args.evidence.writer_synced_every_commit,
        trust_sidecar: args.trust_sidecar,
        rate: None,
        from_device: false,
        threads: database::thread_count(),
    };
    heal(&args.target, how, "healing the database", out)
}

/// `walmend scrub`.
pub(crate) fn scrub(args: &Scrub, out: &Output) -> Result<Status> {
    let how = How {
        rate: args.rate.map(|megabytes| megabytes.saturating_mul(1_000_000)),
        from_device: true,
        threads: 1,
        ..How::default()
    };
    heal(&args.target, how, "scrubbing the database", out)
}

fn heal(target: &Target, how: How, label: &'static str, out: &Output) -> Result<Status> {
    let path = &target.database;
    let cx = interrupt::cancelled_by_signals()?;
    let locked = Locked::open_protected(path)?;
    let (vfs, files) = (&locked.vfs, &locked.files);
    let progress = Progress::spinner("healing the log");
    let log = heal_log(vfs, files, &ReedSolomon)?;
    drop(progress);
    let progress = database::steps(label, vfs, &files.db)?;
    let done = |read| progress.set(read / 1_000_000);
    let work = Work::new(&cx)
        .threads(how.threads)
        .rate(how.rate)
        .from_device(how.from_device)
        .progress(&done);
    let pages =
        heal_database(vfs, files, &ReedSolomon, how.trust_sidecar, &work).map_err(interrupt::explain)?;
    drop(progress);
    // What the sidecar does not know may be damaged all the same.
    let synced = how.writer_synced_every_commit;
    let left = Findings::gather(vfs, files, &*locked.db, locked.identity.page_size, synced, false)?;
    let report = Report::new(&log, pages.as_ref(), &left);
    if out.json() {
        out.object(&report)?;
    } else {
        out.text(&tell(&report, pages.is_some(), out))?;
    }
    let suspected = pages
        .as_ref()
        .is_some_and(|pages| pages.standing == Standing::Touched);
    let frames_left =
        !report.unhealable_frames.is_empty() || matches!(decide(left.facts()), Verdict::Damaged(_));
    let mut status = Status::Well;
    if frames_left {
        let reason = match (log.protected, log.other_history.is_empty()) {
            (false, _) => "there is no sidecar to heal it from",
            (true, false) => {
                "the sidecar speaks of another history of this log, and nothing was changed for it"
            }
            (true, true) => "too little of it is intact, or it was not protected",
        };
        complain(&format!(
            "the log is still damaged: {reason}. See `walmend recover {}`",
            path.display()
        ));
        status = Status::Damage;
    }
    if !report.unhealable_pages.is_empty() {
        complain(&format!(
            "damaged still, for too little of what shares their parity is intact: {}",
            listed(&report.unhealable_pages)
        ));
        status = Status::Damage;
    }
    if !report.undecided_pages.is_empty() {
        complain(&format!(
            "left alone, for they may have been written just as well as damaged: {}. After a write \
             `walmend protect {}` takes them as they are; after damage --trust-sidecar puts them back",
            listed(&report.undecided_pages),
            path.display()
        ));
        if suspected {
            status = Status::Damage;
        }
    }
    Ok(status)
}

impl Report {
    fn new(log: &HealReport, pages: Option<&DatabaseHealReport>, left: &Findings) -> Self {
        let damaged = left.damage.iter().map(|damage| damage.frame);
        let unhealable: BTreeSet<u32> = log.unhealable_frames.iter().copied().chain(damaged).collect();
        let aside = pages.and_then(|pages| pages.kept_aside.as_ref());
        let shown = |path: &std::path::PathBuf| path.display().to_string();
        let listed =
            |of: fn(&DatabaseHealReport) -> &Vec<u32>| pages.map_or(Vec::new(), |pages| of(pages).clone());
        Self {
            frames_healed: log.frames_healed.clone(),
            pages_healed: listed(|pages| &pages.pages_healed),
            unhealable_frames: unhealable.into_iter().collect(),
            unhealable_pages: listed(|pages| &pages.unhealable),
            undecided_pages: listed(|pages| &pages.undecided),
            kept_aside: log.kept_aside.as_ref().or(aside).map(shown),
            pages_kept_aside: aside.map(shown),
            other_history: log
                .other_history
                .iter()
                .map(|range| (*range.start(), *range.end()))
                .collect(),
            stale: pages.is_some_and(|pages| !pages.standing.decides()),
        }
    }
}

fn tell(report: &Report, protected: bool, out: &Output) -> String {
    let healed = report.frames_healed.len() + report.pages_healed.len();
    let left = report.unhealable_frames.len() + report.unhealable_pages.len();
    let headline = match (healed, left) {
        (0, 0) if !report.undecided_pages.is_empty() => {
            out.bad("Nothing was healed: it is undecided what is damaged.")
        }
        (0, 0) => out.good("There was nothing to heal."),
        (_, 0) if !report.undecided_pages.is_empty() => out.bad("Healed, but for what is undecided."),
        (_, 0) => out.good("Healed: all of it is again what it was."),
        (0, _) => out.bad("Nothing could be healed."),
        _ => out.bad("Healed in part."),
    };
    let mut text = format!("{headline}\n");
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {}{value}", out.faint(&format!("{name:<16}")));
    };
    line("frames healed", frames(&report.frames_healed));
    if !report.unhealable_frames.is_empty() {
        line("not healed", frames(&report.unhealable_frames));
    }
    if protected {
        line("pages healed", listed(&report.pages_healed));
    } else {
        line("pages", "not protected, and not looked at".into());
    }
    if !report.unhealable_pages.is_empty() {
        line("not healed", listed(&report.unhealable_pages));
    }
    if !report.undecided_pages.is_empty() {
        line("undecided", listed(&report.undecided_pages));
    }
    if !report.other_history.is_empty() {
        let groups = count(report.other_history.len() as u64, "group");
        line(
            "other history",
            format!("{groups} of the sidecar: another program dropped these frames and wrote others"),
        );
    }
    if let Some(aside) = report
        .kept_aside
        .as_ref()
        .filter(|_| report.kept_aside != report.pages_kept_aside)
    {
        line("damaged log", aside.clone());
    }
    if let Some(aside) = &report.pages_kept_aside {
        line("damaged pages", aside.clone());
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
