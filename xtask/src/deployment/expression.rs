//! Which of the lobby's series a Prometheus expression asks for.

use std::fmt;

/// A metric of the lobby and the labels it is asked for with; without those that Prometheus itself adds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Selector {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<_> = self.labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        write!(f, "{}{{{}}}", self.name, labels.join(","))
    }
}

/// Labels that say which lobby, not which series of it.
const TARGET_LABELS: [&str; 2] = ["instance", "job"];

/// Every selector of a metric `lobby_…`. One for each value of `label=~"a|b"`, since each must be there.
pub(crate) fn selectors(expression: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("lobby_") {
        let begins = !rest[..at].ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_');
        let name_end = rest[at..]
            .find(|char: char| !(char.is_ascii_alphanumeric() || char == '_'))
            .map_or(rest.len(), |len| at + len);
        let name = &rest[at..name_end];
        rest = &rest[name_end..];
        if begins {
            let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let matchers = inside.map_or(Vec::new(), |(inside, _)| matchers(inside));
            found.extend(each_value(name, &matchers));
        }
    }
    found
}

/// `key="value"` and `key=~"a|b"` as the key and its values. Values have no comma, brace or quote in the lobby.
fn matchers(inside: &str) -> Vec<(&str, Vec<&str>)> {
    let matchers = inside.split(',').filter_map(|matcher| {
        let (key, value) = matcher.split_once('=')?;
        let value = value.trim_start_matches('~').trim().trim_matches('"');
        Some((key.trim(), value.split('|').collect()))
    });
    matchers.filter(|(key, _)| !TARGET_LABELS.contains(key)).collect()
}

fn each_value(name: &str, matchers: &[(&str, Vec<&str>)]) -> Vec<Selector> {
    let mut all = vec![Selector { name: name.to_owned(), labels: Vec::new() }];
    for (key, values) in matchers {
        all = all
            .into_iter()
            .flat_map(|selector| {
                values.iter().map(move |value| {
                    let mut selector = selector.clone();
                    selector.labels.push(((*key).to_owned(), (*value).to_owned()));
                    selector
                })
            })
            .collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_is_found_with_each_value_that_is_asked_for() {
        let found = |text| selectors(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            found("sum(rate(lobby_a_total{instance=~\".*\", outcome=~\"x|y\"}[5m])) > 0.5 * lobby_b"),
            ["lobby_a_total{outcome=\"x\"}", "lobby_a_total{outcome=\"y\"}", "lobby_b{}"]
        );
        assert_eq!(found("up{job=\"lobby\"} == 0 and not_lobby_c"), Vec::<String>::new());
        assert_eq!(found("lobby_d"), ["lobby_d{}"]);
    }
}
