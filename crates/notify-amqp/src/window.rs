//! Which deliveries of one channel may be settled, as values.
//!
//! Pure. Deliveries come in with consecutive tags and are completed in any order, each with a verdict. Frames cover
//! only the prefix that is complete without a gap, in the queue's order: one frame settles a whole run of deliveries
//! with the same verdict, and never one that is still being worked on.

use std::collections::VecDeque;

use crate::outcome::Verdict;

/// The deliveries of one channel that the broker still waits to hear of.
#[derive(Debug)]
pub(crate) struct Window {
    /// The tag that `entries[0]` stands for.
    first: u64,
    /// One entry per delivery since `first`: the verdict, once it is completed.
    entries: VecDeque<Option<Verdict>>,
    /// How many entries at the front are completed without a gap.
    ready: usize,
    /// How many of these were there when the last run was taken: another verdict kept them from going with it.
    held_over: usize,
    /// How many entries are not completed.
    open: usize,
    batch: usize,
    limit: usize,
}

/// Neighbours with one verdict: one frame to send, `multiple` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The highest tag it covers.
    pub(crate) tag: u64,
    /// How many deliveries it settles.
    pub(crate) messages: u64,
    /// What the frame says.
    pub(crate) verdict: Verdict,
}

/// What a completion calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing to do now.
    Nothing,
    /// The first completion that can be settled: a frame is due after the delay.
    First,
    /// A batch is full: a frame is due now.
    Due,
}

/// The broker's tags were not consecutive, or it delivered more than the prefetch allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TagOutOfOrder {
    pub(crate) tag: u64,
    pub(crate) expected: u64,
}

impl Window {
    /// A new channel's window: tags start at 1, at most `limit` deliveries are unsettled, and a frame is
    /// due as soon as `batch` can be settled.
    pub(crate) fn new(limit: u16, batch: u16) -> Self {
        let limit = usize::from(limit.max(1));
        Self {
            first: 1,
            entries: VecDeque::with_capacity(limit),
            ready: 0,
            held_over: 0,
            open: 0,
            batch: usize::from(batch.max(1)).min(limit),
            limit,
        }
    }

    /// Takes in the next delivery.
    pub(crate) fn deliver(&mut self, tag: u64) -> Result<(), TagOutOfOrder> {
        let expected = self.first + self.entries.len() as u64;
        if tag != expected || self.entries.len() == self.limit {
            return Err(TagOutOfOrder { tag, expected });
        }
        self.entries.push_back(None);
        self.open += 1;
        Ok(())
    }

    /// Marks one delivery as completed; marking it again, or one that is not in the window, does nothing.
    ///
    /// [`Verdict::Leave`] is a gap that never closes.
    pub(crate) fn complete(&mut self, tag: u64, verdict: Verdict) -> Progress {
        let Some(index) = tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok()) else {
            return Progress::Nothing;
        };
        match self.entries.get_mut(index) {
            Some(entry @ None) => *entry = Some(verdict),
            Some(Some(_)) | None => return Progress::Nothing,
        }
        self.open -= 1;
        let before = self.ready;
        while self.entries.get(self.ready).copied().flatten().is_some_and(is_settled) {
            self.ready += 1;
        }
        match (before, self.ready) {
            (_, ready) if ready == before => Progress::Nothing,
            (before, ready) if before < self.batch && ready >= self.batch => Progress::Due,
            (0, _) => Progress::First,
            _ => Progress::Nothing,
        }
    }

    /// Takes the first run of what is completed without a gap, if there is anything.
    pub(crate) fn take_run(&mut self) -> Option<Run> {
        let ready = self.entries.iter().take(self.ready);
        let verdict = (*ready.clone().next()?)?;
        let length = ready.take_while(|entry| **entry == Some(verdict)).count();
        self.entries.drain(..length);
        self.first += length as u64;
        self.ready -= length;
        self.held_over = self.ready;
        Some(Run { tag: self.first - 1, messages: length as u64, verdict })
    }

    /// The tags that are completed behind a gap, with their verdicts. For the end of a channel: they are settled one
    /// by one.
    pub(crate) fn completed_behind_gap(&self) -> Vec<(u64, Verdict)> {
        let after = self.entries.iter().enumerate().skip(self.ready);
        let completed = after.filter_map(|(index, entry)| Some((self.first + index as u64, (*entry)?)));
        completed.filter(|(_, verdict)| is_settled(*verdict)).collect()
    }

    /// How many deliveries could be settled now.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// Whether a frame is due now: for a full batch, or because the one before could not take all.
    pub(crate) fn is_due(&self) -> bool {
        self.ready >= self.batch || self.held_over > 0
    }

    /// Whether nothing more can come before the oldest delivery is completed.
    pub(crate) fn is_held(&self) -> bool {
        self.entries.len() == self.limit && self.entries.front().is_some_and(Option::is_none)
    }

    /// How many deliveries are still being worked on.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// How many deliveries the broker waits to hear of.
    pub(crate) fn unsettled(&self) -> usize {
        self.entries.len()
    }
}

