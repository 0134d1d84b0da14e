//! From what became of a message to its span, in the words of OpenTelemetry's conventions for RabbitMQ.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use lobby_sessions::Reach;
use notify_amqp::Delivery;
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{Event, SpanContext, SpanId, SpanKind, Status},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::trace::{Outcome, Verdict};

/// What a span says about its delivery. Names and ids are as long as AMQP lets them be: 255 bytes each.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The publisher's span, which is the parent.
    pub parent: SpanContext,
    /// When the lobby took the message from its connection.
    pub at: SystemTime,
    pub exchange: String,
    pub routing_key: String,
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub body_bytes: usize,
    pub redelivered: bool,
}

impl Seen {
    /// Copies it from `delivery`, a child of `parent`.
    pub fn of(delivery: &Delivery, parent: SpanContext) -> Self {
        let now = SystemTime::now();
        Self {
            parent,
            at: now.checked_sub(delivery.received_at().elapsed()).unwrap_or(now),
            exchange: delivery.exchange().to_owned(),
            routing_key: delivery.routing_key().to_owned(),
            message_id: delivery.message_id().map(str::to_owned),
            correlation_id: delivery.correlation_id().map(str::to_owned),
            body_bytes: delivery.body().len(),
            redelivered: delivery.redelivered(),
        }
    }
}

/// A message that the lobby is done with.
#[derive(Debug, Clone)]
pub struct Ended {
    pub seen: Seen,
    pub verdict: Verdict,
    /// Whom it reached; nothing where it was sent to nobody.
    pub reach: Option<Reach>,
    /// From the delivery until it was handed to the shards, where it was.
    pub dispatched: Option<Duration>,
    /// From the delivery until the last session had let go of it, or it was dropped.
    pub took: Duration,
    /// Why it was dropped, in words.
    pub detail: Option<String>,
}

/// What `messaging.operation.name` and `…type` are: one word for both.
const OPERATION: &str = "process";

/// The span of a message that came through `queue`; `id` is new.
pub fn span(ended: Ended, id: SpanId, queue: &str, scope: &InstrumentationScope) -> SpanData {
    let Ended { seen, verdict, reach, dispatched, took, detail } = ended;
    let outcome = Outcome::of(verdict, Some(reach.unwrap_or_default()));
    let end = seen.at.checked_add(took).unwrap_or(seen.at);
    let mut attributes = vec![
        KeyValue::new("messaging.system", "rabbitmq"),
        KeyValue::new("messaging.operation.type", OPERATION),
        KeyValue::new("messaging.operation.name", OPERATION),
        KeyValue::new("messaging.destination.name", destination(&seen, queue)),
        KeyValue::new("messaging.message.body.size", whole(seen.body_bytes)),
        KeyValue::new("lobby.outcome", outcome.as_str()),
    ];
    // The conventions leave out what is empty.
    let texts = [
        ("messaging.rabbitmq.destination.routing_key", Some(seen.routing_key)),
        ("messaging.message.id", seen.message_id),
        ("messaging.message.conversation_id", seen.correlation_id),
    ];
    let texts = texts.into_iter().filter_map(|(key, text)| Some((key, text?)));
    attributes.extend(texts.filter(|(_, text)| !text.is_empty()).map(|(key, text)| KeyValue::new(key, text)));
    if let Verdict::User(user) = verdict {
        attributes.push(KeyValue::new("user.id", user.get().to_string()));
    }
    if seen.redelivered {
        attributes.push(KeyValue::new("lobby.redelivered", true));
    }
    if let Some(reach) = reach {
        let counts = [
            ("lobby.sessions.addressed", reach.sessions),
            ("lobby.sessions.written", reach.written()),
            ("lobby.sessions.overflowed", reach.overflowed),
            ("lobby.sessions.cut_off", reach.cut_off),
        ];
        attributes.extend(counts.map(|(key, count)| KeyValue::new(key, i64::from(count))));
    }
    let status = match failure(verdict, outcome, reach) {
        None => Status::Unset,
        Some(kind) => {
            attributes.push(KeyValue::new("error.type", kind));
            Status::Error { description: detail.map_or(Cow::Borrowed(kind), Cow::Owned) }
        }
    };
    let mut events = SpanEvents::default();
    if let Some(handed_over) = dispatched.and_then(|after| seen.at.checked_add(after)) {
        events.events.push(Event::new("dispatched", handed_over, Vec::new(), 0));
    }
    let parent = seen.parent;
    SpanData {
        span_context: SpanContext::new(
            parent.trace_id(),
            id,
            parent.trace_flags(),
            false,
            parent.trace_state().clone(),
        ),
        parent_span_id: parent.span_id(),
        parent_span_is_remote: true,
        span_kind: SpanKind::Consumer,
        name: if seen.exchange.is_empty() {
            OPERATION.into()
        } else {
            // Keys and queues may be many, and spans are grouped by name.
            format!("{OPERATION} {}", seen.exchange).into()
        },
        start_time: seen.at,
        end_time: end,
        attributes,
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        status,
        instrumentation_scope: scope.clone(),
    }
}

/// Exchange, routing key and queue, those that are there and each once.
fn destination(seen: &Seen, queue: &str) -> String {
    let queue = if queue == seen.routing_key { "" } else { queue };
    let parts = [seen.exchange.as_str(), seen.routing_key.as_str(), queue];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(":")
}

