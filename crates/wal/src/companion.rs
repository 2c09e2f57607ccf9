//! The companion of a log, `<db>-wal-meta`: what the log's own format has no room for.
//!
//! Five records, each in a block of its own so that writing one cannot tear another; `docs/wal-meta-format.md`
//! has the rulers. The watermark and the generation record alternate between two slots: the newer valid one
//! counts, so a torn write costs only itself. Losing the whole file costs protection, never data.
//!
//! - The **watermark** says how far the log is known to be durable. It is written without a sync after each
//!   batch and before any writer hears of it, so it is exact after the death of a process, and a lower bound
//!   after a power loss.
//! - The **generation record** is synced before the first frame of each generation of the log.
//! - The **owner record** says who holds the database, for error messages. OFD locks carry no pid.

use crate::checksum::Checksum;
use crate::digest::PageDigest;
use std::path::Path;
use std::sync::Arc;
use walmend_types::{Error, Result, Salts, SyncMode};
use walmend_vfs::{OpenFlags, Vfs, VfsFile};
use xxhash_rust::xxh3::xxh3_64;

/// Pages whose digests the watermark keeps.
pub const TAIL_PAGES: usize = 4;

const MAGIC: [u8; 4] = *b"WMmt";
const VERSION: u16 = 1;
const BLOCK: u64 = 4096;
const RECORD: usize = 256;
const HEADER: usize = 16;
const BODY: usize = RECORD - HEADER - 8;
const FILE_SIZE: u64 = 5 * BLOCK;

/// How far the log is known to be durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watermark {
    /// The generation of the log.
    pub salts: Salts,
    /// The last durable commit frame; 0 if there is none in this generation.
    pub frame: u32,
    /// The chain checksum after it.
    pub checksum: Checksum,
    /// The number of that commit.
    pub commit_seq: u64,
    /// The size of the database after it, in pages.
    pub db_pages: u32,
    /// The newest pages of the last batch, by which a lost log is told from one that another program has
    /// checkpointed; at most [`TAIL_PAGES`].
    pub tail: Vec<(u32, PageDigest)>,
}

/// How the pages of a database are to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageKind {
    /// Opaque. The file does not look like an SQLite database.
    #[default]
    Raw,
    /// A real SQLite database.
    Sqlite,
}

/// What is known of a generation of the log before its first frame is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Generation {
    /// Its salts. All zeros while the log is empty.
    pub salts: Salts,
    /// The generation before it, whose frames were all in the database by then.
    pub previous: Salts,
    /// How many committed frames the previous generation had.
    pub previous_frames: u32,
    /// What kind of pages.
    pub kind: PageKind,
    /// Bytes of a page.
    pub page_size: u32,
    /// Checkpoint sequence of the log's header.
    pub checkpoint_seq: u32,
    /// No batch of this generation has more frames than this.
    pub largest_batch: u32,
    /// No commit has a larger number than this.
    pub reserved_seq: u64,
    /// The number of the last commit before the first one of this generation. In the same record as the salts:
    /// a crash can keep the record and lose the watermark that was written with it.
    pub base_seq: u64,
}

/// Who has the database open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// Process id; 0 when nobody has it open.
    pub pid: u32,
    /// The boot that the pid belongs to.
    pub boot_id: String,
    /// When it was opened, in seconds since 1970.
    pub since: u64,
}

/// Everything a companion file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompanionState {
    /// The newest valid watermark.
    pub watermark: Option<Watermark>,
    /// The newest valid generation record.
    pub generation: Option<Generation>,
    /// The owner.
    pub owner: Option<Owner>,
    watermark_sequence: u64,
    generation_sequence: u64,
}

/// The open companion file.
#[derive(Debug)]
pub struct Companion {
    file: Arc<dyn VfsFile>,
    state: CompanionState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Watermark = 1,
    Generation = 2,
    Owner = 3,
}

