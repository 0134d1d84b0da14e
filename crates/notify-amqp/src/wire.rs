//! The socket with what its inbound bytes pass through, shared by lapin and the consumer.
//!
//! While the connection is made, lapin reads; while deliveries flow, the consumer does, on its own thread, and
//! leaves to lapin what is not a delivery; in the end lapin reads again. Who reads takes the lock for one read.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{
    io::{AsyncRead, AsyncWrite},
    task::AtomicWaker,
};
use tracing::warn;

use crate::{
    delivery_tap::DeliveryTap,
    frame_filter::{FilterCounts, FrameFilter},
    stats::ConsumerStats,
};

/// The least time between two log lines about repaired frames.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// One connection's socket, from both sides.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    state: Mutex<WireState<S>>,
    opened: Instant,
    /// Milliseconds after `opened`.
    last_read: AtomicU64,
    cut: AtomicBool,
    /// lapin's, of its last read and its last write.
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// What the lock protects.
#[derive(Debug)]
pub(crate) struct WireState<S> {
    pub(crate) socket: S,
    pub(crate) tap: DeliveryTap,
    /// Whether the consumer reads, and not lapin.
    pub(crate) tapped: bool,
    /// Why the consumer could read no more.
    pub(crate) failure: Option<io::Error>,
    filter: FrameFilter,
    reported: Reported,
    stats: Arc<ConsumerStats>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Wraps a connected socket. `frame_max` is what will be proposed to the broker.
    pub(crate) fn new(socket: S, frame_max: u32, stats: Arc<ConsumerStats>) -> Self {
        let opened = Instant::now();
        Self {
            state: Mutex::new(WireState {
                socket,
                tap: DeliveryTap::new(opened),
                tapped: false,
                failure: None,
                filter: FrameFilter::new(frame_max, notify_protocol::UNDECODABLE_HEADERS_MARKER),
                reported: Reported::default(),
                stats,
            }),
            opened,
            last_read: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        }
    }

    /// When bytes last came from the broker.
    pub(crate) fn last_read(&self) -> Instant {
        self.opened + Duration::from_millis(self.last_read.load(Ordering::Relaxed))
    }

    /// The first number of the broker's version, once it has said it.
    pub(crate) fn broker_major(&self) -> Option<u16> {
        self.lock().filter.broker_major()
    }

    /// Ends the connection: every read and write of lapin fails from now on.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.wake_reader();
        self.writer.wake();
    }

    /// Notes lapin's waker for writing. Fails once the connection is cut.
    pub(crate) fn register_writer(&self, cx: &Context<'_>) -> io::Result<()> {
        self.writer.register(cx.waker());
        self.check()
    }

    /// Makes lapin read.
    pub(crate) fn wake_reader(&self) {
        self.reader.wake();
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, WireState<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One read from the socket, through the filter and into the tap. `Ok(0)` is the end.
    pub(crate) fn poll_read(
        &self,
        state: &mut WireState<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let WireState { socket, filter, tap, .. } = state;
        let n = match Pin::new(socket).poll_read(cx, filter.space()) {
            Poll::Ready(Ok(n)) if n > 0 => n,
            other => return other,
        };
        let now = Instant::now();
        let age = now.saturating_duration_since(self.opened).as_millis();
        self.last_read.store(u64::try_from(age).unwrap_or(u64::MAX), Ordering::Relaxed);
        filter.written(n).map_err(invalid)?;
        let taken = tap.feed(filter.ready(), now).map_err(invalid)?;
        filter.consume(taken);
        let counts = filter.counts();
        if counts != state.reported.counts {
            state.reported.report(counts, &state.stats);
        }
        Poll::Ready(Ok(n))
    }

    /// lapin's read: what is not a delivery.
    pub(crate) fn poll_passed(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.reader.register(cx.waker());
        self.check()?;
        let mut guard = self.lock();
        let state = &mut *guard;
        loop {
            let passed = state.tap.passed();
            if !passed.is_empty() || buf.is_empty() {
                let n = passed.len().min(buf.len());
                buf[..n].copy_from_slice(&passed[..n]);
                state.tap.consume(n);
                return Poll::Ready(Ok(n));
            }
            if state.tapped {
                return Poll::Pending;
            }
            if let Some(error) = state.failure.take() {
                return Poll::Ready(Err(error));
            }
            match self.poll_read(state, cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                other => return other,
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the consumer"));
        }
        Ok(())
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What of the filter's counts went to the statistics and to the log.
#[derive(Debug, Default)]
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
