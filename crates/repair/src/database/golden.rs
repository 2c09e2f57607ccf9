//! The format must stay what it is: sidecars that exist were written so. `docs/db-fec-format.md` has the rulers.

use super::layout::{Layout, Side, WINDOWS_AT};
use super::state::{Mark, Sidecar, Stamp, State};
use super::stripe::{Description, Version, encode_parity, write_version};
use crate::codec::ReedSolomon;
use std::path::Path;
use walmend_types::{PageSize, Salts};
use walmend_vfs::{MemoryVfs, VfsFile};
use walmend_wal::Checksum;
use xxhash_rust::xxh3::xxh3_128;

fn state() -> State {
    State {
        sequence: 0,
        epoch: 9,
        pending: 10,
        pages: 1234,
        complete: true,
        windows_done: 3,
        settled: true,
        stamp: Stamp {
            inode: 0x1122_3344_5566_7788,
            bytes: 5_054_464,
            modified: 1_700_000_000_123_456_789,
            change_counter: 77,
        },
        log: Some(Mark {
            salts: Salts {
                salt1: 0x0102_0304,
                salt2: 0x0506_0708,
            },
            frame: 41,
            checksum: Checksum { s0: 5, s1: 6 },
        }),
        aside: (1_700_000_001, 2),
        void: vec![3, 7],
    }
}

fn digest(file: &dyn VfsFile, from: u64) -> String {
    let mut bytes = vec![0; (file.len().unwrap() - from) as usize];
    file.read_exact_at(&mut bytes, from).unwrap();
    format!("{:032x}", xxh3_128(&bytes))
}

#[test]
fn the_header_and_both_states_are_as_when_the_format_was_made() {
    let vfs = MemoryVfs::new();
    let mut sidecar = Sidecar::create(&vfs, Path::new("/a.db"), PageSize::DEFAULT).unwrap();
    sidecar.write_headers().unwrap();
    sidecar.write_state(state()).unwrap();
    sidecar.write_state(state()).unwrap();
    assert_eq!(sidecar.file.len().unwrap(), 3 * 4096 + 128);
    assert_eq!(digest(&*sidecar.file, 0), HEADERS_AND_STATES);
    let mut bytes = [0; 16];
    sidecar.file.read_exact_at(&mut bytes, 4096).unwrap();
    assert_eq!(bytes, *b"WMdb\0\x01\x04\0\0\0\0\0\0\0\x10\0");
    assert_eq!(
        State::decode(&sidecar.state.as_ref().unwrap().encode()),
        sidecar.state
    );
}

#[test]
fn a_stripe_is_as_when_the_format_was_made() {
    for (page_size, count, golden) in [(4096, 128, FULL_STRIPE), (512, 3, SMALL_STRIPE)] {
        let layout = Layout::new(PageSize::new(page_size).unwrap());
        let vfs = MemoryVfs::new();
        let sidecar = Sidecar::create(&vfs, Path::new("/a.db"), layout.page_size).unwrap();
        let pages: Vec<Vec<u8>> = (0..count)
            .map(|page| {
                (0..page_size as usize)
                    .map(|i| (page * 97 + i * 31 + i / 256) as u8)
                    .collect()
            })
            .collect();
        let pages: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
        let description = Description {
            window: 0,
            stripe: 1,
            page_size,
            epoch: 5,
            digests: pages.iter().map(|page| xxh3_128(page)).collect(),
        };
        let zeros = vec![0; page_size as usize];
        let parity = encode_parity(&ReedSolomon, &pages, &zeros).unwrap();
        let mut buffer = Vec::new();
        write_version(
            &*sidecar.file,
            &layout,
            Side::A,
            &description,
            &parity,
            &mut buffer,
        )
        .unwrap();
        let version = Version::read(&*sidecar.file, &layout, (0, 1, Side::A), true, &mut buffer)
            .unwrap()
            .unwrap();
        assert!(version.whole() && version.description == description);
        assert_eq!(digest(&*sidecar.file, WINDOWS_AT), golden, "{page_size}");
    }
}

const HEADERS_AND_STATES: &str = "017075b4ca8112e37c097dc834efec4a";
const FULL_STRIPE: &str = "5a8a4d071793ee6b5731070c80c355c6";
const SMALL_STRIPE: &str = "8976426a9864c35f30f8cd7b382bf1fc";
