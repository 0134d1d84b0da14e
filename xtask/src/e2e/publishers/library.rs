//! What is known of each library: how it writes integers, and what it refuses.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::case::{Case, Expected};
use crate::amqp_wire::Got;

/// The ids that are addressed: one for each width that a library may choose, and one that is written as text too.
pub(super) const IDS: [i64; 7] = [5, 200, 40_000, 70_000, 3_000_000_000, 1 << 40, 42];
const TEXT: i64 = 42;

/// A Python program and what its library does with what it is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Library {
    /// The file in `xtask/python/publishers`.
    pub(super) program: &'static str,
    /// Type letters for [`IDS`].
    integers: &'static str,
    /// The type letter of a float, or the error it is refused with.
    float: Result<char, &'static str>,
    /// The error with which 2⁶³ is refused.
    too_large: &'static str,
    /// The error with which a body that is no object is refused, if it is.
    not_object: Option<&'static str>,
    speaks: Speaks,
}

/// What the library lets a service say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    /// Any headers and any body.
    Freely,
    /// No header, and the body inside an envelope, under `event`.
    Envelopes,
    /// Nothing: each attempt ends with this error.
    Never(&'static str),
}

pub(super) const PIKA: Library = Library {
    program: "with_pika.py",
    integers: "IIIIllI",
    float: Err("UnsupportedAMQPFieldException"),
    too_large: "error: int too large",
    not_object: None,
    speaks: Speaks::Freely,
};

pub(super) const AIO_PIKA: Library = Library {
    program: "with_aio_pika.py",
    integers: "bsuIilb",
    float: Ok('f'),
    too_large: "TypeError: user-id error",
    ..PIKA
};

pub(super) const KOMBU: Library =
    Library { program: "with_kombu.py", integers: "IIIILLI", float: Ok('d'), ..PIKA };

pub(super) const NAMEKO: Library = Library { program: "with_nameko.py", ..KOMBU };

pub(super) const FEDORA_MESSAGING: Library =
    Library { program: "with_fedora_messaging.py", not_object: Some("ValidationError"), ..PIKA };

pub(super) const NUROPB_EVENT: Library =
    Library { program: "with_nuropb_event.py", speaks: Speaks::Envelopes, ..PIKA };

pub(super) const NUROPB_CHANNEL: Library = Library { program: "with_nuropb_channel.py", ..PIKA };

pub(super) const NEON_SEND_MESSAGE: Library = Library {
    program: "with_neon_send_message.py",
    speaks: Speaks::Never("ChannelClosedByBroker: (406, \"PRECONDITION_FAILED - inequivalent arg 'durable'"),
    ..PIKA
};

pub(super) const NEON_CHANNEL: Library = Library { program: "with_neon_channel.py", ..PIKA };

impl Library {
    /// What the program is given; the last is a broadcast that holds `sentinel`.
    pub(super) fn cases(&self, sentinel: &str) -> Vec<Case> {
        let end =
            ("sentinel", format!(r#"{{"command": "sentinel", "id": "{sentinel}"}}"#), Expected::Everyone);
        let everyone = ("no header", notice("to everyone, Grüße 🎮"), Expected::Everyone);
        let envelope = ("a body that is no object", "[1, 2]".to_owned(), Expected::Everyone);
        let nan = (
            "NaN in the body",
            r#"{"command": "notice", "value": NaN}"#.to_owned(),
            Expected::Dropped("non_json"),
        );
        let without_header = match self.speaks {
            Speaks::Freely => vec![everyone, end],
            // Whatever the body was, the envelope is an object.
            Speaks::Envelopes => vec![everyone, envelope, nan, end],
            Speaks::Never(error) => vec![(everyone.0, everyone.1, Expected::Refused(error))],
        };
        let mut cases = if self.speaks == Speaks::Freely { self.with_header() } else { Vec::new() };
        cases.extend(without_header.into_iter().map(|(name, body, expected)| Case {
            name,
            user_id: None,
            body,
            expected,
            letter: None,
        }));
        cases
    }

    fn with_header(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        let mut add = |name, user_id: &str, body, expected, letter| {
            cases.push(Case {
                name,
                user_id: Some(user_id.to_owned()),
                body,
                expected,
                letter: Some(letter),
            });
        };
        for (id, letter) in IDS.into_iter().zip(self.integers.chars()) {
            add("an integer", &id.to_string(), notice(&format!("to {id}")), Expected::To(id), letter);
        }
        let invalid = Expected::Dropped("invalid_user_id");
        let integer = self.integers.chars().last().unwrap_or_default();
        add("digits as text", r#""42""#, notice("to 42 by text"), Expected::To(TEXT), 'S');
        add("text with a blank before", r#"" 42""#, notice("to nobody"), invalid, 'S');
        add("text with a blank inside", r#""4 2""#, notice("to nobody"), invalid, 'S');
        add("True", "true", notice("to nobody"), invalid, 't');
        // The accident that matters most: void counts as not set.
        add("None", "null", notice("to one, but the id was None"), Expected::Everyone, 'V');
        let (expected, letter) = match self.float {
            Ok(letter) => (invalid, letter),
            Err(error) => (Expected::Refused(error), ' '),
        };
        add("a float", "42.0", notice("to nobody"), expected, letter);
        let large = "9223372036854775808";
        add("an integer beyond 64 bits", large, notice("to nobody"), Expected::Refused(self.too_large), ' ');
        let expected = self.not_object.map_or(Expected::Dropped("not_object"), Expected::Refused);
        add("a body that is no object", "42", "[1, 2]".to_owned(), expected, integer);
        let nan = r#"{"command": "notice", "value": NaN}"#.to_owned();
        add("NaN in the body", "42", nan, Expected::Dropped("non_json"), integer);
        cases
    }

    /// Compares what the library was given with what it wrote; what it wrote for each id, in words.
    pub(super) fn compared(&self, sent: &[&Case], written: &[Got]) -> anyhow::Result<String> {
        let mut words = Vec::new();
        for (case, got) in sent.iter().zip(written) {
            let letter =
                got.headers.iter().find(|header| header.name == "user-id").map(|header| header.letter);
            let name = case.name;
            ensure!(
                letter == case.letter,
                "{name}: wanted type {:?} for user-id, got {letter:?}",
                case.letter
            );
            if let (Some(letter), Some(id)) = (letter, &case.user_id)
                && matches!(case.expected, Expected::To(_) | Expected::Everyone)
            {
                words.push(format!("{id}→{letter}"));
            }
            // `NaN` is no JSON: nothing to compare.
            let Ok(wanted) = serde_json::from_str::<Value>(&case.body) else { continue };
            let body: Value = serde_json::from_slice(&got.body).with_context(|| name)?;
            let inside = if self.speaks == Speaks::Envelopes { &body["event"] } else { &body };
            ensure!(*inside == wanted, "{name}: gave {wanted}, the library wrote {body}");
        }
        let refused = self.float.err().map_or("a float is dropped", |_| "a float is refused by the library");
        Ok(match self.speaks {
            Speaks::Freely => format!("{}; {refused}; None (V) reaches everyone", words.join(" ")),
            Speaks::Envelopes => "no user-id".to_owned(),
            Speaks::Never(_) => "nothing was published".to_owned(),
        })
    }
}

fn notice(text: &str) -> String {
    format!(r#"{{"command": "notice", "text": "{text}"}}"#)
}
