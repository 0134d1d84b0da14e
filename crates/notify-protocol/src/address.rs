//! Decides whom a message is for, from its headers alone.
//!
//! `user-id` → that user; else `channel` → that channel; else everyone. A value that cannot address is an error and
//! never a broadcast: a private message must not reach everyone by mistake. Pure and without allocation on success.

use std::fmt;

use crate::{CHANNEL_HEADER, DropReason, HeaderValue, UNDECODABLE_HEADERS_MARKER, USER_ID_HEADER, UserId};

/// Whom a message is for (contract: *Addressing*).
///
/// ```
/// use notify_protocol::{Address, UserId};
/// assert_eq!(Address::User(UserId::new(42)).to_string(), "user 42");
/// assert_eq!(Address::Everyone.to_string(), "everyone");
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Address<'a> {
    /// One user: the header `user-id`, whatever `channel` says.
    User(UserId),
    /// One channel, with the header's value. Reserved: recognised, logged, counted, acked and sent to nobody.
    Channel(HeaderValue<'a>),
    /// Every authenticated session: neither header is set.
    Everyone,
}

impl fmt::Display for Address<'_> {
    /// One short line for logs, bounded like [`HeaderValue`]'s.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user {user}"),
            Self::Channel(HeaderValue::LongString(name)) => {
                write!(f, "channel {}", crate::excerpt::Excerpt(name))
            }
            Self::Channel(value) => write!(f, "channel {value}"),
            Self::Everyone => f.write_str("everyone"),
        }
    }
}

/// Reads the address from a delivery's headers, in their order on the wire (contract: *Addressing*).
///
/// Names are compared byte by byte; of a header that stands twice the last counts; void is not set. No headers
/// property at all is the same as an empty table.
///
/// ```
/// use notify_protocol::{Address, HeaderValue, UserId, address};
/// let user_id = |value| address([(&b"user-id"[..], value)]);
/// assert_eq!(user_id(HeaderValue::LongString(b"42")), Ok(Address::User(UserId::new(42))));
/// assert_eq!(user_id(HeaderValue::Void), Ok(Address::Everyone));
/// assert!(user_id(HeaderValue::Bool(true)).is_err());
/// ```
///
/// # Errors
/// - [`DropReason::InvalidUserId`]: `user-id` is set to something other than an integer or a long string of digits.
/// - [`DropReason::UndecodableHeaders`]: the reader put [`UNDECODABLE_HEADERS_MARKER`] in place of the table.
pub fn address<'a>(
    headers: impl IntoIterator<Item = (&'a [u8], HeaderValue<'a>)>,
) -> Result<Address<'a>, DropReason> {
    let (mut user_id, mut channel) = (HeaderValue::Void, HeaderValue::Void);
    for (name, value) in headers {
        if name == USER_ID_HEADER.as_bytes() {
            user_id = value;
        } else if name == CHANNEL_HEADER.as_bytes() {
            channel = value;
        } else if name == UNDECODABLE_HEADERS_MARKER.as_bytes() {
            return Err(DropReason::UndecodableHeaders);
        }
    }
    if user_id.is_set() {
        to_user(user_id).map(Address::User)
    } else if channel.is_set() {
        Ok(Address::Channel(channel))
    } else {
        Ok(Address::Everyone)
    }
}

