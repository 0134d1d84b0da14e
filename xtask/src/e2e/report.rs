//! Results as they come, and the table at the end.

use std::time::Duration;

use anyhow::bail;
use serde_json::json;

/// What became of one scenario.
#[derive(Debug)]
pub(super) struct Verdict {
    name: &'static str,
    took: Duration,
    error: Option<String>,
    log: Vec<String>,
    facts: Vec<String>,
    skipped: Option<String>,
}

impl Verdict {
    pub(super) fn passed(name: &'static str, took: Duration, facts: Vec<String>) -> Self {
        Self { name, took, error: None, log: Vec::new(), facts, skipped: None }
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
        Self { name, took, error: Some(format!("{error:#}")), log, facts: Vec::new(), skipped: None }
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
        } else if let Some(error) = &verdict.error {
            println!("FAILED  {}\n  {error}", verdict.name);
            for line in &verdict.log {
                println!("  | {line}");
            }
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
