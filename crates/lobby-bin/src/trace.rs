//! The last decisions, kept so that somebody can ask: why did player 42 not get it?
//!
//! A ring of fixed size, written in place by the consumer's thread; nothing is allocated for a delivery. What became
//! of a message is not written here but read from the sessions' [`ReachLog`](lobby_sessions::ReachLog), by the serial
//! number that both know.

mod decision;
mod entry;
mod short_text;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use lobby_sessions::{FrameMeter, Reach};
use notify_amqp::Delivery;
use notify_protocol::UserId;
use serde::{Deserialize, Serialize};

#[cfg(test)]
pub use self::decision::Sessions;
use self::entry::Entry;
pub use self::{
    decision::{Decision, Outcome},
    entry::{Decided, Verdict},
};

/// Decisions that one answer has unless asked for more or less.
pub const DEFAULT_LIMIT: usize = 100;
/// The most that one answer has: what is copied while the consumer's thread may have to wait.
pub const MAX_LIMIT: usize = 1000;

/// The ring.
#[derive(Debug)]
pub struct Trace {
    slots: Mutex<Slots>,
    meter: Arc<FrameMeter>,
}

#[derive(Debug)]
struct Slots {
    /// As many as the meter's reach log has.
    entries: Box<[Entry]>,
    next: u64,
}

/// The answer of `/trace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// How many decisions are remembered at most; 0: none, `trace.decisions` is 0.
    pub entries: usize,
    /// How many were made since the start.
    pub recorded: u64,
    /// When the oldest of the remembered ones was made.
    pub since: Option<String>,
    /// Those asked for, the newest last.
    pub decisions: Vec<Decision>,
}

impl Trace {
    /// A ring as large as the reach log of `meter`; 0 entries record nothing.
    pub fn new(meter: Arc<FrameMeter>) -> Self {
        let empty = Entry::empty(Instant::now());
        let entries = vec![empty; meter.reach().entries()].into();
        Self { slots: Mutex::new(Slots { entries, next: 0 }), meter }
    }

    /// Records a decision; the serial number is what the frame of the message must carry.
    pub fn record(&self, delivery: &Delivery, decided: Decided<'_>) -> Option<u64> {
        let mut slots = self.lock();
        let serial = slots.next;
        let last = slots.entries.len().checked_sub(1)?;
        slots.entries[serial as usize & last].write(serial, delivery, decided);
        slots.next += 1;
        Some(serial)
    }

    /// What was decided about `user`: messages to that user, broadcasts, and nothing else.
    pub fn about(&self, user: UserId, limit: usize) -> Page {
        self.page(limit, |entry, _, _| {
            entry.verdict == Verdict::User(user) || entry.verdict == Verdict::Everyone
        })
    }

    /// What was decided about messages to `user` alone. Broadcasts do not push them out of an answer.
    pub fn addressed_to(&self, user: UserId, limit: usize) -> Page {
        self.page(limit, |entry, _, _| entry.verdict == Verdict::User(user))
    }

    /// Whatever came to this `outcome`, whomever it was for.
    pub fn with_outcome(&self, outcome: Outcome, limit: usize) -> Page {
        self.page(limit, |entry, reach, _| Outcome::of(entry.verdict, reach) == outcome)
    }

    /// What somebody may miss: dropped, for nobody who is here, not taken by every session.
    pub fn missed(&self, limit: usize) -> Page {
        self.page(limit, |entry, reach, now| {
            Outcome::of(entry.verdict, reach).is_missed(now.saturating_duration_since(entry.received_at))
        })
    }

    /// The last `limit` decisions that are `wanted`.
    fn page(&self, limit: usize, wanted: impl Fn(&Entry, Option<Reach>, Instant) -> bool) -> Page {
        let limit = limit.min(MAX_LIMIT);
        let mut chosen = Vec::with_capacity(limit);
        let slots = self.lock();
        let now = (Instant::now(), SystemTime::now());
        let (entries, recorded) = (slots.entries.len(), slots.next);
        let oldest = recorded.saturating_sub(entries as u64);
        let entry = |serial: u64| &slots.entries[serial as usize & (entries - 1)];
        let since = (oldest < recorded).then(|| decision::at(entry(oldest).received_at, now));
        for serial in (oldest..recorded).rev() {
            let (entry, reach) = (entry(serial), self.meter.reach().get(serial));
            if wanted(entry, reach, now.0) {
                if chosen.len() == limit {
                    break;
                }
                chosen.push((entry.clone(), reach));
            }
        }
        drop(slots);
        let decisions = chosen.iter().rev().map(|(entry, reach)| Decision::new(entry, *reach, now));
        Page { entries, recorded, since, decisions: decisions.collect() }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use lobby_sessions::{Frame, FrameKind};
    use notify_protocol::{Body, DropReason, Limits};

    use super::*;

    fn trace(entries: usize) -> Trace {
        Trace::new(Arc::new(FrameMeter::new(entries)))
    }

    fn delivery() -> Delivery {
        Delivery::detached("request.client.notify", b"{}".to_vec())
    }

    fn user(id: i64) -> Decided<'static> {
        Decided::User(UserId::new(id))
    }

