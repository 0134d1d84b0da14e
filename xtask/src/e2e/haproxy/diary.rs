//! What a player saw, and what follows from it. Pure.

use std::collections::BTreeSet;
use tokio::time::{Duration, Instant};

/// Every so many messages one goes to everyone.
const BROADCAST_EVERY: u64 = 500;

/// Whom a message is for; none is everyone.
pub(super) fn addressee(seq: u64, players: u32) -> Option<u32> {
    let user = u32::try_from(seq * 7 % u64::from(players)).unwrap_or_default() + 1;
    (!seq.is_multiple_of(BROADCAST_EVERY)).then_some(user)
}

/// A message that the broker confirmed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Published {
    pub(super) seq: u64,
    /// None is everyone.
    pub(super) to: Option<u32>,
    /// Before it was sent.
    pub(super) at: Instant,
}

/// One player's connections, in order.
#[derive(Debug, Default)]
pub(super) struct Diary {
    pub(super) user: u32,
    pub(super) visits: Vec<Visit>,
    /// For each return, how much longer it took than the player was told to wait.
    pub(super) waits: Vec<Duration>,
    /// Attempts to log in that came to nothing.
    pub(super) refused: u32,
}

/// One connection, from the welcome to the farewell.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) welcomed: Instant,
    pub(super) ended: Instant,
    /// Numbers of messages, and when each was read.
    pub(super) received: Vec<(u64, Instant)>,
}

/// A message that a player was owed and did not get.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Loss {
    pub(super) user: u32,
    pub(super) seq: u64,
    /// How long before he read the farewell it was published.
    pub(super) before_end: Duration,
    /// Whether he got a later one on the same connection.
    pub(super) gap: bool,
}

/// What this player was owed and did not get: published after a welcome, and either followed by something that he
/// got on the same connection, or longer than `in_flight` before he read the farewell.
pub(super) fn losses(diary: &Diary, published: &[Published], in_flight: Duration) -> Vec<Loss> {
    let mut lost = Vec::new();
    let mine: Vec<_> =
        published.iter().filter(|message| message.to.is_none_or(|to| to == diary.user)).collect();
    for visit in &diary.visits {
        let received: BTreeSet<_> = visit.received.iter().map(|(seq, _)| *seq).collect();
        let last = received.last().copied();
        for message in &mine {
            let gap = last.is_some_and(|last| message.seq < last);
            let owed = message.at >= visit.welcomed && (gap || message.at + in_flight <= visit.ended);
            if owed && !received.contains(&message.seq) {
                let before_end = visit.ended.saturating_duration_since(message.at);
                lost.push(Loss { user: diary.user, seq: message.seq, before_end, gap });
            }
        }
    }
    lost
}

/// The longest that a message took to a player who was there when it was published: so long may one be under way when a
/// player is told to go.
pub(super) fn slowest(diary: &Diary, published: &[Published]) -> Duration {
    let times = diary.visits.iter().flat_map(|visit| {
        visit.received.iter().filter_map(|(seq, read)| {
            let sent = published.get(usize::try_from(*seq).ok()?)?.at;
            (sent >= visit.welcomed).then(|| read.saturating_duration_since(sent))
        })
    });
    times.max().unwrap_or_default()
}

/// How logins were spread over the time from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) over: Duration,
    /// The most in one second.
    pub(super) busiest: u32,
    /// How many an even spread has in one second.
    pub(super) even: f64,
}

pub(super) fn spread(logins: &[Duration]) -> Spread {
    let (Some(first), Some(last)) = (logins.iter().min(), logins.iter().max()) else {
        return Spread { over: Duration::ZERO, busiest: 0, even: 0.0 };
    };
    let over = (*last - *first).max(Duration::from_secs(1));
    let mut seconds = std::collections::BTreeMap::new();
    for login in logins {
        *seconds.entry((*login - *first).as_secs()).or_insert(0_u32) += 1;
    }
    let count = u32::try_from(logins.len()).unwrap_or(u32::MAX);
    Spread {
        over,
        busiest: seconds.values().copied().max().unwrap_or_default(),
        even: f64::from(count) / over.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_gap_is_a_loss_and_what_was_under_way_at_the_farewell_is_not() {
        let start = Instant::now();
        let visit = |from, to, received: &[u64]| Visit {
            welcomed: start + seconds(from),
            ended: start + seconds(to),
            received: received.iter().map(|seq| (*seq, start + seconds(*seq))).collect(),
        };
        let published: Vec<_> = (0..20)
            .map(|seq| Published { seq, to: Some(1), at: start + Duration::from_millis(500 * seq) })
            .collect();
        // At home from 2 s to 5 s (messages 4 to 9), and from 8 s on (16 to 19).
        let losses_of = |first: &[u64], second: &[u64]| {
            let visits = vec![visit(2, 5, first), visit(8, 20, second)];
            let lost = losses(&Diary { user: 1, visits, ..Diary::default() }, &published, seconds(1));
            lost.iter().map(|loss| (loss.seq, loss.gap)).collect::<Vec<_>>()
        };
        assert_eq!(losses_of(&[4, 5, 6, 7, 8], &[16, 17, 18, 19]), []);
        assert_eq!(losses_of(&[3, 4, 5, 6, 7, 8, 9], &[15, 16, 17, 18, 19]), []);
        assert_eq!(losses_of(&[4, 6, 7, 8], &[16, 17, 18, 19]), [(5, true)], "a gap");
        assert_eq!(losses_of(&[4, 5, 6, 7, 9], &[16, 17, 18, 19]), [(8, true)], "a gap near the end");
        assert_eq!(losses_of(&[4, 5, 6, 7, 8], &[17, 18, 19]), [(16, true)], "the first after the return");
        assert_eq!(losses_of(&[4, 5, 6, 7], &[16, 17, 18, 19]), [(8, false)], "the last before the farewell");
        let other = Diary { user: 2, visits: vec![visit(0, 20, &[])], ..Diary::default() };
        assert_eq!(losses(&other, &published, seconds(1)), []);
    }

    #[test]
    fn a_message_from_before_the_welcome_was_not_under_way() {
        let start = Instant::now();
        let published: Vec<_> =
            (0..9).map(|seq| Published { seq, to: None, at: start + seconds(seq) }).collect();
        let received = vec![(1, start + seconds(8)), (6, start + seconds(8)), (7, start + seconds(8))];
        let visit = Visit { welcomed: start + seconds(5), ended: start + seconds(9), received };
        assert_eq!(slowest(&Diary { visits: vec![visit], ..Diary::default() }, &published), seconds(2));
    }

    #[test]
    fn a_crowd_in_one_second_shows() {
        let even: Vec<_> = (0..100).map(|n| Duration::from_millis(100 * n)).collect();
        assert_eq!(spread(&even).busiest, 10);
        let mut crowd = even.clone();
        crowd.extend([seconds(3); 50]);
        assert_eq!(spread(&crowd).busiest, 60);
        assert_eq!(spread(&[]).busiest, 0);
    }
}
