//! From completed deliveries, on any thread, to acks, nacks and rejects on the consumer's thread.
//!
//! A [`Ticket`] stands for one delivery; when its last clone is dropped, the delivery is completed, with an ack
//! unless a clone said otherwise. One [`Settlement`] belongs to one channel. It wakes the consumer's thread only when that sleeps and there
//! is something to do: the first completion after an ack (which arms the delay), a full batch, or the
//! last open delivery while stopping. A settlement whose channel is dead takes no completions: the broker
//! delivers those messages again on the next channel, and acking them there would ack others.

use std::{
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::Context,
    thread,
};

use crate::{
    outcome::{Outcome, Verdict},
    stats::ConsumerStats,
    status::StopReason,
    stop::StopSignal,
    sync::{AtomicBool, AtomicWaker, Mutex, MutexGuard},
    window::{Progress, Run, TagOutOfOrder, Window},
};

/// The right to settle one delivery. The delivery is acked, soon, after its last clone was dropped.
///
/// [`Ticket::settle`] says something else than ack; of several clones' outcomes reject counts before requeue, and both
/// before ack. A ticket that a panic drops rejects.
///
/// Clone it into every piece of work that the delivery causes. Dropping is cheap and may happen on any
/// thread. A ticket that is never dropped keeps its delivery, and all behind it, unacked: in the end the
/// broker closes the channel (after 30 min by default) and delivers them again.
#[derive(Clone)]
pub struct Ticket {
    slot: Arc<Slot>,
}

impl Ticket {
    /// A ticket that settles nothing, for tests of a dispatch without a broker.
    #[must_use]
    pub fn detached() -> Self {
        let settlement = Arc::new(Settlement::new(1, 1, Arc::default(), StopSignal::new().0));
        Self { slot: Arc::new(Slot { tag: 0, may_requeue: true, verdict: AtomicU8::new(0), settlement }) }
    }

    /// Gives the delivery an outcome. It is settled when the last clone is gone.
    pub fn settle(self, outcome: Outcome) {
        match outcome {
            Outcome::Ack => {}
            Outcome::Requeue => self.requeue(),
            Outcome::Reject => self.note(Verdict::Reject),
            Outcome::Halt { code, requeue } => {
                if requeue {
                    self.requeue();
                }
                self.slot.settlement.stop.give(StopReason::Halted { code });
            }
        }
    }

    /// Leaves the delivery to the end of its channel: then it goes back to the queue.
    pub(crate) fn leave(self) {
        self.note(Verdict::Leave);
    }

    /// The consumer's counters.
    pub(crate) fn stats(&self) -> &ConsumerStats {
        &self.slot.settlement.stats
    }

    fn requeue(&self) {
        if self.slot.may_requeue {
            self.note(Verdict::Requeue);
        } else {
            self.note(Verdict::Reject);
            self.slot.settlement.stats.requeues_refused.add(1);
        }
    }

    fn note(&self, verdict: Verdict) {
        self.slot.verdict.fetch_max(verdict as u8, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if thread::panicking() {
            self.note(Verdict::Reject);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket")
    }
}

struct Slot {
    tag: u64,
    /// Whether a requeue is not one too many.
    may_requeue: bool,
    /// A [`Verdict`].
    verdict: AtomicU8,
    settlement: Arc<Settlement>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.settlement.complete(self.tag, Verdict::from_u8(*self.verdict.get_mut()));
    }
}

/// The settlement of one channel.
pub(crate) struct Settlement {
    state: Mutex<State>,
    /// Whether the consumer's task sleeps and wants to be woken. Only ever set by that task.
    parked: AtomicBool,
    waker: AtomicWaker,
    stats: Arc<ConsumerStats>,
    stop: StopSignal,
}

struct State {
    window: Window,
    phase: Phase,
}

#[derive(PartialEq, Eq)]
enum Phase {
    Open,
    /// No more deliveries come in; the last completion wakes the consumer.
    Draining,
    /// The channel is dead.
    Closed,
}

/// What the consumer's task finds when it goes to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// Deliveries that can be settled.
    pub(crate) ready: usize,
    /// Whether they are to be settled at once.
    pub(crate) now: bool,
    /// Deliveries still being worked on.
    pub(crate) open: usize,
}

impl Settlement {
    pub(crate) fn new(prefetch: u16, batch: u16, stats: Arc<ConsumerStats>, stop: StopSignal) -> Self {
        Self {
            state: Mutex::new(State { window: Window::new(prefetch, batch), phase: Phase::Open }),
            parked: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            stats,
            stop,
        }
    }

