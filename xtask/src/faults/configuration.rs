//! Group G: what a lobby is told wrongly, by its configuration or by its broker.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::row::{Row, Sharing, Takes};
use super::scene::Scene;
use crate::amqp_wire::percent_encode;
use crate::client::Transport;
use crate::e2e::{broker_login, outage, queue_modes, refusals, start_up};
use crate::lobby::{Lobby, Setup};
use crate::stage::notifier::unique;

/// Attempts to connect in a second, at most: the first waits are 0.1 s and 0.2 s, and they grow.
const MOST_ATTEMPTS: f64 = 2.0;
/// A start that is refused ends within this.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "G1-G3",
        done: "wrong password, virtual host, permission; queue with other arguments; exchange missing or of another type; \
               at the start and while the lobby runs",
        required: "an error that names it and the fix; bounded retries; 503",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 20, long: 60 },
        run: |scene| Box::pin(refused(scene)),
    },
    Row {
        id: "G4",
        done: "two lobbies with one instance name",
        required: "the second says so and stays unready; the first goes on alone",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 10, long: 10 },
        run: |scene| Box::pin(scene.plays(outage::same_name(scene))),
    },
    Row {
        id: "G5",
        done: "taken ports, bad URLs, unknown keys, negative limits",
        required: "exits non-zero within 1 s naming the key",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 10, long: 10 },
        run: |scene| Box::pin(mistaken(scene)),
    },
    Row {
        id: "G6",
        done: "passwords, secrets and tokens, good and refused, at log level debug",
        required: "no secret in any log line, error or output",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 10, long: 10 },
        run: |scene| Box::pin(scene.plays(start_up::secrets_stay_secret(scene))),
    },
];

/// At the start each cause ends it; later each makes the lobby unready, which tries again, but not often.
async fn refused(scene: &Scene) -> anyhow::Result<()> {
    scene.plays(broker_login::refused_by_broker(scene)).await?;
    scene.plays(queue_modes::mismatch(scene)).await?;
    let absent = unique("absent");
    let setup = scene.setup().set("LOBBY_BROKER__EXCHANGE", &absent).set("LOBBY_QUEUE__DECLARE", "passive");
    refusals::exits(setup, 66, &[&absent, "not found", "create it"]).await?;
    if scene.management().is_none() {
        scene.fact("without the broker's management API: nothing that changes while the lobby runs");
        return Ok(());
    }
    let fanout = unique("fanout");
    declare_fanout(scene, &fanout).await?;
    let setup = scene.setup().set("LOBBY_BROKER__EXCHANGE", &fanout);
    refusals::exits(setup, 65, &[&fanout, "fanout", "topic", "LOBBY_BROKER__EXCHANGE"]).await?;
    password_changed(scene).await?;
    exchange_replaced(scene).await
}

async fn declare_fanout(scene: &Scene, exchange: &str) -> anyhow::Result<()> {
    let management = scene.management().context("no management")?;
    let path = format!("/exchanges/{}/{exchange}", percent_encode(&scene.url().vhost));
    management.put(&path, &json!({ "type": "fanout", "durable": true })).await.map(drop)
}

