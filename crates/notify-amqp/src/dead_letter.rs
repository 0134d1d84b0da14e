//! A message that was dropped, as it is kept for people to look at; and back to what was published.
//!
//! Pure. Body, headers and properties stay as the publisher wrote them, with these exceptions, each of which is
//! kept as a header: `expiration` would delete the dead letter (RabbitMQ's own dead-lettering takes it away too),
//! a property `user-id` that is not this connection's user makes the broker close the channel, and a transient
//! message would not survive the broker. Header types stay, but `L` becomes `l` (RabbitMQ reads both as signed 64-bit
//! numbers), and what [`Delivery::headers`] describes as repaired stays repaired.

mod config;
mod hand_over;
mod queue;
mod stats;
mod writer;

use std::time::{Duration, SystemTime};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use notify_protocol::HeaderValue;

pub use self::{
    config::{DeadLetterConfig, DeadLetterTopology},
    hand_over::{DeadLetterFigures, DeadLetters, DeadLettersHandle},
    queue::{DeadLetterQueue, DeadLetterQueueError, Replayed},
    stats::{DeadLetterStats, HandedOver},
};
use crate::delivery::{Delivery, header_value};

const REASON: &str = "x-lobby-reason";
const DETAIL: &str = "x-lobby-detail";
const INSTANCE: &str = "x-lobby-instance";
const TIME: &str = "x-lobby-time";
const EXCHANGE: &str = "x-lobby-exchange";
const ROUTING_KEY: &str = "x-lobby-routing-key";
const EXPIRATION: &str = "x-lobby-expiration";
const DELIVERY_MODE: &str = "x-lobby-delivery-mode";
const PUBLISHER: &str = "x-lobby-publisher";
const HEADERS_LEFT_OUT: &str = "x-lobby-headers-left-out";
/// The headers that dead letters add, and that a replay takes away. Others that begin like these are the publisher's:
/// `x-lobby-receipt` is one.
const ADDED: [&str; 10] = [
    REASON,
    DETAIL,
    INSTANCE,
    TIME,
    EXCHANGE,
    ROUTING_KEY,
    EXPIRATION,
    DELIVERY_MODE,
    PUBLISHER,
    HEADERS_LEFT_OUT,
];

/// What a content header holds besides the headers, at most: class, weight, body size, flags, and all other
/// properties at their longest.
const REST_OF_HEADER: usize = 14 + 4 + 10 * 256 + 8 + 2;
const PERSISTENT: u8 = 2;

/// Why a message is kept, and by whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict<'a> {
    /// One word, such as `non_json`; at most 255 bytes are kept.
    pub reason: &'a str,
    /// A sentence for people; at most 1,024 bytes are kept.
    pub detail: &'a str,
    /// Who dropped it.
    pub instance: &'a str,
    /// When.
    pub time: SystemTime,
}

/// One dead letter: to be written, or read from the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

/// Where a dead letter came from and what it was, for publishing it again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Original {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
}

impl DeadLetter {
    /// Whether the delivery is a dead letter already: it came back out of a dead-letter exchange that is bound to
    /// where it is consumed, and would go round for ever. A publisher's own header of one of the names is no sign.
    pub(crate) fn is_one(delivery: &Delivery) -> bool {
        let (mut reason, mut time) = (false, false);
        for (name, value) in delivery.headers() {
            reason |= name == REASON.as_bytes() && matches!(value, HeaderValue::LongString(_));
            time |= name == TIME.as_bytes() && matches!(value, HeaderValue::Timestamp(_));
        }
        reason && time
    }

    /// Keeps `delivery`, but for headers of its own under the names of those that are added. If its headers do not fit a frame of `frame_max` bytes any more with what is added, they
    /// are left out and their number is kept.
    pub(crate) fn of(delivery: Delivery, verdict: Verdict<'_>, frame_max: usize) -> Self {
        let (exchange, routing_key, properties, body) = delivery.into_parts();
        let mut kept = FieldTable::default();
        kept.insert(REASON.into(), text(verdict.reason, 255));
        kept.insert(DETAIL.into(), text(verdict.detail, 1024));
        kept.insert(INSTANCE.into(), text(verdict.instance, 255));
        let time = verdict.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        kept.insert(TIME.into(), AMQPValue::Timestamp(time.as_secs()));
        kept.insert(EXCHANGE.into(), text(&exchange, 255));
        kept.insert(ROUTING_KEY.into(), text(&routing_key, 255));
        if let Some(expiration) = properties.expiration() {
            kept.insert(EXPIRATION.into(), text(expiration.as_str(), 255));
        }
        if let Some(user) = properties.user_id() {
            kept.insert(PUBLISHER.into(), text(user.as_str(), 255));
        }
        if let Some(mode) = properties.delivery_mode().filter(|mode| *mode != PERSISTENT) {
            kept.insert(DELIVERY_MODE.into(), AMQPValue::ShortShortUInt(mode));
        }
        // What the publisher wrote under our names would be read as ours.
        let own = properties.headers().iter().flat_map(|table| table.inner());
        let mut headers = FieldTable::default();
        for (name, value) in own.filter(|(name, _)| !ADDED.contains(&name.as_str())) {
            headers.insert(name.clone(), value.clone());
        }
        if table_len(&headers) + table_len(&kept) + REST_OF_HEADER > frame_max {
            let count = u32::try_from(headers.inner().len()).unwrap_or(u32::MAX);
            headers = FieldTable::default();
            kept.insert(HEADERS_LEFT_OUT.into(), AMQPValue::LongUInt(count));
        }
        for (name, value) in kept.inner() {
            headers.insert(name.clone(), value.clone());
        }
        let properties = without_perishable(&properties).with_headers(headers).with_delivery_mode(PERSISTENT);
        Self { properties, body }
    }