    /// Takes in a delivery; also returns whether a frame is due.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        tag: u64,
        may_requeue: bool,
    ) -> Result<(Ticket, bool), TagOutOfOrder> {
        let due = {
            let window = &mut self.lock().window;
            window.deliver(tag)?;
            window.is_due()
        };
        let slot = Slot { tag, may_requeue, verdict: AtomicU8::new(0), settlement: self.clone() };
        Ok((Ticket { slot: Arc::new(slot) }, due))
    }

    /// Takes the first run of all that is completed without a gap.
    pub(crate) fn take_run(&self) -> Option<Run> {
        self.lock().window.take_run()
    }

    /// What is completed behind a gap; see [`Window::completed_behind_gap`].
    pub(crate) fn completed_behind_gap(&self) -> Vec<(u64, Verdict)> {
        self.lock().window.completed_behind_gap()
    }

    /// How many deliveries the broker waits to hear of.
    pub(crate) fn unsettled(&self) -> usize {
        self.lock().window.unsettled()
    }

    /// Whether nothing more can come before the oldest delivery is completed.
    pub(crate) fn is_held(&self) -> bool {
        self.lock().window.is_held()
    }

    /// How many deliveries are still being worked on.
    pub(crate) fn open(&self) -> usize {
        self.lock().window.open()
    }

    /// Announces that the task of `cx` goes to sleep, and returns what is due before it does.
    ///
    /// A completion that this call does not see wakes the task.
    pub(crate) fn park(&self, cx: &Context<'_>) -> Due {
        self.waker.register(cx.waker());
        self.parked.store(true, Ordering::SeqCst);
        let window = &self.lock().window;
        Due { ready: window.ready(), now: window.is_due(), open: window.open() }
    }

    /// Announces that the task is awake: completions need not wake it.
    pub(crate) fn unpark(&self) {
        self.parked.store(false, Ordering::SeqCst);
    }

    /// From now on the completion of the last open delivery wakes the task too.
    pub(crate) fn drain(&self) {
        self.lock().phase = Phase::Draining;
    }

    /// Ends the settlement: the channel is dead, completions go into nothing.
    pub(crate) fn close(&self) {
        self.lock().phase = Phase::Closed;
    }

    fn complete(&self, tag: u64, verdict: Verdict) {
        let due = {
            let mut state = self.lock();
            if state.phase == Phase::Closed {
                // What was never begun is not late.
                self.stats.stale.add(u64::from(verdict != Verdict::Leave));
                return;
            }
            let progress = state.window.complete(tag, verdict);
            progress != Progress::Nothing || (state.phase == Phase::Draining && state.window.open() == 0)
        };
        if due && self.parked.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;
    use crate::stop::StopListener;

    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Bench {
        settlement: Arc<Settlement>,
        wakes: Arc<Wakes>,
        stopped: StopListener,
    }

    impl Bench {
        fn new(prefetch: u16, batch: u16) -> Self {
            let wakes = Arc::new(Wakes(AtomicUsize::new(0)));
            let (stop, stopped) = StopSignal::new();
            let settlement = Arc::new(Settlement::new(prefetch, batch, Arc::default(), stop));
            Self { settlement, wakes, stopped }
        }

        fn deliver(&self, tag: u64) -> Ticket {
            self.settlement.deliver(tag, true).unwrap().0
        }

        fn park(&self) -> Due {
            self.settlement.park(&Context::from_waker(&Waker::from(self.wakes.clone())))
        }

        fn wakes(&self) -> usize {
            self.wakes.0.load(Ordering::SeqCst)
        }
    }

    fn acked(tag: u64, messages: u64) -> Option<Run> {
        Some(Run { tag, messages, verdict: Verdict::Ack })
    }

    #[test]
    fn n11_the_outcome_of_a_ticket_is_what_the_broker_is_told() {
        for (outcome, verdict) in [
            (Outcome::Ack, Verdict::Ack),
            (Outcome::Requeue, Verdict::Requeue),
            (Outcome::Reject, Verdict::Reject),
            (Outcome::Halt { code: 7, requeue: false }, Verdict::Ack),
            (Outcome::Halt { code: 7, requeue: true }, Verdict::Requeue),
        ] {
            let bench = Bench::new(10, 10);
            bench.deliver(1).settle(outcome);
            assert_eq!(bench.settlement.take_run().map(|run| run.verdict), Some(verdict), "{outcome:?}");
            let halted = matches!(outcome, Outcome::Halt { .. }).then_some(StopReason::Halted { code: 7 });
            assert_eq!(*bench.stopped.borrow(), halted, "{outcome:?}");
        }
    }

    #[test]
    fn of_several_clones_the_one_that_rejects_counts() {
        let bench = Bench::new(10, 10);
        let tickets: Vec<_> = std::iter::repeat_n(bench.deliver(1), 3).collect();
        let outcomes = [Outcome::Reject, Outcome::Requeue, Outcome::Ack];
        tickets.into_iter().zip(outcomes).for_each(|(ticket, outcome)| ticket.settle(outcome));
        assert_eq!(bench.settlement.take_run().map(|run| run.verdict), Some(Verdict::Reject));
    }

    #[test]
    fn n12_a_requeue_too_many_is_a_counted_reject() {
        let bench = Bench::new(10, 10);
        bench.settlement.deliver(1, false).unwrap().0.settle(Outcome::Requeue);
        bench.settlement.deliver(2, false).unwrap().0.settle(Outcome::Halt { code: 0, requeue: true });
        let rejected = Run { tag: 2, messages: 2, verdict: Verdict::Reject };
        assert_eq!(bench.settlement.take_run(), Some(rejected));
        assert_eq!(bench.settlement.stats.requeues_refused.get(), 2);
    }

    #[test]
    fn a_ticket_that_a_panic_drops_rejects() {
        let bench = Bench::new(10, 10);
        let ticket = bench.deliver(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ticket = ticket;
            panic!("this is the test's panic");
        }));
        assert!(panicked.is_err());
        assert_eq!(bench.settlement.take_run().map(|run| run.verdict), Some(Verdict::Reject));
    }

    #[test]
    fn only_the_last_clone_completes() {
        let bench = Bench::new(10, 10);
        let ticket = bench.deliver(1);
        let clone = ticket.clone();
        drop(ticket);
        assert_eq!(bench.settlement.take_run(), None);
        drop(clone);
        assert_eq!(bench.settlement.take_run(), acked(1, 1));
    }

    #[test]
    fn a_sleeping_consumer_is_woken_by_the_first_and_by_the_batch_only() {
        let bench = Bench::new(10, 3);
        let mut tickets: Vec<_> = (1..=6).map(|tag| bench.deliver(tag)).collect();
        assert_eq!(bench.park(), Due { ready: 0, now: false, open: 6 });
        let mut complete_next = || drop(tickets.remove(0));
        complete_next();
        assert_eq!(bench.wakes(), 1, "the first arms the delay");
        bench.park();
        complete_next();
        assert_eq!(bench.wakes(), 1, "the second changes nothing");
        complete_next();
        assert_eq!(bench.wakes(), 2, "the third fills the batch");
    }

    #[test]
    fn an_awake_consumer_is_not_woken() {
        let bench = Bench::new(10, 1);
        bench.park();
        bench.settlement.unpark();
        drop(bench.deliver(1));
        assert_eq!(bench.wakes(), 0);
        assert_eq!(bench.park().ready, 1, "it sees the completion before it sleeps");
    }

    #[test]
    fn while_draining_the_last_completion_wakes_even_behind_a_gap_that_closed_before() {
        let bench = Bench::new(10, 10);
        let (first, second) = (bench.deliver(1), bench.deliver(2));
        drop(first);
        bench.park();
        drop(second);
        assert_eq!(bench.wakes(), 0, "an ack is armed already");
        let third = bench.deliver(3);
        bench.settlement.drain();
        drop(third);
        assert_eq!(bench.wakes(), 1);
    }

    #[test]
    fn a_full_batch_is_reported_with_the_next_delivery() {
        let bench = Bench::new(10, 2);
        (1..=2).for_each(|tag| drop(bench.deliver(tag)));
        let (_ticket, batch_is_full) = bench.settlement.deliver(3, true).unwrap();
        assert!(batch_is_full);
        assert_eq!(bench.settlement.take_run(), acked(2, 2));
    }

    #[test]
    fn a_dead_channels_tickets_complete_into_nothing() {
        let bench = Bench::new(10, 1);
        let ticket = bench.deliver(1);
        bench.park();
        bench.settlement.close();
        drop(ticket);
        assert_eq!((bench.settlement.take_run(), bench.wakes()), (None, 0));
        assert_eq!(bench.settlement.stats.stale.get(), 1);
    }

    #[test]
    fn completions_from_many_threads_are_all_acked() {
        let bench = Bench::new(1000, 7);
        let tickets: Vec<_> = (1..=1000).map(|tag| bench.deliver(tag)).collect();
        let mut hands: Vec<Vec<Ticket>> = (0..4).map(|_| Vec::new()).collect();
        tickets.into_iter().enumerate().for_each(|(n, ticket)| hands[n % 4].push(ticket));
        std::thread::scope(|scope| {
            hands.into_iter().for_each(|hand| drop(scope.spawn(move || drop(hand))));
        });
        assert_eq!(bench.settlement.take_run(), acked(1000, 1000));
    }
}
