//! Models of the bell. Each one is named after what must hold, and says which race it hunts.
//!
//! `RUSTFLAGS="--cfg walmend_loom" cargo test -p walmend-sync --release --test loom`
//!
//! What the models run is the word and its protocol; the mutex and the condition variable stand in for the kernel's
//! futex queue, which compares and queues in one step as they do.
//!
//! Planted one at a time, to see that the models can fail, each of these bugs stopped the model named:
//! a ring for one that forgets the others who sleep: `whom_a_ring_for_one_leaves_asleep_the_next_ring_wakes`;
//! sleeping although the bell was rung since listening: all three;
//! listening with Relaxed instead of Acquire: all three.
#![cfg(walmend_loom)]

use std::sync::Arc;
use walmend_sync::atomic::{AtomicU32, Ordering};
use walmend_sync::{Bell, model, thread};

fn explore(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

struct Door {
    bell: Bell,
    news: AtomicU32,
}

impl Door {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            bell: Bell::new(),
            news: AtomicU32::new(0),
        })
    }

    /// Waits until there are so many news.
    fn wait_for(&self, count: u32) {
        loop {
            let heard = self.bell.listen();
            if self.news.load(Ordering::Relaxed) >= count {
                return;
            }
            self.bell.wait(heard, None);
        }
    }

    fn waiting(self: &Arc<Self>, count: u32) -> thread::JoinHandle<()> {
        let door = Arc::clone(self);
        thread::spawn(move || door.wait_for(count))
    }

    fn tell(&self) {
        self.news.fetch_add(1, Ordering::Relaxed);
    }
}

/// Race: the ring comes before somebody listens, between listening and sleeping, or while one sleeps and the other one
/// is about to.
#[test]
fn a_ring_for_all_leaves_nobody_asleep() {
    explore(|| {
        let door = Door::new();
        let waiting = [1, 1].map(|count| door.waiting(count));
        door.tell();
        door.bell.ring_all();
        waiting.into_iter().for_each(|waiting| waiting.join().unwrap());
    });
}

/// Race: a ring for one comes while two sleep or are about to; the one that it leaves asleep must still be known to be
/// when the next ring comes.
#[test]
fn whom_a_ring_for_one_leaves_asleep_the_next_ring_wakes() {
    explore(|| {
        let door = Door::new();
        let waiting = [1, 1].map(|count| door.waiting(count));
        door.tell();
        door.bell.ring_one();
        door.bell.ring_one();
        waiting.into_iter().for_each(|waiting| waiting.join().unwrap());
    });
}

/// Race: somebody is woken by one ring and goes to sleep again while the next one is rung.
#[test]
fn the_second_ring_wakes_who_slept_again_after_the_first() {
    explore(|| {
        let door = Door::new();
        let waiting = door.waiting(2);
        for _ in 0..2 {
            door.tell();
            door.bell.ring_all();
        }
        waiting.join().unwrap();
    });
}
