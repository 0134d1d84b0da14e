//! One measurement, and many of them as median, least and most.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::subject::Subject;

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
pub(super) struct Results(Vec<Sample>);

impl Results {
    pub(super) fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// The scenarios that were measured, in the order in which they first were.
    pub(super) fn scenarios(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for sample in &self.0 {
            if !names.contains(&sample.scenario.as_str()) {
                names.push(&sample.scenario);
            }
        }
        names
    }

    /// One figure of one subject in one scenario.
    pub(super) fn spread(&self, scenario: &str, subject: Subject, figure: &str) -> Option<Spread> {
        let samples = self.0.iter().filter(|sample| sample.scenario == scenario && sample.subject == subject);
        Spread::of(samples.filter_map(|sample| sample.figures.get(figure).copied()).collect())
    }

    /// The median of [`Results::spread`].
    pub(super) fn median(&self, scenario: &str, subject: Subject, figure: &str) -> Option<f64> {
        self.spread(scenario, subject, figure).map(|spread| spread.median)
    }

    /// The most repetitions that anything was measured.
    pub(super) fn runs(&self) -> u32 {
        self.0.iter().map(|sample| sample.run).max().unwrap_or(0)
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
