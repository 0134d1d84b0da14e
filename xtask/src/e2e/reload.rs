//! SIGHUP: what changes while the lobby runs, what waits for a restart, and what is not taken.

use std::path::Path;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};

use super::stage::Stage;
use crate::PATIENCE;
use crate::client::{Client, Transport};
use crate::late::Late;
use crate::lobby::Lobby;
use crate::token;

const OLD: &str = "the-first-secret-of-the-reload-scenario";
const NEW: &str = "the-second-secret-of-the-reload-scenario";

/// Limits, the secret in its file and the log's level count at once, each told with both values; who is connected stays;
/// what takes a restart is said to; a broken file changes nothing.
pub(super) async fn reload(stage: &Stage) -> anyhow::Result<()> {
    let file = stage.directory().join("reload.toml");
    let secret = stage.directory().join("secret");
    write(&secret, &format!("{OLD}\n"))?;
    write(&file, "[listen]\nmax_connections = 1\n[broker]\nprefetch = 50\n[log]\nlevel = \"info\"\n")?;
    let setup = stage
        .setup()
        .unset("LOBBY_AUTH__SECRET")
        .set("LOBBY_AUTH__SECRET_FILE", secret.display().to_string())
        .arguments(["--config", &file.display().to_string()]);
    let mut lobby = stage.start(&setup).await?;
    let mut first = Client::connect(Transport::Tcp, lobby.address(Transport::Tcp)?).await?;
    first.login(&token::valid(OLD, 1)?).await?;
    stage.stranger(&lobby, Transport::Tcp).await?.expect_close(1013).await?;

    write(&file, "[listen]\nmax_connections = \"many\"\n[log]\nlevel = \"debug\"\n")?;
    write(&secret, &format!("{NEW}\n"))?;
    let broken = hang_up(&lobby, "not reloaded").await?;
    for part in ["listen.max_connections", "many", &file.display().to_string()] {
        ensure!(broken.contains(part), "{part} is not in: {broken}");
    }
    stage.stranger(&lobby, Transport::Tcp).await?.expect_close(1013).await?;

    write(&file, "[listen]\nmax_connections = 5\n[broker]\nprefetch = 60\n[log]\nlevel = \"debug\"\n")?;
    hang_up(&lobby, "configuration reloaded").await?;
    let told = |key: &str| {
        lobby.log().records().into_iter().find(|record| record.field("key").as_deref() == Some(key))
    };
    for (key, old, new, message) in [
        ("listen.max_connections", "1", "5", "setting reloaded"),
        ("log.level", "info", "debug", "setting reloaded"),
        ("auth.secret", "***", "***", "setting reloaded"),
        ("broker.prefetch", "50", "60", "needs a restart"),
    ] {
        let record = told(key).with_context(|| format!("the log does not tell of {key}"))?;
        ensure!(
            record.field("old").as_deref() == Some(old)
                && record.field("new").as_deref() == Some(new)
                && record.field("message").is_some_and(|said| said.contains(message)),
            "{key}: {record:?}"
        );
    }
    let admin = lobby.admin_address()?.to_string();
    let top =
        stage.bare_setup().arguments(["top", "--once", "--json", "--admin", &admin]).run_to_exit().await?;
    let seen: serde_json::Value = serde_json::from_str(&top.stdout).context("lobby top --once --json")?;
    ensure!(seen["state"]["max_connections"] == 5, "who looks sees another limit: {}", seen["state"]);
    let mut second = stage.stranger(&lobby, Transport::Tcp).await?;
    second.authenticate(&token::valid(OLD, 2)?).await?;
    second.command("authentication_failed").await?;
    second.login(&token::valid(NEW, 2)?).await?;
    let mut notifier = stage.notifier().await?;
    let sentinel = notifier.sentinel().await?;
    first.expect_until(&sentinel).await?;
    second.expect_until(&sentinel).await?;
    let mut wrong = stage.stranger(&lobby, Transport::Tcp).await?;
    wrong.send("nonsense").await?;
    wrong.expect_close(4503).await?;
    logged(&lobby, "\"DEBUG\"").await?;
    ensure!(!lobby.log().holds(OLD) && !lobby.log().holds(NEW), "a secret stands in the log");
    drop((first, second));
    lobby.stop().await
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Sends SIGHUP and waits for a line that says this; the line.
async fn hang_up(lobby: &Lobby, says: &str) -> anyhow::Result<String> {
    lobby.hang_up()?;
    logged(lobby, says).await
}

/// Waits for a line that says this.
async fn logged(lobby: &Lobby, says: &str) -> anyhow::Result<String> {
    let start = Instant::now();
    loop {
        if let Some(line) = lobby.log().lines().into_iter().find(|line| line.contains(says)) {
            return Ok(line);
        }
        ensure!(start.elapsed() < PATIENCE, Late(format!("the log never said `{says}`")));
        sleep(std::time::Duration::from_millis(25)).await;
    }
}
