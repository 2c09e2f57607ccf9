//! The group commit: one batch at a time through its four phases.

use crate::channel::closed;
use crate::config::GroupConfig;
use crate::report::{BatchReport, Committed, Conflicted, Failed, Phase};
use crate::ticket::Sent;
use crate::totals::SharedTotals;
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use walmend_types::{
    Append, AppendFailure, BatchEntry, CommitOutcome, CommitSeq, Conflict, Error, OutcomeToken, Poison,
    Result, WalBatchSync, WalBatchWriter, WriteSetValidator,
};

/// Commits batches of requests: Validate, WalAppend, Fsync, Publish, strictly in this order.
///
/// A batch with something valid costs one sync, any other none. Nothing of a batch is acknowledged or visible
/// before its sync. When a sync fails, or when a failed append cannot be undone, the [`Poison`] latch is set,
/// and every later request is answered `NotCommitted`.
pub struct GroupCommit<P, W: WalBatchWriter<P>, V> {
    pub(crate) writer: W,
    sync: W::Sync,
    validator: V,
    pub(crate) config: GroupConfig,
    /// The last commit number in use.
    last_seq: CommitSeq,
    totals: Arc<SharedTotals>,
    payload: PhantomData<fn(P)>,
}

/// What validation said about one request.
enum Verdict {
    Admitted(CommitSeq),
    Lost(Conflict),
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

impl<P, W: WalBatchWriter<P>, V: WriteSetValidator> GroupCommit<P, W, V> {
    /// A group commit over this log.
    pub fn new(writer: W, validator: V, config: GroupConfig) -> Self {
        Self {
            sync: writer.sync_half(),
            writer,
            validator,
            last_seq: config.last_seq,
            config,
            totals: Arc::default(),
            payload: PhantomData,
        }
    }

    /// The counters, for any thread.
    pub fn totals(&self) -> Arc<SharedTotals> {
        Arc::clone(&self.totals)
    }

    /// The last commit number in use.
    pub fn last_seq(&self) -> CommitSeq {
        self.last_seq
    }

    /// The validator.
    pub fn validator(&self) -> &V {
        &self.validator
    }

    /// The latch that ends all writing.
    pub fn poison(&self) -> &Poison {
        &self.config.poison
    }

    /// Commits a batch, and answers every ticket in it, in order.
    ///
    /// Within the batch, an earlier request wins over a later one. No error and no panic of the log or of
    /// the validator gets out of here: it is in the report and in the answers.
    pub fn process_batch(&mut self, mut batch: Vec<Sent<P>>) -> BatchReport {
        let mut report = BatchReport::default();
        if batch.is_empty() {
            return report;
        }
        let decided = match self.config.poison.check() {
            Ok(()) => self.run_phases(&mut batch, &mut report),
            Err(poisoned) => Err(poisoned),
        };
        let outcomes =
            decided.unwrap_or_else(|reason| vec![CommitOutcome::NotCommitted { reason }; batch.len()]);
        for (sent, outcome) in batch.iter().zip(&outcomes) {
            note(&mut report, sent, outcome);
        }
        // Counted before the first answer, so that whoever has one finds itself in the totals.
        self.totals.add(report.totals());
        tracing::debug!(
            target: "walmend::commit::group",
            committed = report.committed.len(),
            conflicted = report.conflicted.len(),
            failed = report.failed.len(),
            fsyncs = report.fsyncs,
            last_seq = self.last_seq.0,
            "batch"
        );
        for (sent, outcome) in batch.into_iter().zip(outcomes) {
            sent.resolve(outcome);
        }
        if !report.committed.is_empty() {
            self.prune();
        }
        report
    }

    /// The answers, in order.
    ///
    /// # Errors
    /// If not even the first phase came to an end; nothing was appended then.
    fn run_phases(&mut self, batch: &mut [Sent<P>], report: &mut BatchReport) -> Result<Vec<CommitOutcome>> {
        let first = self.last_seq.next();
        report.phases.push(Phase::Validate);
        let (verdicts, last) = match guarded("the validator", || self.validate(batch)) {
            Ok(validated) => validated,
            Err(error) => {
                self.roll_back(first);
                return Err(error);
            }
        };
        let fate = if last < first {
            // All lost: nothing to write.
            Fate::Committed(Vec::new())
        } else {
            self.write(batch, &verdicts, last, report)
        };
        Ok(answers(&verdicts, &fate, first))
    }

    /// The three phases that touch the log, for at least one admitted request.
    fn write(
        &mut self,
        batch: &mut [Sent<P>],
        verdicts: &[Verdict],
        last: CommitSeq,
        report: &mut BatchReport,
    ) -> Fate {
        report.phases.push(Phase::WalAppend);
        let append = match self.append(batch, verdicts) {
            Ok(append) => append,
            Err(failure) => return self.discard(failure),
        };
        let mut tokens = append.tokens.iter();
        for (sent, _) in admitted(batch, verdicts) {
            sent.mark_appended(tokens.next().copied());
        }

        report.phases.push(Phase::Fsync);
        report.fsyncs += 1;
        // The latch is looked at again: if another sync of the file failed meanwhile, the kernel has told that
        // caller, and the success of this one proves nothing.
        let synced = guarded("the sync of the log", || self.sync.sync(&append.mark))
            .flatten()
            .and_then(|()| self.config.poison.check());
        if let Err(error) = synced {
            self.end_all_writing(&error, "the sync failed");
            return Fate::Unknown(error, append.tokens);
        }

        report.phases.push(Phase::Publish);
        if let Err(error) = guarded("publishing", || self.sync.publish(append.mark)) {
            // Durable, but nobody can see it: the token finds it after reopening.
            self.end_all_writing(&error, "publishing failed");
            return Fate::Unknown(error, append.tokens);
        }
        self.last_seq = last;
        Fate::Committed(append.offsets)
    }

