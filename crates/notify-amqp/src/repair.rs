//! Makes one content header or method readable for lapin's parser, in place, without changing a length.
//!
//! Pure and iterative. lapin's parser gives up the whole connection at a name that is not UTF-8, and it
//! recurses into nested tables until the stack ends; the broker then delivers the same message again, for
//! ever. Here the bytes that lapin cannot take are replaced by ones it can: every other header of the
//! message keeps its meaning.

/// Containers nested deeper than this are passed as bytes.
pub(crate) const MAX_DEPTH: usize = 32;

/// AMQP's class of messages.
const CLASS_BASIC: u16 = 60;

/// What a frame's payload turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Readable as it came.
    Clean,
    /// Bytes were replaced; it is readable now.
    Repaired,
    /// Its lengths do not add up, or it holds a type nobody knows: no parser can read it.
    Unreadable,
}

/// Repairs the payload of a content header frame: class, weight, body size, properties.
pub(crate) fn content_header(payload: &mut [u8]) -> Verdict {
    if payload.len() < 12 || u16_at(payload, 0) != CLASS_BASIC {
        return Verdict::Clean; // no message, or too short to be replaced: the parser reports it
    }
    let mut walk = Walk { bytes: payload, at: 12, repaired: false };
    match walk.properties() {
        Some(()) if walk.repaired => Verdict::Repaired,
        Some(()) => Verdict::Clean,
        None => Verdict::Unreadable,
    }
}

/// Repairs the short strings of the methods that carry other people's text.
pub(crate) fn method(payload: &mut [u8]) -> Verdict {
    use Part::{Short, Skip};
    if payload.len() < 4 {
        return Verdict::Clean;
    }
    let parts: &[Part] = match (u16_at(payload, 0), u16_at(payload, 2)) {
        (10, 50) | (20, 40) => &[Skip(2), Short], // connection.close, channel.close
        (60, 30) => &[Short],                     // basic.cancel
        (60, 50) => &[Skip(2), Short, Short, Short], // basic.return
        (60, 60) => &[Short, Skip(9), Short, Short], // basic.deliver
        (60, 71) => &[Skip(9), Short, Short],     // basic.get-ok
        _ => return Verdict::Clean,
    };
    let end = payload.len();
    let mut walk = Walk { bytes: payload, at: 4, repaired: false };
    for part in parts {
        let walked = match part {
            Short => walk.short_string(end),
            Skip(n) => walk.skip(*n, end),
        };
        if walked.is_none() {
            return Verdict::Unreadable;
        }
    }
    if walk.repaired { Verdict::Repaired } else { Verdict::Clean }
}

/// The content header that stands in for an unreadable one: same class and body size, and one header.
///
/// Returns `None` if the original is too short to have a body size.
pub(crate) fn substitute(original: &[u8], marker: &str) -> Option<Vec<u8>> {
    const HEADERS: u16 = 1 << 13;
    let mut payload = original.get(..12)?.to_vec();
    payload.extend(HEADERS.to_be_bytes());
    let name = &marker.as_bytes()[..marker.len().min(255)];
    let table_len = 1 + name.len() + 2;
    payload.extend((table_len as u32).to_be_bytes());
    payload.push(name.len() as u8);
    payload.extend(name);
    payload.extend(b"t\x01");
    Some(payload)
}

enum Part {
    Short,
    Skip(usize),
}

/// Walks a payload once; `None` anywhere means that it cannot be read.
struct Walk<'a> {
    bytes: &'a mut [u8],
    at: usize,
    repaired: bool,
}

#[derive(Clone, Copy)]
struct Container {
    end: usize,
    is_table: bool,
}

