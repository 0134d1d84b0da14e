//! What kind of queue a consumer stands on: how long it lives, whose it is, and its limits.
//!
//! Pure. [`QueueOptions::new`] has a preset for each [`QueueMode`]; [`QueueOptions::check`] refuses what RabbitMQ
//! would refuse (3.10 to 4.x), before anything connects.

use std::time::Duration;

/// RabbitMQ keeps times in 32 bits of milliseconds, about 49 days.
const MAX_MILLIS: u128 = u32::MAX as u128;

/// Who shares a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueMode {
    /// Each instance has its own queue, so every instance gets every message. nameko calls it broadcast.
    #[default]
    PerInstance,
    /// All instances consume from one queue, so each message goes to one of them. nameko calls it service pool.
    Shared,
    /// All instances know one queue and one of them consumes. The others are refused, say so, and take over when it
    /// is gone.
    Singleton,
}

/// How long a queue stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// It outlives its consumers and the broker's restart, until it expires.
    Durable,
    /// It is durable, and the broker deletes it with its last consumer (auto-delete).
    WhileConsumed,
    /// It belongs to one connection and goes with it (exclusive). Not durable.
    Connection,
}

/// Where the messages of a queue are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    /// On one node.
    Classic,
    /// On several nodes of a cluster; outlives the loss of a minority of them.
    Quorum,
}

/// What happens to a message for a queue that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest message goes (the broker's default).
    DropHead,
    /// The new one is refused: its publisher gets a nack.
    RejectPublish,
    /// The same, and it is dead-lettered. Classic queues only.
    RejectPublishDlx,
}

/// A queue's properties and arguments. `None` leaves an argument out: the broker's default or policy counts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueOptions {
    /// How long it stays.
    pub lifetime: Lifetime,
    /// Whether a second consumer is refused (403), by the flag of `basic.consume`.
    pub exclusive_consumer: bool,
    /// `x-queue-type`; without it the virtual host's default.
    pub queue_type: Option<QueueType>,
    /// `x-expires`: the broker deletes the queue after this time without a consumer; 1 ms to 49 days.
    pub expires: Option<Duration>,
    /// `x-message-ttl`: a message that waited so long is dropped or dead-lettered; up to 49 days.
    pub message_ttl: Option<Duration>,
    /// `x-max-length`: messages that may wait.
    pub max_length: Option<u32>,
    /// `x-max-length-bytes`: bytes of bodies that may wait.
    pub max_length_bytes: Option<u64>,
    /// `x-overflow`: what happens at one of these limits.
    pub overflow: Option<Overflow>,
    /// `x-single-active-consumer`: of all consumers the broker feeds one; when it goes the next is fed at once. A
    /// consumer cannot tell which one it is.
    pub single_active_consumer: bool,
    /// `x-max-priority`: priorities that messages may have, 1 to 255; each costs memory. Classic queues only.
    pub max_priority: Option<u8>,
    /// `x-delivery-limit`: a message that came back so often is dropped or dead-lettered. Quorum queues only.
    pub delivery_limit: Option<u32>,
    /// `x-dead-letter-exchange`: where rejected, expired and overflowing messages go.
    pub dead_letter_exchange: Option<String>,
    /// `x-dead-letter-routing-key`: with which key; without it with their own.
    pub dead_letter_routing_key: Option<String>,
}

/// The value of a queue's argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A whole number.
    Number(u64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self::new(QueueMode::PerInstance, true)
    }
}

impl QueueOptions {
    /// The preset of a mode.
    ///
    /// `reliable`: the queue is durable and waits for its consumers, 10 min at the most. Not reliable: it goes with
    /// its connection, or where several consume with the last of them, and its messages with it.
    #[must_use]
    pub fn new(mode: QueueMode, reliable: bool) -> Self {
        let lifetime = match (mode, reliable) {
            (_, true) => Lifetime::Durable,
            (QueueMode::PerInstance, false) => Lifetime::Connection,
            // RabbitMQ 4 has no queue that is neither durable nor exclusive.
            (QueueMode::Shared | QueueMode::Singleton, false) => Lifetime::WhileConsumed,
        };
        Self {
            lifetime,
            exclusive_consumer: match mode {
                QueueMode::PerInstance => lifetime != Lifetime::Connection,
                QueueMode::Shared => false,
                QueueMode::Singleton => true,
            },
            queue_type: None,
            // A queue that was declared and never consumed from goes too.
            expires: (lifetime != Lifetime::Connection).then_some(Duration::from_secs(600)),
            message_ttl: None,
            max_length: None,
            max_length_bytes: None,
            overflow: None,
            single_active_consumer: false,
            max_priority: None,
            delivery_limit: None,
            dead_letter_exchange: None,
            dead_letter_routing_key: None,
        }
    }

    /// Whether the queue is declared as durable.
    #[must_use]
    pub fn durable(&self) -> bool {
        self.lifetime != Lifetime::Connection
    }

