//! A real SQLite in a process of its own that wants the same database, all the time.

use crate::clock;
use crate::life::program;
use rusqlite::{Connection, ErrorCode};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use walmend_proof::Random;
use walmend_sync::atomic::{AtomicBool, Ordering};
use walmend_sync::{Mutex, thread};

/// What SQLite answered to one attempt, between two moments of CLOCK_MONOTONIC in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) answer: Answer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Busy,
    /// It read this number in `s`.
    Read(u64),
    /// It committed this number to `s`.
    Wrote(u64),
    Failed(String),
}

/// The life of that process: tries until its standard input ends.
pub(crate) fn live(path: &Path, seed: u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        heard.store(true, Ordering::Relaxed);
    });
    let mut random = Random(seed);
    while !stop.load(Ordering::Relaxed) {
        let begun = clock::now();
        let answer = match attempt(path, random.below(4)) {
            Ok(answer) => answer,
            Err(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Answer::Busy,
                _ => Answer::Failed(error.to_string()),
            },
        };
        let text = match answer {
            Answer::Busy => "busy".into(),
            Answer::Read(number) => format!("read {number}"),
            Answer::Wrote(number) => format!("wrote {number}"),
            Answer::Failed(text) => format!("failed {}", text.replace('\n', " ")),
        };
        let line = format!("{begun} {} {text}\n", clock::now());
        if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(1 + random.below(20)));
    }
}

fn attempt(path: &Path, what: u64) -> rusqlite::Result<Answer> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::ZERO)?;
    let number = || {
        connection.query_row("SELECT n FROM s", [], |row| {
            row.get::<_, i64>(0).map(i64::cast_unsigned)
        })
    };
    match what {
        0 => {
            connection.execute_batch("BEGIN IMMEDIATE; UPDATE s SET n = n + 1")?;
            let number = number()?;
            connection.execute_batch("COMMIT")?;
            Ok(Answer::Wrote(number))
        }
        1 => {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))?;
            Ok(Answer::Read(number()?))
        }
        _ => Ok(Answer::Read(number()?)),
    }
}

/// The other end: starts it, and keeps what it says.
pub(crate) struct Contender {
    child: Child,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    listener: Option<thread::JoinHandle<()>>,
}

impl Contender {
    /// # Errors
    /// Where it cannot be started.
    pub(crate) fn start(path: &Path, seed: u64) -> Result<Self, String> {
        let mut child = Command::new(program()?)
            .arg("contender")
            .arg(path)
            .arg(seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let stdout = child.stdout.take().ok_or("no pipe")?;
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&attempts);
        let listener = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                heard.lock().extend(parse(&line));
            }
        });
        Ok(Self {
            child,
            attempts,
            listener: Some(listener),
        })
    }

    /// Lets it end, and gives what it did.
    pub(crate) fn finish(mut self) -> Vec<Attempt> {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        std::mem::take(&mut *self.attempts.lock())
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Option<Attempt> {
    let mut words = line.splitn(4, ' ');
    let (begun, ended) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (word, rest) = (words.next()?, words.next().unwrap_or(""));
    let answer = match word {
        "busy" => Answer::Busy,
        "read" => Answer::Read(rest.parse().ok()?),
        "wrote" => Answer::Wrote(rest.parse().ok()?),
        _ => Answer::Failed(rest.into()),
    };
    Some(Attempt { begun, ended, answer })
}

/// Judges what SQLite was answered. `held` are the times in which a store had the database open; `found` is the number in
/// `s` at the end. Answers how often it was busy, and how often it had its turn.
///
/// # Errors
/// What must not be.
pub(crate) fn judge(attempts: &[Attempt], held: &[(u64, u64)], found: u64) -> Result<(u64, u64), String> {
    let (mut busy, mut turns, mut last) = (0, 0, 0);
    for attempt in attempts {
        let within = |(from, to): &&(u64, u64)| attempt.begun > *from && attempt.ended < *to;
        match &attempt.answer {
            Answer::Busy => {
                busy += 1;
                continue;
            }
            Answer::Failed(text) => return Err(format!("SQLite was told something else than busy: {text}")),
            Answer::Read(_) | Answer::Wrote(_) if held.iter().any(|held| within(&held)) => {
                return Err(format!(
                    "SQLite got in while a store had the database: {attempt:?}"
                ));
            }
            Answer::Read(number) if *number != last => {
                return Err(format!("SQLite read {number} where it had committed {last}"));
            }
            Answer::Read(_) => {}
            Answer::Wrote(number) if *number != last + 1 => {
                return Err(format!("SQLite counted on to {number} from {last}"));
            }
            Answer::Wrote(number) => last = *number,
        }
        turns += 1;
    }
    if found != last {
        return Err(format!("SQLite's last commit was {last}, and {found} is there"));
    }
    Ok((busy, turns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_while_a_store_is_open_a_lost_commit_and_an_error_are_found() {
        let attempt = |begun, ended, answer| Attempt { begun, ended, answer };
        let good = [
            attempt(1, 2, Answer::Wrote(1)),
            attempt(12, 13, Answer::Busy),
            attempt(30, 31, Answer::Read(1)),
        ];
        assert_eq!(judge(&good, &[(10, 20)], 1), Ok((1, 2)));
        assert!(judge(&good, &[(10, 20)], 0).is_err());
        assert!(judge(&good, &[(0, 5)], 1).is_err());
        let failed = [attempt(1, 2, Answer::Failed("malformed".into()))];
        assert!(judge(&failed, &[], 0).is_err());
        let back = [attempt(1, 2, Answer::Wrote(1)), attempt(3, 4, Answer::Read(0))];
        assert!(judge(&back, &[], 1).is_err());
    }
}
