//! Where dead letters go, and how much may wait for it.

use std::time::Duration;

use crate::{
    backoff::BackoffPolicy,
    broker::BrokerConfig,
    queue_name::QueueName,
    queue_options::{Overflow, QueueMode, QueueOptions},
    topology::{Declare, Topology},
};

/// The exchange, the queue and the binding that keep dead letters. All are durable.
///
/// The exchange is of type topic. Every lobby declares the same, and one queue keeps the dead letters of all.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetterTopology {
    /// The exchange that dead letters are published to.
    pub exchange: String,
    /// The queue that keeps them.
    pub queue: QueueName,
    /// The routing key they are published with, and the queue is bound with; `None` (default) keeps each message's
    /// own and binds with `#`.
    pub routing_key: Option<String>,
    /// Dead letters that the queue holds at most (default 10,000); the oldest make room.
    pub max_length: u32,
    /// Whether they are made, only looked for, or taken as they are (default active).
    pub declare: Declare,
}

impl DeadLetterTopology {
    /// The defaults.
    #[must_use]
    pub fn new(exchange: impl Into<String>, queue: QueueName) -> Self {
        Self {
            exchange: exchange.into(),
            queue,
            routing_key: None,
            max_length: 10_000,
            declare: Declare::Active,
        }
    }

    /// The same in the terms of everything that is declared.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let mut topology = Topology::new(&self.exchange, self.queue.clone());
        topology.routing_keys = vec![self.binding_key().to_owned()];
        topology.declare = self.declare;
        topology.options = QueueOptions::new(QueueMode::Shared, true);
        topology.options.expires = None;
        topology.options.max_length = Some(self.max_length);
        topology.options.overflow = Some(Overflow::DropHead);
        topology
    }

    /// The key that binds the queue to the exchange.
    #[must_use]
    pub fn binding_key(&self) -> &str {
        self.routing_key.as_deref().unwrap_or("#")
    }
}

/// How dead letters are written. [`DeadLetterConfig::new`] has the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetterConfig {
    /// Where the broker is. Dead letters have a connection of their own: the broker may block it.
    pub broker: BrokerConfig,
    /// What to declare and publish to.
    pub topology: DeadLetterTopology,
    /// Who drops the messages, for the header `x-lobby-instance`.
    pub instance: String,
    /// Dropped messages that may wait for their confirm (default 400, twice the usual prefetch); each is unacked
    /// meanwhile, and its body in memory. One more is acked and lost.
    pub max_pending: usize,
    /// How long one may wait for its confirm (default 2 s); then it, and all until the broker confirms again, are
    /// acked and lost, so that no player waits for a dead letter.
    pub timeout: Duration,
    /// The waits between attempts to connect.
    pub backoff: BackoffPolicy,
}

impl DeadLetterConfig {
    /// The defaults.
    #[must_use]
    pub fn new(broker: BrokerConfig, topology: DeadLetterTopology, instance: impl Into<String>) -> Self {
        Self {
            broker,
            topology,
            instance: instance.into(),
            max_pending: 400,
            timeout: Duration::from_secs(2),
            backoff: BackoffPolicy::default(),
        }
    }
}
