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
    deadline,
    error::ConsumerError,
    hearing::{Hindrance, Outcome},
    host::HostOrder,
    self_check::{Monitor, SelfCheckConfig, SelfCheckFault},
    settlement::Settlement,
    stats::ConsumerStats,
    topology::{Declare, Topology},
};

/// What the broker refused is tried again after this time: each refusal costs it a line in its log.
const REFUSED_RETRY: Duration = Duration::from_secs(60);
/// The least time between two log lines about canaries that could not be published, or calls that were not answered.
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
    unanswered_told_at: Option<Instant>,
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
            unanswered_told_at: None,
            told: false,
        }
    }

    pub(crate) fn monitor(&self) -> &Arc<Monitor> {
        &self.monitor
    }

    /// Watches over a session that consumes; returns when it is of no use any more, and why.
    pub(crate) async fn watch(&mut self, connection: &Connection, settlement: &Settlement) -> ConsumerError {
        let (monitor, interval) = (self.monitor.clone(), self.interval);
        let fault = tokio::select! {
            biased;
            () = deafness(&monitor, settlement, interval) => SelfCheckFault::Deliveries,
            fault = self.rounds(connection) => fault,
        };
        monitor.repairs(fault);
        ConsumerError::SelfCheck(fault)
    }

    /// Closes the line in order. The runtime must not end before.
    pub(crate) async fn stop(&mut self) {
        if let Some(line) = self.line.take() {
            line.close().await;
        }
    }

    /// Round after round, until one finds a fault. What the broker does not answer, or refuses, is none: it says
    /// nothing about the deliveries.
    async fn rounds(&mut self, connection: &Connection) -> SelfCheckFault {
        self.may_bind = true;
        let mut ground = Ground { connection, channel: None, limit: self.publish_limit / 2 };
        loop {
            let next_round = deadline::after(Instant::now(), self.interval);
            if let Err(fault) = self.round(&mut ground).await {
                return fault;
            }
            sleep_until(next_round.into()).await;
        }
    }

    async fn round(&mut self, ground: &mut Ground<'_>) -> Result<(), SelfCheckFault> {
        self.look(ground).await?;
        match self.release_canary().await {
            Some(Outcome::NoExchange) => Err(SelfCheckFault::Exchange),
            Some(Outcome::Unroutable) if self.topology.declare == Declare::Active => {
                self.monitor.repairs(SelfCheckFault::Binding);
                warn!(queue = %self.topology.queue, "the queue's bindings were removed; binding it again");
                self.restore(ground).await?;
                self.release_canary().await;
                Ok(())
            }
            _ => self.bind(ground).await,
        }
    }

    /// Asks for the queue and its consumers.
    async fn look(&mut self, ground: &mut Ground<'_>) -> Result<(), SelfCheckFault> {
        let queue = &self.topology.queue;
        match ground.call("queue.declare", async |channel| channel.consumers(queue).await).await {
            Ok(consumers) if self.monitor.misses_consumer(consumers) => Err(SelfCheckFault::Consumer),
            Ok(_) => Ok(()),
            Err(ConsumerError::NotFound { .. }) => Err(SelfCheckFault::Queue),
            Err(error) => {
                self.tell_unanswered(&error, ground);
                Ok(())
            }
        }
    }

    /// Makes bindings again that are gone. They go with their exchange, which may be there again as another type: then
    /// whatever its type routes would be taken for notifications. They go with their queue too, which is for the consumer to
    /// make again.
    async fn restore(&mut self, ground: &mut Ground<'_>) -> Result<(), SelfCheckFault> {
        let topology = &self.topology;
        match ground.call("exchange.declare", async |channel| channel.declare_exchange(topology).await).await
        {
            Err(ConsumerError::ArgumentMismatch { .. }) => Err(SelfCheckFault::Exchange),
            // Who may not declare may be allowed to bind.
            _ => self.bind(ground).await,
        }
    }

    async fn bind(&mut self, ground: &mut Ground<'_>) -> Result<(), SelfCheckFault> {
        if !self.may_bind || self.topology.declare != Declare::Active {
            return Ok(());
        }
        let topology = &self.topology;
        match ground.call("queue.bind", async |channel| channel.bind(topology).await).await {
            Err(error @ ConsumerError::AccessRefused { .. }) => {
                self.may_bind = false;
                warn!(%error, hint = error.hint(), "self-check: bindings that are removed will not be made again");
                Ok(())
            }
            Err(ConsumerError::NotFound { text, .. }) if text.contains("no exchange") => {
                Err(SelfCheckFault::Exchange)
            }
            Err(ConsumerError::NotFound { .. }) => Err(SelfCheckFault::Queue),
            Err(error) => {
                self.tell_unanswered(&error, ground);
                Ok(())
            }
            Ok(()) => Ok(()),
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
        if !is_due(&mut self.told_at) {
            return;
        }
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

    /// A connection that is lost is the pump's to tell.
    fn tell_unanswered(&mut self, error: &ConsumerError, ground: &Ground<'_>) {
        if ground.connection.is_connected() && is_due(&mut self.unanswered_told_at) {
            warn!(%error, "self-check: whether queue and bindings are there is unknown; consuming goes on");
        }
    }
}

/// The self-check's own channel of the consumer's connection: what the broker refuses there does not end consuming.
struct Ground<'a> {
    connection: &'a Connection,
    channel: Option<Channel>,
    /// Opening the channel and one piece of work, together. The next canary waits for them.
    limit: Duration,
}

impl Ground<'_> {
    /// Works on the channel, and opens one where there is none. After an error it is given up: nobody knows what still
    /// comes on it.
    async fn call<T>(
        &mut self,
        call: &'static str,
        work: impl AsyncFnOnce(&Channel) -> Result<T, ConsumerError>,
    ) -> Result<T, ConsumerError> {
        let (limit, channel) = (self.limit, self.channel.take().filter(Channel::is_connected));
        let worked = async {
            let channel = match channel {
                Some(channel) => channel,
                None => Channel::of(self.connection, limit).await?,
            };
            Ok((work(&channel).await?, channel))
        };
        let (value, channel) =
            timeout(limit, worked).await.unwrap_or(Err(ConsumerError::TimedOut { call, after: limit }))?;
        self.channel = Some(channel);
        Ok(value)
    }
}

/// Ends when nothing has come for too long. Rounds do not hold it up, nor what they wait for.
async fn deafness(monitor: &Monitor, settlement: &Settlement, interval: Duration) {
    loop {
        let next = deadline::after(Instant::now(), interval);
        sleep_until(monitor.deaf_at().unwrap_or(next).min(next).into()).await;
        if monitor.is_deaf(settlement.is_held()) {
            return;
        }
    }
}

/// Whether something may be told that was told at this time; then that is now.
fn is_due(told_at: &mut Option<Instant>) -> bool {
    let due = told_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL);
    if due {
        *told_at = Some(Instant::now());
    }
    due
}