    /// A message with this serial number that nobody holds any longer.
    fn finish(trace: &Trace, serial: Option<u64>) {
        let limits = Limits::default();
        let body = Body::check(b"{}", &limits).expect("an object");
        drop(Frame::notification(&body, FrameKind::Text, Instant::now(), &trace.meter, serial));
    }

    fn serials(page: &Page) -> Vec<u64> {
        page.decisions.iter().map(|decision| decision.serial).collect()
    }

    #[test]
    fn a_user_sees_what_was_for_that_user_or_for_everyone_newest_last() {
        let trace = trace(8);
        let reason = DropReason::NotObject { found: "array" };
        for decided in
            [user(42), user(7), Decided::Everyone, Decided::Dropped(&reason), Decided::Channel, user(42)]
        {
            trace.record(&delivery(), decided);
        }
        let page = trace.about(UserId::new(42), 100);
        assert_eq!((serials(&page), page.entries, page.recorded), (vec![0, 2, 5], 8, 6));
        assert_eq!(serials(&trace.about(UserId::new(42), 2)), [2, 5]);
        assert_eq!(page.decisions[0].user, Some(42));
        assert_eq!(page.decisions[0].outcome, Outcome::Unfinished);
    }

    #[test]
    fn what_somebody_may_miss_is_listed_with_the_reason() {
        let trace = trace(8);
        let reason = DropReason::NotObject { found: "array" };
        for decided in [user(42), Decided::Dropped(&reason), Decided::Channel, user(42)] {
            trace.record(&delivery(), decided);
        }
        finish(&trace, Some(0));
        let page = trace.missed(100);
        assert_eq!(serials(&page), [0, 1, 2], "the last one is not late yet");
        let outcomes = page.decisions.iter().map(|decision| decision.outcome).collect::<Vec<_>>();
        assert_eq!(outcomes, [Outcome::NotConnected, Outcome::Dropped, Outcome::ChannelReserved]);
        assert_eq!(page.decisions[1].reason.as_deref(), Some("not_object"));
        assert!(page.decisions[1].detail.as_ref().is_some_and(|text| text.contains("array")));
    }

    #[test]
    fn broadcasts_and_misses_push_nothing_out_of_an_answer_that_is_not_about_them() {
        let trace = trace(4 * MAX_LIMIT);
        let reason = DropReason::NotObject { found: "array" };
        for decided in [user(43), Decided::Dropped(&reason), user(42)] {
            trace.record(&delivery(), decided);
        }
        for _ in 0..MAX_LIMIT {
            let nobody = trace.record(&delivery(), user(44));
            finish(&trace, nobody);
            trace.record(&delivery(), Decided::Everyone);
        }
        assert_eq!(serials(&trace.addressed_to(UserId::new(43), MAX_LIMIT)), [0]);
        assert_eq!(serials(&trace.with_outcome(Outcome::Dropped, MAX_LIMIT)), [1]);
        assert!(!serials(&trace.about(UserId::new(43), MAX_LIMIT)).contains(&0), "those answers hold others");
        assert!(!serials(&trace.missed(MAX_LIMIT)).contains(&1));
    }

    #[test]
    fn the_ring_holds_the_latest_and_no_more() {
        let trace = trace(4);
        for _ in 0..10 {
            assert!(trace.record(&delivery(), Decided::Everyone).is_some());
        }
        let page = trace.about(UserId::new(1), 100);
        assert_eq!((serials(&page), page.entries, page.recorded), (vec![6, 7, 8, 9], 4, 10));
        assert!(page.since.is_some());
    }

    #[test]
    fn an_answer_has_no_more_decisions_than_its_limit() {
        let trace = trace(2 * MAX_LIMIT);
        (0..2 * MAX_LIMIT).for_each(|_| assert!(trace.record(&delivery(), Decided::Everyone).is_some()));
        for page in [trace.about(UserId::new(1), usize::MAX), trace.about(UserId::new(1), MAX_LIMIT + 1)] {
            assert_eq!(page.decisions.len(), MAX_LIMIT);
        }
    }

    #[test]
    fn a_ring_without_entries_records_nothing() {
        let trace = trace(0);
        assert_eq!(trace.record(&delivery(), Decided::Everyone), None);
        let page = trace.about(UserId::new(1), 100);
        assert_eq!(page, Page { entries: 0, recorded: 0, since: None, decisions: Vec::new() });
    }
}
