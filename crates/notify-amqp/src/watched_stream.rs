//! A socket that gives up by itself when nothing comes from the broker.
//!
//! deadpool-lapin connects in lapin's own way, and lapin leaves a thread behind for every attempt that the
//! broker accepts and never answers. A stream that fails after two silent heartbeats ends those threads.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_rs::{Tokio, traits::Reactor, util::DummyIO};
use futures_util::{
    Stream,
    io::{AsyncRead, AsyncWrite},
};
use tokio::time::Sleep;

use crate::{broker::BrokerConfig, dial::Dialed};

/// Where a connected socket waits for lapin to take it.
pub(crate) type Handover = Arc<Mutex<Option<Dialed>>>;

/// Tokio's reactor, with a time limit on silence. It does not connect: it hands over what was connected before.
#[derive(Clone)]
pub(crate) struct WatchingReactor {
    tokio: Tokio,
    silence_limit: Duration,
    handover: Handover,
}

impl WatchingReactor {
    pub(crate) fn new(tokio: Tokio, broker: &BrokerConfig, handover: Handover) -> Self {
        let two_heartbeats = Duration::from_secs(2 * u64::from(broker.heartbeat_seconds()));
        Self { tokio, silence_limit: broker.connect_timeout.max(two_heartbeats), handover }
    }
}

impl std::fmt::Debug for WatchingReactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WatchingReactor")
    }
}

impl Reactor for WatchingReactor {
    type TcpStream = WatchedStream<Dialed>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H>(&self, _: H) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<DummyIO, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.tokio.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(dur)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let dialed = self.handover.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(match dialed {
            Some(dialed) => Ok(WatchedStream::new(dialed, self)),
            None => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

/// A stream whose reads fail after a time without a byte.
pub(crate) struct WatchedStream<S> {
    inner: S,
    limit: Duration,
    last_read: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl<S> WatchedStream<S> {
    fn new(inner: S, reactor: &WatchingReactor) -> Self {
        let limit = reactor.silence_limit;
        Self { inner, limit, last_read: Instant::now(), alarm: Box::pin(reactor.tokio.sleep(limit)) }
    }

    fn watch(&mut self, cx: &mut Context<'_>, read: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if read.is_ready() {
            self.last_read = Instant::now();
            return read;
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            let deadline = self.last_read + self.limit;
            if Instant::now() >= deadline {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            // It was set before the last read: the alarm follows the reads lazily.
            self.alarm.as_mut().reset(deadline.into());
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.watch(cx, read)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read_vectored(cx, bufs);
        self.watch(cx, read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
