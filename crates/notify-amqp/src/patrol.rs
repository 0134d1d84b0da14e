//! The self-check at work beside one session of the consumer, on the consumer's thread.
//!
//! Each round asks the broker for queue and consumer, publishes a canary, and makes the bindings again. The canary
//! shows that its own binding is there. Of the others' bindings AMQP tells nothing: a topic exchange cannot be asked,
//! and a message with their key would reach every other lobby. So they are simply made again, which costs one call
//! and does nothing where they are there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lapin::{BasicProperties, types::ShortString};
use tokio::time::{sleep_until, timeout};
use tracing::{info, warn};

use crate::{
    broker::BrokerConfig,
    canary::Canary,
    canary_line::CanaryLine,
    channel::{Channel, short},
    connection::Connection,
    consumer::ConsumerConfig,
    error::ConsumerError,
    hearing::{Hindrance, Outcome},
    host::HostOrder,
    self_check::{Monitor, SelfCheckConfig, SelfCheckFault},
    stats::ConsumerStats,
    topology::{Declare, Topology},
};

/// What the broker refused is tried again after this time: each refusal costs it a line in its log.
const REFUSED_RETRY: Duration = Duration::from_secs(60);
/// The least time between two log lines about canaries that could not be published.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// The self-check of one consumer, for its whole life.
pub(crate) struct Patrol {
    monitor: Arc<Monitor>,
    interval: Duration,
    broker: BrokerConfig,
    topology: Topology,
    hosts: HostOrder,
    line: Option<CanaryLine>,
    /// A canary that is not confirmed for so long is given up.
    publish_limit: Duration,
    /// The canary's expiration, in milliseconds.
    expiration: ShortString,
    published: u64,
    /// What the broker refused, and when to ask again.
    refused: Option<(Hindrance, Instant)>,
    /// Whether the user may bind, as far as is known.
    may_bind: bool,
    told_at: Option<Instant>,
    /// The last word in the log about canaries was that none can be published.
    told: bool,
}

impl Patrol {
    /// Prepares; `config` gets the canary's binding.
    pub(crate) fn new(
        check: &SelfCheckConfig,
        config: &mut ConsumerConfig,
        stats: Arc<ConsumerStats>,
    ) -> Self {
        let canary = Canary::new(&config.topology.queue, fastrand::u64(..));
        let keys = &mut config.topology.routing_keys;
        if !keys.iter().any(|key| key == canary.key()) {
            keys.push(canary.key().to_owned());
        }
        let mut broker = config.broker.clone();
        broker.connection_name += " self-check";
        Self {
            monitor: Arc::new(Monitor::new(canary, check.max_age, stats)),
            interval: check.interval,
            hosts: broker.hosts(),
            broker,
            topology: config.topology.clone(),
            line: None,
            publish_limit: (check.max_age / 2).min(config.broker.call_timeout),
            expiration: check.max_age.as_millis().max(1).to_string().into(),
            published: 0,
            refused: None,
            may_bind: true,
            told_at: None,
            told: false,
        }
    }

    pub(crate) fn monitor(&self) -> &Arc<Monitor> {
        &self.monitor
    }

    /// Watches over a session that consumes; returns when it is of no use any more, and why.
    pub(crate) async fn watch(&mut self, connection: &Connection) -> ConsumerError {
        self.may_bind = true;
        let mut ground = None;
        let mut next_round = Instant::now();
        loop {
            let deaf_at = self.monitor.deaf_at().unwrap_or(next_round);
            sleep_until(next_round.min(deaf_at).into()).await;
            if self.monitor.is_deaf() {
                return self.fault(SelfCheckFault::Deliveries);
            }
            let now = Instant::now();
            if now < next_round {
                continue; // something was heard meanwhile
            }
            next_round = now + self.interval;
            if let Err(error) = self.round(connection, &mut ground).await {
                return error;
            }
        }
    }

    /// Closes the line in order. The runtime must not end before.
    pub(crate) async fn stop(&mut self) {
        if let Some(line) = self.line.take() {
            line.close().await;
        }
    }

    async fn round(
        &mut self,
        connection: &Connection,
        ground: &mut Option<Channel>,
    ) -> Result<(), ConsumerError> {
        // Not the consumer's channel: what the broker refuses here must not end consuming.
        let ground = match ground {
            Some(ground) if ground.is_connected() => ground,
            _ => ground.insert(Channel::of(connection, self.broker.call_timeout).await?),
        };
        self.look(ground).await?;
        let outcome = self.release_canary().await;
        if outcome == Some(Outcome::Unroutable) && self.topology.declare == Declare::Active {
            self.monitor.repairs(SelfCheckFault::Binding);
            warn!(queue = %self.topology.queue, "the queue's bindings were removed; binding it again");
            self.bind(ground).await?;
            self.release_canary().await;
        } else if outcome == Some(Outcome::NoExchange) {
            return Err(self.fault(SelfCheckFault::Exchange));
        } else {
            self.bind(ground).await?;
        }
        Ok(())
    }

