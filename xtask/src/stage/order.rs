//! Judges what one client received of a numbered stream. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with, or worth counting in, one client's stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Numbers that had to come and did not.
    pub(crate) lost: Vec<u64>,
    /// Numbers that belong to someone else.
    pub(crate) strangers: Vec<u64>,
    /// Pairs where the second came first seen after the first although it is smaller.
    pub(crate) reordered: Vec<(u64, u64)>,
    /// How many more times than once each number came.
    pub(crate) again: BTreeMap<u64, u64>,
}

impl Stream {
    /// `received` in order; `must` had to come, `may` could.
    pub(crate) fn judge(received: &[u64], must: &BTreeSet<u64>, may: &BTreeSet<u64>) -> Self {
        let mut judged = Self::default();
        let mut seen = BTreeSet::new();
        let mut highest = None;
        for &number in received {
            if !must.contains(&number) && !may.contains(&number) {
                judged.strangers.push(number);
            }
            if !seen.insert(number) {
                *judged.again.entry(number).or_default() += 1;
                continue;
            }
            if may.contains(&number) {
                // Its publisher gave it up and went on over another connection: which is first is the broker's to say.
                continue;
            }
            match highest {
                Some(before) if number < before => judged.reordered.push((before, number)),
                _ => highest = Some(number),
            }
        }
        judged.lost = must.difference(&seen).copied().collect();
        judged
    }

    /// Whether everything came that had to, and nothing of others: in whatever order.
    pub(crate) fn is_complete(&self) -> bool {
        self.lost.is_empty() && self.strangers.is_empty()
    }

    /// How many came again.
    pub(crate) fn duplicates(&self) -> u64 {
        self.again.values().sum()
    }

    /// An error that names the client, unless only duplicates are to be told.
    pub(crate) fn faultless(&self, who: &str) -> anyhow::Result<()> {
        let Self { lost, strangers, reordered, .. } = self;
        let fine = self.is_complete() && reordered.is_empty();
        anyhow::ensure!(
            fine,
            "{who}: {} lost {:?}, {} of others {:?}, {} out of order {:?} ({} duplicates)",
            lost.len(),
            &lost[..lost.len().min(10)],
            strangers.len(),
            &strangers[..strangers.len().min(10)],
            reordered.len(),
            &reordered[..reordered.len().min(10)],
            self.duplicates(),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(received: &[u64], must: &[u64], may: &[u64]) -> Stream {
        Stream::judge(received, &must.iter().copied().collect(), &may.iter().copied().collect())
    }

    #[test]
    fn each_broken_promise_is_seen() {
        assert_eq!(judge(&[1, 2, 4], &[1, 2], &[4]), Stream::default());
        assert_eq!(judge(&[1, 4], &[1, 2], &[4]).lost, [2]);
        assert_eq!(judge(&[1, 9], &[1], &[]).strangers, [9]);
        assert_eq!(judge(&[1, 3, 2], &[1, 2, 3], &[]).reordered, [(3, 2)]);
        assert!(judge(&[1, 3, 2], &[1, 2, 3], &[]).faultless("x").is_err());
        assert!(judge(&[1, 3, 2], &[1, 2, 3], &[]).is_complete());
        assert_eq!(judge(&[1, 3, 2, 4], &[1, 3, 4], &[2]), Stream::default(), "given up by its publisher");
        assert!(!judge(&[1, 9], &[1], &[]).is_complete() && !judge(&[], &[1], &[]).is_complete());
    }

    #[test]
    fn a_repeated_run_is_counted_and_not_called_reordered() {
        let stream = judge(&[1, 2, 3, 2, 3, 4], &[1, 2, 3, 4], &[]);
        assert_eq!(stream, Stream { again: BTreeMap::from([(2, 1), (3, 1)]), ..Stream::default() });
        assert!(stream.faultless("x").is_ok());
        // A late first sight is an inversion even beside duplicates.
        assert_eq!(judge(&[1, 3, 4, 3, 2, 4], &[1, 2, 3, 4], &[]).reordered, [(4, 2)]);
    }
}
