//! Token buckets, each kept as one moment: the one at which it is full again (the generic cell rate algorithm).

use std::time::Duration;

const NANOS_PER_SECOND: usize = 1_000_000_000;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: usize,
    /// Nanoseconds until one more token is there.
    interval: u64,
    /// Nanoseconds until an empty bucket is full.
    refill: u64,
}

impl Rate {
    /// `per_second` tokens a second, and as many as `burst` at once, at least one. `None` for 0 a second, which means
    /// no limit. The interval between two tokens is rounded down to whole nanoseconds.
    pub const fn new(per_second: usize, burst: usize) -> Option<Self> {
        let Some(interval) = NANOS_PER_SECOND.checked_div(per_second) else { return None };
        let interval = if interval == 0 { 1 } else { interval as u64 };
        let burst = if burst == 0 { 1 } else { burst as u64 };
        Some(Self { per_second, interval, refill: interval.saturating_mul(burst) })
    }

    /// Tokens that come in this time.
    pub(crate) fn within(self, time: Duration) -> usize {
        usize::try_from(nanos(time) / self.interval).unwrap_or(usize::MAX)
    }

    /// Tokens a second, as configured.
    pub const fn per_second(self) -> usize {
        self.per_second
    }
}

/// A bucket, full when new. `now` is the time since some moment that stays the same, and an earlier `now` than the
/// last one fills nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    /// In nanoseconds, good for 584 years.
    full_at: u64,
}

impl Bucket {
    /// Whether a token is there.
    pub fn has_token(self, rate: Rate, now: Duration) -> bool {
        self.after_one_more(rate, now) <= nanos(now).saturating_add(rate.refill)
    }

    /// Takes a token that is there.
    pub fn take(&mut self, rate: Rate, now: Duration) {
        self.full_at = self.after_one_more(rate, now);
    }

    /// Whether it is as good as a new one.
    pub fn is_full(self, now: Duration) -> bool {
        self.full_at <= nanos(now)
    }

    fn after_one_more(self, rate: Rate, now: Duration) -> u64 {
        self.full_at.max(nanos(now)).saturating_add(rate.interval)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_then_one_for_each_interval() {
        // At each millisecond, this many want a token, and this many get one.
        for (per_second, burst, arrivals) in [
            (10, 1, vec![(0, 3, 1), (99, 1, 0), (100, 2, 1), (5000, 3, 1)]),
            (10, 5, vec![(0, 9, 5), (100, 9, 1), (350, 9, 2), (399, 9, 0), (400, 9, 1), (10_000, 9, 5)]),
            (1000, 3, vec![(0, 5, 3), (1, 5, 1), (2, 0, 0), (4, 5, 3)]),
            (3, 1, vec![(0, 1, 1), (333, 1, 0), (334, 1, 1)]),
            (1, 0, vec![(0, 2, 1), (999, 1, 0), (1000, 1, 1)]),
            // Time that goes back, as between two threads, is time that stands.
            (10, 2, vec![(500, 2, 2), (400, 1, 0), (599, 1, 0), (600, 1, 1)]),
        ] {
            let rate = Rate::new(per_second, burst).expect("a rate");
            let mut bucket = Bucket::default();
            for (at, wanted, want) in arrivals {
                let now = Duration::from_millis(at);
                let got = (0..wanted).filter(|_| {
                    let there = bucket.has_token(rate, now);
                    if there {
                        bucket.take(rate, now);
                    }
                    there
                });
                assert_eq!(got.count(), want, "{per_second} a second, burst {burst}, at {at} ms");
            }
        }
    }

    #[test]
    fn a_bucket_is_full_again_when_all_its_tokens_are_back() {
        let rate = Rate::new(10, 5).expect("a rate");
        let mut bucket = Bucket::default();
        let at = Duration::from_millis;
        assert!(bucket.is_full(at(0)));
        (0..3).for_each(|_| bucket.take(rate, at(1000)));
        assert!(!bucket.is_full(at(1299)) && bucket.is_full(at(1300)));
    }

    #[test]
    fn no_rate_is_no_limit() {
        assert_eq!(Rate::new(0, 5), None);
    }
}
