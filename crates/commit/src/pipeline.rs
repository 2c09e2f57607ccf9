//! The pipeline: a channel and a group commit that the committing threads drive themselves.

use crate::channel::{Arrived, Gather, Item, Leadership, Sender, Shared, Step};
use crate::group::GroupCommit;
use crate::stages::{Common, Front, guarded};
use crate::ticket::{Sent, Ticket, ticket};
use crate::totals::SharedTotals;
use std::fmt;
use std::sync::Arc;
#[cfg(not(walmend_loom))]
use std::time::Duration;
use std::time::Instant;
use walmend_sync::{Mutex, has_passed, park_until, thread_waker};
use walmend_types::{CommitOutcome, CommitRequest, Poison, Result, WalBatchWriter, WriteSetValidator};

/// Commits requests as batches, led by whoever commits.
///
/// A thread that calls [`commit`](Self::commit) and finds nobody leading takes what is there, its own request
/// included, and leads it: validate, append, sync, publish. Whoever comes meanwhile waits, parked, and is woken with
/// its answer, or to lead the next batch. So a lone writer pays no hand-over between threads at all. Leadership is
/// free again when the batch's sync begins: the next batch is validated and appended during that sync. Batches are
/// synced and published strictly in order, one sync at a time; if one fails, those behind it fail too.
///
/// Callers that must not block a thread send through [`sender`](Self::sender) and await the ticket; two threads of
/// the pipeline's own, the crew, lead for them, started when first needed. What was sent is committed whether or not
/// its ticket still exists.
///
/// Waiting for more requests before a batch is closed is bounded by the fastest recent sync, and done only as long as
/// measurements say that it pays; a lone writer never waits. See [`GroupConfig`](crate::GroupConfig) for the limits.
///
/// ```
/// use walmend_commit::*;
///
/// let log = MemoryWriter::new();
/// let group = GroupCommit::new(log.clone(), FirstCommitterWins::new(0), GroupConfig::default());
/// let pipeline = Pipeline::start(group, 16)?;
/// let request = |txn, text| CommitRequest::new(TxnId(txn), CommitSeq(0), WriteSet::default(), text);
///
/// // On this thread, from the first phase to the last:
/// assert!(pipeline.commit(request(1, "one")).is_committed());
/// // Led by the crew; the ticket is a future, too:
/// let ticket = pipeline.sender()?.reserve()?.send(request(2, "two"))?;
/// assert!(ticket.wait().is_committed());
///
/// pipeline.close();
/// assert_eq!(log.published().len(), 2);
/// assert!(!pipeline.commit(request(3, "three")).is_committed());
/// # Ok::<(), Error>(())
/// ```
pub struct Pipeline<P, W: WalBatchWriter<P>, V> {
    core: Arc<Core<P, W, V>>,
    sender: Sender<P>,
    #[cfg(not(walmend_loom))]
    threads: crate::threads::Threads,
}

/// What the threads share.
struct Core<P, W: WalBatchWriter<P>, V> {
    shared: Arc<Shared<P>>,
    /// The front stage, entered by the leader only.
    front: Mutex<Front<W, V>>,
    /// The back stage. Entered from the front stage only, so at most one waits here, and in order.
    back: Mutex<W::Sync>,
    common: Common,
    /// How long nothing has to happen before the log gets to tidy up.
    #[cfg(not(walmend_loom))]
    idle_wait: Duration,
}

