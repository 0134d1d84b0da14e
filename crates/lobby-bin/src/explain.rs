//! One message taken through the lobby without a broker and without clients: each step, and the bytes that come out. Pure.
//!
//! The steps are the lobby's own: [`explain`] decodes as dispatch does, and the bytes are a [`Frame`]'s.

use std::time::Instant;

use lobby_sessions::{Frame, FrameKind};
use notify_amqp::{Field, NamedField, RawMessage};
use notify_protocol::{Address, DropReason, Explanation, HeaderRole, Limits, explain};
use serde_json::{Value, json};

use crate::recording::field;

/// What a lobby is configured to.
#[derive(Debug, Clone)]
pub struct Setting {
    pub limits: Limits,
    pub frame: FrameKind,
    /// The keys that bind its queue, wildcards included.
    pub routing_keys: Vec<String>,
}

/// What becomes of one message.
#[derive(Debug)]
pub struct Explained<'a> {
    message: &'a RawMessage,
    /// The routing key, or the entry of a `CC` header, by which the broker brings it to a lobby.
    arrives_by: Option<&'a str>,
    explanation: Explanation<'a>,
    /// What clients get, where somebody gets it.
    frame: Option<Frame>,
}

/// Where a message ends, in the words of the metrics and of `vectors.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<'a> {
    Unrouted,
    Unicast(i64),
    Broadcast,
    ChannelReserved,
    Dropped(&'a DropReason),
}

impl Outcome<'_> {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unrouted => "unrouted",
            Self::Unicast(_) => "unicast",
            Self::Broadcast => "broadcast",
            Self::ChannelReserved => "channel_reserved",
            Self::Dropped(_) => "dropped",
        }
    }
}

impl<'a> Explained<'a> {
    /// Takes `message` through a lobby with this `setting`.
    pub fn new(message: &'a RawMessage, setting: &Setting) -> Self {
        let headers = message.properties.headers.iter().flatten();
        let headers = headers.map(|(name, field)| (name.as_slice(), field.header()));
        let explanation = explain(headers, &message.body, &setting.limits);
        let arrives_by =
            keys(message).find(|key| setting.routing_keys.iter().any(|pattern| matches(pattern, key)));
        let frame = explanation
            .outcome
            .as_ref()
            .ok()
            .filter(|decoded| arrives_by.is_some() && !matches!(decoded.address, Address::Channel(_)));
        let frame = frame.map(|decoded| {
            Frame::notification(&decoded.body, setting.frame, Instant::now(), &Default::default(), None)
        });
        Self { message, arrives_by, explanation, frame }
    }

