//! `recover`: from the files as a crash left them to files that can be trusted.

use crate::args::{Damage, Recover};
use crate::commits;
use crate::format::{count, number};
use crate::locked::Locked;
use crate::output::{Output, Status, complain};
use crate::progress::Progress;
use serde::Serialize;
use std::fmt::Write;
use walmend::{Decision, OnDamage, Options, Store, Whereabouts};
use walmend_error::Result;
use walmend_repair::{HealReport, ReedSolomon, heal_log};
use walmend_wal::{Findings, RecoveryPlan, RecoveryReport, SalvagedCopy};

#[derive(Debug, Serialize)]
struct Report {
    decision: &'static str,
    committed_frames: u32,
    commits: u32,
    dropped_frames: u32,
    lost_commits: u32,
    /// 0 stands for the header of the log.
    healed_frames: Vec<u32>,
    kept_aside: Option<String>,
    /// What could be read behind the damage.
    salvaged: Option<Salvaged>,
}

#[derive(Debug, Serialize)]
struct Salvaged {
    path: String,
    pages_from_behind: u32,
    /// Pages whose newest version was in a damaged frame.
    stale_pages: Vec<u32>,
    /// Damaged frames that do not say which page they held.
    unknown_frames: u32,
}

impl From<&SalvagedCopy> for Salvaged {
    fn from(copy: &SalvagedCopy) -> Self {
        Self {
            path: copy.path.display().to_string(),
            pages_from_behind: copy.pages_from_behind,
            stale_pages: copy.stale_pages.clone(),
            unknown_frames: copy.unknown_frames,
        }
    }
}

impl Report {
    fn new(report: &RecoveryReport, healed: &HealReport) -> Self {
        let aside = report.kept_aside.as_ref().or(healed.kept_aside.as_ref());
        Self {
            decision: match report.decision {
                // After healing there was nothing else to decide.
                Decision::Clean | Decision::TornTail if !healed.frames_healed.is_empty() => "healed",
                decision => decision.as_str(),
            },
            committed_frames: report.committed_frames,
            commits: report.commits,
            dropped_frames: report.dropped_frames,
            lost_commits: report.lost_commits,
            healed_frames: healed.frames_healed.clone(),
            kept_aside: aside.map(|path| path.display().to_string()),
            salvaged: report.salvaged.as_ref().map(Salvaged::from),
        }
    }
}

impl From<Damage> for OnDamage {
    fn from(wish: Damage) -> Self {
        match wish {
            Damage::Refuse => Self::Refuse,
            Damage::Salvage => Self::Salvage,
            Damage::Truncate => Self::TruncateLikeSqlite,
        }
    }
}

/// `walmend recover`.
pub(crate) fn run(args: &Recover, out: &Output) -> Result<Status> {
    let path = &args.target.database;
    let synced = args.evidence.writer_synced_every_commit;
    let on_damage = OnDamage::from(args.on_damage);
    let progress = Progress::spinner("recovering");

    let locked = Locked::open(path)?;
    let (vfs, files) = (&locked.vfs, &locked.files);
    // What the sidecar can mend is no longer at stake.
    let healed = heal_log(vfs, files, &ReedSolomon)?;
    let findings = Findings::gather(vfs, files, &*locked.db, locked.identity.page_size, synced, false)?;
    let plan = RecoveryPlan::make(findings, on_damage)?;
    if !plan.decision.admits() {
        drop(progress);
        return refuse(&plan, &healed, out);
    }
    let stake = commits::at_stake(&plan.findings, plan.verdict);
    let nothing_there = plan.findings.scan.is_none() && plan.findings.meta.is_none();
    drop(locked);

    // Where there is neither a log nor a companion, there is nothing to recover and nothing to create.
    let report = if nothing_there {
        plan.report()
    } else {
        let options = Options::new()
            .create(false)
            // Making sidecars is the business of `protect`.
            .repair(false)
            .on_damage(on_damage)
            .writer_synced_every_commit(synced);
        let (store, opened) = Store::open(path, options)?;
        store.close()?;
        opened.recovery
    };
    drop(progress);
    if out.json() {
        out.object(&Report::new(&report, &healed))?;
    } else {
        out.text(&tell(&report, &healed, out))?;
    }
    if let Some(stake) = stake {
        complain(&format!("{stake}. {}", consequence(&report)));
    }
    Ok(Status::Well)
}

