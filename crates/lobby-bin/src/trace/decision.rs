//! One decision as it is shown: by `/trace` as JSON, by `lobby trace` as a line.

use std::time::{Duration, Instant, SystemTime};

use lobby_sessions::Reach;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Verdict};

/// What was decided about one delivery, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Counts the deliveries of this process from 0.
    pub serial: u64,
    /// When it came, as RFC 3339 with milliseconds.
    pub at: String,
    pub age_ms: u64,
    pub message_id: Option<String>,
    pub routing_key: String,
    /// The addressed user; none for a broadcast, a channel, and what was dropped.
    pub user: Option<i64>,
    pub outcome: Outcome,
    /// Why it was dropped: the label of the metric.
    pub reason: Option<String>,
    /// The same in words.
    pub detail: Option<String>,
    /// None while some session holds it.
    pub sessions: Option<Sessions>,
    /// The headers' beginning, but for a `user-id` that is an integer.
    pub headers: String,
    pub redelivered: bool,
    pub body_bytes: usize,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The kernel took it for every session that it was for.
    Written,
    /// Some session holds it: it is on its way, or the client does not read.
    Unfinished,
    /// At least one session had no room for it: the client did not read.
    Overflowed,
    /// At least one connection ended first.
    CutOff,
    /// The user had no session here.
    NotConnected,
    /// A broadcast while nobody was logged in.
    NobodyThere,
    ChannelReserved,
    Dropped,
}

/// A message that is held longer than this is late.
const LATE: Duration = Duration::from_secs(1);

impl Outcome {
    /// Whether somebody may miss a message with this outcome and age.
    pub fn is_missed(self, age: Duration) -> bool {
        match self {
            Self::Written => false,
            Self::Unfinished => age > LATE,
            Self::Overflowed | Self::CutOff | Self::NotConnected | Self::NobodyThere => true,
            Self::ChannelReserved | Self::Dropped => true,
        }
    }

    /// The word in the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Unfinished => "unfinished",
            Self::Overflowed => "overflowed",
            Self::CutOff => "cut_off",
            Self::NotConnected => "not_connected",
            Self::NobodyThere => "nobody_there",
            Self::ChannelReserved => "channel_reserved",
            Self::Dropped => "dropped",
        }
    }

    pub fn of(verdict: Verdict, reach: Option<Reach>) -> Self {
        match (verdict, reach) {
            (Verdict::Dropped(_), _) => Self::Dropped,
            (Verdict::Channel, _) => Self::ChannelReserved,
            (_, None) => Self::Unfinished,
            (Verdict::User(_), Some(Reach { sessions: 0, .. })) => Self::NotConnected,
            (Verdict::Everyone, Some(Reach { sessions: 0, .. })) => Self::NobodyThere,
            (_, Some(reach)) if reach.overflowed > 0 => Self::Overflowed,
            (_, Some(reach)) if reach.cut_off > 0 => Self::CutOff,
            _ => Self::Written,
        }
    }
}

/// How many sessions a message was for, and what they did with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    pub addressed: u32,
    pub written: u32,
    pub overflowed: u32,
    pub cut_off: u32,
}

impl Decision {
    /// What the slot and the reach of its message come to, seen `now`.
    pub fn new(entry: &Entry, reach: Option<Reach>, now: (Instant, SystemTime)) -> Self {
        let age = now.0.saturating_duration_since(entry.received_at);
        let text = |text: String| (!text.is_empty()).then_some(text);
        let (user, reason) = match entry.verdict {
            Verdict::User(user) => (Some(user.get()), None),
            Verdict::Everyone | Verdict::Channel => (None, None),
            Verdict::Dropped(reason) => (None, Some(reason.to_owned())),
        };
        let addresses = matches!(entry.verdict, Verdict::User(_) | Verdict::Everyone);
        Self {
            serial: entry.serial,
            at: at(entry.received_at, now),
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            message_id: text(entry.message_id.to_string()),
            routing_key: entry.routing_key.to_string(),
            user,
            outcome: Outcome::of(entry.verdict, reach),
            reason,
            detail: text(entry.detail.to_string()),
            sessions: reach.filter(|_| addresses).map(|reach| Sessions {
                addressed: reach.sessions,
                written: reach.written(),
                overflowed: reach.overflowed,
                cut_off: reach.cut_off,
            }),
            headers: entry.headers.to_string(),
            redelivered: entry.redelivered,
            body_bytes: entry.body_bytes,
        }
    }
}

/// The time of `moment` by the clock that shows `now`, as RFC 3339 with milliseconds.
pub fn at(moment: Instant, (now, clock): (Instant, SystemTime)) -> String {
    let age = now.saturating_duration_since(moment);
    humantime::format_rfc3339_millis(clock.checked_sub(age).unwrap_or(clock)).to_string()
}

#[cfg(test)]
mod tests {
    use notify_protocol::UserId;

    use super::*;

    #[test]
    fn each_reach_has_its_outcome() {
        let user = Verdict::User(UserId::new(42));
        let reach = |sessions, overflowed, cut_off| Some(Reach { sessions, overflowed, cut_off });
        for (verdict, reach, outcome) in [
            (user, None, Outcome::Unfinished),
            (user, reach(0, 0, 0), Outcome::NotConnected),
            (Verdict::Everyone, reach(0, 0, 0), Outcome::NobodyThere),
            (user, reach(1, 0, 0), Outcome::Written),
            (Verdict::Everyone, reach(9, 0, 0), Outcome::Written),
            (Verdict::Everyone, reach(9, 1, 1), Outcome::Overflowed),
            (user, reach(1, 0, 1), Outcome::CutOff),
            (Verdict::Channel, None, Outcome::ChannelReserved),
            (Verdict::Dropped("non_json"), None, Outcome::Dropped),
        ] {
            assert_eq!(Outcome::of(verdict, reach), outcome, "{verdict:?} {reach:?}");
        }
    }
}
