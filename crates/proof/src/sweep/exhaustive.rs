//! A crash at every operation, with every subset of few unsynced changes and some of many; and a crash at every
//! operation of the recovery from it.

use super::Tally;
use super::life::{Life, Stop, fresh};
use super::program::{Program, Setup};
use walmend_vfs::sim::{CrashKeep, History, SimVfs};

/// Up to so many unsynced changes, every subset of them is kept once.
const ALL_SUBSETS: usize = 7;

/// Sweeps a program. `ways` subsets are drawn where there are too many for all of them; of the first `deep` at each
/// operation, the recovery is interrupted everywhere as well.
///
/// # Errors
/// What does not hold, and where.
pub fn exhaustive(program: &Program, ways: u64, deep: usize) -> Result<Tally, String> {
    let whole = fresh(program.setup, 7);
    if let (_, Err(stop)) = Life::run(program, &whole, None) {
        return Err(format!("without a crash: {stop:?}"));
    }
    let mut tally = Tally {
        programs: 1,
        ..Tally::default()
    };
    for op in 1..=whole.ops() {
        let disk = fresh(program.setup, 7);
        let (history, ended) = Life::run(program, &disk, Some(op));
        if ended != Err(Stop::Power) {
            return Err(format!("operation {op}: {ended:?}"));
        }
        for (place, keep) in keeps(&disk, ways).into_iter().enumerate() {
            let left = match &keep {
                Some(keep) => disk.fork().crash(keep.clone()),
                None => disk.fork().kill(),
            };
            tally.crashes += 1;
            let what = |stop: Stop| format!("operation {op}, {keep:?}: {stop:?}");
            if place < deep {
                interrupt(&left, program.setup, &history, &mut tally).map_err(what)?;
            }
            survive(&left, program.setup, history.clone()).map_err(what)?;
            // The crash at the end of going on.
            tally.crashes += 1;
        }
    }
    Ok(tally)
}

/// Opens what is left, checks it, and goes on.
pub(super) fn survive(left: &SimVfs, setup: Setup, history: History) -> Result<(), Stop> {
    Life::open(&left.fork(), setup, history)?.go_on()
}

/// The ways to crash; `None` is a kill.
fn keeps(disk: &SimVfs, ways: u64) -> Vec<Option<CrashKeep>> {
    let pending = disk.pending().len();
    let mut keeps = vec![None];
    if pending <= ALL_SUBSETS {
        let subset = |bits: u32| (0..pending).map(|bit| bits >> bit & 1 == 1).collect();
        keeps.extend((0..1u32 << pending).map(|bits| Some(CrashKeep::Subset(subset(bits)))));
    } else {
        keeps.extend([Some(CrashKeep::None), Some(CrashKeep::All)]);
        keeps.extend((0..ways).map(|seed| Some(CrashKeep::Random(seed))));
    }
    keeps.extend((0..ways / 4).map(|seed| Some(CrashKeep::Torn(seed))));
    keeps
}

/// Interrupts the recovery of what a crash left at each of its operations; and once the recovery from that.
fn interrupt(left: &SimVfs, setup: Setup, history: &History, tally: &mut Tally) -> Result<(), Stop> {
    for op in 1.. {
        let half = left.fork();
        half.crash_at_op(op);
        match Life::open(&half, setup, history.clone()) {
            Ok(_) => return Ok(()),
            Err(Stop::Power) => {}
            Err(stop) => return Err(stop),
        }
        for keep in [CrashKeep::None, CrashKeep::Random(op), CrashKeep::All] {
            let again = half.fork().crash(keep);
            tally.crashes += 1;
            tally.in_recovery += 1;
            let third = again.fork();
            third.crash_at_op(1 + op % 5);
            match Life::open(&third, setup, history.clone()) {
                Err(Stop::Power) => {
                    let third = third.crash(CrashKeep::Random(op + 1));
                    tally.crashes += 1;
                    tally.in_recovery += 1;
                    tally.in_second += 1;
                    Life::open(&third, setup, history.clone())?;
                }
                Err(stop) => return Err(stop),
                Ok(_) => {}
            }
            Life::open(&again, setup, history.clone())?;
        }
    }
    Ok(())
}
