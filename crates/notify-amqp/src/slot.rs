//! One message of a pipeline, from the source to its outcome, and how much of its time is used up.
//!
//! Pure: the present is an argument.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{outgoing::Outgoing, pipeline::Outcome};

/// One message.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) outgoing: Option<Arc<Outgoing>>,
    /// Times that it was sent.
    pub(crate) sent: u32,
    /// Times that it was sent, or that there was no channel to send it on, unless another message was to blame.
    pub(crate) attempts: u32,
    pub(crate) state: State,
    taken_at: Instant,
    /// How long the caller had been away by then.
    away_before: Duration,
}

/// How far a message is.
#[derive(Debug)]
pub(crate) enum State {
    Waiting,
    Sent,
    Settled(Outcome),
}

/// How long the caller was away: nobody drives a pipeline then, and nobody's time passes.
#[derive(Debug, Default)]
pub(crate) struct Absence {
    since: Option<Instant>,
    total: Duration,
}

impl Slot {
    /// A message that is to be sent.
    pub(crate) fn waiting(outgoing: Outgoing, now: Instant, absence: &Absence) -> Self {
        Self::new(Some(Arc::new(outgoing)), State::Waiting, now, absence)
    }

    /// A message that has its outcome without having been sent.
    pub(crate) fn settled(outcome: Outcome, now: Instant, absence: &Absence) -> Self {
        Self::new(None, State::Settled(outcome), now, absence)
    }

    fn new(outgoing: Option<Arc<Outgoing>>, state: State, now: Instant, absence: &Absence) -> Self {
        Self { outgoing, sent: 0, attempts: 0, state, taken_at: now, away_before: absence.total }
    }

    pub(crate) fn waits(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    pub(crate) fn is_sent(&self) -> bool {
        matches!(self.state, State::Sent)
    }

    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.state, State::Settled(_))
    }

    /// The time since it was taken, without the caller's absence.
    pub(crate) fn age(&self, now: Instant, absence: &Absence) -> Duration {
        let away = absence.total.saturating_sub(self.away_before);
        now.saturating_duration_since(self.taken_at).saturating_sub(away)
    }
}

impl Absence {
    /// The caller has what it asked for, or asks no longer.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// The caller asks again.
    pub(crate) fn end(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.total += now.saturating_duration_since(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish_error::PublishError;

    #[test]
    fn the_caller_s_absence_is_not_a_message_s_age() {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let seconds = |slot: &Slot, now: u64, absence: &Absence| slot.age(at(now), absence).as_secs();
        let mut absence = Absence::default();
        absence.end(at(0));
        let first = Slot::settled(Err(PublishError::Closed), at(0), &absence);
        assert_eq!(seconds(&first, 2, &absence), 2);
        absence.begin(at(2));
        absence.end(at(10));
        let second = Slot::settled(Err(PublishError::Closed), at(10), &absence);
        assert_eq!((seconds(&first, 11, &absence), seconds(&second, 11, &absence)), (3, 1));
        absence.begin(at(11));
        absence.end(at(15));
        assert_eq!((seconds(&first, 15, &absence), seconds(&second, 16, &absence)), (3, 2));
    }
}
