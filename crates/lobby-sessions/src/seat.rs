//! A session's place in its shard's list: the socket, and at hand what a broadcast needs to know.
//!
//! A broadcast walks the whole list, and between two writes the kernel has emptied the processor's caches. So it
//! reads the list only, and the session itself just where something waits.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;

use crate::{
    Transport,
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
    /// The session is open and nothing waits for it. True only when known, so whoever may change the session
    /// ([`Seat::session_mut`]) makes it false.
    direct: bool,
    session: Box<Session>,
}

impl Seat {
    pub(crate) fn new(socket: TcpStream, session: Session) -> Self {
        Self { socket, transport: session.transport, direct: false, session: Box::new(session) }
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

    /// Whether a message may be written at once: the session is open and nothing waits for it.
    pub(crate) fn is_direct(&mut self) -> bool {
        self.direct = self.direct || (self.session.is_open() && self.session.outbox.is_empty());
        self.direct
    }

    /// Writes `run` until the socket takes no more; only for a seat that [`Seat::is_direct`]. A lost connection shows
    /// at the next write.
    pub(crate) fn write_run(&mut self, run: &Run<'_>) -> Sent {
        let mut sent = Sent::default();
        for (part, offered) in run.parts() {
            let Ok(Written { bytes, took_all }) = write(&self.socket, part, offered) else { break };
            sent.add(part, offered, bytes);
            if !took_all {
                self.session_mut().block();
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
        let session = &mut self.session;
        while !session.outbox.is_empty() {
            if session.blocked {
                return Flushed::Blocked;
            }
            let written = if let Some(bytes) = session.outbox.single() {
                write(&self.socket, &[IoSlice::new(bytes)], bytes.len())
            } else {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let (filled, bytes) = session.outbox.slices(&mut slices);
                write(&self.socket, &slices[..filled], bytes)
            };
            let Ok(Written { bytes, took_all }) = written else { return Flushed::Broken };
            let frames = session.advance(bytes, stats);
            if bytes > 0 {
                stats.wrote(1, frames, bytes);
            }
            if !took_all {
                session.block();
            }
        }
        session.backlog_since = None;
        self.direct = session.is_open();
        Flushed::Empty
    }

    /// Reads once what the socket holds.
    pub(crate) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.socket).read(into)
    }

    /// Ends our side of the connection: the client reads to the end.
    pub(crate) fn shut_down_writing(&self) {
        // A connection that is lost already needs no end.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    /// The session of a seat that is given up; its socket is closed.
    pub(crate) fn leave(self) -> Session {
        *self.session
    }
}

/// What a socket took in one system call.
#[derive(Default)]
struct Written {
    bytes: usize,
    /// False: the socket is full, and the event queue says when it has room again. A partial write says so as well
    /// as one that is refused (epoll(7)).
    took_all: bool,
}

/// Writes slices of `offered` bytes in all. A single one goes by `send`, which costs the kernel less than `writev`.
fn write(mut socket: &TcpStream, slices: &[IoSlice<'_>], offered: usize) -> io::Result<Written> {
    loop {
        let written = match slices {
            [single] => socket.write(single),
            many => socket.write_vectored(many),
        };
        match written {
            Ok(bytes) => return Ok(Written { bytes, took_all: bytes == offered }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
