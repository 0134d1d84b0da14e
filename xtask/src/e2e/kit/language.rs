//! How a publisher's language says what the vectors and the mistakes hold.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

use crate::java;

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tongue {
    Python,
    TypeScript,
    Java,
}

/// One language.
pub(super) struct Language {
    pub(super) interpreter: fn(environment: &Path) -> PathBuf,
    pub(super) arguments: fn(environment: &Path, root: &Path, publisher: &str) -> Vec<OsString>,
    pub(super) tongue: Tongue,
    /// How deep a raw body may nest before the publisher cannot check it.
    pub(super) nesting: usize,
    /// Characters of a number in a raw body that it can check.
    pub(super) number_length: usize,
}

pub(super) const PYTHON: Language = Language {
    interpreter: Path::to_path_buf,
    arguments: |_, root, publisher| vec![root.join("xtask/python/kit/drive.py").into(), publisher.into()],
    tongue: Tongue::Python,
    nesting: 900,
    number_length: usize::MAX,
};

pub(super) const TYPESCRIPT: Language = Language {
    interpreter: |_| PathBuf::from("node"),
    arguments: |environment, _, _| vec![environment.join("out/drive.js").into()],
    tongue: Tongue::TypeScript,
    nesting: usize::MAX,
    number_length: usize::MAX,
};

pub(super) const JAVA: Language = Language {
    interpreter: |_| PathBuf::from("java"),
    arguments: |environment, _, _| vec!["-cp".into(), java::class_path(environment), "lobby.Drive".into()],
    tongue: Tongue::Java,
    nesting: 1_000,
    number_length: 1_000,
};

/// The largest integer below which a double has every integer.
const SAFE: i64 = (1 << 53) - 1;
/// A class file's text has at most 65,535 bytes.
const MAX_JAVA_LITERAL: usize = 60_000;

impl Language {
    pub(super) fn to_user(&self, id: &str, body: &str) -> String {
        format!("{}({id}, {body})", self.one_of("to_user", "toUser", "toUser"))
    }

    pub(super) fn to_channel(&self, name: &str, body: &str) -> String {
        format!("{}({name}, {body})", self.one_of("to_channel", "toChannel", "toChannel"))
    }

    pub(super) fn broadcast(&self, body: &str) -> String {
        format!("broadcast({body})")
    }

    /// A body as written.
    pub(super) fn raw_json(&self, body: &[u8]) -> String {
        format!("{}({})", self.one_of("RawJson", "new RawJson", "new RawJson"), self.bytes(body))
    }

    /// A header's value in the language; none where the language has no such value.
    pub(super) fn literal(&self, letter: &str, value: &Value) -> Option<String> {
        use Tongue::{Java, Python, TypeScript};
        Some(match (letter, self.tongue) {
            ("b" | "B" | "s" | "u" | "I" | "i" | "l" | "L", tongue) => {
                let id = value.as_i64()?;
                let big = id.checked_abs().is_none_or(|id| id > SAFE);
                let suffix = match tongue {
                    TypeScript if big => "n",
                    Java => "L",
                    _ => "",
                };
                format!("{id}{suffix}")
            }
            ("S", _) => self.text(value)?,
            ("t", Python) => if value.as_bool()? { "True" } else { "False" }.to_owned(),
            ("t", _) => value.as_bool()?.to_string(),
            ("f" | "d", tongue) => match value.as_f64()? {
                whole if tongue == TypeScript && whole.fract() == 0.0 => return None,
                float => format!("{float:?}"),
            },
            ("D", Python) => format!("Decimal({}).scaleb(-{})", value["value"], value["scale"]),
            ("D", TypeScript) => format!("{{places: {}, digits: {}}}", value["scale"], value["value"]),
            ("D", Java) => format!("BigDecimal.valueOf({}, {})", value["value"], value["scale"]),
            ("x", _) => format!("b64({value})"),
            ("T", _) => self.one_of("datetime.fromtimestamp(0)", "new Date(0)", "new Date(0)").to_owned(),
            ("V", _) => self.one_of("None", "undefined", "null").to_owned(),
            ("A", _) => self.one_of("[42]", "[42]", "List.of(42)").to_owned(),
            ("F", _) => self.one_of(r#"{"id": 42}"#, r#"{"id": 42}"#, r#"Map.of("id", 42)"#).to_owned(),
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
        Some(match self.tongue {
            Tongue::Python => format!("{text} * {count} + {tail}"),
            Tongue::TypeScript | Tongue::Java => format!("{text}.repeat({count}) + {tail}"),
        })
    }

    /// The first for Python, the second for TypeScript, the third for Java.
    pub(super) fn one_of(
        &self,
        python: &'static str,
        typescript: &'static str,
        java: &'static str,
    ) -> &'static str {
        match self.tongue {
            Tongue::Python => python,
            Tongue::TypeScript => typescript,
            Tongue::Java => java,
        }
    }

    fn bytes(&self, bytes: &[u8]) -> String {
        let text = BASE64_STANDARD.encode(bytes);
        if self.tongue != Tongue::Java || text.is_empty() {
            return format!("b64(\"{text}\")");
        }
        // ASCII, so that any cut is between characters.
        let parts = text.as_bytes().chunks(MAX_JAVA_LITERAL);
        let parts: Vec<_> = parts.map(|part| format!("\"{}\"", String::from_utf8_lossy(part))).collect();
        format!("b64({})", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_what_the_language_makes_of_them() {
        for (letter, value, python, typescript, java) in [
            ("l", json!(42), Some("42"), Some("42"), Some("42L")),
            (
                "l",
                json!(i64::MIN),
                Some("-9223372036854775808"),
                Some("-9223372036854775808n"),
                Some("-9223372036854775808L"),
            ),
            ("d", json!(42.0), Some("42.0"), None, Some("42.0")),
            ("d", json!(3.7), Some("3.7"), Some("3.7"), Some("3.7")),
            ("t", json!(true), Some("True"), Some("true"), Some("true")),
            ("V", json!(null), Some("None"), Some("undefined"), Some("null")),
            ("S", json!(" 42"), Some("\" 42\""), Some("\" 42\""), Some("\" 42\"")),
            (
                "S",
                json!({"rep": ["0", 5], "tail": "42"}),
                Some("\"0\" * 5 + \"42\""),
                Some("\"0\".repeat(5) + \"42\""),
                Some("\"0\".repeat(5) + \"42\""),
            ),
        ] {
            assert_eq!(PYTHON.literal(letter, &value).as_deref(), python);
            assert_eq!(TYPESCRIPT.literal(letter, &value).as_deref(), typescript);
            assert_eq!(JAVA.literal(letter, &value).as_deref(), java);
        }
    }
}
