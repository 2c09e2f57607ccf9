//! Ships the log of a running database to another folder, by reading alone: no lock, no word with the writer.
//!
//! The folder gets `base.db`, a copy of the database file, and `000001.wal`, `000002.wal`, ...: the log's
//! generations, each byte for byte as far as it is known to be durable. [`restore`] puts them together again.
//!
//! Why the copy need not be consistent: what a checkpoint writes while the file is being copied, or has half
//! written, comes from frames of the generation that is shipped behind it, and is written again from those.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use walmend_wal::{
    Checksum, CompanionState, Error, FRAME_HEADER_SIZE, FileSet, FrameHeader, Generation, HEADER_SIZE,
    HeaderState, OpenFlags, Salts, Scan, ScanHints, UnixVfs, Vfs, WalHeader, Watermark, frame_offset,
    frame_size,
};

/// Frames that are read at a time.
const FRAMES: u32 = 256;

/// Why shipping stopped.
#[derive(Debug)]
pub(crate) enum ShipError {
    /// The log was reset before everything in it was shipped: take a new base, in a new folder.
    Gap { shipped: u64, reset_at: u64 },
    /// A durable frame does not verify.
    Damaged { frame: u32 },
    /// Reading the database failed, or it has no companion file.
    Source(Error),
    /// Writing the copy failed.
    Target(std::io::Error),
}

