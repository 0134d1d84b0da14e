//! `cargo xtask ci`: what CI runs, cheapest check first. Installs the broker it needs, leaves nothing running.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;

use crate::broker::{Broker, BrokerOptions};
use crate::build::cargo;
use crate::environment::Environment;
use crate::{contract, deny, deployment, dist, documents, java, progress};

/// Crates and what each must not depend on, whatever the path between them.
const DEPENDENCY_RULES: [(&str, &[&str]); 5] = [
    ("notify-protocol", &["tokio", "lapin", "notify-amqp", "lobby-sessions"]),
    ("notify-amqp", &["lobby-sessions", "lobby-bin"]),
    ("lobby-sessions", &["notify-amqp", "lapin", "lobby-bin"]),
    ("lobby-testing", &["notify-amqp", "lapin", "lobby-bin"]),
    ("xtask", &["notify-amqp", "lobby-sessions", "lobby-bin"]),
];

/// The only crate that may name lapin in its manifest.
const LAPIN_USER: &str = "notify-amqp";

/// The crate that must compile where there is neither clock nor randomness nor I/O.
const PURE_CRATE: &str = "notify-protocol";
const WEB_ASSEMBLY: &str = "wasm32-unknown-unknown";
/// A standard library of some 20 MB through a slow line.
const TARGET_LIMIT: Duration = Duration::from_secs(180);

/// Runs all checks; the first that fails ends the run.
pub(crate) async fn ci() -> anyhow::Result<()> {
    let mut run = Run::default();
    run.cargo("format", &["fmt", "--all", "--check"]).await?;
    run.cargo(
        "clippy",
        &["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--", "-D", "warnings"],
    )
    .await?;
    run.step("dependency rules", dependency_rules()).await?;
    run.step("licences, bans, sources, advisories", dependency_policy()).await?;
    run.step("AsyncAPI document", async_api()).await?;
    run.step("Java publisher", java_publisher()).await?;
    run.web_assembly().await?;
    run.step("generated documents", documents::check()).await?;
    run.step("deployment files", deployment::check()).await?;
    run.step("packages", dist::check_packing()).await?;
    run.tests().await?;
    run.documents().await?;
    run.broker_tests().await?;
    run.end_to_end_tests().await?;
    run.cargo("faults, in their short form", &["xtask", "faults", "--quick"]).await?;
    run.show();
    Ok(())
}

/// `cargo xtask test`: unit tests, doc tests and broker tests.
pub(crate) async fn test() -> anyhow::Result<()> {
    let mut run = Run::default();
    run.tests().await?;
    run.broker_tests().await?;
    run.show();
    Ok(())
}

/// The steps done so far and how long each took.
#[derive(Default)]
struct Run {
    steps: Vec<(String, Duration)>,
}

impl Run {
    async fn tests(&mut self) -> anyhow::Result<()> {
        // Without a broker in reach, so that a test which needs one fails here.
        let mut command = cargo();
        command.args(["test", "--workspace", "--locked"]).env("AMQP_URL", "amqp://no-broker.invalid");
        self.command("unit and doc tests, without a broker", command).await?;
        let ring = ["test", "--package", "lobby-sessions", "--features", "io-uring", "--tests", "--locked"];
        self.cargo("sessions through io_uring", &ring).await?;
        let spans =
            ["test", "--workspace", "--features", "lobby-bin/otel", "--bin", "lobby", "--locked", "otel"];
        self.cargo("the lobby with OpenTelemetry", &spans).await
    }

