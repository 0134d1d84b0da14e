//! Whom the latest messages reached: for how many sessions each was, and how many of them let go of it unwritten.
//!
//! One word for each message in a ring, written once, when the last session has let go of the message. It costs the
//! shard one atomic exchange on a line of its own cache; nobody waits for anybody.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most entries that a [`ReachLog`] may have.
pub const MAX_REACH_ENTRIES: usize = 1 << 20;

// A word, from the top: lap of the ring, sessions, overflowed, cut off.
const LAP_SHIFT: u32 = 52;
const LAP_MASK: u64 = 0xfff;
const SESSIONS_SHIFT: u32 = 32;
const SESSIONS_MAX: u32 = 0xf_ffff;
const OVERFLOWED_SHIFT: u32 = 16;
const LOST_MAX: u32 = 0xffff;

/// Whom one message reached, once every session has let go of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// Sessions that the message was for; 1,048,575 means at least so many.
    pub sessions: u32,
    /// Those of them that had no room for it, or not in time: the client did not read. 65,535 means at least so many.
    pub overflowed: u32,
    /// Those of them whose connection ended before the kernel had taken all of it; counted as `overflowed` is.
    pub cut_off: u32,
}

impl Reach {
    /// Sessions whose kernel buffer took all of it. The client may still be gone before it reads that.
    pub const fn written(self) -> u32 {
        self.sessions.saturating_sub(self.overflowed).saturating_sub(self.cut_off)
    }

    fn to_word(self, lap: u64) -> u64 {
        lap << LAP_SHIFT
            | u64::from(self.sessions.min(SESSIONS_MAX)) << SESSIONS_SHIFT
            | u64::from(self.overflowed.min(LOST_MAX)) << OVERFLOWED_SHIFT
            | u64::from(self.cut_off.min(LOST_MAX))
    }

    fn from_word(word: u64) -> Self {
        Self {
            sessions: (word >> SESSIONS_SHIFT) as u32 & SESSIONS_MAX,
            overflowed: (word >> OVERFLOWED_SHIFT) as u32 & LOST_MAX,
            cut_off: word as u32 & LOST_MAX,
        }
    }
}

/// The [`Reach`] of the latest messages, by the serial numbers that the caller gives them in ascending order.
#[derive(Debug, Default)]
pub struct ReachLog {
    /// A power of two, or none.
    words: Box<[AtomicU64]>,
}

impl ReachLog {
    /// Remembers the last `entries` messages, rounded up to a power of two and at most [`MAX_REACH_ENTRIES`]; 0 is off.
    pub fn new(entries: usize) -> Self {
        let entries = match entries {
            0 => 0,
            entries => entries.min(MAX_REACH_ENTRIES).next_power_of_two(),
        };
        Self { words: std::iter::repeat_with(AtomicU64::default).take(entries).collect() }
    }

    /// How many messages are remembered.
    pub fn entries(&self) -> usize {
        self.words.len()
    }

    /// The reach of message `serial`; `None` while some session or queue still holds it, and once it is forgotten.
    pub fn get(&self, serial: u64) -> Option<Reach> {
        let (word, lap) = self.place(serial)?;
        let word = word.load(Relaxed);
        (word >> LAP_SHIFT == lap).then(|| Reach::from_word(word))
    }

    /// Notes the reach of message `serial`, unless a later one has its place already.
    pub(crate) fn note(&self, serial: u64, reach: Reach) {
        let Some((word, lap)) = self.place(serial) else { return };
        let new = reach.to_word(lap);
        let _ = word.fetch_update(Relaxed, Relaxed, |old| {
            let ahead = (old >> LAP_SHIFT).wrapping_sub(lap) & LAP_MASK;
            let later_is_there = ahead != 0 && ahead <= LAP_MASK / 2 && old != 0;
            (!later_is_there).then_some(new)
        });
    }

    /// Where a message's word is, and which lap of the ring the message belongs to: never 0, which is an empty word's.
    fn place(&self, serial: u64) -> Option<(&AtomicU64, u64)> {
        let entries = self.words.len() as u64;
        let word = self.words.get((serial & entries.checked_sub(1)?) as usize)?;
        let lap = (serial >> entries.trailing_zeros()) % LAP_MASK + 1;
        Some((word, lap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(sessions: u32, lost: u32) -> Reach {
        Reach { sessions, overflowed: lost, cut_off: 0 }
    }

    #[test]
    fn what_is_noted_is_found_and_nothing_else() {
        let log = ReachLog::new(3);
        assert_eq!((log.entries(), log.get(0), log.get(3)), (4, None, None));
        log.note(0, reach(0, 0));
        log.note(3, reach(2, 1));
        assert_eq!((log.get(0), log.get(3)), (Some(reach(0, 0)), Some(reach(2, 1))));
        assert_eq!((log.get(1), log.get(4), log.get(7)), (None, None, None));
    }

    #[test]
    fn a_later_message_takes_the_place_and_a_straggler_does_not_take_it_back() {
        let log = ReachLog::new(4);
        log.note(1, reach(1, 0));
        log.note(5, reach(2, 0));
        assert_eq!((log.get(1), log.get(5)), (None, Some(reach(2, 0))));
        log.note(1, reach(1, 1));
        assert_eq!((log.get(1), log.get(5)), (None, Some(reach(2, 0))));
    }

    #[test]
    fn laps_are_told_apart_when_their_number_starts_anew() {
        let log = ReachLog::new(1);
        for serial in [LAP_MASK - 1, LAP_MASK, LAP_MASK + 1, u64::MAX] {
            log.note(serial, reach(1, 0));
            assert_eq!(log.get(serial), Some(reach(1, 0)), "{serial}");
            assert_eq!(log.get(serial - 1), None, "{serial}");
        }
    }

    #[test]
    fn counts_stop_at_their_largest_and_off_is_off() {
        let log = ReachLog::new(1);
        log.note(0, Reach { sessions: u32::MAX, overflowed: u32::MAX, cut_off: u32::MAX });
        let most = Reach { sessions: SESSIONS_MAX, overflowed: LOST_MAX, cut_off: LOST_MAX };
        assert_eq!((log.get(0), most.written()), (Some(most), SESSIONS_MAX - 2 * LOST_MAX));
        assert_eq!(reach(1, 2).written(), 0);
        let off = ReachLog::new(0);
        off.note(0, reach(1, 1));
        assert_eq!((off.entries(), off.get(0)), (0, None));
        assert_eq!(ReachLog::new(usize::MAX).entries(), MAX_REACH_ENTRIES);
    }
}
