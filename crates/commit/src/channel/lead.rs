//! Who takes the next batch, in a channel whose senders do that themselves.
//!
//! There is one leadership, and whoever looks at the right moment takes it: a writer that has just sent its request,
//! one that was told to look, or a thread of the crew. It is held from the taking of a batch until that batch
//! is appended and its sync begins; so there are at most two batches on their way, one in its sync and one before.
//!
//! Nothing is forgotten, because every event after which a batch could be taken ends in [`State::signal`], which tells
//! one waiting writer, or one of the crew, to look: a request becomes the first of the row, leadership is given up, a
//! sync ends. Between them somebody's timed wait ends the waiting for company.

use super::bells::{Bells, Place as BellPlace};
use super::gather::Gather;
use super::state::{Item, Place, State, Wakes};
use std::task::Waker;
use std::time::{Duration, Instant};
use walmend_sync::has_passed;

/// Threads of the crew: one can append while the other one syncs.
pub(crate) const CREW: usize = 2;

/// What whoever looked is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Take a batch, and lead it.
    Lead,
    /// Look again when told to, or at this time.
    Alarm(Instant),
    /// Wait to be told.
    Wait,
}

enum Verdict {
    Take,
    /// Wait for company, for this long.
    Gather(Duration),
    /// A reservation that is not sent stands before what was sent, until this time.
    Blocked(Instant),
    /// Not now; an event will say when.
    NotNow,
}

#[derive(Debug)]
pub(crate) struct Leadership {
    leading: bool,
    /// Batches in their sync: one, but for a moment while a leader that panicked gives up.
    syncing: usize,
    /// Somebody's timed wait will end the waiting for company.
    alarmed: bool,
    batch_limit: usize,
    batch_bytes: usize,
    pub(crate) gather: Gather,
    crew: [Option<Waker>; CREW],
    /// One of the crew was told to look, and has not looked yet.
    crew_called: bool,
    /// Batches taken.
    batches: u64,
    /// Whoever tidies up, and whether it is asleep until the next batch.
    tidier: Option<Waker>,
    asleep: bool,
    /// Whoever waits for the end.
    leavers: Vec<Waker>,
}

impl Leadership {
    pub(crate) fn new(batch_limit: usize, batch_bytes: usize, gather: Gather) -> Self {
        Self {
            leading: false,
            syncing: 0,
            alarmed: false,
            batch_limit,
            batch_bytes,
            gather,
            crew: [const { None }; CREW],
            crew_called: false,
            batches: 0,
            tidier: None,
            asleep: false,
            leavers: Vec::new(),
        }
    }
}

/// A batch as it was taken, and whom to wake for it.
pub(crate) struct Taken<P> {
    pub(crate) items: Vec<(u64, Item<P>)>,
    pub(crate) wakes: Wakes,
}

/// What a writer is told that has sent its request.
pub(crate) struct Arrived {
    pub(crate) step: Step,
    /// Where it waits.
    pub(crate) bell: BellPlace,
    pub(crate) wakes: Wakes,
}

impl<P> State<P> {
    /// Reserves, sends and looks in one step, where there is a place.
    #[expect(clippy::result_large_err, reason = "it hands the request back")]
    pub(crate) fn arrive(&mut self, item: Item<P>) -> Result<Arrived, Item<P>> {
        if self.closed {
            return Err(item);
        }
        let Some(place) = self.take_slot() else {
            return Err(item);
        };
        self.send_and_look(place, item)
    }

    /// Sends into a slot that was reserved before, and looks.
    #[expect(clippy::result_large_err, reason = "it hands the request back")]
    pub(crate) fn send_and_look(&mut self, place: Place, mut item: Item<P>) -> Result<Arrived, Item<P>> {
        let bell = Bells::place(self.lead.as_ref().map_or(0, |lead| lead.batches));
        item.1.wait_at(bell);
        self.fill(place, item)?;
        if let Some(lead) = &mut self.lead {
            lead.gather.arrived();
        }
        let (step, wakes) = self.look(false);
        Ok(Arrived { step, bell, wakes })
    }

