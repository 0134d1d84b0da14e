//! Checks `docs/threat-model.md` and `docs/limits.md`: each threat and each limit names tests that there are, and a limit
//! that is a setting names its key and its default.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};

use super::{CONFIGURATION, rows};

const DOCUMENTS: [&str; 2] = ["docs/threat-model.md", "docs/limits.md"];

/// Reads the documents, the table of settings and the repository's sources.
pub(super) fn check() -> anyhow::Result<()> {
    let known = rows::known_tests()?;
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("read {path}"));
    let defaults = defaults(&read(CONFIGURATION)?);
    for document in DOCUMENTS {
        let faults = faults(&read(document)?, &known, &defaults);
        ensure!(faults.is_empty(), "{document}:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// The default of each setting, as the table of settings shows it.
fn defaults(configuration: &str) -> BTreeMap<String, String> {
    let rows = configuration.lines().filter_map(rows::cells);
    let settings = rows.filter_map(|cells| match cells[..] {
        [key, _, default, ..] => Some((quoted(key).first()?.to_string(), default.to_owned())),
        _ => None,
    });
    settings.collect()
}

/// What is wrong with the tables whose last column is `test`. Pure.
fn faults(text: &str, known: &BTreeSet<String>, defaults: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut in_table, mut has_settings) = (false, false);
    for line in text.lines() {
        let Some(cells) = rows::cells(line) else {
            in_table = false;
            continue;
        };
        let (Some(first), Some(last)) = (cells.first(), cells.last()) else { continue };
        if *last == "test" {
            in_table = true;
            has_settings = cells.get(1) == Some(&"setting");
        } else if in_table && !first.starts_with("---") {
            let tests = quoted(last);
            if tests.is_empty() {
                faults.push(format!("{first}: no test"));
            }
            let unknown = tests.into_iter().filter(|name| !known.contains(*name));
            faults.extend(unknown.map(|name| format!("{first}: there is no test or scenario `{name}`")));
            if has_settings && let [_, setting, default, ..] = cells[..] {
                faults.extend(
                    setting_fault(setting, default, defaults).map(|fault| format!("{first}: {fault}")),
                );
            }
        }
    }
    faults
}

fn setting_fault(setting: &str, default: &str, defaults: &BTreeMap<String, String>) -> Option<String> {
    let [key] = quoted(setting)[..] else { return None };
    match defaults.get(key) {
        None => Some(format!("there is no setting `{key}`")),
        Some(real) if real != default => Some(format!("the default of `{key}` is {real}, not {default}")),
        Some(_) => None,
    }
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(row: &str) -> Vec<String> {
        let known = BTreeSet::from(["it_holds".to_owned(), "slow-reader".to_owned()]);
        let defaults = defaults("| `a.b` | `LOBBY_A__B` | `10s` | How long. |\n");
        let head = "| what | setting | default | past it | test |\n| --- | --- | --- | --- | --- |\n";
        faults(&format!("{head}{row}\n\n| other | table |\n| --- | --- |\n| a | b |\n"), &known, &defaults)
    }

    #[test]
    fn a_limit_without_a_test_or_with_another_default_is_found() {
        assert_eq!(check("| x | `a.b` | `10s` | closed | `it_holds`, `slow-reader` |"), Vec::<String>::new());
        assert_eq!(check("| x | fixed | 3 | closed | `it_holds` |"), Vec::<String>::new());
        assert_eq!(check("| x | fixed | 3 | closed | none |"), ["x: no test"]);
        assert_eq!(
            check("| x | fixed | 3 | closed | `it_holds`, `gone` |"),
            ["x: there is no test or scenario `gone`"]
        );
        assert_eq!(
            check("| x | `a.b` | `9s` | closed | `it_holds` |"),
            ["x: the default of `a.b` is `10s`, not `9s`"]
        );
        assert_eq!(check("| x | `a.c` | | closed | `it_holds` |"), ["x: there is no setting `a.c`"]);
    }
}
