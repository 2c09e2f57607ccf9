//! Any K of K + R shards bring back the rest.

#![cfg(not(walmend_loom))]

use proptest::prelude::*;
use walmend_repair::{Codec, ReedSolomon};

/// K, R, and which of the K + R shards are lost.
fn cases() -> impl Strategy<Value = (usize, usize, Vec<usize>, u64)> {
    (1_usize..=128, 1_usize..=16, any::<u64>()).prop_flat_map(|(sources, parity, seed)| {
        let indexes: Vec<usize> = (0..sources + parity).collect();
        let lost = proptest::sample::subsequence(indexes, 0..=(parity + 1).min(sources + parity));
        (Just(sources), Just(parity), lost, Just(seed))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn up_to_r_lost_shards_come_back_and_more_are_an_error((k, r, lost, seed) in cases()) {
        let mut state = seed | 1;
        let shards: Vec<Vec<u8>> = (0..k)
            .map(|_| {
                (0..128)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (state >> 56) as u8
                    })
                    .collect()
            })
            .collect();
        let sources: Vec<&[u8]> = shards.iter().map(Vec::as_slice).collect();
        let parity = ReedSolomon.encode(&sources, r).unwrap();
        prop_assert_eq!(parity.len(), r);
        let left: Vec<Option<&[u8]>> = (0..k).map(|i| (!lost.contains(&i)).then_some(sources[i])).collect();
        let parity_left: Vec<Option<&[u8]>> =
            (0..r).map(|i| (!lost.contains(&(k + i))).then_some(&parity[i][..])).collect();
        let wanted: Vec<(usize, Vec<u8>)> =
            (0..k).filter(|i| left[*i].is_none()).map(|i| (i, shards[i].clone())).collect();
        let rebuilt = ReedSolomon.rebuild(&left, &parity_left);
        if lost.len() <= r || wanted.is_empty() {
            prop_assert_eq!(rebuilt.unwrap(), wanted);
        } else {
            prop_assert!(rebuilt.is_err());
        }
    }
}
