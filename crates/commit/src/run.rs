//! The group commit at work on a channel.

use crate::group::GroupCommit;
use crate::receiver::{CancelWatch, Receiver, RecvError};
use crate::report::{Drained, LoopEnd, LoopReport};
use crate::stages::guarded;
use crate::ticket::Sent;
use std::time::Instant;
use walmend_types::{Cx, WalBatchWriter, WriteSetValidator};

/// What ends a wait for requests besides time.
struct Watched<'a> {
    watch: &'a CancelWatch,
    deadline: Option<Instant>,
}

impl<P, W: WalBatchWriter<P>, V: WriteSetValidator> GroupCommit<P, W, V> {
    /// Waits for a first request, takes more while they come, and commits them as one batch.
    ///
    /// The batch is closed when it reaches its limit or when the drain timeout has passed since its first
    /// request; what is there by then is always taken.
    pub fn drain_and_process(&mut self, receiver: &mut Receiver<P>) -> Drained {
        self.round(receiver, None)
    }

    /// Commits what comes until `cx` is cancelled or all senders are gone.
    ///
    /// A cancellation (or the deadline of `cx`) closes the receiver: no reservation is taken any more, open
    /// permits lose their places, and everything that was sent is still committed before this returns. When
    /// no request comes for a while, the log gets to tidy up. A panic ends the loop, closes the receiver and
    /// sets the poison latch.
    pub fn run_loop(&mut self, receiver: &mut Receiver<P>, cx: &Cx) -> LoopReport {
        let mut drained = 0;
        let end =
            guarded("the commit loop", || self.rounds(receiver, cx, &mut drained)).unwrap_or_else(|panic| {
                self.common.end_all_writing(&panic, "the commit loop ends");
                receiver.close();
                while let Ok(sent) = receiver.try_recv() {
                    self.refuse(sent);
                }
                LoopEnd::Panicked(panic.to_string())
            });
        let totals = self.totals().snapshot();
        tracing::debug!(target: "walmend::commit::group", ?end, ?totals, drained, "the commit loop has ended");
        LoopReport { end, totals, drained }
    }

    fn rounds(&mut self, receiver: &mut Receiver<P>, cx: &Cx, drained: &mut u64) -> LoopEnd {
        let watch = CancelWatch::new(cx);
        while cx.check().is_ok() {
            let watched = Watched {
                watch: &watch,
                deadline: cx.deadline(),
            };
            match self.round(receiver, Some(watched)) {
                Drained::Processed(_) => {}
                Drained::Idle if cx.check().is_ok() => self.front.tidy_up(&self.common),
                Drained::Idle => {}
                Drained::Disconnected => return LoopEnd::Disconnected,
            }
        }
        // Closed first: writers that keep coming would keep the draining going for ever.
        receiver.close();
        while let Drained::Processed(report) = self.round(receiver, None) {
            *drained += report.requests() as u64;
        }
        LoopEnd::Cancelled
    }

    fn round(&mut self, receiver: &mut Receiver<P>, watched: Option<Watched<'_>>) -> Drained {
        let wait = |receiver: &mut Receiver<P>, deadline: Option<Instant>| match &watched {
            None => match deadline {
                Some(deadline) => receiver.recv_until(deadline),
                None => receiver.recv(),
            },
            Some(watched) => {
                let deadline = [deadline, watched.deadline].into_iter().flatten().min();
                receiver.recv_watched(Some(watched.watch), deadline)
            }
        };
        let idle_at = Instant::now().checked_add(self.config.idle_wait);
        let first = match wait(receiver, idle_at) {
            Ok(first) => first,
            Err(RecvError::Disconnected) => return Drained::Disconnected,
            Err(RecvError::Empty | RecvError::Cancelled) => return Drained::Idle,
        };
        let mut batch: Vec<Sent<P>> = Vec::with_capacity(self.config.batch_limit.min(receiver.capacity()));
        batch.push(first);
        let open_until = Instant::now().checked_add(self.config.drain_timeout);
        while batch.len() < self.config.batch_limit {
            // The clock is only looked at when there is nothing to take.
            match receiver.try_recv().or_else(|error| match error {
                RecvError::Empty => wait(receiver, open_until),
                other => Err(other),
            }) {
                Ok(sent) => batch.push(sent),
                Err(_) => break,
            }
        }
        Drained::Processed(self.process_batch(batch))
    }
}

/// Runs the loop on a thread of its own, named `walmend-commit`; see [`GroupCommit::run_loop`]. At the end
/// the receiver is dropped.
///
/// # Errors
/// [`Error::Io`](walmend_types::Error::Io) if the system gives no thread. The receiver is gone then.
#[cfg(not(walmend_loom))]
pub fn spawn<P, W, V>(
    mut coordinator: GroupCommit<P, W, V>,
    mut receiver: Receiver<P>,
    cx: Cx,
) -> walmend_types::Result<walmend_sync::thread::JoinHandle<LoopReport>>
where
    P: Send + 'static,
    W: WalBatchWriter<P> + 'static,
    V: WriteSetValidator + 'static,
{
    crate::threads::spawn("walmend-commit", move || coordinator.run_loop(&mut receiver, &cx))
}
