//! What became of everything that was published, over all clients. Pure.
//!
//! ```text
//! published (routed | returned | unknown) + received per client, in order → survived, lost, duplicated, unmarked
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::order::Stream;
use crate::amqp_wire::Outcome;

/// What became of each number.
pub(crate) type Outcomes = BTreeMap<u64, Outcome>;

/// How often the broker delivered each number with the redelivered flag.
pub(crate) type Marks = BTreeMap<u64, u64>;

/// The sum of all clients' streams. A number counts once for each client that it is for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Numbers that the broker confirmed and routed.
    pub(crate) confirmed: u64,
    /// Numbers that the broker routed to no queue.
    pub(crate) returned: u64,
    /// Numbers refused or without an answer.
    pub(crate) unknown: u64,
    /// What had to come and came.
    pub(crate) survived: u64,
    /// What had to come and did not.
    pub(crate) lost: u64,
    /// What came again.
    pub(crate) duplicated: u64,
    /// The most duplicates that one client got.
    pub(crate) most_duplicates: u64,
    /// For each client, how many more times than once each number came.
    again: Vec<BTreeMap<u64, u64>>,
    complaints: Vec<String>,
    /// Those of them that are not about order alone.
    losses: usize,
    /// Numbers that came first after a later one.
    pub(crate) reordered: u64,
}

impl Tally {
    /// An empty tally of what the publisher knows.
    pub(crate) fn of(outcomes: &Outcomes) -> Self {
        let count =
            |wanted: &[Outcome]| outcomes.values().filter(|outcome| wanted.contains(outcome)).count() as u64;
        Self {
            confirmed: count(&[Outcome::Confirmed]),
            returned: count(&[Outcome::Returned]),
            unknown: count(&[Outcome::Nacked, Outcome::Unknown]),
            ..Self::default()
        }
    }

    /// Adds what the client `who` received, in order, of the numbers that are `for_it`.
    ///
    /// What was confirmed must have come. What a queue refused while its nodes changed may have been stored by one of
    /// them, and so may what got no answer. Nothing else may come.
    pub(crate) fn add(
        &mut self,
        who: &str,
        received: &[u64],
        outcomes: &Outcomes,
        for_it: impl Fn(u64) -> bool,
    ) {
        let mine = |wanted: Outcome| -> BTreeSet<u64> {
            let all = outcomes.iter().filter(|(_, outcome)| **outcome == wanted).map(|(seq, _)| *seq);
            all.filter(|seq| for_it(*seq)).collect()
        };
        let must = mine(Outcome::Confirmed);
        let stream = Stream::judge(received, &must, &(&mine(Outcome::Unknown) | &mine(Outcome::Nacked)));
        if let Err(complaint) = stream.faultless(who) {
            self.complaints.push(complaint.to_string());
            self.losses += usize::from(!stream.is_complete());
        }
        self.reordered += stream.reordered.len() as u64;
        self.lost += stream.lost.len() as u64;
        self.survived += (must.len() - stream.lost.len()) as u64;
        self.duplicated += stream.duplicates();
        self.most_duplicates = self.most_duplicates.max(stream.duplicates());
        self.again.push(stream.again);
    }

    /// Adds another tally, of other numbers or other clients.
    pub(crate) fn merge(&mut self, other: Self) {
        self.confirmed += other.confirmed;
        self.returned += other.returned;
        self.unknown += other.unknown;
        self.survived += other.survived;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.most_duplicates = self.most_duplicates.max(other.most_duplicates);
        self.again.extend(other.again);
        self.complaints.extend(other.complaints);
        self.losses += other.losses;
        self.reordered += other.reordered;
    }

    /// Duplicates for which no delivery of the same number carried the redelivered flag.
    pub(crate) fn unmarked(&self, marks: &Marks) -> u64 {
        let excess = |(seq, more): (&u64, &u64)| more.saturating_sub(marks.get(seq).copied().unwrap_or(0));
        self.again.iter().flatten().map(excess).sum()
    }

    /// The same where only the number of marked deliveries is known: each reaches a client at most once.
    pub(crate) fn unmarked_of(&self, marked: u64) -> u64 {
        self.again.iter().map(|again| again.values().sum::<u64>().saturating_sub(marked)).sum()
    }

    /// Forgets what is about order alone: a quorum queue whose consumer's node is suspected dead delivers later messages
    /// first, and those of the suspect when it is declared dead.
    #[must_use]
    pub(crate) fn in_any_order(mut self) -> Self {
        if self.losses == 0 {
            self.complaints.clear();
        }
        self
    }

    /// An error that names each client to which something was lost, out of order, or not addressed.
    pub(crate) fn faultless(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.complaints.is_empty(), "{}", self.complaints.join("; "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes() -> Outcomes {
        let all = [Outcome::Confirmed, Outcome::Confirmed, Outcome::Returned, Outcome::Unknown];
        (0..).zip(all).collect()
    }

    #[test]
    fn each_client_is_owed_what_was_confirmed_and_is_for_it() {
        let outcomes = outcomes();
        let mut tally = Tally::of(&outcomes);
        assert_eq!((tally.confirmed, tally.returned, tally.unknown), (2, 1, 1));
        tally.add("a", &[0, 1, 3], &outcomes, |_| true);
        tally.add("b", &[1], &outcomes, |seq| seq == 1);
        assert_eq!((tally.survived, tally.lost, tally.duplicated), (3, 0, 0));
        assert!(tally.faultless().is_ok());
        tally.add("c", &[0], &outcomes, |_| true);
        assert_eq!((tally.survived, tally.lost), (4, 1));
        assert!(tally.faultless().unwrap_err().to_string().starts_with("c: 1 lost [1]"));
        let mut swapped = Tally::of(&outcomes);
        swapped.add("e", &[1, 0], &outcomes, |_| true);
        assert!(swapped.faultless().is_err() && swapped.reordered == 1);
        assert!(
            swapped.in_any_order().faultless().is_ok() && tally.clone().in_any_order().faultless().is_err()
        );
        let mut other = Tally::of(&outcomes);
        other.add("d", &[0, 1, 2], &outcomes, |_| true);
        assert!(other.faultless().is_err(), "what was returned reached nobody");
        other.merge(tally);
        assert_eq!((other.confirmed, other.survived, other.lost), (4, 6, 1));
    }

    #[test]
    fn a_duplicate_without_a_marked_delivery_of_its_own_is_unmarked() {
        let outcomes = outcomes();
        let mut tally = Tally::of(&outcomes);
        tally.add("a", &[0, 1, 0, 1, 1], &outcomes, |_| true);
        tally.add("b", &[0, 1, 1], &outcomes, |_| true);
        assert_eq!((tally.duplicated, tally.most_duplicates), (4, 3));
        assert_eq!(tally.unmarked(&Marks::from([(0, 1), (1, 2)])), 0);
        assert_eq!(tally.unmarked(&Marks::from([(1, 1)])), 2, "0 and one of 1, both of a's");
        assert_eq!((tally.unmarked_of(3), tally.unmarked_of(2), tally.unmarked_of(0)), (0, 1, 4));
    }
}
