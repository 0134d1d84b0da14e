//! Starts that must fail, with a message that says what to change.

use anyhow::{Context as _, ensure};
use tokio::net::TcpListener;

use super::stage::Stage;
use crate::lobby::{Finished, Setup};

/// The process ended with an error whose text has all of `words`, in any case of letters.
pub(crate) async fn refuses(setup: Setup, words: &[&str]) -> anyhow::Result<Finished> {
    let finished = setup.run_to_exit().await?;
    ensure!(!finished.status.success(), "it started instead of refusing; stderr: {}", finished.stderr);
    let said = finished.stderr.to_lowercase();
    for word in words {
        ensure!(
            said.contains(&word.to_lowercase()),
            "the error does not name `{word}`: {}",
            finished.stderr.trim()
        );
    }
    Ok(finished)
}

/// [`refuses`], with this exit code.
pub(crate) async fn exits(setup: Setup, code: i32, words: &[&str]) -> anyhow::Result<()> {
    let finished = refuses(setup, words).await?;
    let status = finished.status.code();
    ensure!(status == Some(code), "exit code {status:?} instead of {code}: {}", finished.stderr);
    Ok(())
}

/// An unknown key stops the start and is named, from the environment and from a file.
pub(super) async fn unknown_key(stage: &Stage) -> anyhow::Result<()> {
    refuses(stage.setup().set("LOBBY_BROKER__FOO", "1"), &["foo", "broker"]).await?;
    refuses(stage.setup().set("LOBBY_NOWHERE__URL", "1"), &["nowhere"]).await?;
    let file = stage.directory().join("mistake.toml");
    std::fs::write(&file, "[broker]\nprefetch = 10\nfoo = 1\n").context("write a configuration")?;
    let file = file.to_str().context("a path in UTF-8")?;
    let setup = stage.setup().argument("--config").argument(file);
    refuses(setup.clone(), &["broker.foo", "mistake.toml"]).await?;
    refuses(setup.argument("check-config"), &["broker.foo"]).await?;
    refuses(stage.setup().set("LOBBY_SESSIONS__LOGIN_TIMEOUT", "soon"), &["login_timeout", "soon"]).await?;
    refuses(stage.setup().argument("--config").argument("absent.toml"), &["absent.toml"]).await?;
    Ok(())
}

/// The printed default configuration is accepted, and environment wins over the file, flags over both.
pub(super) async fn configuration_layers(stage: &Stage) -> anyhow::Result<()> {
    let defaults = stage.bare_setup().argument("default-config").run_to_exit().await?;
    ensure!(defaults.status.success(), "default-config exited with {}", defaults.status);
    let file = stage.directory().join("default.toml");
    std::fs::write(&file, &defaults.stdout).context("write the default configuration")?;
    let path = file.to_str().context("a path in UTF-8")?;
    let checked =
        stage.bare_setup().argument("--config").argument(path).argument("check-config").run_to_exit().await?;
    ensure!(checked.status.success(), "the default configuration is not accepted: {}", checked.stderr);
    std::fs::write(
        &file,
        "[broker]\nprefetch = 11\n[sessions]\nlogin_timeout = \"11s\"\nping_interval = \"11s\"\n",
    )
    .context("write a configuration")?;
    let layered = stage
        .bare_setup()
        .set("LOBBY_SESSIONS__LOGIN_TIMEOUT", "12s")
        .set("LOBBY_SESSIONS__PING_INTERVAL", "12s")
        .argument("--config")
        .argument(path)
        .argument("--set")
        .argument("sessions.ping_interval=13s")
        .argument("check-config");
    let shown = layered.run_to_exit().await?.stdout;
    for (key, value) in
        [("broker.prefetch", "11"), ("sessions.login_timeout", "12s"), ("sessions.ping_interval", "13s")]
    {
        let line =
            shown.lines().find(|line| line.contains(key)).with_context(|| format!("{key} in:\n{shown}"))?;
        ensure!(line.contains(value), "{key} is not {value}: {line}");
    }
    Ok(())
}

/// A taken port is named.
pub(super) async fn taken_port(stage: &Stage) -> anyhow::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0").await.context("take a port")?;
    let address = taken.local_addr()?.to_string();
    for key in ["LOBBY_LISTEN__TCP", "LOBBY_LISTEN__WEBSOCKET", "LOBBY_LISTEN__ADMIN"] {
        refuses(stage.setup().set(key, &address), &[&address]).await?;
    }
    Ok(())
}

/// Without a login, an address that others reach is refused, with what to set.
pub(super) async fn open_without_login(stage: &Stage) -> anyhow::Result<()> {
    for key in ["LOBBY_LISTEN__TCP", "LOBBY_LISTEN__WEBSOCKET"] {
        let setup = stage.setup().unset("LOBBY_AUTH__SECRET").set(key, "0.0.0.0:0");
        refuses(setup, &["LOBBY_AUTH__SECRET", "LOBBY_AUTH__JWKS"]).await?;
    }
    // With a login the same address is fine.
    let lobby = stage.start(&stage.setup().set("LOBBY_LISTEN__TCP", "0.0.0.0:0")).await?;
    drop(lobby);
    Ok(())
}
