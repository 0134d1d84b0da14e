//! A raw AMQP 0-9-1 client for what a well-behaved library refuses to write.
//!
//! The vectors hold header types, duplicate names and bytes that are not UTF-8, and a test of the lobby must put
//! exactly those bytes on the wire. One connection has one channel; it is PLAIN over TCP, without TLS.
//!
//! ```text
//! field (vector → property bytes) → frame (method, header, body) → connection (socket, heartbeats, replies)
//!                                                                → publisher (confirms, returns, ledger)
//! ```
//!
//! Nothing here reconnects: a lost connection is an error, and what was not confirmed is [`Outcome::Unknown`].

mod connection;
mod field;
mod frame;
mod publisher;
mod url;
mod written;

pub(crate) use connection::{CONNECTION_NAME, Connection, Got, QueueState};
pub(crate) use field::{Properties, decode_body};
pub(crate) use publisher::{Message, Outcome, Publisher};
pub(crate) use url::{AmqpUrl, percent_encode};
pub(crate) use written::WrittenProperties;
