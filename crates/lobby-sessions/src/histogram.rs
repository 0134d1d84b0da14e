//! A latency histogram that many threads record into without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the buckets, in microseconds: 50 µs to 10 s, then everything above.
const BOUNDS_MICROS: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Counts of durations by bucket.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

/// What a [`Histogram`] held at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// `(upper bound in seconds, count in this bucket alone)`; the last bound is `f64::INFINITY`.
    pub buckets: Vec<(f64, u64)>,
    /// Number of recorded durations.
    pub count: u64,
    /// Sum of the recorded durations, in seconds.
    pub sum_seconds: f64,
}

impl Histogram {
    /// Records one duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|&bound| bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// Reads the counts; durations recorded meanwhile may be in some figures and not yet in others.
    pub fn snapshot(&self) -> Snapshot {
        let bounds = BOUNDS_MICROS.iter().map(|&b| b as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.buckets.iter().map(|b| b.load(Relaxed))).collect();
        Snapshot {
            count: buckets.iter().map(|(_, count)| count).sum(),
            sum_seconds: self.sum_micros.load(Relaxed) as f64 / 1e6,
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_that_bounds_it() {
        for (micros, bound) in
            [(0, 5e-5), (50, 5e-5), (51, 1e-4), (10_000_000, 10.0), (u64::MAX, f64::INFINITY)]
        {
            let histogram = Histogram::default();
            histogram.record(Duration::from_micros(micros));
            let hit = histogram.snapshot().buckets.into_iter().find(|(_, count)| *count == 1);
            assert_eq!(hit, Some((bound, 1)), "{micros} µs");
        }
    }

    #[test]
    fn count_and_sum_add_up() {
        let histogram = Histogram::default();
        for millis in [1, 2, 3] {
            histogram.record(Duration::from_millis(millis));
        }
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.count, snapshot.sum_seconds), (3, 0.006));
    }
}
