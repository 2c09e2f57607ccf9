//! The event log of `examples/event_log`: what an engine with a log of its own gets from this crate.

#[path = "../examples/event_log/log.rs"]
mod log;

use log::EventLog;
use std::fs::{self, File};
use walmend_commit::{CommitOutcome, CommitSeq, PageNumber};
use walmend_sync::thread;

fn stream(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

#[test]
fn events_come_back_and_old_streams_are_still_guarded_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let log = EventLog::open(&path).unwrap();
    let first = log
        .append(stream(1), CommitSeq(0), b"one")
        .unwrap()
        .wait()
        .into_result()
        .unwrap();
    let late = log.append(stream(1), CommitSeq(0), b"unseen").unwrap().wait();
    assert!(matches!(late, CommitOutcome::Conflict(_)));
    let other = log
        .append(stream(2), CommitSeq(0), b"two")
        .unwrap()
        .wait()
        .into_result()
        .unwrap();
    log.close().unwrap();

    let log = EventLog::open(&path).unwrap();
    assert_eq!(log.cut, 0);
    assert_eq!(log.read(stream(1)).unwrap(), [(first, b"one".to_vec())]);
    assert_eq!(log.read(stream(2)).unwrap(), [(other, b"two".to_vec())]);
    let late = log.append(stream(1), CommitSeq(0), b"unseen").unwrap().wait();
    assert!(matches!(late, CommitOutcome::Conflict(conflict) if conflict.winner_seq == first));
    let next = log
        .append(stream(1), first, b"three")
        .unwrap()
        .wait()
        .into_result()
        .unwrap();
    assert!(next > other);
    log.close().unwrap();
}

#[test]
fn whatever_is_left_of_the_last_event_is_cut_off_and_nothing_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let log = EventLog::open(&path).unwrap();
    let mut seen = CommitSeq(0);
    for _ in 0..3 {
        seen = log
            .append(stream(7), seen, b"0123456789")
            .unwrap()
            .wait()
            .into_result()
            .unwrap();
    }
    log.close().unwrap();
    let whole = fs::read(&path).unwrap();
    let record = whole.len() / 3;
    for len in 2 * record..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let log = EventLog::open(&path).unwrap();
        assert_eq!(log.cut as usize, len - 2 * record);
        assert_eq!(log.read(stream(7)).unwrap().len(), 2);
        log.close().unwrap();
        assert_eq!(
            File::open(&path).unwrap().metadata().unwrap().len() as usize,
            2 * record
        );
    }
}

#[test]
fn one_sync_serves_many_appenders() {
    let folder = tempfile::tempdir().unwrap();
    let log = EventLog::open(&folder.path().join("events.log")).unwrap();
    thread::scope(|scope| {
        for writer in 1..=8 {
            let log = &log;
            scope.spawn(move || {
                let mut seen = CommitSeq(0);
                for n in 0..50_u32 {
                    let ticket = log.append(stream(writer), seen, &n.to_le_bytes()).unwrap();
                    seen = ticket.wait().into_result().unwrap();
                }
                let events = log.read(stream(writer)).unwrap();
                assert!(
                    (0..50_u32).map(u32::to_le_bytes).eq(events
                        .into_iter()
                        .map(|(_, body)| { <[u8; 4]>::try_from(body).unwrap() }))
                );
            });
        }
    });
    let totals = log.close().unwrap().totals;
    assert_eq!(totals.commits, 400);
    assert_eq!(totals.syncs, totals.batches);
    assert!(totals.syncs <= totals.commits);
}