fn is_settled(verdict: Verdict) -> bool {
    verdict != Verdict::Leave
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use Verdict::{Ack, Leave, Reject, Requeue};

    /// A window of 10 with a batch of 3 and `n` deliveries.
    fn window(n: u64) -> Window {
        let mut window = Window::new(10, 3);
        (1..=n).for_each(|tag| window.deliver(tag).unwrap());
        window
    }

    fn run(tag: u64, messages: u64, verdict: Verdict) -> Option<Run> {
        Some(Run { tag, messages, verdict })
    }

    #[test]
    fn in_order_completions_are_acked_by_batch() {
        let mut window = window(7);
        assert_eq!(window.complete(1, Ack), Progress::First);
        assert_eq!(window.complete(2, Ack), Progress::Nothing);
        assert_eq!(window.complete(3, Ack), Progress::Due);
        assert_eq!(window.complete(4, Ack), Progress::Nothing, "already due");
        assert_eq!(window.take_run(), run(4, 4, Ack));
        assert_eq!(window.take_run(), None);
        assert_eq!(window.complete(5, Ack), Progress::First, "armed again after the ack");
        assert_eq!((window.unsettled(), window.open()), (3, 2));
    }

    #[test]
    fn a_gap_holds_back_everything_behind_it() {
        let mut window = window(6);
        for (tag, verdict) in [(2, Ack), (3, Reject), (4, Ack), (6, Requeue)] {
            assert_eq!(window.complete(tag, verdict), Progress::Nothing);
        }
        assert_eq!(window.take_run(), None);
        assert_eq!(window.completed_behind_gap(), [(2, Ack), (3, Reject), (4, Ack), (6, Requeue)]);
        assert_eq!(window.complete(1, Ack), Progress::Due, "closing the gap fills the batch");
        assert_eq!(window.take_run(), run(2, 2, Ack));
        assert_eq!(window.completed_behind_gap(), [(6, Requeue)]);
    }

    #[test]
    fn n11_each_run_of_one_verdict_is_one_frame_and_the_rest_is_due_at_once() {
        let mut window = window(7);
        for (tag, verdict) in [(1, Ack), (2, Ack), (3, Reject), (4, Requeue), (5, Requeue), (6, Ack)] {
            window.complete(tag, verdict);
        }
        assert_eq!(window.take_run(), run(2, 2, Ack));
        assert!(window.is_due(), "the rest was ready too");
        assert_eq!(window.take_run(), run(3, 1, Reject));
        assert_eq!(window.take_run(), run(5, 2, Requeue));
        assert!(window.is_due(), "one that was ready is left");
        assert_eq!(window.take_run(), run(6, 1, Ack));
        assert!(!window.is_due());
        window.complete(7, Ack);
        assert!(!window.is_due(), "a new one waits for its batch or the delay");
    }

    #[test]
    fn what_was_left_is_never_settled_nor_passed() {
        let mut window = window(4);
        for (tag, verdict) in [(1, Ack), (2, Leave), (3, Ack), (4, Leave)] {
            window.complete(tag, verdict);
        }
        assert_eq!(window.take_run(), run(1, 1, Ack));
        assert_eq!(window.take_run(), None);
        assert_eq!((window.open(), window.completed_behind_gap()), (0, vec![(3, Ack)]));
    }

    #[test]
    fn completing_twice_or_what_was_acked_does_nothing() {
        let mut window = window(3);
        window.complete(1, Ack);
        assert_eq!(window.complete(1, Reject), Progress::Nothing);
        assert_eq!(window.take_run(), run(1, 1, Ack));
        assert_eq!(window.complete(1, Reject), Progress::Nothing);
        assert_eq!(window.complete(0, Ack), Progress::Nothing);
        assert_eq!(window.complete(99, Ack), Progress::Nothing);
        assert_eq!((window.open(), window.unsettled()), (2, 2));
    }

    #[test]
    fn tags_out_of_order_and_more_than_the_limit_are_refused() {
        let mut window = window(2);
        assert_eq!(window.deliver(4), Err(TagOutOfOrder { tag: 4, expected: 3 }));
        assert_eq!(window.deliver(2), Err(TagOutOfOrder { tag: 2, expected: 3 }));
        (3..=10).for_each(|tag| window.deliver(tag).unwrap());
        assert_eq!(window.deliver(11), Err(TagOutOfOrder { tag: 11, expected: 11 }));
    }

    #[test]
    fn a_full_window_is_held_by_its_oldest_delivery_alone() {
        let mut window = window(9);
        assert!(!window.is_held(), "one more may come");
        window.deliver(10).unwrap();
        for tag in 2..=10 {
            window.complete(tag, Ack);
        }
        assert!(window.is_held());
        window.complete(1, Ack);
        assert!(!window.is_held(), "an ack is due, and then more may come");
        window.take_run();
        assert!(!window.is_held());
    }

    #[test]
    fn a_batch_larger_than_the_window_cannot_starve_it() {
        let mut window = Window::new(2, 100);
        window.deliver(1).unwrap();
        window.deliver(2).unwrap();
        window.complete(1, Ack);
        assert_eq!(window.complete(2, Ack), Progress::Due);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Deliver,
        Complete(usize, Verdict),
        Settle,
    }

    fn step() -> impl Strategy<Value = Step> {
        let verdict = prop_oneof![6 => Just(Ack), 2 => Just(Requeue), 2 => Just(Reject), 1 => Just(Leave)];
        prop_oneof![
            3 => Just(Step::Deliver),
            3 => (0..40_usize, verdict).prop_map(|(pick, verdict)| Step::Complete(pick, verdict)),
            1 => Just(Step::Settle),
        ]
    }

    proptest! {
        /// Against a model: nothing is settled that was not completed, nothing twice, nothing with another verdict
        /// than its own, nothing that was left, nothing is forgotten, and at most `limit` are unsettled.
        #[test]
        fn settles_exactly_what_was_completed_as_it_was_completed(
            limit in 1..20_u16, batch in 1..30_u16, steps in prop::collection::vec(step(), 0..200)
        ) {
            let mut window = Window::new(limit, batch);
            let (mut next, mut settled) = (1_u64, 0_u64);
            let (mut open, mut done) = (BTreeSet::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Deliver => {
                        let full = open.len() + done.len() == usize::from(limit);
                        prop_assert_eq!(window.deliver(next).is_err(), full);
                        if !full {
                            open.insert(next);
                            next += 1;
                        }
                    }
                    Step::Complete(pick, verdict) => {
                        let Some(tag) = open.iter().copied().nth(pick) else { continue };
                        open.remove(&tag);
                        done.insert(tag, verdict);
                        window.complete(tag, verdict);
                    }
                    Step::Settle => {
                        while let Some(run) = window.take_run() {
                            prop_assert_eq!(run.tag, settled + run.messages);
                            for tag in settled + 1..=run.tag {
                                prop_assert_eq!(done.remove(&tag), Some(run.verdict));
                            }
                            settled = run.tag;
                        }
                        prop_assert!(done.get(&(settled + 1)).is_none_or(|next| *next == Leave));
                        prop_assert!(!window.is_due());
                    }
                }
                prop_assert_eq!(window.open(), open.len());
                prop_assert_eq!(window.unsettled(), open.len() + done.len());
                prop_assert!(window.unsettled() <= usize::from(limit));
                let ready = (settled + 1..).take(window.ready()).map(|tag| (tag, done[&tag]));
                let all: BTreeMap<_, _> = ready.chain(window.completed_behind_gap()).collect();
                let mut expected = done.clone();
                expected.retain(|_, verdict| *verdict != Leave);
                prop_assert_eq!(all, expected);
            }
        }
    }
}