impl CompanionState {
    /// Reads a companion file without changing it; `None` if there is none.
    ///
    /// # Errors
    /// Only I/O errors: a record that does not verify counts as absent.
    pub fn read(vfs: &dyn Vfs, path: &Path) -> Result<Option<Self>> {
        match vfs.open(path, OpenFlags::READ) {
            Ok(file) => Ok(Some(Self::read_file(&*file)?)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_file(file: &dyn VfsFile) -> Result<Self> {
        let mut state = Self::default();
        for slot in 0..2 {
            if let Some((sequence, body)) = read_record(file, Kind::Watermark, slot)?
                && sequence > state.watermark_sequence
            {
                state.watermark = Some(decode_watermark(&body));
                state.watermark_sequence = sequence;
            }
            if let Some((sequence, body)) = read_record(file, Kind::Generation, slot)?
                && sequence > state.generation_sequence
            {
                state.generation = Some(decode_generation(&body));
                state.generation_sequence = sequence;
            }
        }
        state.owner = read_record(file, Kind::Owner, 0)?.map(|(_, body)| decode_owner(&body));
        Ok(state)
    }

    /// The watermark, if it speaks of the log with these salts.
    pub fn watermark_of(&self, salts: Salts) -> Option<&Watermark> {
        self.watermark
            .as_ref()
            .filter(|watermark| watermark.salts == salts)
    }
}

impl Companion {
    /// Opens the companion file, creating it (zero-written and synced) where it is missing.
    ///
    /// # Errors
    /// I/O errors.
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self> {
        let file = vfs.open(path, OpenFlags::CREATE)?;
        let len = file.len()?;
        if len < FILE_SIZE {
            // Written zeros, so that a record never has to allocate: it could not be written on a full disk.
            file.preallocate(len, FILE_SIZE)?;
            file.sync(SyncMode::Full)?;
        }
        let state = CompanionState::read_file(&*file)?;
        Ok(Self { file, state })
    }

    /// What the file says.
    pub fn state(&self) -> &CompanionState {
        &self.state
    }

    /// Writes the watermark, without a sync.
    ///
    /// # Errors
    /// I/O errors. The earlier watermark stays.
    pub fn write_watermark(&mut self, watermark: Watermark) -> Result<()> {
        let sequence = self.state.watermark_sequence + 1;
        write_record(
            &*self.file,
            Kind::Watermark,
            sequence,
            &encode_watermark(&watermark),
        )?;
        self.state.watermark_sequence = sequence;
        self.state.watermark = Some(watermark);
        Ok(())
    }

    /// Writes the generation record, without a sync.
    ///
    /// # Errors
    /// I/O errors. The earlier record stays.
    pub fn write_generation(&mut self, generation: Generation) -> Result<()> {
        let sequence = self.state.generation_sequence + 1;
        write_record(
            &*self.file,
            Kind::Generation,
            sequence,
            &encode_generation(&generation),
        )?;
        self.state.generation_sequence = sequence;
        self.state.generation = Some(generation);
        Ok(())
    }

    /// Writes the owner record, without a sync: it only serves messages.
    ///
    /// # Errors
    /// I/O errors.
    pub fn write_owner(&mut self, owner: Owner) -> Result<()> {
        write_record(&*self.file, Kind::Owner, 1, &encode_owner(&owner))?;
        self.state.owner = Some(owner);
        Ok(())
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// I/O errors; never to be retried.
    pub fn sync(&self) -> Result<()> {
        self.file.sync(SyncMode::Data)
    }
}

/// Alternating slots: blocks 0 and 1 for the watermark, 2 and 3 for the generation, 4 for the owner.
fn block_of(kind: Kind, sequence: u64) -> u64 {
    match kind {
        Kind::Watermark => sequence % 2,
        Kind::Generation => 2 + sequence % 2,
        Kind::Owner => 4,
    }
}

fn write_record(file: &dyn VfsFile, kind: Kind, sequence: u64, body: &[u8; BODY]) -> Result<()> {
    let mut record = [0; RECORD];
    record[..4].copy_from_slice(&MAGIC);
    record[4..6].copy_from_slice(&VERSION.to_be_bytes());
    record[6..8].copy_from_slice(&(kind as u16).to_be_bytes());
    record[8..16].copy_from_slice(&sequence.to_be_bytes());
    record[HEADER..HEADER + BODY].copy_from_slice(body);
    let digest = xxh3_64(&record[..RECORD - 8]);
    record[RECORD - 8..].copy_from_slice(&digest.to_be_bytes());
    file.write_at(&record, block_of(kind, sequence) * BLOCK)
}

fn read_record(file: &dyn VfsFile, kind: Kind, slot: u64) -> Result<Option<(u64, [u8; BODY])>> {
    let mut record = [0; RECORD];
    if file.read_at(&mut record, block_of(kind, slot) * BLOCK)? < RECORD {
        return Ok(None);
    }
    let mut fields = Reader(&record);
    let valid = fields.take::<4>() == MAGIC
        && fields.u16() == VERSION
        && fields.u16() == kind as u16
        && record[RECORD - 8..] == xxh3_64(&record[..RECORD - 8]).to_be_bytes();
    if !valid {
        return Ok(None);
    }
    let sequence = fields.u64();
    Ok(Some((sequence, fields.take::<BODY>())))
}

/// Reads fields one after the other; what lies past the end reads as zeros.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (head, tail) = self.0.split_at(N.min(self.0.len()));
        bytes[..head.len()].copy_from_slice(head);
        self.0 = tail;
        bytes
    }

    fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    fn salts(&mut self) -> Salts {
        Salts {
            salt1: self.u32(),
            salt2: self.u32(),
        }
    }
}

struct Writer {
    bytes: [u8; BODY],
    at: usize,
}

impl Writer {
    fn new() -> Self {
        Self {
            bytes: [0; BODY],
            at: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    fn salts(&mut self, salts: Salts) -> &mut Self {
        self.put(&salts.salt1.to_be_bytes())
            .put(&salts.salt2.to_be_bytes())
    }
}

fn encode_watermark(watermark: &Watermark) -> [u8; BODY] {
    let mut writer = Writer::new();
    writer
        .salts(watermark.salts)
        .put(&watermark.frame.to_be_bytes())
        .put(&watermark.checksum.s0.to_be_bytes())
        .put(&watermark.checksum.s1.to_be_bytes())
        .put(&watermark.commit_seq.to_be_bytes())
        .put(&watermark.db_pages.to_be_bytes());
    // A page number of 0 ends the list.
    for (page, digest) in watermark.tail.iter().take(TAIL_PAGES) {
        writer.put(&page.to_be_bytes()).put(&digest.0);
    }
    writer.bytes
}

fn decode_watermark(body: &[u8; BODY]) -> Watermark {
    let mut fields = Reader(body);
    let mut watermark = Watermark {
        salts: fields.salts(),
        frame: fields.u32(),
        checksum: Checksum {
            s0: fields.u32(),
            s1: fields.u32(),
        },
        commit_seq: fields.u64(),
        db_pages: fields.u32(),
        tail: Vec::new(),
    };
    for _ in 0..TAIL_PAGES {
        let (page, digest) = (fields.u32(), PageDigest(fields.take()));
        if page != 0 {
            watermark.tail.push((page, digest));
        }
    }
    watermark
}

fn encode_generation(generation: &Generation) -> [u8; BODY] {
    let mut writer = Writer::new();
    let kind = match generation.kind {
        PageKind::Raw => 0u8,
        PageKind::Sqlite => 1,
    };
    writer
        .salts(generation.salts)
        .salts(generation.previous)
        .put(&generation.previous_frames.to_be_bytes())
        .put(&[kind])
        .put(&generation.page_size.to_be_bytes())
        .put(&generation.checkpoint_seq.to_be_bytes())
        .put(&generation.largest_batch.to_be_bytes())
        .put(&generation.reserved_seq.to_be_bytes())
        .put(&generation.base_seq.to_be_bytes());
    writer.bytes
}

fn decode_generation(body: &[u8; BODY]) -> Generation {
    let mut fields = Reader(body);
    Generation {
        salts: fields.salts(),
        previous: fields.salts(),
        previous_frames: fields.u32(),
        kind: if fields.u8() == 1 {
            PageKind::Sqlite
        } else {
            PageKind::Raw
        },
        page_size: fields.u32(),
        checkpoint_seq: fields.u32(),
        largest_batch: fields.u32(),
        reserved_seq: fields.u64(),
        base_seq: fields.u64(),
    }
}

const BOOT_ID: usize = 36;

fn encode_owner(owner: &Owner) -> [u8; BODY] {
    let mut writer = Writer::new();
    let mut boot_id = [0; BOOT_ID];
    let len = owner.boot_id.len().min(BOOT_ID);
    boot_id[..len].copy_from_slice(&owner.boot_id.as_bytes()[..len]);
    writer
        .put(&owner.pid.to_be_bytes())
        .put(&owner.since.to_be_bytes())
        .put(&boot_id);
    writer.bytes
}

fn decode_owner(body: &[u8; BODY]) -> Owner {
    let mut fields = Reader(body);
    let (pid, since) = (fields.u32(), fields.u64());
    let boot_id = fields.take::<BOOT_ID>();
    let boot_id = String::from_utf8_lossy(&boot_id)
        .trim_end_matches('\0')
        .to_owned();
    Owner { pid, boot_id, since }
}

#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use walmend_vfs::MemoryVfs;

    fn watermark(frame: u32) -> Watermark {
        Watermark {
            salts: Salts { salt1: 7, salt2: 8 },
            frame,
            checksum: Checksum { s0: 1, s1: 2 },
            commit_seq: u64::from(frame) + 10,
            db_pages: 99,
            tail: vec![(5, PageDigest::of(b"five")), (6, PageDigest::of(b"six"))],
        }
    }

    #[test]
    fn records_come_back_after_reopening() {
        let vfs = MemoryVfs::new();
        let path = Path::new("a.db-wal-meta");
        assert_eq!(CompanionState::read(&vfs, path).unwrap(), None);
        let mut companion = Companion::open(&vfs, path).unwrap();
        let generation = Generation {
            salts: Salts { salt1: 7, salt2: 8 },
            previous: Salts { salt1: 6, salt2: 1 },
            previous_frames: 17,
            kind: PageKind::Sqlite,
            page_size: 65536,
            checkpoint_seq: 3,
            largest_batch: 64,
            reserved_seq: 1 << 40,
            base_seq: 12_345,
        };
        let owner = Owner {
            pid: 77,
            boot_id: "3b0c6b32-0d39-4d8a-8d4e-1d5b7b0e2f11".into(),
            since: 1_700_000_000,
        };
        companion.write_generation(generation).unwrap();
        companion.write_watermark(watermark(3)).unwrap();
        companion.write_owner(owner.clone()).unwrap();
        drop(companion);
        let state = CompanionState::read(&vfs, path).unwrap().unwrap();
        assert_eq!(state.watermark, Some(watermark(3)));
        assert_eq!(state.generation, Some(generation));
        assert_eq!(state.owner, Some(owner));
        assert!(state.watermark_of(Salts { salt1: 7, salt2: 9 }).is_none());
    }

    #[test]
    fn a_torn_watermark_leaves_the_one_before_it() {
        let vfs = MemoryVfs::new();
        let path = Path::new("a.db-wal-meta");
        let mut companion = Companion::open(&vfs, path).unwrap();
        companion.write_watermark(watermark(3)).unwrap();
        companion.write_watermark(watermark(4)).unwrap();
        // Sequence 2 is the second write, in block 0: tear it.
        companion.file.write_at(&[0xee; 3], 40).unwrap();
        let state = CompanionState::read(&vfs, path).unwrap().unwrap();
        assert_eq!(state.watermark, Some(watermark(3)));
        // Reopened, the next write must go to the torn slot and win.
        let mut companion = Companion::open(&vfs, path).unwrap();
        companion.write_watermark(watermark(5)).unwrap();
        assert_eq!(
            CompanionState::read(&vfs, path).unwrap().unwrap().watermark,
            Some(watermark(5))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_never_believed(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            at in 0u64..(FILE_SIZE - 600),
        ) {
            let vfs = MemoryVfs::new();
            let path = Path::new("a.db-wal-meta");
            let file = vfs.open(path, OpenFlags::CREATE).unwrap();
            file.write_at(&bytes, at).unwrap();
            let state = CompanionState::read(&vfs, path).unwrap().unwrap();
            prop_assert_eq!(state, CompanionState::default());
        }
    }
}
