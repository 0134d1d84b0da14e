//! A log that cannot be written.

use anyhow::{Context as _, ensure};

use crate::broker::ports;
use crate::client::Transport;
use crate::faults::scene::Scene;
use crate::faults::traffic::Traffic;
use crate::lobby::{Lobby, Setup};

/// From the start on a full disk; closed from the start; and a reader who goes away while the lobby has much to say.
pub(super) async fn nowhere(scene: &Scene) -> anyhow::Result<()> {
    ensure!(std::path::Path::new("/dev/full").exists(), "there is no /dev/full");
    let pipe = scene.directory().join("log");
    let made = tokio::process::Command::new("mkfifo").arg(&pipe).status().await.context("run mkfifo")?;
    ensure!(made.success(), "mkfifo: {made}");
    let pipe_text = pipe.display();
    for (what, script) in [
        ("on a full disk", r#"exec "$0" "$@" 2>/dev/full"#.to_owned()),
        ("closed", r#"exec "$0" "$@" 2>&-"#.to_owned()),
        ("without a reader", format!(r#"exec "$0" "$@" 2>'{pipe_text}'"#)),
    ] {
        let reader = (what == "without a reader").then(|| {
            let pipe = pipe.clone();
            // Opening a pipe waits for the other end.
            tokio::task::spawn_blocking(move || std::fs::File::open(pipe))
        });
        let lobby = scene.start(&unheard(scene.setup())?.through_shell(&script)).await?;
        if let Some(reader) = reader {
            drop(reader.await?.context("open the pipe")?);
        }
        speaks(scene, &lobby).await.with_context(|| format!("a log {what}"))?;
        scene.leaves_nothing(lobby).await?;
    }
    scene.fact("a full disk, no standard error, a pipe whose reader has gone");
    Ok(())
}

/// At a level at which every message makes lines, with ports that are known without its log.
fn unheard(setup: Setup) -> anyhow::Result<Setup> {
    let [tcp, websocket, admin] = ports::free()?;
    let at = |port: u16| format!("127.0.0.1:{port}");
    Ok(setup
        .set("LOBBY_LISTEN__TCP", at(tcp))
        .set("LOBBY_LISTEN__WEBSOCKET", at(websocket))
        .set("LOBBY_LISTEN__ADMIN", at(admin))
        .set("LOBBY_LOG__LEVEL", "trace")
        .unheard())
}

async fn speaks(scene: &Scene, lobby: &Lobby) -> anyhow::Result<()> {
    let mut traffic = Traffic::start(scene, lobby, 200).await?;
    traffic.flows(scene.pick(400, 5_000)).await?;
    // What is logged about clients.
    for transport in Transport::BOTH {
        let mut stranger = scene.stranger(lobby, transport).await?;
        stranger.send("nonsense").await?;
        stranger.expect_close(4503).await?;
    }
    let tally = traffic.finish(scene).await?;
    scene.count(&tally, tally.unmarked_of(0))
}
