//! Caps how many log lines a flood of the same event may write.

use std::time::{Duration, Instant};

/// Lets so many lines through in each interval, a second as a rule, and counts the rest.
#[derive(Debug)]
pub struct LogGate {
    lines: u32,
    interval: Duration,
    began: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl LogGate {
    /// A gate for `per_second` lines a second.
    pub const fn new(per_second: u32) -> Self {
        Self { lines: per_second, ..Self::every(Duration::from_secs(1)) }
    }

    /// A gate for one line in each `interval`.
    pub const fn every(interval: Duration) -> Self {
        Self { lines: 1, interval, began: None, passed: 0, suppressed: 0 }
    }

    /// Whether a line may be written at `now`; if so, how many were suppressed since the last one that was.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|start| now.saturating_duration_since(start) >= self.interval) {
            self.began = Some(now);
            self.passed = 0;
        }
        if self.passed >= self.lines {
            self.suppressed += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_a_bounded_number_of_lines_and_says_how_many_were_left_out() {
        let start = Instant::now();
        let mut gate = LogGate::new(3);
        let first: Vec<_> = (0..1000).filter_map(|_| gate.pass(start)).collect();
        assert_eq!(first, [0, 0, 0]);
        assert_eq!(gate.pass(start + Duration::from_millis(999)), None);
        assert_eq!(gate.pass(start + Duration::from_secs(1)), Some(998));
        let mut gate = LogGate::every(Duration::from_secs(60));
        let passed = (0..150).filter_map(|second| gate.pass(start + Duration::from_secs(second)));
        assert_eq!(passed.collect::<Vec<_>>(), [0, 59, 59]);
    }
}
