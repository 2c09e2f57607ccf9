//! What the tests against the real SQLite share.
//!
//! SQLite (the one that rusqlite builds in) is the oracle: what it makes of the same bytes is what walmend
//! has to arrive at.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test file is a program of its own and uses a part of this"
)]

pub(crate) mod child;
pub(crate) mod codec;
pub(crate) mod kill;
pub(crate) mod sqlite;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use walmend::{Error, Options, PageNumber, PageSize, Store};
use walmend_vfs::{OpenFlags, UnixVfs, Vfs};
use walmend_wal::{FileSet, Findings, with_suffix};

/// A page number.
pub(crate) fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

pub(crate) use walmend_vfs::Random;

/// Copies a database with the files beside it that `suffixes` name, as far as they exist, and gives the path
/// of the copy.
pub(crate) fn copy(db: &Path, folder: &Path, suffixes: &[&str]) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let target = folder.join(db.file_name().unwrap());
    fs::copy(db, &target).unwrap();
    for suffix in suffixes {
        let from = with_suffix(db, suffix);
        if from.exists() {
            fs::copy(from, with_suffix(&target, suffix)).unwrap();
        }
    }
    target
}

/// Every file of a folder, by name.
pub(crate) fn folder_bytes(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect()
}

/// The log beside a database.
pub(crate) fn wal_of(db: &Path) -> PathBuf {
    with_suffix(db, "-wal")
}

/// The log's companion.
pub(crate) fn meta_of(db: &Path) -> PathBuf {
    with_suffix(db, "-wal-meta")
}

/// The pages of a database file.
pub(crate) fn file_pages(db: &Path, page_size: usize) -> Vec<Vec<u8>> {
    let bytes = fs::read(db).unwrap();
    assert_eq!(bytes.len() % page_size, 0, "{} ends within a page", db.display());
    bytes.chunks(page_size).map(<[u8]>::to_vec).collect()
}

/// The pages that a snapshot of the store sees now.
pub(crate) fn store_pages(store: &Store) -> Vec<Vec<u8>> {
    let snapshot = store.snapshot().unwrap();
    (1..=snapshot.db_pages())
        .map(|number| snapshot.read(page(number)).unwrap())
        .collect()
}

/// Says which page differs first, instead of printing megabytes.
#[track_caller]
pub(crate) fn assert_same_pages(left: &[Vec<u8>], right: &[Vec<u8>], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}: number of pages");
    let differing = left.iter().zip(right).position(|(left, right)| left != right);
    assert_eq!(
        differing.map(|place| place + 1),
        None,
        "{what}: first page that differs"
    );
}

/// Says which file differs first, instead of printing megabytes.
#[track_caller]
pub(crate) fn assert_same_files(
    left: &BTreeMap<String, Vec<u8>>,
    right: &BTreeMap<String, Vec<u8>>,
    what: &str,
) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(left), names(right), "{what}: files");
    for (name, bytes) in left {
        assert!(right[name] == *bytes, "{what}: {name} has changed");
    }
}

/// What walmend finds in the files, without changing anything.
pub(crate) fn findings(db: &Path) -> Findings {
    let vfs = UnixVfs::new();
    let identity = walmend::identify(&vfs, db).unwrap();
    let file = vfs.open(db, OpenFlags::READ).unwrap();
    Findings::gather(&vfs, &FileSet::of(db), &*file, identity.page_size, false, false).unwrap()
}

/// Opens an existing store as it is.
pub(crate) fn open(db: &Path) -> (Store, walmend::OpenReport) {
    Store::open(db, Options::new().create(false)).unwrap()
}

pub(crate) fn page_size(bytes: usize) -> PageSize {
    PageSize::new(u32::try_from(bytes).unwrap()).unwrap()
}

/// Opening is refused, and changes no file of the folder; gives the error.
#[track_caller]
pub(crate) fn refused(db: &Path, options: Options) -> Error {
    let folder = db.parent().unwrap();
    let before = folder_bytes(folder);
    let error = Store::open(db, options).unwrap_err();
    assert_same_files(&before, &folder_bytes(folder), &error.to_string());
    error
}
