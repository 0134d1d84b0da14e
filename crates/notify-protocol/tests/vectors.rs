//! Runs every delivery of `testdata/vectors.jsonl` through `decode` and compares with what must become of it; then
//! again through lobbies that are wrong on purpose, each of which must fail.
//!
//! Two outcomes are decided elsewhere: `unrouted` by the broker's binding (the routing key), `not_connected` by the
//! registry. Here a user counts as connected if any vector expects a delivery to that user.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "vectors/mutants.rs"]
mod mutants;

use std::{collections::HashSet, io::Read as _, sync::LazyLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::read::ZlibDecoder;
use notify_protocol::{Address, HeaderValue, Limits, NOTIFY_ROUTING_KEY, decode};
use serde_json::Value;

const VECTORS: &str = include_str!("../testdata/vectors.jsonl");
const VECTOR_COUNT: usize = 277;

/// The steps of a lobby that the vectors judge.
#[derive(Clone, Copy)]
struct Lobby {
    name: &'static str,
    /// Whether deliveries with this routing key arrive at all.
    is_bound: fn(&str) -> bool,
    /// Whom a delivery is for and the checked body, or why it is dropped.
    decode: fn(Headers<'_>, &[u8]) -> Decoded,
    /// What a client's TCP socket gets for a checked body.
    encode: fn(&[u8]) -> Vec<u8>,
}

type Decoded = Result<(To, Vec<u8>), &'static str>;
type Headers<'a> = Vec<(&'a [u8], HeaderValue<'a>)>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum To {
    User(i64),
    Channel,
    Everyone,
}

const REAL: Lobby = Lobby {
    name: "the lobby",
    is_bound: |key| key == NOTIFY_ROUTING_KEY,
    decode: real_decode,
    encode: real_encode,
};

fn real_decode(headers: Headers<'_>, body: &[u8]) -> Decoded {
    let decoded = decode(headers, body, &Limits::default()).map_err(|reason| reason.as_str())?;
    let to = match decoded.address {
        Address::User(user) => To::User(user.get()),
        Address::Channel(_) => To::Channel,
        Address::Everyone => To::Everyone,
    };
    Ok((to, decoded.body.json().to_vec()))
}

fn real_encode(json: &[u8]) -> Vec<u8> {
    let limits = Limits { max_body_bytes: usize::MAX };
    let mut line = Vec::new();
    notify_protocol::Body::check(json, &limits).unwrap().append_line_to(&mut line);
    assert_eq!(line.len(), json.len());
    line.push(b'\n');
    line
}

#[test]
fn every_vector_has_its_outcome() {
    let failures = failures(&REAL);
    assert!(failures.is_empty(), "{} of {VECTOR_COUNT} fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_lobby_that_is_wrong_on_purpose_fails_a_vector() {
    let passing: Vec<_> = mutants::ALL
        .iter()
        .filter(|mutant| {
            let failures = failures(mutant);
            println!("{}: fails {} of {VECTOR_COUNT}", mutant.name, failures.len());
            failures.is_empty()
        })
        .map(|mutant| mutant.name)
        .collect();
    assert!(passing.is_empty(), "no vector notices: {passing:?}");
}

fn failures(lobby: &Lobby) -> Vec<String> {
    CASES
        .iter()
        .filter_map(|case| check(lobby, case).err().map(|why| format!("{}: {why}", case.id)))
        .collect()
}

/// One vector, read.
struct Case {
    id: String,
    routing_key: String,
    headers: Vec<(Vec<u8>, Header)>,
    body: Vec<u8>,
    expect: Value,
    /// What the client must get to the byte, and the same without insignificant white space.
    line: Option<(Vec<u8>, Vec<u8>)>,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let cases: Vec<_> = VECTORS.lines().map(|line| Case::read(serde_json::from_str(line).unwrap())).collect();
    assert_eq!(cases.len(), VECTOR_COUNT);
    cases
});

/// Whoever gets a message in some vector.
static CONNECTED: LazyLock<HashSet<i64>> = LazyLock::new(|| {
    let connected: HashSet<_> = CASES.iter().filter_map(|case| case.expect["target"].as_i64()).collect();
    assert!(connected.contains(&42) && !connected.contains(&999));
    connected
});

impl Case {
    fn read(mut vector: Value) -> Self {
        let expect = vector["expect"].take();
        let body = bytes(&vector["body"], &vector["body_enc"]);
        let line = expect.get("line").map(|line| (one_line(&body), bytes(line, &expect["line_enc"])));
        Self {
            id: vector["id"].as_str().unwrap().to_owned(),
            routing_key: vector["routing_key"].as_str().unwrap().to_owned(),
            headers: headers(&vector["headers"]),
            body,
            expect,
            line,
        }
    }
}

/// Compares one vector with what happens to it: any outcome of `also_ok` passes, too.
fn check(lobby: &Lobby, case: &Case) -> Result<(), String> {
    let Case { expect, .. } = case;
    let (outcome, json) = happens(lobby, case);
    let reason_counts = expect["strength"] != "info";
    let also_ok = expect["also_ok"].as_array().into_iter().flatten();
    let expected = outcome.matches(expect, reason_counts);
    if !expected && !also_ok.clone().any(|other| outcome.matches(other, !other["reason"].is_null())) {
        return Err(format!("is {outcome:?}, expected {expect}"));
    }
    let Some(json) = json else { return Ok(()) };
    let (exact, compacted) = case.line.as_ref().ok_or("the vector has no line")?;
    let sent = (lobby.encode)(&json);
    let lines: Vec<_> = sent.split_inclusive(|&byte| byte == b'\n').collect();
    let [line] = lines.as_slice() else { return Err(format!("{} lines instead of one", lines.len())) };
    match line.strip_suffix(b"\n") {
        None => Err("the line has no end".into()),
        Some(line) if line != exact => Err("line differs from the body in more than line ends".into()),
        Some(line) if compact(line) != *compacted => Err("line differs".into()),
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

/// The outcome, and the checked body where somebody gets it.
fn happens(lobby: &Lobby, case: &Case) -> (Outcome, Option<Vec<u8>>) {
    // The broker also routes by every string of the header `CC`.
    let copied = case.headers.iter().any(|(name, value)| name == b"CC" && value.holds(NOTIFY_ROUTING_KEY));
    if !(lobby.is_bound)(&case.routing_key) && !copied {
        return (Outcome::Unrouted, None);
    }
    let wire = case.headers.iter().map(|(name, value)| (name.as_slice(), value.borrowed())).collect();
    match (lobby.decode)(wire, &case.body) {
        Err(reason) => (Outcome::Dropped(reason), None),
        Ok((To::User(user), _)) if !CONNECTED.contains(&user) => (Outcome::Dropped("not_connected"), None),
        Ok((To::User(user), json)) => (Outcome::Unicast(user), Some(json)),
        Ok((To::Channel, _)) => (Outcome::Dropped("channel_reserved"), None),
        Ok((To::Everyone, json)) => (Outcome::Broadcast, Some(json)),
    }
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
