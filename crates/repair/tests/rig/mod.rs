//! What the tests of this crate share: logs in memory, made with SQLite's format.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary compiles this module and uses a part of it"
)]

use std::path::Path;
use std::sync::Arc;
use walmend_repair::{
    GroupHeader, HealReport, ProtectReport, ReedSolomon, SidecarIndex, SidecarWriter, heal_log, protect_log,
};
use walmend_types::{PageSize, Salts};
use walmend_vfs::{MemoryVfs, OpenFlags, Vfs, VfsFile};
use walmend_wal::{ByteOrder, Checksum, FileSet, FrameHeader, WalHeader, frame_offset, frame_size};

pub(crate) const WAL: &str = "/a.db-wal";
pub(crate) const FEC: &str = "/a.db-wal-fec";

pub(crate) use walmend_vfs::Random;

pub(crate) fn header(page_size: u32) -> WalHeader {
    WalHeader {
        byte_order: ByteOrder::Little,
        page_size: PageSize::new(page_size).unwrap(),
        checkpoint_seq: 3,
        salts: Salts {
            salt1: 0x1111_2222,
            salt2: 0x3333_4444,
        },
    }
}

/// Frames that follow `before`; every third one, and the last, ends a transaction.
pub(crate) fn frames(log: &WalHeader, before: Checksum, count: u32, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut chain = before;
    let mut bytes = Vec::new();
    for number in 1..=count {
        let page: Vec<u8> = (0..log.page_size.as_usize())
            .map(|_| random.next() as u8)
            .collect();
        let db_pages = if number % 3 == 0 || number == count {
            900
        } else {
            0
        };
        let header = FrameHeader::chained(log, chain, 1 + random.below(800) as u32, db_pages, &page);
        chain = header.checksum;
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&page);
    }
    bytes
}

/// A whole log.
pub(crate) fn log(page_size: u32, count: u32, seed: u64) -> Vec<u8> {
    let header = header(page_size);
    let mut bytes = header.encode().to_vec();
    bytes.extend(frames(&header, header.checksum(), count, seed));
    bytes
}

/// The chain checksum that frame `frame` of a log stores; the header's for 0.
pub(crate) fn stored(log: &[u8], frame: u32) -> Checksum {
    let header = WalHeader::decode(log.first_chunk().unwrap()).unwrap();
    match frame {
        0 => header.checksum(),
        _ => {
            let at = frame_offset(frame, header.page_size) as usize;
            FrameHeader::decode(log[at..].first_chunk().unwrap()).checksum
        }
    }
}

/// Where frame `frame` of a log lies.
pub(crate) fn place(page_size: u32, frame: u32) -> std::ops::Range<usize> {
    let page_size = PageSize::new(page_size).unwrap();
    let start = frame_offset(frame, page_size) as usize;
    start..start + frame_size(page_size) as usize
}

/// The group of the frames `first..first + count` of an intact log.
pub(crate) fn group(log: &[u8], first: u32, count: u32) -> (GroupHeader, Vec<Vec<u8>>) {
    let header = WalHeader::decode(log.first_chunk().unwrap()).unwrap();
    let frames: Vec<&[u8]> = (first..first + count)
        .map(|frame| &log[place(header.page_size.get(), frame)])
        .collect();
    let before = stored(log, first - 1);
    let group = GroupHeader::describe(&header, first, before, &frames, first + count - 1).unwrap();
    let parity = group.encode(&ReedSolomon, &frames).unwrap();
    (group, parity)
}

/// The whole content of a file.
pub(crate) fn content(file: &dyn VfsFile) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Makes a file hold just these bytes.
pub(crate) fn put(vfs: &MemoryVfs, path: &str, bytes: &[u8]) -> Arc<dyn VfsFile> {
    let file = vfs.open(Path::new(path), OpenFlags::CREATE).unwrap();
    file.truncate(0).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

/// The bytes of a sidecar with these groups of a log.
pub(crate) fn sidecar(log: &[u8], groups: &[(u32, u32)]) -> Vec<u8> {
    let vfs = MemoryVfs::new();
    let mut writer = SidecarWriter::open(&vfs, Path::new(FEC), &SidecarIndex::default()).unwrap();
    for &(first, count) in groups {
        let (header, parity) = group(log, first, count);
        writer.append(&header, &parity).unwrap();
    }
    writer.sync().unwrap();
    content(&*vfs.open(Path::new(FEC), OpenFlags::READ).unwrap())
}

/// What is in a sidecar of these bytes.
pub(crate) fn scan(bytes: &[u8]) -> SidecarIndex {
    let vfs = MemoryVfs::new();
    SidecarIndex::scan(&*put(&vfs, FEC, bytes)).unwrap()
}

/// A log and its sidecar in a file system of their own.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) vfs: MemoryVfs,
    pub(crate) wal: Arc<dyn VfsFile>,
    pub(crate) fec: Arc<dyn VfsFile>,
}

impl Rig {
    pub(crate) fn new(log: &[u8], sidecar: &[u8]) -> Self {
        let vfs = MemoryVfs::new();
        Self {
            wal: put(&vfs, WAL, log),
            fec: put(&vfs, FEC, sidecar),
            vfs,
        }
    }

    pub(crate) fn files() -> FileSet {
        FileSet::of(Path::new("/a.db"))
    }

    pub(crate) fn heal(&self) -> HealReport {
        heal_log(&self.vfs, &Self::files(), &ReedSolomon).unwrap()
    }

    pub(crate) fn protect(&self) -> ProtectReport {
        protect_log(&self.vfs, &Self::files(), &ReedSolomon).unwrap()
    }

    pub(crate) fn log(&self) -> Vec<u8> {
        content(&*self.wal)
    }

    pub(crate) fn set_log(&self, bytes: &[u8]) {
        put(&self.vfs, WAL, bytes);
    }
}
