//! A session's place in its shard's list: the socket, and at hand what a broadcast needs to know.
//!
//! A broadcast walks the whole list, and between two writes the kernel has emptied the processor's caches. So it
//! reads the list only, and the session itself just where something waits.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;

use crate::{
    Tls, Transport,
    outbox::MAX_SLICES,
    run::{Run, Sent},
    session::Session,
    stats::ShardStats,
};

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

pub(crate) struct Seat {
    socket: TcpStream,
    /// The session's.
    transport: Transport,
    /// The session has TLS.
    encrypted: bool,
    /// The session is open and nothing waits for it. True only when known, so whoever may change the session
    /// ([`Seat::session_mut`]) makes it false. Never with TLS, which takes what the socket then may not: until the socket
    /// has it, it stands in the outbox.
    direct: bool,
    session: Box<Session>,
}

impl Seat {
    pub(crate) fn new(socket: TcpStream, session: Session) -> Self {
        let (transport, encrypted) = (session.transport, session.tls.is_some());
        Self { socket, transport, encrypted, direct: false, session: Box::new(session) }
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn session_mut(&mut self) -> &mut Session {
        self.direct = false;
        &mut self.session
    }

    pub(crate) const fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether a message may be written at once: the session is open, and nothing waits for it or stands in between.
    pub(crate) fn is_direct(&mut self) -> bool {
        let direct = || !self.encrypted && self.session.is_open() && self.session.outbox.is_empty();
        self.direct = self.direct || direct();
        self.direct
    }

    /// Writes `run` until the socket takes no more; only for a seat that [`Seat::is_direct`]. A lost connection shows
    /// at the next write.
    pub(crate) fn write_run(&mut self, run: &Run<'_>) -> Sent {
        let mut sent = Sent::default();
        for (part, offered) in run.parts() {
            let Ok(Written { bytes, blocked, .. }) = send(&self.socket, part, offered) else { break };
            sent.add(part, offered, bytes);
            if blocked {
                self.session_mut().block();
            }
            if blocked || bytes < offered {
                break;
            }
        }
        sent
    }

    /// What a ring writes to this seat; only for one that [`Seat::is_direct`].
    #[cfg(feature = "io-uring")]
    pub(crate) fn job<'a>(&self, key: usize, slices: &'a [IoSlice<'a>]) -> crate::ring::Job<'a> {
        crate::ring::Job::new(key, &self.socket, slices)
    }

    /// Notes what a ring's write of `part`, `offered` bytes, came to, as [`Seat::write_run`] does.
    #[cfg(feature = "io-uring")]
    pub(crate) fn took(&mut self, part: &[IoSlice<'_>], offered: usize, taken: io::Result<usize>) -> Sent {
        let mut sent = Sent::default();
        let bytes = match taken {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // Interrupted, or lost, which shows at the next write.
            Err(_) => return sent,
        };
        sent.add(part, offered, bytes);
        if bytes < offered {
            self.session_mut().block();
        }
        sent
    }

    /// Writes what waits, many messages to a system call, until the socket takes no more.
    pub(crate) fn flush(&mut self, stats: &ShardStats) -> Flushed {
        let session = &mut *self.session;
        while !session.outbox.is_empty() {
            if session.blocked {
                return Flushed::Blocked;
            }
            let Session { outbox, tls, .. } = session;
            let mut write = |slices: &[IoSlice<'_>], bytes| match tls {
                Some(tls) => encrypt(&self.socket, tls, slices, outbox.held()),
                None => send(&self.socket, slices, bytes),
            };
            let written = if let Some(bytes) = outbox.single() {
                write(&[IoSlice::new(bytes)], bytes.len())
            } else {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let (filled, bytes) = outbox.slices(&mut slices);
                write(&slices[..filled], bytes)
            };
            let Ok(Written { bytes, held, blocked }) = written else { return Flushed::Broken };
            outbox.hold(held);
            let frames = session.advance(bytes, stats);
            if bytes > 0 {
                stats.wrote(1, frames, bytes);
            }
            if blocked {
                session.block();
            }
        }
        if let Some(tls) = &mut session.tls {
            match tls.flush(&mut &self.socket) {
                Ok(true) => {}
                Ok(false) => {
                    session.block();
                    return Flushed::Blocked;
                }
                Err(_) => return Flushed::Broken,
            }
        }
        session.backlog_since = None;
        self.direct = !self.encrypted && session.is_open();
        Flushed::Empty
    }

    /// Reads once what the socket holds, and how much that was; true if there may be more.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<(usize, bool)> {
        let Some(tls) = &mut self.session.tls else {
            // A read that does not fill the buffer has emptied the socket (epoll(7)); only the end may follow.
            return (&self.socket).read(into).map(|count| (count, count == into.len()));
        };
        let read = tls.read(&mut &self.socket, into);
        // TLS answers for itself, too: a new key, or an alert before the end.
        if !tls.flush(&mut &self.socket)? {
            self.session_mut().block();
        }
        read.map(|count| (count, true))
    }

    /// Ends our side of the connection: the client reads to the end.
    pub(crate) fn shut_down_writing(&mut self) {
        if let Some(tls) = &mut self.session.tls {
            // A connection that is lost already needs no farewell.
            let _ = tls.close(&mut &self.socket);
        }
        // A connection that is lost already needs no end.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// The session of a seat that is given up; its socket is closed.
    pub(crate) fn leave(self) -> Session {
        *self.session
    }
}

/// What was taken of the bytes offered.
struct Written {
    bytes: usize,
    /// Bytes that TLS has taken and the socket has not.
    held: usize,
    /// The socket is full, and the event queue says when it has room again.
    blocked: bool,
}

/// Has TLS take slices and the socket what becomes of them, unless `held` bytes of these slices are under way: those
/// first. It may take less than all though nothing is blocked.
fn encrypt(
    mut socket: &TcpStream,
    tls: &mut Tls,
    slices: &[IoSlice<'_>],
    held: usize,
) -> io::Result<Written> {
    let taken = if held > 0 { held } else { tls.take(&mut socket, slices)? };
    match tls.flush(&mut socket)? {
        true => Ok(Written { bytes: taken, held: 0, blocked: false }),
        false => Ok(Written { bytes: 0, held: taken, blocked: true }),
    }
}

/// Writes slices of `offered` bytes in all. A single one goes by `send`, which costs the kernel less than `writev`.
/// A partial write says that the socket is full as well as one that is refused (epoll(7)).
fn send(mut socket: &TcpStream, slices: &[IoSlice<'_>], offered: usize) -> io::Result<Written> {
    loop {
        let written = match slices {
            [single] => socket.write(single),
            many => socket.write_vectored(many),
        };
        match written {
            Ok(bytes) => return Ok(Written { bytes, held: 0, blocked: bytes < offered }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Written { bytes: 0, held: 0, blocked: true });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
