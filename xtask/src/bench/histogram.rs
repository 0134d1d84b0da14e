//! Times in buckets less than 1 % wide, so that millions of them take a few kilobytes.

/// Buckets for each power of two.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts of nanoseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn record(&mut self, nanos: u64) {
        let bucket = bucket_of(nanos);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
    }

    /// The time that `per_mille` of all recorded times do not exceed, by the upper edge of its bucket; 0 of nothing.
    pub(crate) fn quantile(&self, per_mille: u64) -> u64 {
        let wanted = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_edge(bucket);
            }
        }
        0
    }
}

fn bucket_of(nanos: u64) -> usize {
    let power = (nanos | STEPS).ilog2() - STEP_BITS;
    usize::try_from(u64::from(power) * STEPS + (nanos >> power)).unwrap_or(usize::MAX)
}

fn upper_edge(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let power = (bucket / STEPS).saturating_sub(1);
    let step = bucket - power * STEPS;
    ((step + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_falls_into_a_bucket_less_than_one_per_cent_wide() {
        for nanos in (0..5_000).chain([9_999, 1_000_000, 123_456_789, 60_000_000_000]) {
            let edge = upper_edge(bucket_of(nanos));
            assert!(edge >= nanos && edge - nanos <= nanos / 100, "{nanos} in a bucket up to {edge}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|n| histogram.record(n * 1000));
        for per_mille in [500, 990, 999] {
            let exact = per_mille * 1000;
            let got = histogram.quantile(per_mille);
            assert!(got >= exact && got <= exact * 101 / 100, "{per_mille}: {got}");
        }
        assert_eq!(Histogram::default().quantile(500), 0);
    }
}