/// Nothing was changed: says what either choice would keep.
fn refuse(plan: &RecoveryPlan, healed: &HealReport, out: &Output) -> Result<Status> {
    let report = plan.report();
    if out.json() {
        out.object(&Report::new(&report, healed))?;
    } else {
        out.text(&tell(&report, healed, out))?;
    }
    let stake = commits::at_stake(&plan.findings, plan.verdict).unwrap_or_default();
    complain(&format!("{stake}. {}", commits::choices(plan)));
    Ok(Status::Damage)
}

/// What became of the commits that were at stake.
fn consequence(report: &RecoveryReport) -> String {
    let lost = match report.lost_commits {
        0 => "The frames behind the damage were dropped".to_owned(),
        1 => "That commit was dropped".to_owned(),
        lost => format!("These {} were dropped", count(lost, "commit")),
    };
    let mut text = match &report.kept_aside {
        Some(aside) => format!("{lost}; the damaged log is kept as {}", aside.display()),
        None => lost,
    };
    if let Some(copy) = &report.salvaged {
        let _ = write!(
            text,
            ". What can still be read of them is in {}, a database of its own: look into that one before you go on",
            copy.path.display()
        );
    }
    text
}

/// What a salvaged copy lacks.
fn missing_from(copy: &SalvagedCopy) -> String {
    const SHOWN: usize = 8;
    let mut missing = Vec::new();
    if !copy.stale_pages.is_empty() {
        let shown: Vec<String> = copy.stale_pages.iter().take(SHOWN).map(u32::to_string).collect();
        let more = if copy.stale_pages.len() > SHOWN {
            ", ..."
        } else {
            ""
        };
        missing.push(format!(
            "{} older than the rest: {}{more}",
            count(copy.stale_pages.len() as u64, "page"),
            shown.join(", ")
        ));
    }
    if copy.unknown_frames > 0 {
        missing.push(format!(
            "{} of pages that nothing names",
            count(copy.unknown_frames, "damaged frame")
        ));
    }
    if missing.is_empty() {
        return "nothing is missing: every damaged page was written again later".into();
    }
    missing.join("; ")
}

fn tell(report: &RecoveryReport, healed: &HealReport, out: &Output) -> String {
    let headline = match report.decision {
        Decision::Clean | Decision::TornTail if !healed.frames_healed.is_empty() => {
            out.good("Healed: damaged frames were restored from the sidecar.")
        }
        Decision::Clean => out.good("Clean: there was nothing to repair."),
        Decision::TornTail => out.good("Recovered: a torn tail was dropped."),
        Decision::Salvaged => out.bad("Salvaged: what precedes the damage was kept."),
        Decision::Truncated => out.bad("Truncated: what precedes the damage was kept."),
        Decision::Refused => out.bad("Refused: acknowledged commits are at stake."),
        Decision::Ambiguous => out.bad("Refused: commits may be at stake."),
    };
    let mut text = format!("{headline}\n");
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {}{value}", out.faint(&format!("{name:<18}")));
    };
    let (kept, lost) = match report.decision.admits() {
        true => ("commits kept", "commits lost"),
        false => ("commits readable", "commits at stake"),
    };
    line(
        kept,
        format!(
            "{} in {}",
            number(report.commits),
            count(report.committed_frames, "frame")
        ),
    );
    line(lost, number(report.lost_commits));
    line("frames dropped", number(report.dropped_frames));
    if !healed.frames_healed.is_empty() {
        line("frames healed", number(healed.frames_healed.len() as u64));
    }
    if let Some(aside) = report.kept_aside.as_ref().or(healed.kept_aside.as_ref()) {
        line("damaged log", aside.display().to_string());
    }
    if let Some(copy) = &report.salvaged {
        line("saved copy", copy.path.display().to_string());
        let from = format!(
            "{} of {} from behind the damage",
            number(copy.pages_from_behind),
            count(copy.db_pages, "page")
        );
        line("", from);
        line("", missing_from(copy));
    }
    match report.replaced {
        Some(Whereabouts::InDatabase) => line(
            "earlier log",
            "gone, as it should be: another program brought it into the database".into(),
        ),
        Some(Whereabouts::ChangedSince) => line(
            "earlier log",
            "gone: another program went on with the database since".into(),
        ),
        Some(Whereabouts::Lost) => line(
            "earlier log",
            "gone, and the database does not hold its commits".into(),
        ),
        None => {}
    }
    text
}
