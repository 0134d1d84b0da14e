//! One logged-in client: its socket, its outbox, and where it stands between login and farewell.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    net::SocketAddr,
    sync::atomic::Ordering::Relaxed,
    time::Instant,
};

use notify_protocol::UserId;
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit, task::AbortHandle};

use crate::{
    CloseReason, Frame, Identity, Inbound, Transport,
    outbox::{Full, MAX_SLICES, Outbox},
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
    /// Where the client is, for the log.
    pub peer: SocketAddr,
    /// The decoder with whatever followed the login in the same packet.
    pub inbound: Inbound,
    /// The place that this connection takes in the limit of connections; given back when it ends.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// Open → Draining → Lingering → Closed; a lost connection closes directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Notifications may be queued.
    Open,
    /// The last words are queued; nothing follows them.
    Draining { reason: CloseReason, deadline: Instant },
    /// All is written and our side is shut; the client should close.
    Lingering { reason: CloseReason, deadline: Instant },
    /// Gone.
    Closed,
}

/// What a write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Nothing waits.
    Empty,
    /// The socket takes no more for now.
    Blocked,
    /// The connection is lost.
    Broken,
}

pub(crate) struct Session {
    pub(crate) key: Key,
    pub(crate) user: UserId,
    pub(crate) login: Box<str>,
    pub(crate) transport: Transport,
    pub(crate) peer: SocketAddr,
    pub(crate) socket: TcpStream,
    pub(crate) state: Cell<State>,
    pub(crate) inbound: RefCell<Inbound>,
    pub(crate) outbox: RefCell<Outbox>,
    /// Whether the session is on its shard's list of those with something to write.
    pub(crate) dirty: Cell<bool>,
    pub(crate) last_inbound: Cell<Instant>,
    pub(crate) unanswered_pings: Cell<u8>,
    pub(crate) failed_logins: Cell<u8>,
    pub(crate) expires_at: Cell<Option<u64>>,
    /// Since when the outbox has not been empty.
    pub(crate) backlog_since: Cell<Option<Instant>>,
    pub(crate) reader: Cell<Option<AbortHandle>>,
    pub(crate) writer: Cell<Option<AbortHandle>>,
    pub(crate) _permit: Option<OwnedSemaphorePermit>,
}

impl Session {
    pub(crate) fn is_open(&self) -> bool {
        self.state.get() == State::Open
    }

    pub(crate) fn queue(&self, frame: &Frame, stats: &ShardStats) -> Result<(), Full> {
        self.adjust_queue(stats, |outbox| outbox.push(frame))
    }

    pub(crate) fn queue_last_words(&self, frame: &Frame, stats: &ShardStats) {
        self.adjust_queue(stats, |outbox| outbox.push_beyond_limit(frame));
    }

    pub(crate) fn make_room(&self, frame: &Frame, stats: &ShardStats) {
        let dropped = self.adjust_queue(stats, |outbox| outbox.make_room(frame));
        stats.dropped_oldest.fetch_add(dropped, Relaxed);
    }

    pub(crate) fn drop_unsent(&self, stats: &ShardStats) {
        self.adjust_queue(stats, Outbox::drop_unsent);
    }

    /// Writes what waits, many messages to a system call, until the socket takes no more.
    pub(crate) fn flush(&self, stats: &ShardStats) -> Flushed {
        loop {
            let written = {
                let outbox = self.outbox.borrow();
                if outbox.is_empty() {
                    self.backlog_since.set(None);
                    return Flushed::Empty;
                }
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let filled = outbox.slices(&mut slices);
                self.socket.try_write_vectored(&slices[..filled])
            };
            match written {
                Ok(count) => {
                    let progress = self.adjust_queue(stats, |outbox| outbox.advance(count));
                    stats.writes.fetch_add(1, Relaxed);
                    stats.messages_written.fetch_add(progress.frames, Relaxed);
                    stats.bytes_written.fetch_add(progress.bytes, Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.backlog_since.get().is_none() {
                        self.backlog_since.set(Some(Instant::now()));
                    }
                    return Flushed::Blocked;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Flushed::Broken,
            }
        }
    }

    pub(crate) fn touch(&self, now: Instant) {
        self.last_inbound.set(now);
        self.unanswered_pings.set(0);
    }

    /// Stops the tasks that serve the connection. A task that calls this ends at its next wait.
    pub(crate) fn stop_tasks(&self) {
        for task in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            task.abort();
        }
    }

    /// Changes the outbox and keeps the shard's count of queued bytes true.
    fn adjust_queue<R>(&self, stats: &ShardStats, change: impl FnOnce(&mut Outbox) -> R) -> R {
        let mut outbox = self.outbox.borrow_mut();
        let before = outbox.bytes() as u64;
        let result = change(&mut outbox);
        // The sum over all sessions is never negative; each difference may be.
        stats.queued_bytes.fetch_add((outbox.bytes() as u64).wrapping_sub(before), Relaxed);
        result
    }
}
