//! What to do about a log: a pure table over what was found.

use super::evidence::Whereabouts;

/// What the caller wants done about damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamage {
    /// Change nothing, and say what is at stake.
    #[default]
    Refuse,
    /// Copy the damaged log aside, save what can be read behind the damage into a database of its own
    /// ([`SalvagedCopy`](super::SalvagedCopy)), then keep what precedes the damage.
    Salvage,
    /// Keep what precedes the damage and drop the rest, as SQLite does.
    TruncateLikeSqlite,
}

/// The state of the log's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFact {
    /// There is no log, or it is empty.
    Absent,
    /// It is fine.
    Ok,
    /// It does not verify.
    Invalid,
    /// Its version is not known.
    Unsupported,
}

/// What the companion file says of the log that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// There is no companion file, or it says nothing: the log is SQLite's own.
    NoRecord,
    /// The log is of the generation that the companion knows, and its store never gave it up: it was killed, or
    /// lost power.
    Known,
    /// The log is of the generation that the companion knows, and its store gave it up in good order. What lies
    /// behind the watermark was written by another program, sqlite3 most likely.
    GivenUp,
    /// A reset was under way: everything in the log is in the database already.
    ResetPending,
    /// The log that the companion knows is not there; none is, or another one.
    Replaced(Whereabouts),
}

impl Origin {
    /// Whether the log is of the generation that the companion knows.
    pub fn is_known(self) -> bool {
        matches!(self, Self::Known | Self::GivenUp)
    }
}

/// Whole commits behind the break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// None.
    Nothing,
    /// Some, all within two batches of the break: a crash can leave that.
    Near,
    /// Some further away: no crash leaves that.
    Far,
}

/// Everything that the decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The log's header.
    pub header: HeaderFact,
    /// Where the log comes from.
    pub origin: Origin,
    /// The unbroken prefix holds everything that the watermark says is durable. True where it says nothing.
    pub covers_durable: bool,
    /// Whole commits behind the break.
    pub behind: Behind,
    /// Something of this generation, but no acknowledged commit, lies behind the last commit.
    pub tail: bool,
    /// The caller knows that the writer synced every commit.
    pub synced_every_commit: bool,
}

/// Why a log cannot simply be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stake {
    /// Acknowledged commits cannot be read.
    Certain,
    /// Whole commits lie behind a break, and nothing says whether they were acknowledged.
    Ambiguous,
    /// The log with acknowledged commits is gone.
    LogLost,
}

/// What the table answers, before the caller's wish about damage comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Use the log as it is.
    Use,
    /// Use the log up to its last commit, and drop the torn tail.
    UseDroppingTail,
    /// There is nothing in the log that is not in the database: begin a new generation.
    StartAfresh,
    /// Damage.
    Damaged(Stake),
    /// A log of a version that is not known: touch nothing.
    Unsupported,
}

/// What recovery did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing was wrong.
    Clean,
    /// A torn tail was dropped.
    TornTail,
    /// The damaged log was copied aside, and what precedes the damage kept.
    Salvaged,
    /// What precedes the damage was kept, the rest dropped.
    Truncated,
    /// Acknowledged commits are at stake: nothing was changed.
    Refused,
    /// Commits may be at stake: nothing was changed.
    Ambiguous,
}

impl Decision {
    /// The name that `--json` output uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::TornTail => "torn_tail",
            Self::Salvaged => "salvaged",
            Self::Truncated => "truncated",
            Self::Refused => "refused",
            Self::Ambiguous => "ambiguous",
        }
    }

    /// Whether the log can be used after it.
    pub fn admits(self) -> bool {
        !matches!(self, Self::Refused | Self::Ambiguous)
    }
}

/// The decision table.
pub fn decide(facts: Facts) -> Verdict {
    use Stake::{Ambiguous, Certain, LogLost};
    use Verdict::{Damaged, StartAfresh, Unsupported, Use, UseDroppingTail};

    // Whole commits behind a break, with nothing that says how far the log was durable.
    let unproven = if facts.synced_every_commit {
        Certain
    } else {
        Ambiguous
    };
    let usable = if facts.tail { UseDroppingTail } else { Use };

    match (facts.header, facts.origin, facts.behind) {
        (HeaderFact::Unsupported, _, _) => Unsupported,
        (_, Origin::ResetPending, _) => StartAfresh,
        (_, Origin::Replaced(Whereabouts::Lost), _) => Damaged(LogLost),
        // A log that is gone although its companion knows it counts as replaced, so nothing is at stake here.
        (HeaderFact::Absent, _, _) => StartAfresh,

        (_, Origin::Known | Origin::GivenUp, _) if !facts.covers_durable => Damaged(Certain),
        // The header is synced before the first frame: frames of this generation under a bad one are damage.
        (HeaderFact::Invalid, Origin::Known | Origin::GivenUp, _) => Damaged(Certain),
        (HeaderFact::Ok, Origin::Known, Behind::Nothing | Behind::Near) => usable,
        (HeaderFact::Ok, Origin::Known, Behind::Far) => Damaged(Certain),

        (HeaderFact::Ok, Origin::GivenUp, Behind::Nothing) => usable,
        (HeaderFact::Ok, Origin::GivenUp, Behind::Near | Behind::Far) => Damaged(unproven),

        (HeaderFact::Invalid, Origin::NoRecord | Origin::Replaced(_), Behind::Nothing) => StartAfresh,
        (HeaderFact::Ok, Origin::NoRecord | Origin::Replaced(_), Behind::Nothing) => usable,
        (_, Origin::NoRecord | Origin::Replaced(_), Behind::Near | Behind::Far) => Damaged(unproven),
    }
}

