//! An event log on the command line: `cargo run -p walmend-commit --example event_log -- events.log append 1 hello`.

#![allow(clippy::print_stdout, reason = "it is a program")]

mod log;

use log::EventLog;
use std::path::Path;
use std::thread;
use std::time::Instant;
use walmend_commit::{CommitSeq, PageNumber};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (file, command) = args.split_first().ok_or("which file?")?;
    let log = EventLog::open(Path::new(file))?;
    if log.cut > 0 {
        println!("cut off {} bytes of an event that a crash had torn", log.cut);
    }
    match command {
        ["append", stream, text] => {
            let stream = PageNumber::new(stream.parse()?)?;
            let seen = log.read(stream)?.last().map_or(CommitSeq(0), |(seq, _)| *seq);
            let seq = log.append(stream, seen, text.as_bytes())?.wait().into_result()?;
            println!("event {seq} is on the disk");
        }
        ["read", stream] => {
            for (seq, body) in log.read(PageNumber::new(stream.parse()?)?)? {
                println!("{seq}\t{}", String::from_utf8_lossy(&body));
            }
        }
        ["load", writers, count] => load(&log, writers.parse()?, count.parse()?)?,
        _ => return Err("append STREAM TEXT, read STREAM, or load WRITERS COUNT?".into()),
    }
    log.close()?;
    Ok(())
}

/// Each thread appends to a stream of its own, waiting for each event.
fn load(log: &EventLog, writers: u32, count: u32) -> walmend_commit::Result<()> {
    let started = Instant::now();
    let write = |writer: u32| -> walmend_commit::Result<()> {
        let stream = PageNumber::new(writer + 1)?;
        let mut seen = log.read(stream)?.last().map_or(CommitSeq(0), |(seq, _)| *seq);
        for _ in 0..count {
            seen = log
                .append(stream, seen, b"it happened again")?
                .wait()
                .into_result()?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        let mut ends = threads.into_iter().map(|thread| thread.join());
        ends.try_for_each(|end| end.expect("a writer does not panic"))
    })?;
    let rate = f64::from(writers * count) / started.elapsed().as_secs_f64();
    println!("{} events, {rate:.0} per second", writers * count);
    Ok(())
}
