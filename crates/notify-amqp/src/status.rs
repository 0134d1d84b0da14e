//! What the consumer is doing now, for readiness and for people.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::error::ConsumerError;

/// The consumer's state. `Connecting → Consuming → Waiting → Connecting …`, and from anywhere
/// `Stopping → Stopped`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerStatus {
    /// A connection is being made and the topology declared.
    Connecting {
        /// 1 for the first attempt, and again for the first after a stable connection.
        attempt: u32,
    },
    /// Messages arrive and are acked.
    Consuming {
        /// The queue.
        queue: Arc<str>,
        /// Host and port of the broker in use.
        host: Arc<str>,
        /// Since when.
        since: Instant,
    },
    /// Consuming failed; the next attempt comes by itself.
    Waiting {
        /// Why.
        error: Arc<ConsumerError>,
        /// What a person can do about it, if anything.
        hint: Option<String>,
        /// Failures in a row.
        attempt: u32,
        /// How long until the next attempt.
        retry_in: Duration,
    },
    /// [`ConsumerHandle::stop`](crate::ConsumerHandle::stop) was called; open deliveries are waited for.
    Stopping,
    /// The thread has ended.
    Stopped,
}

impl ConsumerStatus {
    /// Whether messages arrive.
    #[must_use]
    pub fn is_consuming(&self) -> bool {
        matches!(self, Self::Consuming { .. })
    }
}

/// How a consumer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stopped {
    /// Deliveries that were still being worked on when the time was up: the broker delivers them again.
    pub unfinished: u64,
    /// Whether everything that was completed was acked and the connection closed in order. `false` when
    /// there was no connection to do so on.
    pub clean: bool,
}
