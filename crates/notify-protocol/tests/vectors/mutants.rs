//! Lobbies that are wrong on purpose, each in one step. Blanks around a user's digits and a refused BOM are not among
//! them: the vectors allow both, and only unit tests of this crate are stricter.

use notify_protocol::{HeaderValue, Limits, NOTIFY_ROUTING_KEY, decode};
use serde_json::Value;

use super::{Decoded, Headers, Lobby, REAL, To, real_decode, real_encode};

pub(super) const ALL: &[Lobby] = &[
    Lobby { name: "takes every routing key", is_bound: |_| true, ..REAL },
    Lobby {
        name: "takes every key below the right one",
        is_bound: |key| key.starts_with(NOTIFY_ROUTING_KEY),
        ..REAL
    },
    Lobby { name: "takes a boolean for a user", decode: boolean_is_a_user, ..REAL },
    Lobby { name: "cuts a float to a user", decode: float_is_a_user, ..REAL },
    Lobby { name: "refuses digits as text", decode: text_is_no_user, ..REAL },
    Lobby { name: "refuses a void user", decode: void_is_refused, ..REAL },
    Lobby { name: "broadcasts what addresses nobody", decode: invalid_user_is_everyone, ..REAL },
    Lobby { name: "reads header names in any case", decode: case_does_not_matter, ..REAL },
    Lobby { name: "takes the first of two headers", decode: first_header_counts, ..REAL },
    Lobby { name: "lets the channel win", decode: channel_wins, ..REAL },
    Lobby { name: "broadcasts to channels", decode: channel_is_everyone, ..REAL },
    Lobby { name: "takes any JSON", decode: any_json, ..REAL },
    Lobby { name: "takes NaN", decode: nan_is_a_number, ..REAL },
    Lobby { name: "repairs UTF-8", decode: utf8_is_repaired, ..REAL },
    Lobby { name: "nests 128 deep", decode: nesting_ends_at_128, ..REAL },
    Lobby { name: "ends at 64 KiB", decode: size_ends_at_64_kib, ..REAL },
    Lobby { name: "reads the body and writes it anew", encode: written_anew, ..REAL },
    Lobby { name: "writes ASCII only", encode: ascii_only, ..REAL },
    Lobby { name: "keeps raw line ends", encode: raw_line_ends, ..REAL },
    Lobby { name: "keeps carriage returns", encode: carriage_returns_stay, ..REAL },
    Lobby { name: "delivers twice", encode: twice, ..REAL },
    Lobby { name: "forgets the line's end", encode: without_end, ..REAL },
];

/// Changes the headers before the real decode.
fn with<'a>(
    headers: Headers<'a>,
    body: &[u8],
    change: impl Fn(&'a [u8], HeaderValue<'a>) -> (&'a [u8], HeaderValue<'a>),
) -> Decoded {
    real_decode(headers.into_iter().map(|(name, value)| change(name, value)).collect(), body)
}

fn boolean_is_a_user(headers: Headers<'_>, body: &[u8]) -> Decoded {
    with(headers, body, |name, value| match value {
        HeaderValue::Bool(value) => (name, HeaderValue::Int(value.into())),
        other => (name, other),
    })
}

fn float_is_a_user(headers: Headers<'_>, body: &[u8]) -> Decoded {
    with(headers, body, |name, value| match value {
        HeaderValue::Double(value) => (name, HeaderValue::Int(value as i64)),
        other => (name, other),
    })
}

fn text_is_no_user(headers: Headers<'_>, body: &[u8]) -> Decoded {
    with(headers, body, |name, value| match value {
        HeaderValue::LongString(_) if name == b"user-id" => (name, HeaderValue::Array),
        other => (name, other),
    })
}

fn void_is_refused(headers: Headers<'_>, body: &[u8]) -> Decoded {
    with(headers, body, |name, value| match value {
        HeaderValue::Void if name == b"user-id" => (name, HeaderValue::Array),
        other => (name, other),
    })
}

fn invalid_user_is_everyone(headers: Headers<'_>, body: &[u8]) -> Decoded {
    match real_decode(headers, body) {
        Err("invalid_user_id") => real_decode(Vec::new(), body),
        other => other,
    }
}

fn case_does_not_matter(headers: Headers<'_>, body: &[u8]) -> Decoded {
    with(headers, body, |name, value| {
        (if name.eq_ignore_ascii_case(b"user-id") { b"user-id" } else { name }, value)
    })
}

fn first_header_counts(mut headers: Headers<'_>, body: &[u8]) -> Decoded {
    headers.reverse();
    real_decode(headers, body)
}

fn channel_wins(headers: Headers<'_>, body: &[u8]) -> Decoded {
    let decoded = real_decode(headers.clone(), body)?;
    let channel = headers.iter().any(|(name, value)| *name == b"channel" && value.is_set());
    Ok(if channel { (To::Channel, decoded.1) } else { decoded })
}

fn channel_is_everyone(headers: Headers<'_>, body: &[u8]) -> Decoded {
    let (to, json) = real_decode(headers, body)?;
    Ok((if to == To::Channel { To::Everyone } else { to }, json))
}

fn any_json(headers: Headers<'_>, body: &[u8]) -> Decoded {
    match real_decode(headers.clone(), body) {
        Err("not_object") => real_decode(headers, b"{}"),
        other => other,
    }
}

fn nan_is_a_number(headers: Headers<'_>, body: &[u8]) -> Decoded {
    let text = String::from_utf8_lossy(body).replace("NaN", "0");
    real_decode(headers, text.as_bytes())
}

fn utf8_is_repaired(headers: Headers<'_>, body: &[u8]) -> Decoded {
    real_decode(headers, String::from_utf8_lossy(body).as_bytes())
}

/// As serde_json does unless told otherwise.
fn nesting_ends_at_128(headers: Headers<'_>, body: &[u8]) -> Decoded {
    let decoded = real_decode(headers, body)?;
    let read = serde_json::from_slice::<Value>(&decoded.1);
    if read.is_err_and(|error| error.to_string().contains("recursion")) {
        Err("non_json")
    } else {
        Ok(decoded)
    }
}

fn size_ends_at_64_kib(headers: Headers<'_>, body: &[u8]) -> Decoded {
    let limits = Limits { max_body_bytes: 64 << 10 };
    decode(headers.clone(), body, &limits).map_err(|reason| reason.as_str())?;
    real_decode(headers, body)
}

fn written_anew(json: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<Value>(json) {
        Ok(value) => format!("{value}\n").into_bytes(),
        Err(_) => real_encode(json),
    }
}

fn ascii_only(json: &[u8]) -> Vec<u8> {
    let line = String::from_utf8(real_encode(json)).unwrap();
    let escaped =
        line.chars().map(|c| if c.is_ascii() { c.to_string() } else { format!("\\u{:04x}", c as u32) });
    escaped.collect::<String>().into_bytes()
}

fn raw_line_ends(json: &[u8]) -> Vec<u8> {
    [json, b"\n"].concat()
}

fn carriage_returns_stay(json: &[u8]) -> Vec<u8> {
    let mut line: Vec<u8> = json.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }).collect();
    line.push(b'\n');
    line
}

fn twice(json: &[u8]) -> Vec<u8> {
    real_encode(json).repeat(2)
}

fn without_end(json: &[u8]) -> Vec<u8> {
    let mut line = real_encode(json);
    line.pop();
    line
}
