//! What parent and worker say to each other: one line of JSON down, then lines of words up. Each line up is written in
//! one call of at most 4096 bytes, so a kill cannot tear it, and it counts from then on.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One database of a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoreTask {
    pub(crate) path: PathBuf,
    /// Where the template lies, for an SQLite database.
    pub(crate) template: Option<PathBuf>,
    pub(crate) page_size: u32,
    pub(crate) cells: u32,
    /// The number of its next transaction.
    pub(crate) next_txn: u64,
}

/// What a worker has to do: the first line of its standard input. The input stays open as long as the parent lives;
/// a second line asks it to come to an end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) seed: u64,
    pub(crate) stores: Vec<StoreTask>,
    pub(crate) writers: u32,
    pub(crate) async_writers: u32,
    pub(crate) serializable_writers: u32,
    pub(crate) readers: u32,
    /// Times that it opens and closes everything before it begins, to see whether that leaks.
    pub(crate) cycles: u32,
    pub(crate) checkpoint_at: u64,
    pub(crate) log_limit: u64,
    pub(crate) preallocate: u64,
    pub(crate) direct: Option<bool>,
    pub(crate) salvage: bool,
    pub(crate) backup: bool,
    /// Opens, says what is there, and closes again.
    pub(crate) look_only: bool,
    pub(crate) squeeze: Option<Squeeze>,
    /// Keeps its own account instead of reporting each transaction.
    pub(crate) soak: bool,
}

/// Which limit of the process goes down and up again while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Squeeze {
    /// RLIMIT_NOFILE, to what is open now and a few more.
    Descriptors,
    /// RLIMIT_AS, to what is mapped now and a little more.
    Memory,
    /// RLIMIT_FSIZE, to about the length of one of the files.
    FileSize,
}

/// Pairs of cell and transaction.
pub(crate) type Pairs = Vec<(u32, u64)>;

/// One line of a worker's standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// The worker is about to open the stores.
    Opening,
    /// Store `store` is open since `at` (CLOCK_MONOTONIC, nanoseconds).
    Open {
        store: usize,
        at: u64,
        seq: u64,
        healed: u64,
        dropped: u64,
        lost: u64,
        /// It did not go on where it had stopped: salvaged, or truncated.
        cut: bool,
    },
    /// Cells as they are after opening.
    State {
        store: usize,
        cells: Pairs,
    },
    /// That was all of them.
    Stated {
        store: usize,
    },
    /// A transaction is going to write these cells over its snapshot; `reads` are what a serializable one has read.
    Begin {
        store: usize,
        txn: u64,
        snapshot: u64,
        cells: Vec<u32>,
        reads: Pairs,
    },
    Committed {
        store: usize,
        txn: u64,
        seq: u64,
    },
    NotCommitted {
        store: usize,
        txn: u64,
        why: String,
    },
    Unknown {
        store: usize,
        txn: u64,
        why: String,
    },
    /// After a failed sync and a reopening within the process: whether the log has this transaction.
    Token {
        store: usize,
        txn: u64,
        there: bool,
    },
    /// What a snapshot shows of some cells.
    Snapshot {
        store: usize,
        seq: u64,
        cells: Pairs,
    },
    /// What a backup holds of some cells; it is of some moment between two commits.
    Backup {
        store: usize,
        low: u64,
        high: u64,
        cells: Pairs,
    },
    /// A checkpoint begins.
    Checkpoint {
        store: usize,
    },
    /// It has ended.
    Checkpointed {
        store: usize,
    },
    /// Something answered with an error of this kind.
    Fault {
        store: usize,
        what: String,
        kind: String,
        text: String,
    },
    /// Something is wrong that must not be, whatever the mode.
    Wrong(String),
    /// A part of the worker has made no progress.
    Stuck(String),
    /// A sample of a soak: commits, syncs, pages read by readers, checkpoints, backups, bytes scrubbed.
    Sample([u64; 6]),
    /// All stores are closed in good order.
    Done,
}

fn pairs(cells: &[(u32, u64)]) -> String {
    let mut text = String::new();
    for (cell, txn) in cells {
        text.push_str(&format!(" {cell}={txn}"));
    }
    text
}

/// One line, whatever it was.
fn flat(text: &str) -> String {
    let mut text = text.replace('\n', " ");
    let mut end = text.len().min(1500);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Opening => f.write_str("opening"),
            Self::Open {
                store,
                at,
                seq,
                healed,
                dropped,
                lost,
                cut,
            } => {
                let cut = u8::from(*cut);
                write!(f, "open {store} {at} {seq} {healed} {dropped} {lost} {cut}")
            }
            Self::State { store, cells } => write!(f, "state {store}{}", pairs(cells)),
            Self::Stated { store } => write!(f, "stated {store}"),
            Self::Begin {
                store,
                txn,
                snapshot,
                cells,
                reads,
            } => {
                write!(f, "begin {store} {txn} {snapshot}")?;
                for cell in cells {
                    write!(f, " {cell}")?;
                }
                write!(f, "{}", pairs(reads))
            }
            Self::Committed { store, txn, seq } => write!(f, "ack {store} {txn} {seq}"),
            Self::NotCommitted { store, txn, why } => write!(f, "not {store} {txn} {}", flat(why)),
            Self::Unknown { store, txn, why } => write!(f, "unknown {store} {txn} {}", flat(why)),
            Self::Token { store, txn, there } => write!(f, "token {store} {txn} {}", u8::from(*there)),
            Self::Snapshot { store, seq, cells } => write!(f, "snapshot {store} {seq}{}", pairs(cells)),
            Self::Backup {
                store,
                low,
                high,
                cells,
            } => write!(f, "backup {store} {low} {high}{}", pairs(cells)),
            Self::Checkpoint { store } => write!(f, "checkpoint {store}"),
            Self::Checkpointed { store } => write!(f, "checkpointed {store}"),
            Self::Fault {
                store,
                what,
                kind,
                text,
            } => write!(f, "fault {store} {what} {kind} {}", flat(text)),
            Self::Wrong(text) => write!(f, "wrong {}", flat(text)),
            Self::Stuck(text) => write!(f, "stuck {}", flat(text)),
            Self::Sample(values) => {
                f.write_str("sample")?;
                values.iter().try_for_each(|value| write!(f, " {value}"))
            }
            Self::Done => f.write_str("done"),
        }
    }
}

