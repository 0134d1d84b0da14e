//! What libFuzzer said, as rows.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

/// One target's run.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row {
    target: String,
    /// Inputs that were tried.
    inputs: u64,
    seconds: f64,
    inputs_per_second: u64,
    /// Edges of the program that some input reached.
    edges: u64,
    /// Inputs that reached something new, now and before.
    corpus: u64,
    peak_memory_mib: u64,
    /// The input that broke a promise, if one did, or that the log tells more.
    finding: Option<Finding>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Finding {
    input: Option<PathBuf>,
    program: PathBuf,
    log: PathBuf,
}

impl Row {
    /// Reads libFuzzer's log.
    ///
    /// # Errors
    /// The target ended well and left no figures.
    pub(super) fn read(
        target: &str,
        text: &str,
        took: Duration,
        ended_well: bool,
        program: &Path,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let figure = |name: &str| {
            let line = text.lines().rev().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().parse().ok()
        };
        // `#123 NEW cov: 45 ft: 67 corp: 8/90b …`
        let progress = |name: &str| {
            let line = text.lines().rev().find(|line| line.starts_with('#') && line.contains(name))?;
            let after = line.split_once(name)?.1.trim_start();
            after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let finding = (!ended_well).then(|| {
            let input = text.lines().find_map(|line| line.split_once("Test unit written to "));
            Finding {
                input: input.map(|(_, path)| path.trim().into()),
                program: program.to_owned(),
                log: log.to_owned(),
            }
        });
        let inputs: Option<u64> = figure("stat::number_of_executed_units");
        let inputs = match (inputs, &finding) {
            (None, None) => return Err(anyhow::anyhow!("{target}: no figures in {}", log.display())),
            (inputs, _) => inputs.unwrap_or(0),
        };
        let seconds = took.as_secs_f64();
        Ok(Self {
            target: target.to_owned(),
            inputs,
            seconds: (seconds * 10.0).round() / 10.0,
            inputs_per_second: (inputs as f64 / seconds.max(0.001)) as u64,
            edges: progress("cov:").unwrap_or(0),
            corpus: progress("corp:").unwrap_or(0),
            peak_memory_mib: figure("stat::peak_rss_mb").unwrap_or(0),
            finding,
        })
    }

    /// What to do about a finding.
    pub(super) fn advice(&self) -> Option<String> {
        let Finding { input, program, log } = self.finding.as_ref()?;
        let target = &self.target;
        Some(match input {
            Some(input) => format!(
                "{target}: a promise is broken; the log is {}. Again: {} {}. Mend it, and keep the input in \
                 fuzz/corpus/{target}/",
                log.display(),
                program.display(),
                input.display()
            ),
            None => format!("{target}: failed; the log is {}", log.display()),
        })
    }
}

/// For people.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table = format!(
        "{:<14} {:>14} {:>8} {:>10} {:>7} {:>7} {:>8}  outcome\n",
        "target", "inputs", "seconds", "inputs/s", "edges", "corpus", "MiB"
    );
    for row in rows {
        let outcome = if row.finding.is_some() { "FINDING" } else { "ok" };
        let _ = writeln!(
            table,
            "{:<14} {:>14} {:>8.1} {:>10} {:>7} {:>7} {:>8}  {outcome}",
            row.target,
            row.inputs,
            row.seconds,
            row.inputs_per_second,
            row.edges,
            row.corpus,
            row.peak_memory_mib
        );
    }
    table.truncate(table.trim_end().len());
    table
}

/// For programs: a list of objects.
pub(super) fn json(rows: &[Row]) -> anyhow::Result<String> {
    serde_json::to_string_pretty(rows).context("write JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "INFO: Seed: 1\n#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb\n\
        #500\tREDUCE cov: 321 ft: 400 corp: 17/2Kb lim: 4 exec/s: 0 rss: 31Mb L: 1/1 MS: 1 -\n\
        #1000\tDONE   cov: 321 ft: 400 corp: 17/2Kb lim: 4 exec/s: 500 rss: 31Mb\nDone 1000 runs in 2 second(s)\n\
        stat::number_of_executed_units: 1000\nstat::peak_rss_mb:              31\n";

    fn read(text: &str, ended_well: bool) -> anyhow::Result<Row> {
        let took = Duration::from_secs(2);
        Row::read("line", text, took, ended_well, Path::new("/t/line"), Path::new("/t/log"))
    }

    #[test]
    fn the_figures_of_a_log_become_a_row() {
        let row = read(LOG, true).unwrap();
        assert_eq!((row.inputs, row.inputs_per_second, row.edges), (1000, 500, 321));
        assert_eq!((row.corpus, row.peak_memory_mib, row.advice()), (17, 31, None));
        assert!(table(&[row]).ends_with("ok"));
        assert!(read("killed", true).is_err(), "no figures");
    }

    #[test]
    fn a_finding_says_where_the_input_is_and_what_to_do() {
        let text = format!("{LOG}artifact_prefix='/t/'; Test unit written to /t/crash-1\n");
        let row = read(&text, false).unwrap();
        let advice = row.advice().unwrap();
        assert!(advice.contains("/t/line /t/crash-1") && advice.contains("fuzz/corpus/line/"), "{advice}");
        assert!(json(&[row]).unwrap().contains("\"input\": \"/t/crash-1\""));
        assert!(read("", false).unwrap().advice().unwrap().contains("/t/log"));
    }
}
