//! A key-value store on the command line: `cargo run -p walmend --example kv -- app.kv set name walmend`.
//!
//! `engine.rs` is a small B+tree over `walmend::Store`, in which concurrent writers simply try again when they
//! lose; `node.rs` is the layout of its pages.

#![allow(clippy::print_stdout, reason = "it is a program")]

mod engine;
mod node;

use engine::{Kv, KvError};
use std::path::Path;
use std::thread;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (file, command) = args.split_first().ok_or("which file?")?;
    let kv = Kv::open(Path::new(file))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match command {
        ["set", key, value] => println!("commit {}", kv.set(key.as_bytes(), value.as_bytes())?),
        ["get", key] => println!("{}", text(&kv.get(key.as_bytes())?.ok_or("not there")?)),
        ["delete", key] => println!("{}", kv.delete(key.as_bytes())?),
        ["list"] => {
            for (key, value) in kv.all()? {
                println!("{}\t{}", text(&key), text(&value));
            }
        }
        ["load", writers, count] => load(&kv, writers.parse()?, count.parse()?)?,
        _ => return Err("set KEY VALUE, get KEY, delete KEY, list, or load WRITERS COUNT?".into()),
    }
    kv.close()?;
    Ok(())
}

/// Many threads set keys, one commit each.
fn load(kv: &Kv, writers: usize, count: usize) -> Result<(), KvError> {
    let started = Instant::now();
    let write = |writer| {
        (0..count).try_for_each(|n| {
            let key = format!("{writer}/{n:08}");
            kv.set(key.as_bytes(), b"some value").map(drop)
        })
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        let mut ends = threads.into_iter().map(|thread| thread.join());
        ends.try_for_each(|end| end.expect("a writer does not panic"))
    })?;
    let rate = (writers * count) as f64 / started.elapsed().as_secs_f64();
    kv.checkpoint()?;
    println!("{} commits, {rate:.0} per second", writers * count);
    Ok(())
}
