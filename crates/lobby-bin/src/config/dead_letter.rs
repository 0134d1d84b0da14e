//! What the keys of `dead_letter` amount to.

use std::time::Duration;

use notify_amqp::{BackoffPolicy, DeadLetterConfig, DeadLetterTopology, QueueName};

use super::{broker::connection, fields::Config, load::ConfigError, queue, value::Name};

/// The keys as they were written.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterFields {
    pub exchange: Option<Name>,
    pub queue: String,
    pub routing_key: String,
    pub max_length: u32,
    pub max_pending: usize,
    pub timeout: Duration,
}

/// Exchange, queue and binding of dead letters; `None` where they are off.
///
/// # Errors
/// A name that the broker would refuse, or one that would bring dead letters back to where they came from.
pub fn dead_letter_topology(config: &Config) -> Result<Option<DeadLetterTopology>, ConfigError> {
    let fields = &config.dead_letter;
    let Some(exchange) = &fields.exchange else { return Ok(None) };
    let conflict = |text: String| Err(ConfigError::Conflict(text));
    let consumed = queue::topology(config)?;
    let back = consumed.bindings().any(|(bound, _)| bound == exchange.as_str());
    if back || *exchange == config.exchange {
        return conflict(format!(
            "`dead_letter.exchange` is {:?}, which this lobby consumes from: what is dropped would be delivered again, \
             for ever; give dead letters an exchange of their own",
            exchange.as_str()
        ));
    }
    let (key, name) = match fields.queue.as_str() {
        "" => ("exchange", exchange.as_str()),
        queue => ("queue", queue),
    };
    let queue = match QueueName::new(name) {
        Ok(queue) => queue,
        Err(error) => return conflict(format!("`dead_letter.{key}`: {error}")),
    };
    if consumed.queue.as_str() == queue.as_str() {
        return conflict(format!(
            "`dead_letter.queue` is {name:?}, the queue that this lobby consumes from; give dead letters one of their own"
        ));
    }
    if fields.routing_key.len() > 255 {
        return conflict(format!(
            "`dead_letter.routing_key` is {} bytes, limit 255; shorten it",
            fields.routing_key.len()
        ));
    }
    let mut topology = DeadLetterTopology::new(exchange.as_str(), queue);
    topology.routing_key = Some(fields.routing_key.clone()).filter(|key| !key.is_empty());
    topology.max_length = fields.max_length;
    topology.declare = config.queue.declare;
    Ok(Some(topology))
}

/// How dead letters are written; `None` where they are off.
///
/// # Errors
/// As for [`dead_letter_topology`].
pub fn dead_letters(config: &Config) -> Result<Option<DeadLetterConfig>, ConfigError> {
    let Some(topology) = dead_letter_topology(config)? else { return Ok(None) };
    let mut broker = connection(config);
    broker.connection_name.push_str(" dead letters");
    let mut letters = DeadLetterConfig::new(broker, topology, config.instance_name.as_str());
    letters.max_pending = match config.dead_letter.max_pending {
        // Those of a lost channel may still wait when a prefetch of new ones comes.
        0 => 2 * usize::from(config.prefetch),
        most => most,
    };
    letters.timeout = config.dead_letter.timeout;
    letters.backoff = BackoffPolicy { cap: config.reconnect_max, ..BackoffPolicy::default() };
    Ok(Some(letters))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn letters(flags: &[&str]) -> Result<Option<DeadLetterConfig>, ConfigError> {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        load(&Sources { flags, ..Sources::default() }).and_then(|loaded| dead_letters(&loaded.config))
    }

    #[test]
    fn n06_dead_letters_are_off_unless_an_exchange_is_named_and_that_is_enough() {
        assert!(letters(&[]).expect("accepted").is_none());
        assert!(letters(&["dead_letter.queue=q"]).expect("accepted").is_none());
        let letters = letters(&["dead_letter.exchange=graves"]).expect("accepted").expect("on");
        let topology = letters.topology;
        assert_eq!((topology.exchange.as_str(), topology.queue.as_str()), ("graves", "graves"));
        assert_eq!((topology.binding_key(), topology.max_length), ("#", 10_000));
        assert_eq!((letters.max_pending, letters.timeout.as_secs()), (400, 2));
        assert!(letters.broker.connection_name.ends_with(" dead letters"));
    }

    #[test]
    fn n06_every_key_counts() {
        let flags = ["exchange=e", "queue=q", "routing_key=k", "max_length=5", "max_pending=3", "timeout=9s"];
        let flags = flags.map(|flag| format!("dead_letter.{flag}"));
        let letters = letters(&flags.each_ref().map(String::as_str)).expect("accepted").expect("on");
        let topology = letters.topology;
        assert_eq!((topology.exchange.as_str(), topology.queue.as_str()), ("e", "q"));
        assert_eq!((topology.binding_key(), topology.routing_key.as_deref()), ("k", Some("k")));
        assert_eq!((topology.max_length, letters.max_pending, letters.timeout.as_secs()), (5, 3, 9));
    }

    #[test]
    fn n06_what_would_bring_dead_letters_back_or_the_broker_would_refuse_is_refused_at_the_start() {
        let long = format!("dead_letter.routing_key={}", "k".repeat(256));
        for (flags, says) in [
            (vec!["dead_letter.exchange=faf-lobby"], "for ever"),
            (vec!["dead_letter.exchange=e", "queue.bindings=other=k,e=k"], "for ever"),
            (
                vec![
                    "dead_letter.exchange=e",
                    "instance.name=a",
                    "dead_letter.queue=faf-lobby.lobby.client.notify.a",
                ],
                "consumes from",
            ),
            (vec!["dead_letter.exchange=amq.topic"], "`dead_letter.exchange`"),
            (vec!["dead_letter.exchange=e", "dead_letter.queue=amq.q"], "`dead_letter.queue`"),
            (vec!["dead_letter.exchange=e", &long], "256 bytes"),
            (vec!["dead_letter.exchange=a b"], "white space"),
            (vec!["dead_letter.max_length=0"], "from 1 to"),
            (vec!["dead_letter.timeout=0s"], "10ms"),
        ] {
            let error = letters(&flags).expect_err(says).to_string();
            assert!(error.contains(says), "{flags:?}: {error}");
        }
    }
}
