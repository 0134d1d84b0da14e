//! The end of a wait, however long.

use std::time::{Duration, Instant};

/// Longer than any process runs. What is longer may not be representable as a moment.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The moment that is `wait` after `now`, or one that nobody lives to see.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now + wait.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_has_an_end() {
        let now = Instant::now();
        assert_eq!(after(now, Duration::from_secs(5)), now + Duration::from_secs(5));
        assert!(after(now, Duration::MAX) > now + Duration::from_secs(3600 * 24 * 365));
    }
}
