//! From an open channel to the dispatch, and from completed deliveries to acks, until something ends it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::Stream;
use tokio::{
    sync::watch,
    time::{Sleep, sleep, sleep_until},
};
use tracing::{error, info};

use crate::{
    channel::Channel,
    connection::{Connection, lost},
    consumer::{ConsumerConfig, Dispatch},
    delivery::Delivery,
    error::ConsumerError,
    settlement::Settlement,
    stats::ConsumerStats,
    status::Stopped,
    window::Ack,
};

/// How often the state of connection and channel is looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// One channel's deliveries on their way.
pub(crate) struct Pump<'a, D> {
    pub(crate) config: &'a ConsumerConfig,
    pub(crate) connection: &'a Connection,
    pub(crate) channel: &'a Channel,
    pub(crate) deliveries: lapin::Consumer,
    pub(crate) settlement: Arc<Settlement>,
    pub(crate) dispatch: &'a mut D,
    pub(crate) stats: &'a ConsumerStats,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) redelivered: Redelivered,
}

/// What the pump wakes up for.
#[expect(
    clippy::large_enum_variant,
    reason = "made and taken apart at once, for every delivery: a box would cost more"
)]
enum Event {
    Delivery(lapin::message::Delivery),
    Ended,
    Failed(lapin::Error),
    AckDue,
    Check,
    Stop,
}

/// The pump's timers. The ack timer runs only while `ack_armed`.
struct Timers<'t, S> {
    ack: Pin<&'t mut Sleep>,
    ack_armed: bool,
    check: Pin<&'t mut Sleep>,
    stop: Pin<&'t mut S>,
}

