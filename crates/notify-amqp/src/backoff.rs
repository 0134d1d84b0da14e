//! How long to wait before the next attempt to reach the broker.
//!
//! Pure: the random number and the time are arguments. The wait doubles from `base` to `cap` with
//! *equal jitter* (half fixed, half random), so that a fleet that lost its broker at one moment does
//! not come back at one moment, and nobody waits for nothing. A connection that consumed a while, and was lost, is
//! evidence of a broker that is there: what was waited before it counts for less.

use std::time::{Duration, Instant};

/// The limits of the wait between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// The first wait is at most this long (default 100 ms).
    pub base: Duration,
    /// No wait is longer than this (default 30 s).
    pub cap: Duration,
    /// A connection that consumed this long counts as good: the next wait is the first again
    /// (default 60 s, so that a broker that drops everybody after a few seconds is not stormed).
    pub stable_after: Duration,
    /// After a connection that consumed for less than that, the wait is no longer than this, and later ones double from
    /// there (default 400 ms: a broker that lets everybody in and then drops them is asked at most five times a second).
    pub max_after_session: Duration,
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            cap: Duration::from_secs(30),
            stable_after: Duration::from_secs(60),
            max_after_session: Duration::from_millis(400),
        }
    }
}

/// Counts the failures in a row.
#[derive(Debug, Clone)]
pub struct Backoff {
    policy: BackoffPolicy,
    failures: u32,
    good_since: Option<Instant>,
}

impl Backoff {
    /// Starts without a failure.
    #[must_use]
    pub fn new(policy: BackoffPolicy) -> Self {
        Self { policy, failures: 0, good_since: None }
    }

    /// Failures in a row so far; the attempt that is under way is this plus one.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes that the connection works since `now`.
    pub fn succeeded(&mut self, now: Instant) {
        self.good_since = Some(now);
    }

    /// Notes a failure at `now` and returns the wait before the next attempt.
    ///
    /// `random` is any number; all 64 bits count.
    pub fn failed(&mut self, now: Instant, random: u64) -> Duration {
        self.failed_under(self.policy, now, random)
    }

    /// The same, with the wait that another policy has after so many failures in a row.
    pub fn failed_under(&mut self, policy: BackoffPolicy, now: Instant, random: u64) -> Duration {
        if let Some(since) = self.good_since.take() {
            let stable = now.saturating_duration_since(since) >= self.policy.stable_after;
            self.failures = if stable { 0 } else { forgiven(self.policy, self.failures) };
        }
        let ceiling = ceiling(policy, self.failures);
        self.failures = self.failures.saturating_add(1);
        let half = ceiling / 2;
        half + half.mul_f64(random as f64 / u64::MAX as f64)
    }
}

/// The longest wait after `failures` earlier failures.
fn ceiling(policy: BackoffPolicy, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    policy.base.saturating_mul(factor).min(policy.cap)
}

/// So many of `failures` that the wait after them is not longer than after any session.
fn forgiven(policy: BackoffPolicy, failures: u32) -> u32 {
    let fits = |failures: &u32| ceiling(policy, *failures) <= policy.max_after_session;
    // No factor doubles more often.
    (0..=failures.min(u32::BITS)).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn m09_m13_waits_double_up_to_thirty_seconds_with_jitter() {
        let now = Instant::now();
        let mut backoff = Backoff::new(BackoffPolicy::default());
        let longest: Vec<_> = (0..11).map(|_| backoff.failed(now, u64::MAX)).collect();
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000];
        assert_eq!(longest, expected.map(ms));
        let mut backoff = Backoff::new(BackoffPolicy::default());
        let shortest: Vec<_> = (0..11).map(|_| backoff.failed(now, 0)).collect();
        assert_eq!(shortest, expected.map(|longest| ms(longest / 2)));
    }

    #[test]
    fn a_million_failures_do_not_overflow() {
        let mut backoff = Backoff::new(BackoffPolicy::default());
        backoff.failures = 1_000_000;
        assert_eq!(backoff.failed(Instant::now(), u64::MAX), ms(30_000));
    }

    #[test]
    fn a_lost_connection_that_consumed_is_tried_again_within_a_second_and_then_waits_double_again() {
        let now = Instant::now();
        for earlier in [10, 1_000_000] {
            let mut backoff = Backoff::new(BackoffPolicy::default());
            backoff.failures = earlier;
            for _ in 0..100 {
                backoff.succeeded(now);
                assert_eq!(backoff.failed(now + ms(1), u64::MAX), ms(400));
            }
            assert_eq!(backoff.failed(now, u64::MAX), ms(800));
        }
    }

    #[test]
    fn m09_only_a_stable_minute_resets() {
        let start = Instant::now();
        let mut backoff = Backoff::new(BackoffPolicy::default());
        backoff.failed(start, 0);
        backoff.failed(start, 0);
        backoff.succeeded(start);
        assert_eq!(backoff.failed(start + ms(59_999), u64::MAX), ms(400), "too short to count");
        backoff.succeeded(start);
        assert_eq!(backoff.failed(start + ms(60_000), u64::MAX), ms(100), "stable");
        assert_eq!(backoff.failures(), 1);
    }
}
