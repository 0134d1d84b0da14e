//! Checks `docs/coming-from.md`: every row of what other libraries offer stands there once, with the tests that show
//! it, and every test that is named exists.
//!
//! A table whose last column is `test` is read. Its last cells hold names of tests or end-to-end scenarios in
//! backticks, or `does not apply: …` with the reason, or `not yet`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, ensure};

pub(super) const DOCUMENT: &str = "docs/coming-from.md";

/// The letter of each library's rows and how many there are.
const ROWS: [(char, u32); 4] = [('N', 31), ('F', 32), ('M', 20), ('K', 29)];

/// Reads the document and the repository's sources.
pub(super) fn check() -> anyhow::Result<()> {
    let text = std::fs::read_to_string(DOCUMENT).with_context(|| format!("read {DOCUMENT}"))?;
    let faults = faults(&text, &known_tests()?);
    ensure!(faults.is_empty(), "{DOCUMENT}:\n  {}", faults.join("\n  "));
    Ok(())
}

/// The names of all tests and end-to-end scenarios.
pub(super) fn known_tests() -> anyhow::Result<BTreeSet<String>> {
    let mut known: BTreeSet<String> = crate::e2e::scenario_names().map(str::to_owned).collect();
    for directory in ["crates", "fuzz", "xtask"] {
        collect_tests(Path::new(directory), &mut known)?;
    }
    Ok(known)
}

/// What is wrong with the tables of `text`. Pure.
fn faults(text: &str, known: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut in_table = false;
    for line in text.lines() {
        let Some(cells) = cells(line) else {
            in_table = false;
            continue;
        };
        let (Some(first), Some(last)) = (cells.first(), cells.last()) else { continue };
        if *last == "test" {
            in_table = true;
        } else if in_table && !first.starts_with("---") {
            if is_row(first) {
                *seen.entry((*first).to_owned()).or_default() += 1;
            }
            faults.extend(cell_fault(last, known).map(|fault| format!("{first}: {fault}")));
        }
    }
    for (letter, count) in ROWS {
        for row in (1..=count).map(|number| format!("{letter}{number}")) {
            match seen.remove(&row) {
                Some(1) => {}
                Some(times) => faults.push(format!("{row} stands {times} times")),
                None => faults.push(format!("{row} is missing")),
            }
        }
    }
    faults.extend(seen.into_keys().map(|row| format!("{row} is no row that there is")));
    faults
}

/// The cells of a table's line.
pub(super) fn cells(line: &str) -> Option<Vec<&str>> {
    let inside = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inside.split('|').map(str::trim).collect())
}

fn is_row(cell: &str) -> bool {
    let mut chars = cell.chars();
    chars.next().is_some_and(|letter| ROWS.iter().any(|(known, _)| *known == letter))
        && !chars.as_str().is_empty()
        && chars.all(|digit| digit.is_ascii_digit())
}

/// What is wrong with a cell of the column `test`.
fn cell_fault(cell: &str, known: &BTreeSet<String>) -> Option<String> {
    let reason = cell.strip_prefix("does not apply: ");
    if reason.is_some_and(|reason| !reason.is_empty()) {
        return None;
    }
    let names: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
    if names.is_empty() && !cell.contains("not yet") {
        return Some(format!("`{cell}` names no test, no reason, and does not say `not yet`"));
    }
    let unknown = names.into_iter().find(|name| !known.contains(*name))?;
    Some(format!("there is no test or scenario `{unknown}`"))
}

/// The names of the functions behind a test attribute in all Rust files below `directory`.
fn collect_tests(directory: &Path, known: &mut BTreeSet<String>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect_tests(&path, known)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source =
                std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            known.extend(tests_in(&source));
        }
    }
    Ok(())
}

fn tests_in(source: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| marked) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            tests.push(rest[..end].to_owned());
            marked = false;
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(change: impl Fn(String) -> String) -> String {
        let mut text = "| row | there | here | test |\n| --- | --- | --- | --- |\n".to_owned();
        for (letter, count) in ROWS {
            for number in 1..=count {
                text.push_str(&change(format!("| {letter}{number} | a | b | `it_works`, `e2e-name` |\n")));
            }
        }
        text
    }

    #[test]
    fn a_missing_row_a_doubled_row_and_an_unknown_test_are_found() {
        let known = BTreeSet::from(["it_works".to_owned(), "e2e-name".to_owned()]);
        assert_eq!(faults(&document(|row| row), &known), Vec::<String>::new());
        let instead = |row: &'static str, other: &'static str| {
            faults(&document(|line| if line.starts_with(row) { other.to_owned() } else { line }), &known)
        };
        assert_eq!(instead("| F7 ", ""), ["F7 is missing"]);
        assert_eq!(instead("| F7 ", "| F8 | a | b | not yet |\n"), ["F7 is missing", "F8 stands 2 times"]);
        assert_eq!(
            instead("| K29 ", "| K29 | a | b | `gone` |\n"),
            ["K29: there is no test or scenario `gone`"]
        );
        assert_eq!(instead("| K29 ", "| K29 | a | b | does not apply: one-way |\n"), Vec::<String>::new());
        assert_eq!(instead("| K29 ", "| K29 | a | b | does not apply: |\n").len(), 1);
        assert_eq!(instead("| K29 ", "| K29 | a | b | |\n").len(), 1);
        assert_eq!(
            instead("| K29 ", "| K29 | a | b | not yet |\n| K30 | a | b | not yet |\n"),
            ["K30 is no row that there is"]
        );
    }

    #[test]
    fn only_functions_behind_a_test_attribute_are_tests() {
        let source = "fn helper() {}\n#[test]\nfn one() {}\n#[tokio::test(start_paused = true)]\n#[allow(x)]\nasync fn two() {\nfn inner() {}\n";
        assert_eq!(tests_in(source), ["one", "two"]);
    }
}
