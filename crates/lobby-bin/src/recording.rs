//! Messages in a file: one JSON object a line, headers with their AMQP types, bodies byte for byte.
//!
//! The same keys as in `vectors.jsonl`, so that a line of either can be explained and replayed:
//!
//! ```json
//! {"at":"2026-11-21T12:00:00.000Z","exchange":"faf-lobby","routing_key":"request.client.notify","redelivered":false,
//!  "headers":[["user-id","I",42]],"props":{"message_id":"…","delivery_mode":2},"body_enc":"b64","body":"e30="}
//! ```
//!
//! `headers` is null where the message has no table. Unknown keys are ignored.

pub mod field;

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use notify_amqp::{RawMessage, RawProperties};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// One line. All but the message is missing in what people write by hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// When it came, as RFC 3339.
    pub at: String,
    pub exchange: String,
    pub redelivered: bool,
    pub message: RawMessage,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(default)]
    at: String,
    #[serde(default)]
    exchange: String,
    routing_key: String,
    #[serde(default)]
    redelivered: bool,
    headers: Value,
    #[serde(default)]
    props: Map<String, Value>,
    body_enc: String,
    body: String,
}

impl Recorded {
    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong, and where in the line.
    pub fn read(line: &str) -> anyhow::Result<Self> {
        let Line { at, exchange, routing_key, redelivered, headers, props, body_enc, body } =
            serde_json::from_str(line)?;
        ensure!(body_enc == "b64", "`body_enc` is {body_enc:?}, expected \"b64\"");
        let body = BASE64_STANDARD.decode(body).context("`body` is not base64")?;
        let headers = match headers {
            Value::Null => None,
            list => Some(field::read_table(&list).context("`headers`")?),
        };
        let properties = RawProperties { headers, ..read_properties(&props)? };
        Ok(Self { at, exchange, redelivered, message: RawMessage { routing_key, properties, body } })
    }

