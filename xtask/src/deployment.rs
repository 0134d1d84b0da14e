//! What stands in `deploy/`, checked with the programs that will read it.

mod alerts;
mod containers;
mod dashboard;
mod expression;
mod kubernetes;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;

pub(crate) use dashboard::expressions as dashboard_expressions;
pub(crate) use expression::selectors;

/// Where Prometheus's files are, from the repository's root.
pub(crate) const PROMETHEUS: &str = "deploy/prometheus";

/// HAProxy's configuration, from there.
pub(crate) const HAPROXY: &str = "deploy/haproxy/haproxy.cfg";

/// Checks all of it, and says what it had to leave out.
///
/// # Errors
/// The first file that is wrong, and how; or a program that is needed is neither here nor to be had.
pub(crate) async fn check() -> anyhow::Result<()> {
    alerts::check().await?;
    let mut left_out = containers::check().await?;
    left_out.extend(kubernetes::check(&crate::build::lobby().await?).await?);
    for what in left_out {
        eprintln!("left out: {what}");
    }
    Ok(())
}

/// The settings that `lobby check-config` printed, `section.key = "value"  (source)`, but for those left at their default.
fn chosen(printed: &str) -> BTreeMap<String, String> {
    let lines = printed.lines().filter_map(|line| {
        let (key, rest) = line.split_once(" = \"")?;
        let (value, source) = rest.rsplit_once("\"  (")?;
        (source != "default)").then(|| (key.trim().to_owned(), value.to_owned()))
    });
    lines.collect()
}

/// A file of this repository.
pub(crate) fn read(path: &str) -> anyhow::Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")?;
    std::fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))
}

/// The expressions of all alert rules.
pub(crate) fn alert_expressions() -> anyhow::Result<Vec<String>> {
    Ok(alerts::rules()?.into_iter().map(|rule| rule.expr).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_are_printed() {
        let printed = "listen.tcp      = \"0.0.0.0:1\"  (file x (y))\nadmin.token = \"\"  (flag)\na.b = \"c\"  (default)\n";
        let wanted = [("listen.tcp", "0.0.0.0:1"), ("admin.token", "")];
        assert_eq!(chosen(printed), wanted.map(|(key, value)| (key.into(), value.into())).into());
    }
}
