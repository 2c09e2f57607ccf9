//! Making a failing case small.

use super::program::{Program, Step};
use super::random::{Case, replay};

/// How many operations a shorter program is tried at: its own crash may lie elsewhere.
const NEIGHBOURS: u64 = 200;

/// Leaves steps, transactions and crashes away for as long as the case still fails in some way; answers the smallest
/// one found, and how it fails. `None` if the case does not fail.
pub fn shrink(case: &Case) -> Option<(Case, String)> {
    let mut smallest = (case.clone(), replay(case).err()?);
    loop {
        let fails = |case: Case| replay(&case).err().map(|how| (case, how));
        match candidates(&smallest.0).find_map(fails) {
            Some(smaller) => smallest = smaller,
            None => return Some(smallest),
        }
    }
}

fn candidates(case: &Case) -> impl Iterator<Item = Case> + use<> {
    let all = case.clone();
    let fewer = (1..case.crashes.len()).map(move |len| {
        let mut fewer = all.clone();
        fewer.crashes.truncate(len);
        fewer
    });
    let programs = programs(&case.program);
    let case = case.clone();
    let shorter = programs.into_iter().flat_map(move |program| {
        let crashes = case.crashes.clone();
        let first = crashes.first().map_or(1, |(op, _)| *op);
        // The same crash first, then ever earlier ones.
        let ops = (1..=first.min(NEIGHBOURS)).rev();
        ops.map(move |op| {
            let mut crashes = crashes.clone();
            if let Some(crash) = crashes.first_mut() {
                crash.0 = op;
            }
            Case {
                program: program.clone(),
                crashes,
            }
        })
    });
    fewer.chain(shorter)
}

/// Programs that are shorter by one step, one transaction or one page.
fn programs(program: &Program) -> Vec<Program> {
    let mut shorter = Vec::new();
    for place in (0..program.steps.len()).rev() {
        let mut less = program.clone();
        less.steps.remove(place);
        shorter.push(less);
    }
    for (place, step) in program.steps.iter().enumerate() {
        if let Step::Commit(batch) = step {
            for number in 0..batch.len() {
                let mut less = batch.clone();
                match less[number].len() {
                    1 if less.len() > 1 => drop(less.remove(number)),
                    1 => continue,
                    _ => drop(less[number].pop()),
                }
                let mut program = program.clone();
                program.steps[place] = Step::Commit(less);
                shorter.push(program);
            }
        }
    }
    shorter
}
