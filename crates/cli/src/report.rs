//! What `inspect --json` and `verify --json` say.

use crate::commits::CommitNumbers;
use crate::database::DbSidecar;
use crate::output::ErrorBody;
use crate::sidecar::Sidecar;
use serde::Serialize;
use std::collections::BTreeMap;
use walmend::Identity;
use walmend_types::Result;
use walmend_vfs::VfsFile;
use walmend_wal::{ByteOrder, Fault, Findings, HeaderState, Origin, Scan, slots};

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) database: Database,
    pub(crate) wal: Option<Wal>,
    pub(crate) wal_meta: Option<WalMeta>,
    pub(crate) wal_sidecar: Option<WalSidecar>,
    pub(crate) db_sidecar: Option<DbSidecar>,
    /// Why no more can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<ErrorBody>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Database {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) page_size: u32,
    pub(crate) pages: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct Wal {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) header: &'static str,
    pub(crate) page_size: u32,
    pub(crate) byte_order: &'static str,
    pub(crate) checkpoint_seq: u32,
    pub(crate) salt1: u32,
    pub(crate) salt2: u32,
    pub(crate) slots: u64,
    pub(crate) valid_frames: u32,
    pub(crate) committed_frames: u32,
    pub(crate) commits: u32,
    pub(crate) db_pages: u32,
    pub(crate) end: &'static str,
    pub(crate) damage: Vec<Damage>,
    pub(crate) frames_after_damage: u32,
    pub(crate) commits_after_damage: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frames: Option<Vec<Frame>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Damage {
    pub(crate) frame: u32,
    pub(crate) what: &'static str,
    pub(crate) certain: bool,
    pub(crate) healable: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Frame {
    pub(crate) frame: u32,
    pub(crate) page: u32,
    pub(crate) db_pages: u32,
    pub(crate) commit_seq: Option<u64>,
    pub(crate) valid: bool,
    pub(crate) covered: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct WalMeta {
    pub(crate) path: String,
    pub(crate) durable_frame: u32,
    pub(crate) commit_seq: u64,
    pub(crate) matches_log: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct WalSidecar {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) groups: usize,
    pub(crate) frames_covered: u32,
    pub(crate) bad_records: u32,
    /// Groups of another history of this log.
    pub(crate) other_history: usize,
}

impl From<&Sidecar> for WalSidecar {
    fn from(sidecar: &Sidecar) -> Self {
        Self {
            path: sidecar.path.display().to_string(),
            bytes: sidecar.index.bytes,
            groups: sidecar.plan.covered.len(),
            frames_covered: sidecar.plan.frames_covered(),
            bad_records: sidecar.index.bad_records,
            other_history: sidecar.plan.other_history.len(),
        }
    }
}

impl Report {
    /// What the findings say, with every frame if `frames` is set.
    ///
    /// # Errors
    /// I/O errors of reading a header that does not decode.
    pub(crate) fn new(
        identity: &Identity,
        findings: &Findings,
        log: Option<&dyn VfsFile>,
        sidecar: Option<&Sidecar>,
        frames: bool,
    ) -> Result<Self> {
        let mut wal = findings
            .scan
            .as_ref()
            .map(|scan| Wal::new(identity, findings, scan, sidecar, frames));
        if let (Some(wal), Some(scan), Some(log)) = (&mut wal, &findings.scan, log)
            && matches!(scan.header, HeaderState::UnsupportedVersion(_))
        {
            wal.read_raw_header(log)?;
        }
        Ok(Self {
            database: Database {
                path: identity.path.display().to_string(),
                bytes: identity.bytes,
                page_size: identity.page_size.get(),
                pages: identity.db_pages,
            },
            wal,
            wal_meta: WalMeta::new(findings),
            wal_sidecar: sidecar.map(WalSidecar::from),
            db_sidecar: None,
            error: None,
        })
    }
}

impl Wal {
    fn new(
        identity: &Identity,
        findings: &Findings,
        scan: &Scan,
        sidecar: Option<&Sidecar>,
        frames: bool,
    ) -> Self {
        let header = scan.header.ok();
        let salts = scan.salts().unwrap_or_default();
        Self {
            path: findings.files.wal.display().to_string(),
            bytes: scan.bytes,
            header: match scan.header {
                // An empty file is what a truncating checkpoint leaves: as good as a log can be.
                HeaderState::Absent | HeaderState::Ok(_) => "ok",
                HeaderState::Invalid => "invalid",
                HeaderState::UnsupportedVersion(_) => "unsupported_version",
            },
            page_size: scan.page_size.get(),
            byte_order: byte_order(scan.byte_order),
            checkpoint_seq: header.map_or(0, |header| header.checkpoint_seq),
            salt1: salts.salt1,
            salt2: salts.salt2,
            slots: slots(scan.bytes, scan.page_size),
            valid_frames: scan.valid_frames,
            committed_frames: scan.committed_frames,
            commits: scan.commits,
            db_pages: match scan.commits {
                // Without a commit in the log the database is what its file says.
                0 => identity.db_pages,
                _ => scan.db_pages,
            },
            end: scan.end.as_str(),
            damage: damage(findings, scan, sidecar),
            frames_after_damage: findings.frames_behind,
            commits_after_damage: findings.commits_behind,
            frames: frames.then(|| self::frames(findings, scan, sidecar)),
        }
    }

    /// The fields of a header of another version, as they stand there.
    fn read_raw_header(&mut self, log: &dyn VfsFile) -> Result<()> {
        let mut bytes = [0; 32];
        log.read_exact_at(&mut bytes, 0)?;
        let field = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        self.byte_order = byte_order(if field(0) & 1 == 0 {
            ByteOrder::Little
        } else {
            ByteOrder::Big
        });
        self.page_size = field(8);
        self.checkpoint_seq = field(12);
        self.salt1 = field(16);
        self.salt2 = field(20);
        Ok(())
    }
}

impl WalMeta {
    fn new(findings: &Findings) -> Option<Self> {
        let meta = findings.meta.as_ref()?;
        let mark = meta.watermark.clone().unwrap_or_default();
        let salts = findings.scan.as_ref().and_then(Scan::salts);
        let stored = |frame: u32| {
            let scan = findings.scan.as_ref()?;
            match frame {
                0 => scan.header.ok().map(|header| header.checksum()),
                _ => scan.slot(frame).map(|slot| slot.header.checksum),
            }
        };
        let matches_log = match salts {
            Some(salts) => mark.salts == salts && stored(mark.frame) == Some(mark.checksum),
            // An emptied log is what the companion expects after a truncating checkpoint.
            None => findings.origin == Origin::ResetPending,
        };
        Some(Self {
            path: findings.files.meta.display().to_string(),
            durable_frame: mark.frame,
            commit_seq: mark.commit_seq,
            matches_log,
        })
    }
}

/// What the log itself shows, and what only the digests of the sidecar do: damage in the last commit looks like a
/// torn tail. What the sidecar covers was committed and durable.
fn damage(findings: &Findings, scan: &Scan, sidecar: Option<&Sidecar>) -> Vec<Damage> {
    let heals = |frame| sidecar.is_some_and(|sidecar| sidecar.plan.heals(frame));
    let covers = |frame| sidecar.is_some_and(|sidecar| sidecar.plan.covers(frame));
    let mut damage: BTreeMap<u32, Damage> = BTreeMap::new();
    for found in &findings.damage {
        let entry = Damage {
            frame: found.frame,
            what: found.what.as_str(),
            certain: found.certain || heals(found.frame) || covers(found.frame),
            healable: heals(found.frame),
        };
        damage.insert(found.frame, entry);
    }
    for frame in sidecar.into_iter().flat_map(|sidecar| sidecar.plan.damaged()) {
        let what = match frame {
            0 => Fault::Header,
            _ => scan.fault(frame).unwrap_or(Fault::Page),
        };
        damage.entry(frame).or_insert(Damage {
            frame,
            what: what.as_str(),
            certain: true,
            healable: heals(frame),
        });
    }
    damage.into_values().collect()
}

fn byte_order(order: ByteOrder) -> &'static str {
    match order {
        ByteOrder::Little => "little",
        ByteOrder::Big => "big",
    }
}

fn frames(findings: &Findings, scan: &Scan, sidecar: Option<&Sidecar>) -> Vec<Frame> {
    let numbers = CommitNumbers::of(findings);
    let slots = scan.slots.iter().zip(1..);
    slots
        .map(|(slot, frame)| Frame {
            frame,
            page: slot.header.page,
            db_pages: slot.header.db_pages,
            commit_seq: numbers.of_frame(frame),
            valid: frame <= scan.valid_frames || scan.fault(frame).is_none(),
            covered: sidecar.is_some_and(|sidecar| sidecar.plan.covers(frame)),
        })
        .collect()
}
