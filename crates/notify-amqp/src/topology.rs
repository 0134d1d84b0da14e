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
    /// Bindings to further exchanges, which must exist: only `exchange` is declared (default none).
    pub more_bindings: Vec<Binding>,
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
            more_bindings: Vec::new(),
            expires: Duration::from_secs(600),
        }
    }

    /// Every binding as exchange and routing key, in the order in which they are made.
    pub fn bindings(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.routing_keys.iter().map(|key| (self.exchange.as_str(), key.as_str()));
        let more = self.more_bindings.iter();
        own.chain(more.flat_map(|binding| {
            binding.routing_keys.iter().map(|key| (binding.exchange.as_str(), key.as_str()))
        }))
    }
}

/// What binds the queue to one exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The exchange that messages come from.
    pub exchange: String,
    /// One binding for each of these keys.
    pub routing_keys: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue_name::instance_queue;

    #[test]
    fn f04_every_key_of_every_exchange_is_a_binding() {
        let mut topology = Topology::new("players", instance_queue("players", "pod-7").unwrap());
        topology.routing_keys.push("canary.pod-7".into());
        topology.more_bindings.push(Binding {
            exchange: "maps".into(),
            routing_keys: vec!["map.added".into(), "map.removed".into()],
        });
        let bindings: Vec<_> = topology.bindings().collect();
        let expected = [
            ("players", notify_protocol::NOTIFY_ROUTING_KEY),
            ("players", "canary.pod-7"),
            ("maps", "map.added"),
            ("maps", "map.removed"),
        ];
        assert_eq!(bindings, expected);
    }
}
