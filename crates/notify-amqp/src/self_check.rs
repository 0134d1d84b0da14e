//! The self-check as others see it: what it is told to do, its verdict, and what it counted.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    canary::Canary,
    delivery::Delivery,
    hearing::{Hearing, Hindrance, Outcome, SelfCheckVerdict},
    queue_options::{Lifetime, QueueOptions},
    stats::ConsumerStats,
};

/// How the consumer looks after itself: at each interval it publishes a canary to its own queue through the real
/// exchange, makes its bindings again, and asks the broker whether its queue is there and consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelfCheckConfig {
    /// The time between two canaries (default 3 s).
    pub interval: Duration,
    /// Silence for so long is deafness: [`SelfCheckVerdict::Deaf`], and a new connection (default 10 s, at least
    /// two intervals). While the prefetch is full of messages in work, silence counts as nothing. A canary expires after this time too, so that none pile up.
    pub max_age: Duration,
}

impl Default for SelfCheckConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(3), max_age: Duration::from_secs(10) }
    }
}

impl SelfCheckConfig {
    /// Whether the self-check can work on a queue with these options.
    ///
    /// # Errors
    /// [`SelfCheckError`]: why not.
    pub fn check(&self, options: &QueueOptions) -> Result<(), SelfCheckError> {
        if !options.exclusive_consumer && options.lifetime != Lifetime::Connection {
            return Err(SelfCheckError::SharedQueue);
        }
        if self.interval.is_zero() || self.max_age < self.interval.saturating_mul(2) {
            return Err(SelfCheckError::Times { interval: self.interval, max_age: self.max_age });
        }
        Ok(())
    }
}

/// Why there can be no self-check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelfCheckError {
    /// Whoever shares a queue may take the other's canary.
    #[error(
        "a self-check needs a queue that only its own consumer consumes: an exclusive consumer, or an exclusive queue"
    )]
    SharedQueue,
    /// Silence must be longer than what may pass between two canaries anyway.
    #[error(
        "the self-check's max_age {max_age:?} must be at least twice its interval {interval:?}, which must not be 0"
    )]
    Times {
        /// The time between two canaries.
        interval: Duration,
        /// What counts as deafness.
        max_age: Duration,
    },
}

/// What the self-check found missing, and repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelfCheckFault {
    /// A canary was returned: the queue's bindings were removed. They were made again.
    Binding,
    /// The exchange was deleted. The connection was made again, which declares it.
    Exchange,
    /// The queue was deleted, and the broker did not tell. The connection was made again.
    Queue,
    /// The queue has no consumer, and the broker did not tell. The connection was made again.
    Consumer,
    /// Canaries were published and did not come, nor did anything else. The connection was made again.
    Deliveries,
}

impl SelfCheckFault {
    pub(crate) const ALL: [Self; 5] =
        [Self::Binding, Self::Exchange, Self::Queue, Self::Consumer, Self::Deliveries];

    /// One word, for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Exchange => "exchange",
            Self::Queue => "queue",
            Self::Consumer => "consumer",
            Self::Deliveries => "deliveries",
        }
    }
}

impl fmt::Display for SelfCheckFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Binding => "the queue's bindings were removed",
            Self::Exchange => "the exchange was deleted",
            Self::Queue => "the queue was deleted",
            Self::Consumer => "the queue has no consumer",
            Self::Deliveries => "canaries were published and nothing came through the queue",
        })
    }
}

/// The labels of [`SelfCheck::canaries`], in the order of their counters.
const OUTCOMES: [&str; 8] = [
    "received",
    "confirmed",
    "unroutable",
    "no_exchange",
    "unconfirmed",
    "blocked",
    "unreachable",
    "refused",
];

/// Follows the self-check of one consumer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SelfCheck(Arc<Monitor>);

impl SelfCheck {
    pub(crate) fn new(monitor: Arc<Monitor>) -> Self {
        Self(monitor)
    }

    /// The verdict at this moment.
    #[must_use]
    pub fn verdict(&self) -> SelfCheckVerdict {
        let now = Instant::now();
        let mut hearing = self.0.hearing();
        hearing.deliveries(self.0.stats.deliveries.get(), now);
        hearing.verdict(now)
    }

