//! The limits of the sessions.

use std::time::Duration;

use crate::{DuplicateLogin, FrameKind, OverflowPolicy, Rate};

/// Limits and policies of all sessions; every field has a default that suits production.
#[derive(Debug, Clone)]
pub struct SessionsConfig {
    /// Threads that own connections. Default: the machine's cores.
    pub shards: usize,
    /// Bytes that may wait for one client. Default 10 MiB: two of the largest messages fit.
    pub outbox_bytes: usize,
    /// Bytes of notifications that may wait for all clients together, each counted once however many share it;
    /// past it the sessions with the most waiting are closed with 4000. Default 256 MiB.
    pub outbox_total_bytes: usize,
    /// What happens when one session's bytes are not enough.
    pub overflow: OverflowPolicy,
    /// How long an outbox may stay non-empty before the client counts as too slow. Default 60 s.
    pub write_timeout: Duration,
    /// How long a client may be silent before it is pinged. Default 45 s.
    pub ping_interval: Duration,
    /// Pings that may stay unanswered. Default 2.
    pub max_unanswered_pings: u8,
    /// The largest inbound message of an open session, in bytes. Default 64 KiB.
    pub max_inbound_bytes: usize,
    /// How many commands a session may send; one that sends more is closed with 1008. Pings count, and so do an empty
    /// line, a WebSocket pong, and a fragment of less than 128 bytes: each costs the shard its time. What waited while
    /// the session was not heard may be made up for, as much as comes in `write_timeout` at most. Default: 100 a second
    /// and 200 at once. `None`: no limit.
    pub command_rate: Option<Rate>,
    /// How long a closing session may take to read its last words. Default 5 s.
    pub close_grace: Duration,
    /// Over how many milliseconds the returns of closed clients are spread. Default 10,000.
    pub retry_spread_ms: u64,
    /// What a second login of the same user does.
    pub duplicate_login: DuplicateLogin,
    /// Whether a session ends when its token expires (code 4002). Default: it does not, as in FAF.
    pub close_on_expiry: bool,
    /// How WebSocket clients receive messages.
    pub frame: FrameKind,
    /// Deliveries that may wait for one shard before the consumer is held up. At least the prefetch.
    pub inbox_capacity: usize,
    /// Bytes of the messages that may wait for one shard before the consumer is held up; one message always may. The shard
    /// works on as many. Default 8 MiB.
    pub inbox_bytes: usize,
    /// Messages whose reach is remembered, see [`ReachLog`](crate::ReachLog). Default 0: none.
    pub reach_entries: usize,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        Self {
            shards: std::thread::available_parallelism().map_or(1, usize::from),
            outbox_bytes: 10 << 20,
            outbox_total_bytes: 256 << 20,
            overflow: OverflowPolicy::Disconnect,
            write_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(45),
            max_unanswered_pings: 2,
            max_inbound_bytes: 64 << 10,
            command_rate: Rate::new(100, 200),
            close_grace: Duration::from_secs(5),
            retry_spread_ms: 10_000,
            duplicate_login: DuplicateLogin::Replace,
            close_on_expiry: false,
            frame: FrameKind::Text,
            inbox_capacity: 1024,
            inbox_bytes: 8 << 20,
            reach_entries: 0,
        }
    }
}
