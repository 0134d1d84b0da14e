//! Which of the messages under way on one channel the broker returned.
//!
//! The broker returns an unroutable message before it confirms it. lapin keeps returned messages in a queue and
//! attaches the oldest to whichever confirm it completes next, which may be another message's. Two facts make
//! up for that. A returned message carries its own properties, the message id among them. And a confirm that
//! carries nothing was completed while lapin's queue was empty: all that was returned before it has been attached
//! to confirms that were completed earlier.
//!
//! Pure: confirms in, verdicts out. What is asked of the caller is that each call holds all confirms that were
//! complete by the time the last of them was seen.

use std::{collections::HashMap, sync::Arc};

/// A confirm as lapin completed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Confirmed {
    /// The caller's number for the message.
    pub(crate) serial: u64,
    /// Its message id.
    pub(crate) id: Arc<str>,
    /// False for a nack.
    pub(crate) ack: bool,
    /// The returned message that lapin attached: this one or another.
    pub(crate) attached: Option<Returned>,
}

/// A message that came back, by its id, with the broker's reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Returned {
    pub(crate) id: String,
    pub(crate) code: u16,
    pub(crate) text: String,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Taken,
    Unroutable { code: u16, text: String },
    Nacked,
}

/// The open questions of one channel.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    /// Returned, and not yet confirmed or not yet matched, by id.
    returned: HashMap<String, Vec<Returned>>,
    /// Confirmed while others' returns were in lapin's queue, perhaps their own behind them.
    undecided: Vec<(u64, Arc<str>)>,
}

impl Returns {
    /// Takes confirms and tells each message's verdict, now or in a later call. `none_left` says that nothing else is
    /// under way on the channel.
    pub(crate) fn judge(
        &mut self,
        confirms: Vec<Confirmed>,
        none_left: bool,
        mut verdict: impl FnMut(u64, Verdict),
    ) {
        let queue_was_empty = none_left || confirms.iter().any(|confirmed| confirmed.attached.is_none());
        let mut decidable = if queue_was_empty { std::mem::take(&mut self.undecided) } else { Vec::new() };
        for Confirmed { serial, id, ack, attached } in confirms {
            let nothing_attached = attached.is_none();
            if let Some(returned) = attached {
                self.returned.entry(returned.id.clone()).or_default().push(returned);
            }
            match (ack, nothing_attached || none_left) {
                (false, _) => verdict(serial, Verdict::Nacked),
                (true, true) => decidable.push((serial, id)),
                (true, false) => self.undecided.push((serial, id)),
            }
        }
        for (serial, id) in decidable {
            verdict(serial, self.take(&id).unwrap_or(Verdict::Taken));
        }
        if !self.returned.is_empty() {
            for (serial, id) in std::mem::take(&mut self.undecided) {
                match self.take(&id) {
                    Some(returned) => verdict(serial, returned),
                    None => self.undecided.push((serial, id)),
                }
            }
        }
    }

    fn take(&mut self, id: &str) -> Option<Verdict> {
        if self.returned.is_empty() {
            return None;
        }
        let several = self.returned.get_mut(id)?;
        let Returned { code, text, .. } = several.pop()?;
        if several.is_empty() {
            self.returned.remove(id);
        }
        Some(Verdict::Unroutable { code, text })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    fn returned(id: &str) -> Returned {
        Returned { id: id.into(), code: 312, text: "NO_ROUTE".into() }
    }

    /// One call: serials with the serial whose return is attached, and whether nothing else is under way.
    type Call<'a> = (&'a [(u64, Option<u64>)], bool);

