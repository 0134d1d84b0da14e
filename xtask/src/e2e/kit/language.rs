//! How a publisher's language says what the vectors and the mistakes hold.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

/// One language.
pub(super) struct Language {
    pub(super) interpreter: fn(environment: &Path) -> PathBuf,
    pub(super) arguments: fn(environment: &Path, root: &Path, publisher: &str) -> Vec<OsString>,
    is_python: bool,
    /// How deep a raw body may nest before the publisher cannot check it.
    pub(super) nesting: usize,
}

pub(super) const PYTHON: Language = Language {
    interpreter: Path::to_path_buf,
    arguments: |_, root, publisher| vec![root.join("xtask/python/kit/drive.py").into(), publisher.into()],
    is_python: true,
    nesting: 900,
};

pub(super) const TYPESCRIPT: Language = Language {
    interpreter: |_| PathBuf::from("node"),
    arguments: |environment, _, _| vec![environment.join("out/drive.js").into()],
    is_python: false,
    nesting: usize::MAX,
};

/// The largest integer below which a double has every integer.
const SAFE: i64 = (1 << 53) - 1;

impl Language {
    pub(super) fn to_user(&self, id: &str, body: &str) -> String {
        format!("{}({id}, {body})", self.one_of("to_user", "toUser"))
    }

    pub(super) fn to_channel(&self, name: &str, body: &str) -> String {
        format!("{}({name}, {body})", self.one_of("to_channel", "toChannel"))
    }

    pub(super) fn broadcast(&self, body: &str) -> String {
        format!("broadcast({body})")
    }

    /// A body as written.
    pub(super) fn raw_json(&self, body: &[u8]) -> String {
        format!("{}({})", self.one_of("RawJson", "new RawJson"), bytes(body))
    }

    /// A header's value in the language; none where the language has no such value.
    pub(super) fn literal(&self, letter: &str, value: &Value) -> Option<String> {
        let python = self.is_python;
        Some(match letter {
            "b" | "B" | "s" | "u" | "I" | "i" | "l" | "L" => {
                let id = value.as_i64()?;
                let big = !python && id.checked_abs().is_none_or(|id| id > SAFE);
                format!("{id}{}", if big { "n" } else { "" })
            }
            "S" => self.text(value)?,
            "t" if python => if value.as_bool()? { "True" } else { "False" }.to_owned(),
            "t" => value.as_bool()?.to_string(),
            "f" | "d" => match value.as_f64()? {
                whole if !python && whole.fract() == 0.0 => return None,
                float => format!("{float:?}"),
            },
            "D" if python => format!("Decimal({}).scaleb(-{})", value["value"], value["scale"]),
            "D" => format!("{{places: {}, digits: {}}}", value["scale"], value["value"]),
            "x" => format!("b64({value})"),
            "T" => self.one_of("datetime.fromtimestamp(0)", "new Date(0)").to_owned(),
            "V" => self.one_of("None", "undefined").to_owned(),
            "A" => "[42]".to_owned(),
            "F" => r#"{"id": 42}"#.to_owned(),
            _ => return None,
        })
    }

    /// Text plain, in bytes, or repeated.
    fn text(&self, value: &Value) -> Option<String> {
        if value.is_string() {
            return Some(value.to_string());
        }
        if value.get("b64").is_some() {
            return Some(format!("b64({})", value["b64"]));
        }
        let (text, count, tail) = (&value["rep"][0], value["rep"][1].as_u64()?, &value["tail"]);
        Some(match self.is_python {
            true => format!("{text} * {count} + {tail}"),
            false => format!("{text}.repeat({count}) + {tail}"),
        })
    }

    /// The first for Python, the second for TypeScript.
    pub(super) fn one_of(&self, python: &'static str, typescript: &'static str) -> &'static str {
        if self.is_python { python } else { typescript }
    }
}

fn bytes(bytes: &[u8]) -> String {
    format!("b64(\"{}\")", BASE64_STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_what_the_language_makes_of_them() {
        for (letter, value, python, typescript) in [
            ("l", json!(42), Some("42"), Some("42")),
            ("l", json!(i64::MIN), Some("-9223372036854775808"), Some("-9223372036854775808n")),
            ("d", json!(42.0), Some("42.0"), None),
            ("d", json!(3.7), Some("3.7"), Some("3.7")),
            ("t", json!(true), Some("True"), Some("true")),
            ("V", json!(null), Some("None"), Some("undefined")),
            ("S", json!(" 42"), Some("\" 42\""), Some("\" 42\"")),
            (
                "S",
                json!({"rep": ["0", 5], "tail": "42"}),
                Some("\"0\" * 5 + \"42\""),
                Some("\"0\".repeat(5) + \"42\""),
            ),
        ] {
            assert_eq!(PYTHON.literal(letter, &value).as_deref(), python);
            assert_eq!(TYPESCRIPT.literal(letter, &value).as_deref(), typescript);
        }
    }
}
