//! What we ship for Prometheus and Grafana, with a Prometheus that scrapes a lobby.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Duration, Instant, sleep};

use crate::PATIENCE;
use crate::amqp_wire::percent_encode;
use crate::broker::ports;
use crate::client::Transport;
use crate::deployment::{self, PROMETHEUS, selectors};
use crate::late::Late;
use crate::stage::Stage;
use crate::{apt, http};

const POLL: Duration = Duration::from_millis(100);
/// Rates need two scrapes within it.
const RATE_WINDOW: &str = "1m";

/// Every series that an alert or a panel asks for is there, with the labels it is asked for with; every panel shows
/// something, and Prometheus takes every rule.
pub(super) async fn monitoring(stage: &Stage) -> anyhow::Result<()> {
    let program = match apt::program("prometheus", "prometheus").await {
        Ok(program) => program,
        Err(error) => {
            ensure!(std::env::var_os("CI").is_none(), "CI has no Prometheus: {error:#}");
            stage.skip(format!("no Prometheus: {error:#}"));
            return Ok(());
        }
    };
    let lobby = stage.start(&stage.setup().set("LOBBY_DEAD_LETTER__EXCHANGE", "dead")).await?;
    let _client = stage.client(&lobby, Transport::Tcp, 1).await?;
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(1, "{}").await?;
    notifier.publish(&Value::Null, &json!({}), b"nonsense").await?;
    let prometheus =
        Prometheus::start(&program, stage.directory(), &lobby.admin_address()?.to_string()).await?;
    prometheus.until("count_over_time(lobby_canary_age_seconds[1m]) >= 3").await?;

    let panels = deployment::dashboard_expressions(RATE_WINDOW)?;
    let alerts = deployment::alert_expressions()?;
    let asked: BTreeSet<_> =
        alerts.iter().chain(panels.iter().map(|(_, expr)| expr)).flat_map(|expr| selectors(expr)).collect();
    let mut missing = Vec::new();
    for selector in &asked {
        // Buckets have labels of their own values.
        if prometheus.ask(&selector.to_string()).await?.is_empty() {
            missing.push(selector.to_string());
        }
    }
    ensure!(missing.is_empty(), "the lobby has no series {}", missing.join(", "));
    for (title, expression) in &panels {
        let shown = prometheus.ask(expression).await.with_context(|| format!("panel `{title}`"))?;
        ensure!(!shown.is_empty(), "panel `{title}` shows nothing: {expression}");
    }
    let fine = prometheus.rules_are_fine().await?;
    ensure!(fine == alerts.len(), "Prometheus has {fine} rules, the file {}", alerts.len());
    stage.fact(format!("{} series, {} panels' expressions, {fine} rules", asked.len(), panels.len()));
    Ok(())
}

/// A Prometheus of our own. Dropping it kills it.
struct Prometheus {
    _process: Child,
    address: String,
}

impl Prometheus {
    /// Starts one that scrapes `target` every second, with our rules, and waits until it answers.
    async fn start(program: &Path, directory: &Path, target: &str) -> anyhow::Result<Self> {
        let [port] = ports::free().context("a port for Prometheus")?;
        let address = format!("127.0.0.1:{port}");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")?;
        let configuration = directory.join("prometheus.json");
        // JSON is YAML too.
        let content = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [root.join(PROMETHEUS).join("lobby.rules.yml")],
            "scrape_configs": [{"job_name": "lobby", "static_configs": [{"targets": [target]}]}],
        });
        std::fs::write(&configuration, content.to_string())?;
        let process = Command::new(program)
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("prometheus").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start Prometheus")?;
        let mut started = Self { _process: process, address };
        let begin = Instant::now();
        while !http::get(&started.address, "/-/ready").await.is_ok_and(|answer| answer.status == 200) {
            if let Some(status) = started._process.try_wait()? {
                bail!("Prometheus exited with {status}");
            }
            ensure!(begin.elapsed() < PATIENCE, Late(format!("Prometheus is not ready after {PATIENCE:?}")));
            sleep(POLL).await;
        }
        Ok(started)
    }

    /// What an expression gives now.
    async fn ask(&self, expression: &str) -> anyhow::Result<Vec<Value>> {
        let answer = self.get(&format!("/api/v1/query?query={}", percent_encode(expression))).await;
        let answer = answer.with_context(|| expression.to_owned())?;
        answer["result"].as_array().cloned().with_context(|| format!("{expression}: no result in {answer}"))
    }

    async fn until(&self, expression: &str) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.ask(expression).await?.is_empty() {
            ensure!(begin.elapsed() < PATIENCE, Late(format!("Prometheus never saw {expression}")));
            sleep(POLL).await;
        }
        Ok(())
    }

    /// How many rules were evaluated without an error.
    async fn rules_are_fine(&self) -> anyhow::Result<usize> {
        let begin = Instant::now();
        loop {
            let answer = self.get("/api/v1/rules").await?;
            let groups = answer["groups"].as_array().context("no groups")?;
            let rules: Vec<_> =
                groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()).collect();
            if rules.iter().all(|rule| rule["health"] == "ok") {
                return Ok(rules.len());
            }
            let bad = rules.iter().find(|rule| rule["health"] == "err");
            ensure!(bad.is_none(), "a rule fails: {bad:?}");
            ensure!(begin.elapsed() < PATIENCE, Late(format!("rules were not evaluated: {answer}")));
            sleep(POLL).await;
        }
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = http::get(&self.address, path).await?;
        let mut json: Value = serde_json::from_str(&answer.body)
            .with_context(|| format!("Prometheus said {} {}", answer.status, answer.body))?;
        ensure!(json["status"] == "success", "Prometheus: {json}");
        Ok(json["data"].take())
    }
}
