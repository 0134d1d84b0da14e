//! What became of messages that a command publishes: a line for each, and the exit code of the first that failed.

use std::io::Write as _;

use anyhow::anyhow;
use indicatif::ProgressBar;
use notify_amqp::{PublishError, Published, Receipted};
use notify_protocol::Receipt;
use serde_json::json;

use super::{
    receipts::{self, Wanted},
    table::Table,
};
use crate::{
    Failure, print,
    startup::{exit_code, told},
};

/// Failures that are shown one by one; more are only counted.
const SHOWN: u64 = 20;

/// The word for an outcome in JSON, and its exit code.
fn verdict(error: &PublishError) -> (&'static str, u8) {
    match error {
        PublishError::Unroutable { .. } => ("unroutable", Failure::UNROUTABLE),
        PublishError::Nacked => ("nacked", Failure::NACKED),
        PublishError::TimedOut { .. } => ("timed_out", Failure::TRY_AGAIN),
        PublishError::ExchangeMissing { .. } => ("exchange_missing", Failure::NOT_FOUND),
        PublishError::AccessRefused { .. } => ("access_refused", Failure::PERMISSION),
        PublishError::Refused { .. } => ("refused", Failure::REFUSED),
        PublishError::Connection(error) => ("no_connection", exit_code(error)),
        PublishError::NameTooLong { .. } | PublishError::NotFinite | PublishError::NameNotUtf8 => {
            ("invalid", Failure::MESSAGE)
        }
        _ => ("failed", Failure::INTERNAL),
    }
}

/// Whether the next message would fail in the same way: nothing about it depends on the message.
fn is_for_all(error: &PublishError) -> bool {
    matches!(
        error,
        PublishError::Connection(_)
            | PublishError::ExchangeMissing { .. }
            | PublishError::AccessRefused { .. }
    )
}

fn failure(error: &PublishError) -> Failure {
    let hint = match error {
        PublishError::Unroutable { .. } => Some("is a lobby running, and does it use this exchange?"),
        PublishError::ExchangeMissing { .. } => {
            Some("start a lobby once, which declares it, or correct `broker.exchange`")
        }
        _ => None,
    };
    let error_text = match (error, hint) {
        (PublishError::Connection(error), _) => told(error, error.hint().as_deref()),
        (error, Some(hint)) => anyhow!("{error}: {hint}"),
        (error, None) => anyhow!("{error}"),
    };
    Failure { code: verdict(error).1, error: error_text }
}

/// Follows the messages of one command.
pub struct Sent {
    json: bool,
    /// Whether there is one message only, which needs no number.
    single: bool,
    bar: ProgressBar,
    /// Whether the heads of the receipts' table are printed.
    headed: bool,
    told: u64,
    confirmed: u64,
    /// Messages that a lobby says it has written; counted when receipts are asked for.
    written: Option<u64>,
    failed: u64,
    first: Option<Failure>,
}

impl Sent {
    pub fn new(json: bool, single: bool, bar: ProgressBar) -> Self {
        Self {
            json,
            single,
            bar,
            headed: false,
            told: 0,
            confirmed: 0,
            written: None,
            failed: 0,
            first: None,
        }
    }

    /// Notes the outcome of the message from line `number`; false when no further message needs to be tried.
    pub fn note(&mut self, number: u64, outcome: &Result<Published, PublishError>) -> Result<bool, Failure> {
        self.tick();
        match outcome {
            Ok(published) => self.confirm(number, "confirmed", published).map(|()| true),
            Err(error) => self.refuse(number, error),
        }
    }

    /// As [`Sent::note`], with the receipts that were `wanted`.
    pub fn note_receipts(
        &mut self,
        number: u64,
        outcome: &Result<Receipted, PublishError>,
        wanted: &Wanted,
    ) -> Result<bool, Failure> {
        self.tick();
        match outcome {
            Ok(Receipted { published, receipts, inbox_lost, .. }) => {
                let (word, failure) = wanted.verdict(receipts, *inbox_lost);
                self.confirm(number, word, published)?;
                self.show_receipts(number, receipts)?;
                *self.written.get_or_insert_default() += u64::from(failure.is_none());
                if let Some(failure) = failure {
                    self.count(number, word, failure);
                }
                Ok(true)
            }
            Err(error) => self.refuse(number, error),
        }
    }

    /// Notes that line `number` is no message, or cannot be read.
    pub fn wrong(&mut self, number: u64, failure: Failure) -> Result<(), Failure> {
        self.tick();
        let word = if failure.code == Failure::MESSAGE { "invalid" } else { "unreadable" };
        self.fail(number, word, failure)
    }

    fn tick(&mut self) {
        self.told += 1;
        self.bar.inc(1);
    }