/// The broker's user gets another password, and its connections are closed.
async fn password_changed(scene: &Scene) -> anyhow::Result<()> {
    let management = scene.management().context("no management")?;
    let (user, password) = (unique("user"), unique("password"));
    let account = format!("/users/{user}");
    management.put(&account, &json!({ "password": password, "tags": "" })).await?;
    let permissions = format!("/permissions/{}/{user}", percent_encode(&scene.url().vhost));
    management.put(&permissions, &json!({ "configure": ".*", "write": ".*", "read": ".*" })).await?;
    let setup = scene
        .setup()
        .set("LOBBY_INSTANCE__NAME", unique("password-changed"))
        .set("LOBBY_BROKER__USER", &user)
        .set("LOBBY_BROKER__PASSWORD", &password);
    let mut lobby = scene.start(&setup).await?;
    let mut player = scene.client(&lobby, Transport::Tcp, 42).await?;
    management.put(&account, &json!({ "password": unique("password"), "tags": "" })).await?;
    scene.close_lobby_connections().await?;
    let said = lobby.unready_with("refused user").await?;
    ensure!(said.contains("correct user and password"), "/ready does not say what to do: {said}");
    attempts_are_bounded(scene, &lobby, "wrong password").await?;
    management.put(&account, &json!({ "password": password, "tags": "" })).await?;
    lobby.ready().await?;
    player.send(r#"{"command":"ping"}"#).await?;
    player.command("pong").await?;
    lobby.stop().await?;
    management.delete(&account).await
}

/// The exchange is deleted and declared again with another type, while the lobby consumes from its queue.
async fn exchange_replaced(scene: &Scene) -> anyhow::Result<()> {
    let exchange = unique("replaced");
    let setup = scene
        .setup()
        .set("LOBBY_INSTANCE__NAME", unique("exchange-replaced"))
        .set("LOBBY_BROKER__EXCHANGE", &exchange);
    let mut lobby = scene.start(&setup).await?;
    let operator = crate::amqp_wire::Connection::open(scene.url()).await?;
    operator.delete_exchange(&exchange).await?;
    declare_fanout(scene, &exchange).await?;
    let said = lobby.unready_with("fanout").await?;
    ensure!(said.contains(&exchange), "/ready does not name the exchange: {said}");
    attempts_are_bounded(scene, &lobby, "exchange of another type").await?;
    operator.delete_exchange(&exchange).await?;
    lobby.ready().await.context("after the exchange of another type was deleted")?;
    lobby.stop().await
}

async fn attempts_are_bounded(scene: &Scene, lobby: &Lobby, what: &str) -> anyhow::Result<()> {
    let failures = async || anyhow::Ok(lobby.metrics().await?.count("lobby_broker_failures_total", &[]));
    let (before, start) = (failures().await?, Instant::now());
    sleep(Duration::from_secs(scene.pick(3, 15))).await;
    let attempts = failures().await? - before;
    let rate = attempts as f64 / start.elapsed().as_secs_f64();
    ensure!(rate <= MOST_ATTEMPTS, "{what}: {rate:.1} attempts a second");
    scene.fact(format!("{what}: {rate:.2} attempts a second"));
    Ok(())
}

/// Each mistake by itself, over a configuration that would be accepted.
async fn mistaken(scene: &Scene) -> anyhow::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0").await.context("take a port")?;
    let taken = taken.local_addr()?.to_string();
    let mistakes: &[(&str, &str, &str)] = &[
        ("LOBBY_LISTEN__TCP", &taken, "listen.tcp"),
        ("LOBBY_LISTEN__WEBSOCKET", &taken, "listen.websocket"),
        ("LOBBY_LISTEN__ADMIN", &taken, "listen.admin"),
        ("LOBBY_LISTEN__TCP", "nowhere", "listen.tcp"),
        ("LOBBY_BROKER__URL", "ampq://guest@127.0.0.1", "broker.url"),
        ("LOBBY_BROKER__URL", "amqp://127.0.0.1:70000", "broker.url"),
        ("LOBBY_AUTH__JWKS", "https://", "auth.jwks"),
        ("LOBBY_BROKER__PREFETSH", "200", "broker.prefetsh"),
        ("LOBBY_NOWHERE__KEY", "1", "nowhere"),
        ("LOBBY_LISTEN__MAX_CONNECTIONS", "-1", "listen.max_connections"),
        ("LOBBY_BROKER__PREFETCH", "-1", "broker.prefetch"),
        ("LOBBY_SESSIONS__OUTBOX_BYTES", "-1", "sessions.outbox_bytes"),
        ("LOBBY_MESSAGES__MAX_BODY_BYTES", "-1MiB", "messages.max_body_bytes"),
        ("LOBBY_SHUTDOWN__DRAIN_TIMEOUT", "-5s", "shutdown.drain_timeout"),
    ];
    for (key, value, named) in mistakes {
        refuses_quickly(scene, scene.setup().set(key, *value), named).await?;
    }
    scene.fact(format!(
        "{} mistakes refused, each naming its key; times are those to the exit",
        mistakes.len()
    ));
    Ok(())
}

async fn refuses_quickly(scene: &Scene, setup: Setup, named: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    refusals::refuses(setup, &[named]).await?;
    scene.recovered(start.elapsed(), REFUSED_WITHIN).with_context(|| format!("refused because of {named}"))
}