    pub fn outcome(&self) -> Outcome<'_> {
        match &self.explanation.outcome {
            _ if self.arrives_by.is_none() => Outcome::Unrouted,
            Err(reason) => Outcome::Dropped(reason),
            Ok(decoded) => match decoded.address {
                Address::User(user) => Outcome::Unicast(user.get()),
                Address::Everyone => Outcome::Broadcast,
                Address::Channel(_) => Outcome::ChannelReserved,
            },
        }
    }

    /// The outcome in one sentence.
    pub fn conclusion(&self) -> String {
        match self.outcome() {
            Outcome::Unrouted => "no lobby gets it: its routing key does not bind the queue".to_owned(),
            Outcome::Unicast(user) => format!("every session of user {user} gets it; acked"),
            Outcome::Broadcast => "every logged-in session gets it; acked".to_owned(),
            Outcome::ChannelReserved => "nobody gets it: channels are reserved; acked".to_owned(),
            Outcome::Dropped(reason) => format!("nobody gets it ({}): {reason}; acked", reason.as_str()),
        }
    }

    /// What a TCP and what a WebSocket client gets, where somebody gets it.
    pub fn bytes(&self) -> Option<(&[u8], &[u8])> {
        self.frame.as_ref().map(|frame| (frame.line(), frame.websocket()))
    }

    /// All of it as JSON.
    pub fn to_json(&self) -> Value {
        let (reason, detail) = match self.outcome() {
            Outcome::Dropped(reason) => (Some(reason.as_str()), Some(reason.to_string())),
            _ => (None, None),
        };
        let headers = self.headers().map(|(name, given, role)| {
            json!({
                "name": field::shown_text(name),
                "type": given.letter().to_string(),
                "value": field::shown(given),
                "role": role_name(role),
                "meaning": meaning(name, role),
            })
        });
        let body = self.explanation.body.as_ref().ok().map(|body| {
            json!({
                "bom_stripped": body.bom_stripped,
                "blanks_stripped": body.blanks_stripped,
                "line_ends_replaced": body.line_ends,
            })
        });
        let base64 = |bytes| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
        json!({
            "routing_key": self.message.routing_key,
            "arrives_by": self.arrives_by,
            "headers": headers.collect::<Vec<_>>(),
            "address": self.explanation.address.as_ref().ok().map(ToString::to_string),
            "body_bytes": self.message.body.len(),
            "body": body,
            "outcome": self.outcome().as_str(),
            "user": match self.outcome() { Outcome::Unicast(user) => Some(user), _ => None },
            "reason": reason,
            "detail": detail,
            "tcp": self.bytes().map(|(line, _)| json!({"bytes": line.len(), "base64": base64(line)})),
            "websocket": self.bytes().map(|(line, frame)| json!({
                "bytes": frame.len(),
                "header_hex": hex(&frame[..frame.len() - line.len()]),
                "base64": base64(frame),
            })),
        })
    }

    /// All of it for a person.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut step = |name: &str, what: String| text.push_str(&format!("{name:<12}{what}\n"));
        step(
            "routing key",
            match self.arrives_by {
                Some(key) if key == self.message.routing_key => format!("{key}: binds the lobby's queue"),
                Some(key) => format!(
                    "{}: does not bind the lobby's queue, but the header CC has {key}",
                    self.message.routing_key
                ),
                None => format!("{}: does not bind the lobby's queue", self.message.routing_key),
            },
        );
        if self.headers().next().is_none() {
            step("headers", "none".to_owned());
        }
        for (name, given, role) in self.headers() {
            step(
                "header",
                format!(
                    "{} ({}) {}: {}",
                    printable(name),
                    given.letter(),
                    given.header(),
                    meaning(name, role)
                ),
            );
        }
        step(
            "address",
            match &self.explanation.address {
                Ok(address) => address.to_string(),
                Err(reason) => reason.to_string(),
            },
        );
        let size = format!("{} bytes", self.message.body.len());
        step(
            "body",
            match &self.explanation.body {
                Err(reason) => format!("{size}: {reason}"),
                Ok(body) => {
                    let mut what = format!("{size}: one JSON object in UTF-8");
                    if body.bom_stripped {
                        what.push_str("; byte order mark stripped");
                    }
                    for (count, done) in [
                        (body.blanks_stripped, "blanks around it stripped"),
                        (body.line_ends, "line ends became spaces"),
                    ] {
                        if count > 0 {
                            what.push_str(&format!("; {count} {done}"));
                        }
                    }
                    what
                }
            },
        );
        step("outcome", format!("{}: {}", self.outcome().as_str(), self.conclusion()));
        if let Some((line, frame)) = self.bytes() {
            let json = printable(line.strip_suffix(b"\n").unwrap_or(line));
            step("TCP", format!("{} bytes: {json} + 0a", line.len()));
            let header = hex(&frame[..frame.len() - line.len()]);
            step("WebSocket", format!("{} bytes: {header} + the same {}", frame.len(), line.len()));
        }
        text
    }

    fn headers(&self) -> impl Iterator<Item = (&[u8], &Field, HeaderRole)> {
        let given = self.message.properties.headers.iter().flatten();
        given
            .zip(&self.explanation.headers)
            .map(|((name, field), header)| (name.as_slice(), field, header.role))
    }
}

/// The keys by which the broker routes a message: its own, and those in the headers `CC` and `BCC`.
fn keys(message: &RawMessage) -> impl Iterator<Item = &str> {
    let copies =
        message.properties.headers.iter().flatten().filter(|(name, _)| name == b"CC" || name == b"BCC");
    let lists = copies.filter_map(|(_, field): &NamedField| match field {
        Field::Array(items) => Some(items),
        _ => None,
    });
    let texts = lists.flatten().filter_map(|item| match item {
        Field::LongString(text) => str::from_utf8(text).ok(),
        _ => None,
    });
    std::iter::once(message.routing_key.as_str()).chain(texts)
}