fn to_user(value: HeaderValue<'_>) -> Result<UserId, DropReason> {
    let user = match value {
        HeaderValue::Int(id) => Some(UserId::new(id)),
        HeaderValue::LongString(text) => UserId::from_ascii(text),
        HeaderValue::Bool(_)
        | HeaderValue::Float(_)
        | HeaderValue::Double(_)
        | HeaderValue::Decimal { .. }
        | HeaderValue::Bytes(_)
        | HeaderValue::Timestamp(_)
        | HeaderValue::Void
        | HeaderValue::Array
        | HeaderValue::Table => None,
    };
    user.ok_or_else(|| DropReason::InvalidUserId { given: value.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use HeaderValue::{Bool, Bytes, Decimal, Double, Float, Int, LongString, Timestamp, Void};

    fn of<'a>(headers: &[(&'a str, HeaderValue<'a>)]) -> Result<Address<'a>, DropReason> {
        address(headers.iter().map(|&(name, value)| (name.as_bytes(), value)))
    }

    #[test]
    fn user_id_wins_then_channel_then_everyone() {
        let user = ("user-id", Int(42));
        let channel = ("channel", LongString(b"m"));
        for (headers, expected) in [
            (&[][..], Address::Everyone),
            (&[user], Address::User(UserId::new(42))),
            (&[channel], Address::Channel(LongString(b"m"))),
            (&[user, channel], Address::User(UserId::new(42))),
            (&[channel, user], Address::User(UserId::new(42))),
            (&[("user-id", Void), channel], Address::Channel(LongString(b"m"))),
            (&[("user-id", Int(0)), channel], Address::User(UserId::new(0))),
            (&[("user-id", Void), ("channel", Void)], Address::Everyone),
            (&[("channel", LongString(b""))], Address::Channel(LongString(b""))),
            (&[("channel", Bool(false))], Address::Channel(Bool(false))),
        ] {
            assert_eq!(of(headers), Ok(expected), "{headers:?}");
        }
    }

    #[test]
    fn names_are_exact() {
        for name in
            ["User-Id", "USER-ID", "user_id", "user-id ", " user-id", "user-id\0", "уser-id", "userid", ""]
        {
            assert_eq!(of(&[(name, Int(42))]), Ok(Address::Everyone), "{name:?}");
        }
        assert_eq!(of(&[("Channel", Int(42))]), Ok(Address::Everyone));
        assert_eq!(address([(&b"user-id\xff"[..], Int(42))]), Ok(Address::Everyone));
    }

    #[test]
    fn last_of_a_repeated_header_counts() {
        let user = |id| Ok(Address::User(UserId::new(id)));
        assert_eq!(of(&[("user-id", Int(1)), ("user-id", Int(2))]), user(2));
        assert_eq!(of(&[("user-id", Bool(true)), ("user-id", Int(2))]), user(2));
        assert_eq!(of(&[("user-id", Int(1)), ("user-id", Void)]), Ok(Address::Everyone));
        assert!(of(&[("user-id", Int(1)), ("user-id", Bool(true))]).is_err());
    }

    #[test]
    fn value_that_cannot_address_is_never_a_broadcast() {
        for value in [
            Bool(true),
            Bool(false),
            Float(42.0),
            Double(f64::NAN),
            Decimal { scale: 0, value: 42 },
            Bytes(b"42"),
            Timestamp(42),
            HeaderValue::Array,
            HeaderValue::Table,
            LongString(b""),
            LongString(b" 42"),
            LongString(b"4_2"),
            LongString(b"\xff"),
        ] {
            let given = value.to_string();
            assert_eq!(of(&[("user-id", value)]), Err(DropReason::InvalidUserId { given }), "{value:?}");
            assert!(of(&[("user-id", value), ("channel", Int(1))]).is_err(), "{value:?}");
        }
    }

    #[test]
    fn undecodable_headers_address_nobody() {
        let marker = (UNDECODABLE_HEADERS_MARKER, Void);
        assert_eq!(of(&[marker]), Err(DropReason::UndecodableHeaders));
        assert_eq!(of(&[("user-id", Int(42)), marker]), Err(DropReason::UndecodableHeaders));
    }

    #[test]
    fn hostile_value_makes_a_short_text() {
        let long = vec![b'\n'; 1 << 20];
        let text = of(&[("user-id", LongString(&long))]).unwrap_err().to_string();
        assert!(text.len() < 512 && !text.contains('\n'), "{text}");
        let shown = of(&[("channel", LongString(&long))]).unwrap().to_string();
        assert!(shown.len() < 512 && !shown.contains('\n'), "{shown}");
    }
}
