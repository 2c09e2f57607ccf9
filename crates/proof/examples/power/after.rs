//! What is found on a disk after a power cut: by SQLite, by walmend, and by SQLite after walmend.

use crate::database::Pages;
use crate::settings::{Engine, Settings};
use crate::{sqlite, worker};
use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use walmend::{Decision, Store};
use walmend_proof::power::{Expected, Found, Verdict};

/// The database in the machine and on the disk.
pub(crate) const DATABASE: &str = "power.db";

/// What was found, and what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct After {
    /// What the bodies say.
    pub(crate) verdict: Verdict,
    /// What walmend's recovery dropped of an unfinished tail.
    pub(crate) torn_tail: bool,
    /// Everything that is wrong.
    pub(crate) problems: Vec<String>,
    /// What lost transactions, or could not read: each one counts, the same loss seen twice as well.
    pub(crate) lost: u64,
}

impl After {
    fn take(&mut self, who: &str, verdict: Verdict) {
        self.lost += verdict.lost + verdict.torn + verdict.invented;
        let problems = verdict.problems.iter();
        self.problems
            .extend(problems.map(|problem| format!("{who}: {problem}")));
        self.verdict = verdict;
    }

    fn fail(&mut self, problem: String) {
        self.lost += 1;
        self.problems.push(problem);
    }
}

/// A file system in a file, for as long as this lives.
pub(crate) struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Mounts `image` in the scratch folder: the journal of the file system is played back.
    ///
    /// # Errors
    /// Of mount.
    pub(crate) fn new(settings: &Settings, image: &Path, options: &str) -> Result<Self, String> {
        let at = settings.scratch.join("mounted");
        fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        let mut mount = Command::new("mount");
        mount.args(["-t", &settings.file_system, "-o", &format!("loop,{options}")]);
        run(mount.arg(image).arg(&at))?;
        Ok(Self { at })
    }

    /// A file on it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(&self.at)) {
            eprintln!("{error}");
        }
    }
}

/// Runs a command that says nothing when it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// Looks at the disk `image`, which is changed. With `heal`, `walmend heal` comes first.
pub(crate) fn look(settings: &Settings, image: &Path, expected: &Expected, heal: bool) -> After {
    let mut after = After::default();
    let mounted = match Mounted::new(settings, image, "rw") {
        Ok(mounted) => mounted,
        Err(error) => {
            after.fail(error);
            return after;
        }
    };
    let db = mounted.file(DATABASE);
    let work = &settings.work;
    if work.pages == Pages::Sqlite && work.engine != Engine::Turns {
        // walmend's log as the power cut left it, to a reader that knows nothing of walmend.
        by_sqlite(settings, &db, "SQLite first", expected, &mut after);
    }
    if work.engine.is_ours() {
        if heal && db.exists() {
            command(settings, &db, "heal", &mut after);
        }
        if let Err(error) = by_walmend(settings, &db, expected, &mut after) {
            after.fail(format!("walmend: {error}"));
        }
        command(settings, &db, "verify", &mut after);
    }
    if work.pages == Pages::Sqlite {
        by_sqlite(settings, &db, "SQLite at last", expected, &mut after);
    }
    after
}

/// `walmend COMMAND`: it may find nothing wrong.
fn command(settings: &Settings, db: &Path, command: &str, after: &mut After) {
    let output = Command::new(&settings.walmend).arg(command).arg(db).output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
            after.fail(format!(
                "walmend {command} ended with {}: {}",
                output.status,
                said.concat().trim()
            ));
        }
        Err(error) => after.fail(format!("{}: {error}", settings.walmend.display())),
    }
}

/// Recovery, what is there then, and whether a second opening agrees.
fn by_walmend(
    settings: &Settings,
    db: &Path,
    expected: &Expected,
    after: &mut After,
) -> Result<(), walmend::Error> {
    let bodies = |store: &Store| -> Result<Vec<Found>, walmend::Error> {
        let all = worker::look(store, &settings.work)?;
        Ok(all.into_iter().map(|(_, found)| found).collect())
    };
    let (store, report) = Store::open(db, worker::options(&settings.work))?;
    let first = bodies(&store)?;
    store.close()?;
    after.torn_tail = report.recovery.decision == Decision::TornTail;
    if !matches!(report.recovery.decision, Decision::Clean | Decision::TornTail) {
        after.fail(format!("recovery decided {}", report.recovery.decision.as_str()));
    }
    after.take("walmend", expected.check(|id| first[id as usize]));
    let (store, report) = Store::open(db, worker::options(&settings.work))?;
    if report.recovery.decision != Decision::Clean || bodies(&store)? != first {
        let decision = report.recovery.decision.as_str();
        after.fail(format!("the second opening differs from the first: {decision}"));
    }
    store.close()
}

/// SQLite on a copy of the database and its log.
fn by_sqlite(settings: &Settings, db: &Path, who: &str, expected: &Expected, after: &mut After) {
    let found = || -> Result<(String, Vec<Found>), String> {
        let folder = settings.scratch.join("copy");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let copy = folder.join(DATABASE);
        fs::copy(db, &copy).map_err(|error| format!("{}: {error}", db.display()))?;
        let log = |db: &Path| PathBuf::from(format!("{}-wal", db.display()));
        if log(db).exists() {
            fs::copy(log(db), log(&copy)).map_err(|error| error.to_string())?;
        }
        let text = |error: rusqlite::Error| error.to_string();
        let connection = Connection::open(copy).map_err(text)?;
        let integrity = sqlite::integrity(&connection).map_err(text)?;
        let rows = sqlite::rows(&connection, settings.work.groups).map_err(text)?;
        Ok((integrity, rows))
    };
    match found() {
        Err(error) => after.fail(format!("{who}: {error}")),
        Ok((integrity, rows)) => {
            if integrity != "ok" {
                after.fail(format!("{who}: {integrity}"));
            }
            after.take(who, expected.check(|id| rows[id as usize]));
        }
    }
}
