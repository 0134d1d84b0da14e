//! What became of dropped messages.

use crate::stats::Count;

/// Counters since the start.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct DeadLetterStats {
    /// Written, and confirmed by the broker.
    pub confirmed: Count,
    /// Lost: no confirm within the limit.
    pub timed_out: Count,
    /// Lost at once: the broker did not confirm the ones before.
    pub unreachable: Count,
    /// Lost at once: as many were waiting as may wait.
    pub overflow: Count,
    /// Not kept again: it came back out of a dead-letter exchange.
    pub looped: Count,
}

/// What happens to one dropped message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandedOver {
    /// It is being written; its ticket is held until the broker confirms it.
    Held,
    /// It is being written, and acked meanwhile: the broker did not confirm the ones before.
    Probing,
    /// It is lost: the dead-letter exchange cannot be reached.
    Unreachable,
    /// It is lost: as many were waiting as may wait.
    Overflow,
    /// It was a dead letter already.
    Looped,
}

impl HandedOver {
    /// One word for a log line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Probing => "probing",
            Self::Unreachable => "unreachable",
            Self::Overflow => "overflow",
            Self::Looped => "looped",
        }
    }
}
