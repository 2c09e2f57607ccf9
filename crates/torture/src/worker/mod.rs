//! The process that is tortured: stores in a folder, and everything that a store can be asked for, all at once.

mod others;
mod squeeze;
mod writers;

use crate::content::Layout;
use crate::protocol::{Line, Pairs, StoreTask, Task};
use std::io::{BufRead, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use walmend::{Error, LogIo, OnDamage, Options, OutcomeToken, PageNumber, PageSize, Pages, Store};
use walmend_proof::Random;
use walmend_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use walmend_sync::{Mutex, thread};

/// How long opening goes on trying while somebody else has the database.
const OPEN_FOR: Duration = Duration::from_secs(20);
/// A part that does nothing for so long, in time in which this process ran, hangs.
const STUCK: Duration = Duration::from_secs(150);
/// By then what is committed is repairable.
const REPAIR_WAIT: Duration = Duration::from_secs(60);

/// How parts of the worker speak, and hear that it ends.
pub(crate) struct Bench {
    pub(crate) task: Task,
    /// What is heard is in the order in which it was said, and numbers are given out under this.
    next_txn: Mutex<Vec<u64>>,
    stop: AtomicBool,
    /// Writing to a store has ended after a failure.
    broken: AtomicBool,
    /// By store: transactions of which it does not know whether they are committed.
    pub(crate) tokens: Vec<Mutex<Vec<(u64, OutcomeToken)>>>,
    parts: Mutex<Vec<Part>>,
    pub(crate) samples: [AtomicU64; 6],
}

/// A part of the worker counts its steps here, for as long as this lives.
pub(crate) struct Steps(Arc<AtomicU64>);

/// The count of a part that has ended.
const ENDED: u64 = u64::MAX;

impl Steps {
    pub(crate) fn next(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.0.store(ENDED, Ordering::Relaxed);
    }
}

/// Something that has to make progress.
struct Part {
    name: String,
    steps: Arc<AtomicU64>,
    /// Its last count, and for how long it has been that.
    last: (u64, Duration),
}

/// One open store, with what is needed to work on it.
#[derive(Clone)]
pub(crate) struct Place<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) number: usize,
    pub(crate) task: &'a StoreTask,
    pub(crate) layout: &'a Layout,
    pub(crate) store: Store,
    /// The newest commit of each cell, and its transaction, in a soak.
    pub(crate) newest: &'a [Mutex<(u64, u64)>],
}

/// The whole life of a worker: reads its task from standard input, reports on standard output.
pub(crate) fn live() -> Result<(), String> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| error.to_string())?;
    let task: Task = serde_json::from_str(&line).map_err(|error| error.to_string())?;
    let next_txn = task.stores.iter().map(|store| store.next_txn).collect();
    let tokens = task.stores.iter().map(|_| Mutex::new(Vec::new())).collect();
    let bench = Bench {
        task,
        next_txn: Mutex::new(next_txn),
        stop: AtomicBool::new(false),
        broken: AtomicBool::new(false),
        tokens,
        parts: Mutex::new(Vec::new()),
        samples: Default::default(),
    };
    let bench: &'static Bench = Box::leak(Box::new(bench));
    // Before anything is counted that could leak.
    thread::spawn(|| listen(bench));
    thread::spawn(|| watch(bench));
    if let Some(squeeze) = bench.task.squeeze {
        thread::spawn(move || squeeze::run(bench, squeeze));
    }
    let layouts = bench.task.stores.iter().map(StoreTask::layout);
    let layouts: Vec<Layout> = layouts.collect::<Result<_, _>>()?;
    thread::sleep(Duration::from_millis(1));
    let before = others::census();
    for _ in 0..bench.task.cycles {
        bench.once(&layouts, true)?;
        others::check_census(bench, &before);
    }
    while bench.once(&layouts, bench.task.look_only)? {}
    others::check_census(bench, &before);
    bench.say(&Line::Done);
    Ok(())
}

/// The second line asks for an end; the end of the input means that the parent is gone.
fn listen(bench: &Bench) {
    let mut line = String::new();
    if std::io::stdin()
        .lock()
        .read_line(&mut line)
        .is_ok_and(|read| read > 0)
    {
        bench.stop.store(true, Ordering::Relaxed);
        let mut rest = Vec::new();
        // Nothing more is sent, so this returns at the end only.
        let _ = std::io::stdin().lock().read_to_end(&mut rest);
    }
    std::process::exit(2);
}

