//! Consuming one queue for as long as the process lives.
//!
//! A consumer is an OS thread of its own, `amqp-consumer`, with a current-thread runtime: lapin costs
//! half as much there as on a shared one, and a busy process cannot delay its acks and heartbeats. The
//! thread keeps a connection, declares the topology, consumes, reads every delivery from the socket and hands
//! it to the [`Dispatch`], and starts over, with jittered backoff, after whatever goes wrong.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::sync::{oneshot, watch};

use crate::{
    backoff::BackoffPolicy,
    broker::BrokerConfig,
    delivery::Delivery,
    self_check::{SelfCheck, SelfCheckConfig},
    settlement::Ticket,
    stats::ConsumerStats,
    status::{ConsumerStatus, StopReason, Stopped},
    stop::{StopListener, StopOnDrop, StopSignal},
    supervisor::Supervisor,
    topology::Topology,
};

/// How to consume. [`ConsumerConfig::new`] has the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConsumerConfig {
    /// Where the broker is.
    pub broker: BrokerConfig,
    /// What to declare and consume from.
    pub topology: Topology,
    /// At most this many deliveries are unacked at a time (default 200, at least 1). This bounds the
    /// memory, and how many messages come again after a lost connection.
    pub prefetch: u16,
    /// Completed deliveries that are acked at once (default a quarter of the prefetch, at most 100).
    pub ack_batch: u16,
    /// A completed delivery is acked after this time at the latest (default 5 ms).
    pub ack_delay: Duration,
    /// The waits between attempts.
    pub backoff: BackoffPolicy,
    /// The waits between attempts while another consumer has the queue (default 1 s, doubled up to 10 s): that may
    /// take for ever, and each attempt is a login. See [`ConsumerError::ExclusiveInUse`](crate::ConsumerError).
    pub standby: BackoffPolicy,
    /// Whether and how the consumer looks whether messages come through (default `None`: not at all). It needs a
    /// queue that only this consumer consumes, and a user who may publish to the exchange.
    pub self_check: Option<SelfCheckConfig>,
    /// Whether the consumer ends when the broker cancels it, because its queue was deleted or the queue's node is gone,
    /// or when the self-check finds this out (default false: it declares the queue again and consumes on).
    pub stop_on_cancel: bool,
    /// How long [`ConsumerHandle::stop`] waits for open deliveries (default 5 s).
    pub stop_timeout: Duration,
}

impl ConsumerConfig {
    /// The defaults.
    #[must_use]
    pub fn new(broker: BrokerConfig, topology: Topology) -> Self {
        Self {
            broker,
            topology,
            prefetch: 200,
            ack_batch: 50,
            ack_delay: Duration::from_millis(5),
            backoff: BackoffPolicy::default(),
            standby: BackoffPolicy {
                base: Duration::from_secs(1),
                cap: Duration::from_secs(10),
                ..BackoffPolicy::default()
            },
            self_check: None,
            stop_on_cancel: false,
            stop_timeout: Duration::from_secs(5),
        }
    }

    /// Sets the prefetch, and the ack batch to its quarter (1 to 100).
    #[must_use]
    pub fn with_prefetch(mut self, prefetch: u16) -> Self {
        self.prefetch = prefetch;
        self.ack_batch = (prefetch / 4).clamp(1, 100);
        self
    }
}

/// What is done with each delivery.
///
/// Called on the consumer's own thread, `amqp-consumer`, in the queue's order. That thread also reads the
/// socket and sends acks and heartbeats, so a call must not block: calls of some milliseconds only slow the
/// queue down, but one that takes as long as the heartbeat (10 s by default) may lose the connection. Calls of
/// a second or longer are counted ([`ConsumerStats::dispatch_stalls`]). Work that takes long belongs on another
/// thread, behind a queue as long as the prefetch: more is never unsettled.
///
/// The ticket settles the delivery when its last clone is dropped: as [`Ticket::settle`] said, else with an ack. Work
/// that outlives the call keeps a clone. A panic is caught and counted, and the delivery is rejected.
///
/// This is the form for who settles later and elsewhere, and for speed: the lobby's own. A
/// [`Handler`](crate::Handler) is the other form: its outcome settles the delivery.
pub trait Dispatch: Send + 'static {
    /// Takes one delivery.
    fn dispatch(&mut self, delivery: Delivery, ticket: Ticket);

    /// Called after the last delivery that is at hand, before the thread waits for the broker, and at least
    /// every 32 deliveries: the place to wake, once for all of them, whoever works on them.
    fn burst_ends(&mut self) {}

    /// Called after the last delivery of a channel, when the connection is lost or the consumer stops. What was not
    /// begun will come again.
    fn channel_ends(&mut self) {}
}

