//! What protecting the database file costs, and how fast it is. Prints tables.
//!
//! ```text
//! cargo bench -p walmend-benches --bench database -- checkpoint [--mb 200] [--rounds 5]
//! cargo bench -p walmend-benches --bench database -- read [--mb 200] [--rounds 5]
//! cargo bench -p walmend-benches --bench database -- scrub [--mb 200] [--rate 20] [--seconds 20]
//! cargo bench -p walmend-benches --bench database -- par2 [--mb 200]
//! ```
//!
//! `checkpoint`: checkpoints of 10, 1,000 and all pages of a database with protection beside the same without. `read`: pages
//! of the database file read at a snapshot, verified beside unverified. `scrub`: commits per second of 8 writers beside a
//! scrub and without it. `par2`: making, checking and mending beside the program of that name, which must be installed.
//! Everything takes turns in one run. `WALMEND_BENCH_DIR` says where the files go; `target` by default.
#![allow(clippy::print_stdout, reason = "it is a program that reports")]

mod database_par2;
mod database_store;

use std::path::Path;
use walmend::{Error, Result};

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let next = self.next().to_le_bytes();
            word.copy_from_slice(&next[..word.len()]);
        }
    }
}

fn main() -> Result<()> {
    let option = |name: &str, default: u64| {
        let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
        args.next()
            .and_then(|value| value.parse().ok())
            .unwrap_or(default)
    };
    let wanted = |name: &str| std::env::args().any(|arg| arg == name);
    let folder =
        tempfile::tempdir_in(std::env::var_os("WALMEND_BENCH_DIR").unwrap_or_else(|| "target".into()))
            .map_err(|error| Error::io("create", Path::new("target"), None, error))?;
    let (folder, mb, rounds) = (folder.path(), option("--mb", 200), option("--rounds", 5));
    if wanted("checkpoint") {
        database_store::checkpoints(folder, mb, rounds)
    } else if wanted("read") {
        database_store::reads(folder, mb, rounds)
    } else if wanted("scrub") {
        database_store::scrub(folder, mb, option("--rate", 20), option("--seconds", 20))
    } else if wanted("par2") {
        database_par2::compare(folder, mb)
    } else {
        // Run with all the other benches: a small one of each that needs no other program.
        database_store::checkpoints(folder, mb.min(50), 3)?;
        database_store::reads(folder, mb.min(50), 3)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