    /// What to publish to bring the message back, or `None` where it is not said: another program put it there.
    pub(crate) fn original(&self) -> Option<Original> {
        let (exchange, routing_key) = (self.short(EXCHANGE)?, self.short(ROUTING_KEY)?);
        let mut headers = FieldTable::default();
        self.published_headers().for_each(|(name, value)| {
            headers.insert(name.clone(), value.clone());
        });
        let mut properties = without_perishable(&self.properties);
        properties = match self.header(DELIVERY_MODE) {
            Some(AMQPValue::ShortShortUInt(mode)) => properties.with_delivery_mode(*mode),
            _ => properties.with_delivery_mode(PERSISTENT),
        };
        if !headers.inner().is_empty() {
            properties = properties.with_headers(headers);
        }
        if let Some(expiration) = self.short(EXPIRATION) {
            properties = properties.with_expiration(expiration);
        }
        Some(Original { exchange, routing_key, properties })
    }

    /// Why it was dropped; `None` where another program put it into the queue.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.text(REASON)
    }

    /// The sentence that says more.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.text(DETAIL)
    }

    /// The lobby that dropped it.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.text(INSTANCE)
    }

    /// When it was dropped, to the second.
    #[must_use]
    pub fn time(&self) -> Option<SystemTime> {
        match self.header(TIME)? {
            AMQPValue::Timestamp(seconds) => {
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(*seconds))
            }
            _ => None,
        }
    }

    /// The exchange that it was published to.
    #[must_use]
    pub fn exchange(&self) -> Option<&str> {
        self.text(EXCHANGE)
    }

    /// The routing key that it was published with.
    #[must_use]
    pub fn routing_key(&self) -> Option<&str> {
        self.text(ROUTING_KEY)
    }

    /// How many of the publisher's headers had to be left out, because they fill a frame on their own.
    #[must_use]
    pub fn headers_left_out(&self) -> u32 {
        match self.header(HEADERS_LEFT_OUT) {
            Some(AMQPValue::LongUInt(count)) => *count,
            _ => 0,
        }
    }

    /// The publisher's headers by name, as [`Delivery::headers`] gives them.
    pub fn headers(&self) -> impl Iterator<Item = (&str, HeaderValue<'_>)> {
        self.published_headers().map(|(name, value)| (name.as_str(), header_value(value)))
    }

    /// The publisher's properties that are set, by their names in AMQP, as text.
    #[must_use]
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        let of = &self.properties;
        let own = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
        let kept = |name| self.text(name).map(str::to_owned);
        let mode = match self.header(DELIVERY_MODE) {
            Some(AMQPValue::ShortShortUInt(mode)) => Some(*mode),
            _ => *of.delivery_mode(),
        };
        let all = [
            ("content-type", own(of.content_type())),
            ("content-encoding", own(of.content_encoding())),
            ("delivery-mode", mode.map(|mode| mode.to_string())),
            ("priority", of.priority().map(|priority| priority.to_string())),
            ("correlation-id", own(of.correlation_id())),
            ("reply-to", own(of.reply_to())),
            ("expiration", own(of.expiration()).or_else(|| kept(EXPIRATION))),
            ("message-id", own(of.message_id())),
            ("timestamp", of.timestamp().map(|seconds| seconds.to_string())),
            ("type", own(of.kind())),
            ("user-id", own(of.user_id()).or_else(|| kept(PUBLISHER))),
            ("app-id", own(of.app_id())),
            ("cluster-id", own(of.cluster_id())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The publisher's bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    fn published_headers(&self) -> impl Iterator<Item = (&ShortString, &AMQPValue)> {
        let all = self.properties.headers().iter().flat_map(|table| table.inner());
        all.filter(|(name, _)| !ADDED.contains(&name.as_str()))
    }

    fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.header(name)? {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
            _ => None,
        }
    }

    fn short(&self, name: &str) -> Option<ShortString> {
        ShortString::try_new(self.text(name)?).ok()
    }
}

fn text(text: &str, max: usize) -> AMQPValue {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    AMQPValue::LongString(LongString::from(&text[..end]))
}

/// All properties but headers, expiration, user id and delivery mode.
fn without_perishable(properties: &BasicProperties) -> BasicProperties {
    let mut new = BasicProperties::default();
    macro_rules! keep {
        ($($get:ident $with:ident),*) => {
            $(if let Some(value) = properties.$get().clone() { new = new.$with(value); })*
        };
    }
    keep!(
        content_type with_content_type, content_encoding with_content_encoding, priority with_priority,
        correlation_id with_correlation_id, reply_to with_reply_to, message_id with_message_id,
        timestamp with_timestamp, kind with_type, app_id with_app_id, cluster_id with_cluster_id
    );
    new
}

/// Bytes on the wire. Recursion is bounded: deliveries come with at most 32 levels.
fn table_len(table: &FieldTable) -> usize {
    let entries = table.inner().iter();
    4 + entries.map(|(name, value)| 1 + name.as_str().len() + value_len(value)).sum::<usize>()
}

/// Bytes on the wire, with the letter of the type.
fn value_len(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(values) => 4 + values.as_slice().iter().map(value_len).sum::<usize>(),
        AMQPValue::FieldTable(table) => table_len(table),
    }
}

#[cfg(test)]
mod tests;
