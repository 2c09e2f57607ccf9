//! `protect`: the sidecars of the log and of the database file, made or brought up to date.

use crate::args::Protect;
use crate::database::{self, listed};
use crate::format::{bytes, count};
use crate::interrupt;
use crate::locked::Locked;
use crate::output::{Output, Status, complain};
use crate::progress::Progress;
use serde::Serialize;
use std::fmt::Write;
use walmend_error::{Error, Result};
use walmend_repair::{
    DatabaseProtectReport, ProtectReport, ReedSolomon, Work, db_sidecar_path, protect_database, protect_log,
    wal_sidecar_path,
};
use walmend_wal::{Findings, Verdict, decide};

#[derive(Debug, Serialize)]
struct Report {
    wal_sidecar: WalSidecar,
    db_sidecar: DbSidecar,
}

#[derive(Debug, Serialize)]
struct WalSidecar {
    path: String,
    bytes: u64,
    frames_covered: u32,
    frames_added: u32,
    groups_added: u32,
    /// Whole commits behind damage, which are not protected.
    behind_damage: bool,
}

#[derive(Debug, Serialize)]
struct DbSidecar {
    path: String,
    bytes: u64,
    pages_covered: u32,
    /// Pages in stripes that were made anew.
    pages_renewed: u32,
    /// Pages that an interrupted run had done.
    pages_skipped: u32,
    /// Pages that are damaged, and were left as they are.
    bad_pages: Vec<u32>,
}

/// `walmend protect`.
pub(crate) fn run(args: &Protect, out: &Output) -> Result<Status> {
    let path = &args.target.database;
    let cx = interrupt::cancelled_by_signals()?;
    let locked = Locked::open(path)?;
    let (vfs, files) = (&locked.vfs, &locked.files);
    let progress = Progress::spinner("protecting the log");
    let log = match protect_log(vfs, files, &ReedSolomon) {
        Err(Error::Invalid(_)) if is_no_log(&locked)? => ProtectReport::default(),
        log => log?,
    };
    drop(progress);
    let progress = database::steps("protecting the database", vfs, &files.db)?;
    let done = |read| progress.set(read / 1_000_000);
    let work = Work::new(&cx).threads(database::thread_count()).progress(&done);
    let pages = protect_database(vfs, files, locked.identity.page_size, &ReedSolomon, &work)
        .map_err(interrupt::explain)?;
    drop(progress);
    if out.json() {
        out.object(&Report {
            wal_sidecar: WalSidecar {
                path: wal_sidecar_path(&files.db).display().to_string(),
                bytes: log.sidecar_bytes,
                frames_covered: log.already_covered + log.newly_covered,
                frames_added: log.newly_covered,
                groups_added: log.groups_added,
                behind_damage: log.behind_damage,
            },
            db_sidecar: DbSidecar {
                path: db_sidecar_path(&files.db).display().to_string(),
                bytes: pages.sidecar_bytes,
                pages_covered: pages.pages,
                pages_renewed: pages.pages_renewed,
                pages_skipped: pages.pages_skipped,
                bad_pages: pages.damaged.clone(),
            },
        })?;
    } else {
        out.text(&tell(&log, &pages, out))?;
    }
    if log.behind_damage {
        complain(&format!(
            "the log breaks behind frame {}, with whole commits behind the break: what follows is not protected. See \
             `walmend verify {}`",
            log.committed_frames,
            path.display()
        ));
    }
    if !pages.damaged.is_empty() {
        complain(&format!(
            "damaged, and what protects them was left as it is: {}. See `walmend heal {}`",
            listed(&pages.damaged),
            path.display()
        ));
    }
    if log.behind_damage || !pages.damaged.is_empty() {
        return Ok(Status::Damage);
    }
    Ok(Status::Well)
}

/// Whether what has the log's name has no header and nothing in it that counts: zeros after a power loss, most likely.
/// The next to open the database begins anew there, and there is nothing to protect.
fn is_no_log(locked: &Locked) -> Result<bool> {
    let page_size = locked.identity.page_size;
    let findings = Findings::gather(&locked.vfs, &locked.files, &*locked.db, page_size, false, false)?;
    Ok(decide(findings.facts()) == Verdict::StartAfresh)
}

fn tell(log: &ProtectReport, pages: &DatabaseProtectReport, out: &Output) -> String {
    let headline = match (log.committed_frames, pages.damaged.is_empty()) {
        (_, false) => out.bad("The database is protected in part."),
        (0, true) => out.good("The database is protected; the log holds no commit."),
        (_, true) => out.good("The database and its log are protected."),
    };
    let mut text = format!("{headline}\n");
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {}{value}", out.faint(&format!("{name:<16}")));
    };
    line("pages", count(pages.pages, "page"));
    line("made anew", count(pages.pages_renewed, "page"));
    if pages.pages_skipped > 0 {
        line(
            "done before",
            format!(
                "{}, by a run that was interrupted",
                count(pages.pages_skipped, "page")
            ),
        );
    }
    line("their sidecar", bytes(pages.sidecar_bytes));
    if log.committed_frames > 0 {
        line("frames kept", count(log.already_covered, "frame"));
        let groups = count(log.groups_added, "group");
        line(
            "frames added",
            format!("{} in {groups}", count(log.newly_covered, "frame")),
        );
        line("their sidecar", bytes(log.sidecar_bytes));
    }
    text
}
