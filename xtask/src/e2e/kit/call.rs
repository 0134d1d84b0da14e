//! One expression for a publisher, and what has to become of it.

use anyhow::{Context as _, ensure};
use notify_protocol::{Body, Limits, NOTIFY_ROUTING_KEY, limits::DEFAULT_MAX_BODY_BYTES};
use serde_json::Value;

use super::language::Language;
use super::mistakes;
use crate::e2e::vectors::Case;

/// How Java's compiler says that a value is not of the type.
const MISMATCHES: [&str; 2] = ["no suitable method found", "incompatible types"];

/// What has to become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// That user gets the body, if it is connected.
    User(i64),
    /// It is sent, and nobody gets it.
    Channel,
    Everyone,
    /// Nothing is sent, and the error says this.
    Refused(&'static str),
}

impl Wanted {
    pub(super) fn is_for(self, user: i64) -> bool {
        self == Self::Everyone || self == Self::User(user)
    }

    pub(super) fn user(self) -> Option<i64> {
        if let Self::User(user) = self { Some(user) } else { None }
    }
}

#[derive(Debug)]
pub(super) struct Call {
    /// The vector, or what the mistake is.
    pub(super) name: String,
    pub(super) expression: String,
    pub(super) wanted: Wanted,
    pub(super) is_mistake: bool,
    body: Vec<u8>,
}

impl Call {
    /// Whether the message was sent.
    ///
    /// # Errors
    /// It was and must not have been, or the reverse, or the error is not the one that helps.
    pub(super) fn judge(&self, answer: &str) -> anyhow::Result<bool> {
        let Wanted::Refused(why) = self.wanted else {
            ensure!(answer.starts_with("sent "), "{}: {answer}", self.name);
            return Ok(true);
        };
        let refused = answer.starts_with("InvalidNotification: ") || answer.starts_with("TypeError: ");
        // A compiler that refuses a vector's value does it in its own words; a mistake names them.
        let uncompiled = answer.starts_with("DoesNotCompile: ")
            && (answer.contains(why)
                || !self.is_mistake && MISMATCHES.iter().any(|words| answer.contains(words)));
        ensure!(
            refused && answer.contains(why) || uncompiled,
            "{}: wanted a refusal with `{why}`, got {answer}",
            self.name
        );
        Ok(false)
    }

    /// The line that clients get.
    pub(super) fn line(&self) -> anyhow::Result<Vec<u8>> {
        let limits = Limits::default();
        let body = Body::check(&self.body, &limits)?;
        let mut line = Vec::with_capacity(body.len());
        body.append_line_to(&mut line);
        Ok(line)
    }
}

/// Every mistake, and every vector that the language can say.
pub(super) fn all(language: &Language, vectors: &[Case]) -> anyhow::Result<Vec<Call>> {
    let mistakes = mistakes::of(language).map(|(name, expression, why)| Call {
        name: name.to_owned(),
        expression: expression.to_owned(),
        wanted: Wanted::Refused(why),
        is_mistake: true,
        body: Vec::new(),
    });
    let mut calls: Vec<_> = mistakes.collect();
    for vector in vectors {
        calls.extend(from_vector(language, vector).with_context(|| vector.id.clone())?);
    }
    Ok(calls)
}

