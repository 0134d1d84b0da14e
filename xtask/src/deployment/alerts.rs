//! The alert rules: promtool runs their unit tests, and each one leads to what a person should do.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tokio::process::Command;

use super::{PROMETHEUS, read};
use crate::apt;
use crate::documents::links;
use crate::environment::{PROBE_LIMIT, run, said};

const RULES: &str = "deploy/prometheus/lobby.rules.yml";
const TESTS: &str = "deploy/prometheus/lobby.rules.test.yml";
/// Who is told, and how fast.
const SEVERITIES: [&str; 2] = ["critical", "warning"];
/// What a person who is woken reads.
const ANNOTATIONS: [&str; 3] = ["summary", "description", "runbook_url"];

#[derive(Debug, Deserialize)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

/// One alert, as Prometheus reads it.
#[derive(Debug, Deserialize)]
pub(super) struct Rule {
    alert: String,
    pub(super) expr: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

pub(super) fn rules() -> anyhow::Result<Vec<Rule>> {
    let file: RuleFile = serde_saphyr::from_str(&read(RULES)?).context(RULES)?;
    Ok(file.groups.into_iter().flat_map(|group| group.rules).collect())
}

pub(super) async fn check() -> anyhow::Result<()> {
    let tests = read(TESTS)?;
    for rule in rules()? {
        judge(&rule, &tests).with_context(|| format!("{RULES}: {}", rule.alert))?;
        links::check_target("", &rule.annotations["runbook_url"])
            .with_context(|| format!("{RULES}: {}", rule.alert))?;
    }
    let promtool = apt::program("promtool", "prometheus").await.context("promtool tests the alert rules")?;
    for arguments in [["check", "config", "prometheus.yml"], ["test", "rules", "lobby.rules.test.yml"]] {
        let mut command = Command::new(&promtool);
        command.args(arguments).current_dir(PROMETHEUS);
        let output = run(command, PROBE_LIMIT).await?;
        let all = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "promtool {}: {}\n{all}", arguments.join(" "), said(&output));
    }
    Ok(())
}

/// What promtool does not ask for. Pure but for the error.
fn judge(rule: &Rule, tests: &str) -> anyhow::Result<()> {
    let severity = rule.labels.get("severity").map(String::as_str).unwrap_or_default();
    ensure!(SEVERITIES.contains(&severity), "severity `{severity}` is none of {SEVERITIES:?}");
    for annotation in ANNOTATIONS {
        ensure!(rule.annotations.get(annotation).is_some_and(|text| !text.is_empty()), "no {annotation}");
    }
    let fires = format!("alertname=\"{}\"", rule.alert);
    ensure!(tests.contains(&fires), "no test in {TESTS} makes it fire");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_without_a_runbook_a_severity_or_a_test_is_refused() {
        let alert = |severity: &str, runbook: &str| Rule {
            alert: "X".to_owned(),
            expr: "up == 0".to_owned(),
            labels: BTreeMap::from([("severity".to_owned(), severity.to_owned())]),
            annotations: [("summary", "s"), ("description", "d"), ("runbook_url", runbook)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        let test = "labels: '{alertname=\"X\", instance=\"a\"}'";
        assert!(judge(&alert("critical", "docs/operations.md#x"), test).is_ok());
        assert!(judge(&alert("page", "docs/operations.md#x"), test).is_err());
        assert!(judge(&alert("critical", ""), test).is_err());
        assert!(judge(&alert("critical", "docs/operations.md#x"), "alertname=\"XY\"").is_err());
    }
}
