//! The properties of a message as its publisher wrote them: which are there, and of each header name and type letter,
//! in order. The values stay closed.

use anyhow::{bail, ensure};

use super::frame::Decoder;

/// One header on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrittenHeader {
    pub(crate) name: String,
    /// AMQP's letter for the type of the value.
    pub(crate) letter: char,
}

/// Which properties a message has, as AMQP's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrittenProperties(u16);

impl WrittenProperties {
    pub(crate) const CONTENT_TYPE: u16 = 1 << 15;
    pub(crate) const CONTENT_ENCODING: u16 = 1 << 14;
    pub(crate) const HEADERS: u16 = 1 << 13;
    pub(crate) const DELIVERY_MODE: u16 = 1 << 12;
    pub(crate) const CORRELATION_ID: u16 = 1 << 10;
    pub(crate) const REPLY_TO: u16 = 1 << 9;
    pub(crate) const MESSAGE_ID: u16 = 1 << 7;
    pub(crate) const TIMESTAMP: u16 = 1 << 6;
    pub(crate) const USER_ID: u16 = 1 << 4;

    pub(crate) fn has(self, property: u16) -> bool {
        self.0 & property != 0
    }
}

/// Reads the property list of a `basic` content header.
pub(super) fn written(properties: &[u8]) -> anyhow::Result<(WrittenProperties, Vec<WrittenHeader>)> {
    use WrittenProperties as Has;
    let mut list = Decoder(properties);
    let flags = list.u16()?;
    ensure!(flags & 1 == 0, "more property flags than `basic` has");
    for earlier in [Has::CONTENT_TYPE, Has::CONTENT_ENCODING] {
        if flags & earlier != 0 {
            list.short_string()?;
        }
    }
    let mut headers = Vec::new();
    if flags & Has::HEADERS != 0 {
        let len = usize::try_from(list.u32()?)?;
        let mut table = Decoder(list.take(len)?);
        while !table.0.is_empty() {
            let name = table.short_string()?;
            let letter = char::from(table.u8()?);
            skip(&mut table, letter)?;
            headers.push(WrittenHeader { name, letter });
        }
    }
    Ok((WrittenProperties(flags), headers))
}

/// Passes over a value of this type.
fn skip(table: &mut Decoder<'_>, letter: char) -> anyhow::Result<()> {
    let len = match letter {
        'V' => 0,
        't' | 'b' | 'B' => 1,
        's' | 'u' => 2,
        'I' | 'i' | 'f' => 4,
        'D' => 5,
        'l' | 'L' | 'd' | 'T' => 8,
        'S' | 'x' | 'A' | 'F' => usize::try_from(table.u32()?)?,
        other => bail!("type letter `{other}`"),
    };
    table.take(len).map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::field::Properties;
    use super::*;

    #[test]
    fn every_type_of_value_is_passed_over() {
        let headers = json!([
            ["user-id", "l", 1],
            ["a", "t", true],
            ["b", "b", 1],
            ["c", "s", 1],
            ["d", "I", 1],
            ["e", "d", 1.5],
            ["f", "V", null],
            ["g", "S", "text"],
            ["h", "A", [["I", 1]]],
            ["i", "F", [["x", "I", 1]]]
        ]);
        let properties = Properties::encode(&headers, &json!({"content_type": "application/json"})).unwrap();
        let (has, read) = written(&properties.0).unwrap();
        assert!(has.has(WrittenProperties::CONTENT_TYPE) && !has.has(WrittenProperties::USER_ID));
        let letters: String = read.iter().map(|header| header.letter).collect();
        assert_eq!((letters.as_str(), read[0].name.as_str()), ("ltbsIdVSAF", "user-id"));
        assert!(written(&properties.0[..20]).is_err());
    }
}