/// Whether a topic exchange routes `key` by the binding `pattern`: `*` is one word, `#` any number of words.
fn matches(pattern: &str, key: &str) -> bool {
    fn words(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            (["#", rest @ ..], _) => (0..=key.len()).any(|skipped| words(rest, &key[skipped..])),
            (["*", rest @ ..], [_, others @ ..]) => words(rest, others),
            ([word, rest @ ..], [other, others @ ..]) => word == other && words(rest, others),
            _ => false,
        }
    }
    let split = |text| str::split(text, '.').collect::<Vec<_>>();
    words(&split(pattern), &split(key))
}

fn role_name(role: HeaderRole) -> &'static str {
    match role {
        HeaderRole::Addresses => "addresses",
        HeaderRole::NotSet => "not_set",
        HeaderRole::Repeated => "repeated",
        HeaderRole::Outranked => "outranked",
        HeaderRole::Undecodable => "undecodable",
        HeaderRole::Resembles(_) => "resembles",
        _ => "ignored",
    }
}

fn meaning(name: &[u8], role: HeaderRole) -> String {
    match role {
        HeaderRole::Addresses => "decides whom it is for".to_owned(),
        HeaderRole::NotSet => "void, which counts as not set".to_owned(),
        HeaderRole::Repeated => "ignored: it stands again later, and the last one counts".to_owned(),
        HeaderRole::Outranked => "ignored: `user-id` is set, which wins".to_owned(),
        HeaderRole::Undecodable => "the header table could not be read".to_owned(),
        HeaderRole::Resembles(known) => {
            format!("ignored: names are exact, and `{}` is not `{known}`", printable(name))
        }
        _ => "ignored: lobbies do not know it".to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// Text as it is, control characters and what is not UTF-8 escaped.
fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
        }
        out.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    out
}

#[cfg(test)]
mod tests {
    use notify_amqp::RawProperties;
    use notify_protocol::NOTIFY_ROUTING_KEY;

    use super::*;
    use crate::recording::Recorded;

    fn setting() -> Setting {
        Setting {
            limits: Limits::default(),
            frame: FrameKind::Text,
            routing_keys: vec![NOTIFY_ROUTING_KEY.to_owned()],
        }
    }

