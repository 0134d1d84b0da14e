//! lapin's end of the wire, and the reactor that goes with it.
//!
//! lapin drives a connection from a thread of its own and leaves no way to end it when the broker is
//! silent; [`Wire::cut`] is that way.

use std::{
    fmt,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_rs::{Tokio, traits::Reactor, util::DummyIO};
use futures_util::{
    Stream,
    io::{AsyncRead, AsyncWrite},
};
use lapin::AsyncTcpStream;
use tokio::sync::watch;

use crate::wire::Wire;

/// A TCP or TLS connection to the broker.
pub(crate) type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// What lapin takes for its socket.
pub(crate) struct FilteredStream {
    wire: Arc<Wire<Socket>>,
    _gone: watch::Sender<()>,
}

impl FilteredStream {
    /// lapin's end, and a receiver whose sender is dropped once lapin has let go of it.
    pub(crate) fn new(wire: Arc<Wire<Socket>>) -> (Self, watch::Receiver<()>) {
        let (gone_tx, gone) = watch::channel(());
        (Self { wire, _gone: gone_tx }, gone)
    }
}

impl AsyncRead for FilteredStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.wire.poll_passed(cx, buf)
    }
}

impl AsyncWrite for FilteredStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.wire.register_writer(cx)?;
        Pin::new(&mut self.wire.lock().socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wire.register_writer(cx)?;
        Pin::new(&mut self.wire.lock().socket).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire.lock().socket).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire.lock().socket).poll_close(cx)
    }
}

/// A reactor whose streams are filtered; all else is tokio's. lapin only uses its timers: the stream is
/// connected before lapin is called.
#[derive(Clone)]
pub(crate) struct FilteringReactor(pub(crate) Tokio);

impl fmt::Debug for FilteringReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FilteringReactor")
    }
}

impl Reactor for FilteringReactor {
    type TcpStream = FilteredStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H>(&self, _: H) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<DummyIO, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.0.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(dur)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
