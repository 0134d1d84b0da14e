//! `docs/RELIABILITY.md`, made from the records of the last run of each row.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::record::{self, Record};
use super::report::{cells, row_of};

const DOCUMENT: &str = "docs/RELIABILITY.md";
const RECORDS: &str = "docs/reliability.jsonl";

const GROUPS: [(&str, &str); 10] = [
    ("B", "The broker and the way to it"),
    ("R", "Brokers that go away"),
    ("C", "Clients"),
    ("P", "Publishers"),
    ("I", "Hostile clients"),
    ("A", "Login"),
    ("L", "Load"),
    ("X", "Resources"),
    ("S", "Deployment"),
    ("G", "Configuration"),
];

const HEAD: &str = "<!-- Made by `cargo xtask faults` from docs/reliability.jsonl. -->
# Reliability

Each row is a fault that was produced on purpose, with real processes: a broker, lobbies, publishers with a ledger of what
the broker confirmed, and clients that note every line. `cargo xtask faults --only B4` runs one again; `--quick` runs the
short form of all, as CI does; `--long` the long form also of those that take many minutes.

*Survived* counts pairs of a message and a client that had to meet and did; *lost* those that did not. What must not be
lost is confirmed, routed, persistent and valid, its queue exists, and the addressed session is logged in and keeps up all
the while. *Twice* counts what a client got again; *no flag* those of them that the broker had not marked as redelivered.
*Recovery* is the time from the fault, or from the moment the broker is back, to the first new message at a client, if the
row says nothing else; publishers, clients, broker and lobbies share the machine, and how busy it was shows in it. *Peak* is
the most memory that a lobby's process held. A row fails when something is lost, comes out of order or to somebody else,
when a descriptor stays open (but for four of a runtime that the AMQP library makes for itself, once, when an attempt to
connect fails) or a lobby panics, and when what is required does not happen.
";

/// Keeps the new records beside the older ones and writes the document.
pub(super) fn update(new: &[Record]) -> anyhow::Result<()> {
    let records = record::merged(record::read(Path::new(RECORDS))?, new);
    std::fs::write(RECORDS, record::text(&records)?).with_context(|| format!("write {RECORDS}"))?;
    std::fs::write(DOCUMENT, markdown(&records)).with_context(|| format!("write {DOCUMENT}"))
}

/// The whole document. Pure.
fn markdown(records: &[Record]) -> String {
    let mut out = HEAD.to_owned();
    let runs = runs(records);
    for (letter, title) in GROUPS {
        let group: Vec<_> = records.iter().filter(|record| record.row.starts_with(letter)).collect();
        if group.is_empty() {
            continue;
        }
        // Writing to a string does not fail.
        let _ = writeln!(out, "\n## {title}\n");
        out.push_str(
            "| row | form | | seconds | survived | lost | twice (no flag) | recovery p50 / p99 ms | peak MiB | what is done | run |\n\
             | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |\n",
        );
        for record in &group {
            let run = runs.get(&run_of(record)).copied().unwrap_or_default();
            let _ = writeln!(out, "| {} | {} {run} |", cells(record).join(" | "), record.date);
        }
        out.push('\n');
        for record in group {
            notes(&mut out, record);
        }
    }
    out.push_str("\n## Runs\n\n");
    let mut listed: Vec<_> = runs.into_iter().collect();
    listed.sort_by_key(|(_, letter)| *letter);
    for ((command, machine, broker, lobby), letter) in listed {
        let _ = writeln!(out, "- {letter}: `{command}`; {machine}; {broker}; {lobby}");
    }
    out
}

/// What is required of a row, what its run noted, and why it failed.
fn notes(out: &mut String, record: &Record) {
    let required = row_of(&record.row).map_or("", |row| row.required);
    let _ = writeln!(out, "- **{}** ({}): required: {required}.", record.row, record.form);
    if let Some((before, after)) = record.figures.descriptors {
        let _ = writeln!(out, "  - descriptors: {before} before, {after} after");
    }
    for text in record.figures.facts.iter().chain(&record.error) {
        let _ = writeln!(out, "  - {}", text.replace('\n', " "));
    }
}

type Run<'a> = (&'a str, &'a str, &'a str, &'a str);

fn run_of(record: &Record) -> Run<'_> {
    (&record.command, &record.machine, &record.broker, &record.lobby)
}

/// A letter for each command on each machine.
fn runs(records: &[Record]) -> BTreeMap<Run<'_>, usize> {
    let mut runs = BTreeMap::new();
    for record in records {
        let next = runs.len() + 1;
        runs.entry(run_of(record)).or_insert(next);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_has_a_row_and_names_its_run() {
        let mut other = record::example("B2", "short", 2.0);
        other.command = "cargo xtask faults --only B2".to_owned();
        let text = markdown(&[record::example("B1", "long", 1.0), other]);
        assert!(text.contains("\n| B1 | long | ok | 1.0 |") && text.contains("| 2030-01-01 00:00 1 |\n"));
        assert!(text.contains("\n| B2 | short | ok | 2.0 |") && text.contains("| 2030-01-01 00:00 2 |\n"));
        assert!(text.contains("- 2: `cargo xtask faults --only B2`; 2 × x; RabbitMQ 3; lobby 0.1.0"));
        assert!(!text.contains("## Clients"));
    }
}
