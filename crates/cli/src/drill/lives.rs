//! One life of the child: started, listened to, killed.

use super::content::Version;
use super::plan::Kill;
use super::protocol::{Assignment, Line};
use crate::folder::Folder;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend_error::{Error, Result};
use walmend_sync::{Condvar, Mutex, thread};

/// A child that is slower than its plan is killed after this time, once it has one acknowledgement.
const LONGEST: Duration = Duration::from_secs(3);
/// A child that has no acknowledgement after this time hangs.
const HANGS: Duration = Duration::from_secs(120);

/// One acknowledgement, as the child told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) group: usize,
    pub(super) version: Version,
    pub(super) commit_seq: u64,
}

/// What the parent heard of a life.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// The last commit when the child opened the store.
    pub(super) opened_at: u64,
    pub(super) acks: Vec<Ack>,
    /// Commits and syncs, as last reported.
    pub(super) totals: (u64, u64),
    /// How long commits were durable but not repairable, as last reported.
    pub(super) window: [u64; 3],
    pub(super) checkpoints: u64,
    /// It died in the middle of a checkpoint.
    pub(super) in_checkpoint: bool,
    /// From the open store to the end.
    pub(super) committing: Duration,
    done: bool,
    failed: Option<String>,
    open: Option<Instant>,
    /// The pipe is closed: nothing more will come.
    over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    life: Mutex<Life>,
    changed: Condvar,
}

/// Lets a child live: until it is killed, or until it has finished if `kill` is `None`.
///
/// # Errors
/// [`Error::Invalid`] with what the child says if it cannot go on, I/O errors.
pub(super) fn live(folder: &Folder, assignment: &Assignment, kill: Option<Kill>) -> Result<Life> {
    let program =
        std::env::current_exe().map_err(|error| Error::io("find", "myself".as_ref(), None, error))?;
    let mut child = Command::new(&program)
        .arg("drill-child")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| Error::io("run", &program, None, error))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    folder.adopt(child);
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(Error::Internal("the child has no pipes".into()));
    };
    let line = serde_json::to_string(assignment)
        .map_err(|error| Error::Internal(format!("an assignment cannot be told in JSON: {error}")))?;
    let told = writeln!(stdin, "{line}");

    let shared = Arc::new(Shared::default());
    let listener = Arc::clone(&shared);
    let listener = thread::spawn(move || listener.listen(stdout));
    let ended = match (told, kill) {
        (Ok(()), Some(kill)) => shared.wait_for(kill),
        (Ok(()), None) => shared.wait_for_end(),
        // The child says itself why it did not listen.
        (Err(_), _) => Ok(()),
    };
    if kill.is_some() || ended.is_err() {
        folder.kill_child()?;
    }
    let status = folder.bury_child()?;
    // What the child had written to the pipe by then counts: it was acknowledged.
    listener
        .join()
        .map_err(|_| Error::Internal("the listener has panicked".into()))?;
    drop(stdin);
    ended?;
    let mut life = std::mem::take(&mut *shared.life.lock());
    if let Some(open) = life.open {
        life.committing = open.elapsed();
    }
    judge(&life, status, kill.is_some())?;
    Ok(life)
}

/// Whether the child ended the way it should.
fn judge(life: &Life, status: ExitStatus, killed: bool) -> Result<()> {
    if let Some(reason) = &life.failed {
        return Err(Error::Invalid(format!(
            "the drill's child could not go on: {reason}"
        )));
    }
    let as_planned = if killed {
        status.signal() == Some(nix::libc::SIGKILL) && !life.acks.is_empty()
    } else {
        status.success() && life.done
    };
    if as_planned {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "the drill's child ended before its time: {status}"
    )))
}

impl Shared {
    fn listen(&self, stdout: ChildStdout) {
        let mut reader = BufReader::new(stdout);
        let mut text = String::new();
        loop {
            text.clear();
            let read = reader.read_line(&mut text);
            let mut life = self.life.lock();
            match read {
                Ok(1..) if text.ends_with('\n') => life.hear(text.trim_end()),
                // The end; half a line before it was never said.
                _ => {
                    life.over = true;
                    self.changed.notify_all();
                    return;
                }
            }
            self.changed.notify_all();
        }
    }

    /// Waits for the moment of the kill.
    fn wait_for(&self, kill: Kill) -> Result<()> {
        let started = Instant::now();
        let mut life = self.life.lock();
        loop {
            let lived = started.elapsed();
            let acks = life.acks.len() as u64;
            if life.over || acks >= kill.acks || (acks > 0 && lived > LONGEST) {
                break;
            }
            if lived > HANGS {
                return Err(Error::Invalid(format!(
                    "the drill's child has committed nothing for {} s",
                    HANGS.as_secs()
                )));
            }
            life = self.changed.wait_timeout(life, Duration::from_millis(100));
        }
        drop(life);
        thread::sleep(kill.delay);
        Ok(())
    }

    /// Waits until the child has ended by itself.
    fn wait_for_end(&self) -> Result<()> {
        let mut last = (0, Instant::now());
        let mut life = self.life.lock();
        while !life.over {
            if life.acks.len() != last.0 {
                last = (life.acks.len(), Instant::now());
            }
            if last.1.elapsed() > HANGS {
                return Err(Error::Invalid(format!(
                    "the drill's child has committed nothing for {} s",
                    HANGS.as_secs()
                )));
            }
            life = self.changed.wait_timeout(life, Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Life {
    fn hear(&mut self, text: &str) {
        match Line::parse(text) {
            Some(Line::Open { commit_seq }) => {
                self.opened_at = commit_seq;
                self.open = Some(Instant::now());
            }
            Some(Line::Ack {
                group,
                version,
                commit_seq,
            }) => self.acks.push(Ack {
                group,
                version,
                commit_seq,
            }),
            Some(Line::Stats {
                commits,
                syncs,
                window,
                ..
            }) => {
                self.totals = (commits, syncs);
                self.window = window;
            }
            Some(Line::Begin) => self.in_checkpoint = true,
            Some(Line::End) => {
                self.in_checkpoint = false;
                self.checkpoints += 1;
            }
            Some(Line::Done) => self.done = true,
            Some(Line::Failed(reason)) => self.failed = Some(reason),
            None => self.failed = Some(format!("it said {text:?}, which means nothing")),
        }
    }
}
