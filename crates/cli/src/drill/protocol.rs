//! What parent and child say to each other: one line of JSON down, then lines of words up.

use super::content::Version;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use walmend::Pages;

/// What the child has to do; the first line on its standard input. The input stays open as long as the parent
/// lives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Assignment {
    pub(super) seed: u64,
    pub(super) database: PathBuf,
    pub(super) source: PathBuf,
    pub(super) sqlite: bool,
    pub(super) page_size: u32,
    pub(super) db_pages: u32,
    pub(super) writers: u32,
    /// The version at which each group stands.
    pub(super) versions: Vec<Version>,
    /// Commit each group once more, at its last version, and end; otherwise go on until killed.
    pub(super) finish: bool,
}

impl Assignment {
    pub(super) fn pages(&self) -> Pages {
        if self.sqlite { Pages::Sqlite } else { Pages::Raw }
    }
}

/// One line of the child's standard output. Each is written in one call, so a kill cannot tear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// The store is open; its last commit had this number.
    Open { commit_seq: u64 },
    /// The commit of a group was acknowledged.
    Ack {
        group: usize,
        version: Version,
        commit_seq: u64,
    },
    /// The totals of this store so far.
    Stats {
        commits: u64,
        batches: u64,
        syncs: u64,
        /// How long commits were durable but not repairable, in microseconds: median, 99 in 100, longest.
        window: [u64; 3],
    },
    /// A checkpoint begins.
    Begin,
    /// A checkpoint has ended.
    End,
    /// All is committed, and the store is closed.
    Done,
    /// The child cannot go on.
    Failed(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { commit_seq } => write!(f, "open {commit_seq}"),
            Self::Ack {
                group,
                version,
                commit_seq,
            } => write!(f, "ack {group} {version} {commit_seq}"),
            Self::Stats {
                commits,
                batches,
                syncs,
                window: [p50, p99, max],
            } => write!(f, "stats {commits} {batches} {syncs} {p50} {p99} {max}"),
            Self::Begin => f.write_str("begin"),
            Self::End => f.write_str("end"),
            Self::Done => f.write_str("done"),
            Self::Failed(reason) => write!(f, "failed {}", reason.replace('\n', " ")),
        }
    }
}

impl Line {
    /// Reads a line without its end; `None` if the child said something else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut numbers = rest.split(' ').map(str::parse::<u64>);
        let mut number = || numbers.next()?.ok();
        Some(match word {
            "open" => Self::Open {
                commit_seq: number()?,
            },
            "ack" => Self::Ack {
                group: usize::try_from(number()?).ok()?,
                version: Version::try_from(number()?).ok()?,
                commit_seq: number()?,
            },
            "stats" => Self::Stats {
                commits: number()?,
                batches: number()?,
                syncs: number()?,
                window: [number()?, number()?, number()?],
            },
            "begin" => Self::Begin,
            "end" => Self::End,
            "done" => Self::Done,
            "failed" => Self::Failed(rest.to_owned()),
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
            Line::Open { commit_seq: 0 },
            Line::Ack {
                group: 3,
                version: Version::MAX,
                commit_seq: 1 << 40,
            },
            Line::Stats {
                commits: 1,
                batches: 2,
                syncs: 3,
                window: [4, 5, 6],
            },
            Line::Begin,
            Line::End,
            Line::Done,
            Line::Failed("no room left for x".into()),
        ];
        for line in lines {
            assert_eq!(Line::parse(&line.to_string()), Some(line));
        }
    }

    #[test]
    fn half_a_line_is_no_line() {
        for text in ["", "ack", "ack 1 2", "ack 1 2 x", "stats 1", "hello"] {
            assert_eq!(Line::parse(text), None, "{text}");
        }
    }
}
