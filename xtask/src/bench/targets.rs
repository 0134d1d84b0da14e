//! What the figures should be, and whether they are.

use super::{
    sample::Results,
    subject::Subject::{self, FloorWrite, FloorWritev, LobbyTcp, LobbyWebSocket},
};

/// One figure with its limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) scenario: &'static str,
    pub(super) subject: Subject,
    pub(super) figure: &'static str,
    pub(super) limit: Limit,
}

/// How a figure's median is judged.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    AtMost(f64),
    AtLeast(f64),
    /// At most so many times what this subject has in the same scenario.
    Times(f64, Subject),
    /// At most so many times what the same subject has in this scenario.
    TimesOf(f64, &'static str),
}

/// A target that could be judged.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) text: String,
    pub(super) got: String,
    pub(super) met: bool,
}

const SATURATED: [&str; 2] = ["broadcast-saturated-1000", "broadcast-saturated-5000"];
const PACED: [&str; 2] = ["broadcast-paced-1000", "broadcast-paced-5000"];
const IDLE: [&str; 3] = ["idle-1000", "idle-10000", "idle-18000"];
const UNICAST: &str = "unicast-saturated-1000";
/// Server CPU of the Python lobby for one saturated unicast, which this one replaces.
const PYTHON_UNICAST_US: f64 = 344.0;

/// All targets.
pub(super) fn all() -> Vec<Target> {
    let mut targets = Vec::new();
    let mut add =
        |scenario, subject, figure, limit| targets.push(Target { scenario, subject, figure, limit });
    for scenario in SATURATED {
        add(scenario, LobbyTcp, "cpu_us", Limit::Times(1.3, FloorWritev));
        add(scenario, LobbyWebSocket, "cpu_us", Limit::Times(1.4, FloorWritev));
    }
    for scenario in PACED {
        for subject in Subject::LOBBIES {
            add(scenario, subject, "cpu_us", Limit::Times(1.15, FloorWrite));
            add(scenario, subject, "p99_ms", Limit::Times(1.2, FloorWrite));
        }
    }
    for subject in Subject::LOBBIES {
        add(UNICAST, subject, "cpu_us", Limit::AtMost(20.0));
        add(UNICAST, subject, "cpu_us", Limit::AtMost(PYTHON_UNICAST_US / 15.0));
    }
    for (subject, kib) in [(LobbyTcp, 1.5), (LobbyWebSocket, 2.5)] {
        for scenario in IDLE {
            add(scenario, subject, "bytes_per_connection", Limit::AtMost(kib * 1024.0));
        }
        add(IDLE[2], subject, "bytes_per_connection", Limit::TimesOf(1.1, IDLE[0]));
    }
    for subject in Subject::LOBBIES {
        add("slow-readers", subject, "p99_ratio", Limit::AtMost(1.1));
        add("slow-readers", subject, "outboxes_mib", Limit::AtMost(10.0));
    }
    for scenario in [SATURATED[0], SATURATED[1], UNICAST] {
        for subject in Subject::LOBBIES {
            add(scenario, subject, "deliveries", Limit::AtLeast(500_000.0));
        }
    }
    targets
}

/// Judges what was measured; a target without its figures is left out, and so is the number of deliveries when the
/// plan has fewer.
pub(super) fn judge(results: &Results, planned_deliveries: u64) -> Vec<Verdict> {
    let asked = |target: &&Target| match target.limit {
        Limit::AtLeast(least) => planned_deliveries as f64 >= least,
        _ => true,
    };
    all().iter().filter(asked).filter_map(|target| target.judge(results)).collect()
}

impl Target {
    fn judge(&self, results: &Results) -> Option<Verdict> {
        let Self { scenario, subject, figure, limit } = *self;
        let median = results.median(scenario, subject, figure)?;
        let times = |base: f64| if base > 0.0 { median / base } else { f64::INFINITY };
        let (wanted, got, met) = match limit {
            Limit::AtMost(most) => (format!("≤ {}", short(most)), median, median <= most),
            Limit::AtLeast(least) => {
                (format!("≥ {}, none lost or reordered", short(least)), median, median >= least)
            }
            Limit::Times(most, base) => {
                let ratio = times(results.median(scenario, base, figure)?);
                (format!("≤ {} × {}", short(most), base.name()), ratio, ratio <= most)
            }
            Limit::TimesOf(most, other) => {
                let ratio = times(results.median(other, subject, figure)?);
                (format!("≤ {} × {other}", short(most)), ratio, ratio <= most)
            }
        };
        let ratio = matches!(limit, Limit::Times(..) | Limit::TimesOf(..));
        let got = format!("{}{}", short(got), if ratio { " ×" } else { "" });
        Some(Verdict { text: format!("{scenario}, {}: {figure} {wanted}", subject.name()), got, met })
    }
}

/// A number with as many digits as it deserves.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::sample::Sample;

    #[test]
    fn a_ratio_is_judged_by_medians_of_the_same_run_and_what_was_not_measured_is_left_out() {
        let mut results = Results::default();
        for (subject, value) in [(FloorWritev, 0.5), (LobbyTcp, 0.6), (LobbyWebSocket, 0.8)] {
            let figures = BTreeMap::from([("cpu_us", value)]);
            results.add(Sample { scenario: SATURATED[0].to_owned(), subject, run: 1, figures });
        }
        let verdicts: Vec<_> =
            judge(&results, 0).into_iter().map(|verdict| (verdict.got, verdict.met)).collect();
        assert_eq!(verdicts, [("1.20 ×".to_owned(), true), ("1.60 ×".to_owned(), false)]);
    }
}
