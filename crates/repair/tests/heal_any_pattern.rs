//! Whatever up to R frames and parity records of a group come to, the log is again what it was, byte for byte;
//! with R + 1 it is left as it is.

#![cfg(not(walmend_loom))]

mod rig;

use proptest::prelude::*;
use rig::{Random, Rig, log, place, sidecar};
use std::collections::BTreeSet;
use walmend_repair::parity_for;

const PAGE: u32 = 512;
/// Bytes of a record with parity for a page of 512 bytes.
const PARITY_RECORD: usize = 64 + 576;

/// What is damaged in one group.
#[derive(Debug, Default)]
struct Lost {
    frames: BTreeSet<u32>,
    parity: BTreeSet<usize>,
}

/// `count` of the frames and parity records of a group.
fn choose(random: &mut Random, first: u32, sources: u32, count: usize) -> Lost {
    let parity = parity_for(sources as usize);
    let mut lost = Lost::default();
    while lost.frames.len() + lost.parity.len() < count {
        match random.below(sources as usize + parity) {
            place if place < sources as usize => drop(lost.frames.insert(first + place as u32)),
            place => drop(lost.parity.insert(place - sources as usize)),
        }
    }
    lost
}

/// Damages the frames in one of many ways, where bits flip at most `bits` of each; each of them differs afterwards.
fn damage_frames(random: &mut Random, log: &mut [u8], frames: &BTreeSet<u32>, all: u32, bits: usize) {
    let whole = log.to_vec();
    let original = |frame: u32| &whole[place(PAGE, frame)];
    let frames: Vec<u32> = frames.iter().copied().collect();
    let kind = random.below(7);
    for (index, &frame) in frames.iter().enumerate() {
        let range = place(PAGE, frame);
        let len = range.len();
        match kind {
            // Flipped bits.
            0 => {
                for _ in 0..=random.below(bits) {
                    let bit = random.below(len * 8);
                    log[range.start + bit / 8] ^= 1 << (bit % 8);
                }
            }
            // A zeroed block within it, or all of it.
            1 => {
                let start = random.below(len);
                let end = if random.below(2) == 0 {
                    len
                } else {
                    start + 1 + random.below(len - start)
                };
                log[range.start + start..range.start + end].fill(0);
            }
            // Garbage.
            2 => log[range.clone()]
                .iter_mut()
                .for_each(|byte| *byte = random.next() as u8),
            // The damaged frames, exchanged with each other.
            3 => {
                let other = frames[(index + 1) % frames.len()];
                log[range.clone()].copy_from_slice(original(other));
            }
            // Any frame of the log, misdirected: one by itself, or each with its neighbour behind it.
            4 => {
                let other = 1 + random.below(all as usize) as u32;
                log[range.clone()].copy_from_slice(original(other));
            }
            5 => {
                let other = 1 + (frame + all / 2) % all;
                log[range.clone()].copy_from_slice(original(other));
            }
            // The stored checksum alone.
            _ => log[range.start + 16 + random.below(8)] ^= 1 << random.below(8),
        }
        if log[range.clone()] == *original(frame) {
            log[range.start + random.below(len)] ^= 0x40;
        }
    }
}

fn damage_parity(
    random: &mut Random,
    sidecar: &mut [u8],
    start: usize,
    sources: u32,
    parity: &BTreeSet<usize>,
) {
    let first = start + description(sources);
    for record in parity {
        let at = first + record * PARITY_RECORD;
        match random.below(3) {
            0 => sidecar[at + random.below(PARITY_RECORD)] ^= 1 << random.below(8),
            1 => sidecar[at..at + PARITY_RECORD].fill(0),
            _ => sidecar[at + 64..at + PARITY_RECORD]
                .iter_mut()
                .for_each(|byte| *byte ^= 0x5a),
        }
        // Bytes of the head that nothing checks do not exist.
    }
}

fn description(sources: u32) -> usize {
    (128 + 16 * sources as usize).next_multiple_of(64)
}

fn group_len(sources: u32) -> usize {
    2 * description(sources) + parity_for(sources as usize) * PARITY_RECORD
}

/// Two to four groups of any size, and for each of them how much of its parity is used up.
fn groups() -> impl Strategy<Value = Vec<(u32, u32)>> {
    proptest::collection::vec(prop_oneof![1_u32..=20, 1_u32..=128], 2..=4).prop_map(|sizes| {
        let mut first = 1;
        let place = |size| {
            let group = (first, size);
            first += size;
            group
        };
        sizes.into_iter().map(place).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn up_to_r_losses_in_each_group_are_restored_byte_for_byte(groups in groups(), seed in any::<u64>()) {
        let all = groups.iter().map(|(_, size)| size).sum();
        let whole = log(PAGE, all, seed);
        let parity = sidecar(&whole, &groups);
        let (mut damaged, mut fec) = (whole.clone(), parity.clone());
        let mut random = Random(seed ^ 1);
        let mut wanted = Vec::new();
        let mut start = 0;
        for &(first, size) in &groups {
            let count = random.below(parity_for(size as usize) + 1);
            let lost = choose(&mut random, first, size, count);
            damage_frames(&mut random, &mut damaged, &lost.frames, all, 4);
            damage_parity(&mut random, &mut fec, start, size, &lost.parity);
            wanted.extend(lost.frames);
            start += group_len(size);
        }
        prop_assert_eq!(start, parity.len());
        let rig = Rig::new(&damaged, &fec);
        let report = rig.heal();
        prop_assert!(rig.log() == whole, "{:?}", report);
        prop_assert_eq!(&report.frames_healed, &wanted);
        prop_assert!(report.unhealable_frames.is_empty() && report.other_history.is_empty());
        prop_assert_eq!(report.kept_aside.is_some(), !wanted.is_empty());
        // Once more: there is nothing left to do.
        let again = rig.heal();
        prop_assert!(again.frames_healed.is_empty() && again.kept_aside.is_none());
        prop_assert!(rig.log() == whole);
    }

    #[test]
    fn one_loss_more_than_r_is_reported_and_left_as_it_is(groups in groups(), seed in any::<u64>()) {
        let all = groups.iter().map(|(_, size)| size).sum();
        let whole = log(PAGE, all, seed);
        let (mut damaged, mut fec) = (whole.clone(), sidecar(&whole, &groups));
        let mut random = Random(seed ^ 1);
        let worst = random.below(groups.len());
        let mut wanted = Vec::new();
        let mut unhealable = Vec::new();
        let mut start = 0;
        for (number, &(first, size)) in groups.iter().enumerate() {
            let parity = parity_for(size as usize);
            let count = if number == worst { parity + 1 } else { random.below(parity + 1) };
            let lost = choose(&mut random, first, size, count);
            // One bit: of several the log's own checksum misses some, and then, with too little left to rebuild
            // from, a frame may look like one of another history.
            damage_frames(&mut random, &mut damaged, &lost.frames, all, 1);
            damage_parity(&mut random, &mut fec, start, size, &lost.parity);
            start += group_len(size);
            if number == worst {
                unhealable.extend(lost.frames);
            } else {
                wanted.extend(lost.frames);
            }
        }
        let rig = Rig::new(&damaged, &fec);
        let report = rig.heal();
        prop_assert_eq!(&report.unhealable_frames, &unhealable);
        prop_assert_eq!(&report.frames_healed, &wanted);
        let mut expected = whole;
        for frame in unhealable {
            expected[place(PAGE, frame)].copy_from_slice(&damaged[place(PAGE, frame)]);
        }
        prop_assert!(rig.log() == expected);
    }
}
