//! One logged-in client: its outbox, and where it stands between login and farewell.

use std::{net::SocketAddr, time::Instant};

use notify_protocol::UserId;

use crate::{
    Bucket, CloseReason, Frame, Identity, Inbound, Place, Tls, Transport,
    outbox::{Full, Outbox},
    registry::Key,
    stats::ShardStats,
};

/// A connection that has logged in and is handed to the shard that owns its user.
#[derive(Debug)]
pub struct Admission {
    /// Who logged in.
    pub identity: Identity,
    /// How the client is connected.
    pub transport: Transport,
    /// The socket, in non-blocking mode.
    pub socket: std::net::TcpStream,
    /// Encrypts what goes through the socket; the handshake is done.
    pub tls: Option<Tls>,
    /// Where the client is, for the log.
    pub peer: SocketAddr,
    /// The decoder with whatever followed the login in the same packet.
    pub inbound: Inbound,
    /// The place that this connection takes in the limits on connections; given back when it ends.
    pub permit: Option<Place>,
}

/// Open → Draining → Lingering → gone; a session whose connection is lost is gone at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Notifications may be queued.
    Open,
    /// The last words are queued; nothing follows them.
    Draining { reason: CloseReason, deadline: Instant },
    /// All is written and our side is shut; the client should close.
    Lingering { reason: CloseReason, deadline: Instant },
}

/// A client between login and farewell; its socket is in its [`Seat`](crate::seat::Seat).
pub(crate) struct Session {
    pub(crate) key: Key,
    /// Tells this session from an earlier one with the same key.
    pub(crate) serial: u64,
    pub(crate) user: UserId,
    pub(crate) login: Box<str>,
    pub(crate) transport: Transport,
    pub(crate) peer: SocketAddr,
    pub(crate) state: State,
    pub(crate) inbound: Inbound,
    pub(crate) tls: Option<Tls>,
    pub(crate) outbox: Outbox,
    /// On its shard's list of those with something to write.
    pub(crate) dirty: bool,
    /// On its shard's list of those to be read from.
    pub(crate) unread: bool,
    /// How many broadcasts of the batch being delivered it has been offered: those before a unicast to it.
    pub(crate) ahead: usize,
    /// The socket took no more; the event queue says when it does again.
    pub(crate) blocked: bool,
    /// The client has shut its side: reads go on until they find the end.
    pub(crate) hung_up: bool,
    /// A token is being verified: what the client says after it waits.
    pub(crate) verifying: bool,
    /// The log has been told that messages for it are dropped.
    pub(crate) overflow_logged: bool,
    pub(crate) unanswered_pings: u8,
    pub(crate) failed_logins: u8,
    /// What of its commands is left; see [`SessionsConfig::command_rate`](crate::SessionsConfig::command_rate).
    pub(crate) commands: Bucket,
    /// Since when there is something of it that is not heard, see [`Self::is_held`].
    pub(crate) unheard_since: Option<Instant>,
    /// Commands beyond those: what it may have said while it was not heard.
    pub(crate) credit: usize,
    pub(crate) opened: Instant,
    pub(crate) last_inbound: Instant,
    pub(crate) expires_at: Option<u64>,
    /// Since when the outbox has not been empty.
    pub(crate) backlog_since: Option<Instant>,
    pub(crate) _permit: Option<Place>,
}

impl Session {
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether what the client says has to wait: for the verdict on a token, or for the client to read what waits
    /// for it, so that its answers cannot pile up. From one that has hung up little can come.
    pub(crate) fn is_held(&self) -> bool {
        let behind = self.backlog_since.is_some() && !self.hung_up;
        self.is_open() && (self.verifying || behind)
    }

    pub(crate) fn queue(&mut self, frame: &Frame, stats: &ShardStats) -> Result<(), Full> {
        self.adjust_queue(stats, |outbox| outbox.push(frame))
    }

    pub(crate) fn queue_last_words(&mut self, frame: &Frame, stats: &ShardStats) {
        self.adjust_queue(stats, |outbox| outbox.push_beyond_limit(frame));
    }

    /// Queues what the socket did not take of `frame`; the outbox must be empty.
    pub(crate) fn queue_rest(&mut self, frame: &Frame, sent: usize, stats: &ShardStats) {
        self.adjust_queue(stats, |outbox| outbox.push_rest(frame, sent));
    }

    pub(crate) fn make_room(&mut self, frame: &Frame, stats: &ShardStats) {
        let dropped = self.adjust_queue(stats, |outbox| outbox.make_room(frame));
        stats.dropped_oldest.add(dropped);
    }

    pub(crate) fn drop_unsent(&mut self, stats: &ShardStats) {
        self.adjust_queue(stats, Outbox::drop_unsent);
    }

    /// Takes `bytes` that the socket took out of the outbox; returns how many frames that finished.
    pub(crate) fn advance(&mut self, bytes: usize, stats: &ShardStats) -> usize {
        self.adjust_queue(stats, |outbox| outbox.advance(bytes))
    }

    /// Notes that the socket takes no more for now.
    pub(crate) fn block(&mut self) {
        self.blocked = true;
        self.backlog_since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn touch(&mut self, now: Instant) {
        self.last_inbound = now;
        self.unanswered_pings = 0;
    }

    /// Changes the outbox and keeps the shard's count of queued bytes true.
    fn adjust_queue<R>(&mut self, stats: &ShardStats, change: impl FnOnce(&mut Outbox) -> R) -> R {
        let before = self.outbox.bytes();
        let result = change(&mut self.outbox);
        stats.queued_bytes.change(before, self.outbox.bytes());
        result
    }
}
