//! Runs every delivery of `testdata/vectors.jsonl` through `decode` and compares with what must become of it.
//!
//! Two outcomes are decided elsewhere: `unrouted` by the broker's binding (the routing key), `not_connected` by the
//! registry. Here a user counts as connected if any vector expects a delivery to that user.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{collections::HashSet, io::Read as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::read::ZlibDecoder;
use notify_protocol::{Address, Body, HeaderValue, Limits, NOTIFY_ROUTING_KEY, decode};
use serde_json::Value;

const VECTORS: &str = include_str!("../testdata/vectors.jsonl");
const VECTOR_COUNT: usize = 277;

#[test]
fn every_vector_has_its_outcome() {
    let vectors: Vec<Value> = VECTORS.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(vectors.len(), VECTOR_COUNT);
    let connected: HashSet<i64> =
        vectors.iter().filter_map(|vector| vector["expect"]["target"].as_i64()).collect();
    assert!(connected.contains(&42) && !connected.contains(&999));
    let failures: Vec<String> = vectors
        .iter()
        .filter_map(|vector| check(vector, &connected).err().map(|why| format!("{}: {why}", vector["id"])))
        .collect();
    assert!(failures.is_empty(), "{} of {VECTOR_COUNT} fail:\n{}", failures.len(), failures.join("\n"));
}

