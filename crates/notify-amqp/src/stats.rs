//! What the consumer counted, readable at any time without asking its thread.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the consumer was spawned, and two gauges. Each is read with [`Count::get`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ConsumerStats {
    /// Gauge: 1 while consuming, else 0.
    pub connected: Count,
    /// Times that consuming began.
    pub connects: Count,
    /// Times that consuming began again (`connects` less one).
    pub reconnects: Count,
    /// Attempts to connect that failed, and connections that broke.
    pub failures: Count,
    /// Times that the broker ended the consumer, because the queue or its node was gone.
    pub cancelled: Count,
    /// Deliveries handed to the dispatch.
    pub deliveries: Count,
    /// Of these, the ones the broker marked as delivered before.
    pub redelivered: Count,
    /// Deliveries whose ack was written to the broker.
    pub acked: Count,
    /// Ack frames written; `acked / ack_frames` is the size of a batch.
    pub ack_frames: Count,
    /// Deliveries given back to the queue ([`Outcome::Requeue`](crate::Outcome::Requeue)).
    pub requeued: Count,
    /// Deliveries rejected, by a handler or because it panicked. Without a dead-letter exchange they are gone.
    pub rejected: Count,
    /// Of these, the ones that should have been requeued once too often.
    pub requeues_refused: Count,
    /// Deliveries that were completed after their channel was lost: settling them had no effect, the broker delivers
    /// them again.
    pub stale: Count,
    /// Gauge: deliveries that the broker still waits for an ack of.
    pub unacked: Count,
    /// Content headers in which bytes that are not UTF-8, or containers nested too deeply, were replaced.
    pub repaired_headers: Count,
    /// Content headers that could not be walked and were replaced by the marker header.
    pub undecodable_headers: Count,
    /// Panics of the dispatch or handler that were caught; the delivery is rejected.
    pub dispatch_panics: Count,
    /// Calls of the dispatch that took a second or longer: acks and heartbeats waited for them.
    pub dispatch_stalls: Count,
}

/// One counter or gauge.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
}
