//! Models of the frame index; its blocks shrink to two frames and four slots under loom.
#![cfg(walmend_loom)]

use std::sync::Arc;
use walmend_sync::{model::model, thread};
use walmend_types::{FrameNumber, PageNumber};
use walmend_wal::FrameIndex;

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

fn checksum_of(frame: u32) -> (u32, u32) {
    (frame + 100, frame + 200)
}

fn insert(index: &FrameIndex, frame: u32, held: u32) {
    index
        .insert(FrameNumber(frame), page(held), checksum_of(frame))
        .unwrap();
}

#[test]
fn what_is_published_is_whole() {
    model(|| {
        let index = Arc::new(FrameIndex::new());
        let writer = thread::spawn({
            let index = Arc::clone(&index);
            // Frame 1 fills the first block, 2 and 3 share the second, where pages 1 and 5 share a chain.
            move || {
                insert(&index, 1, 1);
                insert(&index, 2, 5);
                insert(&index, 3, 1);
            }
        });
        let visible = index.last();
        for frame in 1..=visible.0 {
            let held = if frame == 2 { 5 } else { 1 };
            assert_eq!(index.page_of(FrameNumber(frame)), Some(page(held)));
            assert_eq!(index.checksum(FrameNumber(frame)), Some(checksum_of(frame)));
        }
        let newest = [None, Some(1), Some(1), Some(3)][visible.0 as usize];
        assert_eq!(index.find(page(1), visible), newest.map(FrameNumber));
        writer.join().unwrap();
    });
}

#[test]
fn a_find_beside_inserts_misses_nothing_published_and_never_goes_back() {
    model(|| {
        let index = Arc::new(FrameIndex::new());
        insert(&index, 1, 1);
        let writer = thread::spawn({
            let index = Arc::clone(&index);
            move || {
                insert(&index, 2, 1);
                insert(&index, 3, 1);
            }
        });
        let mut before = index.last();
        for _ in 0..2 {
            let found = index.find(page(1), FrameNumber(u32::MAX)).unwrap();
            assert!(found >= before);
            assert_eq!(index.checksum(found), Some(checksum_of(found.0)));
            before = found;
        }
        writer.join().unwrap();
        assert_eq!(index.find(page(1), FrameNumber(9)), Some(FrameNumber(3)));
    });
}

#[test]
fn a_bounded_find_ignores_the_frame_that_is_being_inserted() {
    model(|| {
        let index = Arc::new(FrameIndex::new());
        insert(&index, 1, 9);
        insert(&index, 2, 1);
        let writer = thread::spawn({
            let index = Arc::clone(&index);
            move || insert(&index, 3, 1)
        });
        assert_eq!(index.find(page(1), FrameNumber(2)), Some(FrameNumber(2)));
        assert_eq!(
            index.newest_pages(FrameNumber(0), FrameNumber(2)),
            [(page(1), FrameNumber(2)), (page(9), FrameNumber(1))]
        );
        writer.join().unwrap();
    });
}
