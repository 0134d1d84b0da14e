//! Results as rows of text, for the terminal and for the document.

use super::{
    sample::{Results, Spread},
    subject::Subject,
    targets::short,
};

/// A column: a figure's name, its heading, and whether all repetitions are shown with it.
struct Column {
    figure: &'static str,
    heading: &'static str,
    spread: bool,
}

const fn column(figure: &'static str, heading: &'static str, spread: bool) -> Column {
    Column { figure, heading, spread }
}

const DELIVERY: &[Column] = &[
    column("cpu_us", "server CPU, µs a delivery", true),
    column("deliveries_per_s", "deliveries/s", false),
    column("p50_ms", "p50, ms", false),
    column("p99_ms", "p99, ms", true),
    column("p999_ms", "p999, ms", false),
    column("messages_per_write", "messages a write", false),
    column("switches_per_message", "context switches a message", false),
    column("cpu_io_loop_us", "of it: AMQP socket, µs", false),
    column("cpu_consumer_us", "consumer, µs", false),
    column("cpu_shards_us", "shards, µs", false),
    column("kernel_share", "in the kernel", false),
    column("driver_cpu_us", "driver's CPU, µs", false),
];

const IDLE: &[Column] = &[
    column("bytes_per_connection", "bytes a connection", true),
    column("resident_mib", "resident, MiB", false),
    column("resident_empty_mib", "without connections, MiB", false),
];

const SLOW: &[Column] = &[
    column("p99_ms_all_read", "p99 when all read, ms", true),
    column("p99_ms", "the others' p99, ms", true),
    column("p99_ratio", "ratio", false),
    column("outboxes_mib", "kept for those who stopped, MiB", false),
    column("outboxes_limit_mib", "limit, MiB", false),
    column("resident_before_mib", "resident before, MiB", false),
    column("resident_mib", "then, MiB", false),
    column("resident_most_mib", "most, MiB", false),
    column("closed_too_slow", "closed with 4000", false),
];

/// One scenario's results.
pub(super) struct Table {
    pub(super) scenario: String,
    pub(super) headings: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

/// A table for each scenario.
pub(super) fn tables(results: &Results) -> Vec<Table> {
    results.scenarios().into_iter().map(|scenario| table(results, scenario)).collect()
}

fn table(results: &Results, scenario: &str) -> Table {
    let columns = match scenario.split('-').next() {
        Some("idle") => IDLE,
        Some("slow") => SLOW,
        _ => DELIVERY,
    };
    let ratios = results.median(scenario, Subject::FloorWrite, "cpu_us").is_some();
    let mut headings = vec![""];
    headings.extend(columns.iter().map(|column| column.heading));
    if ratios {
        headings.extend(["CPU, × write", "CPU, × writev"]);
    }
    let mut rows = Vec::new();
    for subject in Subject::ALL {
        if results.spread(scenario, subject, columns[0].figure).is_none() {
            continue;
        }
        let mut row = vec![subject.name().to_owned()];
        for column in columns {
            let spread = results.spread(scenario, subject, column.figure);
            row.push(spread.map_or_else(|| "–".to_owned(), |spread| cell(spread, column.spread)));
        }
        if ratios {
            for floor in [Subject::FloorWrite, Subject::FloorWritev] {
                let (own, base) =
                    (results.median(scenario, subject, "cpu_us"), results.median(scenario, floor, "cpu_us"));
                let ratio = own.zip(base).map(|(own, base)| own / base);
                row.push(ratio.map_or_else(|| "–".to_owned(), short));
            }
        }
        rows.push(row);
    }
    Table { scenario: scenario.to_owned(), headings, rows }
}

fn cell(spread: Spread, all: bool) -> String {
    if all && spread.least < spread.most {
        format!("{} ({}–{})", short(spread.median), short(spread.least), short(spread.most))
    } else {
        short(spread.median)
    }
}

impl Table {
    /// A figure a line, a subject a column: narrow enough for a terminal.
    pub(super) fn for_terminal(&self) -> String {
        let mut lines = Vec::new();
        for (index, heading) in self.headings.iter().enumerate() {
            let title = if index == 0 { self.scenario.as_str() } else { heading };
            let cells: String = self.rows.iter().map(|row| format!("{:>24}", row[index])).collect();
            lines.push(format!("{title:<34}{cells}"));
        }
        lines.join("\n") + "\n"
    }

    /// A Markdown table, also with a figure a line.
    pub(super) fn for_document(&self) -> String {
        let mut lines = Vec::new();
        for (index, heading) in self.headings.iter().enumerate() {
            let cells: Vec<&str> = self.rows.iter().map(|row| row[index].as_str()).collect();
            lines.push(format!("| {heading} | {} |", cells.join(" | ")));
            if index == 0 {
                lines.push(format!("|{}", " --- |".repeat(self.rows.len() + 1)));
            }
        }
        lines.join("\n") + "\n"
    }
}
