//! The sidecar: read as it was written, today and from yesterday, whatever happened to its bytes.

#![cfg(not(walmend_loom))]

mod rig;

use proptest::prelude::*;
use rig::{FEC, Random, content, group, log, put, scan, sidecar};
use std::path::Path;
use walmend_repair::{SidecarIndex, SidecarWriter};
use walmend_vfs::sim::SimVfs;
use walmend_vfs::{ErrorKind, MemoryVfs, OpenFlags, Vfs};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

const GROUPS: [(u32, u32); 4] = [(1, 5), (6, 1), (7, 17), (24, 9)];
/// Records of each group: its parity, and two descriptions.
const RECORDS: [u32; 4] = [4, 4, 5, 4];
const PAGE: u32 = 512;
/// Bytes of a record with parity for a page of 512 bytes: head and shard.
const PARITY_RECORD: usize = 64 + 576;

#[test]
fn groups_are_read_as_they_were_written() {
    let log = log(PAGE, 32, 1);
    let bytes = sidecar(&log, &GROUPS);
    let index = scan(&bytes);
    assert_eq!(
        (index.bytes, index.bad_records, index.other_version),
        (bytes.len() as u64, 0, None)
    );
    let vfs = MemoryVfs::new();
    let file = put(&vfs, FEC, &bytes);
    for (found, (first, count)) in index.groups.iter().zip(GROUPS) {
        let (header, parity) = group(&log, first, count);
        assert_eq!(found.header, header);
        assert_eq!(found.parity_left(), parity.len());
        for (place, shard) in parity.iter().enumerate() {
            assert_eq!(found.read_parity(&*file, place).unwrap().as_ref(), Some(shard));
        }
        assert_eq!(found.read_parity(&*file, parity.len()).unwrap(), None);
    }
    assert_eq!(index.groups.len(), GROUPS.len());
}

#[test]
fn a_sidecar_of_yesterday_is_read_today() {
    // Golden: the bytes that version 1 of the format was born with. Two groups of a log of 512-byte pages.
    let log = log(PAGE, 4, 7);
    let bytes = sidecar(&log, &[(1, 3), (4, 1)]);
    assert_eq!(bytes.len(), GOLDEN_BYTES);
    assert_eq!(format!("{:032x}", xxh3_128(&bytes)), GOLDEN_DIGEST);
    let head: String = bytes[..176].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(head, GOLDEN_HEAD);
}

const GOLDEN_BYTES: usize = 3328;
const GOLDEN_DIGEST: &str = "6db75104f8ff844f7c080cc6bfea31cb";
const GOLDEN_HEAD: &str = "574d66630001010000000000000000007feecb77bf77babc734cc659b06b5b2c0000007000000000b9d9af90b2bd059f00000000000000000252f08401fba57d11112222333344440000000100030002000002000000000000000003f9ed1424f90b1efc8c35e9b8400639de0000000100000384000000030000000000000000ca1e7435f08d4ea85456c1d90df51727a2847b4a6c3379250b46af972b36d1d7a30bf0141f2fce193647845df85006f7";

#[test]
fn one_copy_of_the_description_is_enough_and_without_both_the_group_is_gone() {
    let log = log(PAGE, 32, 1);
    let bytes = sidecar(&log, &[(1, 5), (6, 5)]);
    let first = 0;
    // 64 bytes of head, 64 of fields, 5 digests, 48 of padding.
    let second = 256 + 2 * PARITY_RECORD;
    let whole = scan(&bytes);
    let mut damaged = bytes.clone();
    damaged[first + 70] ^= 1;
    assert_eq!(scan(&damaged).groups, whole.groups);
    assert_eq!(scan(&damaged).bad_records, 1);
    damaged[second + 20] ^= 1;
    assert_eq!(scan(&damaged).groups, whole.groups[1..]);
    assert_eq!(scan(&damaged).bad_records, 2);
}

#[test]
fn a_record_at_another_place_than_it_was_written_for_is_none() {
    let log = log(PAGE, 32, 1);
    let bytes = sidecar(&log, &[(1, 5), (6, 5)]);
    let (one, two) = bytes.split_at(bytes.len() / 2);
    assert!(scan(&[two, one].concat()).groups.is_empty());
}