impl fmt::Display for ShipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { shipped, reset_at } => write!(
                f,
                "the log was reset at commit {reset_at}, and only those up to {shipped} were shipped"
            ),
            Self::Damaged { frame } => write!(f, "frame {frame} of the log is damaged"),
            Self::Source(error) => error.fmt(f),
            Self::Target(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ShipError {}

impl From<Error> for ShipError {
    fn from(error: Error) -> Self {
        Self::Source(error)
    }
}

impl From<std::io::Error> for ShipError {
    fn from(error: std::io::Error) -> Self {
        Self::Target(error)
    }
}

type Result<T, E = ShipError> = std::result::Result<T, E>;

/// A database that is being shipped.
pub(crate) struct Shipper {
    vfs: UnixVfs,
    files: FileSet,
    folder: PathBuf,
    /// The generation that is being shipped, once it has a frame.
    open: Option<Segment>,
    segments: u32,
    /// The last commit that is in the folder, durably.
    shipped: u64,
}

struct Segment {
    file: File,
    header: WalHeader,
    frames: u32,
    checksum: Checksum,
}

impl Shipper {
    /// Copies the database file into an empty folder.
    pub(crate) fn start(db: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut shipper = Self {
            vfs: UnixVfs::new(),
            files: FileSet::of(db),
            folder: folder.into(),
            open: None,
            segments: 0,
            shipped: 0,
        };
        loop {
            let (generation, _) = shipper.state()?;
            fs::copy(db, folder.join("base.db"))?;
            // A reset in between would take frames away that the copy may need.
            if shipper.state()?.0.salts == generation.salts {
                File::open(folder.join("base.db"))?.sync_all()?;
                File::open(folder)?.sync_all()?;
                shipper.shipped = generation.base_seq;
                return Ok(shipper);
            }
        }
    }

    /// The last commit that is in the folder, durably.
    pub(crate) fn shipped(&self) -> u64 {
        self.shipped
    }

    /// Ships what has become durable since the last call; answers how many frames that were.
    pub(crate) fn poll(&mut self) -> Result<u32> {
        loop {
            let (generation, watermark) = self.state()?;
            if self
                .open
                .as_ref()
                .is_none_or(|open| open.header.salts != generation.salts)
            {
                // What this generation goes on from must be here already.
                if generation.base_seq != self.shipped {
                    return Err(ShipError::Gap {
                        shipped: self.shipped,
                        reset_at: generation.base_seq,
                    });
                }
                self.open = None;
            }
            if watermark.salts != generation.salts || watermark.frame == 0 {
                return Ok(0);
            }
            match self.ship(generation.salts, &watermark) {
                // Reset while it was read: the frames were there, and are looked for anew, if only to say what went.
                Err(ShipError::Damaged { .. } | ShipError::Source(_))
                    if self.state()?.0.salts != generation.salts => {}
                shipped => return shipped,
            }
        }
    }

    fn state(&self) -> Result<(Generation, Watermark)> {
        let state = CompanionState::read(&self.vfs, &self.files.meta)?.unwrap_or_default();
        match (state.generation, state.watermark) {
            (Some(generation), Some(watermark)) => Ok((generation, watermark)),
            _ => Err(Error::NotFound {
                path: self.files.meta.clone(),
            }
            .into()),
        }
    }

    fn ship(&mut self, salts: Salts, watermark: &Watermark) -> Result<u32> {
        let wal = self.vfs.open(&self.files.wal, OpenFlags::READ)?;
        if self.open.is_none() {
            let mut bytes = [0; HEADER_SIZE];
            wal.read_exact_at(&mut bytes, 0)?;
            let header = WalHeader::decode(&bytes)
                .ok()
                .filter(|header| header.salts == salts);
            let header = header.ok_or(ShipError::Damaged { frame: 0 })?;
            let path = self.folder.join(format!("{:06}.wal", self.segments + 1));
            let mut file = File::create_new(path)?;
            file.write_all(&bytes)?;
            File::open(&self.folder)?.sync_all()?;
            self.segments += 1;
            self.open = Some(Segment {
                file,
                header,
                frames: 0,
                checksum: header.checksum(),
            });
        }
        let Some(segment) = &mut self.open else {
            return Ok(0);
        };
        let before = segment.frames;
        let page_size = segment.header.page_size;
        let size = usize::try_from(frame_size(page_size)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; size * FRAMES as usize];
        while segment.frames < watermark.frame {
            let first = segment.frames + 1;
            let count = FRAMES.min(watermark.frame - segment.frames);
            let bytes = &mut buffer[..size * count as usize];
            wal.read_exact_at(bytes, frame_offset(first, page_size))?;
            let mut checksum = segment.checksum;
            for (frame, number) in bytes.chunks_exact(size).zip(first..) {
                checksum =
                    verify(&segment.header, checksum, frame).ok_or(ShipError::Damaged { frame: number })?;
            }
            segment.file.write_all_at(bytes, frame_offset(first, page_size))?;
            (segment.frames, segment.checksum) = (segment.frames + count, checksum);
        }
        segment.file.sync_data()?;
        self.shipped = watermark.commit_seq;
        Ok(segment.frames - before)
    }
}

/// The chain checksum after a frame, if it verifies.
fn verify(log: &WalHeader, before: Checksum, frame: &[u8]) -> Option<Checksum> {
    let (head, page) = frame.split_at_checked(FRAME_HEADER_SIZE)?;
    let header = FrameHeader::decode(head.try_into().ok()?);
    let checksum = before
        .extend(log.byte_order, &head[..8])
        .extend(log.byte_order, page);
    (header.salts == log.salts && header.checksum == checksum).then_some(checksum)
}

/// Puts a shipped database together in `target`, which must not exist. Answers how many frames were written.
pub(crate) fn restore(folder: &Path, target: &Path) -> Result<u32> {
    let mut base = File::open(folder.join("base.db"))?;
    let mut db = File::create_new(target)?;
    std::io::copy(&mut base, &mut db)?;
    let vfs = UnixVfs::new();
    let mut restored = 0;
    for number in 1.. {
        let path = folder.join(format!("{number:06}.wal"));
        if vfs.info(&path)?.is_none() {
            break;
        }
        let segment = vfs.open(&path, OpenFlags::READ)?;
        let scan = Scan::read(&*segment, ScanHints::default())?;
        let HeaderState::Ok(WalHeader { page_size, .. }) = scan.header else {
            return Err(ShipError::Damaged { frame: 0 });
        };
        let size = u64::from(page_size.get());
        let mut page = vec![0; page_size.as_usize()];
        for (slot, frame) in scan.slots.iter().zip(1..=scan.committed_frames) {
            segment.read_exact_at(
                &mut page,
                frame_offset(frame, page_size) + FRAME_HEADER_SIZE as u64,
            )?;
            let (page_number, db_pages) = (u64::from(slot.header.page), u64::from(slot.header.db_pages));
            db.write_all_at(&page, (page_number - 1) * size)?;
            if db_pages != 0 {
                db.set_len(db_pages * size)?;
            }
        }
        restored += scan.committed_frames;
    }
    db.sync_all()?;
    Ok(restored)
}
