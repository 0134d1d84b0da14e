//! The names both sides agree on, spelled once.

/// The only routing key that reaches clients (contract: *Topology*).
///
/// ```
/// assert_eq!(notify_protocol::NOTIFY_ROUTING_KEY, "request.client.notify");
/// ```
pub const NOTIFY_ROUTING_KEY: &str = "request.client.notify";

/// The exchange's type; the exchange is durable (contract: *Topology*).
///
/// ```
/// assert_eq!(notify_protocol::EXCHANGE_KIND, "topic");
/// ```
pub const EXCHANGE_KIND: &str = "topic";

/// The exchange unless the operator configures another one (contract: *Topology*).
///
/// ```
/// assert_eq!(notify_protocol::DEFAULT_EXCHANGE, "faf-lobby");
/// ```
pub const DEFAULT_EXCHANGE: &str = "faf-lobby";

/// The header that addresses one user; exact spelling, any other is an unknown header (contract: *Addressing*).
///
/// Not the AMQP *property* `user-id`, which is the broker's login name and is ignored.
///
/// ```
/// use notify_protocol::{Notification, USER_ID_HEADER};
/// let message = Notification::to_user(42).raw_json("{}").build()?;
/// assert!(message.headers().any(|(name, _)| name == USER_ID_HEADER));
/// # Ok::<(), notify_protocol::BuildError>(())
/// ```
pub const USER_ID_HEADER: &str = "user-id";

/// The header that addresses one channel, reserved: recognised but sent to nobody (contract: *Addressing*).
///
/// ```
/// use notify_protocol::{CHANNEL_HEADER, Notification};
/// let message = Notification::to_channel("news").raw_json("{}").build()?;
/// assert!(message.headers().any(|(name, _)| name == CHANNEL_HEADER));
/// # Ok::<(), notify_protocol::BuildError>(())
/// ```
pub const CHANNEL_HEADER: &str = "channel";

/// The header that carries a W3C trace context; it does not change the outcome.
///
/// ```
/// use notify_protocol::{Notification, TRACEPARENT_HEADER};
/// let here = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let message = Notification::broadcast().raw_json("{}").traceparent(here).build()?;
/// assert!(message.headers().any(|(name, value)| name == TRACEPARENT_HEADER && value == here.into()));
/// # Ok::<(), notify_protocol::BuildError>(())
/// ```
pub const TRACEPARENT_HEADER: &str = "traceparent";

/// Stands in for a header table that the AMQP reader could not parse.
///
/// The reader replaces the whole table by this one header, whatever its value. [`address`](crate::address())
/// then answers [`DropReason::UndecodableHeaders`](crate::DropReason::UndecodableHeaders): a table that may have
/// held a `user-id` never turns into a broadcast (contract: *Order and delivery*, last point).
///
/// ```
/// use notify_protocol::{DropReason, HeaderValue, UNDECODABLE_HEADERS_MARKER, address};
/// let marker = (UNDECODABLE_HEADERS_MARKER.as_bytes(), HeaderValue::Void);
/// assert_eq!(address([marker]), Err(DropReason::UndecodableHeaders));
/// ```
pub const UNDECODABLE_HEADERS_MARKER: &str = "x-lobby-undecodable-headers";

/// Whether `name` is `known` but for the case of letters and for what stands between them: probably the same was meant.
pub(crate) fn resembles(name: &[u8], known: &str) -> bool {
    let letters = |text: &[u8]| {
        let letters = text.iter().filter(|byte| byte.is_ascii_alphanumeric());
        letters.map(u8::to_ascii_lowercase).collect::<Vec<_>>()
    };
    letters(name) == letters(known.as_bytes())
}
