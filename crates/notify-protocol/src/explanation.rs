//! Why a delivery goes where it goes: the parts of [`decode()`](crate::decode()), with what each header contributed.
//!
//! For people, not for lobbies: it allocates, and looks at the body twice. The outcome is the one that `decode` gives.

use crate::{
    Address, Body, CHANNEL_HEADER, Decoded, DropReason, HeaderValue, Limits, UNDECODABLE_HEADERS_MARKER,
    USER_ID_HEADER, address, contract::resembles, decode,
};

/// One delivery, step by step; [`explain`] makes it.
///
/// ```
/// use notify_protocol::{HeaderRole, HeaderValue, Limits, explain};
///
/// let headers = [(&b"User-Id"[..], HeaderValue::Int(42))];
/// let explanation = explain(headers, b"{\"command\":\"notice\"}", &Limits::default());
/// // A misspelled header addresses nobody, so everyone gets the message.
/// assert_eq!(explanation.headers[0].role, HeaderRole::Resembles("user-id"));
/// assert_eq!(explanation.outcome?.address, notify_protocol::Address::Everyone);
/// # Ok::<(), notify_protocol::DropReason>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Explanation<'a> {
    /// Each header, in the order given.
    pub headers: Vec<ExplainedHeader<'a>>,
    /// Whom the headers alone address.
    pub address: Result<Address<'a>, DropReason>,
    /// What the body alone comes to.
    pub body: Result<ExplainedBody<'a>, DropReason>,
    /// What [`decode()`](crate::decode()) says about both together.
    pub outcome: Result<Decoded<'a>, DropReason>,
}

/// One header and its part in the decision.
///
/// ```
/// use notify_protocol::{HeaderRole, HeaderValue, Limits, explain};
///
/// let headers = [(&b"user-id"[..], HeaderValue::Int(1)), (&b"user-id"[..], HeaderValue::Int(2))];
/// let explanation = explain(headers, b"{}", &Limits::default());
/// let roles: Vec<_> = explanation.headers.iter().map(|header| header.role).collect();
/// assert_eq!(roles, [HeaderRole::Repeated, HeaderRole::Addresses]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ExplainedHeader<'a> {
    /// The name, byte for byte.
    pub name: &'a [u8],
    /// The value.
    pub value: HeaderValue<'a>,
    /// Its part.
    pub role: HeaderRole,
}

/// What a header contributes (contract: *Addressing*).
///
/// ```
/// use notify_protocol::{HeaderRole, HeaderValue, Limits, explain};
///
/// let void = [(&b"user-id"[..], HeaderValue::Void)];
/// assert_eq!(explain(void, b"{}", &Limits::default()).headers[0].role, HeaderRole::NotSet);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderRole {
    /// It decides whom the message is for, or that its value addresses nobody.
    Addresses,
    /// It would address, but its value is void.
    NotSet,
    /// It stands again later, and the last one counts.
    Repeated,
    /// A `channel` beside a `user-id`, which wins.
    Outranked,
    /// It stands for a table that could not be read.
    Undecodable,
    /// Unknown and ignored, though its name resembles this one: probably a mistake.
    Resembles(&'static str),
    /// Unknown and ignored.
    Ignored,
}

/// A body that is accepted, and what is changed for the client.
///
/// ```
/// let explanation = notify_protocol::explain([], b" {\"a\":\n1}\n", &notify_protocol::Limits::default());
/// let body = explanation.body?;
/// assert_eq!((body.json.json(), body.blanks_stripped, body.line_ends), (&b"{\"a\":\n1}"[..], 2, 1));
/// # Ok::<(), notify_protocol::DropReason>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExplainedBody<'a> {
    /// The object.
    pub json: Body<'a>,
    /// Whether a byte order mark before it is stripped.
    pub bom_stripped: bool,
    /// Bytes of white space around it that are stripped.
    pub blanks_stripped: usize,
    /// Raw line ends between its tokens, each of which becomes a space.
    pub line_ends: usize,
}

