//! Messages on their way through one channel: many under way, each with one outcome, told in their order.
//!
//! ```text
//! source → slot (waits) → lapin → confirm → returns (whose is it?) → slot (settled) → the caller, in order
//! ```
//!
//! A pipeline has one channel of the pool to itself. When the channel breaks, what has no
//! outcome is sent again on another one, in order and with the same id, within each message's time and attempts.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use deadpool::managed;
use futures_util::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{Fuse, FuturesUnordered},
};
use lapin::{Channel, Confirmation, message::BasicReturnMessage, options::BasicPublishOptions};
use tokio::time::{sleep, sleep_until, timeout_at};
use tracing::debug;

use crate::{
    backoff::{Backoff, BackoffPolicy},
    channel_pool::ChannelManager,
    deadline,
    observer::Publishing,
    outgoing::Outgoing,
    publish_error::{PublishError, PublishStage},
    publisher::{Published, Publisher},
    returns::{Confirmed, Returned, Returns, Verdict},
    slot::{Absence, Slot, State},
};

/// How often a blocked connection is looked at.
const BLOCKED_CHECK: Duration = Duration::from_millis(20);

/// What the pipeline tells of one message.
pub(crate) type Outcome = Result<Published, PublishError>;

type UnderWay = BoxFuture<'static, (u64, Arc<Outgoing>, Result<Confirmation, lapin::Error>)>;

/// Messages of `source` on their way. Dropping it leaves the outcome of those under way unknown.
pub(crate) struct Pipeline<S> {
    publisher: Publisher,
    source: Fuse<Pin<Box<S>>>,
    /// Messages that were taken and have no outcome at most; as many more may be settled and not yet told.
    window: usize,
    /// In the source's order.
    slots: VecDeque<Slot>,
    /// The serial of the first slot.
    first: u64,
    /// The time of each message.
    limit: Duration,
    /// Slots without an outcome.
    open: usize,
    /// Time that the caller takes is not the messages'.
    absence: Absence,
    channel: Option<managed::Object<ChannelManager>>,
    under_way: FuturesUnordered<UnderWay>,
    returns: Returns,
    backoff: Backoff,
    /// So many of the next messages are sent one by one: the broker refused one of them and did not say which.
    suspects: usize,
}

impl<S: Stream<Item = Result<Outgoing, PublishError>>> Pipeline<S> {
    pub(crate) fn new(publisher: Publisher, source: S, window: usize) -> Self {
        Self {
            limit: publisher.config().publish_timeout,
            publisher,
            source: Box::pin(source).fuse(),
            window: window.max(1),
            slots: VecDeque::new(),
            first: 0,
            open: 0,
            absence: Absence::default(),
            channel: None,
            under_way: FuturesUnordered::new(),
            returns: Returns::default(),
            backoff: Backoff::new(BackoffPolicy::default()),
            suspects: 0,
        }
    }

    /// The same where part of the time is used up.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The outcome of the next message; `None` after the last one. Waits for nothing where it is known already.
    pub(crate) async fn next(&mut self) -> Option<Outcome> {
        self.absence.end(Instant::now());
        Present(self).0.drive().await
    }

    /// The outcome of the next message if it is known already. Sends nothing.
    pub(crate) fn try_next(&mut self) -> Option<Outcome> {
        let settled = self.slots.pop_front_if(|slot| slot.is_settled())?;
        let State::Settled(outcome) = settled.state else { return None };
        self.first += 1;
        Some(outcome)
    }

    async fn drive(&mut self) -> Option<Outcome> {
        loop {
            let waits = self.slots.front().is_none_or(|slot| !slot.is_settled());
            // While the caller reads outcomes, what is under way must not run dry; it does not wait for a channel.
            let runs_dry = self.under_way.len() <= self.window / 2 && self.slots.len() <= self.window;
            if waits || (runs_dry && self.has_channel()) {
                self.fill();
                self.send().await;
            }
            if let Some(outcome) = self.try_next() {
                return Some(outcome);
            }
            if self.slots.is_empty() && self.source.is_done() {
                return None;
            }
            if self.channel.is_none() && self.under_way.is_empty() && self.slots.iter().any(Slot::waits) {
                // There was no channel to send them on. The pause that was due has been made.
                self.time_out(Instant::now());
            } else {
                self.wait().await;
            }
        }
    }

    /// Takes what the source has, as far as there is room: no more than can be sent now, for a message's time begins
    /// when it is taken.
    fn fill(&mut self) {
        while self.has_room()
            && let Some(Some(outgoing)) = self.source.next().now_or_never()
        {
            self.take(outgoing);
        }
    }

    fn has_room(&self) -> bool {
        !self.source.is_done() && self.open < self.window && self.slots.len() < 2 * self.window
    }

