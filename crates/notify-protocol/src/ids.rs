//! Who a message is for.

use std::{fmt, num::ParseIntError, str::FromStr};

/// A player's id, as the backends know it.
///
/// Any `i64` is valid; zero and negative ids are never connected (contract: *Addressing*).
///
/// ```
/// use notify_protocol::UserId;
/// assert_eq!("+0042".parse(), Ok(UserId::new(42)));
/// assert!(" 42".parse::<UserId>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(i64);

impl UserId {
    /// Wraps `id`.
    ///
    /// ```
    /// assert_eq!(notify_protocol::UserId::new(42).to_string(), "42");
    /// ```
    #[must_use]
    pub const fn new(id: i64) -> Self {
        Self(id)
    }

    /// The bare id.
    ///
    /// ```
    /// assert_eq!(notify_protocol::UserId::new(42).get(), 42);
    /// ```
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Reads `[+-]?[0-9]+` within `i64`: ASCII digits only, leading zeros allowed; no blanks, underscores or other
    /// digits (contract: *Addressing*). Anything else is `None`. One pass, no allocation.
    ///
    /// ```
    /// use notify_protocol::UserId;
    /// assert_eq!(UserId::from_ascii(b"0042"), Some(UserId::new(42)));
    /// assert_eq!(UserId::from_ascii("４２".as_bytes()), None);
    /// ```
    #[must_use]
    pub fn from_ascii(text: &[u8]) -> Option<Self> {
        Self::parse(text).ok()
    }

    /// `i64`'s own grammar is the contract's: one optional sign, then ASCII digits.
    fn parse(text: &[u8]) -> Result<Self, ParseUserIdError> {
        // Bytes that are not UTF-8 are not digits either; "?" fails the same way.
        let text = str::from_utf8(text).unwrap_or("?");
        text.parse().map(Self).map_err(ParseUserIdError)
    }
}

impl FromStr for UserId {
    type Err = ParseUserIdError;

    /// Reads the same text as [`UserId::from_ascii`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes())
    }
}

impl From<i64> for UserId {
    fn from(id: i64) -> Self {
        Self(id)
    }
}

impl From<i32> for UserId {
    fn from(id: i32) -> Self {
        Self(id.into())
    }
}

impl From<u32> for UserId {
    fn from(id: u32) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not a user id: `[+-]?[0-9]+` within `i64`.
///
/// ```
/// use notify_protocol::UserId;
/// let error = "4 2".parse::<UserId>().unwrap_err();
/// assert!(error.to_string().starts_with("not a user id"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a user id ({0}), expected ASCII digits with an optional sign, from -2^63 to 2^63-1")]
pub struct ParseUserIdError(ParseIntError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_with_an_optional_sign_are_an_id() {
        for (text, id) in [
            ("42", 42),
            ("+42", 42),
            ("0042", 42),
            ("-42", -42),
            ("0", 0),
            ("-0", 0),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("9007199254740993", 9_007_199_254_740_993),
        ] {
            assert_eq!(UserId::from_ascii(text.as_bytes()), Some(UserId::new(id)), "{text:?}");
            assert_eq!(text.parse(), Ok(UserId::new(id)), "{text:?}");
        }
        let zeros = "0".repeat(5000) + "42";
        assert_eq!(UserId::from_ascii(zeros.as_bytes()), Some(UserId::new(42)));
    }

    #[test]
    fn anything_else_is_not_an_id() {
        for text in [
            &b""[..],
            b"+",
            b"-",
            b"+-42",
            b"--42",
            b"42-",
            b" 42",
            b"42 ",
            b"42\n",
            b"\x0042",
            b"42\0",
            b"4_2",
            b"42.0",
            b"42.",
            b"4e1",
            b"0x2a",
            b"42,7",
            b"?",
            b"42\xc3",
            "４２".as_bytes(),
            "٤٢".as_bytes(),
            "−42".as_bytes(),
            b"9223372036854775808",
            b"-9223372036854775809",
            b"18446744073709551658",
        ] {
            assert_eq!(UserId::from_ascii(text), None, "{:?}", text.escape_ascii().to_string());
        }
        assert!("9".repeat(4301).parse::<UserId>().is_err());
    }

    #[test]
    fn narrower_integers_and_text_round_trip() {
        assert_eq!(UserId::from(u32::MAX).get(), 4_294_967_295);
        assert_eq!(UserId::from(-1).get(), -1);
        assert_eq!(UserId::from(i64::MIN).to_string().parse(), Ok(UserId::new(i64::MIN)));
    }
}
