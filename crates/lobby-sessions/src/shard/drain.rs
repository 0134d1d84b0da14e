//! The end of all sessions: each is told 1012 in its turn, paced over a window, and goes on getting its messages until
//! then.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Shard;
use crate::{CloseReason, session::State};

/// How long a client may take to close its side once all is written. The kernel goes on sending after that, but
/// what the client says then would cut it short.
pub(super) const LINGER: Duration = Duration::from_millis(500);
/// Between two batches of a drain.
const STEP: Duration = Duration::from_millis(50);
/// Sessions of all shards together that are told at least in a second: a handful must not make the window last.
const SLOWEST: usize = 10;

/// An order to end every session, until it is carried out.
#[derive(Debug)]
pub(super) struct Drain {
    pace: Pace,
    began: Instant,
    next_batch: Instant,
    /// The next key to look at; those before it have been told.
    cursor: usize,
    /// When the farewells that are still being read are cut off.
    deadline: Instant,
    until: Instant,
    /// Who waits for it; nobody once it is over.
    done: Vec<oneshot::Sender<usize>>,
    /// Sessions that ended before they had read their last words.
    cut_off: usize,
}

impl Drain {
    pub(super) fn cuts_off(&mut self) {
        self.cut_off += 1;
    }
}

/// How many sessions may be open how long after the beginning: a straight line down to none.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pace {
    open: usize,
    window: Duration,
}

impl Pace {
    /// For `open` sessions of one of `shards` shards, of which the last has to be told `within` a time.
    fn new(open: usize, shards: usize, window: Duration, within: Duration) -> Self {
        let slowest = Duration::from_secs(1) * u32::try_from(open.saturating_mul(shards)).unwrap_or(u32::MAX)
            / SLOWEST as u32;
        Self { open, window: window.min(within).min(slowest) }
    }

    fn may_be_open(self, after: Duration) -> usize {
        let left = self.window.saturating_sub(after);
        if left.is_zero() { 0 } else { (self.open as f64 * left.div_duration_f64(self.window)) as usize }
    }
}

impl Shard {
    /// Begins to tell every session that the lobby restarts. Ordered again, it goes on as it does, within the latest
    /// limit.
    pub(super) fn begin_drain(
        &mut self,
        window: Duration,
        within: Duration,
        done: oneshot::Sender<usize>,
        now: Instant,
    ) {
        let deadline = now + within;
        // The sweep of farewells ends the last ones; what comes on top is for a sweep that is late.
        let until = deadline + LINGER;
        let (open, shards) = (self.desk.stats.open_sessions(), self.desk.config.shards.max(1));
        let drain = self.drain.get_or_insert_with(|| Drain {
            pace: Pace::new(open, shards, window, within),
            began: now,
            next_batch: now,
            cursor: 0,
            deadline,
            until,
            done: Vec::new(),
            cut_off: 0,
        });
        (drain.deadline, drain.until) = (deadline, until);
        drain.done.push(done);
    }

    /// Tells those whose turn it is, and answers the order once the last session is gone or the time is up. The shard
    /// goes on refusing logins.
    pub(super) fn drain_on(&mut self, now: Instant) {
        let Some(drain) = &mut self.drain else { return };
        if now >= drain.next_batch && drain.cursor < self.seats.capacity() {
            drain.next_batch = now + STEP;
            // A batch takes the step that it begins.
            let may_be_open = drain.pace.may_be_open(now.saturating_duration_since(drain.began) + STEP);
            self.tell_all_but(may_be_open);
            self.flush_dirty(now);
        }
        let Some(drain) = &mut self.drain else { return };
        if self.seats.is_empty() || now >= drain.until {
            for done in drain.done.drain(..) {
                // Whoever gave up waiting needs no answer.
                let _ = done.send(self.seats.len() + drain.cut_off);
            }
        }
    }

    /// Closes open sessions, the oldest places first, until no more than this are left.
    fn tell_all_but(&mut self, may_be_open: usize) {
        let Self { seats, desk, drain: Some(drain), .. } = self else { return };
        let open = desk.stats.open_sessions();
        let mut due = open.saturating_sub(may_be_open);
        if open == due {
            // Nobody is left behind the cursor afterwards: who comes now is refused.
            drain.next_batch = drain.until;
        }
        while due > 0 && drain.cursor < seats.capacity() {
            let seat = seats.get_mut(drain.cursor).filter(|seat| seat.session().is_open());
            drain.cursor += 1;
            let Some(seat) = seat else { continue };
            let session = seat.session_mut();
            desk.close(session, CloseReason::Restart);
            if let State::Draining { reason, .. } = session.state {
                session.state = State::Draining { reason, deadline: drain.deadline };
            }
            due -= 1;
        }
    }

    /// When the drain has something to do next.
    pub(super) fn drain_deadline(&self) -> Option<Instant> {
        self.drain
            .as_ref()
            .filter(|drain| !drain.done.is_empty())
            .map(|drain| drain.until.min(drain.next_batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn as_many_are_told_in_each_part_of_the_window_and_a_handful_does_not_make_it_last() {
        let second = Duration::from_secs(1);
        for (open, shards, window, lasts) in [
            (1000, 1, 5 * second, 5 * second),
            (50, 1, 5 * second, 5 * second),
            (20, 1, 5 * second, 2 * second),
            (10, 2, 5 * second, 2 * second),
            (1, 1, 5 * second, second / 10),
            (0, 4, 5 * second, Duration::ZERO),
            (usize::MAX / 64, 64, 5 * second, 5 * second),
            (1000, 4, Duration::ZERO, Duration::ZERO),
        ] {
            let pace = Pace::new(open, shards, window, DAY);
            assert_eq!(pace.window, lasts, "{open} sessions on each of {shards} shards");
            assert_eq!(pace.may_be_open(lasts), 0);
        }
        assert_eq!(Pace::new(1000, 1, DAY, 3 * second).window, 3 * second, "nobody is told after the limit");
        let pace = Pace::new(1000, 1, 10 * second, DAY);
        let open: Vec<_> = (0..=10).map(|at| pace.may_be_open(at * second)).collect();
        assert_eq!(open, [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100, 0]);
        assert_eq!(pace.may_be_open(Duration::MAX), 0);
    }
}
