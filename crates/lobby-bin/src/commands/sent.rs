//! What became of messages that a command publishes: a line for each, and the exit code of the first that failed.

use std::io::Write as _;

use anyhow::anyhow;
use indicatif::ProgressBar;
use notify_amqp::{PublishError, Published};
use serde_json::json;

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
    confirmed: u64,
    failed: u64,
    first: Option<Failure>,
}

impl Sent {
    pub fn new(json: bool, single: bool, bar: ProgressBar) -> Self {
        Self { json, single, bar, confirmed: 0, failed: 0, first: None }
    }

    /// Notes the outcome of the message from line `number`; false when no further message needs to be tried.
    pub fn note(&mut self, number: u64, outcome: &Result<Published, PublishError>) -> Result<bool, Failure> {
        self.bar.inc(1);
        match outcome {
            Ok(published) => {
                self.confirmed += 1;
                let id = &published.message_id;
                if self.json {
                    let line = json!({"line": number, "outcome": "confirmed", "message_id": id, "attempts": published.attempts});
                    self.show(&format!("{line}\n"))?;
                } else if self.single {
                    self.show(&format!("confirmed {id}\n"))?;
                }
                Ok(true)
            }
            Err(error) => {
                self.fail(number, verdict(error).0, failure(error))?;
                Ok(!is_for_all(error))
            }
        }
    }

    /// Notes that line `number` is no message.
    pub fn invalid(&mut self, number: u64, error: anyhow::Error) -> Result<(), Failure> {
        self.bar.inc(1);
        self.fail(number, "invalid", super::invalid_message(error))
    }

    fn fail(&mut self, number: u64, outcome: &str, failure: Failure) -> Result<(), Failure> {
        self.failed += 1;
        let text = format!("{:#}", failure.error);
        if self.json {
            self.show(&format!("{}\n", json!({"line": number, "outcome": outcome, "error": text})))?;
        } else if !self.single && self.failed <= SHOWN {
            self.bar.suspend(|| {
                let _ = writeln!(std::io::stderr(), "lobby: line {number}: {outcome}: {text}");
            });
        }
        self.first.get_or_insert(failure);
        Ok(())
    }

    fn show(&self, text: &str) -> Result<(), Failure> {
        self.bar.suspend(|| print(text))
    }

    /// Says how many there were; the error is the first that failed.
    pub fn finish(self) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        if !self.single && !self.json {
            print(&format!("confirmed {} of {}\n", self.confirmed, self.confirmed + self.failed))?;
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
