//! The records of a companion file, byte by byte; `docs/wal-meta-format.md` has the rulers.

use super::{FileStamp, Generation, Owner, PageKind, TAIL_PAGES, Watermark};
use crate::checksum::Checksum;
use crate::digest::PageDigest;
use walmend_types::{Result, Salts};
use walmend_vfs::VfsFile;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 4] = *b"WMmt";
const VERSION: u16 = 1;
const BLOCK: u64 = 4096;
const RECORD: usize = 256;
const HEADER: usize = 16;
pub(super) const BODY: usize = RECORD - HEADER - 8;
pub(super) const FILE_SIZE: u64 = 5 * BLOCK;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Watermark = 1,
    Generation = 2,
    Owner = 3,
}

/// Alternating slots: blocks 0 and 1 for the watermark, 2 and 3 for the generation, 4 for the owner.
fn block_of(kind: Kind, sequence: u64) -> u64 {
    match kind {
        Kind::Watermark => sequence % 2,
        Kind::Generation => 2 + sequence % 2,
        Kind::Owner => 4,
    }
}

pub(super) fn write_record(file: &dyn VfsFile, kind: Kind, sequence: u64, body: &[u8; BODY]) -> Result<()> {
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

pub(super) fn read_record(file: &dyn VfsFile, kind: Kind, slot: u64) -> Result<Option<(u64, [u8; BODY])>> {
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

pub(super) fn encode_watermark(watermark: &Watermark) -> [u8; BODY] {
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

pub(super) fn decode_watermark(body: &[u8; BODY]) -> Watermark {
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

pub(super) fn encode_generation(generation: &Generation) -> [u8; BODY] {
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

pub(super) fn decode_generation(body: &[u8; BODY]) -> Generation {
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

pub(super) fn encode_owner(owner: &Owner) -> [u8; BODY] {
    let mut writer = Writer::new();
    let mut boot_id = [0; BOOT_ID];
    let len = owner.boot_id.len().min(BOOT_ID);
    boot_id[..len].copy_from_slice(&owner.boot_id.as_bytes()[..len]);
    let database = owner.database.unwrap_or(FileStamp {
        bytes: 0,
        modified: 0,
    });
    writer
        .put(&owner.pid.to_be_bytes())
        .put(&owner.since.to_be_bytes())
        .put(&boot_id)
        .put(&database.bytes.to_be_bytes())
        .put(&database.modified.to_be_bytes());
    writer.bytes
}

pub(super) fn decode_owner(body: &[u8; BODY]) -> Owner {
    let mut fields = Reader(body);
    let (pid, since) = (fields.u32(), fields.u64());
    let boot_id = fields.take::<BOOT_ID>();
    let boot_id = String::from_utf8_lossy(&boot_id)
        .trim_end_matches('\0')
        .to_owned();
    let (bytes, modified) = (fields.u64(), fields.u64());
    Owner {
        pid,
        boot_id,
        since,
        database: (modified != 0).then_some(FileStamp { bytes, modified }),
    }
}
