//! The numbers of the commits in a log, and which of them damage puts at stake.

use crate::format::count;
use walmend_wal::{Decision, Findings, Origin, RecoveryPlan, Stake, Verdict, frame_offset};

/// Which commit each frame belongs to.
///
/// Commits are numbered as the store numbers them where the watermark tells; in a log without one, from 1.
#[derive(Debug)]
pub(crate) struct CommitNumbers {
    /// The commit frames, ascending.
    frames: Vec<u32>,
    /// The number of the commit before the first of them.
    before: u64,
    /// How many of them can be read.
    kept: usize,
}

impl CommitNumbers {
    pub(crate) fn of(findings: &Findings) -> Self {
        let Some(scan) = &findings.scan else {
            return Self {
                frames: Vec::new(),
                before: 0,
                kept: 0,
            };
        };
        let salts = scan.salts();
        // Behind the last commit lie torn and stale frames, unless damage cut the log short.
        let damaged = findings.damage.last().map_or(0, |damage| {
            damage.frame.max(scan.last_commit_behind().unwrap_or(0))
        });
        let reach = scan.committed_frames.max(findings.durable_frame).max(damaged);
        let frames: Vec<u32> = (1..=reach)
            .filter(|frame| scan.ends_transaction(*frame))
            .collect();
        let upto = |last: u32| frames.partition_point(|frame| *frame <= last);
        let mark = findings.meta.as_ref().and_then(|meta| meta.watermark.as_ref());
        let before = match (findings.origin, mark) {
            (Origin::Known | Origin::GivenUp, Some(mark)) if Some(mark.salts) == salts => {
                mark.commit_seq.saturating_sub(upto(mark.frame) as u64)
            }
            (Origin::NoRecord, Some(mark)) => mark.commit_seq,
            _ => 0,
        };
        let kept = upto(scan.committed_frames);
        Self { frames, before, kept }
    }

    /// The commit that frame `frame` belongs to; `None` behind the last commit.
    pub(crate) fn of_frame(&self, frame: u32) -> Option<u64> {
        let place = self.frames.partition_point(|commit| *commit < frame);
        (place < self.frames.len()).then(|| self.before + place as u64 + 1)
    }

    /// The last commit that can be read.
    pub(crate) fn last_kept(&self) -> u64 {
        self.before + self.kept as u64
    }
}

/// What is wrong and which commits are at stake, in one sentence; `None` if nothing is.
pub(crate) fn at_stake(findings: &Findings, verdict: Verdict) -> Option<String> {
    let Verdict::Damaged(stake) = verdict else {
        return None;
    };
    let numbers = CommitNumbers::of(findings);
    let name = findings.files.wal.display();
    let Some(scan) = findings.scan.as_ref().filter(|_| stake != Stake::LogLost) else {
        let last = findings
            .meta
            .as_ref()
            .and_then(|meta| meta.watermark.as_ref())
            .map_or(0, |mark| mark.commit_seq);
        return Some(format!(
            "{name} is not the log that was written last: that one is gone, with commits up to {}, and the \
             database does not hold them",
            last
        ));
    };
    if findings.other_history {
        return Some(format!(
            "{name} holds other content at frame {} than was acknowledged: another program went on from an \
             earlier state",
            findings.durable_frame
        ));
    }
    let frame = findings
        .damage
        .first()
        .map_or(scan.valid_frames + 1, |damage| damage.frame);
    let place = match frame {
        0 => "in its header".to_owned(),
        _ => format!(
            "at frame {frame} (offset {})",
            frame_offset(frame, scan.page_size)
        ),
    };
    let first = numbers.last_kept() + 1;
    let lost = match findings.lost_commits {
        0 => "frames that were acknowledged are at stake".to_owned(),
        1 => format!("commit {first} is at stake"),
        lost => format!(
            "commits {first} to {} ({}) are at stake",
            first + u64::from(lost) - 1,
            count(lost, "commit")
        ),
    };
    let doubt = match stake {
        Stake::Ambiguous => ", and nothing says whether they were acknowledged",
        Stake::Certain | Stake::LogLost => "",
    };
    let kept = match scan.commits {
        0 => "no commit before it can be read".to_owned(),
        commits => format!(
            "{} before it can be read, up to number {}",
            count(commits, "commit"),
            numbers.last_kept()
        ),
    };
    Some(format!("{name} is damaged {place}: {lost}{doubt}; {kept}"))
}

/// What can be done about a log that was not touched, in sentences for a person.
pub(crate) fn choices(plan: &RecoveryPlan) -> String {
    let scan = plan.findings.scan.as_ref();
    let kept = match scan.map_or(0, |scan| scan.commits) {
        0 => "the database file as it is, without its log".to_owned(),
        commits => format!("the {} before the damage", count(commits, "commit")),
    };
    let lost = count(plan.findings.lost_commits, "commit");
    let mut text = format!(
        "Nothing was changed. Keep a copy of all files first, and let no other program open the database: \
         sqlite3 would drop {lost} without a word. --on-damage truncate keeps {kept} and drops {lost}; \
         --on-damage salvage does the same, copies the damaged log aside first, and saves what can be read behind \
         the damage into a database of its own."
    );
    if plan.decision == Decision::Ambiguous {
        text.push_str(
            " If the program that wrote the log synced every commit, all of them were acknowledged: \
             say --writer-synced-every-commit.",
        );
    }
    text
}
