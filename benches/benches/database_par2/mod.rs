//! Protecting a database file beside par2 at the same redundancy.

use super::{Random, median};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use walmend::{Error, PageSize, Result};
use walmend_repair::{DatabaseCheck, ReedSolomon, Work, heal_database, protect_database};
use walmend_sync::thread;
use walmend_types::Cx;
use walmend_vfs::UnixVfs;
use walmend_wal::FileSet;

const FLIPS: usize = 200;
const MIB: usize = 1 << 20;

fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::io(what, path, None, error)
}

/// Makes, checks and mends on both sides, and compares the results with the original byte for byte.
pub(super) fn compare(folder: &Path, mb: u64) -> Result<()> {
    let whole = database(mb);
    let ours = folder.join("a.db");
    let theirs = folder.join("par2").join("a.db");
    fs::create_dir(folder.join("par2")).map_err(failed("create", folder))?;
    for path in [&ours, &theirs] {
        fs::write(path, &whole).map_err(failed("write", path))?;
    }
    let cx = Cx::new();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = || Work::new(&cx).threads(threads);
    let (vfs, files) = (UnixVfs::new(), FileSet::of(&ours));
    let page_size = PageSize::DEFAULT;

    let make = timed(|| protect_database(&vfs, &files, page_size, &ReedSolomon, &work()).map(drop))?;
    let percent = redundancy(&ours, whole.len());
    let check = median(
        (0..5)
            .map(|_| timed(|| DatabaseCheck::make(&vfs, &files, &work()).map(drop)))
            .collect::<Result<_>>()?,
    );
    damage(&ours, &whole)?;
    let mend = timed(|| heal_database(&vfs, &files, &ReedSolomon, false, &work()).map(drop))?;
    let same = |path: &Path| fs::read(path).is_ok_and(|bytes| bytes == whole);
    assert!(same(&ours), "heal did not bring back what was there");

    let redundancy = format!("-r{percent}");
    let par2 = |args: &[&str]| -> Result<f64> {
        timed(|| {
            let mut command = Command::new("par2");
            let status = command
                .args(args)
                .arg("-q")
                .arg("-q")
                .arg("a.db.par2")
                .current_dir(folder.join("par2"));
            let status = if args[0] == "create" {
                status.arg("a.db")
            } else {
                status
            };
            let output = status.output().map_err(failed("start par2 in", folder))?;
            if output.status.success() {
                return Ok(());
            }
            Err(Error::Invalid(format!(
                "par2 {args:?} ended with {}",
                output.status
            )))
        })
    };
    let par2_make = par2(&["create", &redundancy])?;
    let par2_check = par2(&["verify"])?;
    damage(&theirs, &whole)?;
    let par2_mend = par2(&["repair"])?;
    assert!(same(&theirs), "par2 did not bring back what was there");

    let bytes = whole.len() as f64;
    println!(
        "{:.0} MB in the page cache, {threads} threads, {percent} % of redundancy, {FLIPS} flips and a mebibyte of zeros; both identical after it",
        bytes / 1e6
    );
    println!("        walmend                par2");
    for (what, ours, theirs) in [
        ("make", make, par2_make),
        ("check", check, par2_check),
        ("mend", mend, par2_mend),
    ] {
        println!(
            "{what:<6}  {ours:>6.2} s {:>6.0} MB/s  {theirs:>6.2} s {:>6.1} MB/s  {:>5.1}x",
            bytes / 1e6 / ours,
            bytes / 1e6 / theirs,
            theirs / ours
        );
    }
    Ok(())
}

/// Random bytes behind the first page of an SQLite database: neither program looks at more.
fn database(mb: u64) -> Vec<u8> {
    let mut bytes = vec![0; (mb as usize * 1_000_000).next_multiple_of(4096)];
    Random(mb).fill(&mut bytes);
    bytes
}

/// What the sidecar takes up on the disk, in per cent of the database.
fn redundancy(db: &Path, len: usize) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut sidecar = db.as_os_str().to_owned();
    sidecar.push("-fec");
    let blocks = fs::metadata(PathBuf::from(sidecar)).map_or(0, |metadata| metadata.blocks());
    blocks * 512 * 100 / len as u64 + 1
}

/// As a disk does it: the time of the file stays.
fn damage(path: &Path, whole: &[u8]) -> Result<()> {
    let error = || failed("damage", path);
    let mut random = Random(7);
    let file = File::options().write(true).open(path).map_err(error())?;
    let modified = file
        .metadata()
        .and_then(|metadata| metadata.modified())
        .map_err(error())?;
    for _ in 0..FLIPS {
        let at = random.next() as usize % whole.len();
        file.write_all_at(&[whole[at] ^ 4], at as u64).map_err(error())?;
    }
    let at = random.next() as usize % (whole.len() - MIB);
    file.write_all_at(&vec![0; MIB], at as u64).map_err(error())?;
    file.sync_all().map_err(error())?;
    file.set_modified(modified).map_err(error())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}
