//! Any headers and any body against the contract's rules (`docs/contract.md`, Addressing and Body).

use notify_protocol::{Address, DropReason, HeaderValue, Limits, UNDECODABLE_HEADERS_MARKER, UserId, decode};

use crate::{json, wire_table};

/// The largest body of this target's lobby, in bytes: small, so that the limit is met.
const LIMITS: Limits = Limits { max_body_bytes: 256 };

/// What must become of a message.
#[derive(Debug, PartialEq)]
pub enum Expected {
    /// It reaches this user.
    User(i64),
    /// It is for a channel.
    Channel,
    /// It reaches everyone.
    Everyone,
    /// It is dropped, with this label.
    Dropped(&'static str),
}

/// Reads a table's entries from the front of `data`; what is left is the body, `{}` when nothing is.
pub fn run(data: &[u8]) {
    let (headers, body) = wire_table::leading_entries(data);
    let body = if body.is_empty() { b"{}" } else { body };
    let decoded = decode(headers.iter().copied(), body, &LIMITS);
    let got = match &decoded {
        Ok(decoded) => outcome(decoded.address),
        Err(reason) => {
            let text = reason.to_string();
            assert!(text.len() < 512 && !text.contains(['\n', '\r']), "a log line of {} bytes", text.len());
            Expected::Dropped(reason.as_str())
        }
    };
    assert_eq!(got, expected(&headers, body), "{headers:?}");
    let any_set = headers.iter().any(|(name, _)| matches!(*name, b"user-id" | b"channel"));
    if got == Expected::Everyone && any_set {
        let last =
            |wanted: &[u8]| headers.iter().rev().find(|(name, _)| *name == wanted).map(|(_, value)| value);
        for name in [&b"user-id"[..], b"channel"] {
            assert!(last(name).is_none_or(|value| *value == HeaderValue::Void), "a broadcast by mistake");
        }
    }
}

/// The address in the model's words.
pub fn outcome(address: Address<'_>) -> Expected {
    match address {
        Address::User(user) => Expected::User(user.get()),
        Address::Channel(_) => Expected::Channel,
        Address::Everyone => Expected::Everyone,
    }
}

/// The contract's table, from the last line to the first.
pub fn expected(headers: &[wire_table::Entry<'_>], body: &[u8]) -> Expected {
    let stripped = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if body.len() > LIMITS.max_body_bytes {
        return Expected::Dropped("too_large");
    }
    match json::kind(stripped) {
        None => return Expected::Dropped("non_json"),
        Some(json::Kind::Object) => {}
        Some(json::Kind::Other) => return Expected::Dropped("not_object"),
    }
    address(headers)
}

/// The address alone.
pub fn address(headers: &[wire_table::Entry<'_>]) -> Expected {
    if headers.iter().any(|(name, _)| *name == UNDECODABLE_HEADERS_MARKER.as_bytes()) {
        return Expected::Dropped(DropReason::UndecodableHeaders.as_str());
    }
    let mut outcome = Expected::Everyone;
    let (mut user, mut channel) = (None, None);
    for (name, value) in headers {
        match *name {
            b"user-id" => user = Some(*value),
            b"channel" => channel = Some(*value),
            _ => {}
        }
    }
    if channel.is_some_and(|value| value != HeaderValue::Void) {
        outcome = Expected::Channel;
    }
    match user {
        None | Some(HeaderValue::Void) => outcome,
        Some(HeaderValue::Int(id)) => Expected::User(id),
        Some(HeaderValue::LongString(text)) => match digits(text) {
            Some(id) => Expected::User(id),
            None => Expected::Dropped("invalid_user_id"),
        },
        Some(_) => Expected::Dropped("invalid_user_id"),
    }
}

/// `[+-]?[0-9]+` within 64 bits, digit by digit.
fn digits(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value = 0_i128;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = (value * 10 + i128::from(digit - b'0')).min(1 << 100);
    }
    let id = i64::try_from(if negative { -value } else { value }).ok()?;
    // The lobby's own reader, for text, must say the same.
    assert_eq!(UserId::from_ascii(text), Some(UserId::new(id)));
    Some(id)
}
