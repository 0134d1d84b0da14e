//! Results as they come, and the table at the end.

use std::fmt;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use crate::late::is_late;

/// What became of one scenario.
#[derive(Debug)]
pub(super) struct Verdict {
    name: &'static str,
    took: Duration,
    error: Option<String>,
    /// It failed, and only because something did not come in time.
    late: bool,
    log: Vec<String>,
    facts: Vec<String>,
    skipped: Option<String>,
}

impl Verdict {
    pub(super) fn passed(name: &'static str, took: Duration, facts: Vec<String>) -> Self {
        Self { name, took, error: None, late: false, log: Vec::new(), facts, skipped: None }
    }

    pub(super) fn skipped(name: &'static str, took: Duration, reason: String) -> Self {
        Self { skipped: Some(reason), ..Self::passed(name, took, Vec::new()) }
    }

    pub(super) fn failed(
        name: &'static str,
        took: Duration,
        error: &anyhow::Error,
        log: Vec<String>,
    ) -> Self {
        let late = is_late(error);
        Self { name, took, error: Some(format!("{error:#}")), late, log, facts: Vec::new(), skipped: None }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it failed and a busy machine may be why.
    pub(super) fn is_late(&self) -> bool {
        self.late
    }

    /// What came of it alone, after this failure beside others, which stands in the report too.
    #[must_use]
    pub(super) fn again(self, mut alone: Self) -> Self {
        let why = self.error.unwrap_or_default();
        alone.facts.insert(
            0,
            format!("too late beside other scenarios: {}", why.lines().next().unwrap_or_default()),
        );
        alone
    }
}

impl fmt::Display for Verdict {
    /// The name and, of a failure, what went wrong and the lobby's last log lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(error) = &self.error {
            write!(f, "\n  {error}")?;
        }
        self.log.iter().try_for_each(|line| write!(f, "\n  | {line}"))
    }
}

/// Collects verdicts and shows them.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    verdicts: Vec<Verdict>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, verdicts: Vec::new() }
    }

    pub(super) fn add(&mut self, verdict: Verdict) {
        if self.json {
            let line = json!({
                "scenario": verdict.name,
                "passed": verdict.error.is_none() && verdict.skipped.is_none(),
                "skipped": verdict.skipped,
                "seconds": verdict.took.as_secs_f64(),
                "error": verdict.error,
                "facts": verdict.facts,
                "lobby_log": verdict.log,
            });
            println!("{line}");
        } else if verdict.error.is_some() {
            println!("FAILED  {verdict}");
        } else if let Some(reason) = &verdict.skipped {
            println!("skipped {}\n  {reason}", verdict.name);
        } else {
            println!("passed  {} ({:.1} s)", verdict.name, verdict.took.as_secs_f64());
        }
        self.verdicts.push(verdict);
    }

    /// Shows the table; an error when a scenario failed.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let failed: Vec<_> = self
            .verdicts
            .iter()
            .filter(|verdict| verdict.error.is_some())
            .map(|verdict| verdict.name)
            .collect();
        if !self.json {
            println!();
            for verdict in &self.verdicts {
                let mark = match (&verdict.error, &verdict.skipped) {
                    (Some(_), _) => "FAILED",
                    (None, Some(_)) => "skip  ",
                    (None, None) => "ok    ",
                };
                println!("{mark} {:>6.1} s  {}", verdict.took.as_secs_f64(), verdict.name);
                for fact in verdict.facts.iter().chain(&verdict.skipped) {
                    println!("                   {fact}");
                }
            }
            println!("{} scenarios, {} failed", self.verdicts.len(), failed.len());
        }
        if !failed.is_empty() {
            bail!("end-to-end scenarios failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::late::Late;

    #[test]
    fn who_was_too_late_beside_others_counts_as_it_does_alone_and_the_report_keeps_why() {
        let failed = |error: anyhow::Error| Verdict::failed("x", Duration::ZERO, &error, Vec::new());
        let late =
            || failed(anyhow::Error::new(Late("nothing came\nfor long".to_owned())).context("round 2"));
        assert!(late().is_late() && !failed(anyhow::anyhow!("3 lost")).is_late());
        let passed = late().again(Verdict::passed("x", Duration::ZERO, vec!["fast".to_owned()]));
        assert_eq!(passed.facts, ["too late beside other scenarios: round 2: nothing came", "fast"]);
        for (alone, fails) in [(passed, false), (late().again(late()), true)] {
            let mut report = Report::new(true);
            report.add(alone);
            assert_eq!(report.finish().is_err(), fails);
        }
    }
}
