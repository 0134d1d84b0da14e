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
    column("deliveries_per_s", "deliveries/s", true),
    column("p50_ms", "p50, ms", true),
    column("p99_ms", "p99, ms", true),
    column("p999_ms", "p999, ms", true),
    column("lost", "lost", true),
    column("ended", "connections ended by the server", true),
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
    column("resident_mib", "resident, MiB", true),
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

const AMQP: &[Column] = &[
    column("consumer_cpu_us", "consumer CPU, µs a message", true),
    column("messages_per_s", "messages/s", true),
    column("resident_most_mib", "resident at most, MiB", true),
];

/// Floors that all others are compared with.
const BASES: [(Subject, &str); 3] = [
    (Subject::FloorWrite, "CPU, × write"),
    (Subject::FloorWritev, "CPU, × writev"),
    (Subject::FloorUring, "CPU, × io_uring"),
];
/// What stands in a cell without a figure.
const NONE: &str = "–";

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
        Some("amqp") => AMQP,
        _ => DELIVERY,
    };
    let has = |subject, column: &Column| results.spread(scenario, subject, column.figure).is_some();
    let subjects: Vec<Subject> = Subject::ALL
        .into_iter()
        .filter(|subject| columns.iter().any(|column| has(*subject, column)))
        .collect();
    let columns: Vec<&Column> =
        columns.iter().filter(|column| subjects.iter().any(|subject| has(*subject, column))).collect();
    let median = |subject| results.median(scenario, subject, "cpu_us");
    let bases: Vec<_> =
        BASES.into_iter().filter_map(|(floor, title)| Some((median(floor)?, title))).collect();

    let mut headings = vec![""];
    headings.extend(columns.iter().map(|column| column.heading));
    headings.extend(bases.iter().map(|(_, title)| title));
    let mut rows = Vec::new();
    for subject in Subject::ALL {
        let mut row = vec![subject.name().to_owned()];
        if subjects.contains(&subject) {
            row.extend(columns.iter().map(|column| {
                let spread = results.spread(scenario, subject, column.figure);
                spread.map_or_else(|| NONE.to_owned(), |spread| cell(spread, column.spread))
            }));
            row.extend(
                bases.iter().map(|(base, _)| {
                    median(subject).map_or_else(|| NONE.to_owned(), |own| short(own / base))
                }),
            );
        } else if subject.takes_part(scenario)
            && results.absent.iter().any(|absence| absence.subject == subject)
        {
            row.push("not measured".to_owned());
            row.resize(headings.len(), NONE.to_owned());
        } else {
            continue;
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
        let width = |row: &Vec<String>| row.iter().map(|cell| cell.chars().count()).max().unwrap_or(0) + 2;
        let widths: Vec<usize> = self.rows.iter().map(width).collect();
        let mut lines = Vec::new();
        for (index, heading) in self.headings.iter().enumerate() {
            let title = if index == 0 { self.scenario.as_str() } else { heading };
            let cells = self.rows.iter().zip(&widths).map(|(row, width)| format!("{:>width$}", row[index]));
            lines.push(format!("{title:<32}{}", cells.collect::<String>()));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::sample::{Absence, Sample};

    fn results() -> Results {
        let mut results = Results::default();
        for (subject, values) in
            [(Subject::FloorWritev, [0.5, 0.4, 0.6]), (Subject::LobbyTcp, [1.0, 1.0, 1.0])]
        {
            for (run, value) in (1..).zip(values) {
                let figures = BTreeMap::from([("cpu_us", value), ("deliveries_per_s", 2e6 * value)]);
                let scenario = "broadcast-saturated-1000".to_owned();
                results.add(Sample { scenario, subject, run, figures });
            }
        }
        let reason = "no such system call\nand more".to_owned();
        results.absent.push(Absence { subject: Subject::FloorUring, reason });
        results
    }

    #[test]
    fn a_table_shows_medians_with_their_ends_and_ratios_to_the_floors_that_were_measured() {
        let table = tables(&results()).remove(0);
        assert_eq!(table.headings, ["", "server CPU, µs a delivery", "deliveries/s", "CPU, × writev"]);
        assert_eq!(table.rows[0], ["floor writev", "0.50 (0.40–0.60)", "1000000 (800000–1200000)", "1.00"]);
        assert_eq!(table.rows[2], ["lobby TCP", "1.00", "2000000", "2.00"]);
    }

    #[test]
    fn who_took_no_part_has_a_row_that_says_so_and_a_remark_with_the_reason() {
        let table = tables(&results()).remove(0);
        assert_eq!(table.rows[1], ["floor io_uring", "not measured", "–", "–"]);
        assert_eq!(results().remarks(), ["floor io_uring was not measured: no such system call"]);
    }
}
