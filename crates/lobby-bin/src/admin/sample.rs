//! The figures of one moment, as the console and `lobby top` plot them.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{SystemTime, UNIX_EPOCH},
};

use lobby_sessions::Snapshot;
use notify_amqp::SelfCheck;
use serde::{Deserialize, Serialize};

use crate::metrics::Figures;

/// Counters count from the start of the process; whoever shows rates takes differences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub sessions_tcp: u64,
    pub sessions_websocket: u64,
    pub connections: u64,
    pub handshakes: u64,
    /// Deliveries by outcome.
    pub unicast: u64,
    pub broadcast: u64,
    pub not_connected: u64,
    pub channel_reserved: u64,
    pub dropped: u64,
    /// Messages that the kernel took whole, and their bytes.
    pub written: u64,
    pub written_bytes: u64,
    /// Bytes that wait in outboxes, and bytes of the notifications that wait, each counted once.
    pub outbox_bytes: u64,
    pub notification_bytes: u64,
    pub overflows: u64,
    pub slow_closed: u64,
    /// From the broker's delivery to the last socket write, since the sample before; none without a message.
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
    pub consuming: bool,
    pub unacked: u64,
    pub reconnects: u64,
    /// Since a canary came through; none before the first, or without a self-check.
    pub canary_ms: Option<u64>,
}

impl Sample {
    /// Reads the figures; `before` is what the delivery times were at the sample before, and is replaced.
    pub fn take(figures: &Figures, before: &mut Snapshot) -> Self {
        let stats = figures.sessions.stats();
        let meter = figures.sessions.meter();
        let times = meter.delivery_time().snapshot();
        let since = |share| percentile(before, &times, share);
        let (p50_us, p99_us) = (since(0.5), since(0.99));
        *before = times;
        Self {
            at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis),
            sessions_tcp: stats.sessions[0],
            sessions_websocket: stats.sessions[1],
            connections: figures.gate.doorkeeper.open() as u64,
            handshakes: figures.gate.counts.handshakes.load(Relaxed),
            unicast: stats.unicast,
            broadcast: figures.outcomes.broadcast.load(Relaxed),
            not_connected: stats.not_connected,
            channel_reserved: figures.outcomes.channel_reserved.load(Relaxed),
            dropped: figures.outcomes.dropped().map(|(_, count)| count).sum(),
            written: stats.messages_written,
            written_bytes: stats.bytes_written,
            outbox_bytes: stats.queued_bytes,
            notification_bytes: meter.live_bytes(),
            overflows: stats.overflows,
            slow_closed: stats.closes_with(4000),
            p50_us,
            p99_us,
            consuming: figures.consumer.connected.get() == 1,
            unacked: figures.consumer.unacked.get(),
            reconnects: figures.consumer.reconnects.get(),
            canary_ms: figures.self_check.as_ref().and_then(SelfCheck::age).map(millis),
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time, in microseconds, within which `share` of the durations between two snapshots stayed; taken from the
/// straight line through the bucket that holds it. The bucket without an end counts as its beginning.
fn percentile(before: &Snapshot, after: &Snapshot, share: f64) -> Option<u64> {
    let earlier = before.buckets.iter().map(|(_, count)| *count).chain(std::iter::repeat(0));
    let counts: Vec<_> = after
        .buckets
        .iter()
        .zip(earlier)
        .map(|((bound, now), then)| (*bound, now.saturating_sub(then)))
        .collect();
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return None;
    }
    let wanted = total as f64 * share;
    let (mut below, mut lower) = (0.0, 0.0);
    for (upper, count) in counts {
        let count = count as f64;
        if below + count >= wanted && count > 0.0 {
            let upper = if upper.is_finite() { upper } else { lower };
            return Some(((lower + (upper - lower) * (wanted - below) / count) * 1e6).round() as u64);
        }
        below += count;
        lower = upper;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lobby_sessions::Histogram;

    use super::*;

    #[test]
    fn percentiles_are_of_what_came_since_the_sample_before() {
        let histogram = Histogram::default();
        let empty = histogram.snapshot();
        assert_eq!(percentile(&empty, &empty, 0.5), None);
        (0..100).for_each(|_| histogram.record(Duration::from_secs(5)));
        let before = histogram.snapshot();
        (0..98).for_each(|_| histogram.record(Duration::from_micros(80)));
        (0..2).for_each(|_| histogram.record(Duration::from_millis(20)));
        let after = histogram.snapshot();
        let (p50, p99) = (percentile(&before, &after, 0.5), percentile(&before, &after, 0.99));
        assert!(p50.is_some_and(|us| (50..=100).contains(&us)), "{p50:?}");
        assert!(p99.is_some_and(|us| (10_000..=25_000).contains(&us)), "{p99:?}");
        histogram.record(Duration::from_secs(60));
        assert_eq!(
            percentile(&after, &histogram.snapshot(), 0.5),
            Some(10_000_000),
            "the last bucket has no end"
        );
    }
}
