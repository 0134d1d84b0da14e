//! The exchange, queue and bindings that the keys of `queue` amount to.
//!
//! Pure. What RabbitMQ would refuse, or what would silently do something else than it says, is refused here.

use std::time::Duration;

use notify_amqp::{
    Binding, Declare, Overflow, QueueMode, QueueName, QueueOptions, QueueOptionsError, QueueType, Topology,
    TopologyError, canary_key, instance_queue, shared_queue,
};

use super::{fields::Config, load::ConfigError, self_check::self_check};

/// The longest routing key AMQP can carry, in bytes.
const MAX_ROUTING_KEY_BYTES: usize = 255;

/// The keys as they were written; `None` and empty mean unset.
#[derive(Debug, Clone, Default)]
pub struct QueueFields {
    pub mode: QueueMode,
    pub name: String,
    pub reliable: bool,
    pub declare: Declare,
    pub routing_keys: Vec<String>,
    /// Exchange and routing key.
    pub bindings: Vec<(String, String)>,
    pub expires: Duration,
    pub message_ttl: Option<Duration>,
    pub max_length: Option<u32>,
    pub max_length_bytes: Option<u64>,
    pub overflow: Option<Overflow>,
    pub queue_type: Option<QueueType>,
    pub single_active_consumer: bool,
    pub max_priority: Option<u8>,
    pub delivery_limit: Option<u32>,
}

/// What the lobby declares and consumes from, with the binding of the self-check's canaries where there is one.
///
/// # Errors
/// Keys that do not go together, each named, with what to set instead.
pub fn topology(config: &Config) -> Result<Topology, ConfigError> {
    let fields = &config.queue;
    refuse_what_misleads(config)?;
    let mut topology = Topology::new(config.exchange.as_str(), queue_name(config)?);
    topology.declare = fields.declare;
    topology.routing_keys.clone_from(&fields.routing_keys);
    for (exchange, key) in &fields.bindings {
        match topology.more_bindings.iter_mut().find(|binding| binding.exchange == *exchange) {
            Some(binding) => binding.routing_keys.push(key.clone()),
            None => topology
                .more_bindings
                .push(Binding { exchange: exchange.clone(), routing_keys: vec![key.clone()] }),
        }
    }
    topology.options = options(fields);
    match topology.check() {
        Ok(()) => {
            if self_check(config, &topology.options)?.is_some() {
                topology.routing_keys.push(canary_key(&topology.queue));
            }
            Ok(topology)
        }
        Err(error) => Err(ConfigError::Conflict(format!("{}: {error}", keys(error)))),
    }
}

fn options(fields: &QueueFields) -> QueueOptions {
    let mut options = QueueOptions::new(fields.mode, fields.reliable);
    // An exclusive queue goes with its connection: nothing is left to expire.
    options.expires = options.expires.map(|_| fields.expires);
    options.queue_type = fields.queue_type;
    options.message_ttl = fields.message_ttl;
    (options.max_length, options.max_length_bytes) = (fields.max_length, fields.max_length_bytes);
    options.overflow = fields.overflow;
    options.max_priority = fields.max_priority;
    options.delivery_limit = fields.delivery_limit;
    options.single_active_consumer = fields.single_active_consumer;
    // The broker does not take both, and here the wish for the one is explicit.
    options.exclusive_consumer &= !fields.single_active_consumer;
    options
}

fn queue_name(config: &Config) -> Result<QueueName, ConfigError> {
    let (fields, exchange) = (&config.queue, config.exchange.as_str());
    let (keys, name) = match fields.mode {
        _ if !fields.name.is_empty() => ("`queue.name`", QueueName::new(fields.name.as_str())),
        QueueMode::PerInstance => {
            ("`broker.exchange` and `instance.name`", instance_queue(exchange, config.instance_name.as_str()))
        }
        QueueMode::Shared | QueueMode::Singleton => ("`broker.exchange`", shared_queue(exchange)),
    };
    name.map_err(|error| ConfigError::Conflict(format!("{keys}: {error}")))
}

