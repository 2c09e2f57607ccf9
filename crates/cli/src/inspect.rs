//! `inspect` and `verify`: what is in the files, read without changing anything and without any lock.

use crate::args::Examine;
use crate::commits;
use crate::database::{self, DbSidecar, identify_protected};
use crate::format::{Align, Table, bytes, count, number};
use crate::output::{ErrorBody, Output, Status, complain, sentence};
use crate::progress::Progress;
use crate::report::{Damage, Report, Wal};
use crate::sidecar::Sidecar;
use std::fmt::Write;
use std::path::Path;
use walmend::{Identity, Pages};
use walmend_error::{Error, Result};
use walmend_repair::DatabaseCheck;
use walmend_vfs::{OpenFlags, UnixVfs, Vfs, VfsFile};
use walmend_wal::{FileSet, Findings, HeaderState, Verdict, decide, store_is_live};

/// How often a finding of damage is looked at again, in case a live program was just writing there.
const LOOKS: u32 = 3;

/// `walmend inspect`, and `walmend verify`: they differ in what one calls them for.
pub(crate) fn run(args: &Examine, out: &Output) -> Result<Status> {
    let examined = Examined::of(&args.target.database, args.evidence.writer_synced_every_commit)?;
    examined.print(args.frames, out)
}

/// A database and its log, as they were found.
struct Examined {
    identity: Identity,
    findings: Findings,
    verdict: Verdict,
    sidecar: Option<Sidecar>,
    database: Option<DatabaseCheck>,
    live: bool,
}

impl Examined {
    fn of(path: &Path, synced_every_commit: bool) -> Result<Self> {
        let progress = Progress::spinner("reading the log");
        let vfs = UnixVfs::new();
        let identity = identify_protected(&vfs, path)?;
        let db = vfs.open(path, OpenFlags::READ)?;
        let files = FileSet::resolve(&vfs, path)?;
        let look = || -> Result<(Findings, bool)> {
            let live = store_is_live(&*db)?;
            let page_size = identity.page_size;
            let findings = Findings::gather(&vfs, &files, &*db, page_size, synced_every_commit, live)?;
            Ok((findings, live))
        };
        let (mut findings, mut live) = look()?;
        // No lock is taken, so a program may have begun the log anew halfway through. Damage stays.
        for _ in 1..LOOKS {
            if !is_damaged(decide(findings.facts())) {
                break;
            }
            let before = findings.damage;
            (findings, live) = look()?;
            if findings.damage == before {
                break;
            }
        }
        let verdict = decide(findings.facts());
        let sidecar = Sidecar::examine(&vfs, &files)?;
        drop(progress);
        let database = database::examine(&vfs, &files, &*db)?;
        Ok(Self {
            identity,
            sidecar,
            database,
            findings,
            verdict,
            live,
        })
    }

    fn print(&self, frames: bool, out: &Output) -> Result<Status> {
        let log: Option<std::sync::Arc<dyn VfsFile>> = match &self.findings.scan {
            Some(_) => Some(UnixVfs::new().open(&self.findings.files.wal, OpenFlags::READ)?),
            None => None,
        };
        let mut report = Report::new(
            &self.identity,
            &self.findings,
            log.as_deref(),
            self.sidecar.as_ref(),
            frames,
        )?;
        let unsupported = match self.findings.scan.as_ref().map(|scan| scan.header) {
            Some(HeaderState::UnsupportedVersion(version)) => Some(Error::UnsupportedVersion {
                path: self.findings.files.wal.clone(),
                version,
            }),
            _ => None,
        };
        report.db_sidecar = self.database.as_ref().map(DbSidecar::from);
        report.error = unsupported.as_ref().map(ErrorBody::from);
        if out.json() {
            out.object(&report)?;
        } else {
            out.text(&self.tell(&report, out))?;
        }
        if let Some(error) = unsupported {
            complain(&sentence(&error));
            return Ok(Status::Failed);
        }
        let sidecar = self.sidecar.as_ref().map(|sidecar| &sidecar.plan);
        let weakened = sidecar.is_some_and(|plan| plan.frames_weakened() > 0 || !plan.damaged().is_empty());
        let pages = self.database.as_ref().is_some_and(database::is_damaged);
        Ok(
            if pages || is_damaged(self.verdict) || !self.findings.damage.is_empty() || weakened {
                Status::Damage
            } else {
                Status::Well
            },
        )
    }

