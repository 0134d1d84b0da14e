//! What one run of one row amounts to, as it is kept: `docs/reliability.jsonl`, one object a line.

use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::figures::Figures;
use super::row::order;

/// One row's last run in one form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) row: String,
    /// `short` or `long`.
    pub(super) form: String,
    pub(super) passed: bool,
    /// It failed, and only because it was too late, or too slow: a machine that is busy with other rows may be why.
    #[serde(skip)]
    pub(super) late: bool,
    /// Why it could not be run here.
    pub(super) skipped: Option<String>,
    pub(super) error: Option<String>,
    pub(super) seconds: f64,
    /// When it ended, in UTC.
    pub(super) date: String,
    pub(super) machine: String,
    pub(super) broker: String,
    /// The lobby's version and how it was built.
    pub(super) lobby: String,
    pub(super) command: String,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

impl Record {
    /// `ok`, `skipped` or `FAILED`.
    pub(super) fn verdict(&self) -> &'static str {
        match (self.passed, &self.skipped) {
            (_, Some(_)) => "skipped",
            (true, None) => "ok",
            (false, None) => "FAILED",
        }
    }
}

/// What the file holds; nothing when there is none.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Record>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let lines = text.lines().enumerate();
    lines
        .map(|(number, line)| {
            serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), number + 1))
        })
        .collect()
}

/// `kept` with what is new: each row has one record per form, of its last run that was not skipped.
pub(super) fn merged(kept: Vec<Record>, new: &[Record]) -> Vec<Record> {
    let done: Vec<_> = new.iter().filter(|record| record.skipped.is_none()).collect();
    let replaced = |old: &Record| done.iter().any(|new| new.row == old.row && new.form == old.form);
    let mut all: Vec<_> = kept.into_iter().filter(|old| !replaced(old)).collect();
    all.extend(done.into_iter().cloned());
    // Long before short: it is the row as it is written.
    all.sort_by(|a, b| order(&a.row).cmp(&order(&b.row)).then_with(|| a.form.cmp(&b.form)));
    all
}

/// The text of the file.
pub(super) fn text(records: &[Record]) -> anyhow::Result<String> {
    let lines = records.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
    let mut text = lines.context("records as JSON")?.join("\n");
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
pub(super) fn example(row: &str, form: &str, seconds: f64) -> Record {
    Record {
        row: row.to_owned(),
        form: form.to_owned(),
        passed: true,
        late: false,
        skipped: None,
        error: None,
        seconds,
        date: "2030-01-01 00:00".to_owned(),
        machine: "2 × x".to_owned(),
        broker: "RabbitMQ 3".to_owned(),
        lobby: "lobby 0.1.0, release build".to_owned(),
        command: "cargo xtask faults".to_owned(),
        figures: Figures::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_run_replaces_its_own_rows_and_keeps_the_others() {
        let kept = vec![example("B10", "long", 1.0), example("B2", "long", 1.0), example("B2", "short", 1.0)];
        let mut skipped = example("B10", "long", 0.0);
        skipped.skipped = Some("no broker of ours".to_owned());
        let all = merged(kept, &[example("C1", "short", 2.0), example("B2", "long", 2.0), skipped]);
        let seen: Vec<_> = all.iter().map(|r| (r.row.as_str(), r.form.as_str(), r.seconds)).collect();
        let want = [("B2", "long", 2.0), ("B2", "short", 1.0), ("B10", "long", 1.0), ("C1", "short", 2.0)];
        assert_eq!(seen, want);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r.jsonl");
        assert_eq!(read(&path).unwrap(), []);
        let records = [example("B1", "long", 1.5), example("R1", "short", 2.0)];
        std::fs::write(&path, text(&records).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), records);
        std::fs::write(&path, "{}\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("line 1"));
    }
}
