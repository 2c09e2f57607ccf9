//! The frame index against a plain list of frames.
#![cfg(not(walmend_loom))]

use proptest::prelude::*;
use walmend_sync::thread;
use walmend_types::{ErrorKind, FrameNumber, PageNumber};
use walmend_wal::FrameIndex;

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

/// What the index must answer, by walking over all frames.
struct Model(Vec<u32>);

impl Model {
    fn find(&self, page: u32, at_most: usize) -> Option<FrameNumber> {
        let upto = at_most.min(self.0.len());
        let position = self.0[..upto].iter().rposition(|&held| held == page)?;
        Some(FrameNumber(position as u32 + 1))
    }

    fn newest_pages(&self, after: usize, upto: usize) -> Vec<(PageNumber, FrameNumber)> {
        let upto = upto.min(self.0.len());
        let mut newest = std::collections::BTreeMap::new();
        for position in after..upto {
            newest.insert(page(self.0[position]), FrameNumber(position as u32 + 1));
        }
        newest.into_iter().collect()
    }
}

fn checksum_of(frame: u32) -> (u32, u32) {
    (frame.wrapping_mul(0x9e37_79b9), !frame)
}

fn filled(pages: &[u32]) -> FrameIndex {
    let index = FrameIndex::new();
    for (&held, frame) in pages.iter().zip(1..) {
        index
            .insert(FrameNumber(frame), page(held), checksum_of(frame))
            .unwrap();
    }
    index
}