    fn take(&mut self, outgoing: Result<Outgoing, PublishError>) {
        let now = Instant::now();
        self.slots.push_back(match outgoing {
            Ok(outgoing) => {
                if let Some(observer) = &self.publisher.config().observer {
                    observer.before_publish(&publishing(&outgoing));
                }
                self.open += 1;
                Slot::waiting(outgoing, now, &self.absence)
            }
            Err(error) => {
                let outcome = Err(error);
                self.publisher.counters().count(&outcome);
                Slot::settled(outcome, now, &self.absence)
            }
        });
    }

    /// Sends what waits, in order, as far as the window, the suspicion and the broker allow.
    async fn send(&mut self) {
        if !self.slots.iter().any(Slot::waits) || !self.connect().await {
            return;
        }
        let Some(channel) = &mut self.channel else { return };
        // lapin would keep the messages and send them when nobody waits for them any more.
        if channel.is_blocked() {
            return;
        }
        let limit = if self.suspects > 0 { 1 } else { self.window };
        let lapin = Arc::new(channel.channel.clone());
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if self.under_way.len() >= limit {
                break;
            }
            let (State::Waiting, Some(outgoing)) = (&slot.state, &slot.outgoing) else { continue };
            channel.busy = true; // stays so if the pipeline is dropped: the pool then discards the channel
            slot.state = State::Sent;
            if slot.sent > 0 {
                self.publisher.counters().resent.add(1);
            }
            slot.sent += 1;
            slot.attempts += 1;
            let mut sending = under_way(self.first + index as u64, outgoing.clone(), lapin.clone());
            // The first poll hands the frames to lapin: here, so that they go in order.
            let begun = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
            self.under_way.push(match begun {
                Poll::Pending => sending,
                Poll::Ready(done) => std::future::ready(done).boxed(),
            });
        }
    }

    /// Has a channel, or gets one within the time of the first message. Failures are noted on the slots.
    async fn connect(&mut self) -> bool {
        if self.has_channel() {
            return true;
        }
        if !self.under_way.is_empty() {
            return false; // its confirms say what is wrong with it
        }
        self.channel = None;
        let deadline = self.deadline().unwrap_or_else(Instant::now);
        match timeout_at(deadline.into(), self.publisher.channel()).await {
            Ok(Ok(channel)) => {
                self.backoff.succeeded(Instant::now());
                self.channel = Some(channel);
                true
            }
            Ok(Err(error)) => {
                for slot in self.slots.iter_mut().filter(|slot| !slot.is_settled()) {
                    slot.attempts += 1;
                }
                self.give_up(&error);
                self.pause(deadline).await;
                false
            }
            Err(_) => false,
        }
    }

    fn has_channel(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.is_open())
    }

    /// Settles what is not worth another attempt after `error`, and makes the rest wait again.
    fn give_up(&mut self, error: &PublishError) {
        let again = error.is_worth_another_attempt();
        let most = self.publisher.config().attempts;
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if slot.is_settled() {
                continue;
            }
            if again && slot.attempts < most {
                slot.state = State::Waiting;
            } else if again || !slot.waits() || self.channel.is_none() {
                self.settle(index, Err(error.clone()));
            }
        }
    }

    async fn pause(&mut self, deadline: Instant) {
        if !self.slots.iter().any(|slot| !slot.is_settled()) {
            return;
        }
        let now = Instant::now();
        let wait = self.backoff.failed(now, fastrand::u64(..));
        debug!(?wait, "publishing again");
        sleep_until((now + wait).min(deadline).into()).await;
    }

    /// When the first message without an outcome is out of time.
    fn deadline(&self) -> Option<Instant> {
        let first = self.slots.iter().find(|slot| !slot.is_settled())?;
        let now = Instant::now();
        let left = self.limit.saturating_sub(first.age(now, &self.absence));
        Some(deadline::after(now, left))
    }

    /// Waits until something happens, and notes it.
    async fn wait(&mut self) {
        let deadline = self.deadline();
        let blocked = self.channel.as_ref().is_some_and(|channel| channel.is_blocked());
        let (room, any) = (self.has_room(), !self.under_way.is_empty());
        tokio::select! {
            biased;
            Some(first) = self.under_way.next(), if any => self.hear(first).await,
            () = async { sleep_until(deadline.unwrap_or_else(Instant::now).into()).await }, if deadline.is_some() => {
                self.time_out(Instant::now());
            }
            outgoing = self.source.next(), if room => {
                if let Some(outgoing) = outgoing {
                    self.take(outgoing);
                }
            }
            () = sleep(BLOCKED_CHECK), if blocked => {}
        }
    }

    /// Takes all confirms that are there.
    async fn hear(&mut self, first: (u64, Arc<Outgoing>, Result<Confirmation, lapin::Error>)) {
        let (mut confirms, mut failure) = (Vec::new(), None);
        let mut next = Some(first);
        while let Some((serial, outgoing, confirmation)) = next {
            match confirmation {
                Ok(confirmation) => confirms.push(confirmed(serial, &outgoing, confirmation)),
                Err(error) => {
                    failure = Some(Publisher::send_error(&error, outgoing.exchange.as_str()));
                }
            }
            next = self.under_way.next().now_or_never().flatten();
        }
        let none_left = self.under_way.is_empty() && failure.is_none();
        let mut verdicts = Vec::with_capacity(confirms.len());
        self.returns.judge(confirms, none_left, |serial, verdict| verdicts.push((serial, verdict)));
        // lapin completes the confirms of one ack in any order.
        verdicts.sort_unstable_by_key(|(serial, _)| *serial);
        for (serial, verdict) in verdicts {
            self.suspects = self.suspects.saturating_sub(1);
            let Some(index) = self.index(serial) else { continue }; // its time was up
            let outcome = match verdict {
                Verdict::Taken => {
                    let slot = &self.slots[index];
                    let id = slot.outgoing.as_ref().map(|outgoing| outgoing.id.to_string());
                    Ok(Published { message_id: id.unwrap_or_default(), attempts: slot.sent })
                }
                Verdict::Unroutable { code, text } => Err(PublishError::Unroutable { code, text }),
                Verdict::Nacked => Err(PublishError::Nacked),
            };
            self.settle(index, outcome);
        }
        if let Some(error) = failure {
            self.lose_channel(&error).await;
        } else if none_left && let Some(channel) = &mut self.channel {
            channel.busy = false;
        }
    }

    /// The channel is gone, and with it all confirms.
    async fn lose_channel(&mut self, error: &PublishError) {
        self.under_way = FuturesUnordered::new();
        self.returns = Returns::default();
        let sent = self.slots.iter().filter(|slot| slot.is_sent()).count();
        let deadline = self.deadline();
        if matches!(error, PublishError::Refused { .. }) && sent > 1 {
            // One of them is to blame: alone, it gets the blame, and the others pass.
            self.suspects = sent;
            for slot in self.slots.iter_mut().filter(|slot| slot.is_sent()) {
                slot.state = State::Waiting;
                slot.attempts -= 1;
            }
        } else {
            self.suspects = self.suspects.saturating_sub(sent);
            self.give_up(error);
            if error.is_worth_another_attempt()
                && let Some(deadline) = deadline
            {
                self.channel = None;
                self.pause(deadline).await;
            }
        }
        self.channel = None;
    }

    /// Settles the messages whose time is up.
    fn time_out(&mut self, now: Instant) {
        let after = self.publisher.config().publish_timeout;
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.is_settled() || slot.age(now, &self.absence) < self.limit {
                continue;
            }
            let blocked = match &self.channel {
                Some(channel) => channel.is_blocked(),
                None => self.publisher.pool().is_blocked(),
            };
            let stage = match (slot.is_sent(), blocked) {
                (true, true) => PublishStage::ConfirmingBlocked,
                (true, false) => PublishStage::Confirming,
                (false, true) => PublishStage::Blocked,
                (false, false) => PublishStage::Connecting,
            };
            self.settle(index, Err(PublishError::TimedOut { after, stage }));
        }
    }

    fn index(&self, serial: u64) -> Option<usize> {
        let index = usize::try_from(serial.checked_sub(self.first)?).ok()?;
        self.slots.get(index).filter(|slot| !slot.is_settled()).map(|_| index)
    }

    fn settle(&mut self, index: usize, outcome: Outcome) {
        self.publisher.counters().count(&outcome);
        let slot = &mut self.slots[index];
        if let (Some(observer), Some(outgoing)) = (&self.publisher.config().observer, &slot.outgoing) {
            observer.published(&publishing(outgoing), &outcome, slot.age(Instant::now(), &self.absence));
        }
        slot.state = State::Settled(outcome);
        self.open -= 1;
    }
}

