//! The drain: where it is ordered, and its steps.

use std::{convert::Infallible, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use lobby_sessions::Sessions;
use notify_amqp::Ticket;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{App, millis};
use crate::{config::DrainTimes, service_manager};

/// Between two log lines about a drain.
const PROGRESS: Duration = Duration::from_secs(1);

/// Where a drain is ordered by hand. Clones are the same desk.
#[derive(Debug, Clone)]
pub struct DrainDesk {
    ordered: CancellationToken,
    times: Arc<ArcSwap<DrainTimes>>,
}

impl DrainDesk {
    pub(super) fn new(times: DrainTimes) -> Self {
        Self { ordered: CancellationToken::new(), times: Arc::new(ArcSwap::from_pointee(times)) }
    }

    /// Orders a drain; nothing changes when it is ordered again.
    pub fn order(&self) {
        self.ordered.cancel();
    }

    /// Returns once it has been ordered here.
    pub(super) async fn ordered(&self) {
        self.ordered.cancelled().await;
    }

    /// The times of a drain that begins now.
    pub fn times(&self) -> DrainTimes {
        **self.times.load()
    }

    /// For a drain that has not begun.
    pub fn set_times(&self, times: DrainTimes) {
        self.times.store(Arc::new(times));
    }
}

impl App {
    /// Not ready, no new connections → 1012 to one client after the other, while messages go on being delivered → stop
    /// consuming, settle → end. Takes at most `drain_timeout`.
    pub(super) async fn drain(self) {
        let times = self.drain.times();
        let deadline = Instant::now() + times.limit;
        let left = || deadline.saturating_duration_since(Instant::now());
        self.readiness.begin_drain();
        service_manager::stopping();
        self.stop_accepting.cancel();
        for acceptor in self.acceptors {
            let _ = acceptor.await;
        }
        self.handshakes.close();
        // Neither a shard that does not answer nor a stranger who does not read must keep the process.
        let drained = async {
            tokio::join!(
                timeout(left(), self.sessions.drain(times.window, times.reading())),
                timeout(left(), self.handshakes.wait()),
            )
        };
        let unread = tokio::select! {
            (unread, _) = drained => unread.unwrap_or(usize::MAX),
            never = report(&self.sessions, deadline) => match never {},
        };
        match timeout(left() / 2, self.consumer.stop()).await {
            Ok(stopped) => {
                info!(unfinished = stopped.unfinished, clean = stopped.clean, "consumer stopped");
            }
            Err(_) => warn!("the consumer did not stop in time; unacked messages come again"),
        }
        if let Some(letters) = self.dead_letters {
            // Nothing can be acked any more: what was not confirmed comes again.
            let _ = timeout(left(), letters.stop(std::time::Instant::now())).await;
        }
        let sessions = self.sessions;
        let ended = tokio::task::spawn_blocking(move || sessions.shut_down());
        let _ = timeout(left().max(Duration::from_millis(100)), ended).await;
        self.receipts.finish(left().max(Duration::from_millis(100))).await;
        self.spans.finish(left().max(Duration::from_millis(100))).await;
        self.stop_admin.cancel();
        info!(sessions_cut_off = unread, "drained");
    }
}

/// Tells log and service manager how far the drain is, for as long as it is polled.
async fn report(sessions: &Sessions<Ticket>, deadline: Instant) -> Infallible {
    let mut ticks = interval_at(Instant::now() + PROGRESS, PROGRESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let open: u64 = sessions.stats().sessions.iter().sum();
        let left = deadline.saturating_duration_since(Instant::now());
        info!(sessions = open, limit_ms = millis(left), "still draining");
        service_manager::draining(open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_ordered_again_was_ordered() {
        let times = DrainTimes { limit: Duration::from_secs(10), window: Duration::ZERO };
        let desk = DrainDesk::new(times);
        desk.clone().order();
        desk.order();
        desk.ordered().await;
    }
}
