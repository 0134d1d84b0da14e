//! A vector's headers and properties as the bytes of a content header.
//!
//! Pure. The short forms (`{"rep":…}`, `{"nest":…}`, `{"b64":…}`) are those of `vectors.jsonl`; a type letter that
//! the vectors do not know is an error, never skipped.

use std::io::Read as _;

use anyhow::{Context as _, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;

use super::frame::Encoder;

/// Encoded property flags and values, as they follow the body size in a content header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Properties(pub(crate) Vec<u8>);

impl Properties {
    /// Encodes a vector's `headers` (`null`: no headers property) and `props`.
    ///
    /// # Errors
    /// A type letter, a short form or a property this client does not know.
    pub(crate) fn encode(headers: &Value, props: &Value) -> anyhow::Result<Self> {
        let empty = serde_json::Map::new();
        let props = match props {
            Value::Null => &empty,
            Value::Object(map) => map,
            other => bail!("`props` is {other}, not an object"),
        };
        if let Some(name) = props.keys().find(|name| !ORDER.contains(&name.as_str())) {
            bail!("property `{name}` is not one of AMQP's");
        }
        let mut flags = 0u16;
        let mut out = Encoder::default();
        for (position, name) in ORDER.iter().enumerate() {
            let present = if *name == "headers" { !headers.is_null() } else { props.contains_key(*name) };
            if !present {
                continue;
            }
            flags |= 0x8000 >> position;
            let value = props.get(*name).unwrap_or(&Value::Null);
            match *name {
                "headers" => out.long_bytes(&table(headers)?)?,
                "delivery_mode" | "priority" => {
                    out.0.push(u8::try_from(integer(value)?).with_context(|| format!("property `{name}`"))?);
                }
                "timestamp" => out.0.extend(integer_bits(value)?.to_be_bytes()),
                _ => {
                    let text = value.as_str().with_context(|| format!("property `{name}` is text"))?;
                    out.short_string(text)?;
                }
            }
        }
        let mut bytes = flags.to_be_bytes().to_vec();
        bytes.append(&mut out.0);
        Ok(Self(bytes))
    }

    /// Only a `user-id` header (type `l`) and persistent delivery: what a plain publisher writes.
    pub(crate) fn to_user(user: Option<i64>) -> anyhow::Result<Self> {
        let headers = user.map_or(Value::Null, |id| serde_json::json!([["user-id", "l", id]]));
        Self::encode(&headers, &serde_json::json!({"delivery_mode": 2}))
    }
}

/// AMQP's own order: the first has the highest bit of the flags.
const ORDER: [&str; 14] = [
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
];

/// A vector's `body` or `line`, by its encoding.
pub(crate) fn decode_body(text: &str, encoding: &str) -> anyhow::Result<Vec<u8>> {
    let raw = BASE64.decode(text).context("base64 of a vector")?;
    match encoding {
        "b64" => Ok(raw),
        "zlib+b64" => {
            let mut out = Vec::new();
            flate2::read::ZlibDecoder::new(raw.as_slice())
                .read_to_end(&mut out)
                .context("zlib of a vector")?;
            Ok(out)
        }
        other => bail!("encoding `{other}` of a vector is not known"),
    }
}

/// The inside of a field table (without its length): `[[name, type, value], …]`, duplicates kept.
fn table(entries: &Value) -> anyhow::Result<Vec<u8>> {
    let mut out = Encoder::default();
    for entry in entries.as_array().context("a table is a list of [name, type, value]")? {
        let [name, letter, value] = three(entry)?;
        out.short_bytes(&bytes(name)?)?;
        field(&mut out, letter, value).with_context(|| format!("header {name}"))?;
    }
    Ok(out.0)
}

/// One typed value: the letter, then its bytes.
fn field(out: &mut Encoder, letter: &Value, value: &Value) -> anyhow::Result<()> {
    let letter = letter.as_str().context("the type is a letter")?;
    let &[code] = letter.as_bytes() else { bail!("type `{letter}` is not one letter") };
    out.0.push(code);
    match code {
        b't' => out.0.push(u8::from(value.as_bool().context("`t` wants a bool")?)),
        b'b' => out.0.extend(i8::try_from(integer(value)?)?.to_be_bytes()),
        b'B' => out.0.extend(u8::try_from(integer(value)?)?.to_be_bytes()),
        b's' => out.0.extend(i16::try_from(integer(value)?)?.to_be_bytes()),
        b'u' => out.0.extend(u16::try_from(integer(value)?)?.to_be_bytes()),
        b'I' => out.0.extend(i32::try_from(integer(value)?)?.to_be_bytes()),
        b'i' => out.0.extend(u32::try_from(integer(value)?)?.to_be_bytes()),
        b'l' | b'L' | b'T' => out.0.extend(integer_bits(value)?.to_be_bytes()),
        b'f' => {
            #[expect(clippy::cast_possible_truncation, reason = "a float is the vector's number rounded")]
            let number = value.as_f64().context("`f` wants a number")? as f32;
            out.0.extend(number.to_be_bytes());
        }
        b'd' => out.0.extend(value.as_f64().context("`d` wants a number")?.to_be_bytes()),
        b'D' => {
            out.0.push(u8::try_from(integer(&value["scale"])?)?);
            out.0.extend(i32::try_from(integer(&value["value"])?)?.to_be_bytes());
        }
        b'S' => out.long_bytes(&bytes(value)?)?,
        b'x' => {
            let text = value.as_str().context("`x` wants base64")?;
            out.long_bytes(&BASE64.decode(text).context("`x` wants base64")?)?;
        }
        b'V' => {}
        b'A' => match nest(value) {
            Some(depth) => out.long_bytes(&nested(b'A', depth)?)?,
            None => {
                let mut inner = Encoder::default();
                for item in value.as_array().context("`A` wants a list of [type, value]")? {
                    let [letter, value] = two(item)?;
                    field(&mut inner, letter, value)?;
                }
                out.long_bytes(&inner.0)?;
            }
        },
        b'F' => match nest(value) {
            Some(depth) => out.long_bytes(&nested(b'F', depth)?)?,
            None => out.long_bytes(&table(value)?)?,
        },
        other => bail!("type letter `{}` is not known", char::from(other)),
    }
    Ok(())
}

/// Text, raw bytes (`b64`) or a repeated character (`rep`, `tail`).
fn bytes(value: &Value) -> anyhow::Result<Vec<u8>> {
    if let Some(text) = value.as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    if let Some(text) = value["b64"].as_str() {
        return BASE64.decode(text).context("`b64`");
    }
    if let Some(repeat) = value["rep"].as_array() {
        let [unit, count] = repeat.as_slice() else { bail!("`rep` wants [text, count]") };
        let unit = unit.as_str().context("`rep` wants [text, count]")?;
        let count = usize::try_from(integer(count)?)?;
        let tail = value["tail"].as_str().unwrap_or_default();
        return Ok((unit.repeat(count) + tail).into_bytes());
    }
    Err(anyhow!("{value} is neither text nor a known short form"))
}

fn nest(value: &Value) -> Option<usize> {
    value["nest"].as_u64().and_then(|n| usize::try_from(n).ok())
}

/// The inside of the outermost of `depth` containers, one in another, the innermost empty.
fn nested(letter: u8, depth: usize) -> anyhow::Result<Vec<u8>> {
    let mut inside = Vec::new();
    for _ in 1..depth {
        let mut outer = Encoder::default();
        if letter == b'F' {
            outer.short_string("n")?;
        }
        outer.0.push(letter);
        outer.long_bytes(&inside)?;
        inside = outer.0;
    }
    Ok(inside)
}

fn integer(value: &Value) -> anyhow::Result<i64> {
    value.as_i64().with_context(|| format!("{value} is not an integer in range"))
}

/// 64 bits, signed or not.
fn integer_bits(value: &Value) -> anyhow::Result<u64> {
    match (value.as_u64(), value.as_i64()) {
        (Some(bits), _) => Ok(bits),
        (None, Some(signed)) => Ok(signed.cast_unsigned()),
        (None, None) => bail!("{value} is not a 64-bit integer"),
    }
}

fn three(value: &Value) -> anyhow::Result<[&Value; 3]> {
    match value.as_array().map(Vec::as_slice) {
        Some([a, b, c]) => Ok([a, b, c]),
        _ => Err(anyhow!("{value} is not [name, type, value]")),
    }
}

fn two(value: &Value) -> anyhow::Result<[&Value; 2]> {
    match value.as_array().map(Vec::as_slice) {
        Some([a, b]) => Ok([a, b]),
        _ => Err(anyhow!("{value} is not [type, value]")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encoded(headers: Value) -> Vec<u8> {
        Properties::encode(&headers, &json!({})).unwrap().0
    }

    /// The bytes of one header `h`, after the flags, the table's length and the name.
    fn one(letter: &str, value: Value) -> Vec<u8> {
        encoded(json!([["h", letter, value]]))[8..].to_vec()
    }

    #[test]
    fn every_type_letter_has_its_bytes() {
        let table: &[(&str, Value, &[u8])] = &[
            ("t", json!(true), b"t\x01"),
            ("b", json!(-5), b"b\xfb"),
            ("B", json!(250), b"B\xfa"),
            ("s", json!(-300), b"s\xfe\xd4"),
            ("u", json!(60000), b"u\xea\x60"),
            ("I", json!(-70000), b"I\xff\xfe\xee\x90"),
            ("i", json!(4_000_000_000_u32), b"i\xee\x6b\x28\x00"),
            ("l", json!(-1), b"l\xff\xff\xff\xff\xff\xff\xff\xff"),
            ("L", json!(1), b"L\0\0\0\0\0\0\0\x01"),
            ("f", json!(1.5), b"f\x3f\xc0\0\0"),
            ("d", json!(2.25), b"d\x40\x02\0\0\0\0\0\0"),
            ("D", json!({"scale": 2, "value": 314}), b"D\x02\0\0\x01\x3a"),
            ("S", json!("str"), b"S\0\0\0\x03str"),
            ("S", json!({"b64": "NDLD"}), b"S\0\0\0\x0342\xc3"),
            ("S", json!({"rep": ["9", 3], "tail": "8"}), b"S\0\0\0\x049998"),
            ("x", json!("AP8="), b"x\0\0\0\x02\x00\xff"),
            ("T", json!(9_223_372_036_854_775_808_u64), b"T\x80\0\0\0\0\0\0\0"),
            ("V", Value::Null, b"V"),
            ("A", json!([["I", 1]]), b"A\0\0\0\x05I\0\0\0\x01"),
            ("A", json!({"nest": 3}), b"A\0\0\0\x0aA\0\0\0\x05A\0\0\0\0"),
            ("F", json!([["k", "t", false]]), b"F\0\0\0\x04\x01kt\0"),
            ("F", json!({"nest": 2}), b"F\0\0\0\x07\x01nF\0\0\0\0"),
        ];
        for (letter, value, wanted) in table {
            assert_eq!(&one(letter, value.clone()), wanted, "{letter} {value}");
        }
        assert!(Properties::encode(&json!([["h", "U", 1]]), &json!({})).is_err());
        assert!(Properties::encode(&json!([["h", "b", 128]]), &json!({})).is_err());
    }

    #[test]
    fn duplicate_and_raw_names_stand_as_written() {
        let twice = encoded(json!([["a", "t", true], ["a", "V", null]]));
        assert_eq!(twice, b"\x20\0\0\0\0\x07\x01at\x01\x01aV");
        let raw = encoded(json!([[{"b64": "aP8="}, "V", null]]));
        assert_eq!(raw, b"\x20\0\0\0\0\x04\x02h\xffV");
    }

    #[test]
    fn properties_stand_in_the_order_of_their_flags() {
        let props = json!({"timestamp": 1, "content_type": "", "delivery_mode": 2, "cluster_id": "c"});
        let bytes = Properties::encode(&Value::Null, &props).unwrap().0;
        assert_eq!(bytes, b"\x90\x44\0\x02\0\0\0\0\0\0\0\x01\x01c");
        assert_eq!(Properties::encode(&json!([]), &json!({})).unwrap().0, b"\x20\0\0\0\0\0");
        assert_eq!(Properties::encode(&Value::Null, &Value::Null).unwrap().0, b"\0\0");
        assert!(Properties::encode(&Value::Null, &json!({"x": 1})).is_err());
    }
}