impl Walk<'_> {
    /// The property flags and the properties, from the highest flag down.
    fn properties(&mut self) -> Option<()> {
        let end = self.bytes.len();
        let flags = self.u16(end)?;
        if flags & 0b11 != 0 {
            return None; // more flag words, which no message has
        }
        for bit in (2..16).rev().filter(|bit| flags & (1 << bit) != 0) {
            match bit {
                13 => self.table(end)?,
                12 | 11 => self.skip(1, end)?, // delivery mode, priority
                6 => self.skip(8, end)?,       // timestamp
                _ => self.short_string(end)?,
            }
        }
        (self.at == end).then_some(())
    }

    /// A table with all that is in it. Not recursive: what is nested in what stands in an array.
    fn table(&mut self, end: usize) -> Option<()> {
        let mut open = [Container { end: 0, is_table: true }; MAX_DEPTH];
        open[0].end = self.length(end)?;
        let mut depth = 1_usize;
        while let Some(Container { end, is_table }) = depth.checked_sub(1).map(|top| open[top]) {
            if self.at == end {
                depth -= 1;
                continue;
            }
            if is_table {
                self.short_string(end)?;
            }
            let letter_at = self.at;
            match self.u8(end)? {
                b't' | b'b' | b'B' => self.skip(1, end)?,
                b's' | b'U' | b'u' => self.skip(2, end)?,
                b'I' | b'i' | b'f' => self.skip(4, end)?,
                b'D' => self.skip(5, end)?,
                b'L' | b'l' | b'd' | b'T' => self.skip(8, end)?,
                b'V' => {}
                b'S' | b'x' => self.at = self.length(end)?,
                letter @ (b'F' | b'A') => {
                    let inner = Container { end: self.length(end)?, is_table: letter == b'F' };
                    if let Some(slot) = open.get_mut(depth) {
                        *slot = inner;
                        depth += 1;
                    } else {
                        self.bytes[letter_at] = b'x';
                        self.at = inner.end;
                        self.repaired = true;
                    }
                }
                _ => return None,
            }
        }
        Some(())
    }

    /// A length of 32 bits; returns where what it measures ends.
    fn length(&mut self, end: usize) -> Option<usize> {
        let start = self.at;
        self.skip(4, end)?;
        let bytes = self.bytes[start..self.at].try_into().ok()?;
        let length = usize::try_from(u32::from_be_bytes(bytes)).ok()?;
        self.at.checked_add(length).filter(|stop| *stop <= end)
    }

    fn short_string(&mut self, end: usize) -> Option<()> {
        let length = usize::from(self.u8(end)?);
        let start = self.at;
        self.skip(length, end)?;
        self.repaired |= make_utf8(&mut self.bytes[start..self.at]);
        Some(())
    }

    fn u8(&mut self, end: usize) -> Option<u8> {
        let start = self.at;
        self.skip(1, end)?;
        Some(self.bytes[start])
    }

    fn u16(&mut self, end: usize) -> Option<u16> {
        let start = self.at;
        self.skip(2, end)?;
        Some(u16_at(self.bytes, start))
    }

    fn skip(&mut self, n: usize, end: usize) -> Option<()> {
        self.at = self.at.checked_add(n).filter(|at| *at <= end)?;
        Some(())
    }
}

