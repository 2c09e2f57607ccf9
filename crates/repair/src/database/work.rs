//! How a walk over a database is done: on how many threads, how fast, and until when.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};
use walmend_sync::atomic::{AtomicU64, Ordering};
use walmend_types::{Cx, Result};
use walmend_vfs::VfsFile;

/// How long a walk that is held back sleeps at most before it looks whether it was cancelled.
const NAP: Duration = Duration::from_millis(50);

/// How a database is to be walked over. Each thread needs memory for a window of 32 MiB and its parity.
pub struct Work<'a> {
    cx: &'a Cx,
    threads: usize,
    rate: Option<u64>,
    from_device: bool,
    progress: &'a (dyn Fn(u64) + Sync),
    started: Instant,
    read: AtomicU64,
}

impl fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("threads", &self.threads)
            .field("rate", &self.rate)
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

impl<'a> Work<'a> {
    /// On one thread and as fast as it goes, until `cx` is cancelled.
    pub fn new(cx: &'a Cx) -> Self {
        Self {
            cx,
            threads: 1,
            rate: None,
            from_device: false,
            progress: &|_| {},
            started: Instant::now(),
            read: AtomicU64::new(0),
        }
    }

    /// How many threads share the work, at least 1.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// How many bytes of the database are read in a second, at most; `None` for no limit. At least 1.
    #[must_use]
    pub fn rate(mut self, bytes_per_second: Option<u64>) -> Self {
        self.rate = bytes_per_second.map(|rate| rate.max(1));
        self
    }

    /// The database is read from the device and not from the page cache, where what rotted on the disk may still be right.
    /// Where the file system cannot do that, the cached pages are dropped first, as far as it lets them go.
    #[must_use]
    pub fn from_device(mut self, from_device: bool) -> Self {
        self.from_device = from_device;
        self
    }

    /// Called with the bytes of the database that are read so far, from any of the threads, after every
    /// mebibyte. What it does delays the walk.
    #[must_use]
    pub fn progress(mut self, progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        self.progress = progress;
        self
    }

    /// Reads the database, from where that is wanted.
    ///
    /// # Errors
    /// I/O errors.
    pub(crate) fn read(&self, db: &dyn VfsFile, piece: &mut [u8], at: u64) -> Result<usize> {
        if self.from_device {
            return Ok(db.read_from_device(piece, at)?.bytes);
        }
        db.read_at(piece, at)
    }

    pub(crate) fn thread_count(&self) -> usize {
        self.threads
    }

    /// So many bytes more were read (or need not be). Sleeps as the rate wants it.
    ///
    /// # Errors
    /// [`Error::Cancelled`](walmend_types::Error::Cancelled) and
    /// [`Error::DeadlineExceeded`](walmend_types::Error::DeadlineExceeded) from the `Cx`.
    pub(crate) fn done(&self, bytes: u64) -> Result<()> {
        let read = self.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.progress)(read);
        self.cx.check()?;
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let due = self.started + Duration::from_secs_f64(read as f64 / rate as f64);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            pause(left.min(NAP));
            self.cx.check()?;
        }
    }

    /// Runs `job` for each of these windows, in their order as far as threads have one, and answers the results in
    /// that order. Each thread has a `T` of its own to work with. After an error no further window is begun.
    pub(crate) fn each_window<T: Default, R: Send>(
        &self,
        windows: Range<u32>,
        job: impl Fn(u32, &mut T) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        share(self.threads, windows, job)
    }
}

#[cfg(not(walmend_loom))]
fn share<T: Default, R: Send>(
    threads: usize,
    windows: Range<u32>,
    job: impl Fn(u32, &mut T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    use walmend_sync::{Mutex, thread};
    let threads = threads.min(windows.len());
    if threads <= 1 {
        let mut own = T::default();
        return windows.map(|window| job(window, &mut own)).collect();
    }
    let left = Mutex::new(windows);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = T::default();
                loop {
                    let Some(window) = left.lock().next() else {
                        return;
                    };
                    let result = job(window, &mut own);
                    if result.is_err() {
                        *left.lock() = 0..0;
                    }
                    results.lock().push((window, result));
                }
            });
        }
    });
    let mut results = std::mem::take(&mut *results.lock());
    results.sort_by_key(|(window, _)| *window);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Under loom there are no scoped threads.
#[cfg(walmend_loom)]
fn share<T: Default, R: Send>(
    _threads: usize,
    windows: Range<u32>,
    job: impl Fn(u32, &mut T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let mut own = T::default();
    windows.map(|window| job(window, &mut own)).collect()
}

#[cfg(not(walmend_loom))]
pub(crate) fn pause(time: Duration) {
    walmend_sync::thread::sleep(time);
}

/// loom has no time.
#[cfg(walmend_loom)]
pub(crate) fn pause(_time: Duration) {
    walmend_sync::thread::yield_now();
}