/// Explains what [`decode()`](crate::decode()) does with a delivery.
///
/// ```
/// let explanation = notify_protocol::explain([], b"[]", &notify_protocol::Limits::default());
/// assert_eq!(explanation.outcome.unwrap_err().as_str(), "not_object");
/// ```
#[must_use]
pub fn explain<'a>(
    headers: impl IntoIterator<Item = (&'a [u8], HeaderValue<'a>)>,
    body: &'a [u8],
    limits: &Limits,
) -> Explanation<'a> {
    let headers: Vec<_> = headers.into_iter().collect();
    Explanation {
        headers: (0..headers.len()).map(|at| explained(&headers, at)).collect(),
        address: address(headers.iter().copied()),
        body: Body::check(body, limits).map(|json| explained_body(body, json)),
        outcome: decode(headers.iter().copied(), body, limits),
    }
}

fn explained<'a>(headers: &[(&'a [u8], HeaderValue<'a>)], at: usize) -> ExplainedHeader<'a> {
    let (name, value) = headers[at];
    let is = |known: &str| name == known.as_bytes();
    let role = if is(USER_ID_HEADER) || is(CHANNEL_HEADER) {
        let outranked = || is(CHANNEL_HEADER) && last(headers, USER_ID_HEADER).is_set();
        match value {
            _ if headers[at + 1..].iter().any(|(later, _)| *later == name) => HeaderRole::Repeated,
            value if !value.is_set() => HeaderRole::NotSet,
            _ if outranked() => HeaderRole::Outranked,
            _ => HeaderRole::Addresses,
        }
    } else if is(UNDECODABLE_HEADERS_MARKER) {
        HeaderRole::Undecodable
    } else {
        let meant = [USER_ID_HEADER, CHANNEL_HEADER].into_iter().find(|known| resembles(name, known));
        meant.map_or(HeaderRole::Ignored, HeaderRole::Resembles)
    };
    ExplainedHeader { name, value, role }
}

/// The value that counts of a header: the last one's.
fn last<'a>(headers: &[(&'a [u8], HeaderValue<'a>)], name: &str) -> HeaderValue<'a> {
    let found = headers.iter().rfind(|(other, _)| *other == name.as_bytes());
    found.map_or(HeaderValue::Void, |(_, value)| *value)
}

fn explained_body<'a>(bytes: &[u8], json: Body<'a>) -> ExplainedBody<'a> {
    let bom = if bytes.starts_with(crate::body::BOM) { crate::body::BOM.len() } else { 0 };
    ExplainedBody {
        json,
        bom_stripped: bom > 0,
        blanks_stripped: bytes.len() - bom - json.len(),
        line_ends: json.json().iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HeaderValue::{Int, LongString, Void};

    fn roles(headers: &[(&'static str, HeaderValue<'static>)]) -> Vec<HeaderRole> {
        let headers = headers.iter().map(|&(name, value)| (name.as_bytes(), value));
        let explanation = explain(headers, b"{}", &Limits::default());
        explanation.headers.iter().map(|header| header.role).collect()
    }

    #[test]
    fn each_header_has_its_role() {
        use HeaderRole::{Addresses, Ignored, NotSet, Outranked, Repeated, Resembles, Undecodable};
        let channel = ("channel", LongString(b"m"));
        for (headers, expected) in [
            (&[("user-id", Int(42)), channel][..], &[Addresses, Outranked][..]),
            (&[channel, ("user-id", Int(42))], &[Outranked, Addresses]),
            (&[("user-id", Void), channel], &[NotSet, Addresses]),
            (&[("user-id", Int(1)), ("user-id", Void), channel], &[Repeated, NotSet, Addresses]),
            (&[("user-id", LongString(b"x"))], &[Addresses]),
            (&[("User_ID", Int(1)), ("x", Int(1))], &[Resembles("user-id"), Ignored]),
            (&[("Channel ", Int(1))], &[Resembles("channel")]),
            (&[("x-lobby-undecodable-headers", Void)], &[Undecodable]),
        ] {
            assert_eq!(roles(headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_is_stripped_and_replaced_is_counted() {
        let bytes = b"\xef\xbb\xbf \r\n{\"a\":\r\n1} ";
        let body = explain([], bytes, &Limits::default()).body.unwrap();
        assert_eq!((body.bom_stripped, body.blanks_stripped, body.line_ends), (true, 4, 2));
    }
}