impl<D: Dispatch> Pump<'_, D> {
    /// Dispatches and acks until the consumer is stopped (`Ok`) or something breaks.
    pub(crate) async fn run(&mut self) -> Result<(), ConsumerError> {
        let ended = self.run_until_it_ends().await;
        self.redelivered.log();
        ended
    }

    async fn run_until_it_ends(&mut self) -> Result<(), ConsumerError> {
        let mut stop = self.stop.clone();
        let mut timers = Timers {
            ack: pin!(sleep(Duration::ZERO)),
            ack_armed: false,
            check: pin!(sleep(CHECK_INTERVAL)),
            stop: pin!(async move { drop(stop.wait_for(|stop| *stop).await) }),
        };
        let mut was_alive = true;
        loop {
            match std::future::poll_fn(|cx| self.poll_event(cx, &mut timers)).await {
                Event::Delivery(delivery) => self.take(delivery).await?,
                Event::AckDue => {
                    timers.ack_armed = false;
                    if let Some(ack) = self.settlement.take_ack() {
                        self.ack(ack).await?;
                    }
                }
                Event::Check => {
                    let next = self.check(&mut was_alive)?;
                    timers.check.as_mut().reset(next.into());
                }
                Event::Ended => return Err(self.cancelled()),
                Event::Failed(error) => return Err(self.failed(&error)),
                Event::Stop => return Ok(()),
            }
        }
    }

    /// Deliveries first: while they come, acks go by the batch, and the timers can wait. They cannot wait
    /// for long, because the prefetch ends every flood that is not acked.
    fn poll_event<S: Future<Output = ()>>(
        &mut self,
        cx: &mut Context<'_>,
        timers: &mut Timers<'_, S>,
    ) -> Poll<Event> {
        if self.stop.has_changed().unwrap_or(true) {
            return Poll::Ready(Event::Stop);
        }
        self.settlement.unpark();
        match Pin::new(&mut self.deliveries).poll_next(cx) {
            Poll::Ready(Some(Ok(delivery))) => return Poll::Ready(Event::Delivery(delivery)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Failed(error)),
            Poll::Ready(None) => return Poll::Ready(Event::Ended),
            Poll::Pending => {}
        }
        let due = self.settlement.park(cx);
        if due.ready > 0 && !timers.ack_armed {
            timers.ack.as_mut().reset(tokio::time::Instant::now() + self.config.ack_delay);
            timers.ack_armed = true;
        }
        if due.batch_is_full || (due.ready > 0 && timers.ack.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Event::AckDue);
        }
        if timers.check.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Check);
        }
        timers.stop.as_mut().poll(cx).map(|()| Event::Stop)
    }

    /// Hands one delivery to the dispatch, and acks the batch before it if that is full.
    async fn take(&mut self, delivery: lapin::message::Delivery) -> Result<(), ConsumerError> {
        if delivery.acker.poisoned() {
            return Ok(()); // the channel is dead; it comes again on the next one
        }
        let (ticket, due) = self.settlement.deliver(delivery.delivery_tag).map_err(|gap| {
            let reason = format!("delivery tag {} where {} was expected", gap.tag, gap.expected);
            ConsumerError::ConnectionLost { reason }
        })?;
        self.stats.deliveries.add(1);
        if delivery.redelivered {
            self.stats.redelivered.add(1);
            self.redelivered.count += 1;
        } else {
            self.redelivered.log();
        }
        let delivery = Delivery::new(delivery, Instant::now());
        if catch_unwind(AssertUnwindSafe(|| self.dispatch.dispatch(delivery, ticket))).is_err() {
            self.stats.dispatch_panics.add(1);
            error!("dispatch panicked; the delivery counts as settled");
        }
        match due {
            Some(ack) => self.ack(ack).await,
            None => Ok(()),
        }
    }

    async fn ack(&self, ack: Ack) -> Result<(), ConsumerError> {
        self.channel.ack(ack.tag, true).await?;
        self.stats.acked.add(ack.messages);
        self.stats.ack_frames.add(1);
        self.stats.unacked.set(self.settlement.unacked() as u64);
        Ok(())
    }

    /// Looks after what nobody tells us: a silent broker, a channel that lapin gave up without a word.
    /// Returns when to look again.
    fn check(&mut self, was_alive: &mut bool) -> Result<Instant, ConsumerError> {
        self.stats.unacked.set(self.settlement.unacked() as u64);
        self.redelivered.log_if_settled();
        let now = Instant::now();
        let silent = now.saturating_duration_since(self.connection.last_read());
        let limit = self.connection.heartbeat().map(|heartbeat| heartbeat * 2);
        if limit.is_some_and(|limit| silent >= limit) {
            return Err(ConsumerError::HeartbeatMissed { silent });
        }
        let alive = self.connection.is_connected() && self.channel.is_connected();
        if !alive && !*was_alive {
            return Err(ConsumerError::ConnectionLost { reason: "the channel is closed".into() });
        }
        *was_alive = alive;
        let until_limit = limit.map_or(CHECK_INTERVAL, |limit| limit.saturating_sub(silent));
        Ok(now + CHECK_INTERVAL.min(until_limit))
    }

    /// What ended the stream of deliveries. lapin watches the heartbeat too, and may be first.
    fn failed(&self, error: &lapin::Error) -> ConsumerError {
        match error.kind() {
            lapin::ErrorKind::MissingHeartbeatError => {
                ConsumerError::HeartbeatMissed { silent: self.connection.last_read().elapsed() }
            }
            _ => lost(error),
        }
    }

    fn cancelled(&self) -> ConsumerError {
        ConsumerError::Cancelled { queue: self.config.topology.queue.as_str().into() }
    }

    /// Stops the deliveries, waits for the open ones until `stop_timeout`, and acks all that is completed.
    pub(crate) async fn drain(&mut self) -> Stopped {
        let deadline = tokio::time::Instant::now() + self.config.stop_timeout;
        let drained = self.drain_until(deadline).await;
        let unfinished = self.settlement.open() as u64;
        if let Err(error) = &drained {
            error!(%error, unfinished, "the last acks were not sent; the broker delivers those messages again");
        }
        Stopped { unfinished, clean: drained.is_ok() }
    }

    async fn drain_until(&mut self, deadline: tokio::time::Instant) -> Result<(), ConsumerError> {
        self.channel.cancel(self.deliveries.tag()).await?;
        self.settlement.drain();
        let mut time_is_up = pin!(sleep_until(deadline));
        std::future::poll_fn(|cx| {
            let idle = self.settlement.park(cx).open == 0;
            if idle { Poll::Ready(()) } else { time_is_up.as_mut().poll(cx) }
        })
        .await;
        if let Some(ack) = self.settlement.take_ack() {
            self.ack(ack).await?;
        }
        for tag in self.settlement.completed_behind_gap() {
            self.channel.ack(tag, false).await?;
            self.stats.acked.add(1);
            self.stats.ack_frames.add(1);
        }
        Ok(())
    }
}

/// Counts what came again on one connection, for one log line.
#[derive(Debug, Default)]
pub(crate) struct Redelivered {
    count: u64,
    at_last_check: u64,
    logged: bool,
}

impl Redelivered {
    fn log(&mut self) {
        if self.count > 0 && !self.logged {
            self.logged = true;
            info!(redelivered = self.count, "messages delivered before came again");
        }
    }

    fn log_if_settled(&mut self) {
        if self.count == self.at_last_check {
            self.log();
        }
        self.at_last_check = self.count;
    }
}
