//! A small sweep with each run of the tests; `cargo xtask sweep` does the large one.

use walmend_proof::sweep::{Program, Setup, case, exhaustive, random, shrink};
use walmend_types::PageSize;

#[test]
fn every_crash_of_a_small_program_is_survived() {
    for setup in [
        Setup::SMALL,
        Setup {
            page_size: PageSize::new(1024).unwrap(),
            preallocate: 0,
            sync_watermark: true,
            large_sectors: true,
        },
    ] {
        let tally =
            exhaustive(&Program::small(setup), 6, 2).unwrap_or_else(|violation| panic!("{violation}"));
        assert!(tally.crashes > 5000 && tally.in_second > 500, "{tally:?}");
    }
}

#[test]
fn crashes_by_chance_are_survived() {
    match random(1, 4000, 20) {
        Ok(tally) => assert!(tally.in_recovery > 100 && tally.programs > 10, "{tally:?}"),
        Err((seed, number, what)) => panic!("{what}\n{:#?}", shrink(&case(seed, number))),
    }
}
