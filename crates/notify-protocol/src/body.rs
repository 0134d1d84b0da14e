//! Checks a body and makes one line of it, without building a document.
//!
//! The publisher's bytes stay as they are: spelling of escapes, number text, duplicate keys, key order. What may
//! change is insignificant white space: the outer one is stripped, and raw line ends become spaces. A failure is
//! permanent; the caller drops the delivery.

use std::fmt;

use serde::de::IgnoredAny;

use crate::{DropReason, Limits, excerpt::Excerpt};

/// The UTF-8 byte order mark.
pub(crate) const BOM: &[u8] = b"\xef\xbb\xbf";

/// A checked JSON object, borrowed from the delivery; a BOM and the surrounding white space are stripped.
///
/// ```
/// use notify_protocol::{Body, Limits};
/// let body = Body::check(b"\xef\xbb\xbf {\"a\":1}\n", &Limits::default())?;
/// assert_eq!(body.json(), b"{\"a\":1}");
/// # Ok::<(), notify_protocol::DropReason>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Body<'a> {
    /// UTF-8, one JSON object from `{` to `}`.
    json: &'a [u8],
}

impl<'a> Body<'a> {
    /// Checks that `bytes` are one UTF-8 JSON object (RFC 8259) within `limits` (contract: *Body*).
    ///
    /// Linear in the length; nesting takes one byte of heap a level and no stack, so any depth within the size
    /// limit passes. A BOM is allowed at the very start only.
    ///
    /// ```
    /// use notify_protocol::{Body, Limits};
    /// let check = |bytes| Body::check(bytes, &Limits::default()).map_err(|reason| reason.as_str());
    /// assert!(check(b"{\"n\":1e400}").is_ok());
    /// assert_eq!(check(b"{\"n\":NaN}"), Err("non_json"));
    /// assert_eq!(check(b"[]"), Err("not_object"));
    /// ```
    ///
    /// # Errors
    /// - [`DropReason::TooLarge`]: `bytes` exceed [`Limits::max_body_bytes`]; nothing else was looked at.
    /// - [`DropReason::NonJson`]: not UTF-8 or not JSON.
    /// - [`DropReason::NotObject`]: JSON, but not an object.
    pub fn check(bytes: &'a [u8], limits: &Limits) -> Result<Body<'a>, DropReason> {
        let (len, max) = (bytes.len(), limits.max_body_bytes);
        if len > max {
            return Err(DropReason::TooLarge { len, max });
        }
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        let text = str::from_utf8(bytes).map_err(non_json)?;
        // Skips values iteratively, which is what makes deep nesting harmless.
        serde_json::from_str::<IgnoredAny>(text).map_err(non_json)?;
        // What is left around a valid value is JSON's own white space, no form feed.
        let json = bytes.trim_ascii();
        match json.first() {
            Some(b'{') => Ok(Body { json }),
            first => Err(DropReason::NotObject { found: json_type(first) }),
        }
    }

    /// The object's own bytes, from `{` to `}`; they may hold raw line ends between tokens.
    ///
    /// ```
    /// use notify_protocol::{Body, Limits};
    /// assert_eq!(Body::check(b" {\n} ", &Limits::default())?.json(), b"{\n}");
    /// # Ok::<(), notify_protocol::DropReason>(())
    /// ```
    #[must_use]
    pub const fn json(&self) -> &'a [u8] {
        self.json
    }

    /// Length of [`json`](Self::json) in bytes, at least 2; the line of
    /// [`append_line_to`](Self::append_line_to) is as long.
    ///
    /// ```
    /// use notify_protocol::{Body, Limits};
    /// assert_eq!(Body::check(b" {} ", &Limits::default())?.len(), 2);
    /// # Ok::<(), notify_protocol::DropReason>(())
    /// ```
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an object is never empty: it has two braces")]
    pub const fn len(&self) -> usize {
        self.json.len()
    }

    /// Appends the body as ONE line without its end: every raw LF or CR, which valid JSON has between tokens only,
    /// becomes a space (contract: *Body*). Appends [`len`](Self::len) bytes; reserve them, and room for the line
    /// end, to allocate once.
    ///
    /// ```
    /// use notify_protocol::{Body, Limits};
    /// let mut line = Vec::new();
    /// Body::check(b"{\n \"a\":1}", &Limits::default())?.append_line_to(&mut line);
    /// assert_eq!(line, b"{  \"a\":1}");
    /// # Ok::<(), notify_protocol::DropReason>(())
    /// ```
    pub fn append_line_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(self.json);
        // Branch-free, so that the compiler makes vector code of it.
        for byte in out.iter_mut().skip(start) {
            *byte = if matches!(*byte, b'\n' | b'\r') { b' ' } else { *byte };
        }
    }
}

impl fmt::Debug for Body<'_> {
    /// An excerpt: a body may be megabytes long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({})", Excerpt(self.json))
    }
}

fn non_json(problem: impl fmt::Display) -> DropReason {
    DropReason::NonJson { problem: problem.to_string() }
}

