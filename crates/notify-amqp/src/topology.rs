//! The exchange, the queue and the bindings that a consumer stands on.

use std::time::Duration;

use crate::queue_name::QueueName;

/// What is declared before consuming. Declaring what exists with the same properties changes nothing.
///
/// The exchange is of type topic and durable. The queue is durable, neither exclusive nor auto-delete,
/// and expires: messages that come while the lobby is away wait for it, and the queue of an instance that
/// never comes back disappears by itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Topology {
    /// The exchange that publishers publish to.
    pub exchange: String,
    /// The queue to consume from.
    pub queue: QueueName,
    /// The routing keys that bind the queue to the exchange (default: the contract's one).
    pub routing_keys: Vec<String>,
    /// The broker deletes the queue after this time without a consumer (default 10 min).
    pub expires: Duration,
}

impl Topology {
    /// Binds `queue` to `exchange` with the contract's routing key.
    #[must_use]
    pub fn new(exchange: impl Into<String>, queue: QueueName) -> Self {
        Self {
            exchange: exchange.into(),
            queue,
            routing_keys: vec![notify_protocol::NOTIFY_ROUTING_KEY.into()],
            expires: Duration::from_secs(600),
        }
    }
}
