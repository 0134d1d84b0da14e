//! A lobby that looks connected and hears nothing: whatever the reason, it is seen within fifteen seconds and repaired.

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::time::{Duration, Instant};

use super::addressing::received;
use super::notifier::{numbered, unique};
use super::proxy::Swallow;
use super::stage::Stage;
use crate::amqp_wire::{Connection, percent_encode};
use crate::client::{Client, Transport};
use crate::lobby::{Lobby, Metrics};

/// From the fault to the moment at which it is seen, with the default settings.
const SEEN_LIMIT: Duration = Duration::from_secs(15);

fn repairs(metrics: &Metrics, what: &str) -> u64 {
    metrics.count("lobby_self_check_repairs_total", &[("what", what)])
}

fn canaries(metrics: &Metrics, outcome: &str) -> u64 {
    metrics.count("lobby_canaries_total", &[("outcome", outcome)])
}

/// Waits for `more` canaries from now on.
async fn hears(lobby: &Lobby, more: u64) -> anyhow::Result<()> {
    let wanted = canaries(&lobby.metrics().await?, "received") + more;
    lobby.metrics_until("canaries", |metrics| canaries(metrics, "received") >= wanted).await.map(drop)
}

/// Waits until a fault is repaired; the time since `start`.
async fn repaired(lobby: &Lobby, what: &str, start: Instant) -> anyhow::Result<Duration> {
    lobby.metrics_until("the repair", |metrics| repairs(metrics, what) >= 1).await?;
    let took = start.elapsed();
    ensure!(took <= SEEN_LIMIT, "repaired after {took:?}, limit {SEEN_LIMIT:?}");
    Ok(took)
}

/// A notification and a sentinel come through, and nothing else.
async fn delivers(stage: &Stage, player: &mut Client, number: u64) -> anyhow::Result<()> {
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(42, &numbered(number)).await?;
    let sentinel = notifier.sentinel().await?;
    received(player, &sentinel, &[&numbered(number)]).await
}