#[test]
fn what_follows_a_torn_append_is_found() {
    let log = log(PAGE, 32, 1);
    let vfs = MemoryVfs::new();
    let whole = sidecar(&log, &[(1, 5), (6, 5)]);
    // The second group tore at every length that can be.
    for kept in (whole.len() / 2..whole.len()).step_by(37) {
        put(&vfs, FEC, &whole[..kept]);
        let found = SidecarIndex::read(&vfs, Path::new(FEC)).unwrap().unwrap();
        let mut writer = SidecarWriter::open(&vfs, Path::new(FEC), &found).unwrap();
        let (header, parity) = group(&log, 11, 7);
        writer.append(&header, &parity).unwrap();
        writer.sync().unwrap();
        let file = vfs.open(Path::new(FEC), OpenFlags::READ).unwrap();
        assert_eq!(file.len().unwrap(), writer.size());
        let index = SidecarIndex::scan(&*file).unwrap();
        let group = index.groups.last().unwrap();
        assert_eq!(
            (&group.header, group.parity_left()),
            (&header, parity.len()),
            "{kept}"
        );
        assert_eq!(index.groups[0].header.first_frame, 1);
        assert_eq!(content(&*file)[..kept], whole[..kept]);
    }
}

#[test]
fn zeros_at_the_end_are_room_and_zeros_between_groups_are_damage() {
    let log = log(PAGE, 32, 1);
    let one = sidecar(&log, &[(1, 5)]);
    let room = [one.clone(), vec![0; 5000]].concat();
    let index = scan(&room);
    assert_eq!((index.bad_records, index.end), (0, one.len() as u64));
    assert_eq!((index.bytes, index.groups.len()), (room.len() as u64, 1));
    assert_eq!(scan(&[0; 4096]).end, 0);

    // The next group goes into the room.
    let vfs = MemoryVfs::new();
    put(&vfs, FEC, &room);
    let mut writer = SidecarWriter::open(&vfs, Path::new(FEC), &index).unwrap();
    let (header, parity) = group(&log, 6, 5);
    writer.append(&header, &parity).unwrap();
    let file = vfs.open(Path::new(FEC), OpenFlags::READ).unwrap();
    let index = SidecarIndex::scan(&*file).unwrap();
    assert_eq!((index.bad_records, index.groups.len()), (0, 2));
    assert_eq!((index.end, writer.size()), (writer.size(), 2 * one.len() as u64));

    // A group that is lost before another one is not taken for room.
    let mut lost = content(&*file);
    lost[..one.len()].fill(0);
    let index = scan(&lost);
    assert_eq!((index.bad_records, index.groups.len()), (1, 1));
    assert_eq!(index.end, 2 * one.len() as u64);

    // Nor what was not looked at.
    let blind = SidecarWriter::open(&vfs, Path::new(FEC), &SidecarIndex::default()).unwrap();
    assert_eq!(blind.size(), file.len().unwrap().next_multiple_of(64));
}

#[test]
fn a_sidecar_that_begins_anew_keeps_its_length_and_nothing_else() {
    let log = log(PAGE, 32, 1);
    for direct in [false, true] {
        let vfs = SimVfs::new(1);
        let mut writer = SidecarWriter::open(&vfs, Path::new(FEC), &SidecarIndex::default()).unwrap();
        if direct {
            writer = writer.past_cache().unwrap();
        }
        for first in [1, 6, 11] {
            let (header, parity) = group(&log, first, 5);
            writer.append(&header, &parity).unwrap();
        }
        let file = vfs.open(Path::new(FEC), OpenFlags::READ).unwrap();
        let len = file.len().unwrap();
        writer.begin_anew().unwrap();
        assert_eq!((writer.size(), file.len().unwrap()), (0, len));
        assert_eq!(SidecarIndex::scan(&*file).unwrap().end, 0);
        let (header, parity) = group(&log, 16, 5);
        writer.append(&header, &parity).unwrap();
        writer.sync().unwrap();
        let index = SidecarIndex::scan(&*file).unwrap();
        assert_eq!(
            (index.bad_records, index.end, index.bytes),
            (0, writer.size(), len)
        );
        assert_eq!(index.groups.len(), 1);
        assert_eq!(index.groups[0].header, header);
    }
}

