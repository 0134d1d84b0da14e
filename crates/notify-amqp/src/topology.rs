//! The exchange, the queue and the bindings that a consumer stands on.

use crate::{
    queue_name::QueueName,
    queue_options::{Lifetime, QueueOptions, QueueOptionsError},
};

/// What is declared before consuming. Declaring what exists with the same properties changes nothing.
///
/// The exchange is of type topic and durable. The queue is what its options say. By default it is durable, neither
/// exclusive nor auto-delete, and expires: messages that come while the lobby is away wait for it, and the queue of
/// an instance that never comes back disappears by itself.
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
    /// What kind of queue it is (default: an instance's own, reliable).
    pub options: QueueOptions,
    /// Whether exchange, queue and bindings are made, only looked for, or taken as they are (default active).
    pub declare: Declare,
}

/// What is done about exchange, queue and bindings before each time of consuming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Declare {
    /// They are made where they are missing.
    #[default]
    Active,
    /// Exchange and queue must be there, with whatever properties; bindings cannot be asked for.
    Passive,
    /// The queue is consumed from as it is. The user needs no permission but to read it.
    None,
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
            options: QueueOptions::default(),
            declare: Declare::Active,
        }
    }

    /// Checks what the broker would refuse, before anything connects.
    ///
    /// # Errors
    /// [`TopologyError`]: which two things do not go together.
    pub fn check(&self) -> Result<(), TopologyError> {
        self.options.check()?;
        if self.options.lifetime == Lifetime::Connection && self.declare != Declare::Active {
            return Err(TopologyError::ExclusiveNotDeclared);
        }
        Ok(())
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

/// Why a topology cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The queue's options do not go together.
    #[error(transparent)]
    Options(#[from] QueueOptionsError),
    /// An exclusive queue is there only once this consumer has declared it.
    #[error(
        "an exclusive queue must be declared by its consumer: choose active declarations, or a reliable queue"
    )]
    ExclusiveNotDeclared,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue_name::instance_queue;
    use crate::queue_options::QueueMode;

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

    #[test]
    fn f06_an_exclusive_queue_is_declared_by_its_consumer() {
        let mut topology = Topology::new("players", instance_queue("players", "pod-7").unwrap());
        topology.options = QueueOptions::new(QueueMode::PerInstance, false);
        assert_eq!(topology.check(), Ok(()));
        for declare in [Declare::Passive, Declare::None] {
            topology.declare = declare;
            assert_eq!(topology.check(), Err(TopologyError::ExclusiveNotDeclared));
        }
        topology.options = QueueOptions::default();
        assert_eq!(topology.check(), Ok(()));
    }
}
