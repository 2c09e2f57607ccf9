//! Write skew: possible under snapshots, impossible between serializable transactions.

use walmend::{CommitOutcome, MemoryVfs, Options, PageNumber, Result, Store, Txn};
use walmend_sync::thread;

const DOCTORS: [u32; 2] = [2, 3];

fn page(number: u32) -> PageNumber {
    PageNumber::new(number).unwrap()
}

fn open() -> Store {
    let vfs = std::sync::Arc::new(MemoryVfs::new());
    let store = Store::open("/db", Options::new().vfs(vfs)).unwrap().0;
    set(&store, DOCTORS.map(|doctor| (doctor, 1)));
    store
}

fn set(store: &Store, values: [(u32, u8); 2]) {
    let mut txn = store.begin().unwrap();
    for (number, value) in values {
        txn.write(page(number), vec![value; 4096]).unwrap();
    }
    assert!(txn.commit().is_committed());
}

fn on_call(txn: &Txn) -> u32 {
    let reads = DOCTORS.map(|doctor| u32::from(txn.read(page(doctor)).unwrap()[0]));
    reads.iter().sum()
}

/// Somebody always has to be on call: a doctor leaves only if the other one is there too.
fn leave(mut txn: Txn, doctor: u32) -> CommitOutcome {
    if on_call(&txn) == 2 {
        txn.write(page(doctor), vec![0; 4096]).unwrap();
    }
    txn.commit()
}

#[test]
fn two_that_read_what_the_other_writes_both_commit_under_snapshots_but_not_if_serializable() {
    type Begin = fn(&Store) -> Result<Txn>;
    for (begin, left) in [(Store::begin as Begin, 0), (Store::begin_serializable, 1)] {
        let store = open();
        let (first, second) = (begin(&store).unwrap(), begin(&store).unwrap());
        assert!(leave(first, DOCTORS[0]).is_committed());
        let outcome = leave(second, DOCTORS[1]);
        match left {
            0 => assert!(outcome.is_committed()),
            _ => match outcome {
                CommitOutcome::Conflict(lost) => assert_eq!(lost.page, Some(page(DOCTORS[0]))),
                other => panic!("{other:?}"),
            },
        }
        assert_eq!(on_call(&store.begin().unwrap()), left);
    }
}

#[test]
fn of_serializable_writers_that_race_somebody_always_stays() {
    let store = open();
    for _ in 0..300 {
        set(&store, DOCTORS.map(|doctor| (doctor, 1)));
        thread::scope(|scope| {
            for doctor in DOCTORS {
                let store = &store;
                scope.spawn(move || leave(store.begin_serializable().unwrap(), doctor));
            }
        });
        assert_eq!(on_call(&store.begin().unwrap()), 1);
    }
}

#[test]
fn a_serializable_transaction_conflicts_with_a_change_of_the_size_only_if_it_asked_for_it() {
    let store = open();
    for (asks, commits) in [(true, false), (false, true)] {
        let mut txn = store.begin_serializable().unwrap();
        if asks {
            txn.db_pages();
        }
        let grown = store.begin().unwrap().db_pages() + 1;
        set(&store, [(2, 1), (grown, 1)]);
        txn.write(page(3), vec![1; 4096]).unwrap();
        assert_eq!(txn.commit().is_committed(), commits);
    }
}
