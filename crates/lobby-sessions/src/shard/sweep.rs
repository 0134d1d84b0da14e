//! What time and memory bring to a shard's sessions, looked after for all of them together.

use std::{
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::time::{MissedTickBehavior, interval};

use super::Shard;
use crate::{
    CloseReason, reply,
    session::{Session, State},
};

/// How often farewells are looked at.
const FAREWELL_SWEEP: Duration = Duration::from_millis(100);

/// A backlog younger than this does not make a client slow.
const SPARED: Duration = Duration::from_secs(1);

impl Shard {
    /// Looks after what time brings to open sessions: pings, silence, expiry, clients that do not read. One sweep
    /// for all costs less than a timer each.
    pub(super) async fn sweep_for_ever(self: Rc<Self>) {
        let period = (self.config.ping_interval / 4).clamp(Duration::from_millis(20), Duration::from_secs(1));
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let now = Instant::now();
            self.sessions.borrow().iter().for_each(|(_, session)| self.look_after(session, now, unix));
            self.flush_dirty();
            self.shed();
        }
    }

    fn look_after(&self, session: &Rc<Session>, now: Instant, unix: u64) {
        if !session.is_open() {
            return;
        }
        let waits = |since: Instant| now.saturating_duration_since(since);
        let expired = session.expires_at.get().is_some_and(|at| unix >= at);
        let pings = session.unanswered_pings.get();
        if session.backlog_since.get().is_some_and(|s| waits(s) >= self.config.write_timeout) {
            self.close(session, CloseReason::TooSlow);
        } else if self.config.close_on_expiry && expired {
            self.close(session, CloseReason::TokenExpired);
        } else if waits(session.last_inbound.get()) >= self.config.ping_interval * (u32::from(pings) + 1) {
            if pings >= self.config.max_unanswered_pings {
                self.close(session, CloseReason::PingTimeout);
            } else {
                session.unanswered_pings.set(pings + 1);
                self.say(session, reply::PING);
            }
        }
    }

    /// Cuts off farewells that last too long.
    pub(super) async fn end_farewells(self: Rc<Self>) {
        let mut ticks = interval(FAREWELL_SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let (over, going_on) =
                self.closing.take().into_iter().partition(|session| match session.state.get() {
                    State::Draining { deadline, .. } | State::Lingering { deadline, .. } => now >= deadline,
                    State::Open | State::Closed => true,
                });
            self.closing.replace(going_on);
            let over: Vec<Rc<Session>> = over;
            over.iter().for_each(|session| self.remove(session));
        }
    }

    /// Gives memory back when the notifications that wait, each counted once, are too many: whoever has most waiting
    /// goes first. A client that fell behind only a moment ago is spared; it may only be reading a large message.
    pub(super) fn shed(self: &Rc<Self>) {
        let limit = self.config.outbox_total_bytes as u64;
        if self.meter.live_bytes() <= limit {
            return;
        }
        let now = Instant::now();
        let lags = |session: &Session| {
            let since = session.backlog_since.get();
            session.is_open() && since.is_some_and(|since| now.saturating_duration_since(since) >= SPARED)
        };
        let waiting = |session: &Session| session.outbox.borrow().bytes();
        let mut slow: Vec<_> =
            self.sessions.borrow().iter().map(|(_, s)| Rc::clone(s)).filter(|s| lags(s)).collect();
        slow.sort_unstable_by_key(|session| std::cmp::Reverse(waiting(session)));
        for session in slow {
            if self.meter.live_bytes() <= limit {
                break;
            }
            self.stats.shed.fetch_add(1, Relaxed);
            self.close(&session, CloseReason::TooSlow);
        }
        self.flush_dirty();
    }
}
