//! The consumer that the keys of `broker`, `queue`, `self_check` and `shutdown` amount to.

use notify_amqp::{BackoffPolicy, ConsumerConfig};

use super::{broker::connection, fields::Config, load::ConfigError, queue::topology, self_check::self_check};

/// What is consumed, from where, and within which limits.
///
/// # Errors
/// Keys that make no sense together.
pub fn consumer(config: &Config) -> Result<ConsumerConfig, ConfigError> {
    let mut consumer =
        ConsumerConfig::new(connection(config), topology(config)?).with_prefetch(config.prefetch);
    if config.ack_batch > 0 {
        consumer.ack_batch = config.ack_batch.min(config.prefetch);
    }
    consumer.ack_delay = config.ack_delay;
    consumer.self_check = self_check(config, &consumer.topology.options)?;
    consumer.backoff = BackoffPolicy { cap: config.reconnect_max, ..BackoffPolicy::default() };
    consumer.standby.cap = config.standby_retry_max;
    consumer.stop_on_cancel = config.exit_on_cancel;
    consumer.stop_timeout = config.drain_timeout / 3;
    Ok(consumer)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Sources, load};

    #[test]
    fn each_limit_towards_the_broker_reaches_the_consumer() {
        let flags = [
            "broker.prefetch=7",
            "broker.ack_batch=100",
            "broker.connect_timeout=11s",
            "broker.call_timeout=13s",
            "broker.heartbeat=17s",
            "broker.reconnect_max=19s",
            "queue.standby_retry_max=23s",
            "self_check.max_age=29s",
            "shutdown.drain_timeout=33s",
        ];
        let flags = flags.map(str::to_owned).into();
        let config = load(&Sources { flags, ..Sources::default() }).expect("accepted").config;
        let consumer = consumer(&config).expect("accepted");
        let seconds = Duration::from_secs;
        assert_eq!((consumer.prefetch, consumer.ack_batch), (7, 7), "no batch waits for more than may come");
        let broker = &consumer.broker;
        assert_eq!((broker.connect_timeout, broker.call_timeout), (seconds(11), seconds(13)));
        assert_eq!(broker.heartbeat, seconds(17));
        assert_eq!((consumer.backoff.cap, consumer.standby.cap), (seconds(19), seconds(23)));
        assert_eq!(consumer.self_check.map(|check| check.max_age), Some(seconds(29)));
        assert_eq!(consumer.stop_timeout, seconds(11));
    }
}
