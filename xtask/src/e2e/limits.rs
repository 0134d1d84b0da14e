//! What ends a connection: silence before the login, nonsense, too much at once.

use anyhow::ensure;

use super::addressing::received;
use super::stage::Stage;
use crate::client::Transport;

/// Who does not log in in time is closed with 4004, even when it talks.
pub(super) async fn login_timeout(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.start(&stage.setup().set("LOBBY_SESSIONS__LOGIN_TIMEOUT", "1s")).await?;
    for transport in Transport::BOTH {
        let mut silent = stage.stranger(&lobby, transport).await?;
        let mut talking = stage.stranger(&lobby, transport).await?;
        talking.send(r#"{"command":"ping"}"#).await?;
        talking.command("pong").await?;
        let mut player = stage.client(&lobby, transport, 42).await?;
        let (first, second) = tokio::join!(silent.expect_close(4004), talking.expect_close(4004));
        first?;
        second?;
        let sentinel = stage.notifier().await?.sentinel().await?;
        received(&mut player, &sentinel, &[]).await?;
    }
    Ok(())
}

/// Before the login, anything but the four commands closes with 4503; so does nonsense at any time.
pub(super) async fn protocol_errors(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    for transport in Transport::BOTH {
        for message in
            [r#"{"command":"game_host"}"#, "nonsense", "[]", "42", r#"{"a":1}"#, r#"{"command":7}"#]
        {
            let mut stranger =
                stage.stranger(&lobby, transport).await?.named(format_args!("sender of {message}"));
            stranger.send(message).await?;
            stranger.expect_close(4503).await?;
        }
        for message in ["nonsense", "[]", r#"{"a":1}"#] {
            let mut player =
                stage.client(&lobby, transport, 42).await?.named(format_args!("sender of {message}"));
            player.send(message).await?;
            player.expect_close(4503).await?;
        }
    }
    Ok(())
}

/// A message over the limit closes with 1009, text that is not UTF-8 with 1007, before and after the login.
pub(super) async fn oversize_and_bad_text(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let large = format!(r#"{{"command":"ping","padding":"{}"}}"#, "x".repeat(80 * 1024));
    let fits = format!(r#"{{"command":"ping","padding":"{}"}}"#, "x".repeat(60 * 1024));
    let bad: &[u8] = b"{\"command\":\"\xff\xfe\"}";
    for transport in Transport::BOTH {
        for (message, code) in [(large.as_bytes(), 1009), (bad, 1007)] {
            let mut player = stage.client(&lobby, transport, 42).await?;
            player.send_bytes(message).await?;
            player.expect_close(code).await?;
            let mut stranger = stage.stranger(&lobby, transport).await?;
            stranger.send_bytes(message).await?;
            stranger.expect_close(code).await?;
        }
        let mut player = stage.client(&lobby, transport, 42).await?;
        player.send(&fits).await?;
        player.command("pong").await?;
    }
    let metrics = lobby.metrics().await?;
    for code in ["1009", "1007"] {
        let count = metrics.count("lobby_closes_total", &[("code", code)]);
        ensure!(count == 4, "closes with {code}: counted {count} of 4:\n{metrics}");
    }
    Ok(())
}

/// A client that says too much is closed with 1008, before the login and after it, and nobody else is.
pub(super) async fn too_many_commands(stage: &Stage) -> anyhow::Result<()> {
    const PING: &str = r#"{"command":"ping"}"#;
    let setup = stage
        .setup()
        .set("LOBBY_SESSIONS__MAX_COMMANDS_PER_SECOND", "1")
        .set("LOBBY_SESSIONS__COMMAND_BURST", "20");
    let lobby = stage.start(&setup).await?;
    let mut quiet = stage.client(&lobby, Transport::Tcp, 42).await?;
    for transport in Transport::BOTH {
        for mut talkative in
            [stage.client(&lobby, transport, 7).await?, stage.stranger(&lobby, transport).await?]
        {
            for _ in 0..20 {
                talkative.send(PING).await?;
                talkative.command("pong").await?;
            }
            // Some come back in the meantime. The last ones may find the connection closed.
            for _ in 0..100 {
                if talkative.send(PING).await.is_err() {
                    break;
                }
            }
            talkative.expect_close(1008).await?;
        }
    }
    let metrics = lobby.metrics().await?;
    let count = metrics.count("lobby_closes_total", &[("code", "1008")]);
    ensure!(count == 4, "closes with 1008: counted {count} of 4:\n{metrics}");
    let sentinel = stage.notifier().await?.sentinel().await?;
    received(&mut quiet, &sentinel, &[]).await
}
