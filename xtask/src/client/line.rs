//! One message from the lobby, byte for byte.

use std::fmt;

use anyhow::Context as _;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

/// The object's bytes without the newline that ends it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Line(Bytes);

impl Line {
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.0).with_context(|| format!("not JSON: {self}"))
    }

    /// The object's `command`, when it is text.
    pub(crate) fn command(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Head {
            command: String,
        }
        // Deeply nested bodies stop at the parser's limit: they have no command as far as a client cares.
        serde_json::from_slice::<Head>(&self.0).ok().map(|head| head.command)
    }

    pub(crate) fn is_ping(&self) -> bool {
        self.0.len() < 64 && self.command().as_deref() == Some("ping")
    }

    /// Whether `text` stands anywhere in the line; meant for unique identifiers.
    pub(crate) fn holds(&self, text: &str) -> bool {
        self.0.windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// The number under `seq`, of a numbered notification.
    pub(crate) fn seq(&self) -> Option<u64> {
        #[derive(Deserialize)]
        struct Numbered {
            seq: u64,
        }
        serde_json::from_slice::<Numbered>(&self.0).ok().map(|numbered| numbered.seq)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 300;
        let shown = self.0.get(..SHOWN).unwrap_or(&self.0);
        write!(f, "{}", shown.escape_ascii())?;
        if self.0.len() > SHOWN { write!(f, "… ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The last few lines, for an error.
pub(super) fn last(lines: &[Line]) -> String {
    let from = lines.len().saturating_sub(3);
    lines[from..].iter().map(Line::to_string).collect::<Vec<_>>().join(" | ")
}

/// JSON text without the white space between its tokens; everything else stays as spelled.
pub(crate) fn without_insignificant_space(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for &byte in text {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_space_between_tokens_is_removed() {
        let table: &[(&[u8], &[u8])] = &[
            (b" { \"a b\" :\t1 ,\r\n\"c\": [ 1.10 , 2 ] } ", b"{\"a b\":1,\"c\":[1.10,2]}"),
            (b"{\"a\":\"x \\\" y\", \"b\":\"\\\\\" }", b"{\"a\":\"x \\\" y\",\"b\":\"\\\\\"}"),
            (b"{}", b"{}"),
        ];
        for (text, wanted) in table {
            assert_eq!(without_insignificant_space(text), *wanted);
        }
    }

    #[test]
    fn command_and_number_are_found_in_any_object() {
        let line = Line::new(&b"{\"seq\":7,\"command\":\"notice\",\"x\":[]}"[..]);
        assert_eq!((line.command().as_deref(), line.seq()), (Some("notice"), Some(7)));
        assert!(line.holds("notice") && !line.holds("Notice"));
        assert_eq!(Line::new(&b"[1]"[..]).command(), None);
    }
}
