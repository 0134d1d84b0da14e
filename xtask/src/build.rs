//! Programs of this workspace, built as `cargo test --workspace` builds them, so that nothing is compiled twice.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::process::Command;
use tokio::sync::OnceCell;

/// Cargo as it called us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The lobby.
pub(crate) async fn lobby() -> anyhow::Result<PathBuf> {
    executable(&["--workspace", "--bin", "lobby"]).await
}

/// The lobby with OpenTelemetry, as a file of its own. Cargo calls both lobbies the same, so this one must be there before
/// the other is built, and run.
pub(crate) async fn lobby_with_otel() -> anyhow::Result<PathBuf> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let built = BUILT.get_or_try_init(|| async {
        let lobby = executable(&["--workspace", "--bin", "lobby", "--features", "lobby-bin/otel"]).await?;
        let (copy, new) = (lobby.with_file_name("lobby-otel"), lobby.with_file_name("lobby-otel.new"));
        std::fs::copy(&lobby, &new).with_context(|| format!("copy {}", lobby.display()))?;
        // What runs cannot be written to, but renamed over.
        std::fs::rename(&new, &copy).with_context(|| format!("rename {}", new.display()))?;
        anyhow::Ok(copy)
    });
    Ok(built.await?.clone())
}

/// A program as it is released, for who measures it.
pub(crate) async fn release(package: &str, program: &str) -> anyhow::Result<PathBuf> {
    executable(&["--release", "--package", package, "--bin", program]).await
}

/// An example as it would be released.
pub(crate) async fn release_example(package: &str, name: &str) -> anyhow::Result<PathBuf> {
    executable(&["--release", "--package", package, "--example", name]).await
}

/// The example of that name.
pub(crate) async fn example(name: &str) -> anyhow::Result<PathBuf> {
    executable(&["--workspace", "--example", name]).await
}

/// Builds one executable and returns where it is. Cargo's progress goes to standard error.
async fn executable(target: &[&str]) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--locked", "--message-format=json-render-diagnostics"]).args(target);
    built(command).await
}

/// Runs a `cargo build` that prints JSON messages, and returns where its executable is.
pub(crate) async fn built(mut command: Command) -> anyhow::Result<PathBuf> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output().await.context("run cargo build")?;
    ensure!(output.status.success(), "{:?} failed: {}", command.as_std(), output.status);
    let messages = String::from_utf8(output.stdout).context("cargo's messages")?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    executables.next_back().with_context(|| format!("no executable was named by {:?}", command.as_std()))
}
