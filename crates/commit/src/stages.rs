//! The two stages that a batch goes through, so that two batches can be on their way at once: the front stage
//! validates and appends, the back stage syncs and publishes.
//!
//! Each stage handles one batch at a time. Whoever has a batch in the front stage enters the back stage before it
//! leaves the front stage, so batches are synced and published in the order in which they were appended, and a
//! failed append is cleared away with no sync under way and no other append behind it.

use crate::channel::SeveralBells;
use crate::config::GroupConfig;
use crate::report::{BatchReport, Phase};
use crate::ticket::Sent;
use crate::totals::{SharedTotals, Totals};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend_sync::atomic::{AtomicU64, Ordering};
use walmend_types::{
    Append, AppendFailure, BatchEntry, CommitOutcome, CommitSeq, Conflict, Error, OutcomeToken, Poison,
    Result, WalBatchSync, WalBatchWriter, WriteSetValidator,
};

/// What both stages know.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) poison: Poison,
    pub(crate) totals: Arc<SharedTotals>,
    /// The last published commit. Written in the back stage only.
    published: AtomicU64,
}

impl Common {
    pub(crate) fn new(poison: Poison, published: CommitSeq) -> Self {
        Self {
            poison,
            totals: Arc::default(),
            published: AtomicU64::new(published.0),
        }
    }

    pub(crate) fn published(&self) -> CommitSeq {
        // Acquire, with the Release of the back stage: whoever prunes by it sees no older snapshots begin.
        CommitSeq(self.published.load(Ordering::Acquire))
    }

    /// Sets the latch.
    pub(crate) fn end_all_writing(&self, error: &Error, what: &'static str) {
        let first = self.poison.set(error.clone());
        tracing::error!(
            target: "walmend::commit::group",
            %error,
            first,
            "{what}; nothing is written until the store is reopened"
        );
    }
}

/// What validation said about one request.
enum Verdict {
    Admitted(CommitSeq),
    Lost(Conflict),
}

/// How far a batch has come.
enum Stage<M> {
    /// Not even validated, and now it will not be.
    Refused(Error),
    /// Nothing was admitted.
    AllLost,
    Appended(Append<M>),
    /// The append failed, and what it left behind is not cleared away yet.
    Failed(AppendFailure),
    Ended(Fate),
}

/// What became of the admitted requests of a batch.
enum Fate {
    /// Durable and visible; where each one starts.
    Committed(Vec<u64>),
    /// Nothing of them will ever come back.
    NotCommitted(Error),
    /// Some of them may.
    Unknown(Error, Vec<OutcomeToken>),
}

/// A batch on its way from one stage to the next.
pub(crate) struct InFlight<P, M> {
    pub(crate) batch: Vec<Sent<P>>,
    verdicts: Vec<Verdict>,
    /// The number before the first one of this batch.
    before: CommitSeq,
    stage: Stage<M>,
    /// The phases that were begun.
    pub(crate) phases: Vec<Phase>,
    /// How long validation took, for the whole batch.
    pub(crate) validated_in: Duration,
}

/// Validates and appends. `last_seq` is the last commit number in use.
pub(crate) struct Front<W, V> {
    pub(crate) writer: W,
    pub(crate) validator: V,
    pub(crate) last_seq: CommitSeq,
    pruned: CommitSeq,
    oldest_snapshot: Box<dyn Fn() -> CommitSeq + Send>,
}

impl<W, V: WriteSetValidator> Front<W, V> {
    pub(crate) fn new(writer: W, validator: V, config: &mut GroupConfig) -> Self {
        Self {
            writer,
            validator,
            last_seq: config.last_seq,
            pruned: config.last_seq,
            oldest_snapshot: std::mem::replace(&mut config.oldest_snapshot, Box::new(CommitSeq::default)),
        }
    }

    /// Validates a batch, and appends what is valid.
    pub(crate) fn begin<P>(&mut self, mut batch: Vec<Sent<P>>, common: &Common) -> InFlight<P, W::Mark>
    where
        W: WalBatchWriter<P>,
    {
        self.prune(common);
        let mut flight = InFlight {
            verdicts: Vec::new(),
            before: self.last_seq,
            stage: Stage::AllLost,
            phases: Vec::with_capacity(4),
            validated_in: Duration::ZERO,
            batch: Vec::new(),
        };
        flight.stage = self.run(&mut batch, &mut flight, common);
        flight.batch = batch;
        flight
    }

