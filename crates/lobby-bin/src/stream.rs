//! A client's connection before its login: plain or encrypted, with what was read of it already.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use lobby_sessions::Tls;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// Bytes that one read takes.
const READ_BYTES: usize = 4096;

/// A socket, and bytes that came before and are read first.
#[derive(Debug)]
pub struct Early {
    socket: TcpStream,
    bytes: Vec<u8>,
}

impl Early {
    /// Nothing has been read.
    pub fn new(socket: TcpStream) -> Self {
        Self { socket, bytes: Vec::new() }
    }

    /// Waits for bytes and adds them to those that are read first; true at the end.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn look(&mut self) -> io::Result<bool> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let ended = read(&mut self.socket, |more| bytes.extend_from_slice(more)).await;
        self.bytes = bytes;
        ended
    }

    /// What will be read first.
    pub fn seen(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the first `len` bytes of those away.
    pub fn skip(&mut self, len: usize) {
        self.bytes.drain(..len);
    }
}

/// A connection that is not encrypted, or whose TLS handshake is done.
#[derive(Debug)]
pub enum Stream {
    Plain(Early),
    Tls(Box<TlsStream<Early>>),
}

impl Stream {
    /// Waits for bytes and hands them over; true at the end. They lie on the stack and never in the future, which
    /// would leave holes of many kilobytes between the sessions that stay.
    ///
    /// # Errors
    /// The connection is lost, or the bytes are not TLS.
    pub async fn read(&mut self, take: impl FnMut(&[u8])) -> io::Result<bool> {
        read(self, take).await
    }

    /// The socket in non-blocking mode, what encrypts it, and bytes that were read from it and not used.
    ///
    /// # Errors
    /// The event queue does not give the socket back.
    pub fn into_parts(self) -> io::Result<(std::net::TcpStream, Option<Tls>, Vec<u8>)> {
        let (Early { socket, bytes }, tls) = match self {
            Self::Plain(early) => (early, None),
            Self::Tls(stream) => {
                let (early, connection) = stream.into_inner();
                (early, Some(Tls::new(connection)))
            }
        };
        Ok((socket.into_std()?, tls, bytes))
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin), mut take: impl FnMut(&[u8])) -> io::Result<bool> {
    poll_fn(|context| {
        let mut scratch = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
        take(buffer.filled());
        Poll::Ready(Ok(buffer.filled().is_empty()))
    })
    .await
}

impl AsyncRead for Early {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, buffer);
        }
        let count = buffer.remaining().min(self.bytes.len());
        buffer.put_slice(&self.bytes[..count]);
        self.bytes.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Early {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(early) => Pin::new(early).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(early) => Pin::new(early).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(early) => Pin::new(early).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(early) => Pin::new(early).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
