//! What became of spans.

use std::sync::atomic::AtomicU64;

/// Counts of spans, for the metrics.
#[derive(Debug, Default)]
pub struct SpanCounts {
    /// Taken by the collector.
    pub exported: AtomicU64,
    /// Not taken by the collector, or not in time.
    pub failed: AtomicU64,
    /// Dropped, as too many waited.
    pub queue_full: AtomicU64,
    /// Waiting to be exported, those of the batch under way included.
    pub pending: AtomicU64,
}
