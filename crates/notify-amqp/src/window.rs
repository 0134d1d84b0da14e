//! Which deliveries of one channel may be acked, as values.
//!
//! Pure. Deliveries come in with consecutive tags and are completed in any order; an ack covers only the
//! prefix that is complete without a gap, so that one ack frame settles many deliveries and never one
//! that is still being worked on.

use std::collections::VecDeque;

/// The deliveries of one channel that the broker still waits for an ack of.
#[derive(Debug)]
pub(crate) struct Window {
    /// The tag that `completed[0]` stands for.
    first: u64,
    /// One entry per delivery since `first`: whether it is completed.
    completed: VecDeque<bool>,
    /// How many entries at the front are completed without a gap.
    ready: usize,
    /// How many entries are not completed.
    open: usize,
    batch: usize,
    limit: usize,
}

/// One ack frame to send, `multiple` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    /// The highest tag it covers.
    pub(crate) tag: u64,
    /// How many deliveries it settles.
    pub(crate) messages: u64,
}

/// What a completion calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing to do now.
    Nothing,
    /// The first completion that can be acked: an ack is due after the delay.
    First,
    /// A batch is full, or nothing is being worked on any more: an ack is due now.
    Due,
}

/// The broker's tags were not consecutive, or it delivered more than the prefetch allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TagOutOfOrder {
    pub(crate) tag: u64,
    pub(crate) expected: u64,
}

impl Window {
    /// A new channel's window: tags start at 1, at most `limit` deliveries are unacked, and an ack is
    /// due as soon as `batch` can be acked.
    pub(crate) fn new(limit: u16, batch: u16) -> Self {
        let limit = usize::from(limit.max(1));
        Self {
            first: 1,
            completed: VecDeque::with_capacity(limit),
            ready: 0,
            open: 0,
            batch: usize::from(batch.max(1)).min(limit),
            limit,
        }
    }

    /// Takes in the next delivery.
    pub(crate) fn deliver(&mut self, tag: u64) -> Result<(), TagOutOfOrder> {
        let expected = self.first + self.completed.len() as u64;
        if tag != expected || self.completed.len() == self.limit {
            return Err(TagOutOfOrder { tag, expected });
        }
        self.completed.push_back(false);
        self.open += 1;
        Ok(())
    }

