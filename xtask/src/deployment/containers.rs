//! The Compose files and HAProxy's configuration, read by those programs.

use anyhow::ensure;
use tokio::process::Command;

use super::HAPROXY;
use crate::apt;
use crate::environment::{PROBE_LIMIT, run, said};

const COMPOSE: [&str; 2] = ["docker-compose.yml", "docker-compose.demo.yml"];

/// What was left out, and why.
pub(super) async fn check() -> anyhow::Result<Vec<String>> {
    let mut left_out = Vec::new();
    match compose().await {
        Some(program) => {
            for file in COMPOSE {
                let mut command = Command::new(program[0]);
                command.args(&program[1..]).args(["-f", file, "config", "--quiet"]);
                command.env("LOBBY_AUTH__SECRET", "only-for-this-check");
                let output = run(command, PROBE_LIMIT).await?;
                ensure!(output.status.success(), "{file}: {}", said(&output));
            }
        }
        None => left_out.push("the Compose files: there is no docker-compose".to_owned()),
    }
    let haproxy = apt::program("haproxy", "haproxy").await?;
    let mut command = Command::new(haproxy);
    command.args(["-c", "-f", HAPROXY]);
    let output = run(command, PROBE_LIMIT).await?;
    ensure!(output.status.success(), "{HAPROXY}: {}", said(&output));
    Ok(left_out)
}

/// Compose as a program of its own, or as Docker's plug-in.
async fn compose() -> Option<&'static [&'static str]> {
    for program in [&["docker-compose"][..], &["docker", "compose"]] {
        let mut probe = Command::new(program[0]);
        probe.args(&program[1..]).arg("version");
        if run(probe, PROBE_LIMIT).await.is_ok_and(|output| output.status.success()) {
            return Some(program);
        }
    }
    None
}
