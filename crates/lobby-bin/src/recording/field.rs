//! Header values as JSON (`[name, type, value]`) and as text on the command line (`name=TYPE:VALUE`). Pure.
//!
//! The type is AMQP's letter on the wire. The JSON is that of `vectors.jsonl`, but for its short forms.

use anyhow::{Context as _, anyhow, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use notify_amqp::{Field, NamedField};
use serde_json::{Value, json};

/// The letters, with what they mean, for errors and help.
pub const LETTERS: &str = "b B s u I i l L (integers), t (bool), S (text), f d (floats), D (decimal), x (bytes in base64), \
    T (timestamp), V (void), A F (array and table, as JSON)";

/// A table as a list of `[name, type, value]`.
pub fn shown_table(fields: &[NamedField]) -> Value {
    fields
        .iter()
        .map(|(name, field)| json!([shown_text(name), field.letter().to_string(), shown(field)]))
        .collect()
}

/// Reads a list of `[name, type, value]`; a name that stands twice is kept twice.
pub fn read_table(list: &Value) -> anyhow::Result<Vec<NamedField>> {
    let entries = list.as_array().with_context(|| format!("{list} is not a list of [name, type, value]"))?;
    let entry = |entry: &Value| {
        let [name, letter, value] = entry.as_array().map(Vec::as_slice).unwrap_or_default() else {
            bail!("{entry} is not [name, type, value]")
        };
        let field = read(letter, value).with_context(|| format!("header {name}"))?;
        Ok((read_text(name)?, field))
    };
    entries.iter().map(entry).collect()
}

/// Reads `name=TYPE:VALUE`.
///
/// # Errors
/// What would be right.
pub fn from_argument(text: &str) -> anyhow::Result<NamedField> {
    let form = || format!("expected NAME=TYPE:VALUE, as in user-id=I:42 or x-note=S:text; types: {LETTERS}");
    let (name, typed) = text.split_once('=').with_context(form)?;
    let (letter, value) = match typed.split_once(':') {
        Some(parts) => parts,
        None if typed == "V" => ("V", ""),
        None => bail!("{}", form()),
    };
    let parsed = || -> anyhow::Result<Field> {
        let json = match letter {
            "S" => json!(value),
            "x" => json!(value),
            "V" => {
                ensure!(value.is_empty(), "a void has no value");
                Value::Null
            }
            "D" => decimal(value)?,
            "f" | "d" => json!(value),
            _ => {
                serde_json::from_str(value).map_err(|_| anyhow!("{value:?} is no value of type {letter}"))?
            }
        };
        read(&json!(letter), &json)
    };
    Ok((name.as_bytes().to_vec(), parsed().with_context(|| format!("header {name:?}"))?))
}

fn decimal(text: &str) -> anyhow::Result<Value> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let value: u32 = format!("{whole}{part}").parse().with_context(|| format!("{text:?} is no decimal"))?;
    Ok(json!({"scale": part.len(), "value": value}))
}

/// A value without its type.
pub fn shown(field: &Field) -> Value {
    // JSON has no other numbers than finite ones.
    let float = |value: f64| if value.is_finite() { json!(value) } else { json!(value.to_string()) };
    match field {
        Field::Bool(value) => json!(value),
        Field::I8(value) => json!(value),
        Field::U8(value) => json!(value),
        Field::I16(value) => json!(value),
        Field::U16(value) => json!(value),
        Field::I32(value) => json!(value),
        Field::U32(value) => json!(value),
        Field::I64(value) => json!(value),
        Field::Float(value) => float((*value).into()),
        Field::Double(value) => float(*value),
        Field::Decimal { scale, value } => json!({"scale": scale, "value": value}),
        Field::LongString(text) => shown_text(text),
        Field::Bytes(bytes) => json!(BASE64_STANDARD.encode(bytes)),
        Field::Timestamp(value) => json!(value),
        Field::Void => Value::Null,
        Field::Array(items) => {
            items.iter().map(|item| json!([item.letter().to_string(), shown(item)])).collect()
        }
        Field::Table(fields) => shown_table(fields),
    }
}

