//! Everything that the lobby stands on, in the order in which it can be made.

use std::collections::BTreeMap;

use notify_amqp::{Argument, Declare, Lifetime, Topology};
use serde::Serialize;
use serde_json::{Value, json};

use super::permission::Need;
use crate::config::{Config, ConfigError, dead_letter_topology, self_check, topology};

/// What permissions call the exchange without a name, through which receipts go to their queues.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// One thing on the broker.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Thing {
    Vhost {
        name: String,
    },
    Exchange {
        name: String,
        /// Others make it; the lobby only binds to it.
        foreign: bool,
    },
    Queue {
        name: String,
        /// It belongs to this instance alone, which makes it itself unless `queue.declare` says otherwise.
        own: bool,
        durable: bool,
        auto_delete: bool,
        exclusive: bool,
        arguments: BTreeMap<String, Value>,
    },
    Binding {
        exchange: String,
        queue: String,
        routing_key: String,
        /// It goes with this instance's own queue.
        own: bool,
    },
    /// Says the same as the queues' arguments, for all of them at once, and can be changed while they are there.
    Policy {
        name: String,
        pattern: String,
        definition: BTreeMap<String, Value>,
    },
    Permissions {
        user: String,
        configure: String,
        write: String,
        read: String,
    },
}

impl Thing {
    /// One word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Vhost { .. } => "virtual host",
            Self::Exchange { .. } => "exchange",
            Self::Queue { .. } => "queue",
            Self::Binding { .. } => "binding",
            Self::Policy { .. } => "policy",
            Self::Permissions { .. } => "permissions",
        }
    }

    /// What it is called; a binding after both its ends.
    pub fn name(&self) -> String {
        match self {
            Self::Vhost { name }
            | Self::Exchange { name, .. }
            | Self::Queue { name, .. }
            | Self::Policy { name, .. } => name.clone(),
            Self::Binding { exchange, queue, .. } => format!("{exchange} -> {queue}"),
            Self::Permissions { user, .. } => user.clone(),
        }
    }

    /// Its properties, for people.
    pub fn properties(&self) -> String {
        let pairs = |map: &BTreeMap<String, Value>| {
            map.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(" ")
        };
        match self {
            Self::Vhost { .. } => String::new(),
            Self::Exchange { foreign: true, .. } => "made by others".into(),
            Self::Exchange { .. } => "topic durable".into(),
            Self::Queue { durable, auto_delete, exclusive, arguments, .. } => {
                let flags = [(*durable, "durable"), (*auto_delete, "auto-delete"), (*exclusive, "exclusive")];
                let flags = flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned());
                let arguments = (!arguments.is_empty()).then(|| pairs(arguments));
                flags.chain(arguments).collect::<Vec<_>>().join(" ")
            }
            Self::Binding { routing_key, .. } => format!("routing-key={routing_key}"),
            Self::Policy { pattern, definition, .. } => format!("pattern={pattern} {}", pairs(definition)),
            Self::Permissions { configure, write, read, .. } => {
                format!("configure={configure} write={write} read={read}")
            }
        }
    }
}

/// A value as people write it.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The things, and what is known about them as a whole.
#[derive(Debug, Clone)]
pub struct Plan {
    pub vhost: String,
    /// Who the lobby logs in as.
    pub user: String,
    pub declare: Declare,
    /// Begins the names of the queues of all instances, where each has its own.
    pub instance_prefix: Option<String>,
    /// The queue that the lobby consumes from.
    pub queue: String,
    pub things: Vec<Thing>,
    pub(super) needs: Vec<Need>,
}

impl Plan {
    /// What `config` amounts to, for a lobby that logs in as `user`.
    ///
    /// # Errors
    /// As for the lobby's own start.
    pub fn of(config: &Config, user: &str) -> Result<Self, ConfigError> {
        let consumed = topology(config)?;
        let letters = dead_letter_topology(config)?.map(|letters| letters.topology());
        let vhost = config.broker_url.vhost().to_owned();
        let instance_prefix =
            consumed.queue.instance().and_then(|name| consumed.queue.as_str().strip_suffix(name));
        let mut things = vec![Thing::Vhost { name: vhost.clone() }];
        let mut needs = Vec::new();
        add(&mut things, &consumed, instance_prefix.is_some());
        needs.extend(Need::of(&consumed, instance_prefix));
        needs.push(Need::read_queue(consumed.queue.as_str(), instance_prefix));
        if self_check(config, &consumed.options)?.is_some() {
            needs.push(Need::write_exchange(&consumed.exchange));
        }
        if config.receipts {
            needs.push(Need::write_exchange(DEFAULT_EXCHANGE));
        }
        if let Some(letters) = &letters {
            add(&mut things, letters, false);
            needs.extend(Need::of(letters, None));
            needs.push(Need::write_exchange(&letters.exchange));
        }
        things.extend(policies(&consumed, instance_prefix, letters.as_ref()));
        let (configure, write, read) = Need::patterns(&needs);
        things.push(Thing::Permissions { user: user.to_owned(), configure, write, read });
        Ok(Self {
            vhost,
            user: user.to_owned(),
            declare: consumed.declare,
            instance_prefix: instance_prefix.map(str::to_owned),
            queue: consumed.queue.as_str().to_owned(),
            things,
            needs,
        })
    }
}