/// Canaries come through without being a notification to anybody; of two lobbies each hears its own. What the first
/// leaves in its queue does not reach clients either.
pub(super) async fn canaries_are_nobodys(stage: &Stage) -> anyhow::Result<()> {
    let fast = stage.setup().set("LOBBY_SELF_CHECK__INTERVAL", "100ms");
    let mut first = stage.start(&fast).await?;
    let other = fast.clone().set("LOBBY_INSTANCE__NAME", unique("other"));
    let mut second = stage.start(&other).await?;
    let mut players = Vec::new();
    for lobby in [&first, &second] {
        players.push(stage.client(lobby, Transport::Tcp, 42).await?);
        hears(lobby, 5).await?;
    }
    let ready = first.admin("/ready").await?;
    ensure!(ready.body.contains(r#""self_check":"ok""#), "/ready does not tell: {}", ready.body);
    for lobby in [&first, &second] {
        let metrics = lobby.metrics().await?;
        ensure!(metrics.count("lobby_deliveries_total", &[]) == 0, "counted as deliveries:\n{metrics}");
        ensure!(
            metrics.count("lobby_broker_deliveries_total", &[]) == 0,
            "counted as deliveries:\n{metrics}"
        );
        ensure!(metrics.count("lobby_acked_total", &[]) == 0, "counted as acked:\n{metrics}");
        ensure!(metrics.sum("lobby_canary_age_seconds", &[]) < 10.0, "the canary is old:\n{metrics}");
        ensure!(
            canaries(&metrics, "received") <= canaries(&metrics, "confirmed") + 1,
            "it heard canaries of another:\n{metrics}"
        );
    }
    // One that may have been left in the queue meets a lobby that knows of no canaries.
    first.stop().await?;
    let unaware = fast.set("LOBBY_SELF_CHECK__INTERVAL", "off");
    let mut again = stage.start(&unaware).await?;
    let mut player = stage.client(&again, Transport::WebSocket, 42).await?;
    stage
        .notifier()
        .await?
        .publish_to(&format!("lobby.canary.{}", stage.instance()), &json!(null), &json!({}), b"canary 7 1")
        .await?;
    delivers(stage, &mut player, 1).await?;
    let ready = again.admin("/ready").await?;
    ensure!(ready.body.contains(r#""self_check":"off""#), "/ready does not tell: {}", ready.body);
    ensure!(!again.metrics().await?.has("lobby_canary_age_seconds"), "an age without canaries");
    again.stop().await?;
    second.stop().await
}

/// Bindings that somebody removes are made again: the one for notifications with the next canary, in silence, and
/// the canary's own when it comes back.
pub(super) async fn binding_removed(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    hears(&lobby, 1).await?;
    let operator = Connection::open(stage.url()).await?;
    let notify = notify_protocol::NOTIFY_ROUTING_KEY;
    operator.unbind(&stage.queue(), stage.exchange(), notify).await?;
    let start = Instant::now();
    let mut notifier = stage.notifier().await?;
    let body = numbered(0);
    let headers = json!([["user-id", "l", 42]]);
    while notifier.publish(&headers, &json!({}), body.as_bytes()).await?
        != crate::amqp_wire::Outcome::Confirmed
    {
        ensure!(start.elapsed() < SEEN_LIMIT, "the binding of notifications is not back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.fact(format!("binding of notifications: back after {:.1} s", start.elapsed().as_secs_f64()));
    let sentinel = notifier.sentinel().await?;
    received(&mut player, &sentinel, &[&body]).await?;

    let key = format!("lobby.canary.{}", stage.instance());
    let took = loop {
        let before = canaries(&lobby.metrics().await?, "received");
        let start = Instant::now();
        operator.unbind(&stage.queue(), stage.exchange(), &key).await?;
        operator.unbind(&stage.queue(), stage.exchange(), notify).await?;
        // One may be on its way. More come only where this fell between a round's canary and its bindings, which were
        // made again in silence.
        let seen = |metrics: &Metrics| repairs(metrics, "binding") >= 1;
        let metrics = lobby
            .metrics_until("the repair", |metrics| {
                seen(metrics) || canaries(metrics, "received") > before + 1
            })
            .await?;
        if seen(&metrics) {
            break start.elapsed();
        }
    };
    ensure!(took <= SEEN_LIMIT, "repaired after {took:?}, limit {SEEN_LIMIT:?}");
    stage.fact(format!("all bindings: noticed and back after {:.1} s", took.as_secs_f64()));
    hears(&lobby, 1).await?;
    delivers(stage, &mut player, 1).await?;
    let metrics = lobby.metrics().await?;
    ensure!(metrics.count("lobby_broker_reconnects_total", &[]) == 0, "it connected again:\n{metrics}");
    stage.leaves_nothing(lobby).await
}

/// The exchange is deleted under the lobby, which nobody is told: declared, bound and consumed again.
pub(super) async fn exchange_deleted(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    hears(&lobby, 1).await?;
    let start = Instant::now();
    Connection::open(stage.url()).await?.delete_exchange(stage.exchange()).await?;
    let took = repaired(&lobby, "exchange", start).await?;
    stage.fact(format!("noticed after {:.1} s", took.as_secs_f64()));
    hears(&lobby, 1).await?;
    delivers(stage, &mut player, 1).await?;
    stage.leaves_nothing(lobby).await
}

/// The queue is deleted, and the broker's word of it gets lost; once more with a queue of that name that has no
/// consumer afterwards. Everything looks connected, and nothing would ever come.
pub(super) async fn consumer_lost(stage: &Stage) -> anyhow::Result<()> {
    let (proxy, setup) = stage.proxied(true).await?;
    let mut lobby = stage.start(&setup).await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    hears(&lobby, 1).await?;
    proxy.swallow(Swallow::Cancels);
    let operator = Connection::open(stage.url()).await?;
    let start = Instant::now();
    operator.delete_queue(&stage.queue()).await?;
    let took = repaired(&lobby, "queue", start).await?;
    stage.fact(format!("queue deleted in silence: noticed after {:.1} s", took.as_secs_f64()));
    lobby.ready().await?;
    hears(&lobby, 1).await?;
    delivers(stage, &mut player, 1).await?;

    if let Some(management) = stage.management() {
        let queue =
            format!("/queues/{}/{}", percent_encode(&stage.url().vhost), percent_encode(&stage.queue()));
        let start = Instant::now();
        operator.delete_queue(&stage.queue()).await?;
        let same = json!({ "durable": true, "arguments": { "x-expires": 600_000 } });
        management.put(&queue, &same).await.context("a queue of the same name")?;
        let took = repaired(&lobby, "consumer", start).await?;
        stage.fact(format!("consumer lost in silence: noticed after {:.1} s", took.as_secs_f64()));
        hears(&lobby, 1).await?;
        delivers(stage, &mut player, 2).await?;
    } else {
        stage.fact("management API out of reach: a queue without its consumer not tested");
    }
    let metrics = lobby.metrics().await?;
    ensure!(metrics.count("lobby_consumer_cancelled_total", &[]) == 0, "the broker's word came:\n{metrics}");
    stage.leaves_nothing(lobby).await
}

/// Deliveries get stuck on their way while all else goes through: unready with the reason, never dead, a new
/// connection, and ready only when something came. What was published meanwhile arrives.
pub(super) async fn consumer_stuck(stage: &Stage) -> anyhow::Result<()> {
    let (proxy, setup) = stage.proxied(true).await?;
    let mut lobby = stage.start(&setup).await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    hears(&lobby, 1).await?;
    proxy.swallow(Swallow::Deliveries);
    let start = Instant::now();
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(42, &numbered(0)).await?;
    let reason = lobby.unready_with("nothing has come through queue").await?;
    let seen = start.elapsed();
    ensure!(seen <= SEEN_LIMIT, "unready after {seen:?}, limit {SEEN_LIMIT:?}");
    ensure!(lobby.admin("/live").await?.status == 200, "it is not alive");
    let reconnected = |metrics: &Metrics| metrics.count("lobby_broker_reconnects_total", &[]) >= 1;
    let metrics = lobby.metrics_until("a new connection", reconnected).await?;
    ensure!(repairs(&metrics, "deliveries") >= 1, "no repair is counted:\n{metrics}");
    let connected = start.elapsed();
    let still = lobby.unready().await?;
    proxy.swallow(Swallow::Nothing);
    let freed = Instant::now();
    let back = lobby.ready().await?;
    ensure!(freed.elapsed() <= SEEN_LIMIT, "ready only {back:?} after the way was free: {still}");
    stage.fact(format!(
        "unready after {:.1} s, connected again after {:.1} s, ready {:.1} s after the way was free",
        seen.as_secs_f64(),
        connected.as_secs_f64(),
        back.as_secs_f64()
    ));
    stage.fact(format!("it said: {}", reason.trim()));
    let sentinel = notifier.sentinel().await?;
    received(&mut player, &sentinel, &[&numbered(0)]).await?;
    stage.leaves_nothing(lobby).await
}

/// A user who may not publish: the lobby says once what is missing, stays ready, and delivers.
pub(super) async fn may_not_publish(stage: &Stage) -> anyhow::Result<()> {
    let Some(management) = stage.management() else {
        stage.skip("management API out of reach");
        return Ok(());
    };
    let user = unique("reader");
    management.put(&format!("/users/{user}"), &json!({ "password": "pw", "tags": "" })).await?;
    // Binding takes the right to write to the queue.
    let queue = format!("^{}$", stage.queue().replace('.', "[.]"));
    let permissions = format!("/permissions/{}/{user}", percent_encode(&stage.url().vhost));
    management.put(&permissions, &json!({ "configure": ".*", "write": queue, "read": ".*" })).await?;
    let setup = stage.setup().set("LOBBY_BROKER__USER", &user).set("LOBBY_BROKER__PASSWORD", "pw");
    let setup = setup.set("LOBBY_SELF_CHECK__INTERVAL", "200ms").set("LOBBY_SELF_CHECK__MAX_AGE", "1s");
    let mut lobby = stage.start(&setup).await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    lobby.metrics_until("the refusal", |metrics| canaries(metrics, "refused") >= 1).await?;
    // Longer than silence may last where canaries are published.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ready = lobby.admin("/ready").await?;
    ensure!(ready.status == 200 && ready.body.contains("takes no canary"), "/ready says {}", ready.body);
    let told =
        |record: &crate::lobby::Record| record.field("reason").is_some_and(|r| r.contains("takes no canary"));
    let lines = lobby.log().records().iter().filter(|record| told(record)).count();
    ensure!(lines == 1, "told {lines} times");
    ensure!(lobby.log().holds("LOBBY_SELF_CHECK__INTERVAL=off"), "the log does not say what to do");
    delivers(stage, &mut player, 1).await?;
    lobby.stop().await?;
    management.delete(&format!("/users/{user}")).await
}