    /// The line, without its end.
    pub fn to_line(&self) -> String {
        let RawMessage { routing_key, properties, body } = &self.message;
        let line = Line {
            at: self.at.clone(),
            exchange: self.exchange.clone(),
            routing_key: routing_key.clone(),
            redelivered: self.redelivered,
            headers: properties.headers.as_ref().map_or(Value::Null, |table| field::shown_table(table)),
            props: shown_properties(properties),
            body_enc: "b64".to_owned(),
            body: BASE64_STANDARD.encode(body),
        };
        // Strings and numbers always become JSON.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// All properties but the headers, by their names in AMQP.
pub fn shown_properties(properties: &RawProperties) -> Map<String, Value> {
    let p = properties;
    let all = [
        ("content_type", json!(p.content_type)),
        ("content_encoding", json!(p.content_encoding)),
        ("delivery_mode", json!(p.delivery_mode)),
        ("priority", json!(p.priority)),
        ("correlation_id", json!(p.correlation_id)),
        ("reply_to", json!(p.reply_to)),
        ("expiration", json!(p.expiration)),
        ("message_id", json!(p.message_id)),
        ("timestamp", json!(p.timestamp)),
        ("type", json!(p.kind)),
        ("user_id", json!(p.user_id)),
        ("app_id", json!(p.app_id)),
        ("cluster_id", json!(p.cluster_id)),
    ];
    all.into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn read_properties(props: &Map<String, Value>) -> anyhow::Result<RawProperties> {
    let mut properties = RawProperties::default();
    for (name, value) in props {
        let p = &mut properties;
        let text = || {
            value
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("`props.{name}` is {value}, expected text"))
        };
        let number =
            || value.as_u64().with_context(|| format!("`props.{name}` is {value}, expected a whole number"));
        let byte = || {
            u8::try_from(number()?).with_context(|| format!("`props.{name}` is {value}, expected 0 to 255"))
        };
        match name.as_str() {
            "content_type" => p.content_type = Some(text()?),
            "content_encoding" => p.content_encoding = Some(text()?),
            "delivery_mode" => p.delivery_mode = Some(byte()?),
            "priority" => p.priority = Some(byte()?),
            "correlation_id" => p.correlation_id = Some(text()?),
            "reply_to" => p.reply_to = Some(text()?),
            "expiration" => p.expiration = Some(text()?),
            "message_id" => p.message_id = Some(text()?),
            "timestamp" => p.timestamp = Some(number()?),
            "type" => p.kind = Some(text()?),
            "user_id" => p.user_id = Some(text()?),
            "app_id" => p.app_id = Some(text()?),
            "cluster_id" => p.cluster_id = Some(text()?),
            _ => bail!("`props.{name}` is not a property of AMQP"),
        }
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use notify_amqp::Field;

    use super::*;

    fn recorded(headers: Option<Vec<(Vec<u8>, Field)>>) -> Recorded {
        let text = |text: &str| Some(text.to_owned());
        let properties = RawProperties {
            content_type: text("application/json"),
            content_encoding: text(""),
            headers,
            delivery_mode: Some(2),
            priority: Some(255),
            correlation_id: text("c"),
            reply_to: text("r"),
            expiration: text("60000"),
            message_id: text("m\u{e9}"),
            timestamp: Some(u64::MAX),
            kind: text("t"),
            user_id: text("guest"),
            app_id: text("a"),
            cluster_id: text("z"),
        };
        Recorded {
            at: "2026-11-21T12:00:00.000Z".to_owned(),
            exchange: "faf-lobby".to_owned(),
            redelivered: true,
            message: RawMessage { routing_key: "k".to_owned(), properties, body: vec![0, 10, 255] },
        }
    }

    #[test]
    fn f20_a_line_holds_every_byte_and_type() {
        let inner = vec![(b"k".to_vec(), Field::Void), (b"n".to_vec(), Field::Array(vec![Field::I8(-1)]))];
        let fields = [
            Field::Bool(true),
            Field::I8(i8::MIN),
            Field::U8(u8::MAX),
            Field::I16(i16::MIN),
            Field::U16(u16::MAX),
            Field::I32(i32::MIN),
            Field::U32(u32::MAX),
            Field::I64(i64::MIN),
            Field::Float(0.1),
            Field::Double(-1.797_693_134_862_315_7e308),
            Field::Double(5e-324),
            Field::Decimal { scale: 2, value: 314 },
            Field::LongString("é\n\"".into()),
            Field::LongString(b"\xff\0text".to_vec()),
            Field::Bytes(vec![0, 255]),
            Field::Timestamp(u64::MAX),
            Field::Void,
            Field::Array(vec![Field::Bool(false), Field::Table(inner.clone())]),
            Field::Table(inner),
        ];
        let named = fields.into_iter().enumerate().map(|(at, field)| (format!("h{at}").into_bytes(), field));
        let mut named: Vec<_> = named.collect();
        named.push((b"\xff".to_vec(), Field::Void));
        for headers in [None, Some(Vec::new()), Some(named)] {
            let recorded = recorded(headers);
            let line = recorded.to_line();
            assert!(!line.contains('\n'));
            assert_eq!(Recorded::read(&line).expect("readable"), recorded);
        }
    }

    #[test]
    fn a_line_that_is_wrong_says_where() {
        let good = recorded(None).to_line();
        for (from, to, says) in [
            ("\"b64\"", "\"gz\"", "body_enc"),
            ("\"body\":\"AAr/\"", "\"body\":\"?\"", "`body` is not base64"),
            ("\"priority\":255", "\"priority\":256", "props.priority"),
            ("\"priority\":255", "\"colour\":1", "props.colour"),
            ("\"headers\":null", "\"headers\":[[\"x\",\"I\",4294967295]]", "header \"x\""),
            ("\"routing_key\"", "\"key\"", "routing_key"),
        ] {
            assert!(good.contains(from), "{good}");
            let error = Recorded::read(&good.replace(from, to)).expect_err(to);
            let text = format!("{error:#}");
            assert!(text.contains(says), "{to}: {text}");
        }
    }

    #[test]
    fn one_line_is_enough_to_write_by_hand() {
        let line = r#"{"routing_key":"k","headers":[["user-id","I",42]],"body_enc":"b64","body":"e30=","note":"mine"}"#;
        let recorded = Recorded::read(line).expect("readable");
        assert_eq!(recorded.message.properties.headers, Some(vec![(b"user-id".to_vec(), Field::I32(42))]));
        assert_eq!(recorded.message.body, b"{}");
    }
}
