//! One life of a worker: started, listened to, killed or let come to an end.

use crate::clock;
use crate::protocol::{Line, Task};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};
use walmend_proof::Random;
use walmend_sync::thread;

/// A worker that says nothing for so long, in time in which this process and the worker were let run, hangs.
const SILENT: Duration = Duration::from_secs(180);
/// How often the parent looks up.
const BEAT: Duration = Duration::from_millis(2);

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Killed so long after it was started, whatever it is at: most likely recovery.
    Early(Duration),
    /// Killed so long after it has begun its second checkpoint or a later one.
    InCheckpoint(u64, Duration),
    /// Killed so long after all stores were open.
    Later(Duration),
    /// Asked to end, so long after all stores were open.
    Asked(Duration),
}

impl End {
    pub(crate) fn is_kill(self) -> bool {
        !matches!(self, Self::Asked(_))
    }

    /// By chance; `most` is how long a life may last.
    pub(crate) fn draw(random: &mut Random, most: Duration) -> Self {
        let within = |random: &mut Random, most: Duration| {
            let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
            Duration::from_micros(random.below(most))
        };
        match random.below(10) {
            0..3 => Self::Early(within(random, Duration::from_millis(60))),
            3..6 => Self::InCheckpoint(1 + random.below(4), within(random, Duration::from_millis(12))),
            6..9 => Self::Later(within(random, most)),
            _ => Self::Asked(within(random, most)),
        }
    }
}

/// What became of a worker.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Killed by us, and when (CLOCK_MONOTONIC, nanoseconds).
    pub(crate) killed_at: Option<u64>,
    /// Asked to end, and when.
    pub(crate) asked_at: Option<u64>,
    /// Killed before all its stores were open.
    pub(crate) in_recovery: bool,
    /// Killed between the beginning and the end of a checkpoint.
    pub(crate) in_checkpoint: bool,
    /// It said that it was through.
    pub(crate) done: bool,
    /// It had to be killed because it hung; what it was at.
    pub(crate) hung: Option<String>,
    /// Lines of its standard error.
    pub(crate) errors: String,
}

impl Ended {
    /// It was ended by this signal.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// How a worker is started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setting {
    /// Signals of a file that would grow too large are ignored, so that the write fails instead.
    pub(crate) ignore_file_size: bool,
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// The lives of one folder.
pub(crate) struct Lives<'a> {
    /// Where the worker's words, and what a hang looks like, are kept.
    pub(crate) folder: &'a Path,
    pub(crate) setting: Setting,
    /// How many there were.
    pub(crate) count: u32,
}

/// The program that this is.
pub(crate) fn program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| error.to_string())
}

impl Lives<'_> {
    /// Lets a worker live. Every line that it says goes to `hear`, in order, and `between` is called every now and then.
    ///
    /// # Errors
    /// Where the worker cannot be started.
    pub(crate) fn live(
        &mut self,
        task: &Task,
        end: End,
        hear: &mut dyn FnMut(Line),
        between: &mut dyn FnMut(),
    ) -> Result<Ended, String> {
        self.count += 1;
        let words = self.folder.join(format!("worker-{:02}.txt", self.count));
        let errors = self.folder.join(format!("worker-{:02}.err", self.count));
        let failed = |error: std::io::Error| error.to_string();
        let mut child = self.start(task, &errors).map_err(failed)?;
        let mut stdin = child.stdin.take().ok_or("no pipe")?;
        let stdout = child.stdout.take().ok_or("no pipe")?;
        let (sender, receiver) = sync_channel(4096);
        let listener = thread::spawn(move || {
            let mut reader = BufReader::with_capacity(1 << 16, stdout);
            let mut text = String::new();
            // Half a line at the end was never said.
            while reader.read_line(&mut text).is_ok_and(|read| read > 0) && text.ends_with('\n') {
                if sender.send(std::mem::take(&mut text)).is_err() {
                    return;
                }
            }
        });
        let told = serde_json::to_string(task).map_err(|error| error.to_string())?;
        // A worker that is gone already says so by its status.
        let _ = writeln!(stdin, "{told}");
        let words = File::create(words).map_err(failed)?;
        let mut listening = Listening::new(end, words, task.stores.len());
        let verdict = listening.run(&mut child, &mut stdin, &receiver, hear, between);
        let killed_at = verdict.is_kill.then(clock::now);
        if verdict.is_kill {
            child.kill().map_err(failed)?;
        }
        let status = child.wait().map_err(failed)?;
        let (in_recovery, in_checkpoint) = (listening.open < listening.stores, listening.in_checkpoint);
        // What was in the pipe by then was said.
        for text in receiver.iter() {
            listening.take(&text, hear);
        }
        let _ = listener.join();
        drop(stdin);
        Ok(Ended {
            status,
            killed_at,
            asked_at: listening.asked_at,
            in_recovery: in_recovery && verdict.is_kill,
            in_checkpoint: in_checkpoint && verdict.is_kill,
            done: listening.done,
            hung: verdict.hung,
            errors: std::fs::read_to_string(errors).unwrap_or_default(),
        })
    }

    fn start(&self, task: &Task, errors: &Path) -> std::io::Result<Child> {
        let program = std::env::current_exe()?;
        let mut command = match self.setting.ignore_file_size {
            false => Command::new(program),
            true => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
                    .arg(program);
                shell
            }
        };
        // The path of the first store is for those who look at the list of processes.
        command.arg("worker").arg(&task.stores[0].path);
        for (name, value) in &self.setting.environment {
            command.env(name, value);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(errors)?)
            .spawn()
    }
}

