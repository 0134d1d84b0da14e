//! Caps how many log lines a flood of the same event may write.

use std::time::{Duration, Instant};

/// Lets `per_second` lines through in each second and counts the rest.
#[derive(Debug)]
pub struct LogGate {
    per_second: u32,
    second: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl LogGate {
    /// A gate for `per_second` lines a second.
    pub const fn new(per_second: u32) -> Self {
        Self { per_second, second: None, passed: 0, suppressed: 0 }
    }

    /// Whether a line may be written at `now`; if so, how many were suppressed since the last one that was.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.second.is_none_or(|start| now.saturating_duration_since(start) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.passed = 0;
        }
        if self.passed >= self.per_second {
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
    }
}
