//! Builds a [`Message`]: the address in the constructor, the body by type, everything else optional.
//!
//! Nothing is checked before `build`, and only `build` fails. There is no way to write a `user-id` that is not an
//! integer, nor to broadcast by leaving something out.

use std::time::Duration;

use serde::Serialize;

use crate::{
    Body, BuildError, CHANNEL_HEADER, Limits, Message, OutHeader, Properties, TRACEPARENT_HEADER,
    UNDECODABLE_HEADERS_MARKER, USER_ID_HEADER, UserId,
    contract::resembles,
    excerpt::Excerpt,
    limits::{MAX_EXPIRY_MS, MAX_HEADERS_BYTES, MAX_SHORT_STRING_BYTES, MAX_TIMESTAMP_SECONDS},
    message::Target,
};

/// Starts a message by naming whom it is for.
///
/// ```
/// use notify_protocol::{Notification, OutHeader};
/// use std::time::Duration;
///
/// let message = Notification::to_user(42)
///     .raw_json(r#"{"command":"notice","text":"hi"}"#)
///     .expires_in(Duration::from_secs(30))
///     .build()?;
/// assert_eq!(message.headers().collect::<Vec<_>>(), [("user-id", OutHeader::LongLong(42))]);
/// assert_eq!(message.properties().expiration.as_deref(), Some("30000"));
/// # Ok::<(), notify_protocol::BuildError>(())
/// ```
///
/// A message without a body cannot be built:
///
/// ```compile_fail,E0599
/// notify_protocol::Notification::broadcast().build();
/// ```
///
/// Nor can a boolean, a float or nothing be a user:
///
/// ```compile_fail,E0277
/// notify_protocol::Notification::to_user(true);
/// ```
/// ```compile_fail,E0277
/// notify_protocol::Notification::to_user(3.7);
/// ```
/// ```compile_fail,E0277
/// notify_protocol::Notification::to_user(None::<i64>);
/// ```
/// ```compile_fail,E0277
/// notify_protocol::Notification::to_user("42 "); // text is parsed first: `"42".parse::<UserId>()?`
/// ```
///
/// Nor is anything a broadcast that does not say so: a user cannot be left out, and no setter takes one.
///
/// ```compile_fail,E0061
/// notify_protocol::Notification::to_user();
/// ```
/// ```compile_fail,E0599
/// notify_protocol::Notification::default();
/// ```
/// ```compile_fail,E0599
/// notify_protocol::Notification::broadcast().user_id(42);
/// ```
#[derive(Debug)]
pub enum Notification {}

impl Notification {
    /// To every session of one user (contract: *Addressing*).
    ///
    /// ```
    /// use notify_protocol::{Notification, UserId};
    /// let by_text: UserId = "42".parse()?; // of text only the digits of an id
    /// let message = Notification::to_user(by_text).raw_json("{}").build()?;
    /// assert_eq!(message.address().to_string(), "user 42");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_user(user: impl Into<UserId>) -> NotificationBuilder<NoBody> {
        NotificationBuilder::new(Target::User(user.into()))
    }

    /// To one channel. Reserved: today's lobbies acknowledge it and send it to nobody (contract: *Addressing*).
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::to_channel("news").raw_json("{}").build()?;
    /// assert_eq!(message.headers().next(), Some(("channel", "news".into())));
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn to_channel(channel: impl Into<String>) -> NotificationBuilder<NoBody> {
        NotificationBuilder::new(Target::Channel(channel.into()))
    }

    /// To every player who is logged in (contract: *Addressing*).
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::broadcast().raw_json("{}").build()?;
    /// assert_eq!(message.headers().count(), 0);
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn broadcast() -> NotificationBuilder<NoBody> {
        NotificationBuilder::new(Target::Everyone)
    }
}

/// The builder's state before [`json`](NotificationBuilder::json) or [`raw_json`](NotificationBuilder::raw_json).
///
/// ```
/// use notify_protocol::{NoBody, Notification, NotificationBuilder};
/// let unfinished: NotificationBuilder<NoBody> = Notification::to_user(42);
/// assert!(unfinished.raw_json("{}").build().is_ok());
/// ```
#[derive(Debug, Clone)]
pub struct NoBody(());

/// The builder's state with a body, not checked yet.
///
/// ```
/// use notify_protocol::{HasBody, Notification, NotificationBuilder};
/// let unchecked: NotificationBuilder<HasBody> = Notification::to_user(42).raw_json("no JSON");
/// assert!(unchecked.build().is_err());
/// ```
#[derive(Debug, Clone)]
pub struct HasBody(Result<Vec<u8>, BuildError>);