#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::*;

    /// Every combination of facts.
    fn all() -> impl Iterator<Item = Facts> {
        let headers = [
            HeaderFact::Absent,
            HeaderFact::Ok,
            HeaderFact::Invalid,
            HeaderFact::Unsupported,
        ];
        let origins = [
            Origin::NoRecord,
            Origin::Known,
            Origin::GivenUp,
            Origin::ResetPending,
            Origin::Replaced(Whereabouts::InDatabase),
            Origin::Replaced(Whereabouts::ChangedSince),
            Origin::Replaced(Whereabouts::Lost),
        ];
        let behinds = [Behind::Nothing, Behind::Near, Behind::Far];
        headers.into_iter().flat_map(move |header| {
            origins.into_iter().flat_map(move |origin| {
                behinds.into_iter().flat_map(move |behind| {
                    (0..8).map(move |bits| Facts {
                        header,
                        origin,
                        behind,
                        covers_durable: bits & 1 != 0,
                        tail: bits & 2 != 0,
                        synced_every_commit: bits & 4 != 0,
                    })
                })
            })
        })
    }

    #[test]
    fn nothing_durable_is_ever_dropped_without_being_called_damage() {
        let mut seen = 0;
        for facts in all().filter(|facts| facts.origin.is_known() && !facts.covers_durable) {
            seen += 1;
            match facts.header {
                HeaderFact::Unsupported => assert_eq!(decide(facts), Verdict::Unsupported),
                // Impossible by construction of the origin; the table still must not use such a log.
                HeaderFact::Absent => assert_eq!(decide(facts), Verdict::StartAfresh),
                _ => assert_eq!(decide(facts), Verdict::Damaged(Stake::Certain), "{facts:?}"),
            }
        }
        assert_eq!(seen, 2 * 4 * 3 * 4);
    }

    #[test]
    fn a_log_without_a_watermark_is_never_cut_in_silence() {
        for facts in all() {
            let foreign = matches!(
                facts.origin,
                Origin::NoRecord | Origin::Replaced(Whereabouts::InDatabase | Whereabouts::ChangedSince)
            ) || (facts.origin == Origin::GivenUp
                && facts.header == HeaderFact::Ok
                && facts.covers_durable);
            let readable = matches!(facts.header, HeaderFact::Ok | HeaderFact::Invalid);
            if foreign && readable && facts.behind != Behind::Nothing {
                let expected = if facts.synced_every_commit {
                    Stake::Certain
                } else {
                    Stake::Ambiguous
                };
                assert_eq!(decide(facts), Verdict::Damaged(expected), "{facts:?}");
            }
        }
    }

    #[test]
    fn a_torn_tail_is_dropped_only_near_the_watermark_and_only_behind_it() {
        for facts in all().filter(|facts| decide(*facts) == Verdict::UseDroppingTail) {
            assert_eq!(facts.header, HeaderFact::Ok);
            assert!(facts.tail);
            match facts.origin {
                Origin::Known => assert!(facts.covers_durable && facts.behind != Behind::Far, "{facts:?}"),
                Origin::GivenUp => {
                    assert!(
                        facts.covers_durable && facts.behind == Behind::Nothing,
                        "{facts:?}"
                    );
                }
                Origin::NoRecord | Origin::Replaced(Whereabouts::InDatabase | Whereabouts::ChangedSince) => {
                    assert_eq!(facts.behind, Behind::Nothing, "{facts:?}");
                }
                _ => panic!("{facts:?} must not be used"),
            }
        }
    }

    #[test]
    fn a_lost_log_and_an_unknown_version_are_never_passed_over() {
        for facts in all() {
            let verdict = decide(facts);
            assert_eq!(
                verdict == Verdict::Unsupported,
                facts.header == HeaderFact::Unsupported
            );
            if facts.header != HeaderFact::Unsupported {
                let lost = facts.origin == Origin::Replaced(Whereabouts::Lost);
                assert_eq!(verdict == Verdict::Damaged(Stake::LogLost), lost, "{facts:?}");
            }
        }
    }

    #[test]
    fn only_a_log_with_a_sound_header_is_used() {
        for facts in all() {
            if matches!(decide(facts), Verdict::Use | Verdict::UseDroppingTail) {
                assert_eq!(facts.header, HeaderFact::Ok, "{facts:?}");
                assert_ne!(facts.origin, Origin::ResetPending, "{facts:?}");
            }
        }
    }
}
