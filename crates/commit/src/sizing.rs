//! How large a channel and a batch should be.

use std::time::Duration;

/// The capacity that keeps writers from waiting for a place, by Little's law: what arrives during one commit,
/// times the factors by which arrivals come in bursts and commit times vary.
///
/// `rate` is in commits per second; `burst` and `jitter` below 1 (or not a number) count as 1. At least 1.
///
/// ```
/// use std::time::Duration;
///
/// assert_eq!(walmend_commit::little_law_capacity(37_000.0, Duration::from_micros(40), 4.0, 2.5), 15);
/// ```
///
/// (Little, "A Proof for the Queuing Formula: L = λW", Operations Research 1961.)
pub fn little_law_capacity(rate: f64, commit: Duration, burst: f64, jitter: f64) -> usize {
    let places = rate * commit.as_secs_f64() * burst.max(1.0) * jitter.max(1.0);
    // A rate that is no number gives 0 here.
    (places.ceil() as usize).max(1)
}

/// The batch size at which a further request costs the others as much waiting as it saves in syncs: the square
/// root of `fsync / validate`, rounded, between 1 and `capacity`.
///
/// ```
/// use std::time::Duration;
///
/// let (fsync, validate) = (Duration::from_millis(2), Duration::from_micros(5));
/// assert_eq!(walmend_commit::optimal_batch_size(fsync, validate, 100), 20);
/// assert_eq!(walmend_commit::optimal_batch_size(fsync, validate, 16), 16);
/// ```
pub fn optimal_batch_size(fsync: Duration, validate: Duration, capacity: usize) -> usize {
    let ratio = fsync.as_secs_f64() / validate.as_secs_f64();
    let best = if ratio.is_nan() { 1.0 } else { ratio.sqrt().round() };
    (best as usize).clamp(1, capacity.max(1))
}

/// [`optimal_batch_size`] on the 0.9 quantiles of measured times: the distribution-free bound of split conformal
/// prediction (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005), so that a
/// few slow syncs count for what they are. Without samples of either kind: 1.
///
/// ```
/// use std::time::Duration;
///
/// let us = Duration::from_micros;
/// let validate = [us(5); 10];
/// let slow = walmend_commit::conformal_batch_size(&[us(2000); 10], &validate, 100);
/// let fast = walmend_commit::conformal_batch_size(&[us(50); 10], &validate, 100);
/// assert!((slow, fast) == (20, 3));
/// ```
pub fn conformal_batch_size(fsyncs: &[Duration], validates: &[Duration], capacity: usize) -> usize {
    match (quantile(fsyncs, 0.9), quantile(validates, 0.9)) {
        (Some(fsync), Some(validate)) => optimal_batch_size(fsync, validate, capacity),
        _ => 1,
    }
}

/// The conformal quantile: of n samples, the one in place ceil((n + 1) * level), or the largest.
pub(crate) fn quantile(samples: &[Duration], level: f64) -> Option<Duration> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let place = ((sorted.len() + 1) as f64 * level).ceil() as usize;
    sorted
        .get(place.saturating_sub(1))
        .or_else(|| sorted.last())
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn a_capacity_by_littles_law_is_at_least_1_and_small_factors_count_as_1() {
        assert_eq!(little_law_capacity(37_000.0, us(40), 4.0, 2.5), 15);
        assert_eq!(little_law_capacity(37_000.0, us(40), 0.1, f64::NAN), 2);
        assert_eq!(little_law_capacity(0.0, us(40), 4.0, 2.5), 1);
        assert_eq!(little_law_capacity(-5.0, us(40), 4.0, 2.5), 1);
        assert_eq!(little_law_capacity(f64::NAN, us(40), 4.0, 2.5), 1);
    }

    #[test]
    fn an_optimal_batch_lies_between_1_and_the_capacity() {
        assert_eq!(optimal_batch_size(us(2000), us(5), 16), 16);
        assert_eq!(optimal_batch_size(us(2000), us(5), 64), 20);
        assert_eq!(optimal_batch_size(us(1), us(500), 64), 1);
        assert_eq!(optimal_batch_size(us(50), Duration::ZERO, 64), 64);
        assert_eq!(optimal_batch_size(Duration::ZERO, Duration::ZERO, 64), 1);
        assert_eq!(optimal_batch_size(us(2000), us(5), 0), 1);
    }

    #[test]
    fn a_conformal_batch_goes_by_the_slow_tenth_and_by_nothing_without_samples() {
        let validate = [us(5); 9];
        assert_eq!(conformal_batch_size(&[], &validate, 64), 1);
        assert_eq!(conformal_batch_size(&validate, &[], 64), 1);
        let mut fsyncs = [us(125); 9];
        assert_eq!(conformal_batch_size(&fsyncs, &validate, 64), 5);
        fsyncs[4] = us(2000);
        assert_eq!(
            conformal_batch_size(&fsyncs, &validate, 64),
            20,
            "of 9 the largest"
        );
        let slow_one_of_many: Vec<_> = (0..40).map(|n| if n == 7 { us(2000) } else { us(125) }).collect();
        assert_eq!(conformal_batch_size(&slow_one_of_many, &validate, 64), 5);
    }
}
