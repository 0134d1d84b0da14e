//! Dead letters on their way from the hand-over to the broker, which confirms each.
//!
//! A ticket is held until the broker has confirmed the dead letter, but never for long: deliveries to players stop when
//! the prefetch is full of what is held. So when a confirm does not come in time, all that waits is acked, and what
//! follows is written without holding its ticket, until the broker confirms again.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::{
    Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, sleep_until, timeout},
};
use tracing::{error, info, warn};

use super::{
    DeadLetter, DeadLetterConfig,
    hand_over::{Held, Shared},
};
use crate::{
    backoff::Backoff,
    channel::{Channel, short},
    connection::{Connection, lost},
    error::ConsumerError,
    host::HostOrder,
    stats::ConsumerStats,
};

/// Channels, and so dead letters under way at a time: lapin hands a returned message to whichever confirm of its
/// channel comes next.
const LANES: usize = 8;
/// How often a connection that is blocked, or has nothing to do, is looked at.
const CHECK: Duration = Duration::from_millis(100);

/// The task.
pub(super) struct Writer {
    config: Arc<DeadLetterConfig>,
    shared: Arc<Shared>,
    receiver: mpsc::Receiver<Held>,
    /// Whether more may be handed over.
    open: bool,
    stop: watch::Receiver<Option<Instant>>,
    /// Not confirmed yet, in the order in which they were dropped.
    waiting: BTreeMap<u64, Arc<Held>>,
    next_id: u64,
}

/// Why a dead letter was not confirmed.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Broker(#[from] ConsumerError),
    #[error("the broker returned a dead letter: no queue is bound to the dead-letter exchange for its key")]
    Returned,
    #[error("the broker did not take a dead letter (nack)")]
    Nacked,
    #[error("no confirm within {0:?}")]
    Unconfirmed(Duration),
}

impl Writer {
    pub(super) fn new(
        config: Arc<DeadLetterConfig>,
        shared: Arc<Shared>,
        receiver: mpsc::Receiver<Held>,
        stop: watch::Receiver<Option<Instant>>,
    ) -> Self {
        Self { config, shared, receiver, open: true, stop, waiting: BTreeMap::new(), next_id: 0 }
    }

    pub(super) async fn run(mut self) {
        let config = Arc::clone(&self.config);
        let mut hosts = config.broker.hosts();
        let mut backoff = Backoff::new(config.backoff);
        loop {
            let Some(connected) = self.meanwhile(connect(&config, &mut hosts)).await else { return };
            let failure = match connected {
                Ok((connection, lanes, exchange)) => {
                    backoff.succeeded(Instant::now());
                    self.shared.frame_max.store(connection.frame_max(), Ordering::Relaxed);
                    let ended = self.write(&connection, lanes, exchange).await;
                    self.shared.writable.store(false, Ordering::Release);
                    connection.close().await;
                    let Err(failure) = ended else { return };
                    failure
                }
                Err(failure) => WriteError::Broker(failure),
            };
            let mut hint = None;
            if let WriteError::Broker(error) = &failure {
                hint = error.hint();
                if error.is_permanent() {
                    self.give_up(&failure);
                }
            }
            let retry_in = backoff.failed(Instant::now(), fastrand::u64(..));
            warn!(error = %failure, hint, retry_in_ms = retry_in.as_millis() as u64, "not writing dead letters");
            if self.meanwhile(sleep(retry_in)).await.is_none() {
                return;
            }
        }
    }

