//! TLS of one session: records in, records out, on a socket that does not block.

use std::{
    fmt,
    io::{self, IoSlice, Read, Write},
};

use rustls::ServerConnection;

/// Records that one read looks at; a client that sends only empty ones must not keep its shard.
const RECORDS_A_READ: usize = 16;

/// A TLS connection whose handshake is done, without its socket.
///
/// What it has encrypted and the socket has not taken is at most 64 KiB of messages, rustls's own limit; nothing more
/// is taken from a session's outbox before that is gone.
pub struct Tls(Box<ServerConnection>);

impl Tls {
    /// Takes over a connection; what it holds of the client's bytes is read first.
    #[must_use]
    pub fn new(connection: ServerConnection) -> Self {
        Self(Box::new(connection))
    }

    /// Takes what it may of `slices` and encrypts it, for [`Tls::flush`] to send; says how many bytes it took: none
    /// when the socket has not taken something else before.
    pub(crate) fn take(&mut self, socket: &mut impl Write, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.flush(socket)? {
            return Ok(0);
        }
        self.0.writer().write_vectored(slices)
    }

    /// Sends what is encrypted; false when the socket takes no more.
    pub(crate) fn flush(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        while self.0.wants_write() {
            match self.0.write_tls(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads what the client said; 0 at the end, [`io::ErrorKind::Interrupted`] when there may be more.
    pub(crate) fn read(&mut self, socket: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
        for _ in 0..RECORDS_A_READ {
            match self.0.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A client that hangs up without saying so is one that left, as over TCP.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            if self.0.read_tls(socket)? == 0 {
                return Ok(0);
            }
            self.0
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Tells the client that nothing follows.
    pub(crate) fn close(&mut self, socket: &mut impl Write) -> io::Result<()> {
        self.0.send_close_notify();
        self.flush(socket).map(drop)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.protocol_version()).finish()
    }
}