/// The type of a valid JSON value from its first byte.
fn json_type(first: Option<&u8>) -> &'static str {
    match first {
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) -> Result<Body<'_>, DropReason> {
        Body::check(bytes, &Limits::default())
    }

    fn line(bytes: &[u8]) -> Vec<u8> {
        let mut out = b"before\n".to_vec();
        check(bytes).unwrap().append_line_to(&mut out);
        out.strip_prefix(b"before\n").unwrap().to_vec()
    }

    #[test]
    fn object_keeps_its_bytes() {
        for text in [
            r#"{}"#,
            r#"{"a":1e400,"b":1.10,"c":-0.0,"a":100000000000000000000000}"#,
            r#"{"u":"\u00e9\u00E9\/\ud800 é 😀","":[[],{}]}"#,
            "{\"del\":\"\x7f\u{85}\u{2028}\"}",
            r#"{"$serde_json::private::Number":"x","$serde_json::private::RawValue":1}"#,
        ] {
            assert_eq!(check(text.as_bytes()).unwrap().json(), text.as_bytes());
            assert_eq!(line(text.as_bytes()), text.as_bytes());
        }
    }

    #[test]
    fn bom_and_outer_white_space_are_stripped() {
        for bytes in [&b" \r\n\t{} \n"[..], b"\xef\xbb\xbf{}", b"\xef\xbb\xbf\n{}\n"] {
            let body = check(bytes).unwrap();
            assert_eq!((body.json(), body.len()), (&b"{}"[..], 2));
        }
    }

    #[test]
    fn line_ends_between_tokens_become_spaces() {
        assert_eq!(line(b"{\r\n\t\"a\\n\":\n[1,\r2]\n}"), b"{  \t\"a\\n\": [1, 2] }");
    }

    #[test]
    fn what_is_not_utf8_json_is_non_json() {
        for bytes in [
            &b""[..],
            b" \n",
            b"{",
            b"}",
            b"{]",
            b"{\"a\":[1}",
            b"{\"a\":1,}",
            b"{a:1}",
            b"{'a':1}",
            b"{\"a\":01}",
            b"{\"a\":+1}",
            b"{\"a\":.5}",
            b"{\"a\":1.}",
            b"{\"a\":NaN}",
            b"{\"a\":-Infinity}",
            b"{\"a\":1}x",
            b"{}{}",
            b"{}\0",
            b"{}\x0c",
            b"\x0c{}",
            b"\xc2\xa0{}",
            b"{\"a\":\"\n\"}",
            b"{\"a\":\"\x1f\"}",
            b"{\"a\":\"\\x\"}",
            b"{\"a\":\"\\u12g4\"}",
            b"{} // c",
            b"{\"a\":\"\xff\"}",
            b"{\"a\":\"\xed\xa0\x80\"}",
            b" \xef\xbb\xbf{}",
            b"\xef\xbb\xbf\xef\xbb\xbf{}",
            b"{}\xef\xbb\xbf",
            b"\xef\xbb\xbf",
            b"{\0}\0",
            b"\x1f\x8b\x08\0",
        ] {
            let reason = check(bytes).unwrap_err();
            assert_eq!(reason.as_str(), "non_json", "{}: {reason}", bytes.escape_ascii());
            assert!(reason.to_string().len() < 512);
        }
    }

    #[test]
    fn json_of_another_type_is_not_an_object() {
        for (text, found) in [
            ("[{}]", "array"),
            (" \"{}\"", "string"),
            ("-1", "number"),
            ("0", "number"),
            ("true", "boolean"),
            ("false", "boolean"),
            ("null", "null"),
        ] {
            assert_eq!(check(text.as_bytes()), Err(DropReason::NotObject { found }), "{text}");
        }
    }

    #[test]
    fn size_limit_is_exact_and_comes_first() {
        let limits = Limits { max_body_bytes: 4 };
        assert!(Body::check(b" {} ", &limits).is_ok());
        assert_eq!(Body::check(b"not  ", &limits), Err(DropReason::TooLarge { len: 5, max: 4 }));
    }

    #[test]
    fn nesting_of_a_million_needs_no_stack() {
        let depth = 1_000_000;
        let arrays = ["{\"a\":", &"[".repeat(depth), &"]".repeat(depth), "}"].concat().into_bytes();
        let objects = [&*"{\"a\":".repeat(depth), "0", &"}".repeat(depth)].concat().into_bytes();
        let unclosed = b"[".repeat(depth);
        let small_stack = std::thread::Builder::new().stack_size(256 * 1024);
        let checked = small_stack.spawn(move || {
            let limits = Limits { max_body_bytes: usize::MAX };
            let verdict = |bytes: &[u8]| Body::check(bytes, &limits).map(|body| body.len());
            assert_eq!(verdict(&arrays), Ok(arrays.len()));
            assert_eq!(verdict(&objects), Ok(objects.len()));
            assert_eq!(verdict(&unclosed).unwrap_err().as_str(), "non_json");
        });
        checked.unwrap().join().unwrap();
    }

    #[test]
    fn debug_is_short() {
        let bytes = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
        assert!(format!("{:?}", check(bytes.as_bytes()).unwrap()).len() < 300);
    }
}