    fn run<P>(
        &mut self,
        batch: &mut [Sent<P>],
        flight: &mut InFlight<P, W::Mark>,
        common: &Common,
    ) -> Stage<W::Mark>
    where
        W: WalBatchWriter<P>,
    {
        if let Err(poisoned) = common.poison.check() {
            return Stage::Refused(poisoned);
        }
        flight.phases.push(Phase::Validate);
        let started = Instant::now();
        let last = match guarded("the validator", || self.validate(batch)) {
            Ok((verdicts, last)) => {
                flight.verdicts = verdicts;
                last
            }
            Err(error) => {
                self.roll_back(common);
                return Stage::Refused(error);
            }
        };
        flight.validated_in = started.elapsed();
        if last == self.last_seq {
            return Stage::AllLost;
        }
        flight.phases.push(Phase::WalAppend);
        match self.append(batch, &flight.verdicts) {
            Ok(append) => {
                let mut tokens = append.tokens.iter();
                for (sent, _) in admitted(batch, &flight.verdicts) {
                    sent.mark_appended(tokens.next().copied());
                }
                self.last_seq = last;
                Stage::Appended(append)
            }
            Err(failure) => Stage::Failed(failure),
        }
    }

    /// Admits what does not conflict, under the next numbers; also answers the last number given out.
    fn validate<P>(&mut self, batch: &[Sent<P>]) -> (Vec<Verdict>, CommitSeq) {
        let mut last = self.last_seq;
        let mut verdicts = Vec::with_capacity(batch.len());
        for sent in batch {
            let request = sent.request();
            let seq = last.next();
            let admitted = self.validator.admit(
                request.txn,
                request.snapshot,
                &request.writes,
                request.reads.as_ref(),
                seq,
            );
            verdicts.push(match admitted {
                Ok(()) => {
                    last = seq;
                    Verdict::Admitted(seq)
                }
                Err(conflict) => Verdict::Lost(conflict),
            });
        }
        (verdicts, last)
    }

    fn append<P>(
        &mut self,
        batch: &mut [Sent<P>],
        verdicts: &[Verdict],
    ) -> Result<Append<W::Mark>, AppendFailure>
    where
        W: WalBatchWriter<P>,
    {
        for (sent, _) in admitted(batch, verdicts) {
            sent.mark_appended(None);
        }
        let entries: Vec<BatchEntry<'_, P>> = admitted(batch, verdicts)
            .map(|(sent, commit_seq)| BatchEntry {
                request: sent.request(),
                commit_seq,
            })
            .collect();
        let append = guarded("the log", || self.writer.append_batch(&entries))??;
        let (offsets, tokens) = (append.offsets.len(), append.tokens.len());
        let nonsense = if offsets != entries.len() {
            Some(("offsets", offsets))
        } else if tokens != 0 && tokens != entries.len() {
            Some(("tokens", tokens))
        } else {
            None
        };
        match nonsense {
            None => Ok(append),
            Some((what, found)) => Err(AppendFailure {
                error: Error::Internal(format!(
                    "the log answered {found} {what} for {} requests",
                    entries.len()
                )),
                // Which token belongs to which request is anybody's guess now.
                tokens: if what == "tokens" {
                    Vec::new()
                } else {
                    append.tokens
                },
            }),
        }
    }