impl<F: FnMut(Delivery, Ticket) + Send + 'static> Dispatch for F {
    fn dispatch(&mut self, delivery: Delivery, ticket: Ticket) {
        self(delivery, ticket);
    }
}

/// Starts consumers.
#[derive(Debug)]
pub struct Consumer;

impl Consumer {
    /// Starts the consumer's thread, which connects in its own time: see [`ConsumerHandle::status`].
    ///
    /// # Errors
    /// - [`io::ErrorKind::InvalidInput`]: the prefetch is 0, which would mean no limit, the topology has a
    ///   [`TopologyError`](crate::TopologyError), or the self-check a [`SelfCheckError`](crate::SelfCheckError).
    /// - any other: the operating system gave no thread or no event queue.
    pub fn spawn(config: ConsumerConfig, dispatch: impl Dispatch) -> io::Result<ConsumerHandle> {
        Self::spawn_stopped_by(StopSignal::new(), config, dispatch)
    }

    pub(crate) fn spawn_stopped_by(
        stop: (StopSignal, StopListener),
        config: ConsumerConfig,
        dispatch: impl Dispatch,
    ) -> io::Result<ConsumerHandle> {
        if config.prefetch == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "prefetch is 0, expected 1 to 65535"));
        }
        config.topology.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        if let Some(check) = &config.self_check {
            let fits = check.check(&config.topology.options);
            fits.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let stats = Arc::new(ConsumerStats::default());
        let (stop, stop_listener) = stop;
        let (status_tx, status) = watch::channel(ConsumerStatus::Connecting { attempt: 1, after: None });
        let (ended_tx, ended) = oneshot::channel();
        let supervisor = Supervisor::new(
            config,
            dispatch,
            (stop.clone(), stop_listener),
            status_tx.clone(),
            stats.clone(),
        );
        let self_check = supervisor.self_check();
        let thread = thread::Builder::new().name("amqp-consumer".into()).spawn(move || {
            let stopped = runtime.block_on(supervisor.run());
            // A name lookup that hangs must not keep the thread.
            runtime.shutdown_timeout(Duration::from_millis(100));
            status_tx.send_replace(ConsumerStatus::Stopped);
            let _ = ended_tx.send(stopped);
        })?;
        Ok(ConsumerHandle { stop: StopOnDrop(stop), status, stats, self_check, ended, thread })
    }
}

/// Owns a running consumer. Dropping it stops the consumer in the background.
#[derive(Debug)]
pub struct ConsumerHandle {
    stop: StopOnDrop,
    status: watch::Receiver<ConsumerStatus>,
    stats: Arc<ConsumerStats>,
    self_check: Option<SelfCheck>,
    ended: oneshot::Receiver<Stopped>,
    thread: thread::JoinHandle<()>,
}

impl ConsumerHandle {
    /// Follows what the consumer is doing.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ConsumerStatus> {
        self.status.clone()
    }

    /// The consumer's counters.
    #[must_use]
    pub fn stats(&self) -> Arc<ConsumerStats> {
        self.stats.clone()
    }

    /// The self-check, where it is configured.
    #[must_use]
    pub fn self_check(&self) -> Option<SelfCheck> {
        self.self_check.clone()
    }

    /// Stops consuming, waits at most `stop_timeout` for deliveries that are still being worked on, settles
    /// what was completed, closes channel and connection, and ends the thread.
    ///
    /// What was not completed, and what had not been begun yet, goes back to the queue. Works in every
    /// state, without a broker too. Cancelling the future leaves the consumer stopping in the background.
    pub async fn stop(self) -> Stopped {
        self.stop.0.give(StopReason::Asked);
        self.join().await
    }

    /// Waits until the consumer has ended by itself: because a handler halted it, or the broker cancelled it and
    /// [`ConsumerConfig::stop_on_cancel`] is set. Cancelling the future stops the consumer in the background.
    pub async fn join(self) -> Stopped {
        let Self { ended, thread, stop: _keep, .. } = self;
        let stopped = ended.await.unwrap_or_default();
        // The thread sent its last word: joining takes no time.
        let _ = thread.join();
        stopped
    }
}
