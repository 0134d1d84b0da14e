//! The names both sides agree on, spelled once.

/// The only routing key that reaches clients (contract: *Topology*).
pub const NOTIFY_ROUTING_KEY: &str = "request.client.notify";

/// The exchange's type; the exchange is durable (contract: *Topology*).
pub const EXCHANGE_KIND: &str = "topic";

/// The exchange unless the operator configures another one (contract: *Topology*).
pub const DEFAULT_EXCHANGE: &str = "faf-lobby";

/// The header that addresses one user; exact spelling, any other is an unknown header (contract: *Addressing*).
///
/// Not the AMQP *property* `user-id`, which is the broker's login name and is ignored.
pub const USER_ID_HEADER: &str = "user-id";

/// The header that addresses one channel, reserved: recognised but sent to nobody (contract: *Addressing*).
pub const CHANNEL_HEADER: &str = "channel";

/// The header that carries a W3C trace context; it does not change the outcome.
pub const TRACEPARENT_HEADER: &str = "traceparent";

/// Stands in for a header table that the AMQP reader could not parse.
///
/// The reader replaces the whole table by this one header, whatever its value. [`address`](crate::address())
/// then answers [`DropReason::UndecodableHeaders`](crate::DropReason::UndecodableHeaders): a table that may have
/// held a `user-id` never turns into a broadcast (contract: *Order and delivery*, last point).
pub const UNDECODABLE_HEADERS_MARKER: &str = "x-lobby-undecodable-headers";
