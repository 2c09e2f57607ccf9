//! What a run has seen.

use crate::after::After;
use crate::settings::Settings;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;
use walmend_proof::power::{Event, Expected, Loss, Losses, Recording};

/// What the machine was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Mounting, recovering, opening.
    Opening,
    /// Committing.
    Commits,
    /// Committing beside a checkpoint.
    Checkpoint,
}

impl Phase {
    /// After it said that.
    pub(crate) fn after(self, line: &str) -> Self {
        match line {
            "checkpoint begins" => Self::Checkpoint,
            "ready" | "checkpoint ends" => Self::Commits,
            _ => self,
        }
    }
}

/// Sums.
pub(crate) struct Report<'a> {
    settings: &'a Settings,
    started: Instant,
    cuts: BTreeMap<Phase, u64>,
    acknowledged: u64,
    checked: u64,
    uncertain: u64,
    sectors: (u64, u64),
    torn_tails: u64,
    unheard: u64,
    lost: u64,
    failed: u64,
    machine_cut: Vec<String>,
}

impl<'a> Report<'a> {
    /// Nothing yet.
    pub(crate) fn new(settings: &'a Settings) -> Self {
        let work = &settings.work;
        println!(
            "{} on {} ({}), {} pages, log {}, {} writers, seed {}: {} lives of {} s, {} power cuts each",
            work.engine.name(),
            settings.file_system,
            settings.mount,
            work.words()[1],
            work.words()[2],
            work.writers,
            work.seed,
            settings.lives,
            settings.working.as_secs(),
            settings.cuts
        );
        Self {
            settings,
            started: Instant::now(),
            cuts: BTreeMap::new(),
            acknowledged: 0,
            checked: 0,
            uncertain: 0,
            sectors: (0, 0),
            torn_tails: 0,
            unheard: 0,
            lost: 0,
            failed: 0,
            machine_cut: Vec::new(),
        }
    }

    /// How many cuts have failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// One cut. An engine that must not lose and did is described.
    #[expect(clippy::too_many_arguments, reason = "it is all there is to one cut")]
    pub(crate) fn add(
        &mut self,
        life: u64,
        point: usize,
        phase: Phase,
        expected: &Expected,
        loss: Loss,
        losses: Losses,
        after: &After,
    ) -> Result<(), String> {
        *self.cuts.entry(phase).or_default() += 1;
        self.checked += expected.acknowledged;
        self.uncertain += losses.uncertain;
        self.sectors = (self.sectors.0 + losses.kept, self.sectors.1 + losses.lost);
        self.torn_tails += u64::from(after.torn_tail);
        self.unheard += after.verdict.unheard;
        self.lost += after.lost;
        if after.problems.is_empty() {
            return Ok(());
        }
        self.failed += 1;
        if !self.settings.work.engine.must_lose() || self.failed == 1 {
            println!(
                "life {life}, cut after event {point} ({phase:?}, {loss:?}, {losses:?}), {} acknowledged:",
                expected.acknowledged
            );
            for problem in after.problems.iter().take(12) {
                println!("    {problem}");
            }
        }
        Ok(())
    }

    /// A life is over.
    pub(crate) fn life(&mut self, life: u64, recording: &Recording) {
        let count =
            |what: &dyn Fn(&Event) -> bool| recording.events.iter().filter(|event| what(event)).count();
        let acknowledged = count(&|event| matches!(event, Event::Said(line) if line.starts_with("ack ")));
        self.acknowledged += acknowledged as u64;
        let opened = recording.events.iter().find_map(|event| match event {
            Event::Said(line) => line.strip_prefix("opened: "),
            _ => None,
        });
        println!(
            "life {life}: {acknowledged} commits, {} checkpoints, {} writes, {} flushes; {} cuts so far, {} failed, \
             {:.0} s{}",
            count(&|event| matches!(event, Event::Said(line) if line == "checkpoint ends")),
            count(&|event| matches!(event, Event::Write { .. })),
            count(&|event| matches!(event, Event::Flushed(_))),
            self.cuts.values().sum::<u64>(),
            self.failed,
            self.started.elapsed().as_secs_f64(),
            opened.map_or(String::new(), |opened| format!("; it opened {opened}")),
        );
    }

    /// The machine itself found something wrong.
    pub(crate) fn machine_failed(mut self, life: u64, error: &str) -> Result<(), String> {
        self.failed += 1;
        self.lost += 1;
        self.machine_cut.push(format!("life {life}: {error}"));
        println!("life {life}: {error}");
        self.finish()
    }

    /// The verdict.
    pub(crate) fn finish(self) -> Result<(), String> {
        let cuts = |phase| self.cuts.get(&phase).copied().unwrap_or(0);
        println!(
            "{} power cuts ({} while opening, {} among commits, {} beside a checkpoint), {} commits acknowledged,\n\
             {} looked for after a cut; {} writes were uncertain, of their sectors {} kept and {} lost;\n\
             {} torn tails, {} commits unheard of; {} cuts with something lost or wrong ({} in all), {:.0} s",
            self.cuts.values().sum::<u64>(),
            cuts(Phase::Opening),
            cuts(Phase::Commits),
            cuts(Phase::Checkpoint),
            self.acknowledged,
            self.checked,
            self.uncertain,
            self.sectors.0,
            self.sectors.1,
            self.torn_tails,
            self.unheard,
            self.failed,
            self.lost,
            self.started.elapsed().as_secs_f64(),
        );
        let dir: PathBuf = self.settings.dir.clone();
        match (self.settings.work.engine.must_lose(), self.failed) {
            (true, 0) => Err("nothing was lost, although nothing was synced: this rig sees nothing".into()),
            (false, 1..) => Err(format!(
                "failed; recordings and images are kept in {}",
                dir.display()
            )),
            _ => Ok(()),
        }
    }
}
