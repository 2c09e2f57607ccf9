//! Writers that commit back to back while a clock runs. `cargo xtask peers` measures with the same code.

use hdrhistogram::Histogram;
use std::time::{Duration, Instant};
use walmend_error::{Error, Result};
use walmend_sync::thread;

/// How long writers commit before their commits count: until all of them have been started.
const RAMP: Duration = Duration::from_millis(10);
const RAMP_PER_WRITER: Duration = Duration::from_micros(50);

/// What counts: commits that end between two moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    begin: Instant,
    end: Instant,
}

impl Window {
    /// The next `length`, after the time that it takes to start so many writers.
    pub(crate) fn next(writers: usize, length: Duration) -> Self {
        let ramp = RAMP + RAMP_PER_WRITER * u32::try_from(writers).unwrap_or(u32::MAX);
        let begin = Instant::now() + ramp;
        let end = begin + length;
        Self { begin, end }
    }
}

/// What one writer did within a window.
#[derive(Debug)]
pub(crate) struct Tally {
    window: Window,
    commits: u64,
    latencies: Histogram<u32>,
}

impl Tally {
    /// Nothing yet.
    ///
    /// # Errors
    /// [`Error::Internal`] if there can be no histogram.
    pub(crate) fn new(window: Window) -> Result<Self> {
        let latencies = new_histogram()?;
        Ok(Self {
            window,
            commits: 0,
            latencies,
        })
    }

    /// Takes note of one commit; answers whether there is time for another one.
    pub(crate) fn note(&mut self, started: Instant, done: Instant) -> bool {
        if done >= self.window.end {
            return false;
        }
        if done >= self.window.begin {
            self.commits += 1;
            let nanos = (done - started).as_nanos();
            self.latencies
                .saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
        true
    }
}

/// What all writers did over several windows.
#[derive(Debug)]
pub(crate) struct Totals {
    /// Commits per second, for each window.
    rates: Vec<f64>,
    /// Commits of each writer.
    per_writer: Vec<u64>,
    latencies: Histogram<u32>,
}

impl Totals {
    /// Nothing yet, for so many writers.
    ///
    /// # Errors
    /// [`Error::Internal`] if there can be no histogram.
    pub(crate) fn new(writers: usize) -> Result<Self> {
        Ok(Self {
            rates: Vec::new(),
            per_writer: vec![0; writers],
            latencies: new_histogram()?,
        })
    }

    /// Adds what the writers did in one window, in their order.
    ///
    /// # Errors
    /// [`Error::Internal`] if the latencies cannot be added up.
    pub(crate) fn add(&mut self, tallies: &[Tally]) -> Result<()> {
        let commits: u64 = tallies.iter().map(|tally| tally.commits).sum();
        let length = tallies.first().map(|tally| tally.window.end - tally.window.begin);
        self.rates
            .push(commits as f64 / length.unwrap_or_default().as_secs_f64());
        for (sum, tally) in self.per_writer.iter_mut().zip(tallies) {
            *sum += tally.commits;
            self.latencies
                .add(&tally.latencies)
                .map_err(|error| histogram_error(&error))?;
        }
        Ok(())
    }

    /// The median over the windows, in commits per second; their mean, if most of them were too short for a
    /// single commit.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no window saw a commit.
    pub(crate) fn rate(&self) -> Result<f64> {
        let mean = self.rates.iter().sum::<f64>() / self.rates.len().max(1) as f64;
        match median(&self.rates) {
            rate if rate > 0.0 => Ok(rate),
            _ if mean > 0.0 => Ok(mean),
            _ => Err(Error::Invalid(
                "not one commit ended in time: measure for longer".into(),
            )),
        }
    }

    /// The latency that this share of the commits does not exceed, in microseconds.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        self.latencies.value_at_quantile(share) as f64 / 1000.0
    }

    /// Commits of the writer with the fewest, over those of the writer with the most.
    pub(crate) fn least_over_most(&self) -> f64 {
        let least = self.per_writer.iter().min().copied().unwrap_or(0);
        let most = self.per_writer.iter().max().copied().unwrap_or(0);
        least as f64 / most.max(1) as f64
    }
}

/// Runs every writer on a thread of its own, again and again until the window is over.
///
/// # Errors
/// The first error of a writer.
pub(crate) fn on_threads<W: FnMut() -> Result<()> + Send>(
    writers: &mut [W],
    length: Duration,
) -> Result<Vec<Tally>> {
    let window = Window::next(writers.len(), length);
    thread::scope(|scope| {
        let running: Vec<_> = writers
            .iter_mut()
            .map(|writer| {
                scope.spawn(move || {
                    let mut tally = Tally::new(window)?;
                    loop {
                        let started = Instant::now();
                        writer()?;
                        if !tally.note(started, Instant::now()) {
                            return Ok(tally);
                        }
                    }
                })
            })
            .collect();
        let joined = running.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| Error::Internal("a writer has panicked".into()))?
        });
        joined.collect()
    })
}

/// The middle one, or the mean of the two in the middle; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// From 100 ns to a minute, in nanoseconds, to three digits.
fn new_histogram() -> Result<Histogram<u32>> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).map_err(|error| histogram_error(&error))
}

fn histogram_error(error: &dyn std::error::Error) -> Error {
    Error::Internal(format!("latencies cannot be counted: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn only_commits_that_end_within_the_window_count() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let window = Window {
            begin: at(10),
            end: at(20),
        };
        let mut tally = Tally::new(window).unwrap();
        assert!(tally.note(at(1), at(2)), "before it");
        assert!(tally.note(at(9), at(11)), "into it");
        assert!(tally.note(at(11), at(14)), "within");
        assert!(!tally.note(at(19), at(20)), "out of it");
        let mut totals = Totals::new(1).unwrap();
        totals.add(&[tally]).unwrap();
        assert_eq!(totals.per_writer, [2]);
        assert_eq!(totals.rate().unwrap(), 200.0);
        let close = |us: f64, to: f64| (us / to - 1.0).abs() < 0.002;
        assert!(close(totals.quantile_us(0.5), 2000.0));
        assert!(close(totals.quantile_us(1.0), 3000.0));
    }

    #[test]
    fn every_writer_runs_and_the_first_error_is_told() {
        let mut counts = [0_u64; 3];
        let mut writers: Vec<_> = counts
            .iter_mut()
            .map(|count| {
                move || {
                    *count += 1;
                    Ok(())
                }
            })
            .collect();
        let tallies = on_threads(&mut writers, Duration::from_millis(5)).unwrap();
        drop(writers);
        assert_eq!(tallies.len(), 3);
        for (count, tally) in counts.iter().zip(&tallies) {
            assert!(*count > 0 && tally.commits <= *count);
        }
        let mut failing = [|| Err(Error::Invalid("no".into()))];
        assert!(on_threads(&mut failing, Duration::from_millis(5)).is_err());
    }
}
