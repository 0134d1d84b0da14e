//! The layer of the file: TOML, with the environment's variables in its texts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    expand::expand,
    load::{ConfigError, Loaded, Origin, set, unknown},
    settings::Setting,
};

/// Files that are read when none is named; those that do not exist are passed over.
const USUAL_FILES: [&str; 2] = ["lobby.toml", "/etc/lobby/lobby.toml"];

/// The file that is named, or the first of the usual ones that exists; and its text.
pub fn read(named: Option<&Path>) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|e| ConfigError::File { path: path.display().to_string(), problem: e.to_string() })
    };
    match named {
        Some(path) => Ok(Some((path.to_owned(), read(path)?))),
        None => match USUAL_FILES.iter().map(Path::new).find(|p| p.is_file()) {
            Some(path) => Ok(Some((path.to_owned(), read(path)?))),
            None => Ok(None),
        },
    }
}

/// Sets what stands in a file.
pub fn apply(
    loaded: &mut Loaded,
    path: &Path,
    text: &str,
    environment: &BTreeMap<String, String>,
) -> Result<(), ConfigError> {
    let in_file = |problem: String| ConfigError::File { path: path.display().to_string(), problem };
    let wrong = |error: toml::de::Error| in_file(in_line(&error, text));
    let document: toml::Table = text.parse().map_err(wrong)?;
    let lines = Lines { text, document: DeTable::parse(text).map_err(wrong)?.into_inner() };
    for (section, keys) in document {
        let toml::Value::Table(keys) = keys else {
            let line = lines.of(&section, None);
            return Err(unknown(&section, "", &Origin::File { path: path.to_owned(), line }));
        };
        for (key, value) in keys {
            let line = lines.of(&section, Some(&key));
            let problem = |problem: &str| in_file(format!("line {line}: `{section}.{key}`: {problem}"));
            let command =
                Setting::find(&section, &key).is_some_and(|s| s.name() == "broker.password_command");
            let value = expanded(value, environment).map_err(|wrong| problem(&wrong))?;
            let value = if command { command_text(&value) } else { scalar_text(&value) };
            let value =
                value.ok_or_else(|| problem("expected a text, a number, true, false or a list of texts"))?;
            set(loaded, &section, &key, &value, Origin::File { path: path.to_owned(), line })?;
        }
    }
    Ok(())
}

/// Where keys stand in a file, which values do not tell.
struct Lines<'a> {
    text: &'a str,
    document: DeTable<'a>,
}

impl Lines<'_> {
    /// The line of a section's key, or of the section's own name; from 1.
    fn of(&self, section: &str, key: Option<&str>) -> usize {
        let place = self.document.get_key_value(section).and_then(|(name, value)| match key {
            None => Some(name.span().start),
            Some(key) => Some(value.get_ref().as_table()?.get_key_value(key)?.0.span().start),
        });
        line(self.text, place.unwrap_or_default())
    }
}

fn line(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or_default().matches('\n').count() + 1
}

/// The parser's own text shows the line, which may hold a secret.
fn in_line(error: &toml::de::Error, text: &str) -> String {
    let at = error.span().map_or(0, |span| span.start);
    format!("line {}: {}", line(text, at), error.message())
}

/// The environment's variables stand in texts only, each in its own: what one holds is no further word of a list.
fn expanded(value: toml::Value, environment: &BTreeMap<String, String>) -> Result<toml::Value, String> {
    Ok(match value {
        toml::Value::String(text) => toml::Value::String(expand(&text, environment)?),
        toml::Value::Array(items) => {
            let items: Result<_, String> =
                items.into_iter().map(|item| expanded(item, environment)).collect();
            toml::Value::Array(items?)
        }
        other => other,
    })
}

fn scalar_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(|i| i.as_str()).collect();
            Some(items?.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// A list of words keeps its words, whatever is in them.
fn command_text(value: &toml::Value) -> Option<String> {
    let toml::Value::Array(items) = value else { return scalar_text(value) };
    let words: Option<Vec<_>> = items.iter().map(|item| item.as_str()).collect();
    shlex::try_join(words?).ok()
}

#[cfg(test)]
mod tests {
    use crate::config::{Sources, load};

    fn refused(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("written");
        let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
        let error = load(&sources).expect_err(text).to_string();
        error.replace(&file.path().display().to_string(), "FILE")
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_line() {
        for (text, says) in [
            (
                "# ours\n[broker]\nprefetch = 'many'\n",
                "`broker.prefetch` = \"many\" (file FILE, line 3): expected",
            ),
            (
                "[log]\nlevel = 'info'\n\n[brocker]\nurl = 'x'\n",
                "unknown key `brocker.url` in file FILE, line 5",
            ),
            ("[log]\n[broker]\n\n\npreftech = 1\n", "line 5; did you mean `broker.prefetch`?"),
            ("\nurl = 'x'\n", "unknown key `url` in file FILE, line 2"),
            ("log.level = 'info'\nbroker.prefetch = 0\n", "(file FILE, line 2): expected a whole number"),
            ("broker = { exchange = 'a',\n prefetch = 0 }\n", "(file FILE, line 2): expected a whole number"),
            ("[log]\n\nlevel = 1979-05-27\n", "file FILE: line 3: `log.level`: expected a text"),
            ("[log]\nlevel = '${LOBBY_NOWHERE}'\n", "file FILE: line 2: `log.level`: the variable"),
            ("[auth]\nsecret = \"hunter2\n", "file FILE: line 2: "),
        ] {
            let error = refused(text);
            assert!(error.contains(says) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