/// A list of frames that reaches into the third block, over few pages, or many, or pages that all share one chain.
fn frames() -> impl Strategy<Value = Vec<u32>> {
    let length = prop_oneof![0..40usize, 4050..4075usize, 8150..8400usize];
    let spread = prop_oneof![
        Just((3u32, 1u32)),
        Just((300, 1)),
        Just((100_000, 1)),
        Just((20, 8192)),
        Just((u32::MAX, 1)),
    ];
    (length, spread, any::<u64>()).prop_map(|(length, (distinct, stride), seed)| {
        let mut state = seed | 1;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                ((state >> 16) as u32 % distinct) * stride + 1
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn finding_agrees_with_a_walk_over_all_frames(
        frames in frames(),
        probes in proptest::collection::vec((any::<prop::sample::Index>(), 0..8500usize), 60),
    ) {
        let index = filled(&frames);
        let model = Model(frames);
        prop_assert_eq!(index.last(), FrameNumber(model.0.len() as u32));
        for (position, at_most) in probes {
            let wanted = if model.0.is_empty() { 1 } else { model.0[position.index(model.0.len())] };
            for number in [wanted, wanted.wrapping_add(8192).max(1)] {
                prop_assert_eq!(
                    index.find(page(number), FrameNumber(at_most as u32)),
                    model.find(number, at_most)
                );
            }
        }
    }

    #[test]
    fn a_checkpoint_plan_names_the_newest_frame_of_each_page_in_page_order(
        frames in frames(),
        ends in proptest::collection::vec((0..8500usize, 0..8500usize), 8),
    ) {
        let index = filled(&frames);
        let model = Model(frames);
        for (after, upto) in ends {
            prop_assert_eq!(
                index.newest_pages(FrameNumber(after as u32), FrameNumber(upto as u32)),
                model.newest_pages(after, upto)
            );
        }
    }

    #[test]
    fn every_frame_keeps_its_page_and_its_checksum(frames in frames()) {
        let index = filled(&frames);
        for (&held, frame) in frames.iter().zip(1..) {
            prop_assert_eq!(index.page_of(FrameNumber(frame)), Some(page(held)));
            prop_assert_eq!(index.checksum(FrameNumber(frame)), Some(checksum_of(frame)));
        }
        for outside in [0, frames.len() as u32 + 1, u32::MAX] {
            prop_assert_eq!(index.page_of(FrameNumber(outside)), None);
            prop_assert_eq!(index.checksum(FrameNumber(outside)), None);
        }
    }
}

#[test]
fn one_page_that_fills_a_block_is_found_at_each_of_its_frames() {
    let frames = vec![5; 8200];
    let index = filled(&frames);
    for frame in [1, 2, 4061, 4062, 4063, 8157, 8158, 8159, 8200] {
        let frame = FrameNumber(frame);
        assert_eq!(index.find(page(5), frame), Some(frame));
    }
    assert_eq!(
        index.newest_pages(FrameNumber(0), FrameNumber(u32::MAX)),
        [(page(5), FrameNumber(8200))]
    );
}

#[test]
fn a_frame_out_of_order_is_refused_and_changes_nothing() {
    let index = FrameIndex::new();
    for wrong in [0, 2, u32::MAX] {
        let error = index.insert(FrameNumber(wrong), page(1), (0, 0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
    index.insert(FrameNumber(1), page(1), (0, 0)).unwrap();
    assert!(index.insert(FrameNumber(1), page(2), (0, 0)).is_err());
    assert_eq!(index.last(), FrameNumber(1));
    assert_eq!(index.page_of(FrameNumber(1)), Some(page(1)));
    assert_eq!(index.find(page(2), FrameNumber(9)), None);
}

#[test]
fn two_writers_never_mix_up_a_frame() {
    let index = FrameIndex::new();
    let won = [1, 2].map(|number| (number, walmend_sync::atomic::AtomicU32::new(0)));
    thread::scope(|scope| {
        for (number, count) in &won {
            let index = &index;
            scope.spawn(move || {
                for frame in 1..=5000 {
                    if index
                        .insert(FrameNumber(frame), page(*number), (frame, *number))
                        .is_ok()
                    {
                        count.fetch_add(1, walmend_sync::atomic::Ordering::Relaxed);
                    } else if index.last() < FrameNumber(frame) {
                        // Ahead of the other writer can nobody be: a frame that is refused is already in.
                        panic!("frame {frame} was refused before it was in");
                    }
                }
            });
        }
    });
    assert_eq!(index.last(), FrameNumber(5000));
    let counts: u32 = won
        .iter()
        .map(|(_, count)| count.load(walmend_sync::atomic::Ordering::Relaxed))
        .sum();
    assert_eq!(counts, 5000);
    for frame in 1..=5000 {
        let holder = index.page_of(FrameNumber(frame)).unwrap();
        assert_eq!(index.checksum(FrameNumber(frame)), Some((frame, holder.get())));
    }
}

#[test]
fn readers_beside_the_writer_see_answers_that_are_right_and_never_go_back() {
    const FRAMES: u32 = 30_000;
    let held = |frame: u32| frame * 7 % 11 + 1;
    let index = FrameIndex::new();
    thread::scope(|scope| {
        for wanted in 1..=3 {
            let index = &index;
            scope.spawn(move || {
                let mut before = FrameNumber(0);
                while before.0 <= FRAMES - 11 {
                    let visible = index.last();
                    let Some(found) = index.find(page(wanted), FrameNumber(u32::MAX)) else {
                        // Every page appears within the first 11 frames.
                        assert!(visible < FrameNumber(11));
                        continue;
                    };
                    assert_eq!(held(found.0), wanted);
                    assert!(found >= before);
                    // Nothing that was visible before the call is missed: each page comes every 11 frames.
                    assert!(found.0 + 11 > visible.0);
                    assert_eq!(index.page_of(found), Some(page(wanted)));
                    assert_eq!(index.checksum(found), Some(checksum_of(found.0)));
                    let bounded = index.find(page(wanted), visible).map_or(0, |frame| frame.0);
                    assert!(bounded <= visible.0 && bounded + 11 > visible.0);
                    before = found;
                }
            });
        }
        for frame in 1..=FRAMES {
            index
                .insert(FrameNumber(frame), page(held(frame)), checksum_of(frame))
                .unwrap();
        }
    });
}
