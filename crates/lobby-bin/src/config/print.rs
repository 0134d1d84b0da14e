//! The configuration as text: the commented default file, the effective values, the table for the documentation.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{
    load::{Loaded, Origin},
    settings::{SETTINGS, Setting},
    value::without_login,
};

/// A commented file that sets every key to its default.
pub fn default_file() -> String {
    let mut out = String::from(
        "# The lobby's configuration. Every key may also be set by the environment as LOBBY_<SECTION>__<KEY>.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            let _ = write!(out, "\n[{section}]\n");
        }
        let default = toml::Value::String(setting.default.to_owned());
        let _ = write!(out, "# {}\n{} = {default}\n", setting.help, setting.key);
    }
    out
}

/// Each key with its value in force and where that came from; secrets hidden.
pub fn effective(loaded: &Loaded) -> String {
    let width = SETTINGS.iter().map(|s| s.name().len()).max().unwrap_or_default();
    let mut out = String::new();
    for setting in SETTINGS {
        let name = setting.name();
        if let Some((value, origin)) = loaded.values.get(&name) {
            let _ = writeln!(out, "{name:width$} = {:?}  ({origin})", shown(loaded, setting, value));
        }
    }
    out
}

/// The same for programs: `settings` by key, and the `warnings`.
pub fn effective_json(loaded: &Loaded) -> Value {
    let settings: Map<_, _> = SETTINGS
        .iter()
        .filter_map(|setting| {
            let (value, origin) = loaded.values.get(&setting.name())?;
            let about = json!({
                "value": shown(loaded, setting, value),
                "origin": origin.to_string(),
                "is_default": *origin == Origin::Default,
                "secret": setting.secret,
                "environment": setting.variable(),
            });
            Some((setting.name(), about))
        })
        .collect();
    json!({"settings": settings, "warnings": loaded.warnings})
}

/// A value as people may see it.
pub fn shown(loaded: &Loaded, setting: &Setting, value: &str) -> String {
    match (setting.name().as_str(), setting.secret) {
        ("broker.url", _) => loaded.config.broker_url.to_string(),
        ("instance.name", _) => loaded.config.instance_name.as_str().to_owned(),
        ("auth.jwks", _) => without_login(value),
        (_, true) if value.is_empty() => "(none)".to_owned(),
        (_, true) => "***".to_owned(),
        (_, false) => value.to_owned(),
    }
}

/// The table of all keys for `docs/configuration.md`.
pub fn markdown_table() -> String {
    let mut out = String::from("| key | environment | default | meaning |\n| --- | --- | --- | --- |\n");
    for setting in SETTINGS {
        let default =
            if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
        let help = setting.help.replace('|', "\\|");
        let _ = writeln!(out, "| `{}` | `{}` | {default} | {help} |", setting.name(), setting.variable());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    #[test]
    fn the_default_file_loads_and_changes_nothing() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), default_file()).expect("written");
        let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
        let from_file = load(&sources).expect("accepted");
        let from_nothing = load(&Sources::default()).expect("accepted");
        assert_eq!(format!("{:?}", from_file.config), format!("{:?}", from_nothing.config));
    }

    #[test]
    fn effective_values_show_their_origin_and_no_secret() {
        let environment = [
            ("LOBBY_AUTH__SECRET", "hunter2"),
            ("LOBBY_BROKER__URL", "amqp://u:hunter2@h:1/v"),
            ("LOBBY_BROKER__PREFETCH", "7"),
        ];
        let sources = Sources {
            environment: environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..Sources::default()
        };
        let text = effective(&load(&sources).expect("accepted"));
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("environment LOBBY_BROKER__PREFETCH") && text.contains("\"7\""), "{text}");
        let json = effective_json(&load(&sources).expect("accepted"));
        assert!(!json.to_string().contains("hunter2"), "{json}");
        let prefetch = json!({
            "value": "7", "origin": "environment LOBBY_BROKER__PREFETCH", "is_default": false, "secret": false,
            "environment": "LOBBY_BROKER__PREFETCH",
        });
        assert_eq!(json["settings"]["broker.prefetch"], prefetch);
        assert_eq!(json["settings"].as_object().map(Map::len), Some(SETTINGS.len()));
    }
}
