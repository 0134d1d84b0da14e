//! Whether the consumer hears what is published: from what became of each canary, and from deliveries, to a verdict.
//!
//! Pure: the present is an argument. A consumer that hears nothing for as long as canaries are published is deaf,
//! whatever connection and channel say. Where a canary could not be published, silence proves nothing: then the
//! verdict is that nothing is known, and only a delivery or the next canary changes that. Nor does it where the prefetch
//! is full: the broker waits for us.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::deadline;

/// Looks in a row that must find no consumer: after a change of a quorum queue's leader one may err.
const LOOKS: u8 = 2;

/// What the self-check makes of the consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelfCheckVerdict {
    /// The consumer does not consume; its status says why.
    NotConsuming,
    /// Messages come through.
    Hears,
    /// Canaries cannot be published, so that silence proves nothing.
    Unknown {
        /// Why.
        hindrance: Hindrance,
    },
    /// The prefetch is full, and the oldest of its deliveries is still in work: the broker sends nothing more before
    /// that is settled, so that silence proves nothing.
    Busy,
    /// Nothing comes through, though the consumer looks connected. It reconnects by itself.
    Deaf {
        /// For how long nothing came.
        quiet: Duration,
    },
}

/// Why canaries cannot be published while the consumer may well consume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hindrance {
    /// The broker blocks publishers; consuming goes on.
    Blocked,
    /// No connection to publish on could be made, or it broke.
    Unreachable {
        /// What went wrong.
        reason: String,
    },
    /// The broker does not take canaries: the user lacks a permission, or a limit is reached.
    Refused {
        /// The broker's words.
        reason: String,
    },
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked => f.write_str("the broker blocks publishers (memory or disk alarm)"),
            Self::Unreachable { reason } => write!(f, "no canary could be published: {reason}"),
            Self::Refused { reason } => write!(f, "the broker takes no canary: {reason}"),
        }
    }
}

/// What became of one canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The broker put it into the queue.
    Confirmed,
    /// The queue is not bound to the canary's key any more.
    Unroutable,
    /// The exchange is not there any more.
    NoExchange,
    /// The broker said no, or nothing in time.
    Unconfirmed,
    Hindered(Hindrance),
}

/// What one consumer heard.
#[derive(Debug)]
pub(crate) struct Hearing {
    max_age: Duration,
    /// When a canary came last; before the first, when consuming first began.
    canary_at: Option<Instant>,
    /// It was deaf and has heard nothing since then: that it connected again proves nothing.
    deaf_since: Option<Instant>,
    session: Option<Session>,
}

/// One connection's time of consuming.
#[derive(Debug)]
struct Session {
    /// When something was heard last, or silence proved nothing.
    well_at: Instant,
    deliveries: u64,
    looks_without_consumer: u8,
    hindrance: Option<Hindrance>,
    /// The prefetch is full of what is in work, or waits behind it.
    busy: bool,
}

impl Hearing {
    pub(crate) fn new(max_age: Duration) -> Self {
        Self { max_age, canary_at: None, deaf_since: None, session: None }
    }

    /// Consuming begins; `deliveries` have come before.
    pub(crate) fn begin(&mut self, deliveries: u64, now: Instant) {
        self.canary_at.get_or_insert(now);
        self.session = Some(Session {
            well_at: now,
            deliveries,
            looks_without_consumer: 0,
            hindrance: None,
            busy: false,
        });
    }

    /// Consuming is over for now.
    pub(crate) fn end(&mut self) {
        self.session = None;
    }

    /// A canary of ours came through the queue.
    pub(crate) fn canary(&mut self, now: Instant) {
        self.canary_at = Some(now);
        self.heard(now);
    }

    /// So many deliveries came in all: a new one is as good as a canary.
    pub(crate) fn deliveries(&mut self, deliveries: u64, now: Instant) {
        if let Some(session) = &mut self.session
            && session.deliveries != deliveries
        {
            session.deliveries = deliveries;
            self.heard(now);
        }
    }

    /// Whether the broker can send nothing before a delivery in work is settled. To be asked at each interval: what
    /// is not noted counts as silence.
    pub(crate) fn busy(&mut self, busy: bool, now: Instant) {
        if let Some(session) = &mut self.session {
            session.busy = busy;
            if busy {
                session.well_at = now;
            }
        }
    }

