//! Reed-Solomon over GF(2^16) with the FFT of Lin, Al-Naffouri, Han and Chung ("Novel Polynomial Basis with Fast
//! Fourier Transform and Its Application to Reed-Solomon Erasure Codes", 2016), as `reed-solomon-simd` has it.

use super::{Codec, SHARD_ALIGN};
use walmend_types::{Error, Result};

/// The default code. Parity of one shard is the XOR of the sources, and the parity of one source are copies of
/// it: those two need no tables and no library, and give the same bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReedSolomon;

impl Codec for ReedSolomon {
    fn encode(&self, sources: &[&[u8]], parity: usize) -> Result<Vec<Vec<u8>>> {
        let len = common_length(sources.iter().copied())?;
        if parity == 0 {
            return Ok(Vec::new());
        }
        if let [only] = sources {
            return Ok(vec![only.to_vec(); parity]);
        }
        if parity == 1 {
            return Ok(vec![xor(len, sources.iter().copied())]);
        }
        reed_solomon_simd::encode(sources.len(), parity, sources).map_err(refused)
    }

    fn rebuild(&self, sources: &[Option<&[u8]>], parity: &[Option<&[u8]>]) -> Result<Vec<(usize, Vec<u8>)>> {
        let missing: Vec<usize> = (0..sources.len())
            .filter(|&index| sources[index].is_none())
            .collect();
        let parity_left = parity.iter().flatten().count();
        if missing.len() > parity_left {
            return Err(Error::Invalid(format!(
                "{} of {} shards are missing, and only {parity_left} of {} parity shards are left",
                missing.len(),
                sources.len(),
                parity.len()
            )));
        }
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let left = sources.iter().chain(parity).flatten().copied();
        let len = common_length(left.clone())?;
        if sources.len() == 1 {
            return Ok(parity
                .iter()
                .flatten()
                .take(1)
                .map(|copy| (0, copy.to_vec()))
                .collect());
        }
        if parity.len() == 1 {
            return Ok(missing
                .into_iter()
                .map(|index| (index, xor(len, left.clone())))
                .collect());
        }
        let numbered = |shards: &[Option<&[u8]>]| -> Vec<(usize, Vec<u8>)> {
            let shards = shards.iter().enumerate();
            shards
                .filter_map(|(index, shard)| shard.map(|shard| (index, shard.to_vec())))
                .collect()
        };
        let restored = reed_solomon_simd::decode(
            sources.len(),
            parity.len(),
            numbered(sources),
            // More than needed would only be copied.
            numbered(parity).into_iter().take(missing.len()),
        )
        .map_err(refused)?;
        let mut restored: Vec<(usize, Vec<u8>)> = restored.into_iter().collect();
        restored.sort_unstable_by_key(|(index, _)| *index);
        Ok(restored)
    }

    fn warm(&self) {
        let shard = [0; SHARD_ALIGN];
        let sources = [&shard[..]; 3];
        // Zeros of a legal length cannot be refused; what counts are the tables, for both directions.
        let made = self.encode(&sources, 2);
        if let Ok(made) = made {
            let parity: Vec<Option<&[u8]>> = made.iter().map(|shard| Some(&shard[..])).collect();
            let _ = self.rebuild(&[None, None, Some(&shard)], &parity);
        }
    }
}

fn common_length<'a>(mut shards: impl Iterator<Item = &'a [u8]>) -> Result<usize> {
    let Some(first) = shards.next() else {
        return Err(Error::Invalid("there are no shards to encode".into()));
    };
    let len = first.len();
    if len == 0 || !len.is_multiple_of(SHARD_ALIGN) {
        return Err(Error::Invalid(format!(
            "a shard of {len} bytes: it must be a multiple of {SHARD_ALIGN}, and not 0"
        )));
    }
    match shards.find(|shard| shard.len() != len) {
        Some(other) => Err(Error::Invalid(format!(
            "shards of {len} and of {} bytes: all must have one length",
            other.len()
        ))),
        None => Ok(len),
    }
}

fn xor<'a>(len: usize, shards: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut sum = vec![0; len];
    for shard in shards {
        for (sum, byte) in sum.iter_mut().zip(shard) {
            *sum ^= byte;
        }
    }
    sum
}

