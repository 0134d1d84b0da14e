//! Compiles `publishers/java` where there are a JDK, Maven and Maven's repository.

use std::path::Path;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::environment::{Home, INSTALL_LIMIT, PROBE_LIMIT, run};

/// Maven writes these when its repository does not answer, and only then.
const UNREACHABLE: [&str; 4] =
    ["Unknown host", "Connection refused", "Connect timed out", "Network is unreachable"];

/// Why it could not be compiled here, if so.
///
/// # Errors
/// It does not compile.
pub(crate) async fn compile() -> anyhow::Result<Option<String>> {
    for program in ["javac", "mvn"] {
        let mut probe = Command::new(program);
        probe.arg("-version");
        if !run(probe, PROBE_LIMIT).await.is_ok_and(|output| output.status.success()) {
            return Ok(Some(format!("there is no `{program}`")));
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")?;
    let home = Home::open("java").await?;
    let mut maven = Command::new("mvn");
    maven
        .args(["--quiet", "--batch-mode", "--no-transfer-progress", "--file"])
        .arg(root.join("xtask/java/pom.xml"));
    maven.arg(format!("-Dlobby.sources={}", root.join("publishers/java").display()));
    maven.arg(format!("-Dlobby.target={}", home.path().display())).arg("compile");
    let output = run(maven, INSTALL_LIMIT).await?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    match UNREACHABLE.iter().find(|sign| said.contains(*sign)) {
        Some(sign) => Ok(Some(format!("Maven's repository cannot be reached ({sign})"))),
        None => bail!("mvn compile: {said}"),
    }
}
