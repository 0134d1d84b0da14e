//! What a client and the lobby say to each other besides notifications, and how messages look on the wire.

use anyhow::ensure;
use serde_json::{Value, json};

use super::addressing::received;
use super::stage::{SECRET, Stage};
use crate::client::{Client, Dialing, Transport, without_insignificant_space};
use crate::token;

/// `ask_session` is answered with a number, before and after the login; the login names the user.
pub(super) async fn session_and_welcome(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    for transport in Transport::BOTH {
        let mut client = stage.stranger(&lobby, transport).await?;
        client.send(r#"{"command":"ask_session","user_agent":"e2e","version":"1"}"#).await?;
        let session = client.command("session").await?.json()?;
        let number = session["session"].as_u64();
        ensure!(number.is_some_and(|number| u32::try_from(number).is_ok()), "no u32 in {session}");
        let welcome = client.login(&token::valid(SECRET, 42)?).await?.json()?;
        ensure!(welcome["id"] == 42 && welcome["me"]["id"] == 42, "no id 42 in {welcome}");
        let login = &welcome["login"];
        ensure!(login == "player-42" && welcome["me"]["login"] == *login, "no login in {welcome}");
        let time = welcome["current_time"].as_str().unwrap_or_default();
        ensure!(time.len() >= 20 && time.as_bytes()[10] == b'T', "no RFC 3339 time in {welcome}");
        // The same user may log in again on the same connection, with a fresh token.
        client.login(&token::valid(SECRET, 42)?).await?;
    }
    Ok(())
}

/// A ping is answered with a pong, logged in or not; `\r\n` and empty lines are fine on TCP.
pub(super) async fn ping_pong(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    for transport in Transport::BOTH {
        let mut stranger = stage.stranger(&lobby, transport).await?;
        stranger.send(r#"{"command":"ping"}"#).await?;
        stranger.command("pong").await?;
        let mut player = stage.client(&lobby, transport, 42).await?;
        player.send(r#"{"command":"ping"}"#).await?;
        player.command("pong").await?;
    }
    let mut player = stage.client(&lobby, Transport::Tcp, 7).await?;
    player.send_bytes(b"\n\r\n{\"command\":\"ping\"}\r").await?;
    player.command("pong").await?;
    let mut player = stage.client(&lobby, Transport::WebSocket, 7).await?;
    player.send_bytes(b"{\"command\":\"ping\"}\n").await?;
    player.command("pong").await.map(drop)
}

/// The lobby pings an idle client and closes with 4001 only when nothing is answered.
pub(super) async fn idle_ping(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.start(&stage.setup().set("LOBBY_SESSIONS__PING_INTERVAL", "200ms")).await?;
    for transport in Transport::BOTH {
        let mut silent = stage.client(&lobby, transport, 1).await?;
        let mut polite = stage.client(&lobby, transport, 2).await?;
        silent.ignore_pings();
        polite.meanwhile(silent.expect_close(4001)).await?;
        ensure!(silent.pings() == 2, "closed after {} unanswered pings instead of 2", silent.pings());
        polite.pinged(6).await?;
        let sentinel = polite.meanwhile(async { stage.notifier().await?.sentinel().await }).await?;
        received(&mut polite, &sentinel, &[]).await?;
    }
    let metrics = lobby.metrics().await?;
    ensure!(
        metrics.count("lobby_closes_total", &[("code", "4001")]) == 2,
        "closes are not counted:\n{metrics}"
    );
    Ok(())
}

/// An unknown command from a logged-in client is answered with `invalid`, and the connection stays.
pub(super) async fn unknown_command(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    for transport in Transport::BOTH {
        let mut client = stage.client(&lobby, transport, 42).await?;
        client.send(r#"{"command":"game_host","title":"x"}"#).await?;
        client.command("invalid").await?;
        let sentinel = stage.notifier().await?.sentinel().await?;
        received(&mut client, &sentinel, &[]).await?;
    }
    Ok(())
}

/// A pretty-printed body arrives on one line, with every token as the publisher spelled it.
pub(super) async fn pretty_printed_body(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let body = "{\r\n  \"command\": \"notice\",\r\n\t\"n\": [ 1.10,\n 1e400 ],\r  \"text\": \"a \\n b \\u00e9 é\"\n}\n";
    let wanted = without_insignificant_space(body.as_bytes());
    for transport in Transport::BOTH {
        let mut client = stage.client(&lobby, transport, 42).await?;
        let mut notifier = stage.notifier().await?;
        notifier.notify_user(42, body).await?;
        notifier.notify_all(body).await?;
        let sentinel = notifier.sentinel().await?;
        let lines = client.expect_until(&sentinel).await?;
        ensure!(lines.len() == 2, "{} lines instead of 2: {lines:?}", lines.len());
        for line in lines {
            ensure!(without_insignificant_space(line.bytes()) == wanted, "changed on the way: {line}");
        }
    }
    Ok(())
}

/// The subprotocol is echoed when a client offers it.
pub(super) async fn subprotocol(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let how = Dialing { subprotocol: Some("lobby.v1.json"), ..Dialing::default() };
    let mut client = Client::dial(Transport::WebSocket, lobby.address(Transport::WebSocket)?, how).await?;
    client.login(&token::valid(SECRET, 42)?).await.map(drop)
}

/// A flood of headers of every kind changes nothing in what a client gets.
pub(super) async fn other_properties(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut client = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut notifier = stage.notifier().await?;
    let many: Vec<Value> = (0..500).map(|n| json!([format!("x-{n}"), "S", "v"])).collect();
    let props = json!({"content_type": "text/plain", "content_encoding": "gzip", "priority": 9, "expiration": "60000",
                       "message_id": "m", "timestamp": 1, "type": "t", "app_id": "a"});
    notifier.publish(&Value::Array(many), &props, br#"{"command":"plain"}"#).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut client, &sentinel, &[r#"{"command":"plain"}"#]).await
}
