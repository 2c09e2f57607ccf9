//! The process that is killed: a store, and writers that commit to it as fast as they can.

use super::content::{Content, FINAL, Version};
use super::plan::{Group, groups};
use super::protocol::{Assignment, Line};
use nix::sys::signal::SigSet;
use std::io::{self, BufRead, Read, Write};
use std::time::Duration;
use walmend::{CheckpointMode, CommitSeq, Options, Store};
use walmend_error::{Error, Result};
use walmend_sync::thread;
use walmend_types::{PageNumber, PageSize};

/// One of the writers checkpoints once so many bytes of frames are in the log but not in the database, and a
/// quarter of the database's size: otherwise a drill with a large one would do little else.
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// The checkpoints take turns, so that kills hit all of them.
const MODES: [CheckpointMode; 4] = [
    CheckpointMode::Truncate,
    CheckpointMode::Full,
    CheckpointMode::Restart,
    CheckpointMode::Passive,
];
/// By then what is committed is repairable.
const REPAIR_WAIT: Duration = Duration::from_secs(60);
/// A writer reports the totals after so many commits of its own.
const STATS_EVERY: u64 = 16;

/// The whole life of a child: reads its assignment from standard input, and reports on standard output.
pub(super) fn live() -> Result<()> {
    // The parent waits for these signals in a thread of its own; here they shall work as always.
    SigSet::all()
        .thread_unblock()
        .map_err(|errno| Error::Internal(format!("signals cannot be unblocked: {errno}")))?;
    let assignment = read_assignment()?;
    end_with_parent();
    let ended = work(&assignment);
    if let Err(error) = &ended {
        say(&Line::Failed(error.to_string()))?;
    }
    ended
}

fn read_assignment() -> Result<Assignment> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| Error::io("read", "standard input".as_ref(), None, error))?;
    serde_json::from_str(&line)
        .map_err(|error| Error::Invalid(format!("this command is for `walmend drill` alone: {error}")))
}

/// Ends this process when its parent is gone, whatever became of it: the kernel closes its end of the pipe.
fn end_with_parent() {
    thread::spawn(|| {
        let mut rest = Vec::new();
        // Nothing more is ever sent, so this returns at the end only.
        let _ = io::stdin().lock().read_to_end(&mut rest);
        std::process::exit(2);
    });
}

/// Tells the parent, in one call, so that the line is whole or not there.
fn say(line: &Line) -> Result<()> {
    let text = format!("{line}\n");
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Error::io("write", "standard output".as_ref(), None, error))
}

struct Writers<'a> {
    assignment: &'a Assignment,
    store: &'a Store,
    content: Content,
    groups: Vec<Group>,
}

fn work(assignment: &Assignment) -> Result<()> {
    let page_size = PageSize::new(assignment.page_size)?;
    let pages = assignment.pages();
    // What its checkpoints write has to be healable as well, whenever it is killed.
    let options = Options::new()
        .pages(pages)
        .page_size(page_size)
        .protect_database(true);
    let (store, report) = Store::open(&assignment.database, options)?;
    say(&Line::Open {
        commit_seq: report.commit_seq.0,
    })?;
    let writers = Writers {
        assignment,
        store: &store,
        content: Content::new(assignment.seed, pages, page_size, &assignment.source)?,
        groups: groups(assignment.seed, assignment.db_pages, page_size),
    };
    if report.db_pages != assignment.db_pages {
        // Alone, because the others count on the size.
        let version = if assignment.finish { FINAL } else { 1 };
        writers.commit(0, version, Some(assignment.db_pages))?;
    }
    let ends: Vec<Result<()>> = thread::scope(|scope| {
        let writer = |number| {
            let writers = &writers;
            scope.spawn(move || writers.run(number))
        };
        let threads: Vec<_> = (0..assignment.writers).map(writer).collect();
        let panicked = |_| Err(Error::Internal("a writer has panicked".into()));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(panicked))
            .collect()
    });
    ends.into_iter().collect::<Result<()>>()?;
    // What is to be damaged and healed next has to be repairable.
    store.wait_for_repair(REPAIR_WAIT)?;
    writers.report_totals()?;
    drop(writers);
    store.close()?;
    say(&Line::Done)
}

impl Writers<'_> {
    /// One writer: its groups, round by round.
    fn run(&self, number: u32) -> Result<()> {
        let mut mine: Vec<(usize, Version)> = self
            .assignment
            .versions
            .iter()
            .copied()
            .enumerate()
            .skip(number as usize)
            .step_by(self.assignment.writers as usize)
            .collect();
        if mine.is_empty() {
            return Ok(());
        }
        // A group that was just used to set the size is one version ahead.
        if let Some((0, version @ 0)) = mine.first_mut() {
            *version = if self.assignment.finish { FINAL } else { 1 };
        }
        let mut commits = 0;
        let mut checkpoints = 0;
        loop {
            for (group, version) in &mut mine {
                if *version == FINAL {
                    continue;
                }
                *version = if self.assignment.finish {
                    FINAL
                } else {
                    *version + 1
                };
                self.commit(*group, *version, None)?;
                commits += 1;
                if commits % STATS_EVERY == 0 {
                    self.report_totals()?;
                }
                // At the end the log is needed: its bits are going to be flipped.
                if number == 0 && !self.assignment.finish && self.wants_checkpoint() {
                    say(&Line::Begin)?;
                    self.store.checkpoint(MODES[checkpoints % MODES.len()])?;
                    say(&Line::End)?;
                    checkpoints += 1;
                }
            }
            if self.assignment.finish {
                return Ok(());
            }
        }
    }

    fn commit(&self, group: usize, version: Version, db_pages: Option<u32>) -> Result<()> {
        let mut txn = self.store.begin()?;
        for page in &self.groups[group] {
            txn.write(PageNumber::new(*page)?, self.content.page(*page, version)?)?;
        }
        if let Some(db_pages) = db_pages {
            txn.set_db_pages(db_pages)?;
        }
        let CommitSeq(commit_seq) = txn.commit().into_result()?;
        say(&Line::Ack {
            group,
            version,
            commit_seq,
        })
    }

    fn report_totals(&self) -> Result<()> {
        let stats = self.store.stats();
        let window = stats
            .repair
            .map(|repair| [repair.window_p50, repair.window_p99, repair.window_max])
            .unwrap_or_default();
        say(&Line::Stats {
            window: window.map(|window| u64::try_from(window.as_micros()).unwrap_or(u64::MAX)),
            commits: stats.commits,
            batches: stats.batches,
            syncs: stats.syncs,
        })
    }

    fn wants_checkpoint(&self) -> bool {
        let stats = self.store.stats();
        let frames = stats.log_frames - stats.backfilled_frames.min(stats.log_frames);
        let bytes = |pages: u32| u64::from(pages) * u64::from(self.assignment.page_size);
        bytes(frames) > CHECKPOINT_BYTES.max(bytes(self.assignment.db_pages) / 4)
    }
}