    /// After a failed append: nothing of it may come back, or else nothing may be written any more. The caller is
    /// in the back stage as well, so no sync is under way and everything appended before is settled.
    pub(crate) fn clear_away<P>(&mut self, flight: &mut InFlight<P, W::Mark>, common: &Common)
    where
        W: WalBatchWriter<P>,
    {
        let failure = match std::mem::replace(&mut flight.stage, Stage::AllLost) {
            Stage::Failed(failure) => failure,
            other => {
                flight.stage = other;
                return;
            }
        };
        let fate = match guarded("discarding the append", || self.writer.discard_append()).flatten() {
            Ok(()) => {
                // Nobody saw the numbers, so they are given out again.
                self.roll_back(common);
                tracing::debug!(
                    target: "walmend::commit::group",
                    error = %failure.error,
                    "the append failed and is undone"
                );
                Fate::NotCommitted(failure.error)
            }
            Err(error) => {
                tracing::error!(
                    target: "walmend::commit::group",
                    error = %failure.error,
                    "the append failed"
                );
                common.end_all_writing(&error, "the failed append cannot be undone");
                Fate::Unknown(error, failure.tokens)
            }
        };
        flight.stage = Stage::Ended(fate);
    }

    fn roll_back(&mut self, common: &Common) {
        let first = self.last_seq.next();
        if let Err(error) = guarded("the validator", || self.validator.rollback_from(first)) {
            common.end_all_writing(&error, "the validator cannot roll back");
        }
    }

    /// Lets the validator forget what is published and no live snapshot can conflict with.
    pub(crate) fn prune(&mut self, common: &Common) {
        let published = common.published();
        if published == self.pruned {
            return;
        }
        self.pruned = published;
        let pruned = guarded("the validator", || {
            let oldest = (self.oldest_snapshot)();
            self.validator.published(published, oldest);
        });
        if let Err(error) = pruned {
            common.end_all_writing(&error, "the validator is in an unknown state");
        }
    }

    /// The log tidies up.
    pub(crate) fn tidy_up<P>(&mut self, common: &Common)
    where
        W: WalBatchWriter<P>,
    {
        if common.poison.reason().is_some() {
            return;
        }
        if let Err(error) = guarded("tidying up", || self.writer.idle()).flatten() {
            common.end_all_writing(&error, "tidying up failed");
        }
    }
}

impl<P, M> InFlight<P, M> {
    /// Syncs and publishes what was appended, and decides every answer. In the back stage, after
    /// [`Front::clear_away`].
    pub(crate) fn finish<S: WalBatchSync<M>>(&mut self, sync: &S, common: &Common) -> Vec<CommitOutcome> {
        let fate = match std::mem::replace(&mut self.stage, Stage::AllLost) {
            Stage::Refused(reason) => {
                return vec![CommitOutcome::NotCommitted { reason }; self.batch.len()];
            }
            Stage::Failed(failure) => Fate::Unknown(failure.error, failure.tokens),
            Stage::Ended(fate) => fate,
            Stage::Appended(append) => self.write(append, sync, common),
            // Those that lost to a batch that failed meanwhile have lost to nobody.
            Stage::AllLost => match common.poison.check() {
                Ok(()) => Fate::Committed(Vec::new()),
                Err(poisoned) => Fate::NotCommitted(poisoned),
            },
        };
        self.answers(&fate, common.published())
    }

    fn write<S: WalBatchSync<M>>(&mut self, append: Append<M>, sync: &S, common: &Common) -> Fate {
        // A batch before this one may have failed while this one was appended: there is nothing to be had from a
        // sync then, which might even succeed.
        if let Err(error) = common.poison.check() {
            return Fate::Unknown(error, append.tokens);
        }
        self.phases.push(Phase::Fsync);
        // The latch is looked at again: if another sync of the file failed meanwhile, the kernel has told that
        // caller, and the success of this one proves nothing.
        let synced = guarded("the sync of the log", || sync.sync(&append.mark))
            .flatten()
            .and_then(|()| common.poison.check());
        if let Err(error) = synced {
            common.end_all_writing(&error, "the sync failed");
            return Fate::Unknown(error, append.tokens);
        }
        self.phases.push(Phase::Publish);
        if let Err(error) = guarded("publishing", || sync.publish(append.mark)) {
            // Durable, but nobody can see it: the token finds it after reopening.
            common.end_all_writing(&error, "publishing failed");
            return Fate::Unknown(error, append.tokens);
        }
        let last = self.before.0 + append.offsets.len() as u64;
        common.published.store(last, Ordering::Release);
        Fate::Committed(append.offsets)
    }