    /// Whether leadership is to be taken now, by whoever asks; then it is taken. `overdue` says that waiting for
    /// company has to end.
    pub(crate) fn look(&mut self, overdue: bool) -> (Step, Wakes) {
        // Whoever was called for this need not look any more.
        self.bells.call(None);
        let mut wakes = Wakes::default();
        let verdict = loop {
            match self.verdict() {
                Verdict::Blocked(at) if has_passed(at) => wakes.extend(self.revoke_first()),
                verdict => break verdict,
            }
        };
        let Some(lead) = &mut self.lead else {
            return (Step::Wait, wakes);
        };
        match verdict {
            Verdict::NotNow => return (Step::Wait, wakes),
            Verdict::Blocked(at) => return (Step::Alarm(at), wakes),
            Verdict::Gather(_) if overdue => lead.gather.gave_up(),
            Verdict::Gather(_) if lead.alarmed => return (Step::Wait, wakes),
            Verdict::Gather(patience) => {
                lead.alarmed = true;
                return (Step::Alarm(Instant::now() + patience), wakes);
            }
            Verdict::Take => {}
        }
        lead.leading = true;
        (Step::Lead, wakes)
    }

    fn verdict(&self) -> Verdict {
        let Some(lead) = self.lead.as_ref().filter(|lead| !lead.leading) else {
            return Verdict::NotNow;
        };
        let ready = self.occupancy() - self.reserved;
        if ready == 0 && !self.has_waiters() {
            return Verdict::NotNow;
        }
        if self.first_sent().is_none() {
            return self.first_due().map_or(Verdict::NotNow, Verdict::Blocked);
        }
        if ready >= lead.batch_limit {
            return Verdict::Take;
        }
        let expected = lead.gather.away() + self.reserved;
        match lead.gather.patience(ready) {
            // Those that are in the sync now will be worth waiting for.
            Some(_) if lead.syncing > 0 => Verdict::NotNow,
            Some(patience) if expected > 0 => Verdict::Gather(patience),
            None if lead.syncing > 0 && expected > 0 => Verdict::NotNow,
            _ => Verdict::Take,
        }
    }

    /// Takes the ready prefix of the row, up to the limits. Only for the leader.
    pub(crate) fn take_batch(&mut self) -> Taken<P> {
        let mut taken = Taken {
            items: Vec::with_capacity(self.occupancy() - self.reserved),
            wakes: Wakes::default(),
        };
        let Some(lead) = &mut self.lead else {
            return taken;
        };
        lead.alarmed = false;
        lead.batches += 1;
        if std::mem::take(&mut lead.asleep) {
            taken.wakes.add(lead.tidier.take());
        }
        let (limit, mut bytes) = (lead.batch_limit, lead.batch_bytes);
        while taken.items.len() < limit {
            let Some(size) = self.first_sent().map(|request| request.bytes) else {
                break;
            };
            // One request is taken however large it is.
            if size > bytes && !taken.items.is_empty() {
                break;
            }
            bytes = bytes.saturating_sub(size);
            let Some((number, item, wakes)) = self.pop() else {
                break;
            };
            taken.items.push((number, item));
            taken.wakes.extend(wakes);
        }
        taken
    }

    /// The leader's batch is appended, and its sync begins: leadership is free.
    pub(crate) fn begin_sync(&mut self) -> ((), Wakes) {
        if let Some(lead) = &mut self.lead {
            lead.leading = false;
            lead.syncing += 1;
        }
        ((), self.signal())
    }

    /// The sync of a batch has ended, well or not. Its writers are answered next.
    pub(crate) fn end_sync(
        &mut self,
        requests: usize,
        sync: Option<Duration>,
        validation: Duration,
    ) -> ((), Wakes) {
        if let Some(lead) = &mut self.lead {
            lead.syncing -= 1;
            lead.gather.answered(requests, sync, validation);
        }
        ((), self.signal())
    }

    /// Tells somebody to look, if there is something to see.
    pub(crate) fn signal(&mut self) -> Wakes {
        if self.is_drained() {
            let lead = self.lead.as_mut();
            return lead.map(Leadership::dismiss).unwrap_or_default();
        }
        let verdict = self.verdict();
        let Some(lead) = &mut self.lead else {
            return Wakes::default();
        };
        let nothing = match verdict {
            Verdict::NotNow => true,
            Verdict::Gather(_) => lead.alarmed || lead.crew_called,
            Verdict::Blocked(_) | Verdict::Take => lead.crew_called,
        };
        if nothing {
            return Wakes::default();
        }
        if let Some(crew) = lead.crew.iter_mut().find_map(Option::take) {
            lead.crew_called = true;
            return Wakes::of(Some(crew));
        }
        let writer = self.first_writer();
        self.bells.call(writer);
        Wakes::look_at(writer)
    }

    /// A writer leaves that may have been woken in order to look: somebody else is to.
    pub(crate) fn pass_on_call(&mut self, bell: BellPlace) -> Wakes {
        match self.bells.is_called(bell) {
            true => {
                self.bells.call(None);
                self.signal()
            }
            false => Wakes::default(),
        }
    }