/// Compares one vector with what happens to it: any outcome of `also_ok` passes, too.
fn check(vector: &Value, connected: &HashSet<i64>) -> Result<(), String> {
    let expect = &vector["expect"];
    let headers = headers(&vector["headers"]);
    let body = bytes(&vector["body"], &vector["body_enc"]);
    let (outcome, line) = happens(vector["routing_key"].as_str().unwrap(), &headers, &body, connected);

    let reason_counts = expect["strength"] != "info";
    let also_ok = expect["also_ok"].as_array().into_iter().flatten();
    let expected = outcome.matches(expect, reason_counts);
    if !expected && !also_ok.clone().any(|other| outcome.matches(other, !other["reason"].is_null())) {
        return Err(format!("is {outcome:?}, expected {expect}"));
    }
    match line {
        None => Ok(()),
        Some(line) if line.iter().any(|byte| matches!(byte, b'\n' | b'\r')) => {
            Err("line holds a line end".into())
        }
        Some(line) if line != one_line(&body) => {
            Err("line differs from the body in more than line ends".into())
        }
        Some(line) if compact(&line) != bytes(&expect["line"], &expect["line_enc"]) => {
            Err("line differs".into())
        }
        Some(_) => Ok(()),
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Unrouted,
    Unicast(i64),
    Broadcast,
    Dropped(&'static str),
}

impl Outcome {
    fn matches(&self, expect: &Value, reason_counts: bool) -> bool {
        match self {
            Self::Unrouted => expect["outcome"] == "unrouted",
            Self::Unicast(user) => expect["outcome"] == "unicast" && expect["target"] == *user,
            Self::Broadcast => expect["outcome"] == "broadcast",
            Self::Dropped(reason) => {
                expect["outcome"] == "dropped" && (!reason_counts || expect["reason"] == *reason)
            }
        }
    }
}

/// The outcome, and the client's line without its end if there is one.
fn happens(
    routing_key: &str,
    headers: &[(Vec<u8>, Header)],
    body: &[u8],
    connected: &HashSet<i64>,
) -> (Outcome, Option<Vec<u8>>) {
    // The broker also routes by every string of the header `CC`.
    let copied = headers.iter().any(|(name, value)| name == b"CC" && value.holds(NOTIFY_ROUTING_KEY));
    if routing_key != NOTIFY_ROUTING_KEY && !copied {
        return (Outcome::Unrouted, None);
    }
    let wire = headers.iter().map(|(name, value)| (name.as_slice(), value.borrowed()));
    match decode(wire, body, &Limits::default()) {
        Err(reason) => (Outcome::Dropped(reason.as_str()), None),
        Ok(decoded) => match decoded.address {
            Address::User(user) if !connected.contains(&user.get()) => {
                (Outcome::Dropped("not_connected"), None)
            }
            Address::User(user) => (Outcome::Unicast(user.get()), Some(line(&decoded.body))),
            Address::Channel(_) => (Outcome::Dropped("channel_reserved"), None),
            Address::Everyone => (Outcome::Broadcast, Some(line(&decoded.body))),
        },
    }
}

fn line(body: &Body<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    body.append_line_to(&mut line);
    assert_eq!(line.len(), body.len());
    line
}

/// A header value that owns its bytes; of an array only its strings are kept.
enum Header {
    Scalar(HeaderValue<'static>),
    LongString(Vec<u8>),
    Bytes(Vec<u8>),
    Array(Vec<String>),
}

impl Header {
    fn read(letter: &str, value: &Value) -> Self {
        let int = || value.as_i64().unwrap();
        let float = || value.as_f64().unwrap();
        Self::Scalar(match letter {
            "t" => HeaderValue::Bool(value.as_bool().unwrap()),
            "b" | "B" | "s" | "u" | "I" | "i" | "l" | "L" => HeaderValue::Int(int()),
            "f" => HeaderValue::Float(float() as f32),
            "d" => HeaderValue::Double(float()),
            "D" => HeaderValue::Decimal {
                scale: u8::try_from(value["scale"].as_u64().unwrap()).unwrap(),
                value: u32::try_from(value["value"].as_u64().unwrap()).unwrap(),
            },
            "T" => HeaderValue::Timestamp(value.as_u64().unwrap()),
            "V" => HeaderValue::Void,
            "F" => HeaderValue::Table,
            "A" => {
                let items = value.as_array().into_iter().flatten();
                let strings = items.filter(|item| item[0] == "S").filter_map(|item| item[1].as_str());
                return Self::Array(strings.map(str::to_owned).collect());
            }
            "S" => return Self::LongString(text(value)),
            "x" => return Self::Bytes(BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()),
            other => panic!("type {other:?} is not AMQP's"),
        })
    }

    fn borrowed(&self) -> HeaderValue<'_> {
        match self {
            Self::Scalar(value) => *value,
            Self::LongString(text) => HeaderValue::LongString(text),
            Self::Bytes(bytes) => HeaderValue::Bytes(bytes),
            Self::Array(_) => HeaderValue::Array,
        }
    }

    fn holds(&self, key: &str) -> bool {
        matches!(self, Self::Array(strings) if strings.iter().any(|string| string == key))
    }
}

fn headers(list: &Value) -> Vec<(Vec<u8>, Header)> {
    let read = |header: &Value| (text(&header[0]), Header::read(header[1].as_str().unwrap(), &header[2]));
    list.as_array().into_iter().flatten().map(read).collect()
}

/// A name or a long string: plain, `{"b64":…}` or `{"rep":[c,n],"tail":s}`.
fn text(value: &Value) -> Vec<u8> {
    if let Some(plain) = value.as_str() {
        plain.as_bytes().to_vec()
    } else if let Some(base64) = value["b64"].as_str() {
        BASE64_STANDARD.decode(base64).unwrap()
    } else {
        let count = usize::try_from(value["rep"][1].as_u64().unwrap()).unwrap();
        (value["rep"][0].as_str().unwrap().repeat(count) + value["tail"].as_str().unwrap()).into_bytes()
    }
}

fn bytes(encoded: &Value, encoding: &Value) -> Vec<u8> {
    let decoded = BASE64_STANDARD.decode(encoded.as_str().unwrap()).unwrap();
    match encoding.as_str() {
        Some("b64") => decoded,
        Some("zlib+b64") => {
            let mut inflated = Vec::new();
            ZlibDecoder::new(decoded.as_slice()).read_to_end(&mut inflated).unwrap();
            inflated
        }
        other => panic!("encoding {other:?} is not the vectors'"),
    }
}

/// What the line must be to the byte: the body without BOM and outer white space, line ends as spaces.
fn one_line(body: &[u8]) -> Vec<u8> {
    let text = str::from_utf8(body).unwrap();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_matches([' ', '\t', '\r', '\n']);
    text.replace(['\r', '\n'], " ").into_bytes()
}

/// The line without white space outside strings, which is how the vectors write it.
fn compact(json: &[u8]) -> Vec<u8> {
    let (mut in_string, mut escaped) = (false, false);
    let mut kept = json.to_vec();
    kept.retain(|&byte| {
        let keep = in_string || !matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        if byte == b'"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && byte == b'\\' && !escaped;
        keep
    });
    kept
}