/// Looks for parts that make no progress. It counts only time in which it is itself let run, so that a process that was
/// stopped for a while does not count as one that hangs.
fn watch(bench: &Bench) {
    let beat = Duration::from_millis(200);
    loop {
        let begun = Instant::now();
        thread::sleep(beat);
        let ran = begun.elapsed().min(beat * 2);
        for part in bench.parts.lock().iter_mut() {
            let steps = part.steps.load(Ordering::Relaxed);
            if steps != part.last.0 || steps == ENDED {
                part.last = (steps, Duration::ZERO);
                continue;
            }
            part.last.1 += ran;
            if part.last.1 > STUCK {
                bench.say(&Line::Stuck(part.name.clone()));
                part.last.1 = Duration::ZERO;
            }
        }
    }
}

impl Bench {
    /// Tells the parent, in one call.
    pub(crate) fn say(&self, line: &Line) {
        let text = format!("{line}\n");
        let mut out = std::io::stdout().lock();
        // Without a parent there is nobody left to work for.
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            std::process::exit(2);
        }
    }

    /// Whether the work on the stores has to end.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.broken.load(Ordering::Relaxed)
    }

    /// Ends the work on all stores, so that they are opened anew.
    pub(crate) fn start_over(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Registers a part that has to make progress; it counts its steps.
    pub(crate) fn part(&self, name: impl Into<String>) -> Steps {
        let steps = Arc::new(AtomicU64::new(0));
        self.parts.lock().push(Part {
            name: name.into(),
            steps: Arc::clone(&steps),
            last: (0, Duration::ZERO),
        });
        Steps(steps)
    }

    /// Sleeps, and returns early at the end.
    pub(crate) fn rest(&self, time: Duration) {
        let step = Duration::from_millis(20);
        let mut left = time;
        while !left.is_zero() && !self.stopped() {
            thread::sleep(left.min(step));
            left = left.saturating_sub(step);
        }
    }

    pub(crate) fn fault(&self, store: usize, what: &str, error: &Error) {
        self.say(&Line::Fault {
            store,
            what: what.into(),
            kind: error.kind().to_string(),
            text: error.to_string(),
        });
    }

    /// Gives the next transaction of a store its number, and says what it is going to do.
    pub(crate) fn begin(&self, store: usize, snapshot: u64, cells: &[u32], reads: &[(u32, u64)]) -> u64 {
        let mut next = self.next_txn.lock();
        let txn = next[store];
        next[store] += 1;
        if !self.task.soak {
            self.say(&Line::Begin {
                store,
                txn,
                snapshot,
                cells: cells.to_vec(),
                reads: reads.to_vec(),
            });
        }
        txn
    }

    fn options(&self, store: &StoreTask) -> Options {
        let page_size = PageSize::new(store.page_size).unwrap_or_default();
        let mut options = Options::new()
            .page_size(page_size)
            .checkpoint_at(self.task.checkpoint_at)
            .log_limit(self.task.log_limit)
            .preallocate(self.task.preallocate)
            .scrub(64 << 20, Duration::from_millis(200))
            .checkpoint_wait(Duration::from_millis(200))
            .log_io(match self.task.direct {
                None => LogIo::Auto,
                Some(true) => LogIo::Direct,
                Some(false) => LogIo::Buffered,
            });
        if store.template.is_none() {
            options = options.pages(Pages::Raw);
        }
        if self.task.salvage {
            options = options.on_damage(OnDamage::Salvage);
        }
        options
    }

    /// Opens a store; tries again while somebody else has it.
    fn open(&self, number: usize, store: &StoreTask) -> Result<Store, String> {
        let begun = Instant::now();
        let mut protect = true;
        loop {
            match Store::open(&store.path, self.options(store).protect_database(protect)) {
                Ok((opened, report)) => {
                    self.say(&Line::Open {
                        store: number,
                        at: crate::clock::now(),
                        seq: report.commit_seq.0,
                        healed: report.healed_frames.len() as u64,
                        dropped: report.recovery.dropped_frames.into(),
                        lost: report.recovery.lost_commits.into(),
                        cut: matches!(report.recovery.decision.as_str(), "salvaged" | "truncated"),
                    });
                    return Ok(opened);
                }
                Err(error) => {
                    // Without room for parity a store that asks for it is refused: then it goes without.
                    let no_room = protect && matches!(error, Error::Full { .. });
                    protect &= !no_room;
                    let again = error.is_transient() || self.task.squeeze.is_some();
                    if !matches!(error, Error::Locked { .. }) {
                        self.fault(number, "open", &error);
                    }
                    if !no_room && (!again || begun.elapsed() > OPEN_FOR || self.stopped()) {
                        return Err(format!("{} cannot be opened: {error}", store.path.display()));
                    }
                    thread::sleep(Duration::from_millis(3));
                }
            }
        }
    }

    /// Opens all stores, says what is there, works on them unless told to look only, and closes them. Answers whether to
    /// do that once more: writing has ended after a failure, and reopening is what clears it.
    fn once(&self, layouts: &[Layout], look_only: bool) -> Result<bool, String> {
        self.say(&Line::Opening);
        let opening = self.part("opening");
        let newest: Vec<Vec<Mutex<(u64, u64)>>> = layouts
            .iter()
            .map(|layout| (0..layout.len()).map(|_| Mutex::new((0, 0))).collect())
            .collect();
        let mut places = Vec::new();
        for (number, task) in self.task.stores.iter().enumerate() {
            opening.next();
            let store = self.open(number, task)?;
            let place = Place {
                bench: self,
                number,
                task,
                layout: &layouts[number],
                store,
                newest: &newest[number],
            };
            place.state()?;
            places.push(place);
        }
        self.parts.lock().clear();
        if !look_only {
            self.work(&places);
        }
        self.parts.lock().clear();
        let closing = self.part("closing");
        for place in places {
            closing.next();
            place.end();
        }
        self.parts.lock().clear();
        let again = self.broken.swap(false, Ordering::Relaxed);
        Ok(again && !look_only && !self.stopped())
    }

    fn work(&self, places: &[Place<'_>]) {
        thread::scope(|scope| {
            for place in places {
                let mut random = Random(self.task.seed ^ (place.number as u64) << 40);
                let mut seed = || random.next();
                for number in 0..self.task.writers {
                    let seed = seed();
                    scope.spawn(move || writers::sync(place, number, seed));
                }
                for number in 0..self.task.serializable_writers {
                    let seed = seed();
                    scope.spawn(move || writers::serializable(place, number, seed));
                }
                if self.task.async_writers > 0 {
                    let seed = seed();
                    scope.spawn(move || writers::tasks(place, self.task.async_writers, seed));
                }
                for number in 0..self.task.readers {
                    let seed = seed();
                    scope.spawn(move || others::read(place, number, seed));
                }
                let seed = seed();
                scope.spawn(move || others::checkpoint(place, seed));
                if self.task.backup {
                    scope.spawn(move || others::back_up(place, seed.rotate_left(7)));
                }
            }
            if self.task.soak {
                scope.spawn(move || others::sample(self, places));
            }
        });
    }
}

impl Place<'_> {
    pub(crate) fn page(&self, cell: u32) -> PageNumber {
        PageNumber::new(self.layout.page(cell)).unwrap_or(PageNumber::ONE)
    }

    pub(crate) fn wrong(&self, text: String) {
        self.bench
            .say(&Line::Wrong(format!("store {}: {text}", self.number)));
    }

    /// The path of its backups.
    pub(crate) fn copy(&self) -> PathBuf {
        crate::files::with(&self.task.path, "-copy")
    }

    /// Says what every cell holds.
    fn state(&self) -> Result<(), String> {
        let snapshot = self.store.snapshot().map_err(|error| error.to_string())?;
        let mut cells = Pairs::new();
        for cell in 0..self.layout.len() {
            let txn = others::cell(self, &snapshot, cell)?;
            cells.push((cell, txn));
            if self.bench.task.soak {
                *self.newest[cell as usize].lock() = (0, txn);
            }
            if cells.len() == 150 || cell + 1 == self.layout.len() {
                self.bench.say(&Line::State {
                    store: self.number,
                    cells: std::mem::take(&mut cells),
                });
            }
        }
        self.bench.say(&Line::Stated { store: self.number });
        for (txn, token) in std::mem::take(&mut *self.bench.tokens[self.number].lock()) {
            if let Some(there) = self.store.outcome(token) {
                self.bench.say(&Line::Token {
                    store: self.number,
                    txn,
                    there,
                });
            }
        }
        Ok(())
    }

    /// Closes the store in good order.
    fn end(self) {
        if self.store.stats().poisoned.is_none()
            && let Err(error) = self.store.wait_for_repair(REPAIR_WAIT)
        {
            self.bench.fault(self.number, "repair", &error);
        }
        if self.bench.task.soak {
            others::compare(&self);
        }
        if let Err(error) = self.store.close() {
            self.bench.fault(self.number, "close", &error);
        }
    }
}