    /// Admits what does not conflict, under the next numbers; also answers the last number given out.
    fn validate(&mut self, batch: &[Sent<P>]) -> (Vec<Verdict>, CommitSeq) {
        let mut last = self.last_seq;
        let mut verdicts = Vec::with_capacity(batch.len());
        for sent in batch {
            let request = sent.request();
            let seq = last.next();
            let admitted = self
                .validator
                .admit(request.txn, request.snapshot, &request.writes, seq);
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

    fn append(
        &mut self,
        batch: &mut [Sent<P>],
        verdicts: &[Verdict],
    ) -> Result<Append<W::Mark>, AppendFailure> {
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

    /// After a failed append: nothing of it may come back, or else nothing may be written any more.
    fn discard(&mut self, failure: AppendFailure) -> Fate {
        match guarded("discarding the append", || self.writer.discard_append()).flatten() {
            Ok(()) => {
                // Nobody saw the numbers, so they are given out again.
                self.roll_back(self.last_seq.next());
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
                self.end_all_writing(&error, "the failed append cannot be undone");
                Fate::Unknown(error, failure.tokens)
            }
        }
    }

    fn roll_back(&mut self, first: CommitSeq) {
        if let Err(error) = guarded("the validator", || self.validator.rollback_from(first)) {
            self.end_all_writing(&error, "the validator cannot roll back");
        }
    }

    /// Lets the validator forget. After the answers: that costs the writers nothing, and their snapshots are
    /// gone by now.
    fn prune(&mut self) {
        let pruned = guarded("the validator", || {
            let oldest = (self.config.oldest_snapshot)();
            self.validator.published(self.last_seq, oldest);
        });
        if let Err(error) = pruned {
            self.end_all_writing(&error, "the validator is in an unknown state");
        }
    }

    /// Sets the latch.
    pub(crate) fn end_all_writing(&self, error: &Error, what: &'static str) {
        let first = self.config.poison.set(error.clone());
        tracing::error!(
            target: "walmend::commit::group",
            %error,
            first,
            "{what}; nothing is written until the store is reopened"
        );
    }

    /// Answers a request that will not be processed any more.
    pub(crate) fn refuse(&self, sent: Sent<P>) {
        let reason = self.config.poison.check().err().unwrap_or_else(closed);
        sent.resolve(CommitOutcome::NotCommitted { reason });
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

/// The answers, in order. `first` is the first number of this batch.
fn answers(verdicts: &[Verdict], fate: &Fate, first: CommitSeq) -> Vec<CommitOutcome> {
    let answer = |verdict: &Verdict| match (verdict, fate) {
        (Verdict::Lost(conflict), Fate::Committed(_)) => CommitOutcome::Conflict(*conflict),
        (Verdict::Lost(conflict), _) if conflict.winner_seq < first => CommitOutcome::Conflict(*conflict),
        // It lost to a request that then failed itself. Nobody has won, and it was not appended.
        (_, Fate::NotCommitted(reason)) | (Verdict::Lost(_), Fate::Unknown(reason, _)) => {
            CommitOutcome::NotCommitted {
                reason: reason.clone(),
            }
        }
        (Verdict::Admitted(seq), Fate::Committed(offsets)) => CommitOutcome::Committed {
            wal_offset: offsets[place(*seq, first)],
            commit_seq: *seq,
        },
        (Verdict::Admitted(seq), Fate::Unknown(reason, tokens)) => CommitOutcome::OutcomeUnknown {
            token: tokens.get(place(*seq, first)).copied(),
            reason: reason.clone(),
        },
    };
    verdicts.iter().map(answer).collect()
}

/// Which of the admitted requests has this number: they are given out without gaps.
fn place(seq: CommitSeq, first: CommitSeq) -> usize {
    (seq.0 - first.0) as usize
}

fn note<P>(report: &mut BatchReport, sent: &Sent<P>, outcome: &CommitOutcome) {
    let (number, txn) = (sent.number(), sent.request().txn);
    match outcome {
        CommitOutcome::Committed {
            wal_offset,
            commit_seq,
        } => report.committed.push(Committed {
            number,
            txn,
            commit_seq: *commit_seq,
            wal_offset: *wal_offset,
        }),
        CommitOutcome::Conflict(conflict) => report.conflicted.push(Conflicted {
            number,
            txn,
            conflict: *conflict,
        }),
        CommitOutcome::NotCommitted { reason } => report.failed.push(Failed {
            number,
            txn,
            error: Error::NotCommitted {
                reason: Box::new(reason.clone()),
            },
        }),
        CommitOutcome::OutcomeUnknown { reason, .. } => report.failed.push(Failed {
            number,
            txn,
            error: Error::OutcomeUnknown {
                reason: Box::new(reason.clone()),
            },
        }),
    }
}

/// Calls what is not ours; a panic in it becomes an error.
pub(crate) fn guarded<R>(who: &'static str, call: impl FnOnce() -> R) -> Result<R> {
    // Whatever the panic left behind is not looked at again before it was discarded or rolled back, or
    // writing has ended.
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|panic| Error::Internal(format!("{who} panicked: {}", message(&*panic))))
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

impl<P, W: WalBatchWriter<P>, V> fmt::Debug for GroupCommit<P, W, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupCommit")
            .field("last_seq", &self.last_seq)
            .field("config", &self.config)
            .field("totals", &self.totals.snapshot())
            .finish_non_exhaustive()
    }
}
