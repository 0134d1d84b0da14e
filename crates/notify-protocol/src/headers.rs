//! One header's value, as the wire typed it.
//!
//! Borrowed and free of any AMQP library: the consumer maps its own type to this one, and containers lose their
//! content, because no rule of the contract looks inside.

use std::fmt;

use crate::excerpt::Excerpt;

/// A header value with its AMQP type (the letter in brackets is the one on the wire).
///
/// [`Display`](fmt::Display) names the type and shows the value in at most some 300 characters, escaped, so a
/// hostile header cannot make a huge or broken log line.
///
/// ```
/// use notify_protocol::HeaderValue;
/// assert_eq!(HeaderValue::LongString(b"4_2").to_string(), "long string \"4_2\"");
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeaderValue<'a> {
    /// Boolean (`t`).
    Bool(bool),
    /// Any of the integer types (`b B s u I i l L`); RabbitMQ takes `L` as signed.
    Int(i64),
    /// 32-bit float (`f`).
    Float(f32),
    /// 64-bit float (`d`).
    Double(f64),
    /// Decimal (`D`): `value` divided by ten to the power of `scale`.
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// The digits.
        value: u32,
    },
    /// Long string (`S`): bytes, not always UTF-8.
    LongString(&'a [u8]),
    /// Byte array (`x`).
    Bytes(&'a [u8]),
    /// Timestamp (`T`), by the book in seconds since 1970, but nobody checks.
    Timestamp(u64),
    /// Void (`V`): counts as not set.
    Void,
    /// Array (`A`), whatever is inside.
    Array,
    /// Table (`F`), whatever is inside.
    Table,
}

impl HeaderValue<'_> {
    /// Whether the header counts as set: every type but void, the empty string too (contract: *Addressing*).
    ///
    /// ```
    /// use notify_protocol::HeaderValue;
    /// assert!(HeaderValue::LongString(b"").is_set());
    /// assert!(!HeaderValue::Void.is_set());
    /// ```
    #[must_use]
    pub const fn is_set(&self) -> bool {
        !matches!(self, Self::Void)
    }
}

impl fmt::Display for HeaderValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bool(value) => write!(f, "boolean {value}"),
            Self::Int(value) => write!(f, "integer {value}"),
            // `{:e}` is short for every float; `{}` writes 1e300 in 301 characters.
            Self::Float(value) => write!(f, "float {value:e}"),
            Self::Double(value) => write!(f, "double {value:e}"),
            Self::Decimal { scale, value } => write!(f, "decimal {value}e-{scale}"),
            Self::LongString(text) => write!(f, "long string {}", Excerpt(text)),
            Self::Bytes(bytes) => write!(f, "byte array {}", Excerpt(bytes)),
            Self::Timestamp(value) => write!(f, "timestamp {value}"),
            Self::Void => f.write_str("void"),
            Self::Array => f.write_str("array"),
            Self::Table => f.write_str("table"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_the_type_and_the_value() {
        for (value, text) in [
            (HeaderValue::Bool(true), "boolean true"),
            (HeaderValue::Int(-7), "integer -7"),
            (HeaderValue::Float(3.5), "float 3.5e0"),
            (HeaderValue::Double(f64::NAN), "double NaN"),
            (HeaderValue::Decimal { scale: 2, value: 4200 }, "decimal 4200e-2"),
            (HeaderValue::LongString(b"4_2"), r#"long string "4_2""#),
            (HeaderValue::Bytes(b"\xff"), r#"byte array "\xff""#),
            (HeaderValue::Timestamp(u64::MAX), "timestamp 18446744073709551615"),
            (HeaderValue::Void, "void"),
            (HeaderValue::Array, "array"),
            (HeaderValue::Table, "table"),
        ] {
            assert_eq!(value.to_string(), text);
        }
    }

    #[test]
    fn display_is_one_short_line_whatever_the_value() {
        let long = vec![b'\n'; 1 << 20];
        for value in [
            HeaderValue::LongString(&long),
            HeaderValue::Bytes(&long),
            HeaderValue::Double(f64::MAX),
            HeaderValue::Float(f32::MIN_POSITIVE),
        ] {
            let text = value.to_string();
            assert!(text.len() <= 310 && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn only_void_is_not_set() {
        assert!(!HeaderValue::Void.is_set());
        assert!(HeaderValue::LongString(b"").is_set());
        assert!(HeaderValue::Bool(false).is_set());
        assert!(HeaderValue::Int(0).is_set());
    }
}
