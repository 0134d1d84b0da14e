//! `docs/log-events.md`: every event that the lobby logs, with its level and fields, read from the sources.
//!
//! Texts are constant, so that an event is counted and found by its `message`; a text with a variable in it is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, ensure};

pub(super) const DOCUMENT: &str = "docs/log-events.md";
const SOURCES: [&str; 3] = ["crates/lobby-bin/src", "crates/lobby-sessions/src", "crates/notify-amqp/src"];
/// From the most urgent on.
const LEVELS: [&str; 3] = ["error", "warn", "info"];

const HEAD: &str = "<!-- Made by `cargo xtask docs` from the sources. -->
# Log events

With `log.format` = \"json\" each line is an object: `timestamp`, `level`, `target`, `message` and the fields below. `message` is
the event's name: a constant text, which changes only with a note in [CHANGELOG.md](../CHANGELOG.md). *error* wants a person,
*warn* says that something is worse than it should be, *info* tells each step of a lobby's life once. Where messages or clients could flood the
log, `suppressed` counts the lines that were left out before this one. No secret and no token stands in a log.

";

/// One event.
#[derive(Debug, PartialEq)]
struct Event {
    level: &'static str,
    message: String,
    fields: BTreeSet<String>,
}

/// The document as the sources make it.
pub(super) fn document() -> anyhow::Result<String> {
    let mut events: BTreeMap<(usize, String), BTreeSet<String>> = BTreeMap::new();
    for folder in SOURCES {
        collect(Path::new(folder), &mut |event| {
            let level = LEVELS.iter().position(|level| *level == event.level).unwrap_or_default();
            events.entry((level, event.message)).or_default().extend(event.fields);
        })?;
    }
    let mut text = HEAD.to_owned();
    for (number, level) in LEVELS.iter().enumerate() {
        text.push_str(&format!("## {level}\n| message | fields |\n| --- | --- |\n"));
        for ((_, message), fields) in events.iter().filter(|((level, _), _)| *level == number) {
            let fields: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
            text.push_str(&format!("| {} | {} |\n", message.replace('|', "\\|"), fields.join(", ")));
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    Ok(text)
}

fn collect(folder: &Path, found: &mut impl FnMut(Event)) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path)?;
            let shown = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            for event in events(shown) {
                let event = event.with_context(|| path.display().to_string())?;
                found(event);
            }
        }
    }
    Ok(())
}

/// The events of one source. Pure.
fn events(source: &str) -> Vec<anyhow::Result<Event>> {
    let mut found = Vec::new();
    for level in LEVELS {
        let call = format!("{level}!(");
        for (at, _) in source.match_indices(&call) {
            let before = source[..at].chars().next_back();
            if before.is_some_and(|before| before.is_alphanumeric() || before == '_') {
                continue;
            }
            let line = source[..at].rsplit('\n').next().unwrap_or_default();
            if !line.trim_start().starts_with("//") {
                found.push(event(level, &source[at + call.len()..]));
            }
        }
    }
    found
}

fn event(level: &'static str, rest: &str) -> anyhow::Result<Event> {
    let (mut message, mut fields) = (None, BTreeSet::new());
    for argument in arguments(rest) {
        if let Some(text) = argument.strip_prefix('"') {
            let text = text.strip_suffix('"').with_context(|| format!("a text without an end: {text}"))?;
            message = Some(text.replace("\\\n", "\n").split_whitespace().collect::<Vec<_>>().join(" "));
        } else {
            let name = argument.split('=').next().unwrap_or_default().trim().trim_start_matches(['%', '?']);
            let name = name.rsplit('.').next().unwrap_or_default();
            if !name.contains(':') && !name.is_empty() {
                fields.insert(name.to_owned());
            }
        }
    }
    let message = message.with_context(|| format!("{level}! without a text"))?;
    ensure!(!message.contains('{'), "`{message}` has a variable in its text: facts belong into fields");
    Ok(Event { level, message, fields })
}

/// The arguments of a call, from behind its opening parenthesis to the closing one.
fn arguments(rest: &str) -> Vec<&str> {
    let (mut found, mut start, mut depth, mut in_text, mut escaped) = (Vec::new(), 0, 0_u32, false, false);
    for (at, char) in rest.char_indices() {
        if in_text {
            in_text = escaped || char != '"';
            escaped = !escaped && char == '\\';
            continue;
        }
        match char {
            '"' => in_text = true,
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => {
                found.push(rest[start..at].trim());
                break;
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                found.push(rest[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    found.retain(|argument| !argument.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_its_level_its_text_and_the_names_of_its_fields() {
        let source = "x; warn!(reason = y.as_str(), detail = f(1, \"a, b\"), %peer, self.limit, told,\n \"message \\\n   dropped\");\n// info!(\"no\")\n tell_info!(\"no\")";
        let found: Vec<_> = events(source).into_iter().map(Result::unwrap).collect();
        let fields = ["reason", "detail", "peer", "limit", "told"].map(str::to_owned);
        let wanted = Event { level: "warn", message: "message dropped".to_owned(), fields: fields.into() };
        assert_eq!(found, [wanted]);
    }

    #[test]
    fn a_text_with_a_variable_in_it_is_refused() {
        assert!(events("error!(\"session {id} is slow\");").remove(0).is_err());
        assert!(events("info!(id);").remove(0).is_err());
    }
}
