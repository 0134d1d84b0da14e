//! `lobby publish --receipt`: which receipts are waited for, what they say in all, and their lines.

use std::{num::NonZeroUsize, time::Duration};

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use notify_protocol::{Receipt, ReceiptOutcome, ReceiptScope};

use crate::{Failure, config::parse_duration};

/// Why receipts cannot come any more.
const INBOX_LOST: &str = "the reply queue was lost with its connection";
/// Receipts that an error message names.
const SHOWN: usize = 5;

/// Which receipts to ask for, and how long to wait for them.
#[derive(Debug, Args)]
pub struct ReceiptArgs {
    /// Asks lobbies what became of it: those where somebody is addressed, or all. Comes after the body, or with its value.
    #[arg(long, value_name = "WHO", num_args = 0..=1, default_missing_value = "written")]
    receipt: Option<Who>,
    /// The longest wait for receipts, from the broker's confirm.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration, requires = "receipt")]
    wait: Duration,
    /// So many receipts are enough. Unless given, the first is for one user with `written`; else all that come in time count.
    #[arg(long, value_name = "COUNT", requires = "receipt")]
    answers: Option<NonZeroUsize>,
}

/// Which lobbies answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Who {
    /// Those where somebody is addressed, or that drop it.
    Written,
    /// All of them.
    All,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub scope: ReceiptScope,
    /// The longest wait, from the broker's confirm.
    pub within: Duration,
    /// As given; see [`Wanted::enough`].
    answers: Option<NonZeroUsize>,
}

impl ReceiptArgs {
    /// What is asked for; `None` when nothing is.
    pub fn wanted(&self) -> Option<Wanted> {
        let scope = match self.receipt? {
            Who::Written => ReceiptScope::WrittenOnly,
            Who::All => ReceiptScope::All,
        };
        Some(Wanted { scope, within: self.wait, answers: self.answers })
    }
}

impl Wanted {
    /// How many receipts are enough for a message to one user, or to several.
    pub fn enough(&self, to_one: bool) -> usize {
        match self.answers {
            Some(count) => count.get(),
            None if to_one && self.scope == ReceiptScope::WrittenOnly => 1,
            None => usize::MAX,
        }
    }

    /// The word for what the receipts of a confirmed message say in all, and why that is a failure if it is one.
    /// `inbox_lost`: nobody could hear more of them.
    pub fn verdict(&self, receipts: &[Receipt], inbox_lost: bool) -> (&'static str, Option<Failure>) {
        let within = self.within;
        if receipts.iter().any(|receipt| receipt.outcome == ReceiptOutcome::Written) {
            return ("written", None);
        }
        let failure = |code, error| Some(Failure { code, error });
        if !receipts.is_empty() {
            let says = |receipt: &Receipt| format!("{} says {}", receipt.instance, outcome(receipt));
            let mut told: Vec<_> = receipts.iter().take(SHOWN).map(says).collect();
            if receipts.len() > SHOWN {
                told.push(format!("and {} more", receipts.len() - SHOWN));
            }
            let lost = if inbox_lost { format!("; {INBOX_LOST}, so others may have") } else { String::new() };
            let error = anyhow!("confirmed, but no lobby has written it: {}{lost}", told.join(", "));
            return ("not_written", failure(Failure::NOT_WRITTEN, error));
        }
        if inbox_lost {
            let error =
                anyhow!("confirmed, but {INBOX_LOST}: lobbies may have written it, which nobody could hear");
            return ("inbox_lost", failure(Failure::NO_RECEIPT, error));
        }
        let hint = match self.scope {
            ReceiptScope::WrittenOnly => {
                "nobody who is addressed may be connected, which lobbies say when asked with `--receipt all`"
            }
            ReceiptScope::All => "is receipts.enabled off, or were the lobbies too busy?",
        };
        let error = anyhow!("confirmed, but no receipt came within {within:?}: {hint}");
        ("no_receipt", failure(Failure::NO_RECEIPT, error))
    }
}

/// What one lobby says, with the reason for dropping.
fn outcome(receipt: &Receipt) -> String {
    match &receipt.reason {
        Some(reason) => format!("{} {reason}", receipt.outcome),
        None => receipt.outcome.to_string(),
    }
}

/// The heads over [`cells`].
pub const HEADS: [&str; 6] = ["LOBBY", "OUTCOME", "MATCHED", "WRITTEN", "OVERFLOWED", "MICROS"];

/// One receipt for a table.
pub fn cells(receipt: &Receipt) -> [String; 6] {
    [
        receipt.instance.clone(),
        outcome(receipt),
        receipt.sessions_matched.to_string(),
        receipt.sessions_written.to_string(),
        receipt.sessions_overflowed.to_string(),
        receipt.micros.to_string(),
    ]
}

