//! The sidecar of the database file, and what the commands make of it.

use crate::format::{bytes, count, number};
use crate::progress::Progress;
use serde::Serialize;
use std::path::Path;
use walmend::{Identity, Pages, identify};
use walmend_error::{Error, Result};
use walmend_repair::{DatabaseCheck, ProtectedDatabase, Standing, Work};
use walmend_sync::thread;
use walmend_types::Cx;
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use walmend_wal::{FileSet, exclusive_holder, with_suffix};

/// Bytes of a megabyte, as people count them.
const MB: u64 = 1_000_000;
/// More threads would want more memory than they save time.
const MOST_THREADS: usize = 8;

/// What `inspect` and `verify` say of the sidecar of the database file.
#[derive(Debug, Serialize)]
pub(crate) struct DbSidecar {
    path: String,
    bytes: u64,
    pages_covered: u32,
    bad_pages: Vec<u32>,
    bad_records: u32,
    /// Those of the bad pages that cannot be rebuilt.
    unhealable_pages: Vec<u32>,
    /// Pages that differ, and may have been written just as well as damaged.
    undecided_pages: Vec<u32>,
    /// Pages that were written since, as the log shows.
    written_pages: u32,
    /// Another program wrote to the database since it was protected.
    stale: bool,
    /// Protecting it was not interrupted.
    complete: bool,
}

impl From<&DatabaseCheck> for DbSidecar {
    fn from(check: &DatabaseCheck) -> Self {
        Self {
            path: check.path.display().to_string(),
            bytes: check.bytes,
            pages_covered: check.pages_covered,
            bad_pages: bad_pages(check),
            bad_records: check.bad_records,
            unhealable_pages: check.unhealable.clone(),
            undecided_pages: check.undecided.clone(),
            written_pages: check.written,
            stale: !check.standing.decides(),
            complete: check.complete,
        }
    }
}

/// The pages that are damaged, as far as anybody can tell: what differs although nothing else shows that somebody wrote
/// is among them.
pub(crate) fn bad_pages(check: &DatabaseCheck) -> Vec<u32> {
    let suspected = match check.standing {
        Standing::Touched => &check.undecided[..],
        _ => &[],
    };
    let mut bad = [&check.damaged[..], suspected].concat();
    bad.sort_unstable();
    bad
}

/// Whether `verify` has to report damage.
pub(crate) fn is_damaged(check: &DatabaseCheck) -> bool {
    !bad_pages(check).is_empty() || check.bad_records > 0
}

/// Compares the database file with its sidecar. On a database in use it looks again before it speaks of damage.
pub(crate) fn examine(vfs: &dyn Vfs, files: &FileSet, db: &dyn VfsFile) -> Result<Option<DatabaseCheck>> {
    let look = || {
        let progress = steps("verifying the database", vfs, &files.db)?;
        let done = |read| progress.set(read / MB);
        let cx = Cx::new();
        DatabaseCheck::make(
            vfs,
            files,
            &Work::new(&cx).threads(thread_count()).progress(&done),
        )
    };
    let mut check = look()?;
    for _ in 0..2 {
        let damaged = check.as_ref().is_some_and(is_damaged);
        if !damaged || exclusive_holder(vfs, files, db)?.is_none() {
            break;
        }
        let again = look()?;
        let same = again == check;
        check = again;
        if same {
            break;
        }
    }
    Ok(check)
}

/// A bar over the megabytes of the database file.
pub(crate) fn steps(label: &'static str, vfs: &dyn Vfs, db: &Path) -> Result<Progress> {
    let len = vfs.info(db)?.map_or(0, |info| info.len);
    Ok(Progress::steps(label, len / MB))
}

/// How many threads walk over a database.
pub(crate) fn thread_count() -> usize {
    thread::available_parallelism().map_or(1, |count| count.get().min(MOST_THREADS))
}

/// Tells what a database is, by its sidecar where its first page no longer says so.
pub(crate) fn identify_protected(vfs: &dyn Vfs, path: &Path) -> Result<Identity> {
    let refused = match identify(vfs, path) {
        Err(error @ Error::NotADatabase { .. }) => error,
        other => return other,
    };
    let files = FileSet::resolve(vfs, path)?;
    // An unfinished transaction of sqlite3 comes first.
    let journal = vfs.info(&with_suffix(&files.db, "-journal"))?;
    if journal.is_some_and(|journal| journal.len > 0) {
        return Err(refused);
    }
    let Ok(file) = vfs.open(&files.db, OpenFlags::READ) else {
        return Err(refused);
    };
    let Some(known) = ProtectedDatabase::read(vfs, &files)? else {
        return Err(refused);
    };
    let pages = if known.sqlite { Pages::Sqlite } else { Pages::Raw };
    let (page_size, db_pages) = (known.page_size, known.pages);
    Ok(Identity::known(
        path.to_path_buf(),
        file.len()?,
        pages,
        page_size,
        db_pages,
    ))
}

/// For people.
pub(crate) fn lines(check: &DatabaseCheck, database: &Path) -> Vec<(&'static str, String)> {
    let covered = count(check.pages_covered, "page");
    let mut lines = vec![(
        "protects",
        format!("{covered} of the database file; {}", bytes(check.bytes)),
    )];
    let protect = format!("`walmend protect {}`", database.display());
    match check.standing {
        _ if check.bad_records > 0 && check.pages_covered == 0 => {}
        Standing::Stale if !check.complete => {
            lines.push((
                "is not complete",
                format!("protecting it was interrupted: {protect}"),
            ));
        }
        Standing::Stale => {
            lines.push((
                "is stale",
                format!("another program has written since it was made: {protect}"),
            ));
        }
        Standing::Touched => lines.push((
            "may be stale",
            "the file was written since it was made, by nobody who says so".into(),
        )),
        Standing::FollowedByLog | Standing::Current => {}
    }
    for (name, pages) in [
        ("damaged", &check.damaged),
        ("not healable", &check.unhealable),
        ("undecided", &check.undecided),
    ] {
        if !pages.is_empty() {
            lines.push((name, listed(pages)));
        }
    }
    if check.written > 0 {
        let written = count(check.written, "page");
        lines.push((
            "written since",
            format!("{written}, which the log still shows: {protect}"),
        ));
    }
    if check.bad_records > 0 {
        lines.push((
            "bad records",
            format!("{}: {protect} mends that", number(check.bad_records)),
        ));
    }
    lines
}

/// The verdict on pages, for people; empty where there is nothing to say.
pub(crate) fn verdict(check: &DatabaseCheck, database: &Path) -> String {
    let database = database.display();
    if !check.unhealable.is_empty() {
        return format!(
            "{} cannot be rebuilt: too much of their stripes is damaged.\n",
            listed(&check.unhealable)
        );
    }
    if !check.damaged.is_empty() {
        return format!("All damaged pages can be healed: `walmend heal {database}`.\n");
    }
    if check.standing == Standing::Touched && !check.undecided.is_empty() {
        return format!(
            "Pages differ, and nobody can say whether they were damaged or written: after a write, `walmend protect \
             {database}` takes them as they are; after damage, `walmend heal --trust-sidecar {database}` puts them \
             back.\n"
        );
    }
    String::new()
}

/// The pages by number, the first ones of many.
pub(crate) fn listed(pages: &[u32]) -> String {
    let shown: Vec<String> = pages.iter().take(10).map(u32::to_string).collect();
    let more = if pages.len() > shown.len() { ", ..." } else { "" };
    let text = count(pages.len() as u64, "page");
    if shown.is_empty() {
        return text;
    }
    format!("{text}: {}{more}", shown.join(", "))
}