/// What has been heard of a worker so far.
struct Listening {
    end: End,
    words: File,
    stores: usize,
    open: usize,
    stated: usize,
    checkpoints: u64,
    in_checkpoint: bool,
    done: bool,
    asked_at: Option<u64>,
    stuck: Option<String>,
}

struct Verdict {
    is_kill: bool,
    hung: Option<String>,
}

impl Listening {
    fn new(end: End, words: File, stores: usize) -> Self {
        Self {
            end,
            words,
            stores,
            open: 0,
            stated: 0,
            checkpoints: 0,
            in_checkpoint: false,
            done: false,
            asked_at: None,
            stuck: None,
        }
    }

    fn take(&mut self, text: &str, hear: &mut dyn FnMut(Line)) {
        let _ = self.words.write_all(text.as_bytes());
        let Some(line) = Line::parse(text.trim_end()) else {
            return hear(Line::Wrong(format!("the worker said: {text}")));
        };
        match &line {
            Line::Opening => (self.open, self.stated) = (0, 0),
            Line::Open { .. } => self.open += 1,
            Line::Stated { .. } => self.stated += 1,
            Line::Checkpoint { .. } => {
                self.checkpoints += 1;
                self.in_checkpoint = true;
            }
            Line::Checkpointed { .. } => self.in_checkpoint = false,
            Line::Stuck(what) => self.stuck = Some(what.clone()),
            Line::Done => self.done = true,
            _ => {}
        }
        hear(line);
    }

    /// Listens until the worker is to be killed, or has ended.
    fn run(
        &mut self,
        child: &mut Child,
        stdin: &mut impl Write,
        receiver: &Receiver<String>,
        hear: &mut dyn FnMut(Line),
        between: &mut dyn FnMut(),
    ) -> Verdict {
        let started = Instant::now();
        let mut open_since = None;
        let mut due = None;
        let mut looked_up = Instant::now();
        let mut silent = Duration::ZERO;
        loop {
            let begun = Instant::now();
            match receiver.recv_timeout(BEAT) {
                Ok(text) => {
                    silent = Duration::ZERO;
                    self.take(&text, hear);
                }
                Err(RecvTimeoutError::Timeout) => {
                    // Much more than a beat is time in which this process did not run.
                    if !is_stopped(child.id()) {
                        silent += begun.elapsed().min(BEAT * 4);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Verdict {
                        is_kill: false,
                        hung: None,
                    };
                }
            }
            if looked_up.elapsed() > BEAT * 10 {
                looked_up = Instant::now();
                between();
            }
            if self.stuck.is_some() || silent > SILENT {
                let what = self
                    .stuck
                    .take()
                    .unwrap_or_else(|| "it says nothing any more".into());
                return Verdict {
                    is_kill: true,
                    hung: Some(format!("{what}\n{}", backtraces(child.id()))),
                };
            }
            if open_since.is_none() && self.stated >= self.stores {
                open_since = Some(Instant::now());
            }
            let now = Instant::now();
            due = due.or(match self.end {
                End::Early(after) => Some(started + after),
                End::Later(after) | End::Asked(after) => open_since.map(|since| since + after),
                End::InCheckpoint(which, after) if self.in_checkpoint && self.checkpoints >= which => {
                    Some(now + after)
                }
                End::InCheckpoint(..) => open_since
                    .map(|since| since + Duration::from_secs(4))
                    .filter(|at| *at <= now),
            });
            match due {
                Some(at) if now >= at && self.end.is_kill() => {
                    return Verdict {
                        is_kill: true,
                        hung: None,
                    };
                }
                Some(at) if now >= at && self.asked_at.is_none() => {
                    self.asked_at = Some(clock::now());
                    let _ = writeln!(stdin);
                }
                _ => {}
            }
        }
    }
}

/// Whether somebody has stopped the process for now.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
    state.starts_with('T')
}

/// Where the threads of a process are: from gdb if it is there, or else what the kernel says.
fn backtraces(pid: u32) -> String {
    let gdb = Command::new("gdb")
        .args(["-p", &pid.to_string(), "-batch", "-ex", "thread apply all bt"])
        .stdin(Stdio::null())
        .output();
    match gdb {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => {
            let mut text = String::new();
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten()
                .flatten();
            for task in tasks {
                for file in ["comm", "wchan", "syscall", "stack"] {
                    let read = std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
                    text.push_str(&format!("{file}: {}\n", read.trim()));
                }
            }
            text
        }
    }
}