    /// Takes note of what became of a canary.
    pub(crate) fn published(&mut self, outcome: Outcome, now: Instant) {
        let Some(session) = &mut self.session else { return };
        session.hindrance = match outcome {
            Outcome::Hindered(hindrance) => {
                session.well_at = now;
                Some(hindrance)
            }
            Outcome::Confirmed | Outcome::Unroutable | Outcome::NoExchange | Outcome::Unconfirmed => None,
        };
    }

    /// The broker says how many consume the queue; returns whether ours is missing.
    pub(crate) fn looked(&mut self, consumers: u32) -> bool {
        let Some(session) = &mut self.session else { return false };
        session.looks_without_consumer =
            if consumers == 0 { session.looks_without_consumer.saturating_add(1) } else { 0 };
        session.looks_without_consumer >= LOOKS
    }

    /// When silence becomes deafness; `None` while nothing is consumed.
    pub(crate) fn deaf_at(&self) -> Option<Instant> {
        self.session.as_ref().map(|session| deadline::after(session.well_at, self.max_age))
    }

    /// Whether the time is up. Then it counts as deaf until something is heard.
    pub(crate) fn is_deaf(&mut self, now: Instant) -> bool {
        let deaf = self.deaf_at().is_some_and(|at| now >= at);
        if let (true, Some(session)) = (deaf, &self.session) {
            self.deaf_since.get_or_insert(session.well_at);
        }
        deaf
    }

    pub(crate) fn verdict(&self, now: Instant) -> SelfCheckVerdict {
        let Some(session) = &self.session else { return SelfCheckVerdict::NotConsuming };
        let quiet = now.saturating_duration_since(self.deaf_since.unwrap_or(session.well_at));
        if self.deaf_since.is_some() || quiet >= self.max_age {
            return SelfCheckVerdict::Deaf { quiet };
        }
        match &session.hindrance {
            _ if session.busy => SelfCheckVerdict::Busy,
            Some(hindrance) => SelfCheckVerdict::Unknown { hindrance: hindrance.clone() },
            None => SelfCheckVerdict::Hears,
        }
    }

