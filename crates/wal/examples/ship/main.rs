//! Tails the log of a live database: `cargo run -p walmend-wal --example ship -- app.db folder`, and
//! `-- restore folder copy.db` afterwards.

#![allow(clippy::print_stdout, reason = "it is a program")]

mod shipper;

use shipper::{Shipper, restore};
use std::path::Path;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["restore", folder, target] => {
            let frames = restore(Path::new(folder), Path::new(target))?;
            println!("{target} has {frames} frames on top of the base");
            Ok(())
        }
        [db, folder] => {
            let mut shipper = Shipper::start(Path::new(db), Path::new(folder))?;
            loop {
                let frames = shipper.poll()?;
                if frames > 0 {
                    println!("{frames} frames, up to commit {}", shipper.shipped());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        _ => Err("DATABASE FOLDER, or restore FOLDER DATABASE?".into()),
    }
}