    fn message(headers: &[(&str, Field)], body: &str) -> RawMessage {
        let headers = headers.iter().map(|(name, field)| (name.as_bytes().to_vec(), field.clone())).collect();
        RawMessage {
            routing_key: NOTIFY_ROUTING_KEY.to_owned(),
            properties: RawProperties { headers: Some(headers), ..RawProperties::default() },
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn every_step_is_told_with_the_bytes_that_clients_get() {
        let message = message(&[("user-id", Field::I32(42)), ("User-Id", Field::Void)], " {\"a\":\n1}\n");
        let text = Explained::new(&message, &setting()).to_text();
        assert_eq!(
            text,
            "routing key request.client.notify: binds the lobby's queue\n\
             header      user-id (I) integer 42: decides whom it is for\n\
             header      User-Id (V) void: ignored: names are exact, and `User-Id` is not `user-id`\n\
             address     user 42\n\
             body        10 bytes: one JSON object in UTF-8; 2 blanks around it stripped; 1 line ends became spaces\n\
             outcome     unicast: every session of user 42 gets it; acked\n\
             TCP         9 bytes: {\"a\": 1} + 0a\n\
             WebSocket   11 bytes: 81 09 + the same 9\n"
        );
        let json = Explained::new(&message, &setting()).to_json();
        assert_eq!(
            (&json["outcome"], &json["user"], &json["headers"][1]["role"]),
            (&json!("unicast"), &json!(42), &json!("resembles"))
        );
        assert_eq!(
            (&json["tcp"]["base64"], &json["websocket"]["header_hex"]),
            (&json!("eyJhIjogMX0K"), &json!("81 09"))
        );
    }

    #[test]
    fn what_nobody_gets_has_a_reason_and_no_bytes() {
        for (headers, body, outcome, words) in [
            (&[("user-id", Field::Bool(true))][..], "{}", "dropped", "boolean true"),
            (&[], "[]", "dropped", "expected an object"),
            (&[("channel", Field::Void)], "{}", "broadcast", "counts as not set"),
            (&[("channel", Field::LongString(b"m".to_vec()))], "{}", "channel_reserved", "reserved"),
        ] {
            let message = message(headers, body);
            let explained = Explained::new(&message, &setting());
            assert_eq!(explained.outcome().as_str(), outcome);
            assert_eq!(explained.bytes().is_some(), outcome == "broadcast");
            assert!(explained.to_text().contains(words), "{}", explained.to_text());
        }
    }

    #[test]
    fn keys_bind_as_a_topic_exchange_routes() {
        for (pattern, key, bound) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.#", "a", true),
            ("#.c", "a.b.c", true),
            ("#", "", true),
            ("a.#.c", "a.c", true),
        ] {
            assert_eq!(matches(pattern, key), bound, "{pattern} {key}");
        }
    }

    /// A vector as a recorded line: its short forms are written out, and what is inside of a nest does not matter.
    fn written_out(vector: &mut Value) {
        if let Value::Array(items) = vector {
            items.iter_mut().for_each(written_out);
        } else if let Some(rep) = vector.get("rep") {
            let count = usize::try_from(rep[1].as_u64().expect("a count")).expect("small");
            let text =
                rep[0].as_str().expect("text").repeat(count) + vector["tail"].as_str().unwrap_or_default();
            *vector = json!(text);
        } else if vector.get("nest").is_some() {
            *vector = json!([]);
        }
    }

    fn recorded(mut vector: Value) -> Recorded {
        written_out(&mut vector["headers"]);
        if vector["body_enc"] == "zlib+b64" {
            let packed = base64::Engine::decode(
                &base64::prelude::BASE64_STANDARD,
                vector["body"].as_str().expect("text"),
            );
            let mut body = Vec::new();
            let packed = packed.expect("base64");
            std::io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(&packed[..]), &mut body)
                .expect("zlib");
            vector["body"] = json!(base64::Engine::encode(&base64::prelude::BASE64_STANDARD, body));
            vector["body_enc"] = json!("b64");
        }
        Recorded::read(&vector.to_string()).expect("a recorded message")
    }

    #[test]
    fn every_vector_is_explained_with_its_outcome_and_its_line() {
        let vectors = include_str!("../../notify-protocol/testdata/vectors.jsonl");
        let mut seen = 0;
        for line in vectors.lines() {
            let vector: Value = serde_json::from_str(line).expect("JSON");
            let (id, expect) = (vector["id"].to_string(), vector["expect"].clone());
            let recorded = recorded(vector);
            let explained = Explained::new(&recorded.message, &setting());
            let also = expect["also_ok"].as_array().into_iter().flatten();
            let fits = |expect: &Value| {
                let reason = expect["reason"].as_str();
                match explained.outcome() {
                    Outcome::Unrouted => expect["outcome"] == "unrouted",
                    Outcome::Unicast(user) => {
                        (expect["outcome"] == "unicast" && expect["target"] == user)
                            || reason == Some("not_connected")
                    }
                    Outcome::Broadcast => expect["outcome"] == "broadcast",
                    Outcome::ChannelReserved => reason == Some("channel_reserved"),
                    Outcome::Dropped(because) => {
                        expect["outcome"] == "dropped"
                            && (reason == Some(because.as_str())
                                || expect["strength"] == "info"
                                || reason.is_none())
                    }
                }
            };
            assert!(
                std::iter::once(&expect).chain(also).any(fits),
                "{id}: {:?}, expected {expect}",
                explained.outcome()
            );
            if let Some((line, frame)) = explained.bytes() {
                assert!(line.ends_with(b"\n") && frame.ends_with(line), "{id}");
                assert_eq!(line.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count(), 1, "{id}");
            }
            seen += 1;
        }
        assert_eq!(seen, 277);
    }
}