#[test]
fn records_of_a_later_version_are_neither_damage_nor_written_behind() {
    let log = log(PAGE, 32, 1);
    let mut bytes = sidecar(&log, &[(1, 5)]);
    bytes[5] = 2;
    let sum = xxh3_64(&bytes[..56]).to_be_bytes();
    bytes[56..64].copy_from_slice(&sum);
    let index = scan(&bytes);
    assert_eq!((index.other_version, index.bad_records), (Some(2), 0));
    let refused = SidecarWriter::open(&MemoryVfs::new(), Path::new(FEC), &index);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::UnsupportedVersion);
}

#[test]
fn parity_that_is_not_the_groups_is_refused() {
    let log = log(PAGE, 32, 1);
    let (header, mut parity) = group(&log, 1, 5);
    let vfs = MemoryVfs::new();
    let mut writer = SidecarWriter::open(&vfs, Path::new(FEC), &SidecarIndex::default()).unwrap();
    parity[0].pop();
    assert_eq!(
        writer.append(&header, &parity).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    parity.remove(0);
    assert_eq!(
        writer.append(&header, &parity).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(writer.size(), 0);
}

#[test]
fn a_cleared_sidecar_is_empty_and_goes_on() {
    let log = log(PAGE, 32, 1);
    let vfs = MemoryVfs::new();
    let file = put(&vfs, FEC, &sidecar(&log, &GROUPS));
    let mut writer = SidecarWriter::open(&vfs, Path::new(FEC), &SidecarIndex::default()).unwrap();
    writer.clear().unwrap();
    assert!(file.is_empty().unwrap());
    let (header, parity) = group(&log, 1, 5);
    writer.append(&header, &parity).unwrap();
    let index = SidecarIndex::scan(&*file).unwrap();
    assert_eq!((index.groups.len(), index.bad_records), (1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_costs_only_the_records_that_it_lies_in(seed in any::<u64>(), hits in 1_usize..6) {
        let log = log(PAGE, 32, 1);
        let whole = sidecar(&log, &GROUPS);
        let intact = scan(&whole);
        let mut bytes = whole.clone();
        let mut random = Random(seed);
        for _ in 0..hits {
            let start = random.below(bytes.len());
            let end = (start + 1 + random.below(300)).min(bytes.len());
            bytes[start..end].iter_mut().for_each(|byte| *byte = random.next() as u8);
        }
        // The layout, worked out here once more: which records are untouched?
        let mut at = 0;
        let mut untouched = Vec::new();
        for ((_, count), records) in GROUPS.into_iter().zip(RECORDS) {
            let description = (128 + 16 * count as usize).next_multiple_of(64);
            let description_body = 128 + 16 * count as usize;
            let mut state = Vec::new();
            for record in 0..records {
                let (len, used) = if record == 0 || record + 1 == records {
                    (description, description_body)
                } else {
                    (PARITY_RECORD, PARITY_RECORD)
                };
                state.push(bytes[at..at + used] == whole[at..at + used]);
                at += len;
            }
            untouched.push(state);
        }
        prop_assert_eq!(at, whole.len());
        let index = scan(&bytes);
        for (group, state) in intact.groups.iter().zip(&untouched) {
            let found = index.groups.iter().find(|found| found.header == group.header);
            let described = state[0] || state[state.len() - 1];
            prop_assert_eq!(found.is_some(), described);
            if let Some(found) = found {
                let left = state[1..state.len() - 1].iter().filter(|intact| **intact).count();
                prop_assert_eq!(found.parity_left(), left);
            }
        }
        let damaged = untouched.iter().flatten().filter(|intact| !**intact).count();
        prop_assert_eq!(index.bad_records > 0, damaged > 0);
        prop_assert!(index.bad_records as usize <= damaged);
    }

    #[test]
    fn bytes_of_any_kind_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(scan(&bytes).groups.is_empty());
    }
}
