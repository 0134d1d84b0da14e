//! Shows foreign bytes in one log line: printable, and bounded whatever their length.

use std::fmt::{self, Write as _};

/// Bytes shown before the rest is cut; each takes at most 4 characters.
const SHOWN_BYTES: usize = 64;

/// Displays at most the first 64 bytes, quoted and escaped as ASCII, then the full length if some were cut.
pub(crate) struct Excerpt<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, rest) = self.0.split_at_checked(SHOWN_BYTES).unwrap_or((self.0, &[]));
        write!(f, "\"{}", shown.escape_ascii())?;
        if rest.is_empty() { f.write_char('"') } else { write!(f, "\"… ({} bytes)", self.0.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_is_shown_whole() {
        assert_eq!(Excerpt(b"").to_string(), r#""""#);
        assert_eq!(Excerpt(b"4_2").to_string(), r#""4_2""#);
        assert_eq!(Excerpt(&[b'x'; 64]).to_string(), format!("\"{}\"", "x".repeat(64)));
    }

    #[test]
    fn line_ends_quotes_and_foreign_bytes_are_escaped() {
        assert_eq!(Excerpt(b"a\r\n\"\xff").to_string(), r#""a\r\n\"\xff""#);
    }

    #[test]
    fn hostile_length_is_cut_and_named() {
        let shown = Excerpt(&[0xff; 1_000_000]).to_string();
        assert!(shown.ends_with("… (1000000 bytes)"), "{shown}");
        assert!(shown.len() < 300, "{} bytes", shown.len());
    }
}
