//! `notify-amqp` alone: what consuming a waiting message costs, and how many messages a second are confirmed.
//!
//! The library's own example does the work, in a process of its own; here its report is read.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use crate::build;

/// The scenarios that one run of the example measures.
pub(super) const CONSUME: &str = "amqp-consume-waiting";
pub(super) const PUBLISH: &str = "amqp-publish";

/// Builds the example.
pub(super) async fn build() -> anyhow::Result<PathBuf> {
    build::release_example("notify-amqp", "consume_waiting").await
}

/// Publishes `messages` with confirms, then consumes them; the figures of both by scenario.
pub(super) async fn measure(
    program: &Path,
    amqp_url: &str,
    messages: u64,
) -> anyhow::Result<[(&'static str, BTreeMap<&'static str, f64>); 2]> {
    let mut command = Command::new(program);
    command.arg(messages.to_string()).env("AMQP_URL", amqp_url).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "consume_waiting failed ({}): {complaint}", output.status);
    figures(&said, messages).with_context(|| format!("consume_waiting said:\n{said}"))
}

fn figures(said: &str, messages: u64) -> anyhow::Result<[(&'static str, BTreeMap<&'static str, f64>); 2]> {
    let after = |text: &str| {
        let rest = said.split_once(text).with_context(|| format!("no `{text}`"))?.1.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].parse::<f64>().with_context(|| format!("no number follows `{text}`"))
    };
    let consume = BTreeMap::from([
        ("consumer_cpu_us", after("CPU per message:")?),
        ("messages_per_s", rate(said, &format!("{messages} messages in"))?),
        ("resident_most_mib", after("peak memory:")? / 1024.0),
    ]);
    let publish = BTreeMap::from([("messages_per_s", after("published with confirms at")?)]);
    Ok([(CONSUME, consume), (PUBLISH, publish)])
}

/// The rate in parentheses in the line that holds `text`.
fn rate(said: &str, text: &str) -> anyhow::Result<f64> {
    let line = said.lines().find(|line| line.contains(text)).with_context(|| format!("no `{text}`"))?;
    let rate = line.split_once('(').and_then(|(_, rest)| rest.split_once("/s)"));
    rate.and_then(|(rate, _)| rate.parse().ok()).with_context(|| format!("no rate in `{line}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "published with confirms at 8472/s\n\
        20000 messages in 412.5ms (48485/s), 101 ack frames, 20000 seen\n\
        CPU per message: 9.50 µs (user 7.00, system 2.50)\n\
        peak memory: 20480 kB\n";

    #[test]
    fn the_example_s_report_is_read_whole_or_not_at_all() {
        let [(_, consume), (_, publish)] = figures(SAID, 20_000).unwrap();
        let wanted = [("consumer_cpu_us", 9.5), ("messages_per_s", 48_485.0), ("resident_most_mib", 20.0)];
        assert_eq!(consume, BTreeMap::from(wanted));
        assert_eq!(publish, BTreeMap::from([("messages_per_s", 8_472.0)]));
        for line in SAID.lines() {
            assert!(figures(&SAID.replace(line, ""), 20_000).is_err(), "without `{line}`");
        }
        assert!(figures(SAID, 10_000).is_err(), "another number of messages");
    }
}
