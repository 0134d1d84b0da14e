//! The wire contract of the lobby's notifications, as values in and values out.
//!
//! A trusted backend publishes a JSON object to RabbitMQ with the routing key [`NOTIFY_ROUTING_KEY`]; each lobby
//! pushes it, byte for byte, to the players the headers address. This crate is what both sides share:
//!
//! - **Lobby**: [`decode()`] turns a delivery's headers and body into an [`Address`] and a checked [`Body`], or says
//!   by a [`DropReason`] why it reaches nobody.
//! - **Publisher**: [`Notification`] builds a [`Message`] that every lobby accepts.
//!
//! Pure: no runtime, no AMQP library, no clock, no randomness, no I/O. No input panics or overflows the stack.
//!
//! ```
//! use notify_protocol::{Address, HeaderValue, Limits, Notification, UserId, decode};
//!
//! // A backend writes to player 42 …
//! let message = Notification::to_user(42).raw_json("{\n  \"command\": \"notice\"\n}").build()?;
//! let headers: Vec<_> = message.headers().collect(); // plus routing_key(), properties() and body()
//!
//! // … and the lobby reads it.
//! let headers = headers.iter().map(|(name, value)| (name.as_bytes(), HeaderValue::from(value)));
//! let decoded = decode(headers, message.body(), &Limits::default())?;
//! assert_eq!(decoded.address, Address::User(UserId::new(42)));
//!
//! let mut line = Vec::with_capacity(decoded.body.len() + 1);
//! decoded.body.append_line_to(&mut line);
//! line.push(b'\n');
//! assert_eq!(line, b"{   \"command\": \"notice\" }\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `testdata/vectors.jsonl` holds 277 deliveries and what must become of each; `tests/vectors.rs` runs them all.

#![deny(missing_docs)]

mod address;
mod body;
mod contract;
mod decode;
mod error;
mod excerpt;
mod explanation;
mod headers;
mod ids;
pub mod limits;
mod message;
mod notification;
mod receipt;

pub use address::{Address, address};
pub use body::Body;
pub use contract::{
    CHANNEL_HEADER, DEFAULT_EXCHANGE, EXCHANGE_KIND, NOTIFY_ROUTING_KEY, TRACEPARENT_HEADER,
    UNDECODABLE_HEADERS_MARKER, USER_ID_HEADER,
};
pub use decode::{Decoded, decode};
pub use error::{BuildError, DropReason};
pub use explanation::{ExplainedBody, ExplainedHeader, Explanation, HeaderRole, explain};
pub use headers::HeaderValue;
pub use ids::{ParseUserIdError, UserId};
pub use limits::Limits;
pub use message::{Message, OutHeader, Properties};
pub use notification::{HasBody, NoBody, Notification, NotificationBuilder};
pub use receipt::{
    RECEIPT_HEADER, RECEIPT_QUEUES, Receipt, ReceiptOutcome, ReceiptRefusal, ReceiptRequest, ReceiptScope,
};
