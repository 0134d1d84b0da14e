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
        /// What went wrong last; `None` until something has.
        after: Option<ConsumerFailure>,
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
    /// It was told to end, by its owner or by a handler; open deliveries are waited for.
    Stopping,
    /// The thread has ended.
    Stopped,
}

/// Why consuming failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerFailure {
    /// Why.
    pub error: Arc<ConsumerError>,
    /// What a person can do about it, if anything.
    pub hint: Option<String>,
}

impl From<ConsumerError> for ConsumerFailure {
    fn from(error: ConsumerError) -> Self {
        Self { hint: error.hint(), error: Arc::new(error) }
    }
}

impl ConsumerStatus {
    /// Whether messages arrive.
    #[must_use]
    pub fn is_consuming(&self) -> bool {
        matches!(self, Self::Consuming { .. })
    }
}

/// Why a consumer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StopReason {
    /// [`ConsumerHandle::stop`](crate::ConsumerHandle::stop) was called, or the handle dropped.
    #[default]
    Asked,
    /// A handler said [`Outcome::Halt`](crate::Outcome::Halt).
    Halted {
        /// The code it gave.
        code: u8,
    },
    /// The broker cancelled the consumer (its queue was deleted, or the queue's node is gone), told or not, and
    /// [`ConsumerConfig::stop_on_cancel`](crate::ConsumerConfig::stop_on_cancel) is set.
    Cancelled,
    /// The runtime that the handler ran on was shut down.
    RuntimeGone,
}

/// How a consumer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stopped {
    /// Deliveries that were still being worked on when the time was up: the broker delivers them again.
    pub unfinished: u64,
    /// Whether everything that was completed was settled and the connection closed in order. `false` when
    /// there was no connection to do so on.
    pub clean: bool,
    /// Why.
    pub reason: StopReason,
}

impl Stopped {
    /// What a process may end with: the code of a halt, 75 (try again later) when the broker cancelled the consumer,
    /// 70 when its runtime was shut down before it, and else 0.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.reason {
            StopReason::Asked => 0,
            StopReason::Halted { code } => code,
            StopReason::Cancelled => 75,
            StopReason::RuntimeGone => 70,
        }
    }
}