/// Replaces every byte that is not part of valid UTF-8 by `?`; returns whether there was one.
fn make_utf8(mut text: &mut [u8]) -> bool {
    let mut replaced = false;
    while let Err(error) = std::str::from_utf8(text) {
        let rest = &mut text[error.valid_up_to()..];
        let bad = error.error_len().unwrap_or(rest.len());
        rest[..bad].fill(b'?');
        text = &mut rest[bad..];
        replaced = true;
    }
    replaced
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A content header of class 60, body size 2, with these flags and properties.
    fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        payload.extend(flags.to_be_bytes());
        payload.extend(properties);
        payload
    }

    fn table(entries: &[u8]) -> Vec<u8> {
        [&(entries.len() as u32).to_be_bytes()[..], entries].concat()
    }

    /// `levels` containers of one kind, one inside another; a table's entry has the empty name.
    fn nested(letter: u8, levels: usize) -> Vec<u8> {
        let mut inner = Vec::new();
        for _ in 0..levels {
            let mut entry = if letter == b'F' { vec![0] } else { Vec::new() };
            entry.push(letter);
            entry.extend(table(&inner));
            inner = entry;
        }
        inner
    }

    fn with_headers(entries: &[u8]) -> Vec<u8> {
        header(1 << 13, &table(entries))
    }

    #[test]
    fn all_types_and_properties_pass_untouched() {
        let entries = [
            &b"\x01at\x01\x01bb\x01\x01cB\x01\x01ds\0\x01\x01eu\0\x01\x01fU\0\x01"[..],
            b"\x01gI\0\0\0\x01\x01hi\0\0\0\x01\x01jl\0\0\0\0\0\0\0\x01\x01kL\0\0\0\0\0\0\0\x01",
            b"\x01mf\0\0\0\0\x01nd\0\0\0\0\0\0\0\0\x01oD\x02\0\0\0\x07\x01pT\x80\0\0\0\0\0\0\0",
            b"\x01qS\0\0\0\x02\xff\xfe\x01rx\0\0\0\x01\xff\x01sV\x01vA\0\0\0\x04Vt\x01V\x01wF\0\0\0\x03\x01xV",
        ]
        .concat();
        let all = [
            b"\x01c\x01e".as_slice(),
            &table(&entries),
            b"\x02\x05\x01a\x01b\x01x\x01m",
            &[0; 8],
            b"\x01t\x01u\x01i\x01z",
        ];
        let mut payload = header(0xfffc, &all.concat());
        let before = payload.clone();
        assert_eq!(content_header(&mut payload), Verdict::Clean);
        assert_eq!(payload, before);
    }

    #[test]
    fn bad_bytes_in_names_become_question_marks_and_the_rest_stays() {
        let mut payload = with_headers(b"\x03a\xffbV\x07user-idI\0\0\0\x2a\x02\xc3\xa9V\x01\xc3V");
        assert_eq!(content_header(&mut payload), Verdict::Repaired);
        assert_eq!(payload, with_headers(b"\x03a?bV\x07user-idI\0\0\0\x2a\x02\xc3\xa9V\x01?V"));
    }

    #[test]
    fn bad_bytes_in_short_string_properties_are_replaced() {
        let mut payload = header(1 << 15, b"\x02\xfe\xff");
        assert_eq!(content_header(&mut payload), Verdict::Repaired);
        assert_eq!(payload, header(1 << 15, b"\x02??"));
    }

    #[test]
    fn containers_beyond_the_limit_become_bytes_of_the_same_length() {
        for letter in [b'F', b'A'] {
            let outer = if letter == b'A' { b"\x01x".as_slice() } else { b"" };
            let deep = [outer, &nested(letter, MAX_DEPTH - 1)].concat();
            assert_eq!(content_header(&mut with_headers(&deep)), Verdict::Clean, "just deep enough");
            for levels in [MAX_DEPTH, 10_000] {
                let deep = [outer, &nested(letter, levels), b"\x07user-idI\0\0\0\x2a"].concat();
                let mut payload = with_headers(&deep);
                let len = payload.len();
                assert_eq!(content_header(&mut payload), Verdict::Repaired);
                assert_eq!(payload.len(), len);
                let changed = with_headers(&deep).iter().zip(&payload).filter(|(a, b)| a != b).count();
                assert_eq!(changed, 1, "one letter");
                assert_eq!(content_header(&mut payload), Verdict::Clean, "and then it is readable");
            }
        }
    }

    #[test]
    fn what_cannot_be_walked_is_unreadable() {
        let cases: &[&[u8]] = &[
            b"\x01az",                 // unknown type
            b"\x01aI\0\0",             // value cut short
            b"\x05ab",                 // name longer than the table
            b"\x01aS\0\0\0\x09ab",     // string longer than the table
            b"\x01aF\xff\xff\xff\xff", // table longer than everything
            b"\x01aA\0\0\0\x02Vz",     // unknown type inside
            b"\x01aA\0\0\0\x02It",     // value crosses its array's end
            b"\x01a",                  // no type
        ];
        for entries in cases {
            assert_eq!(content_header(&mut with_headers(entries)), Verdict::Unreadable, "{entries:?}");
        }
        let too_long = [with_headers(b"\x01aV"), vec![0]].concat();
        assert_eq!(content_header(&mut too_long.clone()), Verdict::Unreadable, "bytes left over");
        assert_eq!(content_header(&mut header(1, b"")), Verdict::Unreadable, "continuation flag");
        assert_eq!(content_header(&mut header(1 << 15, b"")), Verdict::Unreadable, "property missing");
    }

    #[test]
    fn the_substitute_keeps_class_and_body_size_and_is_readable() {
        let original = with_headers(b"\x01az");
        let mut payload = substitute(&original, "marker").unwrap();
        assert_eq!(payload[..12], original[..12]);
        assert_eq!(payload, with_headers(b"\x06markert\x01"));
        assert_eq!(content_header(&mut payload), Verdict::Clean);
        assert_eq!(substitute(&original[..11], "marker"), None);
    }

    #[test]
    fn texts_of_methods_are_repaired() {
        let mut deliver = b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\x01\0\x02e\xff\x02\xffk".to_vec();
        assert_eq!(method(&mut deliver), Verdict::Repaired);
        assert_eq!(deliver, b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\x01\0\x02e?\x02?k");
        let mut got = b"\0\x3c\0\x47\0\0\0\0\0\0\0\x01\0\x02e\xff\x01k\0\0\0\0".to_vec();
        assert_eq!(method(&mut got), Verdict::Repaired);
        assert_eq!(got, b"\0\x3c\0\x47\0\0\0\0\0\0\0\x01\0\x02e?\x01k\0\0\0\0");
        let mut close = b"\0\x14\0\x28\x01\x94\x03n\xc3\xc3\0\0\0\0".to_vec();
        assert_eq!(method(&mut close), Verdict::Repaired);
        assert_eq!(close, b"\0\x14\0\x28\x01\x94\x03n??\0\0\0\0");
        assert_eq!(method(&mut b"\0\x0a\0\x0a\xff\xff".to_vec()), Verdict::Clean, "others pass");
        assert_eq!(method(&mut b"\0\x3c\0\x3c\x09c".to_vec()), Verdict::Unreadable);
    }
}