    fn confirm(&mut self, number: u64, word: &str, published: &Published) -> Result<(), Failure> {
        self.confirmed += 1;
        let id = &published.message_id;
        if self.json {
            let line =
                json!({"line": number, "outcome": word, "message_id": id, "attempts": published.attempts});
            self.show(&format!("{line}\n"))?;
        } else if self.single {
            self.show(&format!("confirmed {id}\n"))?;
        }
        Ok(())
    }

    fn refuse(&mut self, number: u64, error: &PublishError) -> Result<bool, Failure> {
        self.fail(number, verdict(error).0, failure(error))?;
        Ok(!is_for_all(error))
    }

    fn show_receipts(&mut self, number: u64, receipts: &[Receipt]) -> Result<(), Failure> {
        if receipts.is_empty() {
            return Ok(());
        }
        let text = if self.json {
            receipts
                .iter()
                .map(|receipt| format!("{}\n", json!({"line": number, "receipt": receipt})))
                .collect()
        } else if self.single {
            let mut table = Table::new(receipts::HEADS);
            receipts.iter().for_each(|receipt| table.row(receipts::cells(receipt)));
            table.to_string()
        } else {
            let heads = if std::mem::replace(&mut self.headed, true) {
                String::new()
            } else {
                receipts::line_heads()
            };
            receipts.iter().fold(heads, |text, receipt| text + &receipts::line_row(number, receipt))
        };
        self.show(&text)
    }

    fn fail(&mut self, number: u64, outcome: &str, failure: Failure) -> Result<(), Failure> {
        if self.json {
            let text = format!("{:#}", failure.error);
            self.show(&format!("{}\n", json!({"line": number, "outcome": outcome, "error": text})))?;
        }
        self.count(number, outcome, failure);
        Ok(())
    }

    fn count(&mut self, number: u64, outcome: &str, failure: Failure) {
        self.failed += 1;
        if !self.json && !self.single && self.failed <= SHOWN {
            self.bar.suspend(|| {
                let _ = writeln!(std::io::stderr(), "lobby: line {number}: {outcome}: {:#}", failure.error);
            });
        }
        self.first.get_or_insert(failure);
    }

    fn show(&self, text: &str) -> Result<(), Failure> {
        self.bar.suspend(|| print(text))
    }

    /// Says how many there were; the error is the first that failed.
    pub fn finish(self) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        if !self.single && !self.json {
            let written = self.written.map_or_else(String::new, |count| format!(", written {count}"));
            print(&format!("confirmed {} of {}{written}\n", self.confirmed, self.told))?;
        }
        match self.first {
            None => Ok(()),
            Some(first) if self.single => Err(first),
            Some(Failure { code, error }) => {
                let left = self.failed - 1;
                let more = if left > 0 { format!(" (and {left} more failed)") } else { String::new() };
                Err(Failure { code, error: anyhow!("{error:#}{more}") })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use notify_amqp::{ConsumerError, PublishStage};

    use super::*;

    #[test]
    fn n20_each_outcome_of_a_publish_has_its_own_exit_code() {
        let text = String::new;
        let after = Duration::from_secs(5);
        for (error, word, code) in [
            (PublishError::Unroutable { code: 312, text: text() }, "unroutable", 72),
            (PublishError::Nacked, "nacked", 74),
            (PublishError::TimedOut { after, stage: PublishStage::Blocked }, "timed_out", 75),
            (PublishError::ExchangeMissing { exchange: text(), text: text() }, "exchange_missing", 66),
            (PublishError::AccessRefused { exchange: text(), text: text() }, "access_refused", 77),
            (PublishError::Refused { code: 406, text: text() }, "refused", 70),
            (PublishError::NotFinite, "invalid", 64),
            (
                PublishError::Connection(ConsumerError::Unreachable { address: text(), reason: text() }),
                "no_connection",
                69,
            ),
        ] {
            assert_eq!(verdict(&error), (word, code), "{error}");
        }
    }

    #[test]
    fn the_first_failure_decides_and_the_others_are_counted() {
        let mut sent = Sent::new(false, false, ProgressBar::hidden());
        let unroutable = Err(PublishError::Unroutable { code: 312, text: "NO_ROUTE".to_owned() });
        assert!(matches!(sent.note(1, &unroutable), Ok(true)));
        assert!(matches!(sent.note(2, &Err(PublishError::Nacked)), Ok(true)));
        let missing = PublishError::ExchangeMissing { exchange: "x".to_owned(), text: String::new() };
        assert!(matches!(sent.note(3, &Err(missing)), Ok(false)));
        let failure = sent.finish().expect_err("three failures");
        assert_eq!(failure.code, 72);
        assert!(failure.error.to_string().ends_with("(and 2 more failed)"), "{}", failure.error);
    }
}