impl<P, W, V> Pipeline<P, W, V>
where
    P: Send + 'static,
    W: WalBatchWriter<P> + 'static,
    W::Sync: 'static,
    V: WriteSetValidator + 'static,
{
    /// A pipeline with room for `capacity` requests that are reserved or sent and not yet taken, as by
    /// [`capacity_from_setting`](crate::capacity_from_setting). Starts the thread that lets the log tidy up after
    /// [`idle_wait`](crate::GroupConfig::idle_wait); it sleeps while nothing happens.
    ///
    /// # Errors
    /// [`Error::Io`](walmend_types::Error::Io) if the system gives no thread.
    pub fn start(group: GroupCommit<P, W, V>, capacity: i64) -> Result<Self> {
        let pipeline = Self::without_threads(group, capacity);
        #[cfg(not(walmend_loom))]
        {
            let core = Arc::clone(&pipeline.core);
            pipeline
                .threads
                .start("walmend-tidy", move || core.tidy_up_when_idle())?;
        }
        Ok(pipeline)
    }

    fn without_threads(group: GroupCommit<P, W, V>, capacity: i64) -> Self {
        let capacity = crate::capacity_from_setting(capacity);
        let config = group.config;
        let lead = Leadership::new(
            config.batch_limit,
            config.batch_bytes,
            Gather::new(config.gather, capacity),
        );
        let shared = Shared::new(capacity, config.reservation_deadline, Some(lead));
        Self {
            sender: Sender::new(Arc::clone(&shared)),
            core: Arc::new(Core {
                shared,
                front: Mutex::new(group.front),
                back: Mutex::new(group.sync),
                common: group.common,
                #[cfg(not(walmend_loom))]
                idle_wait: config.idle_wait,
            }),
            #[cfg(not(walmend_loom))]
            threads: crate::threads::Threads::default(),
        }
    }

    /// Commits, and waits for the answer, leading batches meanwhile where nobody else does. Waits for a place
    /// while the channel is full.
    ///
    /// A thread that leads serves those whose requests are in its batch; it leads again only if its own request
    /// was not.
    pub fn commit(&self, request: CommitRequest<P>) -> CommitOutcome {
        let (ticket, resolver) = ticket(0);
        match self.send((request, resolver)) {
            Ok(arrived) => self.follow(&ticket, arrived),
            Err(reason) => CommitOutcome::NotCommitted { reason },
        }
    }

    fn send(&self, item: Item<P>) -> Result<Arrived> {
        let shared = &self.core.shared;
        let arrived = shared.lock().arrive(item);
        let item = match arrived {
            Ok(arrived) => return Ok(arrived),
            Err(item) => item,
        };
        // Full, or closed.
        let place = self.sender.reserve()?.into_place();
        let sent = shared.lock().send_and_look(place, item);
        sent.map_err(|unsent| {
            let reason = shared.lock().why_refused();
            drop(unsent);
            reason
        })
    }

    fn follow(&self, ticket: &Ticket, arrived: Arrived) -> CommitOutcome {
        let shared = &self.core.shared;
        let Arrived {
            mut step,
            bell,
            wakes,
        } = arrived;
        shared.wake(wakes);
        let mut alarm = None;
        loop {
            match step {
                Step::Lead => self.core.lead(),
                Step::Alarm(at) => alarm = Some(at),
                Step::Wait => {}
            }
            step = loop {
                let heard = shared.bells.listen(bell);
                if let Some(outcome) = ticket.try_outcome() {
                    if shared.bells.is_called(bell) {
                        shared.step(|state| ((), state.pass_on_call(bell)));
                    }
                    return outcome;
                }
                if shared.bells.is_called(bell) {
                    break self.core.look(false);
                }
                if alarm.is_some_and(has_passed) {
                    alarm = None;
                    break self.core.look(true);
                }
                shared.bells.wait(bell, heard, alarm);
            };
        }
    }

    /// What callers that must not block send through. The first call starts the crew.
    ///
    /// # Errors
    /// [`Error::Io`](walmend_types::Error::Io) if the system gives no thread,
    /// [`Error::Closed`](walmend_types::Error::Closed).
    pub fn sender(&self) -> Result<&Sender<P>> {
        #[cfg(not(walmend_loom))]
        self.start_crew()?;
        Ok(&self.sender)
    }

    #[cfg(not(walmend_loom))]
    fn start_crew(&self) -> Result<()> {
        self.threads.start_crew(|member| {
            let core = Arc::clone(&self.core);
            move || core.serve(member)
        })
    }

    /// Leads for those that do not themselves, until the pipeline is closed and empty. The crew's threads do
    /// nothing else; there is room for two, numbered 0 and 1.
    #[cfg(walmend_loom)]
    pub fn serve(&self, member: usize) {
        self.core.serve(member);
    }

    /// The counters, for any thread.
    pub fn totals(&self) -> Arc<SharedTotals> {
        Arc::clone(&self.core.common.totals)
    }

    /// The latch that ends all writing.
    pub fn poison(&self) -> &Poison {
        &self.core.common.poison
    }

    /// How many requests are reserved or sent and not yet taken.
    pub fn occupancy(&self) -> usize {
        self.sender.occupancy()
    }

    /// How many can be, at most.
    pub fn capacity(&self) -> usize {
        self.sender.capacity()
    }
}

impl<P, W: WalBatchWriter<P>, V> Pipeline<P, W, V> {
    /// Takes no more requests, and waits until everything that was sent is through its sync. Open permits lose their
    /// places. Called again, it waits as well. Dropping the pipeline closes it.
    ///
    /// On a thread that is at work for the pipeline (it can get here from a waker) nothing is waited for.
    pub fn close(&self) {
        self.core.shared.step(|state| ((), state.close()));
        #[cfg(not(walmend_loom))]
        if crate::threads::is_at_work() {
            return;
        }
        let waker = thread_waker();
        while !self.core.shared.lock().look_for_end(&waker) {
            park_until(None);
        }
        #[cfg(not(walmend_loom))]
        self.threads.join();
    }
}