    /// The report for people.
    fn tell(&self, report: &Report, out: &Output) -> String {
        let findings = &self.findings;
        let mut text = String::new();
        let kind = match self.identity.pages {
            Pages::Raw => "opaque",
            Pages::Sqlite => "SQLite",
        };
        let mut section = |title: &str, path: &str, lines: &[(&str, String)]| {
            let _ = writeln!(text, "{}  {path}", out.strong(title));
            for (name, value) in lines {
                let _ = writeln!(text, "  {}{value}", out.faint(&format!("{name:<15}")));
            }
            text.push('\n');
        };
        let database = &report.database;
        section(
            "Database",
            &database.path,
            &[(
                "file",
                format!(
                    "{} {kind} {} of {} bytes, {}",
                    number(database.pages),
                    if database.pages == 1 { "page" } else { "pages" },
                    number(database.page_size),
                    bytes(database.bytes)
                ),
            )],
        );
        match &report.wal {
            Some(wal) => section("Log", &wal.path, &self.log_lines(wal)),
            None => section("Log", "there is none", &[]),
        }
        if let Some(meta) = &report.wal_meta {
            let matches = match (meta.matches_log, meta.commit_seq) {
                (true, _) => "this log",
                (false, 0) => "nothing yet",
                (false, _) => "another log, or an earlier state of this one",
            };
            section(
                "Companion",
                &meta.path,
                &[
                    (
                        "durable up to",
                        format!("frame {}, commit {}", meta.durable_frame, meta.commit_seq),
                    ),
                    ("speaks of", matches.into()),
                ],
            );
        }
        if let Some(sidecar) = &self.sidecar {
            section("Sidecar", &sidecar.path.display().to_string(), &sidecar.lines());
        }
        if let Some(check) = &self.database {
            section(
                "Sidecar",
                &check.path.display().to_string(),
                &database::lines(check, &findings.files.db),
            );
        }
        if let Some(wal) = &report.wal {
            text.push_str(&tables(wal, out));
        }
        if report.error.is_none() {
            let damage = report.wal.as_ref().map_or(&[][..], |wal| &wal.damage);
            let pages = match &self.database {
                Some(check) => database::verdict(check, &findings.files.db),
                None => String::new(),
            };
            // Damage in the pages alone must not be called "no damage" in the log.
            if pages.is_empty() || !damage.is_empty() || is_damaged(self.verdict) {
                text.push_str(&self.verdict_for_people(damage, out));
            } else {
                let _ = write!(text, "{} ", out.bad("Damage:"));
            }
            text.push_str(&pages);
        }
        text
    }

    fn log_lines(&self, wal: &Wal) -> Vec<(&'static str, String)> {
        if wal.bytes == 0 {
            return vec![("state", "empty: everything is in the database file".into())];
        }
        let mut lines = vec![
            (
                "header",
                format!(
                    "{}, checkpoint sequence {}, salts {:08x} {:08x}, checksums {}-endian",
                    wal.header.replace('_', " "),
                    wal.checkpoint_seq,
                    wal.salt1,
                    wal.salt2,
                    wal.byte_order
                ),
            ),
            (
                "frames",
                format!(
                    "{} committed, {} valid, {} in the file of {}",
                    number(wal.committed_frames),
                    number(wal.valid_frames),
                    count(wal.slots, "slot"),
                    bytes(wal.bytes)
                ),
            ),
            (
                "commits",
                format!(
                    "{}; the database has {}",
                    number(wal.commits),
                    count(wal.db_pages, "page")
                ),
            ),
        ];
        let end = match wal.end {
            "end_of_file" => "the end of the file",
            "salt" => "a slot of another generation, or zeros",
            "checksum" => "a frame whose checksum is wrong",
            "zero_page" => "a frame without a page number",
            _ => "a part of a frame",
        };
        lines.push(("ends at", end.into()));
        if self.live {
            lines.push((
                "in use",
                "a walmend store is writing: only what is known to be durable was read".into(),
            ));
        }
        lines
    }

