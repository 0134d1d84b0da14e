//! The lobby's connected players: who is logged in, what waits for each, and how it reaches the socket.
//!
//! The way of a notification: [`Sessions::broadcast`] or [`Sessions::unicast`] → the inbox of a shard → its
//! registry → one vectored write to each addressed session, or its outbox while its socket takes no more. The
//! message is encoded once ([`Frame`]) and shared; each session's outbox is bounded in bytes; a client that does not
//! read costs only itself.
//!
//! This crate knows neither AMQP nor listeners: connections come in through [`Sessions::admit`] once they have
//! logged in.

mod auth;
mod bucket;
mod burst;
mod close;
mod command;
mod config;
mod farewell;
mod frame;
mod histogram;
mod inbound;
mod inbox;
mod line;
mod listing;
mod log_gate;
mod outbox;
mod place;
mod reach;
mod registry;
pub mod reply;
#[cfg(feature = "io-uring")]
mod ring;
mod run;
mod seat;
mod session;
mod sessions;
mod shard;
mod stats;
mod sync;
mod tls;
mod transport;
mod websocket;

pub use auth::{Authenticator, Identity, Refused, Verdict};
pub use bucket::{Bucket, Rate};
pub use burst::Burst;
pub use close::CloseReason;
pub use command::Command;
pub use config::SessionsConfig;
pub use farewell::farewell;
pub use frame::{Frame, FrameKind, FrameMeter};
pub use histogram::{Histogram, Snapshot};
pub use inbound::{Event, Inbound};
pub use listing::{Listing, SessionInfo, SessionQuery};
pub use log_gate::LogGate;
pub use outbox::OverflowPolicy;
pub use place::{Place, Places};
pub use reach::{MAX_REACH_ENTRIES, Reach, ReachLog};
pub use registry::DuplicateLogin;
pub use session::Admission;
pub use sessions::Sessions;
pub use stats::{CLOSE_CODES, SessionStats};
pub use tls::Tls;
pub use transport::Transport;
pub use websocket::pong_frame;