    /// How long ago a canary came; before the first, since consuming first began.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        self.canary_at.map(|at| now.saturating_duration_since(at))
    }

    fn heard(&mut self, now: Instant) {
        self.deaf_since = None;
        if let Some(session) = &mut self.session {
            session.well_at = now;
            session.hindrance = None;
            session.busy = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(10);

    #[derive(Clone)]
    enum Event {
        Begin,
        End,
        Canary,
        Deliveries(u64),
        Published(Outcome),
        Busy(bool),
        Due,
    }
    use Event::*;

    fn blocked() -> Event {
        Published(Outcome::Hindered(Hindrance::Blocked))
    }

    /// One letter for each second asked for: Not consuming, Hears, Unknown, Busy, Deaf.
    fn verdicts(events: &[(u64, Event)], seconds: &[u64]) -> String {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let letter = |second: &u64| {
            let mut hearing = Hearing::new(MAX_AGE);
            for (when, event) in events.iter().filter(|(when, _)| when <= second) {
                match event.clone() {
                    Begin => hearing.begin(0, at(*when)),
                    End => hearing.end(),
                    Canary => hearing.canary(at(*when)),
                    Deliveries(count) => hearing.deliveries(count, at(*when)),
                    Published(outcome) => hearing.published(outcome, at(*when)),
                    Busy(busy) => hearing.busy(busy, at(*when)),
                    Due => drop(hearing.is_deaf(at(*when))),
                }
            }
            match hearing.verdict(at(*second)) {
                SelfCheckVerdict::NotConsuming => 'N',
                SelfCheckVerdict::Hears => 'H',
                SelfCheckVerdict::Unknown { .. } => 'U',
                SelfCheckVerdict::Busy => 'B',
                SelfCheckVerdict::Deaf { .. } => 'D',
            }
        };
        seconds.iter().map(letter).collect()
    }

    #[test]
    fn silence_of_ten_seconds_is_deafness_unless_no_canary_could_be_published() {
        let confirmed = || Published(Outcome::Confirmed);
        for (events, seconds, expected, why) in [
            (vec![], vec![0, 60], "NN", "not consuming"),
            (vec![(0, Begin)], vec![0, 9, 10, 60], "HHDD", "a thread that is stuck publishes nothing"),
            (vec![(0, Begin), (5, Canary)], vec![5, 14, 15], "HHD", "a canary"),
            (vec![(0, Begin), (5, Deliveries(1))], vec![14, 15], "HD", "a delivery"),
            (vec![(0, Begin), (5, Deliveries(0))], vec![9, 10], "HD", "no new delivery"),
            (vec![(0, Begin), (3, confirmed())], vec![9, 10], "HD", "confirmed is not heard"),
            (vec![(0, Begin), (3, Published(Outcome::Unconfirmed))], vec![9, 10], "HD", "unconfirmed"),
            (vec![(0, Begin), (3, Published(Outcome::Unroutable))], vec![9, 10], "HD", "unroutable"),
            (vec![(0, Begin), (3, blocked()), (9, blocked())], vec![3, 12, 18, 19], "UUUD", "blocked"),
            (vec![(0, Begin), (3, blocked()), (6, confirmed())], vec![6, 12, 13], "HHD", "no more blocked"),
            (
                vec![(0, Begin), (3, blocked()), (4, Deliveries(1))],
                vec![3, 4],
                "UH",
                "blocked, and consuming",
            ),
            (
                vec![(0, Begin), (3, Busy(true)), (9, Busy(true)), (12, Busy(false))],
                vec![2, 3, 9, 11, 12, 18, 19],
                "HBBBHHD",
                "the prefetch is full, and then it is not",
            ),
            (vec![(0, Begin), (3, Busy(true)), (4, confirmed())], vec![4, 12, 13], "BBD", "not asked again"),
            (vec![(0, Begin), (3, Busy(true)), (4, Deliveries(1))], vec![3, 4, 14], "BHD", "a delivery"),
            (vec![(0, Begin), (4, End)], vec![3, 4, 60], "HNN", "the connection is lost"),
            (vec![(0, Begin), (4, End), (60, Begin)], vec![60, 69, 70], "HHD", "and there again"),
        ] {
            assert_eq!(verdicts(&events, &seconds), expected, "{why}");
        }
    }

    #[test]
    fn n19_a_deaf_consumer_that_reconnects_is_trusted_once_it_hears() {
        let deaf = vec![(0, Begin), (10, Due), (10, End), (11, Begin)];
        let and = |more: &[(u64, Event)]| [&deaf[..], more].concat();
        assert_eq!(verdicts(&deaf, &[9, 10, 11, 12]), "HNDD");
        assert_eq!(verdicts(&and(&[(12, Canary)]), &[11, 12, 21, 22]), "DHHD");
        assert_eq!(verdicts(&and(&[(12, Deliveries(1))]), &[12, 21]), "HH");
        assert_eq!(verdicts(&and(&[(12, blocked())]), &[12]), "D", "it was deaf before it was blocked");
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut hearing = Hearing::new(MAX_AGE);
        hearing.begin(0, start);
        assert!(hearing.is_deaf(start + second * 10));
        hearing.begin(0, start + second * 11);
        assert_eq!(hearing.verdict(start + second * 12), SelfCheckVerdict::Deaf { quiet: second * 12 });
    }

    #[test]
    fn the_age_is_the_last_canarys_whatever_else_is_heard() {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let mut hearing = Hearing::new(MAX_AGE);
        let age = |hearing: &Hearing, second| hearing.age(at(second)).map(|age| age.as_secs());
        assert_eq!(age(&hearing, 0), None);
        hearing.begin(0, at(1));
        assert_eq!(age(&hearing, 3), Some(2));
        hearing.canary(at(4));
        hearing.deliveries(5, at(6));
        hearing.end();
        hearing.begin(5, at(8));
        assert_eq!(age(&hearing, 9), Some(5));
    }

    #[test]
    fn a_consumer_is_missed_after_two_looks_in_a_row() {
        let mut hearing = Hearing::new(MAX_AGE);
        assert!(!hearing.looked(0), "nothing is consumed");
        hearing.begin(0, Instant::now());
        assert_eq!([0, 1, 0, 0].map(|consumers| hearing.looked(consumers)), [false, false, false, true]);
        hearing.begin(0, Instant::now());
        assert!(!hearing.looked(0));
    }
}