    /// Feeds calls of `(serial, attached)` and collects who was called unroutable, and who is decided.
    fn judge(calls: &[Call<'_>]) -> (Vec<u64>, usize) {
        let mut returns = Returns::default();
        let (mut unroutable, mut decided) = (Vec::new(), 0);
        for (confirms, none_left) in calls {
            let confirms = confirms.iter().map(|(serial, attached)| Confirmed {
                serial: *serial,
                id: format!("id-{serial}").into(),
                ack: true,
                attached: attached.map(|other| returned(&format!("id-{other}"))),
            });
            returns.judge(confirms.collect(), *none_left, |serial, verdict| {
                decided += 1;
                if matches!(verdict, Verdict::Unroutable { code: 312, .. }) {
                    unroutable.push(serial);
                }
            });
        }
        unroutable.sort_unstable();
        (unroutable, decided)
    }

    #[test]
    fn a_return_counts_for_its_own_message_wherever_lapin_attached_it() {
        // Its own confirm, the one before, and the one after while the queue is not empty.
        assert_eq!(judge(&[(&[(1, Some(1)), (2, None)], false)]), (vec![1], 2));
        assert_eq!(judge(&[(&[(1, Some(2)), (2, None)], false)]), (vec![2], 1));
        assert_eq!(judge(&[(&[(1, Some(2))], false), (&[(2, Some(1))], false)]), (vec![1, 2], 2));
        assert_eq!(judge(&[(&[(1, Some(2))], false), (&[(2, None)], true)]), (vec![2], 2));
    }

    #[test]
    fn nothing_is_decided_while_its_own_return_may_still_come() {
        assert_eq!(judge(&[(&[(1, Some(2))], false)]), (vec![], 0));
        assert_eq!(judge(&[(&[(1, Some(2))], false), (&[(3, None)], false)]), (vec![], 2));
    }

    #[test]
    fn a_nack_is_a_nack_and_what_it_carries_is_another_s() {
        let mut returns = Returns::default();
        let mut verdicts = Vec::new();
        let confirms = vec![
            Confirmed { serial: 1, id: "a".into(), ack: false, attached: Some(returned("b")) },
            Confirmed { serial: 2, id: "b".into(), ack: true, attached: None },
        ];
        returns.judge(confirms, true, |serial, verdict| verdicts.push((serial, verdict)));
        let unroutable = Verdict::Unroutable { code: 312, text: "NO_ROUTE".into() };
        assert_eq!(verdicts, [(1, Verdict::Nacked), (2, unroutable)]);
    }

    proptest! {
        /// lapin as it is: a queue of returns, and confirms that take the oldest.
        #[test]
        fn whatever_order_lapin_completes_confirms_in_every_message_gets_its_own_verdict(
            unroutable in prop::collection::vec(any::<bool>(), 1..40),
            // How many messages each `basic.ack` confirms, in which order, and when we look.
            acks in prop::collection::vec((1usize..6, any::<u64>(), any::<bool>()), 40),
        ) {
            let names: Vec<String> = (0..unroutable.len()).map(|n| format!("id-{n}")).collect();
            let mut queue = VecDeque::new();
            let (mut returns, mut unseen) = (Returns::default(), Vec::new());
            let mut verdicts = BTreeMap::new();
            let mut next = 0;
            for (many, seed, look) in acks {
                let last = (next + many).min(names.len());
                // The returns of a batch, and of the message behind it, come before its ack.
                queue.extend((next..last).filter(|n| unroutable[*n]));
                let mut batch: Vec<usize> = (next..last).collect();
                fastrand::Rng::with_seed(seed).shuffle(&mut batch);
                for n in batch {
                    let attached = queue.pop_front().map(|other: usize| returned(&names[other]));
                    let id = names[n].as_str().into();
                    unseen.push(Confirmed { serial: n as u64, id, ack: true, attached });
                }
                next = last;
                let none_left = next == names.len();
                if look || none_left {
                    fastrand::Rng::with_seed(seed).shuffle(&mut unseen);
                    let confirms = std::mem::take(&mut unseen);
                    returns.judge(confirms, none_left, |serial, verdict| {
                        assert!(verdicts.insert(serial, verdict != Verdict::Taken).is_none(), "judged twice");
                    });
                }
                if none_left { break; }
            }
            if next == names.len() {
                let judged: Vec<bool> = verdicts.into_values().collect();
                prop_assert_eq!(judged, unroutable);
            }
        }
    }
}
