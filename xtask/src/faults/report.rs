//! Rows as they end, on the terminal: a table, or JSON a line.

use super::record::Record;
use super::row::Row;
use super::table::rows;

/// Prints and collects.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    records: Vec<Record>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        if !json {
            println!("{}", line(HEAD));
        }
        Self { json, records: Vec::new() }
    }

    /// Shows a row that has ended; `log` are the last lines of its lobbies.
    pub(super) fn add(&mut self, record: Record, log: &[String]) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(&record)?);
        } else {
            println!("{}", line(cells(&record).each_ref().map(String::as_str)));
            let said = record.error.iter().chain(&record.skipped).chain(&record.figures.facts);
            said.for_each(|text| println!("        {text}"));
            if record.error.is_some() {
                log.iter().for_each(|text| println!("        | {text}"));
            }
        }
        self.records.push(record);
        Ok(())
    }

    /// Shows the sum; an error that names the rows that failed.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        let failed: Vec<_> = self.records.iter().filter(|r| r.verdict() == "FAILED").collect();
        let skipped = self.records.iter().filter(|record| record.skipped.is_some()).count();
        if !self.json {
            println!("{} rows, {} failed, {skipped} skipped", self.records.len(), failed.len());
        }
        let names: Vec<_> = failed.iter().map(|record| record.row.as_str()).collect();
        anyhow::ensure!(names.is_empty(), "faults not survived: {}", names.join(", "));
        Ok(())
    }
}

const COLUMNS: usize = 10;
const HEAD: [&str; COLUMNS] = [
    "row",
    "form",
    "",
    "s",
    "survived",
    "lost",
    "twice (no flag)",
    "recovery p50/p99 ms",
    "peak MiB",
    "done",
];

/// The cells of a record, for the terminal and the document.
pub(super) fn cells(record: &Record) -> [String; COLUMNS] {
    let figures = &record.figures;
    let counted = figures.survived + figures.lost > 0;
    let number = |value: u64| if counted { value.to_string() } else { "–".to_owned() };
    let twice =
        if counted { format!("{} ({})", figures.duplicated, figures.unmarked) } else { "–".to_owned() };
    let recovery = match (figures.p50_ms, figures.p99_ms) {
        (Some(p50), Some(p99)) => format!("{p50:.0} / {p99:.0} of {}", figures.recoveries),
        _ => "–".to_owned(),
    };
    let peak =
        figures.peak_bytes.map_or_else(|| "–".to_owned(), |bytes| format!("{:.0}", bytes as f64 / 1048576.0));
    [
        record.row.clone(),
        record.form.clone(),
        record.verdict().to_owned(),
        format!("{:.1}", record.seconds),
        number(figures.survived),
        number(figures.lost),
        twice,
        recovery,
        peak,
        row_of(&record.row).map_or_else(String::new, |row| row.done.to_owned()),
    ]
}

/// The row of that id, if it still is one.
pub(super) fn row_of(id: &str) -> Option<&'static Row> {
    rows().into_iter().find(|row| row.id == id)
}

fn line(cells: [&str; COLUMNS]) -> String {
    let [row, form, verdict, seconds, survived, lost, twice, recovery, peak, done] = cells;
    format!(
        "{row:<7} {form:<5} {verdict:<7} {seconds:>6} {survived:>9} {lost:>5} {twice:>15} {recovery:>20} {peak:>8}  {done}"
    )
}