/// None where a publisher has no words for the vector: another routing key, several headers or others than the two
/// that address, properties that it chooses itself.
fn from_vector(language: &Language, vector: &Case) -> anyhow::Result<Option<Call>> {
    let has_properties = vector.props.as_object().is_some_and(|props| !props.is_empty());
    if vector.routing_key != NOTIFY_ROUTING_KEY || has_properties {
        return Ok(None);
    }
    let body = vector.body()?;
    let raw = language.raw_json(&body);
    let headers = vector.headers.as_array().map(Vec::as_slice).unwrap_or_default();
    let (expression, wanted) = match headers {
        [] => (language.broadcast(&raw), Wanted::Everyone),
        [header] => match header_call(language, header, &raw) {
            Some(call) => call,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    // The address is looked at first.
    let wanted = if matches!(wanted, Wanted::Refused(_)) {
        wanted
    } else if body.len() > DEFAULT_MAX_BODY_BYTES {
        Wanted::Refused("body is")
    } else if matches!(vector.expect.reason.as_deref(), Some("non_json" | "not_object")) {
        Wanted::Refused("body")
    } else if nesting(&body) > language.nesting {
        Wanted::Refused("nest")
    } else if longest_number(&body) > language.number_length {
        Wanted::Refused("Number length")
    } else {
        wanted
    };
    let agreed = match wanted {
        Wanted::User(user) => match vector.expect.outcome.as_str() {
            "unicast" => vector.expect.target == Some(user),
            _ => vector.expect.reason.as_deref() == Some("not_connected"),
        },
        Wanted::Everyone => vector.expect.outcome == "broadcast",
        Wanted::Channel => vector.expect.reason.as_deref() == Some("channel_reserved"),
        Wanted::Refused(_) => true,
    };
    ensure!(agreed, "the vector wants {:?}, the publisher would make it {wanted:?}", vector.expect);
    Ok(Some(Call { name: vector.id.clone(), expression, wanted, is_mistake: false, body }))
}

/// A publisher takes integers for users and text for channels; whatever else the language has is refused.
fn header_call(language: &Language, header: &Value, raw: &str) -> Option<(String, Wanted)> {
    let (name, letter, value) = (header[0].as_str()?, header[1].as_str()?, &header[2]);
    let literal = language.literal(letter, value)?;
    match name {
        "user-id" if "bBsuIilL".contains(letter) => {
            Some((language.to_user(&literal, raw), Wanted::User(value.as_i64()?)))
        }
        "user-id" => Some((language.to_user(&literal, raw), Wanted::Refused("user id is"))),
        "channel" if letter == "S" && value.get("b64").is_none() => {
            Some((language.to_channel(&literal, raw), Wanted::Channel))
        }
        "channel" => Some((language.to_channel(&literal, raw), Wanted::Refused("channel is"))),
        _ => None,
    }
}

/// Characters of the longest number; what stands in strings does not count.
fn longest_number(json: &[u8]) -> usize {
    let (mut length, mut longest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E' if !in_string => {
                length += 1;
                longest = longest.max(length);
                continue;
            }
            _ => {}
        }
        length = 0;
    }
    longest
}

/// How deep containers stand in one another, at most; what stands in strings does not count.
fn nesting(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::super::language::{JAVA, PYTHON, TYPESCRIPT};
    use super::*;
    use crate::e2e::vectors;

    #[test]
    fn most_vectors_can_be_said_and_all_kinds_of_ends_are_among_them() {
        let vectors = vectors::cases().unwrap();
        for language in [&PYTHON, &TYPESCRIPT, &JAVA] {
            let calls = all(language, &vectors).unwrap();
            let count = |wanted: fn(&Call) -> bool| calls.iter().filter(|call| wanted(call)).count();
            assert!(count(|call| !call.is_mistake) > 150, "{} of {}", calls.len(), vectors.len());
            assert!(count(|call| matches!(call.wanted, Wanted::User(_))) > 20);
            assert!(count(|call| call.wanted == Wanted::Everyone) > 20);
            assert!(count(|call| call.wanted == Wanted::Channel) > 1);
            assert!(count(|call| !call.is_mistake && matches!(call.wanted, Wanted::Refused(_))) > 50);
        }
    }

    #[test]
    fn an_answer_counts_only_if_it_is_the_wanted_one() {
        let call = |wanted| {
            let (name, expression) = (String::new(), String::new());
            Call { name, expression, wanted, is_mistake: true, body: Vec::new() }
        };
        assert!(call(Wanted::Everyone).judge("sent 1").unwrap());
        assert!(call(Wanted::Everyone).judge("InvalidNotification: body").is_err());
        assert!(!call(Wanted::Refused("user id")).judge("InvalidNotification: user id is None").unwrap());
        assert!(call(Wanted::Refused("user id")).judge("InvalidNotification: body").is_err());
        assert!(call(Wanted::Refused("user id")).judge("sent 1").is_err());
        assert!(call(Wanted::Refused("user id")).judge("Unroutable: user id").is_err());
        assert!(!call(Wanted::Refused("no suitable")).judge("DoesNotCompile: no suitable method").unwrap());
        assert!(call(Wanted::Refused("user id")).judge("DoesNotCompile: no suitable method found").is_err());
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        assert_eq!(nesting(br#"{"a":[[{}],"[[[[\"[["]}"#), 4);
    }

    #[test]
    fn digits_in_strings_are_no_number() {
        assert_eq!(longest_number(br#"{"12345678":[1,-2.5e9],"a":"1234567\"8"}"#), 6);
    }
}
