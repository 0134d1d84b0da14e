//! Keeps one consumer alive: connect, declare, consume, and after whatever goes wrong the same again.
//!
//! Nothing survives a failure but the queue: connection, channel, topology and consumer are made anew,
//! because in each of them lapin may look alive and be dead.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::{
    backoff::Backoff,
    channel::{Channel, refuses_cancel_on_loss},
    connection::Connection,
    consumer::{ConsumerConfig, Dispatch},
    error::ConsumerError,
    guarded_dispatch::GuardedDispatch,
    host::HostOrder,
    outcome::RequeueRule,
    patrol::Patrol,
    pump::{Pump, Redelivered},
    queue_options::QueueType,
    self_check::SelfCheck,
    settlement::Settlement,
    stats::ConsumerStats,
    status::{ConsumerFailure, ConsumerStatus, StopReason, Stopped},
    stop::{StopListener, StopSignal},
};

/// The task of the consumer's thread.
pub(crate) struct Supervisor<D> {
    config: ConsumerConfig,
    dispatch: D,
    stop: StopListener,
    stop_signal: StopSignal,
    status: watch::Sender<ConsumerStatus>,
    stats: Arc<ConsumerStats>,
    backoff: Backoff,
    hosts: HostOrder,
    /// When it last consumed.
    consumed: Option<Instant>,
    patrol: Option<Patrol>,
    /// Whether a broker that may lose a consumer with its queue is asked not to: until it does not know how.
    cancel_on_loss: bool,
}

/// The last RabbitMQ that looks for a queue of the same name before it cancels a consumer.
const LOSES_CONSUMERS: u16 = 3;

impl<D: Dispatch> Supervisor<D> {
    pub(crate) fn new(
        mut config: ConsumerConfig,
        dispatch: D,
        (stop_signal, stop): (StopSignal, StopListener),
        status: watch::Sender<ConsumerStatus>,
        stats: Arc<ConsumerStats>,
    ) -> Self {
        let backoff = Backoff::new(config.backoff);
        let hosts = config.broker.hosts();
        let check = config.self_check.clone();
        let patrol = check.map(|check| Patrol::new(&check, &mut config, stats.clone()));
        let cancel_on_loss = config.topology.options.queue_type != Some(QueueType::Quorum);
        Self {
            config,
            dispatch,
            stop,
            stop_signal,
            status,
            stats,
            backoff,
            hosts,
            consumed: None,
            patrol,
            cancel_on_loss,
        }
    }

    /// The self-check, where it is configured.
    pub(crate) fn self_check(&self) -> Option<SelfCheck> {
        self.patrol.as_ref().map(|patrol| SelfCheck::new(patrol.monitor().clone()))
    }

    /// Runs until it is stopped.
    pub(crate) async fn run(mut self) -> Stopped {
        let stopped = self.run_until_stopped().await;
        if let Some(patrol) = &mut self.patrol {
            patrol.stop().await;
        }
        stopped
    }

    async fn run_until_stopped(&mut self) -> Stopped {
        if let Some(warning) = self.config.broker.warning() {
            warn!(warning, "the way to the broker is not safe");
        }
        let mut last = None;
        loop {
            self.status.send_replace(connecting(&self.backoff, last));
            let mut stop = self.stop.clone();
            let connected = tokio::select! {
                biased;
                _ = stop.wait_for(Option::is_some) => return self.stopped_early(),
                connected = self.connect() => connected,
            };
            let failure = match connected {
                Ok(session) => match self.consume(session).await {
                    Ok(stopped) => return stopped,
                    Err(failure) => failure,
                },
                Err(error) => error.into(),
            };
            let ConsumerFailure { error, hint } = failure.clone();
            last = Some(failure);
            if self.config.stop_on_cancel && error.is_cancel() {
                error!(%error, "not consuming any more");
                self.stop_signal.give(StopReason::Cancelled);
                return Stopped { clean: true, ..stopped(&self.stop) };
            }
            let retry_in = self.wait_after(&error);
            let attempt = self.backoff.failures();
            self.stats.failures.add(1);
            let retry_in_ms = retry_in.as_millis() as u64;
            let advice = hint.as_deref();
            if error.is_permanent() {
                error!(%error, hint = advice, attempt, retry_in_ms, "not consuming until somebody acts");
            } else {
                warn!(%error, hint = advice, attempt, retry_in_ms, "not consuming");
            }
            self.status.send_replace(ConsumerStatus::Waiting { error, hint, attempt, retry_in });
            tokio::select! {
                biased;
                _ = stop.wait_for(Option::is_some) => return self.stopped_early(),
                () = tokio::time::sleep(retry_in) => {}
            }
        }
    }

    /// Whoever finds its queue taken waits longer, unless it consumed a moment ago: then it is most likely its own
    /// old connection that has the queue, until the broker misses two heartbeats: it looks once in a heartbeat, and
    /// takes a moment to let go.
    fn wait_after(&mut self, error: &ConsumerError) -> Duration {
        let now = Instant::now();
        let own_shadow = self.config.broker.heartbeat * 4;
        let recently = self.consumed.is_some_and(|end| now.saturating_duration_since(end) < own_shadow);
        let policy = if error.is_in_use() && !recently { self.config.standby } else { self.config.backoff };
        self.backoff.failed_under(policy, now, fastrand::u64(..))
    }

