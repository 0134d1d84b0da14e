//! Log lines about panics of other people's code, few of them however many there are.

use std::time::{Duration, Instant};

use tracing::error;

/// The least time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes a line at most once a second and says how many panics had none.
#[derive(Debug, Default)]
pub(crate) struct PanicLog {
    last: Option<Instant>,
    suppressed: u64,
}

impl PanicLog {
    /// Notes a panic of `what`.
    pub(crate) fn note(&mut self, what: &'static str) {
        if let Some(suppressed) = self.pass(Instant::now()) {
            error!(what, suppressed, "a panic was caught; a delivery in work is rejected");
        }
    }

    /// How many were passed over since the last line, if one is due.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_panics_writes_a_line_a_second_and_counts_the_others() {
        let (mut log, start) = (PanicLog::default(), Instant::now());
        assert_eq!(log.pass(start), Some(0));
        assert_eq!((1..=9).find_map(|n| log.pass(start + INTERVAL / 10 * n)), None);
        assert_eq!(log.pass(start + INTERVAL), Some(9));
        assert_eq!(log.pass(start + INTERVAL * 3), Some(0));
    }
}