/// Takes words off a line.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn word(&mut self) -> Option<&'a str> {
        let (word, rest) = self.0.split_once(' ').unwrap_or((self.0, ""));
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }

    fn number<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.word()?.parse().ok()
    }

    fn pairs(&mut self) -> Option<Pairs> {
        let mut pairs = Vec::new();
        while let Some(word) = self.word() {
            let (cell, txn) = word.split_once('=')?;
            pairs.push((cell.parse().ok()?, txn.parse().ok()?));
        }
        Some(pairs)
    }

    fn rest(self) -> String {
        self.0.to_owned()
    }
}

impl Line {
    /// Reads a line without its end; `None` if the worker said something else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = Words(text);
        Some(match words.word()? {
            "opening" => Self::Opening,
            "open" => Self::Open {
                store: words.number()?,
                at: words.number()?,
                seq: words.number()?,
                healed: words.number()?,
                dropped: words.number()?,
                lost: words.number()?,
                cut: words.number::<u8>()? == 1,
            },
            "state" => Self::State {
                store: words.number()?,
                cells: words.pairs()?,
            },
            "stated" => Self::Stated {
                store: words.number()?,
            },
            "begin" => {
                let (store, txn, snapshot) = (words.number()?, words.number()?, words.number()?);
                let (mut cells, mut reads) = (Vec::new(), Vec::new());
                while let Some(word) = words.word() {
                    match word.split_once('=') {
                        Some((cell, txn)) => reads.push((cell.parse().ok()?, txn.parse().ok()?)),
                        None => cells.push(word.parse().ok()?),
                    }
                }
                Self::Begin {
                    store,
                    txn,
                    snapshot,
                    cells,
                    reads,
                }
            }
            "ack" => Self::Committed {
                store: words.number()?,
                txn: words.number()?,
                seq: words.number()?,
            },
            "not" => Self::NotCommitted {
                store: words.number()?,
                txn: words.number()?,
                why: words.rest(),
            },
            "unknown" => Self::Unknown {
                store: words.number()?,
                txn: words.number()?,
                why: words.rest(),
            },
            "token" => Self::Token {
                store: words.number()?,
                txn: words.number()?,
                there: words.number::<u8>()? == 1,
            },
            "snapshot" => Self::Snapshot {
                store: words.number()?,
                seq: words.number()?,
                cells: words.pairs()?,
            },
            "backup" => Self::Backup {
                store: words.number()?,
                low: words.number()?,
                high: words.number()?,
                cells: words.pairs()?,
            },
            "checkpoint" => Self::Checkpoint {
                store: words.number()?,
            },
            "checkpointed" => Self::Checkpointed {
                store: words.number()?,
            },
            "fault" => Self::Fault {
                store: words.number()?,
                what: words.word()?.into(),
                kind: words.word()?.into(),
                text: words.rest(),
            },
            "wrong" => Self::Wrong(words.rest()),
            "stuck" => Self::Stuck(words.rest()),
            "sample" => {
                let mut values = [0; 6];
                for value in &mut values {
                    *value = words.number()?;
                }
                Self::Sample(values)
            }
            "done" => Self::Done,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_were_sent() {
        let lines = [
            Line::Opening,
            Line::Open {
                store: 1,
                at: 2,
                seq: 3,
                healed: 4,
                dropped: 5,
                lost: 6,
                cut: true,
            },
            Line::State {
                store: 0,
                cells: vec![(1, 2), (3, 0)],
            },
            Line::Begin {
                store: 0,
                txn: 7,
                snapshot: 8,
                cells: vec![1, 2],
                reads: vec![(9, 3)],
            },
            Line::NotCommitted {
                store: 0,
                txn: 7,
                why: "no room left".into(),
            },
            Line::Token {
                store: 0,
                txn: 7,
                there: false,
            },
            Line::Backup {
                store: 2,
                low: 1,
                high: 5,
                cells: vec![],
            },
            Line::Fault {
                store: 0,
                what: "open".into(),
                kind: "locked".into(),
                text: "by somebody".into(),
            },
            Line::Sample([1, 2, 3, 4, 5, 6]),
            Line::Done,
        ];
        for line in lines {
            assert_eq!(Line::parse(&line.to_string()), Some(line));
        }
    }

    #[test]
    fn half_a_line_is_no_line() {
        for text in ["", "ack 1", "begin 1 2 3 4=", "open 1 2", "hello"] {
            assert_eq!(Line::parse(text), None, "{text}");
        }
    }
}