fn add(things: &mut Vec<Thing>, topology: &Topology, own: bool) {
    let options = &topology.options;
    things.push(Thing::Exchange { name: topology.exchange.clone(), foreign: false });
    for binding in &topology.more_bindings {
        things.push(Thing::Exchange { name: binding.exchange.clone(), foreign: true });
    }
    let queue = topology.queue.as_str().to_owned();
    things.push(Thing::Queue {
        name: queue.clone(),
        own,
        durable: options.durable(),
        auto_delete: options.lifetime == Lifetime::WhileConsumed,
        exclusive: options.lifetime == Lifetime::Connection,
        arguments: options
            .arguments()
            .into_iter()
            .map(|(name, value)| {
                let value = match value {
                    Argument::Number(number) => json!(number),
                    Argument::Bool(flag) => json!(flag),
                    Argument::Text(text) => json!(text),
                };
                (name.to_owned(), value)
            })
            .collect(),
    });
    for (exchange, key) in topology.bindings() {
        let (exchange, routing_key) = (exchange.to_owned(), key.to_owned());
        things.push(Thing::Binding { exchange, queue: queue.clone(), routing_key, own });
    }
}

/// What the lobbies' queues and the dead letters' are limited by even where somebody else declared them.
fn policies(consumed: &Topology, instance_prefix: Option<&str>, letters: Option<&Topology>) -> Vec<Thing> {
    let mut policies = Vec::new();
    let exact = |name: &str| format!("^{}$", regex::escape(name));
    if let Some(expires) = consumed.options.expires {
        let pattern = match instance_prefix {
            Some(prefix) => format!("^{}", regex::escape(prefix)),
            None => exact(consumed.queue.as_str()),
        };
        let millis = u64::try_from(expires.as_millis()).unwrap_or(u64::MAX);
        policies.push(Thing::Policy {
            name: format!("{}.lobby", consumed.exchange),
            pattern,
            definition: BTreeMap::from([("expires".to_owned(), json!(millis))]),
        });
    }
    if let Some(letters) = letters {
        let length = letters.options.max_length.unwrap_or(u32::MAX);
        policies.push(Thing::Policy {
            name: format!("{}.dead-letters", letters.exchange),
            pattern: exact(letters.queue.as_str()),
            definition: BTreeMap::from([
                ("max-length".to_owned(), json!(length)),
                ("overflow".to_owned(), json!("drop-head")),
            ]),
        });
    }
    policies
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{Sources, load};

    /// The plan of these flags, for pod-7 as user `lobby`.
    pub(in crate::topology) fn plan(flags: &[&str]) -> Plan {
        let usual = ["instance.name=pod-7", "broker.exchange=players", "broker.vhost=faf"];
        let flags = usual.iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
        let loaded = load(&Sources { flags, ..Sources::default() }).expect("accepted");
        Plan::of(&loaded.config, "lobby").expect("a plan")
    }

    fn lines(flags: &[&str]) -> Vec<String> {
        let line = |thing: &Thing| format!("{} {} {}", thing.kind(), thing.name(), thing.properties());
        plan(flags).things.iter().map(|thing| line(thing).trim_end().to_owned()).collect()
    }

    #[test]
    fn n14_the_plan_is_the_contracts_topology_in_the_order_of_making() {
        assert_eq!(
            lines(&[]),
            [
                "virtual host faf",
                "exchange players topic durable",
                "queue players.lobby.client.notify.pod-7 durable x-expires=600000",
                "binding players -> players.lobby.client.notify.pod-7 routing-key=request.client.notify",
                "binding players -> players.lobby.client.notify.pod-7 routing-key=lobby.canary.pod-7",
                r"policy players.lobby pattern=^players\.lobby\.client\.notify\. expires=600000",
                r"permissions lobby configure=^(players|players\.lobby\.client\.notify\..+)$ write=^(amq\.default|players|players\.lobby\.client\.notify\..+)$ read=^(players|players\.lobby\.client\.notify\..+)$",
            ]
        );
    }

    #[test]
    fn n14_dead_letters_modes_and_further_bindings_are_part_of_it() {
        let flags = [
            "dead_letter.exchange=graves",
            "queue.mode=shared",
            "queue.reliable=false",
            "queue.bindings=maps=m.*",
        ];
        assert_eq!(
            lines(&flags)[1..9],
            [
                "exchange players topic durable",
                "exchange maps made by others",
                "queue players.lobby.client.notify durable auto-delete x-expires=600000",
                "binding players -> players.lobby.client.notify routing-key=request.client.notify",
                "binding maps -> players.lobby.client.notify routing-key=m.*",
                "exchange graves topic durable",
                "queue graves durable x-max-length=10000 x-overflow=drop-head",
                "binding graves -> graves routing-key=#",
            ]
        );
        assert!(lines(&flags).contains(
            &"policy graves.dead-letters pattern=^graves$ max-length=10000 overflow=drop-head".into()
        ));
    }
}