    fn verdict_for_people(&self, damage: &[Damage], out: &Output) -> String {
        let findings = &self.findings;
        let database = findings.files.db.display();
        if !damage.is_empty() && damage.iter().all(|damage| damage.healable) {
            return format!(
                "{} all of it can be healed: `walmend heal {database}`.\nUntil then let no other program open the \
                 database: sqlite3 would drop what is behind the damage without a word.\n",
                out.bad("Damage:")
            );
        }
        if let Some(stake) = commits::at_stake(findings, self.verdict) {
            return format!(
                "{} {stake}.\nKeep a copy of all files, and let no other program open the database: sqlite3 would drop \
                 these commits without a word.\n`walmend recover --on-damage salvage {database}` keeps what precedes \
                 the damage.\n",
                out.bad("Damage:")
            );
        }
        if damage.iter().any(|damage| damage.certain) {
            return format!(
                "{} frames that were durable are damaged, and the sidecar cannot mend all of them.\n",
                out.bad("Damage:")
            );
        }
        if !damage.is_empty() {
            // Damage that the decision table can live with, because no commit depends on it.
            return format!(
                "{} no commit depends on the damaged frames.\n",
                out.bad("Damage:")
            );
        }
        let tail = match (self.verdict, &findings.scan) {
            (Verdict::UseDroppingTail, Some(scan)) => {
                let frames = scan.last_of_generation - scan.committed_frames;
                format!(
                    " {} behind the last commit never became a commit: the next writer overwrites {}.",
                    count(frames, "frame"),
                    if frames == 1 { "it" } else { "them" }
                )
            }
            _ => String::new(),
        };
        format!("{}{tail}\n", out.good("No damage."))
    }
}

fn is_damaged(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Damaged(_))
}

fn tables(wal: &Wal, out: &Output) -> String {
    let mut text = String::new();
    let mut print = |title: &str, table: &Table| {
        let _ = writeln!(text, "{}\n{}", out.strong(title), table.text(out));
    };
    if let Some(frames) = &wal.frames {
        let mut table = Table::new([
            ("frame", Align::Right),
            ("page", Align::Right),
            ("commit", Align::Right),
            ("database size", Align::Right),
            ("valid", Align::Left),
            ("protected", Align::Left),
        ]);
        for frame in frames {
            table.row([
                frame.frame.to_string(),
                frame.page.to_string(),
                frame.commit_seq.map_or_else(|| "-".into(), |seq| seq.to_string()),
                match frame.db_pages {
                    0 => String::new(),
                    pages => number(pages),
                },
                if frame.valid { "yes" } else { "no" }.into(),
                if frame.covered { "yes" } else { "no" }.into(),
            ]);
        }
        print("Frames", &table);
    }
    if !wal.damage.is_empty() {
        let mut table = Table::new([
            ("frame", Align::Right),
            ("what is wrong", Align::Left),
            ("certain", Align::Left),
            ("can be healed", Align::Left),
        ]);
        // A torn-out middle may be thousands of frames; the first ones tell the story.
        for damage in wal.damage.iter().take(20) {
            let place = match damage.frame {
                0 => "header".into(),
                frame => frame.to_string(),
            };
            table.row([
                place,
                damage.what.replace('_', " "),
                if damage.certain { "yes" } else { "no" }.into(),
                if damage.healable { "yes" } else { "no" }.into(),
            ]);
        }
        if wal.damage.len() > 20 {
            let rest = wal.damage.len() as u64 - 20;
            table.row([
                "...".into(),
                format!("{} more", number(rest)),
                String::new(),
                String::new(),
            ]);
        }
        print("Damage", &table);
    }
    text
}