    /// Marks one delivery as completed; marking it again, or one that is not in the window, does nothing.
    pub(crate) fn complete(&mut self, tag: u64) -> Progress {
        let Some(index) = tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok()) else {
            return Progress::Nothing;
        };
        match self.completed.get_mut(index) {
            Some(done @ false) => *done = true,
            Some(true) | None => return Progress::Nothing,
        }
        self.open -= 1;
        let before = self.ready;
        while self.completed.get(self.ready) == Some(&true) {
            self.ready += 1;
        }
        match (before, self.ready) {
            (_, ready) if ready == before => Progress::Nothing,
            (before, ready) if before < self.batch && ready >= self.batch => Progress::Due,
            (0, _) => Progress::First,
            _ => Progress::Nothing,
        }
    }

    /// Takes the ack for everything that is completed without a gap, if there is anything.
    pub(crate) fn take_ack(&mut self) -> Option<Ack> {
        let messages = std::mem::take(&mut self.ready);
        if messages == 0 {
            return None;
        }
        self.completed.drain(..messages);
        self.first += messages as u64;
        Some(Ack { tag: self.first - 1, messages: messages as u64 })
    }

    /// The tags that are completed behind a gap. For the end of a channel: they are acked one by one.
    pub(crate) fn completed_behind_gap(&self) -> Vec<u64> {
        let after = self.completed.iter().enumerate().skip(self.ready);
        after.filter(|(_, done)| **done).map(|(index, _)| self.first + index as u64).collect()
    }

    /// How many deliveries an ack could settle now.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// Whether a full batch can be acked.
    pub(crate) fn batch_is_full(&self) -> bool {
        self.ready >= self.batch
    }

    /// How many deliveries are still being worked on.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// How many deliveries the broker waits for an ack of.
    pub(crate) fn unacked(&self) -> usize {
        self.completed.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A window of 10 with a batch of 3 and `n` deliveries.
    fn window(n: u64) -> Window {
        let mut window = Window::new(10, 3);
        (1..=n).for_each(|tag| window.deliver(tag).unwrap());
        window
    }

    #[test]
    fn in_order_completions_are_acked_by_batch() {
        let mut window = window(7);
        assert_eq!(window.complete(1), Progress::First);
        assert_eq!(window.complete(2), Progress::Nothing);
        assert_eq!(window.complete(3), Progress::Due);
        assert_eq!(window.complete(4), Progress::Nothing, "already due");
        assert_eq!(window.take_ack(), Some(Ack { tag: 4, messages: 4 }));
        assert_eq!(window.take_ack(), None);
        assert_eq!(window.complete(5), Progress::First, "armed again after the ack");
        assert_eq!((window.unacked(), window.open()), (3, 2));
    }

    #[test]
    fn a_gap_holds_back_everything_behind_it() {
        let mut window = window(6);
        for tag in [2, 3, 4, 6] {
            assert_eq!(window.complete(tag), Progress::Nothing);
        }
        assert_eq!(window.take_ack(), None);
        assert_eq!(window.completed_behind_gap(), [2, 3, 4, 6]);
        assert_eq!(window.complete(1), Progress::Due, "closing the gap fills the batch");
        assert_eq!(window.take_ack(), Some(Ack { tag: 4, messages: 4 }));
        assert_eq!(window.completed_behind_gap(), [6]);
    }

    #[test]
    fn completing_twice_or_what_was_acked_does_nothing() {
        let mut window = window(3);
        window.complete(1);
        assert_eq!(window.complete(1), Progress::Nothing);
        window.take_ack();
        assert_eq!(window.complete(1), Progress::Nothing);
        assert_eq!(window.complete(0), Progress::Nothing);
        assert_eq!(window.complete(99), Progress::Nothing);
        assert_eq!((window.open(), window.unacked()), (2, 2));
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
    fn a_batch_larger_than_the_window_cannot_starve_it() {
        let mut window = Window::new(2, 100);
        window.deliver(1).unwrap();
        window.deliver(2).unwrap();
        window.complete(1);
        assert_eq!(window.complete(2), Progress::Due);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Deliver,
        Complete(usize),
        Ack,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Deliver),
            3 => (0..40_usize).prop_map(Step::Complete),
            1 => Just(Step::Ack),
        ]
    }

    proptest! {
        /// Against a model of two sets: nothing is acked that was not completed, nothing twice, nothing
        /// is forgotten, and at most `limit` are unacked.
        #[test]
        fn acks_exactly_what_was_completed(
            limit in 1..20_u16, batch in 1..30_u16, steps in prop::collection::vec(step(), 0..200)
        ) {
            let mut window = Window::new(limit, batch);
            let (mut next, mut acked) = (1_u64, 0_u64);
            let (mut open, mut done) = (BTreeSet::new(), BTreeSet::new());
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
                    Step::Complete(pick) => {
                        let Some(tag) = open.iter().copied().nth(pick) else { continue };
                        open.remove(&tag);
                        done.insert(tag);
                        window.complete(tag);
                    }
                    Step::Ack => {
                        let mut expected = acked;
                        while done.remove(&(expected + 1)) {
                            expected += 1;
                        }
                        let ack = window.take_ack();
                        prop_assert_eq!(ack.map(|ack| ack.tag), (expected > acked).then_some(expected));
                        prop_assert_eq!(ack.map_or(0, |ack| ack.messages), expected - acked);
                        acked = expected;
                    }
                }
                prop_assert_eq!(window.open(), open.len());
                prop_assert_eq!(window.unacked(), open.len() + done.len());
                prop_assert!(window.unacked() <= usize::from(limit));
                let behind: Vec<_> = window.completed_behind_gap();
                let ready = (acked + 1..).take(window.ready());
                let all: BTreeSet<_> = ready.chain(behind).collect();
                prop_assert_eq!(&all, &done);
            }
        }
    }
}