fn read(letter: &Value, value: &Value) -> anyhow::Result<Field> {
    let wrong = |expected: &str| anyhow!("{value} is not {expected}");
    let int = |expected: &str| value.as_i64().ok_or_else(|| wrong(expected));
    macro_rules! int {
        ($variant:ident, $type:ty) => {{
            let expected = concat!("an integer that fits ", stringify!($type));
            Field::$variant(<$type>::try_from(int(expected)?).map_err(|_| wrong(expected))?)
        }};
    }
    let float = || match value {
        Value::String(text) => text.parse().map_err(|_| wrong("a number")),
        number => number.as_f64().ok_or_else(|| wrong("a number")),
    };
    Ok(match letter.as_str().with_context(|| format!("the type {letter} is not a letter"))? {
        "t" => Field::Bool(value.as_bool().ok_or_else(|| wrong("true or false"))?),
        "b" => int!(I8, i8),
        "B" => int!(U8, u8),
        "s" => int!(I16, i16),
        "u" => int!(U16, u16),
        "I" => int!(I32, i32),
        "i" => int!(U32, u32),
        "l" | "L" => Field::I64(int("an integer that fits i64")?),
        "f" => Field::Float(float()? as f32),
        "d" => Field::Double(float()?),
        "D" => {
            let part = |key| value[key].as_u64().ok_or_else(|| wrong("{\"scale\":…,\"value\":…}"));
            Field::Decimal {
                scale: u8::try_from(part("scale")?).map_err(|_| wrong("a decimal with a scale up to 255"))?,
                value: u32::try_from(part("value")?).map_err(|_| wrong("a decimal of 32 bits"))?,
            }
        }
        "S" => Field::LongString(read_text(value)?),
        "x" => {
            let text = value.as_str().ok_or_else(|| wrong("base64"))?;
            Field::Bytes(BASE64_STANDARD.decode(text).map_err(|_| wrong("base64"))?)
        }
        "T" => Field::Timestamp(value.as_u64().ok_or_else(|| wrong("seconds since 1970"))?),
        "V" => Field::Void,
        "A" => {
            let items = value.as_array().ok_or_else(|| wrong("a list of [type, value]"))?;
            let item = |item: &Value| match item.as_array().map(Vec::as_slice) {
                Some([letter, value]) => read(letter, value),
                _ => bail!("{item} is not [type, value]"),
            };
            Field::Array(items.iter().map(item).collect::<anyhow::Result<_>>()?)
        }
        "F" => Field::Table(read_table(value)?),
        other => bail!("type {other:?} is not one of {LETTERS}"),
    })
}

/// Text, or `{"b64":…}` where it is not UTF-8.
pub fn shown_text(bytes: &[u8]) -> Value {
    match str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({"b64": BASE64_STANDARD.encode(bytes)}),
    }
}

fn read_text(value: &Value) -> anyhow::Result<Vec<u8>> {
    match (value, value["b64"].as_str()) {
        (Value::String(text), _) => Ok(text.as_bytes().to_vec()),
        (_, Some(text)) => BASE64_STANDARD.decode(text).with_context(|| format!("{value} is not base64")),
        _ => bail!("{value} is neither text nor {{\"b64\":…}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_has_a_name_a_type_and_a_value() {
        for (text, field) in [
            ("h=I:42", Field::I32(42)),
            ("h=l:-9223372036854775808", Field::I64(i64::MIN)),
            ("h=L:7", Field::I64(7)),
            ("h=b:-5", Field::I8(-5)),
            ("h=t:true", Field::Bool(true)),
            ("h=S:a=b:c", Field::LongString(b"a=b:c".to_vec())),
            ("h=S:", Field::LongString(Vec::new())),
            ("h=d:1e400", Field::Double(f64::INFINITY)),
            ("h=f:0.1", Field::Float(0.1)),
            ("h=D:3.14", Field::Decimal { scale: 2, value: 314 }),
            ("h=x:AP8=", Field::Bytes(vec![0, 255])),
            ("h=T:18446744073709551615", Field::Timestamp(u64::MAX)),
            ("h=V", Field::Void),
            ("h=V:", Field::Void),
            ("h=A:[[\"I\",1]]", Field::Array(vec![Field::I32(1)])),
            ("h=F:[[\"k\",\"V\",null]]", Field::Table(vec![(b"k".to_vec(), Field::Void)])),
        ] {
            assert_eq!(from_argument(text).expect(text), (b"h".to_vec(), field), "{text}");
        }
    }

    #[test]
    fn a_wrong_argument_says_what_would_be_right() {
        for (text, says) in [
            ("user-id", "NAME=TYPE:VALUE"),
            ("user-id=42", "user-id=I:42"),
            ("h=U:42", "is not one of"),
            ("h=I:x", "no value of type I"),
            ("h=b:128", "fits i8"),
            ("h=I:4294967295", "fits i32"),
            ("h=V:1", "a void has no value"),
            ("h=D:1.2.3", "no decimal"),
            ("h=x:?", "base64"),
            ("h=t:1", "true or false"),
        ] {
            let error = format!("{:#}", from_argument(text).expect_err(text));
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
