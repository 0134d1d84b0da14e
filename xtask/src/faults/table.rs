//! All rows, and which of them a run is about.

use anyhow::bail;

use super::row::{Form, Row, order};
use super::{
    bad_clients, broker, clients, configuration, deploy, load, login, publishers, resources, restarts,
};

/// A row whose long form takes longer than this runs short, unless `--long` is given.
const LONG_AT_MOST: u64 = 300;

/// The rows of each group.
const GROUPS: &[&[Row]] = &[
    broker::ROWS,
    restarts::ROWS,
    clients::ROWS,
    publishers::ROWS,
    bad_clients::ROWS,
    login::ROWS,
    load::ROWS,
    resources::ROWS,
    deploy::ROWS,
    configuration::ROWS,
];

/// All rows, in the order of the table.
pub(super) fn rows() -> Vec<&'static Row> {
    let mut rows: Vec<_> = GROUPS.iter().copied().flatten().collect();
    rows.sort_by_key(|row| order(row.id));
    rows
}

/// The rows that `only` names (none: all), each once and with its form.
///
/// # Errors
/// A name that is no row's.
pub(super) fn choose(only: &[String], length: Length) -> anyhow::Result<Vec<(&'static Row, Form)>> {
    let all = rows();
    let mut chosen: Vec<&Row> = Vec::new();
    for name in only {
        let name = name.trim().to_uppercase();
        let fits: Vec<_> = all
            .iter()
            .filter(|row| row.id == name || row.ids().contains(&name) || group(row, &name))
            .collect();
        if fits.is_empty() {
            let known: Vec<_> = all.iter().map(|row| row.id).collect();
            bail!("there is no row `{name}`; there are: {}", known.join(", "));
        }
        chosen.extend(fits);
    }
    if only.is_empty() {
        chosen = all;
    }
    chosen.sort_by_key(|row| order(row.id));
    chosen.dedup_by_key(|row| row.id);
    Ok(chosen.into_iter().map(|row| (row, length.form_of(row))).collect())
}

/// `B` is all of the group.
fn group(row: &Row, name: &str) -> bool {
    name.len() == 1 && row.id.starts_with(name)
}

/// What the command line says about forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// Every row short.
    Quick,
    /// Every row as it is written, but for those that take very long.
    Usual,
    /// Every row as it is written.
    Long,
}

impl Length {
    fn form_of(self, row: &Row) -> Form {
        match self {
            Self::Quick => Form::Short,
            Self::Usual if row.takes.long > LONG_AT_MOST => Form::Short,
            Self::Usual | Self::Long => Form::Long,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_stands_once() {
        let mut seen = std::collections::BTreeSet::new();
        for id in rows().iter().flat_map(|row| row.ids()) {
            assert!(seen.insert(id.clone()), "{id} stands twice");
        }
    }

    /// Written out, so that a row which is dropped is missed. I1 is optional and absent on purpose.
    #[test]
    fn every_fault_of_the_list_has_a_row_and_there_are_no_others() {
        let list = [
            "B1 B2 B3 B4 B5 B6 B7 B8 B9 B10",
            "R1 R2 R3 R4 R5 R6",
            "C1 C2 C3 C4 C5 C6 C7",
            "P1 P2 P3 P4 P5 P6 P7 P8 P9 P10 P11 P12",
            "I2 I3 I4 I5 I6 I7 I8 I9 I10 I11 I12",
            "A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12",
            "L1 L2 L3 L4",
            "X1 X3 X4 X5",
            "S1 S2 S3 S4 S5",
            "G1 G2 G3 G4 G5 G6",
        ];
        let wanted: Vec<_> = list.iter().flat_map(|group| group.split(' ')).collect();
        let covered: Vec<_> = rows().iter().flat_map(|row| row.ids()).collect();
        let missing: Vec<_> = wanted.iter().filter(|id| !covered.contains(&(**id).to_owned())).collect();
        assert!(missing.is_empty(), "no row for {missing:?}");
        let other: Vec<_> = covered.iter().filter(|id| !wanted.contains(&id.as_str())).collect();
        assert!(other.is_empty(), "not in the list: {other:?}");
    }

    #[test]
    fn rows_are_chosen_by_name_by_group_and_by_what_they_cover() {
        let chosen = |only: &[&str]| {
            let only: Vec<_> = only.iter().map(|name| (*name).to_owned()).collect();
            choose(&only, Length::Quick)
                .map(|rows| rows.into_iter().map(|(row, _)| row.id).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&["b2", "B2"]).unwrap(), ["B2"]);
        assert_eq!(chosen(&[]).unwrap().len(), rows().len());
        assert!(chosen(&["B"]).unwrap().iter().all(|id| id.starts_with('B')));
        assert!(chosen(&["Z9"]).unwrap_err().to_string().contains("there is no row `Z9`; there are: B1"));
    }

    #[test]
    fn only_the_quick_run_is_short_where_a_row_takes_minutes() {
        let row = |long| Row { takes: super::super::row::Takes { short: 1, long }, ..copy(rows()[0]) };
        assert_eq!(Length::Quick.form_of(&row(10)), Form::Short);
        assert_eq!(Length::Usual.form_of(&row(10)), Form::Long);
        assert_eq!(Length::Usual.form_of(&row(3600)), Form::Short);
        assert_eq!(Length::Long.form_of(&row(3600)), Form::Long);
    }

    fn copy(row: &Row) -> Row {
        let &Row { id, done, required, sharing, takes, run } = row;
        Row { id, done, required, sharing, takes, run }
    }
}
