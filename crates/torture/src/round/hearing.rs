//! What is heard of the workers of a round.

use crate::model::Model;
use crate::modes::Mode;
use crate::protocol::Line;
use crate::report::Tally;

/// Takes each line to the model of its store.
pub(super) struct Hearing<'a> {
    mode: Mode,
    pub(super) models: Vec<Model>,
    pub(super) tally: &'a mut Tally,
    /// The first thing that is wrong.
    pub(super) wrong: Option<String>,
    /// When the worker had opened its last store.
    pub(super) opened_at: Option<u64>,
    /// All its stores have said what is there.
    pub(super) all_stated: bool,
    stated: usize,
    /// The number in `s`, as last seen.
    pub(super) number: Option<u64>,
    /// The last opening dropped frames, or did not go on where the store had stopped.
    pub(super) reported: bool,
}

impl<'a> Hearing<'a> {
    pub(super) fn new(mode: Mode, stores: usize, tally: &'a mut Tally) -> Self {
        Self {
            mode,
            models: (0..stores).map(|_| Model::new()).collect(),
            tally,
            wrong: None,
            opened_at: None,
            all_stated: false,
            stated: 0,
            number: None,
            reported: false,
        }
    }

    fn blame(&mut self, result: Result<(), String>) {
        if let Err(what) = result {
            self.wrong.get_or_insert(what);
        }
    }

    pub(super) fn hear(&mut self, line: Line) {
        match line {
            Line::Opening => {
                self.stated = 0;
                self.all_stated = false;
            }
            Line::Open {
                store,
                at,
                seq,
                healed,
                dropped,
                lost,
                cut,
            } => {
                self.models[store].open(seq);
                self.opened_at = Some(at);
                self.tally.healed += healed;
                self.reported = cut || dropped > 0;
                // Whole commits that nobody was told of may go with a torn tail: whether one was acknowledged is judged
                // by what is there.
                self.reported |= lost > 0;
            }
            Line::State { store, cells } => self.models[store].tell(&cells),
            Line::Stated { store } => {
                // Wrecked files are judged by those who wrecked them.
                if self.mode != Mode::Rot || !self.models[store].is_wrecked {
                    let stated = self.models[store].stated();
                    self.blame(stated.map_err(|what| format!("store {store}: {what}")));
                }
                self.stated += 1;
                self.all_stated = self.stated == self.models.len();
            }
            Line::Begin {
                store,
                txn,
                snapshot,
                cells,
                reads,
            } => {
                let begun = self.models[store].begin(txn, snapshot, cells, reads);
                self.blame(begun);
            }
            Line::Committed { store, txn, seq } => {
                let committed = self.models[store].committed(txn, seq);
                self.blame(committed.map_err(|what| format!("store {store}: {what}")));
            }
            Line::NotCommitted { store, txn, .. } => self.models[store].not_committed(txn),
            Line::Unknown { store, txn, .. } => self.models[store].unknown(txn),
            Line::Token { store, txn, there } => {
                if !there && self.models[store].kept_unknown.contains(&txn) {
                    self.blame(Err(format!(
                        "store {store} holds transaction {txn}, and its token says that it is not committed"
                    )));
                }
            }
            Line::Snapshot { store, seq, cells } => self.models[store].saw("snapshot", seq, seq, cells),
            Line::Backup {
                store,
                low,
                high,
                cells,
            } => self.models[store].saw("backup", low, high, cells),
            Line::Fault {
                store,
                what,
                kind,
                text,
            } => {
                if self.mode.provokes(&what, &kind) {
                    let name = if kind == "internal" { what } else { kind };
                    self.tally.fault(&name);
                } else {
                    self.blame(Err(format!("store {store}, {what}: {kind}: {text}")));
                }
            }
            Line::Wrong(text) => self.blame(Err(text)),
            Line::Checkpoint { .. }
            | Line::Checkpointed { .. }
            | Line::Stuck(_)
            | Line::Sample(_)
            | Line::Done => {}
        }
    }

    /// Adds what the models counted.
    pub(super) fn count(&mut self) {
        for model in &self.models {
            self.tally.committed += model.counts.committed;
            self.tally.snapshots += model.counts.snapshots;
            self.tally.serializable += model.counts.serializable;
            self.tally.backups += model.counts.backups;
        }
    }
}
