//! The flow, as the contract has it: each delivery is decoded, addressed, handed over, and settled once.
//!
//! The ticket is the settlement: whoever holds a clone keeps the delivery unacked. It is dropped here where
//! nobody is addressed, and by the shards once the message stands in every addressed outbox.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};

use lobby_sessions::{Burst, Frame, FrameKind, LogGate, Sessions};
use notify_amqp::{DeadLetters, Delivery, Dispatch, HandedOver, Ticket};
use notify_protocol::{Address, Body, Decoded, DropReason, Limits, decode};
use tracing::{info, warn};

use crate::{
    message_ids::MessageIds,
    otel::{OpenSpan, SpanDesk},
    published::published_at,
    receipts::{Asked, ReceiptDesk},
    trace::{Decided, Trace, Verdict},
};

/// Log lines a second about messages that reach nobody.
const LOG_LINES_PER_SECOND: u32 = 10;

/// Joins the broker to the sessions.
pub struct Dispatcher {
    burst: Burst<Ticket>,
    limits: Limits,
    frame: FrameKind,
    counts: Arc<Outcomes>,
    trace: Arc<Trace>,
    /// Where what is dropped goes, unless it is just acked.
    dead_letters: Option<DeadLetters>,
    log_gate: LogGate,
    /// None where receipts are switched off.
    receipts: Option<ReceiptDesk>,
    /// None where no collector is configured, or none can be.
    spans: Option<SpanDesk>,
}

/// Deliveries by outcome; unicasts are counted by the shard that knows whether the user is there.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// To every session.
    pub broadcast: AtomicU64,
    /// Recognised, and sent to nobody.
    pub channel_reserved: AtomicU64,
    dropped: [AtomicU64; DropReason::LABELS.len()],
}

impl Outcomes {
    /// Dropped deliveries by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        DropReason::LABELS.into_iter().zip(self.dropped.iter().map(|count| count.load(Relaxed)))
    }

    fn count_drop(&self, reason: &DropReason) {
        if let Some(slot) = DropReason::LABELS.iter().position(|label| *label == reason.as_str()) {
            self.dropped[slot].fetch_add(1, Relaxed);
        }
    }
}

impl Dispatcher {
    /// A dispatcher that drops bodies over `limits`.
    pub fn new(
        sessions: Arc<Sessions<Ticket>>,
        limits: Limits,
        counts: Arc<Outcomes>,
        trace: Arc<Trace>,
        dead_letters: Option<DeadLetters>,
        receipts: Option<ReceiptDesk>,
        spans: Option<SpanDesk>,
    ) -> Self {
        let frame = sessions.config().frame;
        Self {
            burst: Burst::new(sessions),
            limits,
            frame,
            counts,
            trace,
            dead_letters,
            log_gate: LogGate::new(LOG_LINES_PER_SECOND),
            receipts,
            spans,
        }
    }

    /// Nobody gets it: it is counted, kept as a dead letter if that is configured, and told.
    fn drop_message(&mut self, delivery: Delivery, ticket: Ticket, watch: Watch, reason: &DropReason) {
        self.counts.count_drop(reason);
        self.trace.record(&delivery, Decided::Dropped(reason));
        let detail = || reason.to_string();
        if let Some(asked) = watch.asked {
            asked.dropped(reason.as_str());
        }
        if let Some(span) = watch.span {
            span.dropped(Verdict::Dropped(reason.as_str()), &detail());
        }
        let told = self.log_gate.pass(delivery.received_at());
        let ids = told.map(|_| MessageIds::of(&delivery)).unwrap_or_default();
        let handed_over = self
            .dead_letters
            .as_ref()
            .map(|letters| letters.hand_over(delivery, ticket, reason.as_str(), &detail()));
        if let Some(suppressed) = told {
            let dead_letter = handed_over.map(HandedOver::as_str);
            warn!(
                reason = reason.as_str(),
                detail = detail(),
                dead_letter,
                suppressed,
                message_id = ids.message_id,
                correlation_id = ids.correlation_id,
                traceparent = ids.traceparent,
                "message dropped"
            );
        }
    }

    /// `serial` is the decision's number in the trace, by which it finds out whom the frame reached.
    fn encode(
        &self,
        body: &Body<'_>,
        (received_at, published_at): (Instant, Option<SystemTime>),
        serial: Option<u64>,
        watch: Watch,
    ) -> Frame {
        let meter = self.burst.sessions().meter();
        let frame = Frame::notification(body, self.frame, received_at, meter, serial).published(published_at);
        watch.on(frame)
    }

    /// The receipt that the delivery asks for.
    fn asked(&mut self, delivery: &Delivery) -> Option<Asked> {
        match self.receipts.as_ref()?.asked(delivery) {
            Ok(asked) => asked,
            Err(refusal) => {
                if let Some(suppressed) = self.log_gate.pass(delivery.received_at()) {
                    warn!(%refusal, suppressed, message_id = delivery.message_id(), "no receipt for a message that asks");
                }
                None
            }
        }
    }
}

/// Who wants to know what becomes of a message; nobody, for nearly all.
struct Watch {
    asked: Option<Asked>,
    span: Option<OpenSpan>,
}

impl Watch {
    fn dispatched(self, verdict: Verdict) -> Self {
        Self { span: self.span.map(|span| span.dispatched(verdict)), ..self }
    }

    /// Has the frame tell them, once it is known whom it reached.
    fn on(self, frame: Frame) -> Frame {
        if self.asked.is_none() && self.span.is_none() {
            return frame;
        }
        frame.reporting(move |reach, took| {
            if let Some(asked) = self.asked {
                asked.reached(reach, took);
            }
            if let Some(span) = self.span {
                span.written(reach, took);
            }
        })
    }
}

impl Dispatch for Dispatcher {
    fn dispatch(&mut self, delivery: Delivery, ticket: Ticket) {
        let received_at = delivery.received_at();
        let asked = self.asked(&delivery);
        let span = self.spans.as_ref().and_then(|desk| desk.open(&delivery));
        let watch = Watch { asked, span };
        let times = (received_at, published_at(delivery.timestamp(), delivery.message_id()));
        match decode(delivery.headers(), delivery.body(), &self.limits) {
            Ok(Decoded { address: Address::User(user), body }) => {
                let serial = self.trace.record(&delivery, Decided::User(user));
                let watch = watch.dispatched(Verdict::User(user));
                self.burst.unicast(user, self.encode(&body, times, serial, watch), ticket);
            }
            Ok(Decoded { address: Address::Everyone, body }) => {
                self.counts.broadcast.fetch_add(1, Relaxed);
                let serial = self.trace.record(&delivery, Decided::Everyone);
                let watch = watch.dispatched(Verdict::Everyone);
                self.burst.broadcast(&self.encode(&body, times, serial, watch), &ticket);
            }
            Ok(Decoded { address: Address::Channel(channel), .. }) => {
                self.counts.channel_reserved.fetch_add(1, Relaxed);
                self.trace.record(&delivery, Decided::Channel);
                if let Some(suppressed) = self.log_gate.pass(received_at) {
                    let MessageIds { message_id, correlation_id, traceparent } = MessageIds::of(&delivery);
                    info!(%channel, suppressed, message_id, correlation_id, traceparent,
                        "channels are reserved; sent to nobody");
                }
                if let Some(asked) = watch.asked {
                    asked.dropped("channel_reserved");
                }
                if let Some(span) = watch.span {
                    span.dropped(Verdict::Channel, "");
                }
            }
            Err(reason) => self.drop_message(delivery, ticket, watch, &reason),
        }
    }

    fn burst_ends(&mut self) {
        self.burst.end();
    }
}
