//! Programs and crashes from a seed.

use super::Tally;
use super::exhaustive::survive;
use super::life::{Life, Stop, fresh};
use super::program::Program;
use walmend_vfs::Random;
use walmend_vfs::sim::{CrashKeep, SimVfs};

/// How the machine or the process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The power goes.
    Power(CrashKeep),
    /// The process is killed.
    Kill,
}

impl End {
    fn draw(random: &mut Random) -> Self {
        Self::Power(match random.below(8) {
            0 => return Self::Kill,
            1 => CrashKeep::None,
            2 => CrashKeep::All,
            3..=4 => CrashKeep::Torn(random.next()),
            _ => CrashKeep::Random(random.next()),
        })
    }

    fn of(&self, disk: &SimVfs) -> SimVfs {
        match self {
            Self::Power(keep) => disk.crash(keep.clone()),
            Self::Kill => disk.kill(),
        }
    }
}

/// A program, and the crashes that follow each other: at an operation of the program, then at operations of the
/// recoveries. One that is never reached ends the case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The program.
    pub program: Program,
    /// The operation, from 1, of the program or of the recovery, and the end.
    pub crashes: Vec<(u64, End)>,
}

/// The case with this seed. `of` is the program of it, which takes `ops` operations.
fn crashes(random: &mut Random, ops: u64) -> Vec<(u64, End)> {
    let mut crashes = vec![(1 + random.below(ops), End::draw(random))];
    while crashes.len() < 4 && random.one_in(2) {
        crashes.push((1 + random.below(14), End::draw(random)));
    }
    crashes
}

/// The case of a seed, and of a number among the crashes of its program.
pub fn case(seed: u64, number: u64) -> Case {
    let program = Program::draw(&mut Random(seed));
    let whole = fresh(program.setup, seed);
    // What goes wrong without a crash shows when the case is replayed.
    drop(Life::run(&program, &whole, None));
    let mut random = Random(seed ^ number.wrapping_mul(0x9e37_79b9));
    let crashes = crashes(&mut random, whole.ops());
    Case { program, crashes }
}

/// Runs a case. Answers how many crashes it had.
///
/// # Errors
/// What does not hold.
pub fn replay(case: &Case) -> Result<Tally, String> {
    let setup = case.program.setup;
    let mut tally = Tally::default();
    let mut disk = fresh(setup, 7);
    let (first, rest) = match case.crashes.split_first() {
        Some(split) => split,
        None => {
            return Life::run(&case.program, &disk, None)
                .1
                .map(|()| tally)
                .map_err(|stop| format!("{stop:?}"));
        }
    };
    let (history, ended) = Life::run(&case.program, &disk, Some(first.0));
    if let Err(Stop::Violation(what)) = ended {
        return Err(what);
    }
    disk = first.1.of(&disk);
    tally.crashes += 1;
    for (number, (op, end)) in rest.iter().enumerate() {
        disk.crash_at_op(*op);
        match Life::open(&disk, setup, history.clone()) {
            // Over before the power went: what follows is the next crash, and nothing was decided in between.
            Ok(_) => {}
            Err(Stop::Power) => {
                tally.in_recovery += 1;
                tally.in_second += u64::from(number > 0);
            }
            Err(Stop::Violation(what)) => return Err(format!("recovery {}: {what}", number + 1)),
        }
        disk = end.of(&disk);
        tally.crashes += 1;
    }
    survive(&disk, setup, history).map_err(|stop| format!("at the end: {stop:?}"))?;
    // The crash at the end of going on.
    tally.crashes += 1;
    Ok(tally)
}

/// Draws programs from `seed` on, each with so many cases, until there were `crashes` crashes.
///
/// # Errors
/// The seed and number of the first case that fails, and how.
pub fn random(seed: u64, crashes: u64, cases: u64) -> Result<Tally, (u64, u64, String)> {
    let mut tally = Tally::default();
    let mut seeds = Random(seed);
    while tally.crashes < crashes {
        let seed = seeds.next();
        let program = Program::draw(&mut Random(seed));
        let whole = fresh(program.setup, seed);
        if let (_, Err(stop)) = Life::run(&program, &whole, None) {
            return Err((seed, 0, format!("without a crash: {stop:?}")));
        }
        tally.programs += 1;
        for number in 0..cases {
            let mut random = Random(seed ^ number.wrapping_mul(0x9e37_79b9));
            let case = Case {
                program: program.clone(),
                crashes: self::crashes(&mut random, whole.ops()),
            };
            match replay(&case) {
                Ok(more) => tally = tally.plus(more),
                Err(what) => return Err((seed, number, what)),
            }
        }
    }
    Ok(tally)
}