impl<P, W: WalBatchWriter<P>, V> Drop for Pipeline<P, W, V> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<P, W: WalBatchWriter<P>, V> fmt::Debug for Pipeline<P, W, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("sender", &self.sender)
            .field("poison", &self.core.common.poison)
            .field("totals", &self.core.common.totals.snapshot())
            .finish_non_exhaustive()
    }
}

impl<P, W: WalBatchWriter<P>, V: WriteSetValidator> Core<P, W, V> {
    fn look(&self, overdue: bool) -> Step {
        self.shared.step(|state| state.look(overdue))
    }

    /// Leads one batch. Only for whoever was told to by a look.
    fn lead(&self) {
        let mut held = Held::Leadership;
        let Err(panic) = guarded("a leader", || self.lead_through(&mut held)) else {
            return;
        };
        // Its tickets were answered when they were dropped.
        self.shared.bells.ring_every_one();
        if held == Held::Nothing {
            tracing::error!(target: "walmend::commit::group", error = %panic, "a waker panicked");
            return;
        }
        self.common.end_all_writing(&panic, "the leader of a batch ends");
        self.shared
            .step(|state| ((), state.give_up(held == Held::Leadership)));
    }

    fn lead_through(&self, held: &mut Held) {
        #[cfg(not(walmend_loom))]
        let at_work = crate::threads::AtWork::begin();
        let mut front = self.front.lock();
        let taken = self.shared.lock().take_batch();
        let batch: Vec<Sent<P>> = taken
            .items
            .into_iter()
            .map(|(number, (request, resolver))| Sent::from_parts(number, request, resolver))
            .collect();
        self.shared.wake(taken.wakes);
        let mut flight = front.begin(batch, &self.common);
        let back = self.back.lock();
        front.clear_away(&mut flight, &self.common);
        drop(front);
        // From here on somebody else may lead.
        *held = Held::Sync;
        self.shared.step(|state| state.begin_sync());
        let started = Instant::now();
        let outcomes = flight.finish(&*back, &self.common);
        let sync = (flight.syncs() > 0).then(|| started.elapsed());
        *held = Held::Nothing;
        self.shared
            .step(|state| state.end_sync(outcomes.len(), sync, flight.validated_in));
        drop(back);
        // The next one is on its way: now the answers.
        flight.count(&outcomes, &self.common.totals);
        #[cfg(not(walmend_loom))]
        drop(at_work);
        self.shared.bells.ring(flight.answer(outcomes));
    }

    fn serve(&self, member: usize) {
        let waker = thread_waker();
        let mut alarm: Option<Instant> = None;
        loop {
            let overdue = alarm.is_some_and(has_passed);
            match self
                .shared
                .step(|state| state.look_as_crew(member, overdue, &waker))
            {
                None => return,
                Some(Step::Lead) => {
                    alarm = None;
                    self.lead();
                    continue;
                }
                Some(Step::Alarm(at)) => alarm = Some(at),
                Some(Step::Wait) if overdue => alarm = None,
                Some(Step::Wait) => {}
            }
            park_until(alarm);
        }
    }

    /// Sleeps while nothing happens; after something did, waits until nothing has happened for a while, and lets
    /// the log tidy up.
    #[cfg(not(walmend_loom))]
    fn tidy_up_when_idle(&self) {
        let waker = thread_waker();
        let mut seen = 0;
        loop {
            let Some(batches) = self.shared.lock().look_for_activity(seen, true, &waker) else {
                return;
            };
            if batches == seen {
                park_until(None);
                continue;
            }
            seen = batches;
            // Something happened: awake until a whole wait brings nothing more.
            loop {
                let until = Instant::now() + self.idle_wait;
                while !has_passed(until) {
                    if self
                        .shared
                        .lock()
                        .look_for_activity(seen, false, &waker)
                        .is_none()
                    {
                        return;
                    }
                    park_until(Some(until));
                }
                match self.shared.lock().look_for_activity(seen, false, &waker) {
                    Some(batches) if batches != seen => seen = batches,
                    _ => break,
                }
            }
            self.front.lock().tidy_up(&self.common);
        }
    }
}

/// What a leader holds, and has to give up should it panic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Leadership,
    Sync,
    Nothing,
}
