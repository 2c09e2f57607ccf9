//! Any bytes as a log: what counts in it is what counts for SQLite, and what else is found is consistent.

use crate::naive;
use std::path::Path;
use walmend_types::PageSize;
use walmend_vfs::{MemoryVfs, OpenFlags, Vfs};
use walmend_wal::{HeaderState, Scan, ScanHints};

pub(super) fn run(data: &[u8]) {
    let vfs = MemoryVfs::new();
    let file = vfs
        .open(Path::new("/any.db-wal"), OpenFlags::CREATE)
        .expect("created");
    file.write_at(data, 0).expect("written");
    let hints = ScanHints {
        page_size: PageSize::MIN,
        ..ScanHints::default()
    };
    let scan = Scan::read(&*file, hints).expect("a file in memory can be read");
    let found = (
        scan.valid_frames,
        scan.committed_frames,
        scan.commits,
        scan.db_pages,
    );
    match naive::prefix(data) {
        Some(expected) => {
            let counted = (
                expected.valid,
                expected.committed,
                expected.commits,
                expected.db_pages,
            );
            assert_eq!(found, counted);
            assert_eq!(scan.page_size.as_usize(), expected.page_size);
        }
        None => {
            assert!(scan.header.ok().is_none(), "{:?}", scan.header);
            assert_eq!(found, (0, 0, 0, 0));
            assert_eq!(scan.header == HeaderState::Absent, data.is_empty());
        }
    }
    let (frames, commits) = scan.count_behind();
    assert!(commits <= frames);
    assert!(scan.valid_frames as usize + frames as usize <= scan.slots.len());
    if let Some(last) = scan.last_commit_behind() {
        assert!(last > scan.valid_frames && scan.fault(last).is_none());
        assert!(scan.ends_transaction(last));
    }
    for frame in 0..=scan.slots.len() as u32 + 1 {
        if frame > 0 && frame <= scan.valid_frames {
            assert_eq!(scan.fault(frame), None);
        }
        scan.ends_transaction(frame);
        scan.repeats_commit(frame);
    }
}