fn refuse_what_misleads(config: &Config) -> Result<(), ConfigError> {
    let fields = &config.queue;
    let own_queue = fields.mode == QueueMode::PerInstance;
    let conflict = |text: String| Err(ConfigError::Conflict(text));
    if own_queue && fields.reliable && config.instance_random && fields.name.is_empty() {
        return conflict(
            "`instance.name` = \"random\" does not go with `queue.reliable` = true: after a restart the lobby has \
             another name, and nobody would ever read what waits in the queue of the old one; set `queue.reliable` = \
             false (LOBBY_QUEUE__RELIABLE), or give the instance a name that lasts (LOBBY_INSTANCE__NAME)"
                .to_owned(),
        );
    }
    if own_queue && fields.single_active_consumer {
        return conflict(
            "`queue.single_active_consumer` does not go with `queue.mode` = \"per-instance\": a second lobby of the \
             same name would look ready and receive nothing; choose the mode \"shared\" or \"singleton\""
                .to_owned(),
        );
    }
    if fields.routing_keys.is_empty() && fields.bindings.is_empty() && fields.declare == Declare::Active {
        return conflict(
            "`queue.routing_keys` and `queue.bindings` are both empty, so nothing would ever arrive: name a routing \
             key (request.client.notify), or set `queue.declare` = \"passive\" if the queue is bound by others"
                .to_owned(),
        );
    }
    let keys = fields.routing_keys.iter().chain(fields.bindings.iter().map(|(_, key)| key));
    if let Some(long) = keys.into_iter().find(|key| key.len() > MAX_ROUTING_KEY_BYTES) {
        return conflict(format!(
            "`queue.routing_keys` or `queue.bindings`: {long:?} is {} bytes, limit {MAX_ROUTING_KEY_BYTES}",
            long.len()
        ));
    }
    Ok(())
}

/// The keys that a refusal is about.
fn keys(error: TopologyError) -> &'static str {
    match error {
        TopologyError::ExclusiveNotDeclared => "`queue.declare`, `queue.reliable` and `queue.mode`",
        TopologyError::Options(error) => match error {
            QueueOptionsError::QuorumExclusive | QueueOptionsError::QuorumAutoDelete => {
                "`queue.type` and `queue.reliable`"
            }
            QueueOptionsError::QuorumPriority => "`queue.type` and `queue.max_priority`",
            QueueOptionsError::QuorumOverflow => "`queue.type` and `queue.overflow`",
            QueueOptionsError::DeliveryLimitNeedsQuorum => "`queue.type` and `queue.delivery_limit`",
            QueueOptionsError::OverflowNeedsLimit => "`queue.overflow` and `queue.max_length`",
            _ => "`queue`",
        },
        _ => "`queue`",
    }
}

#[cfg(test)]
mod tests {
    use notify_amqp::Lifetime;

    use super::*;
    use crate::config::{Sources, load};

    /// The topology of `queue.…=…` flags, or the refusal.
    fn of(flags: &[&str]) -> Result<Topology, String> {
        let usual = ["instance.name=pod-7", "broker.exchange=players"];
        let flags = usual.iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
        let loaded = load(&Sources { flags, ..Sources::default() }).map_err(|error| error.to_string())?;
        topology(&loaded.config).map_err(|error| error.to_string())
    }

    #[test]
    fn k05_the_default_is_what_the_contract_says() {
        let topology = of(&[]).expect("accepted");
        assert_eq!(topology.queue.as_str(), "players.lobby.client.notify.pod-7");
        assert_eq!(topology.options, QueueOptions::default());
        let bindings: Vec<_> = topology.bindings().collect();
        assert_eq!(bindings, [("players", "request.client.notify"), ("players", "lobby.canary.pod-7")]);
        assert_eq!(topology.declare, Declare::Active);
    }

    #[test]
    fn k03_k04_k06_each_mode_has_its_queue() {
        for (flags, name, lifetime, exclusive) in [
            (&["queue.mode=shared"][..], "players.lobby.client.notify", Lifetime::Durable, false),
            (&["queue.mode=singleton"], "players.lobby.client.notify", Lifetime::Durable, true),
            (
                &["queue.mode=shared", "queue.reliable=false"],
                "players.lobby.client.notify",
                Lifetime::WhileConsumed,
                false,
            ),
            (&["queue.reliable=false"], "players.lobby.client.notify.pod-7", Lifetime::Connection, false),
            (&["queue.name=mine"], "mine", Lifetime::Durable, true),
            (
                &["queue.mode=shared", "instance.name=random"],
                "players.lobby.client.notify",
                Lifetime::Durable,
                false,
            ),
            (&["queue.name=mine", "instance.name=random"], "mine", Lifetime::Durable, true),
            (
                &["queue.mode=singleton", "queue.single_active_consumer=true"],
                "players.lobby.client.notify",
                Lifetime::Durable,
                false,
            ),
        ] {
            let topology = of(flags).unwrap_or_else(|error| panic!("{flags:?}: {error}"));
            let options = &topology.options;
            assert_eq!(
                (topology.queue.as_str(), options.lifetime, options.exclusive_consumer),
                (name, lifetime, exclusive),
                "{flags:?}"
            );
        }
    }