    async fn connect(&mut self) -> Result<Session, ConsumerError> {
        let config = &self.config;
        let (connection, host) = Connection::open_any(&config.broker, &mut self.hosts, &self.stats).await?;
        let prepared = async {
            let call_timeout = config.broker.call_timeout;
            let mut channel = Channel::of(&connection, call_timeout).await?;
            channel.set_prefetch(config.prefetch).await?;
            channel.declare(&config.topology).await?;
            let old = connection.broker_major().is_some_and(|major| major <= LOSES_CONSUMERS);
            let consumer = match channel.consume(&config.topology, old && self.cancel_on_loss).await {
                // A quorum queue by default of its virtual host, which is cancelled without being asked.
                Err(error) if refuses_cancel_on_loss(&error) => {
                    self.cancel_on_loss = false;
                    channel = Channel::of(&connection, call_timeout).await?;
                    channel.set_prefetch(config.prefetch).await?;
                    channel.consume(&config.topology, false).await?
                }
                consumer => consumer?,
            };
            Ok((channel, consumer))
        };
        match prepared.await {
            Ok((channel, consumer)) => Ok(Session { connection, channel, consumer, host }),
            Err(error) => {
                connection.close().await;
                Err(error)
            }
        }
    }

    /// `Ok` when stopped, else what ended the session.
    async fn consume(&mut self, session: Session) -> Result<Stopped, ConsumerFailure> {
        let Session { connection, channel, consumer, host } = session;
        let settlement = Arc::new(Settlement::new(
            self.config.prefetch,
            self.config.ack_batch,
            self.stats.clone(),
            self.stop_signal.clone(),
        ));
        let monitor = self.patrol.as_ref().map(|patrol| patrol.monitor().clone());
        if let Some(monitor) = &monitor {
            monitor.begin();
        }
        self.announce(host);
        let mut pump = Pump {
            config: &self.config,
            connection: &connection,
            channel: &channel,
            consumer,
            settlement: settlement.clone(),
            dispatch: GuardedDispatch::new(&mut self.dispatch, &self.stats),
            stats: &self.stats,
            monitor: monitor.as_deref(),
            canaries: VecDeque::new(),
            stop: self.stop.clone(),
            requeue_rule: RequeueRule::of(&self.config.topology.options),
            redelivered: Redelivered::default(),
            waiting: VecDeque::new(),
            acking: None,
        };
        let ended = match &mut self.patrol {
            Some(patrol) => pump.run(patrol.watch(&connection, &settlement)).await,
            None => pump.run(std::future::pending()).await,
        };
        let ended = ended.map_err(ConsumerFailure::from);
        if let Err(failure) = &ended {
            // Before anything that takes time: what the monitor knows of a silence ends with the session.
            self.status.send_replace(connecting(&self.backoff, Some(failure.clone())));
        }
        if let Some(patrol) = &self.patrol {
            patrol.monitor().end();
        }
        self.consumed = Some(Instant::now());
        let mut stopped = stopped(&self.stop);
        if ended.is_ok() {
            self.status.send_replace(ConsumerStatus::Stopping);
            (stopped.unfinished, stopped.clean) = pump.drain().await;
        }
        drop(pump);
        settlement.close();
        self.stats.connected.set(0);
        self.stats.unacked.set(0);
        // Nobody would answer an orderly close on a silent line: there, dropping the connection cuts it.
        let silent = ended.as_ref().is_err_and(|failure| {
            matches!(*failure.error, ConsumerError::HeartbeatMissed { .. } | ConsumerError::TimedOut { .. })
        });
        if !silent {
            stopped.clean &= connection.close().await;
        }
        if ended.is_ok() {
            let Stopped { unfinished, clean, reason } = stopped;
            info!(unfinished, clean, ?reason, "consumer stopped");
        }
        ended.map(|()| stopped)
    }

    fn announce(&mut self, host: Arc<str>) {
        let now = Instant::now();
        self.backoff.succeeded(now);
        self.stats.connected.set(1);
        self.stats.connects.add(1);
        if self.stats.connects.get() > 1 {
            self.stats.reconnects.add(1);
        }
        let queue: Arc<str> = self.config.topology.queue.as_str().into();
        info!(%queue, %host, broker = %self.config.broker.url, prefetch = self.config.prefetch, "consuming");
        self.status.send_replace(ConsumerStatus::Consuming { queue, host, since: now });
    }

    fn stopped_early(&self) -> Stopped {
        info!("consumer stopped while it had no connection");
        stopped(&self.stop)
    }
}

fn connecting(backoff: &Backoff, after: Option<ConsumerFailure>) -> ConsumerStatus {
    ConsumerStatus::Connecting { attempt: backoff.failures() + 1, after }
}

/// Nothing unfinished, nothing in order, with the reason that was given if one was.
fn stopped(stop: &StopListener) -> Stopped {
    Stopped { reason: stop.borrow().unwrap_or_default(), ..Stopped::default() }
}

/// What consuming needs.
struct Session {
    connection: Connection,
    host: Arc<str>,
    channel: Channel,
    consumer: lapin::Consumer,
}