/// What went wrong, in one word: it was dropped, or sessions were there and none got it.
fn failure(verdict: Verdict, outcome: Outcome, reach: Option<Reach>) -> Option<&'static str> {
    match verdict {
        Verdict::Dropped(reason) => Some(reason),
        Verdict::Channel => None,
        Verdict::User(_) | Verdict::Everyone => {
            reach.filter(|reach| reach.sessions > 0 && reach.written() == 0).map(|_| outcome.as_str())
        }
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use notify_protocol::UserId;

    use super::*;
    use crate::otel::context::sampled_parent;

    const RECEIVED: Duration = Duration::from_secs(1_700_000_000);
    const TOOK: Duration = Duration::from_micros(1_500);

    fn ended(verdict: Verdict, reach: Option<Reach>) -> Ended {
        let traceparent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let seen = Seen {
            parent: sampled_parent(traceparent).expect("a parent"),
            at: UNIX_EPOCH + RECEIVED,
            exchange: "faf-lobby".into(),
            routing_key: "request.client.notify".into(),
            message_id: Some("m-1".into()),
            correlation_id: Some(String::new()),
            body_bytes: 17,
            redelivered: false,
        };
        Ended { seen, verdict, reach, dispatched: Some(TOOK / 3), took: TOOK, detail: None }
    }

    fn made(ended: Ended) -> SpanData {
        span(ended, SpanId::from(7), "q", &InstrumentationScope::default())
    }

    fn attribute(span: &SpanData, key: &str) -> Option<String> {
        let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
        found.map(|attribute| attribute.value.to_string())
    }

    fn reach(sessions: u32, overflowed: u32, cut_off: u32) -> Option<Reach> {
        Some(Reach { sessions, overflowed, cut_off })
    }

    #[test]
    fn a_span_is_the_publishers_child_from_delivery_to_last_write() {
        let span = made(ended(Verdict::User(UserId::new(42)), reach(2, 1, 0)));
        assert_eq!(span.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span.parent_span_id.to_string(), "00f067aa0ba902b7");
        assert!(span.parent_span_is_remote && span.span_context.is_sampled());
        assert_eq!(
            (span.span_context.span_id(), span.span_kind.clone()),
            (SpanId::from(7), SpanKind::Consumer)
        );
        assert_eq!(span.start_time, UNIX_EPOCH + RECEIVED);
        assert_eq!(span.end_time, UNIX_EPOCH + RECEIVED + TOOK);
        let events: Vec<_> = span.events.iter().map(|event| (&*event.name, event.timestamp)).collect();
        assert_eq!(events, [("dispatched", UNIX_EPOCH + RECEIVED + TOOK / 3)]);
        assert_eq!(span.name, "process faf-lobby");
        for (key, value) in [
            ("messaging.system", Some("rabbitmq")),
            ("messaging.operation.type", Some("process")),
            ("messaging.operation.name", Some("process")),
            ("messaging.destination.name", Some("faf-lobby:request.client.notify:q")),
            ("messaging.rabbitmq.destination.routing_key", Some("request.client.notify")),
            ("messaging.message.id", Some("m-1")),
            ("messaging.message.conversation_id", None),
            ("messaging.message.body.size", Some("17")),
            ("user.id", Some("42")),
            ("lobby.redelivered", None),
            ("lobby.sessions.addressed", Some("2")),
            ("lobby.sessions.written", Some("1")),
            ("lobby.sessions.overflowed", Some("1")),
            ("lobby.sessions.cut_off", Some("0")),
        ] {
            assert_eq!(attribute(&span, key).as_deref(), value, "{key}");
        }
    }

    #[test]
    fn outcome_and_status_say_what_became_of_it() {
        let user = Verdict::User(UserId::new(42));
        for (verdict, reach, outcome, error) in [
            (user, reach(1, 0, 0), "written", None),
            (user, reach(0, 0, 0), "not_connected", None),
            (user, reach(1, 1, 0), "overflowed", Some("overflowed")),
            (user, reach(2, 1, 0), "overflowed", None),
            (user, reach(1, 0, 1), "cut_off", Some("cut_off")),
            (Verdict::Everyone, reach(0, 0, 0), "nobody_there", None),
            (Verdict::Everyone, reach(9, 0, 1), "cut_off", None),
            (Verdict::Channel, None, "channel_reserved", None),
            (Verdict::Dropped("non_json"), None, "dropped", Some("non_json")),
        ] {
            let span = made(ended(verdict, reach));
            assert_eq!(attribute(&span, "lobby.outcome").as_deref(), Some(outcome), "{verdict:?} {reach:?}");
            assert_eq!(attribute(&span, "error.type").as_deref(), error, "{verdict:?} {reach:?}");
            assert_eq!(matches!(span.status, Status::Error { .. }), error.is_some(), "{verdict:?} {reach:?}");
            assert_eq!(attribute(&span, "lobby.sessions.addressed").is_some(), reach.is_some());
        }
        let dropped =
            Ended { detail: Some("body is not JSON".into()), ..ended(Verdict::Dropped("non_json"), None) };
        assert_eq!(made(dropped).status, Status::Error { description: "body is not JSON".into() });
    }

    #[test]
    fn a_destination_names_what_there_is_once() {
        for (exchange, key, queue, name, destination) in [
            ("e", "k", "q", "process e", "e:k:q"),
            ("", "k", "q", "process", "k:q"),
            ("", "q", "q", "process", "q"),
            ("e", "", "q", "process e", "e:q"),
        ] {
            let mut ended = ended(Verdict::Everyone, reach(0, 0, 0));
            (ended.seen.exchange, ended.seen.routing_key) = (exchange.into(), key.into());
            ended.seen.redelivered = true;
            let span = span(ended, SpanId::from(7), queue, &InstrumentationScope::default());
            assert_eq!(span.name, name);
            assert_eq!(attribute(&span, "messaging.destination.name").as_deref(), Some(destination));
            assert_eq!(attribute(&span, "lobby.redelivered").as_deref(), Some("true"));
        }
    }
}
