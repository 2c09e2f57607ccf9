//! What the criterion benches share; run them with `cargo xtask bench`.
//!
//! The numbers say how one version compares with another on the same machine, not what a disk can do: the log
//! is one in memory. For commits on a real disk, beside its raw limit, see `walmend bench`.

use std::time::{Duration, Instant};
use walmend_commit::{CommitRequest, CommitSeq, PageNumber, Result, TxnId, WriteSet};
use walmend_sync::{Condvar, Mutex, thread};

/// A request of transaction `txn` to write `page`, with nothing to log.
///
/// # Errors
/// [`OutOfRange`](walmend_commit::Error::OutOfRange) if `page` is 0.
pub fn request(txn: u64, snapshot: CommitSeq, page: u32) -> Result<CommitRequest<()>> {
    let writes = WriteSet::new([PageNumber::new(page)?]);
    Ok(CommitRequest::new(TxnId(txn), snapshot, writes, ()))
}

/// How many of `total` are up to the thread with this number, from 0, so that all of them together do `total`.
pub fn share_of(total: u64, threads: usize, number: usize) -> u64 {
    let (threads, number) = (threads as u64, number as u64);
    total / threads + u64::from(number < total % threads)
}

/// Runs `work(0..threads)` on as many threads, and answers how long that took from the moment when all of
/// them were ready until the last one was done. Starting the threads is not in it.
///
/// # Panics
/// If a thread panics.
pub fn timed_threads(threads: usize, work: impl Fn(usize) + Sync) -> Duration {
    let gate = Gate::default();
    let (gate, work) = (&gate, &work);
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|number| {
                scope.spawn(move || {
                    gate.pass();
                    work(number);
                })
            })
            .collect();
        let started = gate.open_for(threads);
        for thread in running {
            thread.join().expect("the measured work does not panic");
        }
        started.elapsed()
    })
}

/// The number behind an argument of this program, where it was given.
pub fn option(name: &str) -> Option<u64> {
    let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
    args.next().and_then(|value| value.parse().ok())
}

/// Bytes of memory that this process has; 0 where the system does not say.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Holds threads back until all of them are there.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    waiting: usize,
    open: bool,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock();
        state.waiting += 1;
        self.changed.notify_all();
        while !state.open {
            state = self.changed.wait(state);
        }
    }

    fn open_for(&self, threads: usize) -> Instant {
        let mut state = self.state.lock();
        while state.waiting < threads {
            state = self.changed.wait(state);
        }
        state.open = true;
        self.changed.notify_all();
        Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for total in 0..20 {
            let sum: u64 = (0..8).map(|number| share_of(total, 8, number)).sum();
            assert_eq!(sum, total);
        }
    }

    #[test]
    fn every_thread_does_its_own_work_once() {
        let done = Mutex::new(Vec::new());
        timed_threads(8, |number| done.lock().push(number));
        let mut done = done.into_inner();
        done.sort_unstable();
        assert_eq!(done, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