    async fn documents(&mut self) -> anyhow::Result<()> {
        let mut command = cargo();
        command.args(["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]);
        command.env("RUSTDOCFLAGS", "-D warnings");
        self.command("API documents", command).await
    }

    /// Publishers may run where there is no operating system.
    async fn web_assembly(&mut self) -> anyhow::Result<()> {
        if let Err(reason) = web_assembly_target().await {
            eprintln!("left out: {PURE_CRATE} for {WEB_ASSEMBLY}: {reason:#}");
            return Ok(());
        }
        self.cargo(WEB_ASSEMBLY, &["check", "--package", PURE_CRATE, "--target", WEB_ASSEMBLY, "--locked"])
            .await
    }

    async fn broker_tests(&mut self) -> anyhow::Result<()> {
        let mut progress = progress::to_stderr();
        let broker = Broker::start(&BrokerOptions::from_env(false)?, &mut progress).await?;
        let outcome = self.library_on(&broker).await;
        outcome.and(broker.stop().await)?;
        // Each of these starts a broker of its own.
        let mut command = with_broker_tests();
        command.args(["--bin", "xtask", "--test", "broker_command", "--", "broker"]);
        self.command("tests of the brokers for tests", command).await
    }

    async fn end_to_end_tests(&mut self) -> anyhow::Result<()> {
        // Nothing may be skipped here.
        let mut command = cargo();
        command.args(["xtask", "e2e"]).env("CI", "true");
        self.command("end-to-end tests", command).await
    }

    async fn library_on(&mut self, broker: &Broker) -> anyhow::Result<()> {
        let vhost = broker.vhost("broker-tests").await?;
        let mut command = with_broker_tests();
        command.args(["--test", "broker"]).env("AMQP_URL", vhost.amqp_url());
        if let Some(management) = broker.management() {
            command.env("LOBBY_TEST_MANAGEMENT_URL", management.url_with_login());
        }
        match broker.tls() {
            Some((port, directory)) => {
                command.env("LOBBY_TEST_TLS_PORT", port.to_string()).env("LOBBY_TEST_TLS_DIR", directory);
            }
            None => {
                eprintln!("this broker has no TLS listener of ours: left out are the broker tests of TLS");
                command.args(["--", "--skip", "tls::"]);
            }
        }
        self.command("broker tests", command).await?;
        vhost.delete().await
    }

    async fn cargo(&mut self, name: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = cargo();
        command.args(arguments);
        self.command(name, command).await
    }

    async fn command(&mut self, name: &str, mut command: Command) -> anyhow::Result<()> {
        command.stdin(Stdio::null()).kill_on_drop(true);
        self.step(name, async move {
            let status = command.status().await.with_context(|| format!("run {:?}", command.as_std()))?;
            ensure!(status.success(), "{:?} failed ({status})", command.as_std());
            Ok(())
        })
        .await
    }

    async fn step(
        &mut self,
        name: &str,
        work: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        eprintln!("\n=== {name}");
        let begin = Instant::now();
        work.await.with_context(|| format!("the check `{name}` failed"))?;
        self.steps.push((name.to_owned(), begin.elapsed()));
        Ok(())
    }

    fn show(&self) {
        println!("\n{:<40} {:>8}", "check", "seconds");
        for (name, took) in &self.steps {
            println!("{name:<40} {:>8.1}", took.as_secs_f32());
        }
        println!("{} checks passed", self.steps.len());
    }
}

/// Tests that need a broker, compiled once for both runs.
fn with_broker_tests() -> Command {
    let mut command = cargo();
    command.args(["test", "--workspace", "--locked"]);
    command.args(["--features", "notify-amqp/broker-tests,xtask/broker-tests"]);
    command
}

async fn dependency_policy() -> anyhow::Result<()> {
    if let Some(reason) = deny::check().await? {
        eprintln!("left out: {reason}");
    }
    Ok(())
}

async fn async_api() -> anyhow::Result<()> {
    if let Some(reason) = contract::check_with_parser().await? {
        eprintln!("left out: AsyncAPI's parser: {reason}");
    }
    Ok(())
}

async fn java_publisher() -> anyhow::Result<()> {
    if let Environment::Unreachable(reason) = java::environment().await? {
        eprintln!("left out: the Java publisher: {reason}");
        return Ok(());
    }
    if let Some(reason) = java::compile_with_maven().await? {
        eprintln!("left out: the Java publisher with Spring and today's libraries: {reason}");
    }
    Ok(())
}

/// Makes sure that Rust has a standard library for WebAssembly.
async fn web_assembly_target() -> anyhow::Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", WEB_ASSEMBLY]).stdin(Stdio::null()).kill_on_drop(true);
    let adding = tokio::time::timeout(TARGET_LIMIT, rustup.output()).await;
    let added = adding.with_context(|| format!("rustup did not end in {TARGET_LIMIT:?}"))?;
    let added = added.context("rustup, which adds the target")?;
    ensure!(added.status.success(), "rustup target add: {}", String::from_utf8_lossy(&added.stderr).trim());
    Ok(())
}

async fn dependency_rules() -> anyhow::Result<()> {
    for (package, forbidden) in DEPENDENCY_RULES {
        let tree = cargo()
            .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--locked"])
            .args(["--format", "{p}"])
            .output()
            .await?;
        ensure!(tree.status.success(), "cargo tree: {}", String::from_utf8_lossy(&tree.stderr));
        let tree = String::from_utf8(tree.stdout)?;
        if let Some(name) = first_forbidden(&tree, forbidden)? {
            bail!("{package} depends on {name}; see the code map in ARCHITECTURE.md");
        }
    }
    for manifest in manifests()? {
        let text =
            std::fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?;
        let names_lapin =
            text.lines().any(|line| line.starts_with("lapin") || line.starts_with("deadpool-lapin"));
        let may = manifest.parent().is_some_and(|crate_dir| crate_dir.ends_with(LAPIN_USER));
        ensure!(!names_lapin || may, "{} names lapin; only {LAPIN_USER} may", manifest.display());
    }
    Ok(())
}

/// The first of `forbidden` in the output of `cargo tree --prefix none`, whose first line is the crate itself.
fn first_forbidden<'a>(tree: &str, forbidden: &[&'a str]) -> anyhow::Result<Option<&'a str>> {
    let mut names = tree.lines().filter_map(|line| line.split(' ').next());
    names.next().context("cargo tree printed nothing")?;
    let names: std::collections::BTreeSet<_> = names.collect();
    Ok(forbidden.iter().copied().find(|name| names.contains(name)))
}

fn manifests() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![Path::new("xtask/Cargo.toml").to_owned()];
    for entry in std::fs::read_dir("crates").context("read crates/; run from the repository's root")? {
        found.push(entry?.path().join("Cargo.toml"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_crate_is_found_wherever_it_stands_in_the_tree() {
        let tree = "notify-protocol v0.1.0 (/w)\nserde v1.0.0\ntokio v1.0.0\nserde v1.0.0 (*)\n";
        assert_eq!(first_forbidden(tree, &["lapin", "tokio"]).unwrap(), Some("tokio"));
        assert_eq!(first_forbidden(tree, &["lapin", "tokio-util"]).unwrap(), None);
        assert_eq!(first_forbidden(tree, &["notify-protocol"]).unwrap(), None);
        assert!(first_forbidden("", &["lapin"]).is_err());
    }
}
