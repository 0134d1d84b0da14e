//! A model of AMQP's field tables, written from the specification and not from the lobby's filter: recursive, slow, and
//! on owned positions instead of a stack.

use notify_protocol::HeaderValue;

/// A header as it stands on the wire.
pub type Entry<'a> = (&'a [u8], HeaderValue<'a>);

/// The entries of a table whose bytes, without the length in front, are `bytes`; `None` where they do not add up.
pub fn entries(bytes: &[u8]) -> Option<Vec<Entry<'_>>> {
    let mut rest = bytes;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (name, after) = short_string(rest)?;
        let (value, after) = value(after)?;
        entries.push((name, value));
        rest = after;
    }
    Some(entries)
}

/// As many entries as can be read from the front, and the bytes that are left.
pub fn leading_entries(bytes: &[u8]) -> (Vec<Entry<'_>>, &[u8]) {
    let mut rest = bytes;
    let mut entries = Vec::new();
    while let Some((name, after)) = short_string(rest)
        && let Some((value, after)) = value(after)
    {
        entries.push((name, value));
        rest = after;
    }
    (entries, rest)
}

/// Whether a table's or an array's content adds up, and what nests in it down to `depth` more levels: what is deeper
/// travels as bytes.
pub fn adds_up(bytes: &[u8], table: bool, depth: usize) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        if table {
            let Some((_, after)) = short_string(rest) else { return false };
            rest = after;
        }
        let Some((value, after)) = value(rest) else { return false };
        if let HeaderValue::Table | HeaderValue::Array = value
            && depth > 0
            && !long_string(&rest[1..])
                .is_some_and(|(inner, _)| adds_up(inner, value == HeaderValue::Table, depth - 1))
        {
            return false;
        }
        rest = after;
    }
    true
}

/// A string of at most 255 bytes, and what follows it.
pub fn short_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// What has a length of 32 bits in front, and what follows it.
pub fn long_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

fn value(bytes: &[u8]) -> Option<(HeaderValue<'_>, &[u8])> {
    let (letter, rest) = bytes.split_first()?;
    macro_rules! number {
        ($type:ty) => {{
            let (bytes, rest) = rest.split_first_chunk()?;
            (<$type>::from_be_bytes(*bytes), rest)
        }};
    }
    macro_rules! integer {
        ($type:ty) => {{
            let (value, rest) = number!($type);
            (HeaderValue::Int(value.into()), rest)
        }};
    }
    Some(match letter {
        b't' => (HeaderValue::Bool(*rest.first()? != 0), &rest[1..]),
        b'b' => integer!(i8),
        b'B' => integer!(u8),
        // RabbitMQ's letters: `s` is signed, `u` is not. Others write `U` for the signed one.
        b's' | b'U' => integer!(i16),
        b'u' => integer!(u16),
        b'I' => integer!(i32),
        b'i' => integer!(u32),
        b'l' | b'L' => integer!(i64),
        b'f' => {
            let (value, rest) = number!(f32);
            (HeaderValue::Float(value), rest)
        }
        b'd' => {
            let (value, rest) = number!(f64);
            (HeaderValue::Double(value), rest)
        }
        b'D' => {
            let (scale, rest) = rest.split_first()?;
            let (value, rest) = rest.split_first_chunk()?;
            (HeaderValue::Decimal { scale: *scale, value: u32::from_be_bytes(*value) }, rest)
        }
        b'T' => {
            let (value, rest) = number!(u64);
            (HeaderValue::Timestamp(value), rest)
        }
        b'V' => (HeaderValue::Void, rest),
        b'S' => {
            let (text, rest) = long_string(rest)?;
            (HeaderValue::LongString(text), rest)
        }
        b'x' => {
            let (bytes, rest) = long_string(rest)?;
            (HeaderValue::Bytes(bytes), rest)
        }
        b'F' => (HeaderValue::Table, long_string(rest)?.1),
        b'A' => (HeaderValue::Array, long_string(rest)?.1),
        _ => return None,
    })
}