    /// One look by a thread of the crew, which is told later if there is nothing to do now; `None` when nothing can
    /// come any more.
    pub(crate) fn look_as_crew(
        &mut self,
        member: usize,
        overdue: bool,
        waker: &Waker,
    ) -> (Option<Step>, Wakes) {
        let (step, wakes) = self.look(overdue);
        let drained = self.is_drained();
        let Some(lead) = self.lead.as_mut().filter(|_| !drained) else {
            return (None, wakes);
        };
        lead.crew_called = false;
        if step != Step::Lead {
            lead.crew[member] = Some(waker.clone());
        }
        (Some(step), wakes)
    }

    /// Everything that was sent is through its sync, and nothing can come any more.
    fn is_drained(&self) -> bool {
        let at_work = self
            .lead
            .as_ref()
            .is_some_and(|lead| lead.leading || lead.syncing > 0);
        self.closed && self.occupancy() == 0 && !at_work
    }

    /// Whether everything is done after closing; tells the waker later if not.
    pub(crate) fn look_for_end(&mut self, waker: &Waker) -> bool {
        let drained = self.is_drained();
        if let Some(lead) = self.lead.as_mut().filter(|_| !drained) {
            lead.leavers.push(waker.clone());
        }
        drained
    }

    /// How many batches were taken, for whoever tidies up; `None` when there will be no more. The waker is told of
    /// the end, and if `asleep` of the next batch after `seen` as well.
    #[cfg(not(walmend_loom))]
    pub(crate) fn look_for_activity(&mut self, seen: u64, asleep: bool, waker: &Waker) -> Option<u64> {
        if self.is_drained() {
            return None;
        }
        let lead = self.lead.as_mut()?;
        lead.tidier = Some(waker.clone());
        lead.asleep = asleep && lead.batches == seen;
        Some(lead.batches)
    }

    /// A leader that panicked gives up leadership, or else its turn in the sync.
    pub(crate) fn give_up(&mut self, leadership: bool) -> Wakes {
        if let Some(lead) = &mut self.lead {
            match leadership {
                true => lead.leading = false,
                false => lead.syncing -= 1,
            }
        }
        self.signal()
    }
}

impl Leadership {
    /// Wakes everybody who waits for the end.
    fn dismiss(&mut self) -> Wakes {
        let crew = self.crew.iter_mut().filter_map(Option::take);
        let mut wakes = Wakes::default();
        for waker in crew.chain(self.leavers.drain(..)).chain(self.tidier.take()) {
            wakes.add(Some(waker));
        }
        wakes
    }
}

#[cfg(all(test, not(walmend_loom)))]
mod tests {
    use super::super::state::Shared;
    use super::*;
    use crate::ticket::ticket;
    use walmend_types::{CommitRequest, CommitSeq, TxnId, WriteSet};

    fn arrive(state: &mut State<()>) -> (Step, BellPlace) {
        let request = CommitRequest::new(TxnId(1), CommitSeq(0), WriteSet::default(), ());
        let (_ticket, resolver) = ticket(0);
        let arrived = state.arrive((request, resolver)).ok().unwrap();
        (arrived.step, arrived.bell)
    }

    /// The ring that calls one waiter of a bell may wake one that has its answer by then.
    #[test]
    fn a_call_that_reaches_a_writer_with_its_answer_is_passed_on() {
        let lead = Leadership::new(2, usize::MAX, Gather::new(false, 4));
        let shared = Shared::<()>::new(4, None, Some(lead));
        let mut state = shared.lock();
        // Three wait at one bell, two are taken.
        let bells: Vec<_> = (0..3).map(|_| arrive(&mut state)).collect();
        let bell = bells[0].1;
        assert_eq!(
            bells,
            [(Step::Lead, bell), (Step::Wait, bell), (Step::Wait, bell)]
        );
        let taken = state.take_batch();
        assert_eq!(taken.items.len(), 2);
        let ((), called) = state.begin_sync();
        assert_eq!(called.look, Some(bell));
        assert!(shared.bells.is_called(bell));
        // It woke one of the two, which leaves.
        assert_eq!(state.pass_on_call(bell).look, Some(bell));
        assert!(shared.bells.is_called(bell));
        // The third one looks, and nobody is called any more.
        assert_eq!(state.look(false).0, Step::Lead);
        assert!(!shared.bells.is_called(bell));
        assert_eq!(state.pass_on_call(bell).look, None);
    }
}
