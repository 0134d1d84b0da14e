//! One measurement, and many of them as median, least and most.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{subject::Subject, targets::short};

/// The figures of one measurement by name; the names carry their units.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) scenario: String,
    pub(super) subject: Subject,
    /// Which repetition, from 1.
    pub(super) run: u32,
    pub(super) figures: BTreeMap<&'static str, f64>,
}

impl Sample {
    pub(super) fn json(&self) -> Value {
        json!({
            "scenario": self.scenario,
            "subject": self.subject.name(),
            "run": self.run,
            "figures": self.figures,
        })
    }

    /// The figures that matter most, in one line.
    pub(super) fn text(&self) -> String {
        const MATTER: [(&str, &str); 9] = [
            ("cpu_us", "µs of CPU a delivery"),
            ("deliveries_per_s", "deliveries/s"),
            ("p99_ms", "ms p99"),
            ("lost", "lost"),
            ("bytes_per_connection", "bytes a connection"),
            ("p99_ratio", "× p99 when all read"),
            ("closed_too_slow", "closed with 4000"),
            ("consumer_cpu_us", "µs of CPU a message"),
            ("messages_per_s", "messages/s"),
        ];
        let shown = MATTER.iter().filter_map(|(name, unit)| {
            let value = self.figures.get(name)?;
            Some(format!("{} {unit}", short(*value)))
        });
        format!("{}: {}", self.scenario, shown.collect::<Vec<_>>().join(", "))
    }
}

/// A subject that took no part.
#[derive(Debug, Clone)]
pub(super) struct Absence {
    pub(super) subject: Subject,
    pub(super) reason: String,
}

impl Absence {
    pub(super) fn json(&self) -> Value {
        json!({"subject": self.subject.name(), "absent": self.reason})
    }
}

/// A figure over all repetitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, least, most })
    }
}

/// All samples of a command.
#[derive(Debug, Default)]
pub(super) struct Results {
    samples: Vec<Sample>,
    pub(super) absent: Vec<Absence>,
    remarks: Vec<String>,
}

impl Results {
    pub(super) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Something that figures do not say.
    pub(super) fn remark(&mut self, text: String) {
        self.remarks.push(text);
    }

    /// Who took no part, and what else must be known to read the figures.
    pub(super) fn remarks(&self) -> Vec<String> {
        let absent = self.absent.iter().map(|Absence { subject, reason }| {
            // apt's reasons have several lines; the first says it.
            format!("{} was not measured: {}", subject.name(), reason.lines().next().unwrap_or_default())
        });
        absent.chain(self.remarks.iter().cloned()).collect()
    }

    /// The scenarios that were measured, in the order in which they first were.
    pub(super) fn scenarios(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for sample in &self.samples {
            if !names.contains(&sample.scenario.as_str()) {
                names.push(&sample.scenario);
            }
        }
        names
    }

    /// One figure of one subject in one scenario.
    pub(super) fn spread(&self, scenario: &str, subject: Subject, figure: &str) -> Option<Spread> {
        let samples =
            self.samples.iter().filter(|sample| sample.scenario == scenario && sample.subject == subject);
        Spread::of(samples.filter_map(|sample| sample.figures.get(figure).copied()).collect())
    }

    /// The median of [`Results::spread`].
    pub(super) fn median(&self, scenario: &str, subject: Subject, figure: &str) -> Option<f64> {
        self.spread(scenario, subject, figure).map(|spread| spread.median)
    }

    /// The most repetitions that anything was measured.
    pub(super) fn runs(&self) -> u32 {
        self.samples.iter().map(|sample| sample.run).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_has_the_middle_and_the_ends() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![3.0, 1.0, 9.0]), Some(Spread { median: 3.0, least: 1.0, most: 9.0 }));
        assert_eq!(Spread::of(vec![4.0, 2.0]).map(|spread| spread.median), Some(3.0));
    }
}
