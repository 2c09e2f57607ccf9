//! Random schedules against a model that knows what each repair must come to.

use super::*;
use RepairEventKind::*;
use RepairState::{Completed, Failed, Pending};
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
enum Step {
    Commit(usize),
    AppendFails,
    Hold,
    Release,
    Settle,
    Shutdown,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (1usize..5).prop_map(Step::Commit),
        1 => Just(Step::AppendFails),
        2 => Just(Step::Hold),
        2 => Just(Step::Release),
        2 => Just(Step::Settle),
        1 => Just(Step::Shutdown),
    ]
}

/// What the model knows of a commit.
struct Known {
    symbols: SymbolRange,
    /// What its repair comes to, if it is done at all.
    end: RepairState,
    /// The states that it can be in now.
    possible: Vec<RepairState>,
}

#[derive(Default)]
struct Model {
    commits: Vec<Known>,
    positions: u64,
    held: bool,
    gone: bool,
}

impl Model {
    fn commit(&mut self, symbols: usize, bad: &BTreeSet<u64>) {
        let symbols = SymbolRange::new(self.positions, symbols as u64);
        self.positions = symbols.end;
        let end = if bad.range(symbols.start..symbols.end).next().is_some() {
            Failed
        } else {
            Completed
        };
        let possible = match (self.gone, self.held) {
            (true, _) => vec![Failed],
            (false, true) => vec![Pending],
            (false, false) => vec![Pending, end],
        };
        self.commits.push(Known {
            symbols,
            end,
            possible,
        });
    }

    fn each(&mut self, change: impl Fn(&mut Known)) {
        self.commits.iter_mut().for_each(change);
    }

    fn check(&self, rig: &Rig) -> std::result::Result<(), TestCaseError> {
        let metrics = rig.coordinator.metrics();
        let sum = metrics.pending_commits + metrics.completed_commits + metrics.failed_commits;
        prop_assert_eq!(
            (metrics.commits, sum),
            (self.commits.len() as u64, metrics.commits)
        );
        for (number, known) in (1..).zip(&self.commits) {
            let state = rig.coordinator.state(CommitSeq(number)).unwrap();
            prop_assert!(
                known.possible.contains(&state),
                "commit {} is {:?}, not one of {:?}",
                number,
                state,
                known.possible
            );
        }
        Ok(())
    }

    /// Everything that can be said when nothing is pending any more.
    fn check_end(&self, rig: &Rig) -> std::result::Result<(), TestCaseError> {
        prop_assert_eq!(rig.coordinator.pending_count(), 0);
        let repair = rig.io.durable_repair();
        let systematic = rig.io.systematic();
        for (range, symbols) in &repair {
            let mut expected = Vec::new();
            for position in range.start..range.end {
                let symbol = &systematic[position as usize];
                expected.resize(symbol.len(), 0);
                expected.iter_mut().zip(symbol).for_each(|(to, from)| *to ^= from);
            }
            prop_assert_eq!(symbols, &vec![expected]);
        }
        for (number, known) in (1..).zip(&self.commits) {
            let state = rig.coordinator.state(CommitSeq(number)).unwrap();
            let covered = |position: u64| repair.iter().any(|(range, _)| range.contains(position));
            let whole = (known.symbols.start..known.symbols.end).all(covered);
            prop_assert_eq!(whole, state == Completed, "commit {}", number);
            let kinds = rig.kinds(number);
            prop_assert_eq!(&kinds[..3], [CommitDurable, DurableButNotRepairable, CommitAcked]);
            let rest: &[&[RepairEventKind]] = match state {
                Completed => &[&[RepairStarted, RepairCompleted]],
                _ => &[&[RepairStarted, RepairFailed], &[RepairFailed]],
            };
            prop_assert!(rest.contains(&&kinds[3..]), "commit {}: {:?}", number, kinds);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn after_any_schedule_every_commit_is_in_a_state_that_the_model_allows(
        steps in prop::collection::vec(step(), 1..60),
        bad in prop::collection::btree_set(0u64..120, 0..12),
        queue_ranges in 1usize..5,
        retries in 0u32..2,
        panics in any::<bool>(),
    ) {
        // Groups of one symbol: no commit shares the fate of another, so that the model can know it.
        let config = RepairConfig { queue_ranges, retries, ..one_by_one() };
        let mut runtime = Some(runtime());
        let rig = rig(runtime.as_ref().unwrap().handle(), config);
        for &position in &bad {
            let failure = if panics { GeneratorFailure::Panic } else { GeneratorFailure::Error(broken()) };
            rig.generator.fail_at(position, failure);
        }
        let mut model = Model::default();
        let release = |model: &mut Model| {
            rig.generator.release();
            model.held = false;
            model.each(|known| known.possible.push(known.end));
        };
        for step in steps {
            match step {
                Step::Commit(symbols) => {
                    let number = model.commits.len() as u8;
                    let receipt = rig.coordinator.commit(&vec![[number].as_slice(); symbols]).unwrap();
                    model.commit(symbols, &bad);
                    let known = model.commits.last().unwrap();
                    prop_assert_eq!(receipt.commit_seq.0, model.commits.len() as u64);
                    prop_assert_eq!(receipt.symbols, known.symbols);
                    prop_assert_eq!(receipt.repair_pending, !model.gone);
                }
                Step::AppendFails => {
                    rig.io.fail_next(RepairIoFailure::Error(RepairIoCall::AppendSystematic, broken()));
                    prop_assert!(rig.coordinator.commit(&[b"lost"]).is_err());
                }
                Step::Hold => {
                    rig.generator.hold();
                    model.held = true;
                }
                Step::Release => {
                    if !model.gone {
                        release(&mut model);
                    }
                }
                Step::Settle => {
                    if !model.gone {
                        release(&mut model);
                        rig.settle();
                        model.each(|known| known.possible = vec![known.end]);
                    }
                }
                Step::Shutdown => {
                    if let Some(runtime) = runtime.take() {
                        release(&mut model);
                        drop(runtime);
                        model.gone = true;
                        model.each(|known| {
                            known.possible = if known.possible == [known.end] {
                                vec![known.end]
                            } else {
                                vec![known.end, Failed]
                            };
                        });
                    }
                }
            }
            model.check(&rig)?;
        }
        if !model.gone {
            release(&mut model);
            rig.settle();
            model.each(|known| known.possible = vec![known.end]);
        }
        model.check(&rig)?;
        model.check_end(&rig)?;
    }
}
