use std::fmt;

/// The kinds of [`Error`](crate::Error), for matching and for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "each is documented at the variant of Error with the same name"
)]
pub enum ErrorKind {
    Io,
    NotFound,
    NotADatabase,
    ReadOnly,
    Moved,
    Locked,
    BusyRecovery,
    WalCorrupt,
    WalAmbiguous,
    UnsupportedVersion,
    DatabaseCorrupt,
    OutOfRange,
    Invalid,
    Full,
    Poisoned,
    Closed,
    Revoked,
    Cancelled,
    DeadlineExceeded,
    Conflict,
    Busy,
    PageLocked,
    StaleSnapshot,
    NotCommitted,
    OutcomeUnknown,
    Internal,
}

impl ErrorKind {
    /// The name that `--json` output uses; stable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::NotFound => "not_found",
            Self::NotADatabase => "not_a_database",
            Self::ReadOnly => "read_only",
            Self::Moved => "moved",
            Self::Locked => "locked",
            Self::BusyRecovery => "busy_recovery",
            Self::WalCorrupt => "wal_corrupt",
            Self::WalAmbiguous => "wal_ambiguous",
            Self::UnsupportedVersion => "unsupported_version",
            Self::DatabaseCorrupt => "database_corrupt",
            Self::OutOfRange => "out_of_range",
            Self::Invalid => "invalid",
            Self::Full => "full",
            Self::Poisoned => "poisoned",
            Self::Closed => "closed",
            Self::Revoked => "revoked",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::PageLocked => "page_locked",
            Self::StaleSnapshot => "stale_snapshot",
            Self::NotCommitted => "not_committed",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
