//! What recovery is going to do, and what it did.

use super::decide::{Decision, OnDamage, Origin, Stake, Verdict, decide};
use super::evidence::Whereabouts;
use super::findings::Findings;
use super::salvage::SalvagedCopy;
use crate::format::frame_offset;
use crate::scan::HeaderState;
use std::path::PathBuf;
use walmend_types::{Error, Result};

/// What recovery is going to do with a log. Making it changes nothing.
#[derive(Debug, Clone)]
pub struct RecoveryPlan {
    /// What was found.
    pub findings: Findings,
    /// What the table answered.
    pub verdict: Verdict,
    /// What follows from it and from the caller's wish.
    pub decision: Decision,
    /// The log stays in use, up to its last commit; otherwise a new generation is begun.
    pub keep_log: bool,
}

/// What recovery found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// What was done.
    pub decision: Decision,
    /// Frames of the log that count.
    pub committed_frames: u32,
    /// Commits among them.
    pub commits: u32,
    /// Frames that were dropped: torn, uncommitted, or behind damage.
    pub dropped_frames: u32,
    /// Whole commits that were dropped, or would be.
    pub lost_commits: u32,
    /// Where the log went that the companion knows, if it is not there any more.
    pub replaced: Option<Whereabouts>,
    /// The copy of the damaged log, if one was made.
    pub kept_aside: Option<PathBuf>,
    /// The copy of the database with what can be read behind the damage, if one was made.
    pub salvaged: Option<SalvagedCopy>,
}

impl RecoveryPlan {
    /// Decides.
    ///
    /// # Errors
    /// [`Error::UnsupportedVersion`]; [`Error::NotADatabase`] if the log is not of this database's page size.
    pub fn make(findings: Findings, on_damage: OnDamage) -> Result<Self> {
        let verdict = decide(findings.facts());
        let (decision, keep_log) = match verdict {
            Verdict::Unsupported => {
                let version = match findings.scan.as_ref().map(|scan| scan.header) {
                    Some(HeaderState::UnsupportedVersion(version)) => version,
                    _ => 0,
                };
                return Err(Error::UnsupportedVersion {
                    path: findings.files.wal,
                    version,
                });
            }
            Verdict::Use => (Decision::Clean, true),
            Verdict::UseDroppingTail => (Decision::TornTail, true),
            Verdict::StartAfresh => (Decision::Clean, false),
            Verdict::Damaged(damaged) => {
                let decision = match (on_damage, damaged) {
                    (OnDamage::Refuse, Stake::Ambiguous) => Decision::Ambiguous,
                    (OnDamage::Refuse, Stake::Certain | Stake::LogLost) => Decision::Refused,
                    (OnDamage::Salvage, _) => Decision::Salvaged,
                    (OnDamage::TruncateLikeSqlite, _) => Decision::Truncated,
                };
                let sound = findings
                    .scan
                    .as_ref()
                    .is_some_and(|scan| scan.header.ok().is_some());
                (decision, sound)
            }
        };
        Ok(Self {
            findings,
            verdict,
            decision,
            keep_log,
        })
    }

    /// Frames that count once the plan is applied.
    pub fn committed_frames(&self) -> u32 {
        self.kept(|scan| scan.committed_frames)
    }

    /// What would be reported if the plan were applied now.
    pub fn report(&self) -> RecoveryReport {
        let scan = self.findings.scan.as_ref();
        // What an interrupted reset left behind is in the database: starting afresh drops nothing.
        let dropped = match self.verdict {
            Verdict::StartAfresh => 0,
            _ => scan.map_or(0, |scan| {
                let whole = scan.last_of_generation.saturating_sub(self.committed_frames());
                whole + u32::from(scan.partial_of_generation)
            }),
        };
        let replaced = match self.findings.origin {
            Origin::Replaced(whereabouts) => Some(whereabouts),
            _ => None,
        };
        RecoveryReport {
            decision: self.decision,
            committed_frames: self.committed_frames(),
            commits: self.kept(|scan| scan.commits),
            dropped_frames: if self.decision.admits() { dropped } else { 0 },
            lost_commits: self.findings.lost_commits,
            replaced,
            kept_aside: None,
            salvaged: None,
        }
    }

    fn kept(&self, count: impl Fn(&crate::scan::Scan) -> u32) -> u32 {
        // A refusal changes nothing, so what the prefix holds is still what counts.
        let counts = self.keep_log || !self.decision.admits();
        self.findings.scan.as_ref().filter(|_| counts).map_or(0, count)
    }

    /// `Ok` if the plan may be applied.
    ///
    /// # Errors
    /// [`Error::WalCorrupt`] or [`Error::WalAmbiguous`], saying what is at stake.
    pub fn admit(&self) -> Result<()> {
        if self.decision.admits() {
            return Ok(());
        }
        let findings = &self.findings;
        let path = findings.files.wal.clone();
        if self.verdict == Verdict::Damaged(Stake::LogLost) {
            let mark = findings
                .meta
                .as_ref()
                .and_then(|meta| meta.watermark.clone())
                .unwrap_or_default();
            let before = findings.meta.as_ref().and_then(|meta| meta.generation);
            let before = before
                .filter(|generation| generation.salts == mark.salts)
                .map_or(mark.commit_seq, |generation| generation.base_seq);
            let instead = match findings.scan.as_ref().map_or(0, |scan| scan.commits) {
                0 => String::new(),
                commits => format!(
                    "; the log in its place, with {commits} commits, does not follow from it, and the database was \
                     not written to since"
                ),
            };
            return Err(Error::WalCorrupt {
                path,
                frame: 0,
                offset: 0,
                lost_commits: mark.commit_seq.saturating_sub(before),
                detail: format!(
                    "the log with commits up to number {} ({} frames) is gone, and the database does not hold \
                     them{instead}",
                    mark.commit_seq, mark.frame
                ),
            });
        }
        let Some(scan) = &findings.scan else {
            return Err(Error::Internal(
                "a log that is not there cannot be damaged".into(),
            ));
        };
        let frame = findings
            .damage
            .first()
            .map_or(scan.valid_frames + 1, |damage| damage.frame);
        let offset = frame_offset(frame, scan.page_size);
        if self.decision == Decision::Ambiguous {
            return Err(Error::WalAmbiguous {
                path,
                frame,
                offset,
                commits_behind: findings.lost_commits.into(),
            });
        }
        let frames: Vec<String> = findings
            .damage
            .iter()
            .take(8)
            .map(|damage| damage.frame.to_string())
            .collect();
        let more = if findings.damage.len() > 8 { ", ..." } else { "" };
        let detail = if findings.other_history {
            "another program went on from an earlier state under the same salts".into()
        } else {
            format!(
                "frames {}{more} do not verify; durable up to frame {}, readable up to frame {}",
                frames.join(", "),
                findings.durable_frame,
                scan.committed_frames
            )
        };
        Err(Error::WalCorrupt {
            path,
            frame,
            offset,
            lost_commits: findings.lost_commits.into(),
            detail,
        })
    }
}