    /// Waits for `work`, takes in what is handed over, and gives up what waits too long. `None` when the task's end
    /// comes first.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        while !self.is_done() {
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                held = self.receiver.recv(), if self.open => self.take_in(held),
                () = wait_until(self.waiting.values().next().map(|held| held.deadline)) => {
                    self.give_up(&WriteError::Unconfirmed(self.config.timeout));
                }
                () = stopped(&mut self.stop) => {}
            }
        }
        None
    }

    /// Writes over one connection until the task's end, or until something fails.
    async fn write(
        &mut self,
        connection: &Connection,
        lanes: Vec<lapin::Channel>,
        exchange: ShortString,
    ) -> Result<(), WriteError> {
        let mut free = lanes;
        let mut under_way = FuturesUnordered::new();
        let mut next = 0;
        while !self.is_done() {
            let writable = !connection.is_blocked();
            self.shared.writable.store(writable, Ordering::Release);
            while writable && !free.is_empty() {
                let Some((id, held)) = self.waiting.range(next..).next() else { break };
                let Some(lane) = free.pop() else { break };
                next = id + 1;
                under_way.push(publish(lane, exchange.clone(), *id, Arc::clone(held)));
            }
            let due = self.waiting.values().next().map(|held| held.deadline);
            tokio::select! {
                biased;
                Some((lane, id, written)) = under_way.next() => {
                    written?;
                    free.push(lane);
                    self.confirmed(id);
                }
                held = self.receiver.recv(), if self.open => self.take_in(held),
                () = wait_until(due) => {
                    let unconfirmed = WriteError::Unconfirmed(self.config.timeout);
                    self.give_up(&unconfirmed);
                    // What was sent may still come, on channels that nobody can tell the state of.
                    if !under_way.is_empty() {
                        return Err(unconfirmed);
                    }
                }
                () = stopped(&mut self.stop) => {}
                () = sleep(CHECK) => {
                    if !connection.is_connected() {
                        return Err(ConsumerError::ConnectionLost { reason: "closed".into() }.into());
                    }
                }
            }
        }
        Ok(())
    }

    fn take_in(&mut self, held: Option<Held>) {
        match held {
            Some(held) => {
                self.waiting.insert(self.next_id, Arc::new(held));
                self.next_id += 1;
            }
            None => self.open = false,
        }
    }

    fn confirmed(&mut self, id: u64) {
        if self.waiting.remove(&id).is_some() {
            self.shared.stats.confirmed.add(1);
            if self.shared.down.swap(false, Ordering::AcqRel) {
                info!("dead letters are confirmed again, before their messages are acked");
            }
        }
    }

    /// Acks all that waits: players come before dead letters.
    fn give_up(&mut self, reason: &WriteError) {
        let lost = std::mem::take(&mut self.waiting).len() as u64;
        self.shared.stats.timed_out.add(lost);
        if !self.shared.down.swap(true, Ordering::AcqRel) {
            error!(
                %reason,
                lost,
                "dropped messages are acked and may be lost until the broker confirms dead letters again"
            );
        }
    }

    /// Whether nothing is left to write and nothing more can come, or nobody waits any longer.
    fn is_done(&self) -> bool {
        let stop = *self.stop.borrow();
        let idle = self.waiting.is_empty() && self.receiver.is_empty();
        (idle && (stop.is_some() || !self.open)) || stop.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Connects to the first host that takes it, declares, and opens the lanes. Also the exchange's name, which is looked at
/// first.
async fn connect(
    config: &DeadLetterConfig,
    hosts: &mut HostOrder,
) -> Result<(Connection, Vec<lapin::Channel>, ShortString), ConsumerError> {
    let exchange = short("exchange name", &config.topology.exchange)?;
    let (connection, _) =
        Connection::open_any(&config.broker, hosts, &Arc::new(ConsumerStats::default())).await?;
    let prepared = async {
        let call_timeout = config.broker.call_timeout;
        let channel = Channel::new(connection.channel().await?, connection.user(), call_timeout);
        channel.declare(&config.topology.topology()).await?;
        let mut lanes = Vec::with_capacity(LANES);
        for _ in 0..LANES {
            lanes.push(confirming(&connection, call_timeout).await?);
        }
        Ok(lanes)
    };
    match prepared.await {
        Ok(lanes) => Ok((connection, lanes, exchange)),
        Err(error) => {
            connection.close().await;
            Err(error)
        }
    }
}

/// A channel in confirm mode.
pub(super) async fn confirming(
    connection: &Connection,
    call_timeout: Duration,
) -> Result<lapin::Channel, ConsumerError> {
    let channel = connection.channel().await?;
    match timeout(call_timeout, channel.confirm_select(ConfirmSelectOptions::default())).await {
        Ok(Ok(())) => Ok(channel),
        Ok(Err(error)) => Err(lost(&error)),
        Err(_) => Err(ConsumerError::TimedOut { call: "confirm.select", after: call_timeout }),
    }
}

/// Publishes one message, mandatory, and waits for its confirm. Without a limit in time.
async fn publish(
    lane: lapin::Channel,
    exchange: ShortString,
    id: u64,
    held: Arc<Held>,
) -> (lapin::Channel, u64, Result<(), WriteError>) {
    let written = async {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let DeadLetter { properties, body } = &held.letter;
        let broken = |error: lapin::Error| WriteError::Broker(lost(&error));
        let sent = lane.basic_publish(exchange, held.key.clone(), options, body, properties.clone());
        match sent.await.map_err(broken)?.await.map_err(broken)? {
            Confirmation::Ack(None) | Confirmation::NotRequested => Ok(()),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Err(WriteError::Returned),
            Confirmation::Nack(None) => Err(WriteError::Nacked),
        }
    }
    .await;
    (lane, id, written)
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Ends when a stop is requested, and once more when its time is up.
async fn stopped(stop: &mut watch::Receiver<Option<Instant>>) {
    let requested = *stop.borrow_and_update();
    match requested {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => {
            if stop.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::BrokerConfig, broker_url::BrokerUrl, dead_letter::DeadLetterTopology, queue_name::QueueName,
        topology::Declare,
    };

    #[tokio::test]
    async fn a_name_that_is_too_long_is_an_error_and_no_panic() {
        let url = BrokerUrl::from_parts("127.0.0.1", 1, "u", "p", "/").unwrap();
        let mut topology = DeadLetterTopology::new("x".repeat(256), QueueName::new("q").unwrap());
        topology.declare = Declare::None;
        let config = DeadLetterConfig::new(BrokerConfig::new(url, "test"), topology, "pod-7");
        let refused = connect(&config, &mut config.broker.hosts()).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, ConsumerError::NameTooLong { len: 256, .. }), "{refused}");
        assert!(refused.is_permanent(), "what waits is given up");
    }
}
