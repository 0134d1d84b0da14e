//! What time and memory bring to a shard's sessions, looked after for all of them together. One sweep for all costs
//! less than a timer each.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Shard, desk::Desk};
use crate::{
    CloseReason, SessionsConfig, reply,
    seat::Seat,
    session::{Session, State},
};

/// How often farewells are looked at while there are any.
const FAREWELL_SWEEP: Duration = Duration::from_millis(100);

/// A backlog younger than this does not make a client slow.
const SPARED: Duration = Duration::from_secs(1);

/// When the next looks are due.
#[derive(Debug)]
pub(super) struct Sweeps {
    period: Duration,
    open_sessions: Instant,
    farewells: Instant,
}

impl Sweeps {
    pub(super) fn new(config: &SessionsConfig, now: Instant) -> Self {
        let period = (config.ping_interval / 4).clamp(Duration::from_millis(20), Duration::from_secs(1));
        Self { period, open_sessions: now + period, farewells: now }
    }
}

impl Shard {
    /// How long the shard may sleep.
    pub(super) fn next_deadline(&self, now: Instant) -> Duration {
        let farewells = (!self.desk.closing.is_empty()).then_some(self.sweeps.farewells);
        [Some(self.sweeps.open_sessions), farewells, self.drain_deadline()]
            .into_iter()
            .flatten()
            .map(|deadline| deadline.saturating_duration_since(now))
            .min()
            .unwrap_or(self.sweeps.period)
    }

    /// Looks after what time brings: pings, silence, expiry, clients that do not read, farewells that last too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        if now >= self.sweeps.open_sessions {
            self.sweeps.open_sessions = now + self.sweeps.period;
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let Self { seats, desk, .. } = self;
            seats.iter_mut().for_each(|(_, seat)| desk.look_after(seat, now, unix));
            self.shed(now);
        }
        if now >= self.sweeps.farewells {
            self.sweeps.farewells = now + FAREWELL_SWEEP;
            self.end_farewells(now);
        }
    }

    fn end_farewells(&mut self, now: Instant) {
        let mut closing = std::mem::take(&mut self.desk.closing);
        closing.retain(|key| match self.seats.get(*key).map(|seat| seat.session().state) {
            Some(State::Draining { deadline, .. } | State::Lingering { deadline, .. }) if now >= deadline => {
                self.remove(*key);
                false
            }
            Some(State::Draining { .. } | State::Lingering { .. }) => true,
            Some(State::Open) | None => false,
        });
        self.desk.closing = closing;
    }

    /// Gives memory back when the notifications that wait, each counted once, are too many: whoever has most waiting
    /// goes first. A client that fell behind only a moment ago is spared, as it may only be reading a large message. More than
    /// a quarter over the limit this holds for a client of one message only: in that moment a fast publisher could fill any
    /// memory.
    pub(super) fn shed(&mut self, now: Instant) {
        let limit = self.desk.config.outbox_total_bytes as u64;
        let meter = &self.surroundings.meter;
        let live = meter.live_bytes();
        if live <= limit {
            return;
        }
        let hasty = live > limit + limit / 4;
        let lags = |session: &Session| {
            let behind = session.backlog_since.map(|since| now.saturating_duration_since(since));
            session.is_open()
                && behind.is_some_and(|time| time >= SPARED || hasty && session.outbox.len() > 1)
        };
        let seats = self.seats.iter().map(|(key, seat)| (key, seat.session()));
        let mut slow: Vec<_> = seats
            .filter(|(_, session)| lags(session))
            .map(|(key, session)| (key, session.outbox.bytes()))
            .collect();
        slow.sort_unstable_by_key(|&(_, waiting)| std::cmp::Reverse(waiting));
        for (key, _) in slow {
            if meter.live_bytes() <= limit {
                break;
            }
            self.desk.stats.shed.add(1);
            self.desk.close(self.seats[key].session_mut(), CloseReason::TooSlow);
        }
    }
}

impl Desk {
    fn look_after(&mut self, seat: &mut Seat, now: Instant, unix: u64) {
        let session = seat.session();
        if !session.is_open() {
            return;
        }
        let waits = |since: Instant| now.saturating_duration_since(since);
        let expired = session.expires_at.is_some_and(|at| unix >= at);
        let pings = session.unanswered_pings;
        if session.backlog_since.is_some_and(|since| waits(since) >= self.config.write_timeout) {
            self.close(seat.session_mut(), CloseReason::TooSlow);
        } else if self.config.close_on_expiry && expired {
            self.close(seat.session_mut(), CloseReason::TokenExpired);
        } else if session.backlog_since.is_none()
            && waits(session.last_inbound) >= self.config.ping_interval * (u32::from(pings) + 1)
        {
            if pings >= self.config.max_unanswered_pings {
                self.close(seat.session_mut(), CloseReason::PingTimeout);
            } else {
                let session = seat.session_mut();
                session.unanswered_pings = pings + 1;
                self.say(session, reply::PING);
            }
        }
    }
}