/// A message in the making; `B` is [`NoBody`] or [`HasBody`]. Of a setter called twice the last call counts.
///
/// ```
/// # use notify_protocol::Notification;
/// let message = Notification::broadcast().raw_json("{}").priority(1).priority(2).build()?;
/// assert_eq!(message.properties().priority, Some(2));
/// # Ok::<(), notify_protocol::BuildError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is made before `build`"]
pub struct NotificationBuilder<B> {
    target: Target,
    properties: Properties,
    expires_in: Option<Duration>,
    traceparent: Option<String>,
    headers: Vec<(String, OutHeader)>,
    body: B,
}

impl NotificationBuilder<NoBody> {
    fn new(target: Target) -> Self {
        Self {
            target,
            properties: Properties::default(),
            expires_in: None,
            traceparent: None,
            headers: Vec::new(),
            body: NoBody(()),
        }
    }

    /// Serializes `value` as the body; it must become a JSON object (a struct or a map with string keys).
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// #[derive(serde::Serialize)]
    /// struct Notice {
    ///     command: &'static str,
    ///     text: String,
    /// }
    ///
    /// let notice = Notice { command: "notice", text: "hi".to_owned() };
    /// let message = Notification::to_user(42).json(&notice).build()?;
    /// assert_eq!(message.body(), br#"{"command":"notice","text":"hi"}"#);
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> NotificationBuilder<HasBody> {
        let body = serde_json::to_vec(value);
        self.with_body(body.map_err(|error| BuildError::BodyNotSerializable { problem: error.to_string() }))
    }

    /// Takes the body as written: one UTF-8 JSON object, which clients get verbatim. `build` checks it as the lobby
    /// will, by [`Body::check`] with default [`Limits`].
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::broadcast().raw_json(r#"{"n": 1.10, "n": 1e400}"#).build()?;
    /// assert_eq!(message.body(), br#"{"n": 1.10, "n": 1e400}"#);
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn raw_json(self, json: impl Into<Vec<u8>>) -> NotificationBuilder<HasBody> {
        self.with_body(Ok(json.into()))
    }

    fn with_body(self, body: Result<Vec<u8>, BuildError>) -> NotificationBuilder<HasBody> {
        let Self { target, properties, expires_in, traceparent, headers, body: NoBody(()) } = self;
        NotificationBuilder { target, properties, expires_in, traceparent, headers, body: HasBody(body) }
    }
}

impl<B> NotificationBuilder<B> {
    /// How long the message may wait in a queue before the broker drops it: more than zero, at most 49.7 days;
    /// sent in milliseconds, rounded up. Default: for ever.
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let minute = std::time::Duration::from_secs(60);
    /// let message = Notification::broadcast().raw_json("{}").expires_in(minute).build()?;
    /// assert_eq!(message.properties().expiration.as_deref(), Some("60000"));
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn expires_in(mut self, expiry: Duration) -> Self {
        self.expires_in = Some(expiry);
        self
    }

    /// The AMQP priority. Default: none.
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::broadcast().raw_json("{}").priority(9).build()?;
    /// assert_eq!(message.properties().priority, Some(9));
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn priority(mut self, priority: u8) -> Self {
        self.properties.priority = Some(priority);
        self
    }

    /// Names the message in logs, at most 255 bytes. Default: a UUID of version 7, which the publisher that sends
    /// the message fills in (`notify_amqp::Publisher` does).
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::to_user(42).raw_json("{}").message_id("avatar-4711").build()?;
    /// assert_eq!(message.properties().message_id.as_deref(), Some("avatar-4711"));
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn message_id(mut self, id: impl Into<String>) -> Self {
        self.properties.message_id = Some(id.into());
        self
    }

    /// A UUID of version 7 (RFC 9562, 5.7) as the message id, for publishers that fill in none: milliseconds since
    /// 1970, of which 48 bits count, and ten random bytes, of which 74 bits count.
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let random = [0xab; 10]; // from your generator
    /// let message = Notification::to_user(42).raw_json("{}").message_id_v7(1_700_000_000_000, random).build()?;
    /// assert_eq!(message.properties().message_id.as_deref(), Some("018bcfe5-6800-7bab-abab-abababababab"));
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn message_id_v7(self, unix_ms: u64, random: [u8; 10]) -> Self {
        self.message_id(uuid_v7(unix_ms, random))
    }

    /// Ties the message to what caused it, at most 255 bytes. Default: none.
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::to_user(42).raw_json("{}").correlation_id("order-12").build()?;
    /// assert_eq!(message.properties().correlation_id.as_deref(), Some("order-12"));
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.properties.correlation_id = Some(id.into());
        self
    }