    /// The arguments of `queue.declare`, by name, without those that are left out.
    #[must_use]
    pub fn arguments(&self) -> Vec<(&'static str, Argument)> {
        let number = |value: u64| Argument::Number(value);
        let millis = |time: Duration| number(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let text = |text: &str| Argument::Text(text.to_owned());
        let arguments = [
            ("x-queue-type", self.queue_type.map(|kind| text(kind.as_str()))),
            ("x-expires", self.expires.map(millis)),
            ("x-message-ttl", self.message_ttl.map(millis)),
            ("x-max-length", self.max_length.map(|most| number(most.into()))),
            ("x-max-length-bytes", self.max_length_bytes.map(number)),
            ("x-overflow", self.overflow.map(|overflow| text(overflow.as_str()))),
            ("x-single-active-consumer", self.single_active_consumer.then_some(Argument::Bool(true))),
            ("x-max-priority", self.max_priority.map(|most| number(most.into()))),
            ("x-delivery-limit", self.delivery_limit.map(|most| number(most.into()))),
            ("x-dead-letter-exchange", self.dead_letter_exchange.as_deref().map(text)),
            ("x-dead-letter-routing-key", self.dead_letter_routing_key.as_deref().map(text)),
        ];
        arguments.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Checks what RabbitMQ would refuse, or pass over.
    ///
    /// # Errors
    /// [`QueueOptionsError`]: which two things do not go together.
    pub fn check(&self) -> Result<(), QueueOptionsError> {
        use QueueOptionsError as E;
        let quorum = self.queue_type == Some(QueueType::Quorum);
        let limited = self.max_length.is_some() || self.max_length_bytes.is_some();
        let refused = [
            (quorum && self.lifetime == Lifetime::Connection, E::QuorumExclusive),
            (quorum && self.lifetime == Lifetime::WhileConsumed, E::QuorumAutoDelete),
            (quorum && self.max_priority.is_some(), E::QuorumPriority),
            (quorum && self.overflow == Some(Overflow::RejectPublishDlx), E::QuorumOverflow),
            (!quorum && self.delivery_limit.is_some(), E::DeliveryLimitNeedsQuorum),
            (self.single_active_consumer && self.exclusive_consumer, E::SingleActiveExclusive),
            (self.overflow.is_some() && !limited, E::OverflowNeedsLimit),
            (
                self.dead_letter_routing_key.is_some() && self.dead_letter_exchange.is_none(),
                E::DeadLetterKeyNeedsExchange,
            ),
            (self.expires == Some(Duration::ZERO), E::OutOfRange { argument: "x-expires" }),
            (self.max_priority == Some(0), E::OutOfRange { argument: "x-max-priority" }),
            (too_long(self.expires), E::OutOfRange { argument: "x-expires" }),
            (too_long(self.message_ttl), E::OutOfRange { argument: "x-message-ttl" }),
        ];
        match refused.into_iter().find(|(refused, _)| *refused) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

fn too_long(time: Option<Duration>) -> bool {
    time.is_some_and(|time| time.as_millis() > MAX_MILLIS)
}

impl QueueType {
    /// As `x-queue-type` calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }
}

impl Overflow {
    /// As `x-overflow` calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DropHead => "drop-head",
            Self::RejectPublish => "reject-publish",
            Self::RejectPublishDlx => "reject-publish-dlx",
        }
    }
}

/// Two options that do not go together, or a value that the broker does not take. Change one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueOptionsError {
    /// A quorum queue outlives its connection.
    #[error("a quorum queue cannot be exclusive: choose a classic queue, or a reliable one")]
    QuorumExclusive,
    /// A quorum queue outlives its consumers.
    #[error("a quorum queue cannot go with its last consumer: choose a classic queue, or a reliable one")]
    QuorumAutoDelete,
    /// Quorum queues have no `x-max-priority`.
    #[error("a quorum queue has no x-max-priority: choose a classic queue, or leave the priority out")]
    QuorumPriority,
    /// Quorum queues do not know `reject-publish-dlx`.
    #[error(
        "a quorum queue does not know the overflow reject-publish-dlx: choose drop-head or reject-publish"
    )]
    QuorumOverflow,
    /// Only quorum queues count deliveries.
    #[error("only a quorum queue has a delivery limit: choose a quorum queue, or leave the limit out")]
    DeliveryLimitNeedsQuorum,
    /// The broker refuses the exclusive-consumer flag on such a queue.
    #[error(
        "a queue with a single active consumer takes no exclusive consumer: several consumers wait there for their turn"
    )]
    SingleActiveExclusive,
    /// Nothing overflows without a limit.
    #[error("an overflow needs a limit: set the queue's max length, in messages or bytes")]
    OverflowNeedsLimit,
    /// Without an exchange nothing is dead-lettered.
    #[error("a dead-letter routing key needs a dead-letter exchange")]
    DeadLetterKeyNeedsExchange,
    /// Zero where that is not possible, or a time over 4,294,967,295 ms.
    #[error("{argument} is out of range: times go up to 4294967295 ms, expiry and priority begin at 1")]
    OutOfRange {
        /// The argument's name.
        argument: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(change: impl FnOnce(&mut QueueOptions)) -> QueueOptions {
        let mut options = QueueOptions::new(QueueMode::Shared, true);
        change(&mut options);
        options
    }

    #[test]
    fn k03_k04_k05_k07_each_mode_has_its_preset() {
        use Lifetime::{Connection, Durable, WhileConsumed};
        use QueueMode::{PerInstance, Shared, Singleton};
        let minutes = |n: u64| Some(Duration::from_secs(60 * n));
        for (mode, reliable, lifetime, exclusive_consumer, expires) in [
            (PerInstance, true, Durable, true, minutes(10)),
            (Shared, true, Durable, false, minutes(10)),
            (Singleton, true, Durable, true, minutes(10)),
            (PerInstance, false, Connection, false, None),
            (Shared, false, WhileConsumed, false, minutes(10)),
            (Singleton, false, WhileConsumed, true, minutes(10)),
        ] {
            let options = QueueOptions::new(mode, reliable);
            assert_eq!(
                (options.lifetime, options.exclusive_consumer, options.expires),
                (lifetime, exclusive_consumer, expires),
                "{mode:?} {reliable}"
            );
            assert_eq!(options.durable(), lifetime != Connection);
            assert_eq!(options.check(), Ok(()));
        }
    }

    #[test]
    fn f03_only_what_is_set_becomes_an_argument() {
        assert_eq!(QueueOptions::new(QueueMode::PerInstance, false).arguments(), []);
        let all = options(|o| {
            o.queue_type = Some(QueueType::Quorum);
            o.message_ttl = Some(Duration::from_secs(1));
            o.max_length = Some(2);
            o.max_length_bytes = Some(3);
            o.overflow = Some(Overflow::RejectPublish);
            o.single_active_consumer = true;
            o.delivery_limit = Some(0);
            o.dead_letter_exchange = Some("dlx".into());
            o.dead_letter_routing_key = Some("key".into());
        });
        assert_eq!(all.check(), Ok(()));
        let text = |text: &str| Argument::Text(text.into());
        assert_eq!(
            all.arguments(),
            [
                ("x-queue-type", text("quorum")),
                ("x-expires", Argument::Number(600_000)),
                ("x-message-ttl", Argument::Number(1000)),
                ("x-max-length", Argument::Number(2)),
                ("x-max-length-bytes", Argument::Number(3)),
                ("x-overflow", text("reject-publish")),
                ("x-single-active-consumer", Argument::Bool(true)),
                ("x-delivery-limit", Argument::Number(0)),
                ("x-dead-letter-exchange", text("dlx")),
                ("x-dead-letter-routing-key", text("key")),
            ]
        );
    }

    #[test]
    fn what_rabbitmq_would_refuse_is_refused_before_connecting() {
        use QueueOptionsError as E;
        let quorum = |o: &mut QueueOptions| o.queue_type = Some(QueueType::Quorum);
        let day = Duration::from_secs(24 * 60 * 60);
        for (options, error) in [
            (
                options(|o| {
                    *o = QueueOptions::new(QueueMode::PerInstance, false);
                    quorum(o);
                }),
                E::QuorumExclusive,
            ),
            (
                options(|o| {
                    o.lifetime = Lifetime::WhileConsumed;
                    quorum(o);
                }),
                E::QuorumAutoDelete,
            ),
            (
                options(|o| {
                    o.max_priority = Some(5);
                    quorum(o);
                }),
                E::QuorumPriority,
            ),
            (
                options(|o| {
                    (o.overflow, o.max_length) = (Some(Overflow::RejectPublishDlx), Some(5));
                    quorum(o);
                }),
                E::QuorumOverflow,
            ),
            (options(|o| o.delivery_limit = Some(5)), E::DeliveryLimitNeedsQuorum),
            (
                options(|o| (o.single_active_consumer, o.exclusive_consumer) = (true, true)),
                E::SingleActiveExclusive,
            ),
            (options(|o| o.overflow = Some(Overflow::DropHead)), E::OverflowNeedsLimit),
            (options(|o| o.dead_letter_routing_key = Some("k".into())), E::DeadLetterKeyNeedsExchange),
            (options(|o| o.expires = Some(Duration::ZERO)), E::OutOfRange { argument: "x-expires" }),
            (options(|o| o.max_priority = Some(0)), E::OutOfRange { argument: "x-max-priority" }),
            (options(|o| o.expires = Some(50 * day)), E::OutOfRange { argument: "x-expires" }),
            (options(|o| o.message_ttl = Some(50 * day)), E::OutOfRange { argument: "x-message-ttl" }),
        ] {
            assert_eq!(options.check(), Err(error), "{options:?}");
        }
    }
}
