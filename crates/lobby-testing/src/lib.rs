//! A lobby to test against: in process, without a broker, with real sockets.
//!
//! Your unit test publishes a [`Message`](notify_protocol::Message) and asserts what user 42's client would read, to
//! the byte, over TCP and WebSocket. The message goes through the lobby's own decode, its own frame encoder and its
//! own sessions; only the broker and the login are left out.
//!
//! ```
//! use lobby_testing::{Outcome, TestLobby, Transport};
//! use notify_protocol::Notification;
//!
//! let lobby = TestLobby::start()?;
//! let mut player = lobby.connect(42, Transport::Tcp)?;
//! let mut browser = lobby.connect(42, Transport::WebSocket)?;
//! let mut other = lobby.connect(7, Transport::Tcp)?;
//!
//! // What your service publishes …
//! let message = Notification::to_user(42).raw_json("{\n\"command\":\"notice\"}").build()?;
//! assert_eq!(lobby.publish(&message)?, Outcome::Unicast);
//!
//! // … and what the clients read.
//! assert_eq!(player.read()?.bytes, b"{ \"command\":\"notice\"}\n");
//! assert_eq!(browser.read()?.bytes, b"\x81\x16{ \"command\":\"notice\"}\n"); // a text frame around the same line
//! assert!(other.read()?.bytes.is_empty());
//!
//! let message = Notification::to_user(43).raw_json("{}").build()?;
//! assert_eq!(lobby.publish(&message)?, Outcome::NotConnected);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Nothing sleeps and nothing is decided by time. [`TestLobby::publish`] returns when the message stands in every
//! addressed outbox, and [`Client::read`] returns what came before a fence that follows it. Calls block their thread
//! for as long as that takes, some microseconds as a rule and [`PATIENCE`] at most; they may be made in a `#[test]`
//! and in a `#[tokio::test]`.

#![deny(missing_docs)]

mod client;
mod error;
mod lobby;
mod recording;

pub use client::Client;
pub use error::TestingError;
pub use lobby::{Outcome, PATIENCE, TestLobby};
pub use lobby_sessions::Transport;
pub use recording::Received;