/// One receipt under [`line_heads`], for tables that are printed as they grow.
pub fn line_row(number: u64, receipt: &Receipt) -> String {
    columns(&number.to_string(), cells(receipt))
}

/// The heads over [`line_row`].
pub fn line_heads() -> String {
    columns("LINE", HEADS.map(str::to_owned))
}

fn columns(line: &str, cells: [String; 6]) -> String {
    let [lobby, outcome, matched, written, overflowed, micros] = cells;
    format!("{line:<8}  {lobby:<20}  {outcome:<13}  {matched:<7}  {written:<7}  {overflowed:<10}  {micros}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(outcome: ReceiptOutcome) -> Receipt {
        Receipt {
            instance: "pod-7".to_owned(),
            message_id: Some("m".to_owned()),
            outcome,
            reason: (outcome == ReceiptOutcome::Dropped).then(|| "too_large".to_owned()),
            sessions_matched: 2,
            sessions_written: 1,
            sessions_overflowed: 1,
            micros: 212,
        }
    }

    #[test]
    fn receipts_have_exit_codes_of_their_own() {
        use ReceiptOutcome::{Disconnected, Dropped, NotConnected, Overflowed, Unknown, Written};
        let within = Duration::from_secs(2);
        let wanted = |scope| Wanted { scope, within, answers: None };
        let (some, all) = (wanted(ReceiptScope::WrittenOnly), wanted(ReceiptScope::All));
        for (wanted, outcomes, word, code, words) in [
            (some, &[Written][..], "written", 0, ""),
            (all, &[NotConnected, Written], "written", 0, ""),
            (all, &[Dropped, Written, Overflowed], "written", 0, ""),
            (some, &[], "no_receipt", 81, "within 2s: nobody who is addressed may be connected"),
            (all, &[], "no_receipt", 81, "within 2s: is receipts.enabled off"),
            (all, &[NotConnected, NotConnected], "not_written", 82, "pod-7 says not_connected, pod-7"),
            (some, &[Dropped], "not_written", 82, "pod-7 says dropped too_large"),
            (some, &[Overflowed, Disconnected], "not_written", 82, "overflowed, pod-7 says disconnected"),
            (some, &[Unknown], "not_written", 82, "unknown"),
        ] {
            let receipts: Vec<_> = outcomes.iter().copied().map(receipt).collect();
            let (told, failure) = wanted.verdict(&receipts, false);
            let said = failure.as_ref().map_or_else(String::new, |failure| failure.error.to_string());
            assert_eq!((told, failure.map_or(0, |failure| failure.code)), (word, code), "{outcomes:?}");
            assert!(said.contains(words), "{outcomes:?}: {said}");
        }
    }

    #[test]
    fn a_lost_reply_queue_is_told_unless_somebody_has_written() {
        use ReceiptOutcome::{NotConnected, Written};
        let wanted = Wanted { scope: ReceiptScope::All, within: Duration::from_secs(2), answers: None };
        for (outcome, word, code) in
            [(None, "inbox_lost", 81), (Some(NotConnected), "not_written", 82), (Some(Written), "written", 0)]
        {
            let receipts: Vec<_> = outcome.into_iter().map(receipt).collect();
            let (told, failure) = wanted.verdict(&receipts, true);
            assert_eq!((told, failure.as_ref().map_or(0, |failure| failure.code)), (word, code));
            let says =
                failure.is_none_or(|failure| failure.error.to_string().contains("reply queue was lost"));
            assert!(says, "{outcome:?}");
        }
    }

    #[test]
    fn one_users_first_answer_is_enough_and_otherwise_all_that_come_in_time_are() {
        let wanted = |scope, answers| Wanted { scope, within: Duration::ZERO, answers };
        for (scope, answers, to_one, enough) in [
            (ReceiptScope::WrittenOnly, None, true, 1),
            (ReceiptScope::WrittenOnly, None, false, usize::MAX),
            (ReceiptScope::All, None, true, usize::MAX),
            (ReceiptScope::All, NonZeroUsize::new(3), true, 3),
            (ReceiptScope::WrittenOnly, NonZeroUsize::new(2), true, 2),
        ] {
            assert_eq!(wanted(scope, answers).enough(to_one), enough, "{scope:?} {answers:?} {to_one}");
        }
    }

    #[test]
    fn a_receipt_fills_a_row() {
        let row = ["pod-7", "dropped too_large", "2", "1", "1", "212"];
        assert_eq!(cells(&receipt(ReceiptOutcome::Dropped)), row);
        assert_eq!(row.len(), HEADS.len());
    }
}