/// The caller waits for the next outcome, until this is dropped.
struct Present<'a, S>(&'a mut Pipeline<S>);

impl<S> Drop for Present<'_, S> {
    fn drop(&mut self) {
        self.0.absence.begin(Instant::now());
    }
}

fn under_way(serial: u64, outgoing: Arc<Outgoing>, channel: Arc<Channel>) -> UnderWay {
    async move {
        let options = BasicPublishOptions { mandatory: outgoing.mandatory, immediate: false };
        let sent = channel.basic_publish(
            outgoing.exchange.clone(),
            outgoing.routing_key.clone(),
            options,
            &outgoing.body,
            outgoing.properties.clone(),
        );
        let confirmation = match sent.await {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        (serial, outgoing, confirmation)
    }
    .boxed()
}

fn confirmed(serial: u64, outgoing: &Outgoing, confirmation: Confirmation) -> Confirmed {
    let ack = !confirmation.is_nack();
    let attached = confirmation.take_message().map(|message: BasicReturnMessage| {
        let id =
            message.delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
        Returned { id, code: message.reply_code, text: message.reply_text.to_string() }
    });
    Confirmed { serial, id: outgoing.id.clone(), ack, attached }
}

fn publishing(outgoing: &Outgoing) -> Publishing<'_> {
    Publishing {
        message_id: &outgoing.id,
        exchange: outgoing.exchange.as_str(),
        routing_key: outgoing.routing_key.as_str(),
        body_bytes: outgoing.body.len(),
    }
}
