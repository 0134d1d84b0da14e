//! `${NAME}` and `${NAME:-default}` in a file's texts.

use std::collections::BTreeMap;

/// Puts the environment's variables into a text. `$$` means one dollar sign; nothing else is special, and what a
/// variable holds is not looked at again.
///
/// # Errors
/// A variable that is not set and has no default, or a `${` that is not closed. The error repeats no value.
pub fn expand(text: &str, environment: &BTreeMap<String, String>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let (inside, after) = after.split_once('}').ok_or("a `${` is not closed with `}`")?;
            let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, d)| (name, Some(d)));
            // As in a shell, `:-` takes an empty variable for one that is not set.
            let value = environment.get(name).filter(|value| default.is_none() || !value.is_empty());
            expanded.push_str(value.map(String::as_str).or(default).ok_or_else(|| {
                format!("the variable `{name}` is not set: set it, or write ${{{name}:-DEFAULT}}")
            })?);
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k20_variables_stand_for_their_values_and_defaults_for_those_that_are_missing() {
        let environment = [("HOST", "mq-1"), ("EMPTY", ""), ("NESTED", "${HOST}")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for (text, want) in [
            ("amqp://${HOST}:5672/%2f", Ok("amqp://mq-1:5672/%2f")),
            ("${HOST}${HOST}", Ok("mq-1mq-1")),
            ("${PORT:-5672}", Ok("5672")),
            ("${HOST:-other}", Ok("mq-1")),
            ("${EMPTY:-other}", Ok("other")),
            ("${EMPTY}", Ok("")),
            ("${PORT:-}", Ok("")),
            ("${NESTED}", Ok("${HOST}")),
            ("costs $5, $$5 and $${HOST}", Ok("costs $5, $5 and ${HOST}")),
            ("no variable", Ok("no variable")),
            ("${PORT}", Err("`PORT`")),
            ("${HOST", Err("not closed")),
        ] {
            match (expand(text, &environment), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{text}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{text}: {got}"),
                (got, want) => panic!("{text}: {got:?}, not {want:?}"),
            }
        }
    }
}
