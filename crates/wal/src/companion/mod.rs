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

mod record;

use crate::checksum::Checksum;
use crate::digest::PageDigest;
use record::{
    FILE_SIZE, Kind, decode_generation, decode_owner, decode_watermark, encode_generation, encode_owner,
    encode_watermark, read_record, write_record,
};
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use walmend_types::{Error, Result, Salts, SyncMode};
use walmend_vfs::{FileInfo, OpenFlags, Vfs, VfsFile};

/// Pages whose digests the watermark keeps.
pub const TAIL_PAGES: usize = 4;

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
    /// The database file as it was when it was given up; `None` while it is open, and where nothing keeps that.
    pub database: Option<FileStamp>,
}

/// By what one tells whether a file was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    /// Its length in bytes.
    pub bytes: u64,
    /// When its content last changed, in nanoseconds since 1970; not 0.
    pub modified: u64,
}

impl FileStamp {
    /// The stamp of a file, where its time is known.
    pub fn of(info: &FileInfo) -> Option<Self> {
        let since = info.modified?.duration_since(UNIX_EPOCH).ok()?;
        let modified = u64::try_from(since.as_nanos()).ok().filter(|nanos| *nanos > 0)?;
        Some(Self {
            bytes: info.len,
            modified,
        })
    }
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
        let new = vfs.info(path)?.is_none();
        let file = vfs.open(path, OpenFlags::CREATE)?;
        let len = file.len()?;
        if len < FILE_SIZE {
            // Written zeros, so that a record never has to allocate: it could not be written on a full disk.
            let filled = file
                .preallocate(len, FILE_SIZE)
                .and_then(|()| file.sync(SyncMode::Full));
            if let Err(error) = filled {
                if new {
                    vfs.remove(path)?;
                }
                return Err(error);
            }
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
            database: Some(FileStamp {
                bytes: 8192,
                modified: 1_700_000_000_000_000_001,
            }),
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