    /// The queue that answers go to, such as a lobby's receipts: 1 to 255 bytes. Default: none.
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::to_user(42).raw_json("{}").reply_to("receipts.my-service").build()?;
    /// assert_eq!(message.properties().reply_to.as_deref(), Some("receipts.my-service"));
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn reply_to(mut self, queue: impl Into<String>) -> Self {
        self.properties.reply_to = Some(queue.into());
        self
    }

    /// When the message was made, in seconds (not milliseconds) since 1970. Default: none.
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::broadcast().raw_json("{}").timestamp(1_700_000_000).build()?;
    /// assert_eq!(message.properties().timestamp, Some(1_700_000_000));
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn timestamp(mut self, unix_seconds: u64) -> Self {
        self.properties.timestamp = Some(unix_seconds);
        self
    }

    /// The publishing application, at most 255 bytes. Default: none.
    ///
    /// ```
    /// # use notify_protocol::Notification;
    /// let message = Notification::to_user(42).raw_json("{}").app_id("faf-user-service").build()?;
    /// assert_eq!(message.properties().app_id.as_deref(), Some("faf-user-service"));
    /// # Ok::<(), notify_protocol::BuildError>(())
    /// ```
    pub fn app_id(mut self, app: impl Into<String>) -> Self {
        self.properties.app_id = Some(app.into());
        self
    }

