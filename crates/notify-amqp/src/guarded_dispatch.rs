//! The dispatch as the pump calls it: panics are caught, bursts end, and nobody waits for it too long.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::{
    consumer::Dispatch, delivery::Delivery, panic_log::PanicLog, settlement::Ticket, stats::ConsumerStats,
};

/// A burst ends after so many deliveries, though more may be at hand.
const BURST: u32 = 32;
/// Acks and heartbeats wait for the dispatch so long at most, unless a single call takes longer.
const TURN: Duration = Duration::from_millis(20);
/// A single call that takes longer is counted.
const STALL: Duration = Duration::from_secs(1);

/// Somebody's dispatch.
pub(crate) struct GuardedDispatch<'a, D> {
    dispatch: &'a mut D,
    stats: &'a ConsumerStats,
    in_burst: u32,
    turn_began: Instant,
    panics: PanicLog,
}

impl<'a, D: Dispatch> GuardedDispatch<'a, D> {
    pub(crate) fn new(dispatch: &'a mut D, stats: &'a ConsumerStats) -> Self {
        Self { dispatch, stats, in_burst: 0, turn_began: Instant::now(), panics: PanicLog::default() }
    }

    /// Hands one delivery over. Returns whether the thread's other work is due before the next.
    pub(crate) fn call(&mut self, delivery: Delivery, ticket: Ticket) -> bool {
        self.in_burst += 1;
        let begin = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| self.dispatch.dispatch(delivery, ticket))).is_err() {
            self.stats.dispatch_panics.add(1);
            self.panics.note("dispatch");
        }
        if self.in_burst >= BURST {
            self.end_burst();
        }
        let end = Instant::now();
        if end.saturating_duration_since(begin) >= STALL {
            self.stats.dispatch_stalls.add(1);
        }
        end.saturating_duration_since(self.turn_began) >= TURN
    }

    /// Ends a burst, if there is one, because no more deliveries are at hand.
    pub(crate) fn end_burst(&mut self) {
        if std::mem::take(&mut self.in_burst) == 0 {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| self.dispatch.burst_ends())).is_err() {
            self.stats.dispatch_panics.add(1);
            self.panics.note("end of a burst");
        }
    }

    /// The channel is at its end, and its last burst has ended.
    pub(crate) fn end_channel(&mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.dispatch.channel_ends())).is_err() {
            self.stats.dispatch_panics.add(1);
            self.panics.note("end of a channel");
        }
    }

    /// The thread's other work has had its chance.
    pub(crate) fn begin_turn(&mut self) {
        self.turn_began = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes deliveries by their key and the ends of bursts as `.`; panics at `panic` and sleeps at `stall`.
    #[derive(Default)]
    struct Notes(String);

    impl Dispatch for Notes {
        fn dispatch(&mut self, delivery: Delivery, _: Ticket) {
            match delivery.routing_key() {
                "panic" => panic!("this is the test's panic"),
                "stall" => std::thread::sleep(STALL),
                key => self.0.push_str(key),
            }
        }

        fn burst_ends(&mut self) {
            self.0.push('.');
            assert!(!self.0.starts_with('!'), "this is the test's panic");
        }
    }

    fn call<D: Dispatch>(guarded: &mut GuardedDispatch<'_, D>, key: &str) -> bool {
        guarded.call(Delivery::detached(key, Vec::new()), Ticket::detached())
    }

    #[test]
    fn a_burst_ends_once_and_only_after_a_delivery() {
        let (mut notes, stats) = (Notes::default(), ConsumerStats::default());
        let mut guarded = GuardedDispatch::new(&mut notes, &stats);
        guarded.end_burst();
        call(&mut guarded, "a");
        call(&mut guarded, "b");
        guarded.end_burst();
        guarded.end_burst();
        call(&mut guarded, "c");
        assert_eq!(notes.0, "ab.c");
    }

    #[test]
    fn a_burst_ends_after_32_deliveries_at_the_latest() {
        let (mut notes, stats) = (Notes::default(), ConsumerStats::default());
        let mut guarded = GuardedDispatch::new(&mut notes, &stats);
        for _ in 0..64 {
            call(&mut guarded, "x");
        }
        guarded.end_burst();
        let burst = "x".repeat(32) + ".";
        assert_eq!(notes.0, burst.clone() + &burst);
    }

    #[test]
    fn panics_of_a_delivery_and_of_a_bursts_end_are_caught_and_counted() {
        let (mut notes, stats) = (Notes("!".into()), ConsumerStats::default());
        let mut guarded = GuardedDispatch::new(&mut notes, &stats);
        call(&mut guarded, "panic");
        guarded.end_burst();
        call(&mut guarded, "a");
        assert_eq!((notes.0.as_str(), stats.dispatch_panics.get()), ("!.a", 2));
    }

    #[test]
    fn a_call_that_takes_a_second_is_counted_and_ends_the_turn() {
        let (mut notes, stats) = (Notes::default(), ConsumerStats::default());
        let mut guarded = GuardedDispatch::new(&mut notes, &stats);
        assert!(call(&mut guarded, "stall"));
        assert!(call(&mut guarded, "a"), "the turn is still over");
        guarded.begin_turn();
        assert!(!call(&mut guarded, "b"));
        assert_eq!(stats.dispatch_stalls.get(), 1);
    }
}