    /// Asks for the queue and its consumers.
    async fn look(&self, ground: &Channel) -> Result<(), ConsumerError> {
        match ground.consumers(&self.topology.queue).await {
            Ok(consumers) if self.monitor.misses_consumer(consumers) => {
                Err(self.fault(SelfCheckFault::Consumer))
            }
            Ok(_) => Ok(()),
            Err(ConsumerError::NotFound { .. }) => Err(self.fault(SelfCheckFault::Queue)),
            Err(error) => Err(error),
        }
    }

    async fn bind(&mut self, ground: &Channel) -> Result<(), ConsumerError> {
        if !self.may_bind || self.topology.declare != Declare::Active {
            return Ok(());
        }
        match ground.bind(&self.topology).await {
            Err(error @ ConsumerError::AccessRefused { .. }) => {
                self.may_bind = false;
                warn!(%error, hint = error.hint(), "self-check: bindings that are removed will not be made again");
                Ok(())
            }
            Err(ConsumerError::NotFound { text, .. }) if text.contains("no exchange") => {
                Err(self.fault(SelfCheckFault::Exchange))
            }
            Err(ConsumerError::NotFound { .. }) => Err(self.fault(SelfCheckFault::Queue)),
            other => other,
        }
    }

    /// Publishes a canary unless the broker refused one a short while ago.
    async fn release_canary(&mut self) -> Option<Outcome> {
        if let Some((hindrance, again_at)) = &self.refused {
            if Instant::now() < *again_at {
                self.monitor.still_hindered(hindrance);
                return None;
            }
            self.refused = None;
        }
        let mut outcome = self.publish().await;
        if outcome == Outcome::Unroutable && self.topology.declare != Declare::Active {
            let key = self.monitor.canary.key();
            let reason = format!("its key {key:?} is not bound to the queue, and nothing is declared here");
            outcome = Outcome::Hindered(Hindrance::Refused { reason });
        }
        if let Outcome::Hindered(hindrance) = &outcome {
            if matches!(hindrance, Hindrance::Refused { .. }) {
                self.refused = Some((hindrance.clone(), Instant::now() + REFUSED_RETRY));
            }
            self.tell(hindrance);
        } else if outcome == Outcome::Confirmed && std::mem::take(&mut self.told) {
            info!("self-check: canaries are published again");
        }
        self.monitor.published(outcome.clone());
        Some(outcome)
    }

    /// Cancelling the future cuts the line: nobody else waits for that canary's confirm.
    async fn publish(&mut self) -> Outcome {
        let opened = match self.line.take().filter(CanaryLine::is_usable) {
            Some(line) => Ok(Ok(line)),
            None => timeout(self.publish_limit, CanaryLine::open(&self.broker, &mut self.hosts)).await,
        };
        let line = match opened {
            Ok(Ok(line)) => line,
            Ok(Err(hindrance)) => return Outcome::Hindered(hindrance),
            Err(_) => {
                let reason = format!("no connection within {:?}", self.publish_limit);
                return Outcome::Hindered(Hindrance::Unreachable { reason });
            }
        };
        let names = short("exchange name", &self.topology.exchange)
            .and_then(|exchange| Ok((exchange, short("routing key", self.monitor.canary.key())?)));
        let (exchange, key) = match names {
            Ok(names) => names,
            Err(error) => return Outcome::Hindered(Hindrance::Refused { reason: error.to_string() }),
        };
        let outcome = if line.is_blocked() {
            // lapin would keep the canary and send it when nobody waits for it any more.
            Outcome::Hindered(Hindrance::Blocked)
        } else {
            self.published += 1;
            let body = self.monitor.canary.body(self.published);
            // Transient: a canary that a broker forgets over a restart is none that anybody misses.
            let properties = BasicProperties::default()
                .with_content_type("text/plain".into())
                .with_delivery_mode(1)
                .with_expiration(self.expiration.clone());
            let publishing = line.publish(exchange, key, body.as_bytes(), properties);
            match timeout(self.publish_limit, publishing).await {
                Ok(outcome) => outcome,
                Err(_) if line.is_blocked() => Outcome::Hindered(Hindrance::Blocked),
                Err(_) => return Outcome::Unconfirmed,
            }
        };
        self.line = line.is_usable().then_some(line);
        outcome
    }

    fn tell(&mut self, hindrance: &Hindrance) {
        if self.told_at.is_some_and(|at| at.elapsed() < TELL_INTERVAL) {
            return;
        }
        self.told_at = Some(Instant::now());
        self.told = true;
        let hint = matches!(hindrance, Hindrance::Refused { .. }).then(|| {
            format!(
                "let the user write to exchange {:?}, bind the queue to {:?} where the lobby does not, or switch the self-check off (LOBBY_SELF_CHECK__INTERVAL=off)",
                self.topology.exchange,
                self.monitor.canary.key()
            )
        });
        warn!(reason = %hindrance, hint, "self-check: whether messages come through is unknown");
    }

    fn fault(&self, fault: SelfCheckFault) -> ConsumerError {
        self.monitor.repairs(fault);
        ConsumerError::SelfCheck(fault)
    }
}
