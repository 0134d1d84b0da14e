//! The Grafana dashboard, as far as it asks Prometheus something.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::read;

const DASHBOARD: &str = "deploy/grafana/lobby.json";

/// Every expression of the dashboard by its panel's title, with Grafana's variables replaced: all instances, and
/// `interval` as the window of rates.
pub(crate) fn expressions(interval: &str) -> anyhow::Result<Vec<(String, String)>> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)?).context(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().with_context(|| format!("{DASHBOARD}: no panels"))?;
    let mut found = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().context("a panel without a title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().with_context(|| format!("{title}: no expr"))?;
            let expr = expr.replace("$__rate_interval", interval).replace("$instance", ".*");
            ensure!(!expr.contains('$'), "{DASHBOARD}: {title}: a variable that nobody defines in {expr}");
            found.push((title.to_owned(), expr));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboard_asks_for_the_lobbys_metrics_and_no_variable_is_left() {
        let expressions = expressions("5m").unwrap();
        assert!(expressions.len() > 20, "{}", expressions.len());
        for (title, expression) in expressions {
            assert!(!super::super::selectors(&expression).is_empty(), "{title}: {expression}");
        }
    }
}
