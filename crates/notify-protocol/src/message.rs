//! What a publisher hands to the broker: checked, complete, and free of any AMQP library.

use crate::{Address, CHANNEL_HEADER, HeaderValue, NOTIFY_ROUTING_KEY, USER_ID_HEADER, UserId};

/// A message ready to publish; only [`NotificationBuilder::build`](crate::NotificationBuilder::build) makes one, so
/// every lobby accepts it.
///
/// ```
/// use notify_protocol::Notification;
/// let message = Notification::to_user(42).raw_json(r#"{"command":"x"}"#).build()?;
/// let envelope = (message.routing_key(), message.properties(), message.headers().count());
/// # let _ = envelope;
/// assert_eq!(message.body(), br#"{"command":"x"}"#);
/// # Ok::<(), notify_protocol::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub(crate) target: Target,
    /// The headers besides the address, in their order.
    pub(crate) extra_headers: Vec<(String, OutHeader)>,
    pub(crate) properties: Properties,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The routing key: always [`NOTIFY_ROUTING_KEY`] (contract: *Topology*).
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::broadcast().raw_json("{}").build()?;
    /// assert_eq!(message.routing_key(), "request.client.notify");
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    #[must_use]
    pub const fn routing_key(&self) -> &'static str {
        NOTIFY_ROUTING_KEY
    }

    /// The headers to publish, the address first; no name stands twice. A broadcast has neither `user-id` nor
    /// `channel`.
    ///
    /// ```
    /// use notify_protocol::{Notification, OutHeader};
    /// let message = Notification::to_user(42).raw_json("{}").header("x-a", "b").build()?;
    /// let wanted = [("user-id", OutHeader::LongLong(42)), ("x-a", OutHeader::from("b"))];
    /// assert_eq!(message.headers().collect::<Vec<_>>(), wanted);
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn headers(&self) -> impl Iterator<Item = (&str, OutHeader)> {
        let address = match &self.target {
            Target::User(user) => Some((USER_ID_HEADER, OutHeader::LongLong(user.get()))),
            Target::Channel(name) => Some((CHANNEL_HEADER, OutHeader::LongString(name.clone()))),
            Target::Everyone => None,
        };
        address
            .into_iter()
            .chain(self.extra_headers.iter().map(|(name, value)| (name.as_str(), value.clone())))
    }

    /// The basic properties to publish.
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::broadcast().raw_json("{}").priority(3).build()?;
    /// assert_eq!((message.properties().delivery_mode, message.properties().priority), (2, Some(3)));
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    #[must_use]
    pub const fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The body to publish: one UTF-8 JSON object, without a BOM or surrounding white space.
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::broadcast().json(&std::collections::BTreeMap::from([("n", 1)])).build()?;
    /// assert_eq!(message.body(), b"{\"n\":1}");
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whom the message is for, as a lobby will read it; for logs.
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::to_channel("news").raw_json("{}").build()?;
    /// assert_eq!(message.address().to_string(), "channel \"news\"");
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    #[must_use]
    pub fn address(&self) -> Address<'_> {
        match &self.target {
            Target::User(user) => Address::User(*user),
            Target::Channel(name) => Address::Channel(HeaderValue::LongString(name.as_bytes())),
            Target::Everyone => Address::Everyone,
        }
    }
}

/// The address, chosen by name in the builder's constructor: there is no way to leave it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    User(UserId),
    Channel(String),
    Everyone,
}

/// A header value that may be published: the types that every AMQP library reads the same way.
///
/// Void, float and boolean are left out on purpose: as a `user-id` they would be a broadcast or a wrong player.
///
/// ```
/// use notify_protocol::OutHeader;
/// assert_eq!(OutHeader::from(7), OutHeader::LongLong(7));
/// assert_eq!(OutHeader::from("text"), OutHeader::LongString("text".to_owned()));
/// ```
/// ```compile_fail,E0277
/// # use notify_protocol::Notification;
/// Notification::broadcast().header("x-flag", true);
/// ```
/// ```compile_fail,E0277
/// # use notify_protocol::Notification;
/// Notification::broadcast().header("x-ratio", 1.5);
/// ```
/// ```compile_fail,E0277
/// # use notify_protocol::Notification;
/// Notification::broadcast().header("x-nothing", None::<i64>);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutHeader {
    /// 64-bit signed integer (`l` on the wire).
    LongLong(i64),
    /// Long string (`S` on the wire), UTF-8.
    LongString(String),
}

impl OutHeader {
    /// Bytes on the wire, the type letter included.
    pub(crate) fn wire_len(&self) -> usize {
        match self {
            Self::LongLong(_) => 1 + 8,
            Self::LongString(text) => 1 + 4 + text.len(),
        }
    }
}

impl From<i64> for OutHeader {
    fn from(value: i64) -> Self {
        Self::LongLong(value)
    }
}

impl From<&str> for OutHeader {
    fn from(text: &str) -> Self {
        Self::LongString(text.to_owned())
    }
}

impl From<String> for OutHeader {
    fn from(text: String) -> Self {
        Self::LongString(text)
    }
}

impl<'a> From<&'a OutHeader> for HeaderValue<'a> {
    /// The value as a lobby will read it.
    fn from(value: &'a OutHeader) -> Self {
        match value {
            OutHeader::LongLong(value) => Self::Int(*value),
            OutHeader::LongString(text) => Self::LongString(text.as_bytes()),
        }
    }
}

/// The basic properties of a message. None of them changes what a lobby does with it (contract: *Addressing*).
///
/// The property `user-id` is missing on purpose: the broker closes the channel unless it is the publisher's login.
///
/// ```
/// use notify_protocol::Properties;
/// let properties = Properties::default();
/// assert_eq!((properties.content_type, properties.delivery_mode), ("application/json", 2));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Properties {
    /// Always `application/json`.
    pub content_type: &'static str,
    /// Always `utf-8`.
    pub content_encoding: &'static str,
    /// Always 2, persistent: the queue is durable and keeps messages while a lobby restarts.
    pub delivery_mode: u8,
    /// 0 to 255; queues without `x-max-priority` ignore it.
    pub priority: Option<u8>,
    /// Ties the message to what caused it; at most 255 bytes.
    pub correlation_id: Option<String>,
    /// The queue that answers go to, such as a lobby's receipts; at most 255 bytes.
    pub reply_to: Option<String>,
    /// Names the message in logs; at most 255 bytes. If missing, the publisher that sends it fills in a UUID of
    /// version 7: this crate has neither clock nor randomness.
    pub message_id: Option<String>,
    /// How long the message may wait in a queue: milliseconds in decimal digits, `1` to `4294967295`.
    pub expiration: Option<String>,
    /// When it was made, in seconds since 1970.
    pub timestamp: Option<u64>,
    /// The publishing application; at most 255 bytes.
    pub app_id: Option<String>,
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            content_type: "application/json",
            content_encoding: "utf-8",
            delivery_mode: 2,
            priority: None,
            correlation_id: None,
            reply_to: None,
            message_id: None,
            expiration: None,
            timestamp: None,
            app_id: None,
        }
    }
}
