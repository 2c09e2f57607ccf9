//! Any bytes as a log and its sidecar: healing never panics, changes only what it names, and is done when it is
//! done.

use super::input::Input;
use std::path::Path;
use walmend_repair::{ReedSolomon, SidecarIndex, heal_log, protect_log, wal_sidecar_path};
use walmend_types::Error;
use walmend_vfs::{MemoryVfs, OpenFlags, Vfs};
use walmend_wal::{FileSet, WalHeader, frame_offset};

pub(super) fn run(data: &[u8]) {
    let [log, sidecar] = Input::new(data).files();
    let vfs = MemoryVfs::new();
    let files = FileSet::of(Path::new("/any.db"));
    for (path, bytes) in [(&files.wal, log), (&wal_sidecar_path(&files.db), sidecar)] {
        let file = vfs.open(path, OpenFlags::CREATE).expect("created");
        file.write_at(bytes, 0).expect("written");
    }
    let file = vfs
        .open(&wal_sidecar_path(&files.db), OpenFlags::READ)
        .expect("opened");
    SidecarIndex::scan(&*file).expect("damage is a finding");
    let report = match heal_log(&vfs, &files, &ReedSolomon) {
        Ok(report) => report,
        Err(error) => {
            assert!(!matches!(error, Error::Internal(_)), "{error}");
            return;
        }
    };
    let healed = content(&vfs, &files.wal);
    assert_eq!(report.kept_aside.is_some(), healed != log);
    assert_eq!(report.frames_healed.is_empty(), healed == log);
    if let Some(aside) = &report.kept_aside {
        assert!(content(&vfs, aside) == log, "what was damaged is kept as it was");
    }
    if let Some(header) = healed
        .first_chunk()
        .and_then(|bytes| WalHeader::decode(bytes).ok())
    {
        let start = |frame: u32| frame_offset(frame, header.page_size) as usize;
        let frames = |bytes: &[u8]| walmend_wal::slots(bytes.len() as u64, header.page_size) as u32;
        for frame in (1..=frames(log)).filter(|frame| !report.frames_healed.contains(frame)) {
            let place = start(frame)..start(frame + 1);
            assert!(
                healed[place.clone()] == log[place],
                "frame {frame} was changed, and not named"
            );
        }
    }
    let again = heal_log(&vfs, &files, &ReedSolomon).expect("it went well before");
    assert!(again.frames_healed.is_empty());
    assert_eq!(again.unhealable_frames, report.unhealable_frames);
    assert!(content(&vfs, &files.wal) == healed);
    if protect_log(&vfs, &files, &ReedSolomon).is_ok() {
        assert!(content(&vfs, &files.wal) == healed, "protecting changes no log");
        let again = heal_log(&vfs, &files, &ReedSolomon).expect("it went well before");
        assert!(again.frames_healed.is_empty());
    }
}

fn content(vfs: &MemoryVfs, path: &Path) -> Vec<u8> {
    let file = vfs.open(path, OpenFlags::READ).expect("opened");
    let mut bytes = vec![0; file.len().expect("a length") as usize];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}