    /// The W3C trace context, `00-<trace id>-<parent id>-<flags>`, sent as the header `traceparent`. Default: none.
    ///
    /// ```
    /// # use notify_protocol::{BuildError, Notification};
    /// let here = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// assert!(Notification::broadcast().raw_json("{}").traceparent(here).build().is_ok());
    /// let error = Notification::broadcast().raw_json("{}").traceparent("here").build().unwrap_err();
    /// assert!(matches!(error, BuildError::InvalidTraceparent { .. }));
    /// ```
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// Adds a header that lobbies ignore. The names of the address (in any spelling), of the trace context and of
    /// the broker's own routing are reserved; a name stands once.
    ///
    /// ```
    /// # use notify_protocol::{BuildError, Notification};
    /// assert!(Notification::broadcast().raw_json("{}").header("x-operator", "ops").build().is_ok());
    /// let error = Notification::broadcast().raw_json("{}").header("User-Id", 42).build().unwrap_err();
    /// assert!(matches!(error, BuildError::ReservedHeader { .. }));
    /// ```
    pub fn header(mut self, name: impl Into<String>, value: impl Into<OutHeader>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl NotificationBuilder<HasBody> {
    /// Checks everything once and makes the message. Permanent on failure: the same calls fail again.
    ///
    /// ```
    /// # use notify_protocol::{BuildError, Notification};
    /// let error = Notification::to_user(42).raw_json("[]").build().unwrap_err();
    /// assert_eq!(error, BuildError::BodyNotObject { found: "array" });
    /// ```
    ///
    /// # Errors
    /// - `Body…`: the body is not a JSON object of at most
    ///   [`DEFAULT_MAX_BODY_BYTES`](crate::limits::DEFAULT_MAX_BODY_BYTES).
    /// - [`BuildError::PropertyTooLong`]: message id, correlation id, reply-to or application id over 255 bytes.
    /// - [`BuildError::PropertyEmpty`]: a reply-to that names no queue.
    /// - [`BuildError::ZeroExpiry`], [`BuildError::ExpiryTooLong`], [`BuildError::TimestampTooLarge`],
    ///   [`BuildError::InvalidTraceparent`]: out of range, or not in the format.
    /// - [`BuildError::InvalidHeaderName`], [`BuildError::ReservedHeader`], [`BuildError::DuplicateHeader`],
    ///   [`BuildError::HeadersTooLarge`]: an extra header cannot be sent as given.
    pub fn build(self) -> Result<Message, BuildError> {
        let Self { target, mut properties, expires_in, traceparent, headers, body: HasBody(body) } = self;
        let body = checked_body(body?)?;
        check_properties(&properties)?;
        properties.expiration = expires_in.map(expiration).transpose()?;
        let mut extra_headers = Vec::with_capacity(headers.len() + 1);
        if let Some(traceparent) = traceparent {
            check_traceparent(&traceparent)?;
            extra_headers.push((TRACEPARENT_HEADER.to_owned(), OutHeader::LongString(traceparent)));
        }
        for (name, value) in headers {
            check_header_name(&name, &extra_headers)?;
            extra_headers.push((name, value));
        }
        let message = Message { target, extra_headers, properties, body };
        let len = message.headers().map(|(name, value)| 1 + name.len() + value.wire_len()).sum();
        if len > MAX_HEADERS_BYTES {
            return Err(BuildError::HeadersTooLarge { len, max: MAX_HEADERS_BYTES });
        }
        Ok(message)
    }
}

fn checked_body(bytes: Vec<u8>) -> Result<Vec<u8>, BuildError> {
    let json = Body::check(&bytes, &Limits::default())?.json();
    if json.len() == bytes.len() { Ok(bytes) } else { Ok(json.to_vec()) }
}

fn check_properties(properties: &Properties) -> Result<(), BuildError> {
    let Properties { message_id, correlation_id, reply_to, app_id, timestamp, .. } = properties;
    let short_strings = [
        ("message-id", message_id),
        ("correlation-id", correlation_id),
        ("reply-to", reply_to),
        ("app-id", app_id),
    ];
    for (property, value) in short_strings {
        let (len, max) = (value.as_ref().map_or(0, String::len), MAX_SHORT_STRING_BYTES);
        if len > max {
            return Err(BuildError::PropertyTooLong { property, len, max });
        }
    }
    if reply_to.as_deref() == Some("") {
        return Err(BuildError::PropertyEmpty { property: "reply-to" });
    }
    match *timestamp {
        Some(given) if given > MAX_TIMESTAMP_SECONDS => {
            Err(BuildError::TimestampTooLarge { given, max: MAX_TIMESTAMP_SECONDS })
        }
        _ => Ok(()),
    }
}

/// The text of a UUID of version 7 and the variant of RFC 9562.
fn uuid_v7(unix_ms: u64, random: [u8; 10]) -> String {
    let [a, b, tail @ ..] = random;
    let version = 0x7000 | (u16::from_be_bytes([a, b]) & 0x0fff);
    let tail = u64::from_be_bytes(tail) & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000;
    let unix_ms = unix_ms & 0xffff_ffff_ffff;
    let (high, low) = (unix_ms >> 16, unix_ms & 0xffff);
    let (variant, node) = (tail >> 48, tail & 0xffff_ffff_ffff);
    format!("{high:08x}-{low:04x}-{version:04x}-{variant:04x}-{node:012x}")
}

/// Milliseconds in decimal digits, rounded up so that half a millisecond does not become zero.
fn expiration(expiry: Duration) -> Result<String, BuildError> {
    let given_ms = expiry.as_nanos().div_ceil(1_000_000);
    if given_ms == 0 {
        Err(BuildError::ZeroExpiry)
    } else if given_ms > u128::from(MAX_EXPIRY_MS) {
        Err(BuildError::ExpiryTooLong { given_ms, max_ms: MAX_EXPIRY_MS })
    } else {
        Ok(given_ms.to_string())
    }
}

/// Checks version 00 of the W3C format: four fields of lower-case hexadecimal digits, ids not all zero.
fn check_traceparent(text: &str) -> Result<(), BuildError> {
    let hex = |field: &str, len| {
        field.len() == len && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |field: &str, len| hex(field, len) && field.bytes().any(|byte| byte != b'0');
    let mut fields = text.split('-');
    let fields = (fields.next(), fields.next(), fields.next(), fields.next(), fields.next());
    match fields {
        (Some("00"), Some(trace), Some(parent), Some(flags), None)
            if id(trace, 32) && id(parent, 16) && hex(flags, 2) =>
        {
            Ok(())
        }
        _ => Err(BuildError::InvalidTraceparent { given: Excerpt(text.as_bytes()).to_string() }),
    }
}

fn check_header_name(name: &str, earlier: &[(String, OutHeader)]) -> Result<(), BuildError> {
    let (len, max) = (name.len(), MAX_SHORT_STRING_BYTES);
    let shown = || Excerpt(name.as_bytes()).to_string();
    if len == 0 || len > max {
        return Err(BuildError::InvalidHeaderName { name: shown(), len, max });
    }
    if let Some(instead) = reserved(name) {
        return Err(BuildError::ReservedHeader { name: shown(), instead });
    }
    if earlier.iter().any(|(other, _)| other == name) {
        return Err(BuildError::DuplicateHeader { name: shown() });
    }
    Ok(())
}

/// What to do instead of setting a header that means something, if `name` is one in any spelling: lobbies would
/// ignore `User-Id`, and what was meant for one player would go to everyone.
fn reserved(name: &str) -> Option<&'static str> {
    let is = |reserved: &str| resembles(name.as_bytes(), reserved);
    if is(USER_ID_HEADER) {
        Some("start with `Notification::to_user`")
    } else if is(CHANNEL_HEADER) {
        Some("start with `Notification::to_channel`")
    } else if is(TRACEPARENT_HEADER) {
        Some("use `traceparent`")
    } else if is("CC") || is("BCC") {
        Some("the broker would route copies by it; publish once, to one address")
    } else if is(UNDECODABLE_HEADERS_MARKER) {
        Some("lobbies set it on headers they cannot read; choose another")
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