    /// How long ago a canary came through the queue; before the first, since consuming first began. `None` if it
    /// never did.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.0.hearing().age(Instant::now())
    }

    /// Canaries by what became of them; one that is confirmed and comes through counts as both.
    pub fn canaries(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        OUTCOMES.into_iter().zip(self.0.canaries.iter().map(|count| count.load(Relaxed)))
    }

    /// Repairs by what was repaired.
    pub fn repairs(&self) -> impl Iterator<Item = (SelfCheckFault, u64)> + '_ {
        SelfCheckFault::ALL.into_iter().zip(self.0.repairs.iter().map(|count| count.load(Relaxed)))
    }
}

/// What the self-check's parts share: the pump hears, the patrol publishes, and anybody may ask.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) canary: Canary,
    hearing: Mutex<Hearing>,
    stats: Arc<ConsumerStats>,
    canaries: [AtomicU64; OUTCOMES.len()],
    repairs: [AtomicU64; SelfCheckFault::ALL.len()],
}

impl Monitor {
    pub(crate) fn new(canary: Canary, max_age: Duration, stats: Arc<ConsumerStats>) -> Self {
        let hearing = Mutex::new(Hearing::new(max_age));
        Self { canary, hearing, stats, canaries: Default::default(), repairs: Default::default() }
    }

    /// Takes the delivery if it is a canary; nobody else may see it then.
    pub(crate) fn takes(&self, delivery: &Delivery) -> bool {
        if !self.canary.is(delivery) {
            return false;
        }
        if self.canary.is_own(delivery.body()) {
            self.canaries[0].fetch_add(1, Relaxed);
            self.hearing().canary(delivery.received_at());
        }
        true
    }

    pub(crate) fn begin(&self) {
        self.hearing().begin(self.stats.deliveries.get(), Instant::now());
    }

    pub(crate) fn end(&self) {
        self.hearing().end();
    }

    /// Counts what became of a canary.
    pub(crate) fn published(&self, outcome: Outcome) {
        let label = match &outcome {
            Outcome::Confirmed => 1,
            Outcome::Unroutable => 2,
            Outcome::NoExchange => 3,
            Outcome::Unconfirmed => 4,
            Outcome::Hindered(Hindrance::Blocked) => 5,
            Outcome::Hindered(Hindrance::Unreachable { .. }) => 6,
            Outcome::Hindered(Hindrance::Refused { .. }) => 7,
        };
        self.canaries[label].fetch_add(1, Relaxed);
        self.hearing().published(outcome, Instant::now());
    }

    /// Silence still proves nothing, as no canary is published for a while.
    pub(crate) fn still_hindered(&self, hindrance: &Hindrance) {
        self.hearing().published(Outcome::Hindered(hindrance.clone()), Instant::now());
    }

    pub(crate) fn repairs(&self, fault: SelfCheckFault) {
        self.repairs[fault as usize].fetch_add(1, Relaxed);
    }

    /// Whether ours is missing among the queue's consumers.
    pub(crate) fn misses_consumer(&self, consumers: u32) -> bool {
        self.hearing().looked(consumers)
    }

    pub(crate) fn deaf_at(&self) -> Option<Instant> {
        self.hearing().deaf_at()
    }

    /// Whether nothing has come for too long. `busy` says that nothing can come before a delivery in work is settled.
    pub(crate) fn is_deaf(&self, busy: bool) -> bool {
        let now = Instant::now();
        let mut hearing = self.hearing();
        hearing.deliveries(self.stats.deliveries.get(), now);
        hearing.busy(busy, now);
        hearing.is_deaf(now)
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue_options::QueueMode;

    #[test]
    fn k03_a_shared_queue_cannot_be_checked_and_silence_is_longer_than_the_interval() {
        let own = QueueOptions::default();
        for (mode, reliable, expected) in [
            (QueueMode::PerInstance, true, Ok(())),
            (QueueMode::PerInstance, false, Ok(())),
            (QueueMode::Singleton, true, Ok(())),
            (QueueMode::Shared, true, Err(SelfCheckError::SharedQueue)),
        ] {
            assert_eq!(SelfCheckConfig::default().check(&QueueOptions::new(mode, reliable)), expected);
        }
        let second = Duration::from_secs(1);
        for (interval, max_age, fits) in [
            (second, second * 2, true),
            (second * 2, second * 3, false),
            (Duration::ZERO, second, false),
            (Duration::MAX, Duration::MAX / 2, false),
        ] {
            assert_eq!(
                SelfCheckConfig { interval, max_age }.check(&own).is_ok(),
                fits,
                "{interval:?} {max_age:?}"
            );
        }
    }
}