    #[test]
    fn k06_a_random_name_is_another_one_each_time() {
        let name = || of(&["instance.name=random", "queue.reliable=false"]).expect("accepted").queue;
        let (one, other) = (name(), name());
        assert_ne!(one, other);
        assert!(one.instance().is_some_and(|instance| instance.starts_with("random-")), "{one}");
    }

    #[test]
    fn k08_a_reliable_queue_for_a_random_name_is_refused_with_the_reason() {
        let error = of(&["instance.name=random"]).expect_err("refused");
        for part in ["instance.name", "queue.reliable", "after a restart", "LOBBY_QUEUE__RELIABLE"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn f04_n07_bindings_of_one_exchange_are_kept_together() {
        let topology = of(&[
            "queue.routing_keys=request.client.notify, chat.#",
            "queue.bindings=maps=added,news=*,maps=removed",
            "self_check.interval=off",
        ]);
        let expected = [
            ("players", "request.client.notify"),
            ("players", "chat.#"),
            ("maps", "added"),
            ("maps", "removed"),
            ("news", "*"),
        ];
        assert_eq!(topology.expect("accepted").bindings().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn f03_n04_arguments_are_set_by_their_keys() {
        let topology = of(&[
            "queue.type=quorum",
            "queue.expires=1h",
            "queue.message_ttl=12h",
            "queue.max_length=1000",
            "queue.max_length_bytes=1MiB",
            "queue.overflow=reject-publish",
            "queue.delivery_limit=0",
        ]);
        let options = topology.expect("accepted").options;
        assert_eq!(options.queue_type, Some(QueueType::Quorum));
        assert_eq!(options.expires, Some(Duration::from_secs(3600)));
        assert_eq!(options.message_ttl, Some(Duration::from_secs(12 * 3600)));
        assert_eq!((options.max_length, options.max_length_bytes), (Some(1000), Some(1 << 20)));
        assert_eq!(options.overflow, Some(Overflow::RejectPublish));
        assert_eq!(options.delivery_limit, Some(0));
        let old = of(&["broker.queue_expires=7m"]).expect("the key's former name").options;
        assert_eq!(old.expires, Some(Duration::from_secs(420)));
    }

    #[test]
    fn what_does_not_go_together_names_its_keys() {
        for (flags, says) in [
            (&["queue.type=quorum", "queue.reliable=false"][..], "`queue.type` and `queue.reliable`"),
            (
                &["queue.type=quorum", "queue.mode=shared", "queue.reliable=false"],
                "`queue.type` and `queue.reliable`",
            ),
            (&["queue.type=quorum", "queue.max_priority=3"], "`queue.max_priority`"),
            (
                &["queue.type=quorum", "queue.max_length=1", "queue.overflow=reject-publish-dlx"],
                "`queue.overflow`",
            ),
            (&["queue.delivery_limit=3"], "`queue.delivery_limit`"),
            (&["queue.overflow=drop-head"], "`queue.max_length`"),
            (&["queue.single_active_consumer=true"], "`queue.mode`"),
            (&["queue.declare=passive", "queue.reliable=false"], "`queue.declare`"),
            (&["queue.routing_keys="], "nothing would ever arrive"),
            (&["queue.name=amq.mine"], "`queue.name`"),
            (&["queue.mode=broadcast"], "\"per-instance\" or \"shared\" or \"singleton\""),
            (&["queue.max_priority=256"], "from 1 to 255"),
        ] {
            let error = of(flags).expect_err(says);
            assert!(error.contains(says), "{flags:?}: {error}");
        }
    }
}