    /// The answers, in order. `published` is the last published commit, those of this batch included.
    fn answers(&self, fate: &Fate, published: CommitSeq) -> Vec<CommitOutcome> {
        // The admitted are numbered without gaps.
        let place = |seq: CommitSeq| (seq.0 - self.before.0 - 1) as usize;
        let answer = |verdict: &Verdict| match (verdict, fate) {
            (Verdict::Lost(conflict), Fate::Committed(_)) => CommitOutcome::Conflict(*conflict),
            (Verdict::Lost(conflict), _) if conflict.winner_seq <= published => {
                CommitOutcome::Conflict(*conflict)
            }
            // It lost to a request that then failed itself. Nobody has won, and it was not appended.
            (_, Fate::NotCommitted(reason)) | (Verdict::Lost(_), Fate::Unknown(reason, _)) => {
                CommitOutcome::NotCommitted {
                    reason: reason.clone(),
                }
            }
            (Verdict::Admitted(seq), Fate::Committed(offsets)) => CommitOutcome::Committed {
                wal_offset: offsets[place(*seq)],
                commit_seq: *seq,
            },
            (Verdict::Admitted(seq), Fate::Unknown(reason, tokens)) => CommitOutcome::OutcomeUnknown {
                token: tokens.get(place(*seq)).copied(),
                reason: reason.clone(),
            },
        };
        self.verdicts.iter().map(answer).collect()
    }

    /// Syncs that were asked for.
    pub(crate) fn syncs(&self) -> u32 {
        u32::from(self.phases.contains(&Phase::Fsync))
    }

    /// Adds the batch to the totals; before the first answer, so that whoever has one finds itself counted.
    pub(crate) fn count(&self, outcomes: &[CommitOutcome], totals: &SharedTotals) -> Totals {
        let mut counted = Totals {
            batches: u64::from(!self.batch.is_empty()),
            syncs: u64::from(self.syncs()),
            largest_batch: self.batch.len() as u64,
            ..Totals::default()
        };
        for outcome in outcomes {
            match outcome {
                CommitOutcome::Committed { .. } => counted.commits += 1,
                CommitOutcome::Conflict(_) => counted.conflicts += 1,
                CommitOutcome::NotCommitted { .. } | CommitOutcome::OutcomeUnknown { .. } => {
                    counted.failed += 1;
                }
            }
        }
        totals.add(counted);
        tracing::debug!(
            target: "walmend::commit::group",
            committed = counted.commits,
            conflicted = counted.conflicts,
            failed = counted.failed,
            fsyncs = counted.syncs,
            "batch"
        );
        counted
    }

    /// What became of the batch, in detail.
    pub(crate) fn report(&self, outcomes: &[CommitOutcome]) -> BatchReport {
        let mut report = BatchReport {
            phases: self.phases.clone(),
            fsyncs: self.syncs(),
            ..BatchReport::default()
        };
        for (sent, outcome) in self.batch.iter().zip(outcomes) {
            report.note(sent, outcome);
        }
        report
    }

    /// Answers everybody, in order; says which bells are to be rung then.
    pub(crate) fn answer(self, outcomes: Vec<CommitOutcome>) -> SeveralBells {
        let mut bells = SeveralBells::default();
        for (sent, outcome) in self.batch.into_iter().zip(outcomes) {
            bells.add(sent.waits_at());
            sent.resolve(outcome);
        }
        bells
    }
}

/// The admitted requests with their numbers, in order.
fn admitted<'a, P>(
    batch: &'a mut [Sent<P>],
    verdicts: &'a [Verdict],
) -> impl Iterator<Item = (&'a mut Sent<P>, CommitSeq)> {
    batch
        .iter_mut()
        .zip(verdicts)
        .filter_map(|(sent, verdict)| match verdict {
            Verdict::Admitted(seq) => Some((sent, *seq)),
            Verdict::Lost(_) => None,
        })
}

/// Calls what is not ours; a panic in it becomes an error.
pub(crate) fn guarded<R>(who: &'static str, call: impl FnOnce() -> R) -> Result<R> {
    // Whatever the panic left behind is not looked at again before it was discarded or rolled back, or
    // writing has ended.
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|panic| Error::Internal(format!("{who} panicked: {}", message(&*panic))))
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
