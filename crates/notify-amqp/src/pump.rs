//! From an open channel to the dispatch, and from completed deliveries to acks, until something ends it.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{Stream, future::LocalBoxFuture};
use tokio::{
    task::yield_now,
    time::{Sleep, sleep, sleep_until},
};
use tracing::{error, info};

use crate::{
    channel::Channel,
    connection::{Connection, lost},
    consumer::{ConsumerConfig, Dispatch},
    deadline,
    delivery::Delivery,
    error::ConsumerError,
    guarded_dispatch::GuardedDispatch,
    intake::Intake,
    outcome::{RequeueRule, Verdict},
    self_check::Monitor,
    settlement::Settlement,
    stats::ConsumerStats,
    stop::StopListener,
    stream::Socket,
    window::Run,
};

/// How often the state of connection and channel is looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// One channel's deliveries on their way.
pub(crate) struct Pump<'a, D> {
    pub(crate) config: &'a ConsumerConfig,
    pub(crate) connection: &'a Connection,
    pub(crate) channel: &'a Channel,
    /// lapin's idea of the consumer: it says when that ends, and why. Deliveries come from the intake.
    pub(crate) consumer: lapin::Consumer,
    pub(crate) settlement: Arc<Settlement>,
    pub(crate) dispatch: GuardedDispatch<'a, D>,
    pub(crate) stats: &'a ConsumerStats,
    /// Takes the canaries out, where there is a self-check.
    pub(crate) monitor: Option<&'a Monitor>,
    /// Tags of canaries that are not acked yet: they count as no delivery.
    pub(crate) canaries: VecDeque<u64>,
    pub(crate) stop: StopListener,
    pub(crate) requeue_rule: RequeueRule,
    pub(crate) redelivered: Redelivered,
    /// Came, and not dispatched yet.
    pub(crate) waiting: VecDeque<Delivery>,
    /// What lapin is writing.
    pub(crate) acking: Option<Acking<'a>>,
}

/// An ack, nack or reject on its way.
pub(crate) struct Acking<'a> {
    run: Run,
    written: LocalBoxFuture<'a, Result<(), ConsumerError>>,
    /// Whether lapin was told.
    begun: bool,
}

/// What the pump wakes up for.
#[expect(
    clippy::large_enum_variant,
    reason = "made and taken apart at once, for every delivery: a box would cost more"
)]
enum Event {
    Delivery(Delivery),
    Acked(Result<(), ConsumerError>),
    /// lapin saw a delivery, which nobody would settle.
    PassedBy,
    Ended,
    Failed(lapin::Error),
    AckDue,
    Check,
    Stop,
}

/// What the pump waits for besides the dispatch. The ack timer runs only while `ack_armed`.
struct Sources<'t, S> {
    intake: Intake<Socket>,
    ack: Pin<&'t mut Sleep>,
    ack_armed: bool,
    check: Pin<&'t mut Sleep>,
    stop: Pin<&'t mut S>,
}

