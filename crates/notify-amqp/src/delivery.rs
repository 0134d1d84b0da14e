//! One message as the broker delivered it. Its tag and its channel stay hidden: only a
//! [`Ticket`](crate::Ticket) settles it, and only once.

use std::{fmt, sync::Arc, time::Instant};

use lapin::{BasicProperties, types::AMQPValue};
use notify_protocol::HeaderValue;

/// One delivery: body, headers and the properties the lobby may want to log.
pub struct Delivery {
    tag: u64,
    exchange: Arc<str>,
    routing_key: Arc<str>,
    redelivered: bool,
    properties: BasicProperties,
    body: Vec<u8>,
    received_at: Instant,
}

impl Delivery {
    /// What a `basic.deliver` says; properties and body follow.
    pub(crate) fn begin(
        tag: u64,
        exchange: Arc<str>,
        routing_key: Arc<str>,
        redelivered: bool,
        received_at: Instant,
    ) -> Self {
        let (properties, body) = Default::default();
        Self { tag, exchange, routing_key, redelivered, properties, body, received_at }
    }

    /// Also makes room for a body of `capacity` bytes.
    pub(crate) fn set_properties(&mut self, properties: BasicProperties, capacity: usize) {
        self.properties = properties;
        self.body.reserve_exact(capacity);
    }

    /// Bytes that the body can have without more memory.
    #[cfg(test)]
    pub(crate) fn body_capacity(&self) -> usize {
        self.body.capacity()
    }

    pub(crate) fn extend_body(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    /// The broker's number for it, which counts from 1 on each channel.
    pub(crate) fn tag(&self) -> u64 {
        self.tag
    }

    /// A delivery for tests of a dispatch without a broker: no headers, no properties.
    #[must_use]
    pub fn detached(routing_key: &str, body: Vec<u8>) -> Self {
        let mut delivery = Self::begin(1, Arc::default(), routing_key.into(), false, Instant::now());
        delivery.body = body;
        delivery
    }

    /// The same with a header of text, for such tests.
    #[must_use]
    pub fn with_text_header(mut self, name: &str, text: &str) -> Self {
        let mut headers = self.properties.headers().clone().unwrap_or_default();
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
        self.properties = self.properties.with_headers(headers);
        self
    }

    /// The publisher's bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The publisher's bytes, owned, without a copy.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// Exchange, routing key, properties and body.
    pub(crate) fn into_parts(self) -> (Arc<str>, Arc<str>, BasicProperties, Vec<u8>) {
        (self.exchange, self.routing_key, self.properties, self.body)
    }

    /// The message's headers, by name. If a name stood twice, the last one is here. Values inside of tables
    /// and arrays are left out.
    ///
    /// Headers that no parser could read arrive as the single header
    /// [`UNDECODABLE_HEADERS_MARKER`](notify_protocol::UNDECODABLE_HEADERS_MARKER); bytes of a name that are
    /// not UTF-8 arrive as `?`.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], HeaderValue<'_>)> {
        let table = self.properties.headers().as_ref();
        let entries = table.into_iter().flat_map(|table| table.inner());
        entries.map(|(name, value)| (name.as_str().as_bytes(), header_value(value)))
    }

    pub(crate) fn properties(&self) -> &BasicProperties {
        &self.properties
    }

    /// Whether the broker delivered the message before: to this lobby or to an earlier one.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// How often a quorum queue counted the message as come back (`x-delivery-count`); `None` where nobody counts.
    #[must_use]
    pub fn delivery_count(&self) -> Option<i64> {
        let mut headers = self.headers();
        headers.find_map(|(name, value)| match value {
            HeaderValue::Int(count) if name == b"x-delivery-count" => Some(count),
            _ => None,
        })
    }

    /// When this process took the message from its connection.
    #[must_use]
    pub fn received_at(&self) -> Instant {
        self.received_at
    }

    /// The exchange that it was published to.
    #[must_use]
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// The routing key that it was published with.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        &self.routing_key
    }

    /// The property `message_id`.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(lapin::types::ShortString::as_str)
    }

    /// The property `correlation_id`.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.properties.correlation_id().as_ref().map(lapin::types::ShortString::as_str)
    }

    /// The property `reply_to`: the queue that an answer goes to, if one is wanted.
    #[must_use]
    pub fn reply_to(&self) -> Option<&str> {
        self.properties.reply_to().as_ref().map(lapin::types::ShortString::as_str)
    }

    /// The property `app_id`.
    #[must_use]
    pub fn app_id(&self) -> Option<&str> {
        self.properties.app_id().as_ref().map(lapin::types::ShortString::as_str)
    }

    /// The property `timestamp`, in seconds since 1970 if the publisher keeps to the specification; any
    /// 64-bit number arrives.
    #[must_use]
    pub fn timestamp(&self) -> Option<u64> {
        *self.properties.timestamp()
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("exchange", &self.exchange())
            .field("routing_key", &self.routing_key())
            .field("redelivered", &self.redelivered())
            .field("bytes", &self.body().len())
            .finish_non_exhaustive()
    }
}

/// The wire's types, in the contract's terms.
pub(crate) fn header_value(value: &AMQPValue) -> HeaderValue<'_> {
    match value {
        AMQPValue::Boolean(value) => HeaderValue::Bool(*value),
        AMQPValue::ShortShortInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::ShortShortUInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::ShortInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::ShortUInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::LongInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::LongUInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::LongLongInt(value) => HeaderValue::Int(*value),
        AMQPValue::Float(value) => HeaderValue::Float(*value),
        AMQPValue::Double(value) => HeaderValue::Double(*value),
        AMQPValue::DecimalValue(value) => HeaderValue::Decimal { scale: value.scale, value: value.value },
        AMQPValue::ShortString(text) => HeaderValue::LongString(text.as_str().as_bytes()),
        AMQPValue::LongString(text) => HeaderValue::LongString(text.as_bytes()),
        AMQPValue::ByteArray(bytes) => HeaderValue::Bytes(bytes.as_slice()),
        AMQPValue::Timestamp(value) => HeaderValue::Timestamp(*value),
        AMQPValue::Void => HeaderValue::Void,
        AMQPValue::FieldArray(_) => HeaderValue::Array,
        AMQPValue::FieldTable(_) => HeaderValue::Table,
    }
}
