//! The vectors, read. Other crates' tests include this file by its path.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(dead_code, missing_docs, reason = "each test program uses its part")]

use std::{collections::HashSet, io::Read as _, sync::LazyLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::read::ZlibDecoder;
use notify_protocol::{HeaderValue, NOTIFY_ROUTING_KEY};
use serde_json::Value;

const VECTORS: &str = include_str!("../../testdata/vectors.jsonl");
pub const VECTOR_COUNT: usize = 277;

/// One vector, read.
pub struct Case {
    pub id: String,
    pub routing_key: String,
    headers: Vec<(Vec<u8>, Header)>,
    pub body: Vec<u8>,
    pub expect: Value,
    /// What the client must get to the byte, and the same without insignificant white space.
    pub line: Option<(Vec<u8>, Vec<u8>)>,
}

pub static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let cases: Vec<_> = VECTORS.lines().map(|line| Case::read(serde_json::from_str(line).unwrap())).collect();
    assert_eq!(cases.len(), VECTOR_COUNT);
    cases
});

/// Whoever gets a message in some vector.
pub static CONNECTED: LazyLock<HashSet<i64>> = LazyLock::new(|| {
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

    /// The headers as the contract sees them.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], HeaderValue<'_>)> {
        self.headers.iter().map(|(name, value)| (name.as_slice(), value.borrowed()))
    }

    /// Whether the broker routes it to lobbies by the header `CC`, whatever the routing key.
    pub fn is_copied(&self) -> bool {
        self.headers.iter().any(|(name, value)| name == b"CC" && value.holds(NOTIFY_ROUTING_KEY))
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
pub fn compact(json: &[u8]) -> Vec<u8> {
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
