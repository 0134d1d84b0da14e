//! What systemd is told (sd_notify(3)): that the lobby listens, that its threads answer, that it drains. Nothing where
//! no service manager asks.

use std::{sync::Arc, time::Duration};

use lobby_sessions::Sessions;
use notify_amqp::Ticket;
use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// The lobby listens; whether it consumes is the business of `/ready`.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving clients")]);
}

/// The lobby drains.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// The lobby drains, and so many sessions are left.
pub fn draining(sessions: u64) {
    tell(&[NotifyState::Status(&format!("draining: {sessions} sessions left"))]);
}

/// Reports to the watchdog, where there is one, for as long as every shard answers and until `stop`.
pub async fn report(sessions: Arc<Sessions<Ticket>>, stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    // Twice within the limit, so that one late report does no harm.
    let period = (limit / 2).max(Duration::from_millis(1));
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        match timeout(period, sessions.answer()).await {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(_) => {
                error!(
                    limit_ms = limit.as_millis(),
                    "a shard does not answer; the watchdog is not told to wait"
                );
            }
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "the service manager could not be told: is NOTIFY_SOCKET right?");
    }
}
