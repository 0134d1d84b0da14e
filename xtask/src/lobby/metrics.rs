//! One scrape of Prometheus text.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context as _;

/// All samples of a scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Metrics(Vec<Sample>);

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        samples
            .map(|line| sample(line).with_context(|| format!("metric `{line}`")))
            .collect::<anyhow::Result<_>>()
            .map(Self)
    }

    /// The sum of all samples of `name` that carry these labels; 0 when there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matching = self.0.iter().filter(|sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).map(String::as_str) == Some(*value))
        });
        matching.map(|sample| sample.value).sum()
    }

    /// [`Self::sum`] of a counter, as the whole number it is.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counters are whole and positive"
        )]
        let count = self.sum(name, labels).round() as u64;
        count
    }

    /// Deliveries with this outcome.
    pub(crate) fn deliveries(&self, outcome: &str) -> u64 {
        self.count("lobby_deliveries_total", &[("outcome", outcome)])
    }

    /// Whether any sample has this name, or this name with a histogram's or summary's ending.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|sample| {
            sample
                .name
                .strip_prefix(name)
                .is_some_and(|rest| matches!(rest, "" | "_bucket" | "_sum" | "_count"))
        })
    }

    /// The names, each once.
    pub(crate) fn names(&self) -> std::collections::BTreeSet<&str> {
        self.0.iter().map(|sample| sample.name.as_str()).collect()
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sample in self.0.iter().filter(|sample| !sample.name.ends_with("_bucket")) {
            let labels: Vec<_> = sample.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            writeln!(f, "  {}{{{}}} {}", sample.name, labels.join(","), sample.value)?;
        }
        Ok(())
    }
}

/// `name{key="value",…} number`.
fn sample(line: &str) -> anyhow::Result<Sample> {
    let (head, value) = line.rsplit_once(' ').context("no value")?;
    let value = value.parse().context("the value is not a number")?;
    let Some((name, rest)) = head.split_once('{') else {
        return Ok(Sample { name: head.to_owned(), labels: BTreeMap::new(), value });
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}').context("labels without an end")?;
    while let Some((key, after)) = rest.split_once("=\"") {
        let mut text = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().context("a label without an end")? {
                (end, '"') => break end,
                (_, '\\') => text.push(match chars.next().context("a label without an end")?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => text.push(other),
            }
        };
        labels.insert(key.trim_start_matches(',').to_owned(), text);
        rest = &after[end + 1..];
    }
    Ok(Sample { name: name.to_owned(), labels, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_labels() {
        let text = "# HELP x y\nlobby_d{outcome=\"dropped\",reason=\"a\"} 2\n\
                    lobby_d{outcome=\"dropped\",reason=\"b \\\"q\\\"\"} 3\nlobby_d{outcome=\"unicast\"} 5\nup 1\n\
                    t_bucket{le=\"+Inf\"} 9\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.count("lobby_d", &[]), 10);
        assert_eq!(metrics.count("lobby_d", &[("outcome", "dropped")]), 5);
        assert_eq!(metrics.count("lobby_d", &[("reason", "b \"q\"")]), 3);
        assert_eq!(metrics.count("absent", &[]), 0);
        assert!(metrics.has("t") && metrics.has("up") && !metrics.has("lobby"));
        assert!(Metrics::parse("lobby_d{").is_err());
    }
}
