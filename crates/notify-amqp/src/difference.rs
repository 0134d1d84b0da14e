//! What the broker says about a declaration that does not fit what is there (406), in parts.

use std::fmt;

/// One property or argument of a queue or exchange that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// Its name: `durable`, `type`, `x-expires` …
    pub argument: String,
    /// The value that was asked for; `None` where nothing was.
    pub asked: Option<String>,
    /// The value that is there.
    pub present: Option<String>,
}

impl Difference {
    /// Takes the broker's sentence apart; RabbitMQ 3.10 to 4.1 write the same one:
    /// `inequivalent arg 'A' for queue 'Q' in vhost 'V': received VALUE but current is VALUE`, where a value is
    /// `'true'`, `the value '1000' of type 'signedint'` or `none`. `None` for any other sentence.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("inequivalent arg '")?;
        let (argument, rest) = rest.split_once('\'')?;
        // Names of queues may hold anything; what follows is the broker's own.
        let (_, values) = rest.rsplit_once(": received ")?;
        let (asked, present) = values.split_once(" but current is ")?;
        Some(Self { argument: argument.into(), asked: value(asked), present: value(present) })
    }
}

fn value(text: &str) -> Option<String> {
    let (_, quoted) = text.split_once('\'')?;
    let end = quoted.find("' of type ").or_else(|| quoted.rfind('\''))?;
    Some(quoted[..end].into())
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".into());
        write!(f, "{} is {}, asked for was {}", self.argument, shown(&self.present), shown(&self.asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_sentence_is_taken_apart() {
        let begin = "PRECONDITION_FAILED - inequivalent arg";
        for (sentence, expected) in [
            (
                "'x-expires' for queue 'q' in vhost '/': received the value '600000' of type 'signedint' but current is none",
                "x-expires is not set, asked for was 600000",
            ),
            (
                "'x-expires' for queue 'q' in vhost '/': received none but current is the value '60000' of type 'long'",
                "x-expires is 60000, asked for was not set",
            ),
            (
                "'x-overflow' for queue 'a: received x' in vhost '/': received the value 'drop-head' of type 'longstr' but current is the value 'reject-publish' of type 'longstr'",
                "x-overflow is reject-publish, asked for was drop-head",
            ),
            (
                "'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'",
                "durable is false, asked for was true",
            ),
            (
                "'type' for exchange 'e' in vhost '/': received 'topic' but current is 'fanout'",
                "type is fanout, asked for was topic",
            ),
        ] {
            let parsed = Difference::parse(&format!("{begin} {sentence}")).map(|parsed| parsed.to_string());
            assert_eq!(parsed.as_deref(), Some(expected), "{sentence}");
        }
        assert_eq!(Difference::parse("PRECONDITION_FAILED - unknown delivery tag 7"), None);
    }
}
