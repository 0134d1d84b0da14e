//! Who gets what: one user, everyone, nobody, and two lobbies side by side.

use anyhow::ensure;
use serde_json::json;

use super::notifier::{numbered, unique};
use super::stage::Stage;
use crate::client::{Client, Line, Transport};
use crate::lobby::Lobby;

/// A message to one user reaches that user on both transports and nobody else.
pub(super) async fn unicast(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    for transport in Transport::BOTH {
        let mut player = stage.client(&lobby, transport, 42).await?;
        let mut other = stage.client(&lobby, transport, 7).await?;
        let mut notifier = stage.notifier().await?;
        let body = json!({"command": "notice", "text": unique("for-42")}).to_string();
        notifier.notify_user(42, &body).await?;
        let sentinel = notifier.sentinel().await?;
        received(&mut player, &sentinel, &[&body]).await?;
        received(&mut other, &sentinel, &[]).await?;
    }
    counted(&lobby, "unicast", 2).await?;
    stage.leaves_nothing(lobby).await
}

/// A message without an address reaches every logged-in session, in order, and no connection before its login.
pub(super) async fn broadcast(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut players = Vec::new();
    let mut strangers = Vec::new();
    for transport in Transport::BOTH {
        for user in 0..3 {
            players.push(stage.client(&lobby, transport, user * 2 + transport as i64 + 1).await?);
        }
        strangers.push(stage.stranger(&lobby, transport).await?);
    }
    let mut notifier = stage.notifier().await?;
    let bodies: Vec<_> = (0..100).map(numbered).collect();
    for body in &bodies {
        notifier.notify_all(body).await?;
    }
    let sentinel = notifier.sentinel().await?;
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    for player in &mut players {
        received(player, &sentinel, &bodies).await?;
    }
    for stranger in &mut strangers {
        heard_nothing(stranger).await?;
    }
    stage.leaves_nothing(lobby).await
}

/// A message for a user who is not here is acknowledged, counted and logged as info, and reaches nobody.
pub(super) async fn user_not_connected(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 7).await?;
    let mut notifier = stage.notifier().await?;
    for user in [42, 0, -1] {
        notifier.notify_user(user, &numbered(1)).await?;
    }
    let sentinel = notifier.sentinel().await?;
    received(&mut player, &sentinel, &[]).await?;
    counted(&lobby, "not_connected", 3).await?;
    let told = lobby.log().records().into_iter().find(|record| {
        record.field("user_id").is_some_and(|user| user == "42") && record.level().as_deref() == Some("INFO")
    });
    ensure!(told.is_some(), "no info line with user_id 42 about the user who is not connected");
    stage.leaves_nothing(lobby).await
}

/// `user-id` wins over `channel`.
pub(super) async fn both_headers(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut other = stage.client(&lobby, Transport::WebSocket, 7).await?;
    let mut notifier = stage.notifier().await?;
    let headers = json!([["channel", "S", "aeolus"], ["user-id", "I", 42]]);
    notifier.publish(&headers, &json!({}), numbered(1).as_bytes()).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut player, &sentinel, &[&numbered(1)]).await?;
    received(&mut other, &sentinel, &[]).await?;
    counted(&lobby, "unicast", 1).await?;
    stage.leaves_nothing(lobby).await
}

/// A channel alone is recognised, logged and counted, and reaches nobody.
pub(super) async fn channel_reserved(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut player = stage.client(&lobby, Transport::WebSocket, 42).await?;
    let mut notifier = stage.notifier().await?;
    let channel = unique("channel");
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = json!([["channel", "S", channel], ["traceparent", "S", traceparent]]);
    let properties = json!({"message_id": "the-message", "correlation_id": "the-request"});
    notifier.publish(&headers, &properties, numbered(1).as_bytes()).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut player, &sentinel, &[]).await?;
    counted(&lobby, "channel_reserved", 1).await?;
    for named in [channel.as_str(), traceparent, "the-message", "the-request"] {
        ensure!(lobby.log().holds(named), "the log does not name {named}");
    }
    stage.leaves_nothing(lobby).await
}

/// Two instances see every message: a user's one reaches the lobby the user is on, everyone's reaches both.
pub(super) async fn two_lobbies(stage: &Stage) -> anyhow::Result<()> {
    let (first, second) = (stage.setup(), stage.setup().set("LOBBY_INSTANCE__NAME", "two-lobbies-other"));
    let (first, second) = (stage.start(&first).await?, stage.start(&second).await?);
    let mut here = stage.client(&first, Transport::Tcp, 1).await?;
    let mut there = stage.client(&second, Transport::WebSocket, 2).await?;
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(1, &numbered(1)).await?;
    notifier.notify_user(2, &numbered(2)).await?;
    notifier.notify_all(&numbered(3)).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut here, &sentinel, &[&numbered(1), &numbered(3)]).await?;
    received(&mut there, &sentinel, &[&numbered(2), &numbered(3)]).await?;
    for lobby in [&first, &second] {
        counted(lobby, "not_connected", 1).await?;
        counted(lobby, "unicast", 1).await?;
    }
    drop(second);
    stage.leaves_nothing(first).await
}

/// Exactly `bodies`, byte for byte and in this order, stand before the sentinel.
pub(super) async fn received(client: &mut Client, sentinel: &str, bodies: &[&str]) -> anyhow::Result<()> {
    let got = client.expect_until(sentinel).await?;
    let wanted: Vec<_> = bodies.iter().map(|body| Line::new(body.as_bytes().to_vec())).collect();
    ensure!(got == wanted, "{}: wanted {wanted:?}, got {got:?}", client.name());
    Ok(())
}

/// A connection that has not logged in got nothing so far: the answer to a ping is the first line it reads.
pub(super) async fn heard_nothing(stranger: &mut Client) -> anyhow::Result<()> {
    stranger.send(r#"{"command":"ping"}"#).await?;
    let line = stranger.line().await?;
    ensure!(line.command().as_deref() == Some("pong"), "a connection without a login got {line}");
    Ok(())
}

/// The lobby counted exactly this many deliveries with this outcome.
pub(super) async fn counted(lobby: &Lobby, outcome: &str, wanted: u64) -> anyhow::Result<()> {
    // The last client may read its message a moment before the delivery is counted.
    let metrics = lobby.metrics_until(outcome, |metrics| metrics.deliveries(outcome) >= wanted).await?;
    let count = metrics.deliveries(outcome);
    ensure!(count == wanted, "deliveries `{outcome}`: wanted {wanted}, counted {count}:\n{metrics}");
    Ok(())
}
