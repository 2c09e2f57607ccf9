//! The corpora of fuzzing, replayed: real files, made here, and what libFuzzer found worth keeping.
//!
//! `WALMEND_SEEDS=folder` writes the real files to `folder/<target>`, for libFuzzer to begin with.

use rusqlite::Connection;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use walmend::{CheckpointMode, Options, PageNumber, PageSize, Store};
use walmend_proof::targets::{TARGETS, join};
use walmend_repair::{ReedSolomon, protect_log, wal_sidecar_path};
use walmend_vfs::{MemoryVfs, OpenFlags, Vfs};
use walmend_wal::FileSet;

/// Database, log, companion and sidecar.
type Files = [Vec<u8>; 4];

fn commit(store: &Store, version: u8, pages: impl IntoIterator<Item = u32>) {
    let mut txn = store.begin().unwrap();
    for page in pages {
        let image = vec![version; store.page_size().as_usize()];
        txn.write(PageNumber::new(page).unwrap(), image).unwrap();
    }
    txn.commit().into_result().unwrap();
}

/// What a store leaves that was restarted, closed or not, and protected or not.
fn by_walmend(page_size: u32, closed: bool, protected: bool) -> Files {
    let vfs = MemoryVfs::with_seed(page_size.into());
    let files = FileSet::of(Path::new("/seed.db"));
    let options = Options::new()
        .page_size(PageSize::new(page_size).unwrap())
        .preallocate(1024)
        .vfs(Arc::new(vfs.clone()));
    let (store, _) = Store::open(&files.db, options).unwrap();
    for version in 1..=4 {
        commit(&store, version, [version.into(), 5]);
    }
    store.checkpoint(CheckpointMode::Restart).unwrap();
    for version in 5..=7 {
        commit(&store, version, [1, version.into()]);
    }
    let read = |path: &Path| {
        let Ok(file) = vfs.open(path, OpenFlags::READ) else {
            return Vec::new();
        };
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    if protected {
        protect_log(&vfs, &files, &ReedSolomon).unwrap();
    }
    let left = || [&files.db, &files.wal, &files.meta, &wal_sidecar_path(&files.db)].map(|path| read(path));
    let killed = left();
    store.close().unwrap();
    if closed { left() } else { killed }
}

/// What SQLite leaves when it is killed.
fn by_sqlite(page_size: u32) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("seed.db");
    let connection = Connection::open(&db).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1);
             INSERT INTO t VALUES (randomblob(900)); PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES (3);"
        ))
        .unwrap();
    let read = |suffix: &str| fs::read(folder.path().join(format!("seed.db{suffix}"))).unwrap_or_default();
    [read(""), read("-wal"), vec![], vec![]]
}

/// Seeds by target and name.
fn seeds() -> BTreeMap<(&'static str, String), Vec<u8>> {
    let mut seeds = BTreeMap::new();
    let mut all: Vec<(String, u32, Files)> = Vec::new();
    for page_size in [512, 1024] {
        all.push((format!("sqlite-{page_size}"), page_size, by_sqlite(page_size)));
        for (closed, protected) in [(false, false), (true, false), (false, true)] {
            let name = format!("walmend-{page_size}-{closed}-{protected}");
            all.push((name, page_size, by_walmend(page_size, closed, protected)));
        }
    }
    for (name, page_size, [db, wal, meta, fec]) in all {
        let size = page_size.trailing_zeros() as u8 - 9;
        seeds.insert(("log", name.clone()), wal.clone());
        seeds.insert(("sidecar", name.clone()), join(&[], &[&wal, &fec]));
        let mut torn = wal.clone();
        torn[32 + 24 + 7] ^= 1;
        seeds.insert(("sidecar", format!("{name}-damaged")), join(&[], &[&torn, &fec]));
        for settings in 0..3 {
            let data = join(&[size, settings], &[&db, &wal, &meta]);
            seeds.insert(("recovery", format!("{name}-{settings}")), data);
            let data = join(&[size, settings], &[&db, &torn, &meta]);
            seeds.insert(("recovery", format!("{name}-damaged-{settings}")), data);
        }
        for command in 0..12 {
            let data = join(&[command, 2, 0], &[&db, &wal, &meta, &fec]);
            seeds.insert(("cli", format!("{name}-{command}")), data);
        }
        seeds.insert(
            ("cli", format!("{name}-damaged")),
            join(&[5, 2, 0], &[&db, &torn, &meta, &fec]),
        );
    }
    for capacity in 0..4 {
        let mut data = vec![capacity];
        for step in 0..60u8 {
            data.extend([
                step.wrapping_mul(7).wrapping_add(capacity) % 9,
                step.wrapping_mul(29),
            ]);
        }
        seeds.insert(("channel", capacity.to_string()), data);
    }
    seeds
}

#[test]
fn real_files_pass_every_target() {
    let seeds = seeds();
    for ((target, name), data) in &seeds {
        walmend_proof::targets::run(target, data);
        if let Some(folder) = std::env::var_os("WALMEND_SEEDS") {
            let folder = PathBuf::from(folder).join(target);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(name), data).unwrap();
        }
    }
    for target in TARGETS {
        assert!(
            seeds.keys().any(|(name, _)| *name == target.name),
            "{}",
            target.name
        );
    }
}

#[test]
fn what_fuzzing_found_worth_keeping_passes_every_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for target in TARGETS {
        let entries = fs::read_dir(corpus.join(target.name)).unwrap();
        let mut replayed = 0;
        for entry in entries {
            let path = entry.unwrap().path();
            let data = fs::read(&path).unwrap();
            let run = std::panic::catch_unwind(|| (target.run)(&data));
            assert!(run.is_ok(), "{}", path.display());
            replayed += 1;
        }
        assert!(replayed > 0, "{} has no corpus", target.name);
    }
}