impl<D: Dispatch> Pump<'_, D> {
    /// Dispatches and acks until the consumer is stopped (`Ok`), something breaks, or `fault` is found.
    pub(crate) async fn run(
        &mut self,
        fault: impl Future<Output = ConsumerError>,
    ) -> Result<(), ConsumerError> {
        let ended = tokio::select! {
            biased;
            ended = self.run_until_it_ends() => ended,
            error = fault => Err(error),
        };
        self.waiting.clear(); // unacked: it goes back to the queue
        self.dispatch.end_burst();
        self.dispatch.end_channel();
        self.redelivered.log();
        ended
    }

    async fn run_until_it_ends(&mut self) -> Result<(), ConsumerError> {
        let mut stop = self.stop.clone();
        let mut sources = Sources {
            intake: self.connection.intake(),
            ack: pin!(sleep(Duration::ZERO)),
            ack_armed: false,
            check: pin!(sleep(CHECK_INTERVAL)),
            stop: pin!(async move { drop(stop.wait_for(Option::is_some).await) }),
        };
        let mut was_alive = true;
        loop {
            match std::future::poll_fn(|cx| self.poll_event(cx, &mut sources)).await {
                Event::Delivery(delivery) => {
                    if self.take(delivery)? {
                        self.pause(&sources.intake).await;
                    }
                }
                Event::Acked(written) => {
                    written?;
                    self.acked();
                }
                Event::AckDue => {
                    sources.ack_armed = false;
                    self.begin_ack();
                }
                Event::Check => {
                    let next = self.check(&mut was_alive)?;
                    sources.check.as_mut().reset(next.into());
                }
                Event::PassedBy => {
                    return Err(ConsumerError::ConnectionLost { reason: "a delivery passed by".into() });
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
        sources: &mut Sources<'_, S>,
    ) -> Poll<Event> {
        if self.stop.has_changed().unwrap_or(true) {
            return Poll::Ready(Event::Stop);
        }
        self.settlement.unpark();
        if let Some(acking) = &mut self.acking
            && (!acking.begun || self.waiting.is_empty())
        {
            acking.begun = true;
            if let Poll::Ready(written) = acking.written.as_mut().poll(cx) {
                return Poll::Ready(Event::Acked(written));
            }
        }
        if self.waiting.is_empty() && sources.intake.poll(cx, &mut self.waiting).is_pending() {
            self.dispatch.end_burst();
        }
        if let Some(delivery) = self.waiting.pop_front() {
            return Poll::Ready(Event::Delivery(delivery));
        }
        match Pin::new(&mut self.consumer).poll_next(cx) {
            Poll::Ready(Some(Ok(_))) => return Poll::Ready(Event::PassedBy),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Failed(error)),
            Poll::Ready(None) => return Poll::Ready(Event::Ended),
            Poll::Pending => {}
        }
        let due = self.settlement.park(cx);
        if due.ready > 0 && !sources.ack_armed {
            sources.ack.as_mut().reset(deadline::after(Instant::now(), self.config.ack_delay).into());
            sources.ack_armed = true;
        }
        if self.acking.is_none() && (due.now || (due.ready > 0 && sources.ack.as_mut().poll(cx).is_ready())) {
            return Poll::Ready(Event::AckDue);
        }
        if sources.check.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Check);
        }
        sources.stop.as_mut().poll(cx).map(|()| Event::Stop)
    }

    /// Hands one delivery to the dispatch, and settles what is due before it. Returns whether the
    /// thread's other work is due.
    fn take(&mut self, delivery: Delivery) -> Result<bool, ConsumerError> {
        let may_requeue = self.requeue_rule.allows(delivery.redelivered(), || delivery.delivery_count());
        let (ticket, is_due) = self.settlement.deliver(delivery.tag(), may_requeue).map_err(|gap| {
            let reason = format!("delivery tag {} where {} was expected", gap.tag, gap.expected);
            ConsumerError::ConnectionLost { reason }
        })?;
        if self.monitor.is_some_and(|monitor| monitor.takes(&delivery)) {
            self.canaries.push_back(delivery.tag());
            return Ok(false);
        }
        self.stats.deliveries.add(1);
        if delivery.redelivered() {
            self.stats.redelivered.add(1);
            self.redelivered.count += 1;
        } else {
            self.redelivered.log();
        }
        if is_due {
            self.begin_ack();
        }
        Ok(self.dispatch.call(delivery, ticket))
    }

    /// Lets lapin's tasks run, which send the heartbeats, and lets it see what came from the broker: with a slow
    /// dispatch that may have been there for long.
    async fn pause(&mut self, intake: &Intake<Socket>) {
        yield_now().await; // the socket's readiness is noticed, and timers fire
        let _ = std::future::poll_fn(|cx| Poll::Ready(intake.poll(cx, &mut self.waiting))).await;
        yield_now().await; // tasks run
        yield_now().await; // and those they started
        self.dispatch.begin_turn();
    }

    /// Settles a run of what is completed, unless one is on its way: then the next follows that.
    fn begin_ack(&mut self) {
        if self.acking.is_none()
            && let Some(run) = self.settlement.take_run()
        {
            let written = Box::pin(self.channel.settle(run.tag, run.verdict, true));
            self.acking = Some(Acking { run, written, begun: false });
        }
    }

    /// What was on its way is written.
    fn acked(&mut self) {
        if let Some(Acking { run, .. }) = self.acking.take() {
            let canaries = self.canaries_acked(run.tag);
            self.settled(run.messages - canaries, run.verdict);
            self.stats.unacked.set(self.settlement.unsettled() as u64);
        }
    }

    fn settled(&self, messages: u64, verdict: Verdict) {
        match verdict {
            Verdict::Ack => {
                self.stats.acked.add(messages);
                self.stats.ack_frames.add(1);
            }
            Verdict::Requeue => self.stats.requeued.add(messages),
            Verdict::Reject => self.stats.rejected.add(messages),
            Verdict::Leave => {}
        }
    }

    /// How many of the deliveries up to `tag` that were not acked before were canaries.
    fn canaries_acked(&mut self, tag: u64) -> u64 {
        let mut canaries = 0;
        while self.canaries.pop_front_if(|canary| *canary <= tag).is_some() {
            canaries += 1;
        }
        canaries
    }

    /// Looks after what nobody tells us: a silent broker, a channel that lapin gave up without a word.
    /// Returns when to look again.
    fn check(&mut self, was_alive: &mut bool) -> Result<Instant, ConsumerError> {
        self.stats.unacked.set(self.settlement.unsettled() as u64);
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
        self.stats.cancelled.add(1);
        ConsumerError::Cancelled { queue: self.config.topology.queue.as_str().into() }
    }

    /// Stops the deliveries, waits for the open ones until `stop_timeout`, and settles all that is completed.
    /// Returns how many deliveries were not finished, and whether all that is completed is settled.
    pub(crate) async fn drain(&mut self) -> (u64, bool) {
        let deadline = deadline::after(Instant::now(), self.config.stop_timeout).into();
        let drained = self.drain_until(deadline).await;
        let unfinished = self.settlement.open() as u64;
        if let Err(error) = &drained {
            error!(%error, unfinished, "the last acks were not sent; the broker delivers those messages again");
        }
        (unfinished, drained.is_ok())
    }

    async fn drain_until(&mut self, deadline: tokio::time::Instant) -> Result<(), ConsumerError> {
        self.finish_ack().await?;
        self.channel.cancel(self.consumer.tag()).await?;
        self.settlement.drain();
        let mut time_is_up = pin!(sleep_until(deadline));
        std::future::poll_fn(|cx| {
            let idle = self.settlement.park(cx).open == 0;
            if idle { Poll::Ready(()) } else { time_is_up.as_mut().poll(cx) }
        })
        .await;
        self.begin_ack();
        while self.acking.is_some() {
            self.finish_ack().await?;
            self.begin_ack();
        }
        for (tag, verdict) in self.settlement.completed_behind_gap() {
            self.channel.settle(tag, verdict, false).await?;
            self.settled(u64::from(!self.canaries.contains(&tag)), verdict);
        }
        Ok(())
    }

    async fn finish_ack(&mut self) -> Result<(), ConsumerError> {
        if let Some(acking) = &mut self.acking {
            acking.written.as_mut().await?;
            self.acked();
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
