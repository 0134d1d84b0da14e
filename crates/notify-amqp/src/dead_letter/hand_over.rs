//! A dropped message's way from the consumer's thread to the task that writes dead letters: without a wait, and
//! bounded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Instant, SystemTime},
};

use lapin::types::ShortString;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{DeadLetter, DeadLetterConfig, DeadLetterStats, HandedOver, Verdict, writer::Writer};
use crate::{connection::FRAME_MAX, deadline, delivery::Delivery, settlement::Ticket};

/// Takes dropped messages, from the consumer's thread. The task ends when this is dropped and all is written.
#[derive(Debug)]
pub struct DeadLetters {
    sender: mpsc::Sender<Held>,
    shared: Arc<Shared>,
    config: Arc<DeadLetterConfig>,
}

/// Owns the task that writes.
#[derive(Debug)]
pub struct DeadLettersHandle {
    stop: watch::Sender<Option<Instant>>,
    task: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stats: DeadLetterStats,
    pending: AtomicUsize,
    /// No confirm came in time, and none has come since: tickets are not held.
    pub(super) down: AtomicBool,
    /// The connection is open and not blocked.
    pub(super) writable: AtomicBool,
    pub(super) frame_max: AtomicUsize,
}

/// A dropped message that waits for its confirm.
pub(super) struct Held {
    pub(super) letter: DeadLetter,
    pub(super) key: ShortString,
    pub(super) deadline: Instant,
    _ticket: Option<Ticket>,
    _place: Place,
}

/// One of the places for messages that wait.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>, most: usize) -> Option<Self> {
        let one_more = |n: usize| (n < most).then_some(n + 1);
        shared.pending.try_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::AcqRel);
    }
}

impl DeadLetters {
    /// Starts the task on `runtime`; it connects in its own time.
    #[must_use]
    pub fn start(config: DeadLetterConfig, runtime: &Handle) -> (Self, DeadLettersHandle) {
        let config = Arc::new(config);
        let shared = Arc::new(Shared {
            stats: DeadLetterStats::default(),
            pending: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            writable: AtomicBool::new(false),
            frame_max: AtomicUsize::new(FRAME_MAX as usize),
        });
        let (sender, receiver) = mpsc::channel(config.max_pending.max(1));
        let (stop, stopped) = watch::channel(None);
        let writer = Writer::new(Arc::clone(&config), Arc::clone(&shared), receiver, stopped);
        let task = runtime.spawn(writer.run());
        (Self { sender, shared: Arc::clone(&shared), config }, DeadLettersHandle { stop, task, shared })
    }

    /// Takes a message that was dropped for `reason` (one word) and `detail` (a sentence), without a wait. Its ticket
    /// is held until the broker has confirmed the dead letter, or the limits end the hope of that.
    pub fn hand_over(&self, delivery: Delivery, ticket: Ticket, reason: &str, detail: &str) -> HandedOver {
        let stats = &self.shared.stats;
        if DeadLetter::is_one(&delivery) {
            stats.looped.add(1);
            return HandedOver::Looped;
        }
        let down = self.shared.down.load(Ordering::Acquire);
        if down && !self.shared.writable.load(Ordering::Acquire) {
            stats.unreachable.add(1);
            return HandedOver::Unreachable;
        }
        let Some(place) = Place::take(&self.shared, self.config.max_pending.max(1)) else {
            stats.overflow.add(1);
            return HandedOver::Overflow;
        };
        let key = self.config.topology.routing_key.as_deref().unwrap_or(delivery.routing_key());
        // Neither is longer than AMQP allows: one came from the wire, the other was declared.
        let key = ShortString::try_new(key).unwrap_or_default();
        let verdict = Verdict { reason, detail, instance: &self.config.instance, time: SystemTime::now() };
        let frame_max = self.shared.frame_max.load(Ordering::Relaxed);
        let held = Held {
            letter: DeadLetter::of(delivery, verdict, frame_max),
            key,
            deadline: deadline::after(Instant::now(), self.config.timeout),
            _ticket: (!down).then_some(ticket),
            _place: place,
        };
        match self.sender.try_send(held) {
            Ok(()) if down => HandedOver::Probing,
            Ok(()) => HandedOver::Held,
            Err(mpsc::error::TrySendError::Full(_)) => {
                stats.overflow.add(1);
                HandedOver::Overflow
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                stats.unreachable.add(1);
                HandedOver::Unreachable
            }
        }
    }
}

impl DeadLettersHandle {
    /// What became of dropped messages.
    #[must_use]
    pub fn figures(&self) -> DeadLetterFigures {
        DeadLetterFigures(Arc::clone(&self.shared))
    }

    /// Ends the task when all that waits is written, or at `deadline`; what waits then is not acked by this, as the
    /// consumer's channel is expected to be closed: it comes again. Call it after the consumer has stopped.
    pub async fn stop(self, deadline: Instant) {
        self.stop.send_replace(Some(deadline));
        let _ = self.task.await;
    }
}

/// Reads the figures of a running task.
#[derive(Debug, Clone)]
pub struct DeadLetterFigures(Arc<Shared>);

impl DeadLetterFigures {
    /// What became of dropped messages.
    #[must_use]
    pub fn stats(&self) -> &DeadLetterStats {
        &self.0.stats
    }

    /// How many wait for their confirm.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.0.pending.load(Ordering::Relaxed) as u64
    }
}
