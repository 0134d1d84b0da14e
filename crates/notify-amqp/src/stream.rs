//! The socket under lapin: inbound bytes pass the [`FrameFilter`], and the consumer can see when the broker
//! last spoke and cut the line.
//!
//! lapin drives a connection from a thread of its own and leaves no way to end it when the broker is
//! silent; the [`StreamControl`] is that way.

use std::{
    fmt,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_rs::{Tokio, traits::Reactor, util::DummyIO};
use futures_util::{
    Stream,
    io::{AsyncRead, AsyncWrite},
    task::AtomicWaker,
};
use lapin::AsyncTcpStream;
use tokio::sync::watch;
use tracing::warn;

use crate::{
    frame_filter::{FilterCounts, FrameFilter},
    stats::ConsumerStats,
};

/// The least time between two log lines about repaired frames.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A TCP or TLS stream whose inbound bytes are filtered.
pub(crate) struct FilteredStream {
    inner: AsyncTcpStream<<Tokio as Reactor>::TcpStream>,
    filter: FrameFilter,
    control: Arc<StreamControl>,
    reported: Reported,
    stats: Arc<ConsumerStats>,
    _gone: watch::Sender<()>,
}

impl FilteredStream {
    /// Wraps a connected stream. `frame_max` is what will be proposed to the broker.
    pub(crate) fn new(
        inner: AsyncTcpStream<<Tokio as Reactor>::TcpStream>,
        frame_max: u32,
        stats: Arc<ConsumerStats>,
    ) -> (Self, Arc<StreamControl>) {
        let (gone_tx, gone) = watch::channel(());
        let control = Arc::new(StreamControl {
            opened: Instant::now(),
            last_read: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            gone,
        });
        let stream = Self {
            inner,
            filter: FrameFilter::new(frame_max, notify_protocol::UNDECODABLE_HEADERS_MARKER),
            control: control.clone(),
            reported: Reported { counts: FilterCounts::default(), silent: FilterCounts::default(), at: None },
            stats,
            _gone: gone_tx,
        };
        (stream, control)
    }
}

/// What is left in the consumer's hands of a stream that lapin owns.
pub(crate) struct StreamControl {
    opened: Instant,
    /// Milliseconds after `opened`.
    last_read: AtomicU64,
    cut: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    gone: watch::Receiver<()>,
}

impl StreamControl {
    /// When bytes last came from the broker.
    pub(crate) fn last_read(&self) -> Instant {
        self.opened + Duration::from_millis(self.last_read.load(Ordering::Relaxed))
    }

    /// Ends the stream: every read and write on it fails from now on.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.reader.wake();
        self.writer.wake();
    }

    /// Returns once lapin has let go of the stream.
    pub(crate) async fn gone(&self) {
        // Nothing is ever sent: this ends when the stream, which holds the sender, is dropped.
        while self.gone.clone().changed().await.is_ok() {}
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the consumer"));
        }
        Ok(())
    }
}

impl AsyncRead for FilteredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.control.reader.register(cx.waker());
        this.control.check()?;
        loop {
            let ready = this.filter.ready();
            if !ready.is_empty() || buf.is_empty() {
                let n = ready.len().min(buf.len());
                buf[..n].copy_from_slice(&ready[..n]);
                this.filter.consume(n);
                return Poll::Ready(Ok(n));
            }
            let space = this.filter.space();
            let n = match Pin::new(&mut this.inner).poll_read(cx, space) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(n)) => n,
                other => return other,
            };
            let age = this.control.opened.elapsed().as_millis();
            this.control.last_read.store(u64::try_from(age).unwrap_or(u64::MAX), Ordering::Relaxed);
            this.filter.written(n).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let counts = this.filter.counts();
            if counts != this.reported.counts {
                this.reported.report(counts, &this.stats);
            }
        }
    }
}

impl AsyncWrite for FilteredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.control.writer.register(cx.waker());
        self.control.check()?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.control.writer.register(cx.waker());
        self.control.check()?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// What of the filter's counts went to the statistics and to the log.
struct Reported {
    counts: FilterCounts,
    silent: FilterCounts,
    at: Option<Instant>,
}

impl Reported {
    fn report(&mut self, counts: FilterCounts, stats: &ConsumerStats) {
        stats.repaired_headers.add(counts.repaired - self.counts.repaired);
        stats.undecodable_headers.add(counts.undecodable - self.counts.undecodable);
        self.counts = counts;
        if self.at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            let repaired = counts.repaired - self.silent.repaired;
            let undecodable = counts.undecodable - self.silent.undecodable;
            warn!(
                repaired,
                undecodable, "message headers that the AMQP library cannot read were repaired or replaced"
            );
            self.at = Some(Instant::now());
            self.silent = counts;
        }
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