fn refused(error: reed_solomon_simd::Error) -> Error {
    Error::Invalid(format!("the erasure code refuses: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_128;

    /// Bytes that differ from shard to shard and from position to position.
    fn counted(count: usize, len: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|shard| (0..len).map(|i| (shard * 97 + i * 31 + i / 256) as u8).collect())
            .collect()
    }

    fn slices(shards: &[Vec<u8>]) -> Vec<&[u8]> {
        shards.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn the_fast_paths_give_the_same_bytes_as_the_library() {
        for sources in 1..=128 {
            let shards = counted(sources, 128);
            let library = reed_solomon_simd::encode(sources, 1, &shards).unwrap();
            assert_eq!(
                ReedSolomon.encode(&slices(&shards), 1).unwrap(),
                library,
                "{sources}"
            );
        }
        for parity in 1..=16 {
            let shards = counted(1, 4160);
            let library = reed_solomon_simd::encode(1, parity, &shards).unwrap();
            assert_eq!(
                ReedSolomon.encode(&slices(&shards), parity).unwrap(),
                library,
                "{parity}"
            );
        }
    }

    #[test]
    fn the_parity_of_a_difference_is_the_difference_of_the_parities() {
        for (sources, parity) in [(128, 16), (40, 7), (3, 2), (9, 1), (1, 4)] {
            let old = counted(sources, 192);
            let new: Vec<Vec<u8>> = old.iter().rev().cloned().collect();
            let both = |a: &[Vec<u8>], b: &[Vec<u8>]| -> Vec<Vec<u8>> {
                let pairs = a.iter().zip(b);
                pairs.map(|(a, b)| xor(192, [&a[..], b].into_iter())).collect()
            };
            let encode = |shards: &[Vec<u8>]| ReedSolomon.encode(&slices(shards), parity).unwrap();
            assert_eq!(
                encode(&both(&old, &new)),
                both(&encode(&old), &encode(&new)),
                "{sources}"
            );
        }
    }

    #[test]
    fn parity_is_what_it_was_when_the_format_was_made() {
        // Golden: the sidecars that exist were written with these bytes.
        let digest = |(sources, parity)| {
            let made = ReedSolomon
                .encode(&slices(&counted(sources, 4160)), parity)
                .unwrap();
            format!("{:032x}", xxh3_128(&made.concat()))
        };
        let digests = [(1, 2), (3, 1), (3, 2), (16, 2), (100, 13), (128, 16)].map(digest);
        assert_eq!(digests, GOLDEN);
        let small = ReedSolomon.encode(&slices(&counted(3, 64)), 2).unwrap();
        assert_eq!([&small[0][..8], &small[1][..8]], FIRST_BYTES);
    }

    const GOLDEN: [&str; 6] = [
        "09daf814e1d6e9416d9321c22caaa940",
        "8c52a76eeffeed7c8a6170e6f744a9c9",
        "5a44d31224e7938bf7124f610c214a0f",
        "134ccd17c4492a4a66eca788495412de",
        "fc759a5cb280863a14ec1f87c8e5f81a",
        "827172e8209929c5944315eb1e9fd78b",
    ];
    const FIRST_BYTES: [[u8; 8]; 2] = [
        [252, 47, 64, 223, 119, 2, 110, 244],
        [95, 81, 225, 35, 232, 56, 179, 140],
    ];

    #[test]
    fn shards_of_other_lengths_and_none_at_all_are_refused() {
        let (short, long, odd) = ([0; 64], [0; 128], [0; 63]);
        assert!(ReedSolomon.encode(&[], 2).is_err());
        assert!(ReedSolomon.encode(&[&[]], 2).is_err());
        assert!(ReedSolomon.encode(&[&odd], 2).is_err());
        assert!(ReedSolomon.encode(&[&short, &long], 2).is_err());
        assert!(
            ReedSolomon
                .rebuild(&[None, Some(&short)], &[Some(&long), None])
                .is_err()
        );
    }

    #[test]
    fn without_parity_nothing_is_made_and_nothing_missing_is_nothing_to_do() {
        let shard = [7; 64];
        assert!(ReedSolomon.encode(&[&shard], 0).unwrap().is_empty());
        assert!(ReedSolomon.rebuild(&[Some(&shard)], &[None]).unwrap().is_empty());
        ReedSolomon.warm();
    }
}
