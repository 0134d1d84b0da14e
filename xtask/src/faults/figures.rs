//! What a row has counted and measured.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::stage::tally::Tally;

/// The figures of one run of one row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    /// Pairs of a message and a client that had to meet and did.
    pub(super) survived: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    /// Duplicates without the redelivered flag.
    pub(super) unmarked: u64,
    /// How often a recovery was timed.
    pub(super) recoveries: usize,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    /// The most memory of any lobby, in bytes.
    pub(super) peak_bytes: Option<u64>,
    /// Descriptors of the lobby before and after.
    pub(super) descriptors: Option<(u64, u64)>,
    /// Threads of the lobby before and after.
    pub(super) threads: Option<(u64, u64)>,
    pub(super) facts: Vec<String>,
}

impl Figures {
    pub(super) fn add(&mut self, tally: &Tally, unmarked: u64) {
        self.survived += tally.survived;
        self.lost += tally.lost;
        self.duplicated += tally.duplicated;
        self.unmarked += unmarked;
    }

    /// Sets the figures of recovery.
    pub(super) fn times(&mut self, times: &[Duration]) {
        self.recoveries = times.len();
        self.p50_ms = quantile(times, 0.5);
        self.p99_ms = quantile(times, 0.99);
    }
}

/// The smallest time that so many of them do not exceed, in milliseconds.
fn quantile(times: &[Duration], share: f64) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(index).map(|time| (time.as_secs_f64() * 10_000.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!((quantile(&times, 0.5), quantile(&times, 0.99)), (Some(50.0), Some(99.0)));
        assert_eq!(quantile(&times[..1], 0.99), Some(100.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
