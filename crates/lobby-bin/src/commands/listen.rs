//! Hears what arrives at the exchange from an exclusive queue of its own, which goes with the connection.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use notify_amqp::{
    Consumer, ConsumerConfig, ConsumerHandle, ConsumerStatus, Declare, Delivery, QueueMode, QueueName,
    QueueOptions, Ticket,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{
    Failure,
    config::{Config, connection, topology},
    startup::{exit_code, told},
    warn_if_unverified,
};

/// Deliveries that wait to be shown. The prefetch bounds those of one connection; the rest is for one that was lost.
const WAITING: usize = 1000;

/// A consumer beside the lobbies.
pub struct Listening {
    consumer: ConsumerHandle,
    deliveries: mpsc::Receiver<(Delivery, Ticket)>,
    status: watch::Receiver<ConsumerStatus>,
    missed: Arc<AtomicU64>,
    gaps: u64,
    until: Option<Instant>,
    // From the beginning: a receiver made later does not hear of a signal that came before.
    interrupt: Signal,
    terminate: Signal,
}

impl Listening {
    /// Starts, and waits until messages are consumed. Ends by itself after `duration`.
    ///
    /// # Errors
    /// What keeps it from consuming, with the exit code of the cause: here it is not tried again.
    pub async fn start(config: &Config, what: &str, duration: Option<Duration>) -> Result<Self, Failure> {
        warn_if_unverified(config);
        let listen = |kind| signal(kind).context("listen to signals");
        let (interrupt, terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let mut topology = topology(config)?;
        // Without the self-check's, whose canaries are for one lobby.
        topology.routing_keys.clone_from(&config.queue.routing_keys);
        let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(12).collect();
        let name = format!("{}.lobby.{what}.{random}", config.exchange.as_str());
        topology.queue =
            QueueName::new(name).map_err(|error| Failure { code: Failure::CONFIG, error: error.into() })?;
        topology.options = QueueOptions::new(QueueMode::PerInstance, false);
        topology.declare = Declare::Active;
        let mut broker = connection(config);
        broker.connection_name.push_str(&format!(" {what} command"));
        let (sender, deliveries) = mpsc::channel(WAITING);
        let missed = Arc::new(AtomicU64::new(0));
        let hear = {
            let missed = Arc::clone(&missed);
            move |delivery: Delivery, ticket: Ticket| {
                if sender.try_send((delivery, ticket)).is_err() {
                    missed.fetch_add(1, Relaxed);
                }
            }
        };
        let consumer = Consumer::spawn(ConsumerConfig::new(broker, topology), hear)
            .context("start the consumer's thread")?;
        let mut listening = Self {
            status: consumer.status(),
            consumer,
            deliveries,
            missed,
            gaps: 0,
            until: duration.map(|duration| Instant::now() + duration),
            interrupt,
            terminate,
        };
        listening.consuming().await?;
        let _ =
            writeln!(std::io::stderr(), "listening at exchange {}; Ctrl-C ends", config.exchange.as_str());
        Ok(listening)
    }

    async fn consuming(&mut self) -> Result<(), Failure> {
        loop {
            match &*self.status.borrow_and_update() {
                ConsumerStatus::Waiting { error, hint, .. } => {
                    return Err(Failure { code: exit_code(error), error: told(error, hint.as_deref()) });
                }
                status if status.is_consuming() => return Ok(()),
                _ => {}
            }
            self.status.changed().await.context("the consumer ended")?;
        }
    }

    /// The next message; `None` after Ctrl-C, SIGTERM, or when the time is up.
    pub async fn next(&mut self) -> Option<Delivery> {
        let until = self.until;
        let timeout = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(timeout);
        loop {
            let changed = tokio::select! {
                // The end first: on a busy exchange there is always one more message.
                biased;
                _ = self.interrupt.recv() => return None,
                _ = self.terminate.recv() => return None,
                () = &mut timeout => return None,
                changed = self.status.changed() => changed,
                delivery = self.deliveries.recv() => return delivery.map(|(delivery, _)| delivery),
            };
            changed.ok()?;
            if let ConsumerStatus::Waiting { error, attempt: 1, .. } = &*self.status.borrow_and_update() {
                self.gaps += 1;
                let _ = writeln!(
                    std::io::stderr(),
                    "lobby: {error}; messages are missing until the connection is back"
                );
            }
        }
    }

    /// Whether more waits already.
    pub fn has_more(&self) -> bool {
        !self.deliveries.is_empty()
    }

    /// Stops; how often messages may be missing.
    pub async fn stop(self) -> u64 {
        drop(self.deliveries);
        self.consumer.stop().await;
        self.gaps + u64::from(self.missed.load(Relaxed) > 0)
    }
}
