//! How much of the machine others used while we measured: with a compiler on every core, a writer waits for a
//! processor and not for the disk.

use std::path::Path;
use std::time::Instant;
use walmend_error::{Error, Result};

/// The kernel counts processor time in hundredths of a second (`USER_HZ`), on every architecture of ours.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time that was used up to a moment.
pub(crate) struct Load {
    at: Instant,
    everybody: u64,
    own: u64,
}

impl Load {
    /// Up to now.
    ///
    /// # Errors
    /// I/O errors, [`Error::Internal`] where `/proc` says something else than expected.
    pub(crate) fn now() -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            everybody: busy(&read("/proc/stat")?).ok_or_else(|| strange("/proc/stat"))?,
            own: own(&read("/proc/self/stat")?).ok_or_else(|| strange("/proc/self/stat"))?,
        })
    }

    /// The share of all processors that others have used since.
    ///
    /// # Errors
    /// As [`now`](Self::now).
    pub(crate) fn share_of_others_since(&self) -> Result<f64> {
        let now = Self::now()?;
        let cores = walmend_sync::thread::available_parallelism().map_or(1, usize::from);
        let there_was = (now.at - self.at).as_secs_f64() * TICKS_PER_SECOND * cores as f64;
        let others = (now.everybody - self.everybody).saturating_sub(now.own - self.own);
        Ok(others as f64 / there_was.max(1.0))
    }
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::io("read", Path::new(path), None, error))
}

fn strange(path: &str) -> Error {
    Error::Internal(format!("{path} does not look as proc(5) says"))
}

/// Ticks of user, nice, system and steal: idle and interrupts, which are ours as likely as not, do not count.
fn busy(stat: &str) -> Option<u64> {
    let cpu = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = cpu
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    [0, 1, 2, 7].iter().map(|place| ticks.get(*place)).sum()
}

/// Ticks of user and system of all threads of a process. The name before them may hold blanks and brackets.
fn own(stat: &str) -> Option<u64> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    let user: u64 = words.nth(11)?.parse().ok()?;
    let system: u64 = words.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_where_proc_has_them() {
        assert_eq!(
            busy("cpu  1 20 300 4000 50000 6 7 100000 8 9\ncpu0 1\n"),
            Some(100_321)
        );
        assert_eq!(busy("cpu  1 20 300\n"), None);
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 10 0 0 0 31 11 0 0 20 0 1 0 100 0 0";
        assert_eq!(own(stat), Some(42));
    }

    #[test]
    fn the_work_of_this_process_is_not_that_of_others() {
        let before = Load::now().unwrap();
        while before.at.elapsed().as_millis() < 100 {
            std::hint::spin_loop();
        }
        let since = before.share_of_others_since().unwrap();
        assert!((0.0..=1.5).contains(&since), "{since}");
    }
}
