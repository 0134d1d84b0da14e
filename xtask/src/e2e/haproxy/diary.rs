//! What a player saw, and what follows from it. Pure.

use std::collections::BTreeSet;
use tokio::time::{Duration, Instant};

/// Every so many messages one goes to everyone.
const BROADCAST_EVERY: u64 = 250;
/// What was published this shortly before a player was told to go may have come after that.
const IN_FLIGHT: Duration = Duration::from_secs(1);

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
}

/// One connection, from the welcome to the farewell.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) welcomed: Instant,
    pub(super) ended: Instant,
    pub(super) received: Vec<u64>,
}

/// What this player was owed and did not get: published after a welcome, and either followed by something that he
/// got on the same connection, or not shortly before the farewell.
pub(super) fn losses(diary: &Diary, published: &[Published]) -> Vec<(u32, u64)> {
    let mut lost = Vec::new();
    let mine: Vec<_> =
        published.iter().filter(|message| message.to.is_none_or(|to| to == diary.user)).collect();
    for visit in &diary.visits {
        let received: BTreeSet<_> = visit.received.iter().copied().collect();
        let last = received.last().copied();
        let owed = mine.iter().filter(|message| {
            message.at >= visit.welcomed
                && (message.at + IN_FLIGHT <= visit.ended || last.is_some_and(|last| message.seq < last))
        });
        // What came of the queue's past does not make older messages due.
        lost.extend(
            owed.filter(|message| !received.contains(&message.seq)).map(|message| (diary.user, message.seq)),
        );
    }
    lost
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
            received: received.to_vec(),
        };
        let published: Vec<_> = (0..20)
            .map(|seq| Published { seq, to: Some(1), at: start + Duration::from_millis(500 * seq) })
            .collect();
        // At home from 2 s to 5 s (messages 4 to 9), and from 8 s on (16 to 19).
        let losses_of = |first: &[u64], second: &[u64]| {
            let visits = vec![visit(2, 5, first), visit(8, 20, second)];
            losses(&Diary { user: 1, visits, waits: Vec::new() }, &published)
        };
        assert_eq!(losses_of(&[4, 5, 6, 7, 8], &[16, 17, 18, 19]), []);
        assert_eq!(losses_of(&[3, 4, 5, 6, 7, 8, 9], &[15, 16, 17, 18, 19]), []);
        assert_eq!(losses_of(&[4, 6, 7, 8], &[16, 17, 18, 19]), [(1, 5)], "a gap");
        assert_eq!(losses_of(&[4, 5, 6, 7, 9], &[16, 17, 18, 19]), [(1, 8)], "a gap near the end");
        assert_eq!(losses_of(&[4, 5, 6, 7, 8], &[17, 18, 19]), [(1, 16)], "the first after the return");
        let other = Diary { user: 2, visits: vec![visit(0, 20, &[])], waits: Vec::new() };
        assert_eq!(losses(&other, &published), []);
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
