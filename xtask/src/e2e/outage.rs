//! The lobby without its broker, its connection or its queue.

use anyhow::{Context as _, ensure};
use tokio::time::{Duration, Instant};

use super::addressing::received;
use super::flood::{self, Flood, Source};
use super::notifier::numbered;
use super::stage::Stage;
use crate::amqp_wire::Connection;
use crate::client::Transport;
use crate::lobby::Metrics;

/// From the moment the broker answers to the first consumed message.
const RECOVERY_LIMIT: Duration = Duration::from_secs(5);

/// Started before the broker, the lobby serves clients, says why it is not ready and how to get a broker, and
/// consumes within five seconds after the broker came.
pub(super) async fn no_broker_at_start(stage: &Stage) -> anyhow::Result<()> {
    let (proxy, setup) = stage.proxied(false).await?;
    let mut lobby = stage.start_unready(&setup).await?;
    let mut players = Vec::new();
    for transport in Transport::BOTH {
        players.push(stage.client(&lobby, transport, 42 + transport as i64).await?);
    }
    let reason = lobby.unready().await?;
    ensure!(
        reason.to_lowercase().contains("broker"),
        "/ready does not say that the broker is missing: {reason}"
    );
    let alive = lobby.admin("/live").await?;
    ensure!(alive.status == 200, "/live said {} {}", alive.status, alive.body);
    for hint in ["cargo xtask run", "docker compose up -d rabbitmq"] {
        ensure!(lobby.log().holds(hint), "the log does not say how to get a broker: no `{hint}`");
    }
    // Enough attempts that the backoff has grown.
    let tries = |metrics: &Metrics| metrics.count("lobby_broker_failures_total", &[]) >= 6;
    let metrics = lobby.metrics_until("six attempts", tries).await?;
    ensure!(metrics.count("lobby_broker_connected", &[]) == 0, "counted as connected:\n{metrics}");
    let start = Instant::now();
    proxy.open();
    lobby.ready().await?;
    let took = start.elapsed();
    ensure!(took <= RECOVERY_LIMIT, "ready {took:?} after the broker came, limit {RECOVERY_LIMIT:?}");
    stage.fact(format!("ready {:.1} s after the broker came", took.as_secs_f64()));
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(42, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    let [tcp, websocket] = players.as_mut_slice() else { anyhow::bail!("two players") };
    received(tcp, &sentinel, &[&numbered(1)]).await?;
    received(websocket, &sentinel, &[]).await?;
    stage.leaves_nothing(lobby).await
}

/// What is published while the lobby's connection is down waits in the queue and arrives after, in order.
pub(super) async fn published_while_down(stage: &Stage) -> anyhow::Result<()> {
    let (proxy, setup) = stage.proxied(true).await?;
    let mut lobby = stage.start(&setup).await?;
    let mut player = stage.client(&lobby, Transport::WebSocket, 42).await?;
    let mut other = stage.client(&lobby, Transport::Tcp, 7).await?;
    proxy.cut();
    let reason = lobby.unready().await?;
    ensure!(reason.to_lowercase().contains("broker"), "/ready does not name the broker: {reason}");
    stage.queue_with_consumers(&stage.queue(), 0).await?;
    let mut notifier = stage.notifier().await?;
    let bodies: Vec<_> = (0..500).map(numbered).collect();
    for body in &bodies {
        notifier.notify_user(42, body).await?;
    }
    let sentinel = notifier.sentinel().await?;
    proxy.open();
    let bodies: Vec<_> = bodies.iter().map(String::as_str).collect();
    received(&mut player, &sentinel, &bodies).await?;
    received(&mut other, &sentinel, &[]).await?;
    lobby.ready().await?;
    stage.leaves_nothing(lobby).await
}

/// A broker that hangs is noticed by its silence; clients stay connected, and what comes after it arrives.
pub(super) async fn broker_hangs(stage: &Stage) -> anyhow::Result<()> {
    const HEARTBEAT: Duration = Duration::from_secs(1);
    let mut lobby = stage.start(&stage.setup().set("LOBBY_BROKER__HEARTBEAT", "1s")).await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let start = Instant::now();
    let reason = stage.while_broker_hangs(lobby.unready()).await?;
    let took = start.elapsed();
    // Twice the heartbeat, and what two looks at it may add.
    ensure!(took <= HEARTBEAT * 4, "noticed after {took:?}: {reason}");
    stage.fact(format!("noticed after {:.1} s: {reason}", took.as_secs_f64()));
    lobby.ready().await?;
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(42, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut player, &sentinel, &[&numbered(1)]).await?;
    stage.leaves_nothing(lobby).await
}

/// The queue is deleted under the consumer: the lobby declares, binds and consumes it again.
pub(super) async fn queue_deleted(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    for round in 0..3 {
        let connection = Connection::open(stage.url()).await?;
        let start = Instant::now();
        connection.delete_queue(&stage.queue()).await?;
        stage.queue_with_consumers(&stage.queue(), 1).await.context("after the queue was deleted")?;
        if round == 0 {
            stage.fact(format!("consumed again {:.2} s after", start.elapsed().as_secs_f64()));
        }
        let mut notifier = stage.notifier().await?;
        notifier.notify_user(42, &numbered(round)).await?;
        let sentinel = notifier.sentinel().await?;
        received(&mut player, &sentinel, &[&numbered(round)]).await?;
    }
    stage.leaves_nothing(lobby).await
}

/// The lobby's connection ends again and again while messages flow, closed by the broker's management (where it is
/// in reach) and cut on the way: nothing lost, nothing reordered.
pub(super) async fn connections_closed(stage: &Stage) -> anyhow::Result<()> {
    const BETWEEN: u64 = 1_000;
    const CLOSED: usize = 2;
    const CUT: usize = 5;
    let (proxy, setup) = stage.proxied(true).await?;
    let mut lobby = stage.start(&setup).await?;
    let flood = Flood::start(stage, &lobby).await?;
    let mut source = Source::start(stage, BETWEEN);
    let closed = if stage.has_management() { CLOSED } else { 0 };
    for round in 0..closed + CUT {
        source.reached(source.confirmed() + BETWEEN).await?;
        let before = reconnects(&lobby.metrics().await?);
        if round < closed {
            stage.close_lobby_connections().await?;
        } else {
            proxy.cut();
            stage.queue_with_consumers(&stage.queue(), 0).await?;
            proxy.open();
        }
        lobby.metrics_until("a reconnect", |metrics| reconnects(metrics) > before).await?;
    }
    let outcomes = source.finish().await?;
    lobby.ready().await?;
    let judged = flood.judge(stage, &outcomes).await?;
    let redelivered = flood::duplicates_are_marked(&lobby, &judged).await?;
    stage.fact(format!(
        "{} confirmed over {closed} closed and {CUT} cut connections, 0 lost; {redelivered} redelivered, at most {} \
         duplicates for a client",
        judged.confirmed, judged.most_duplicates
    ));
    stage.leaves_nothing(lobby).await
}

fn reconnects(metrics: &Metrics) -> u64 {
    metrics.count("lobby_broker_reconnects_total", &[])
}

/// A second lobby of the same name is not ready and says why; the first goes on alone, and gives the name up on exit.
pub(crate) async fn same_name(stage: &Stage) -> anyhow::Result<()> {
    let mut first = stage.lobby().await?;
    let mut player = stage.client(&first, Transport::Tcp, 42).await?;
    let mut second = stage.start_unready(&stage.setup()).await?;
    let mut elsewhere = stage.client(&second, Transport::Tcp, 42).await?;
    let refused = |metrics: &Metrics| metrics.count("lobby_broker_failures_total", &[]) >= 1;
    second.metrics_until("a refused attempt", refused).await?;
    let reason = second.unready_with("in use").await?;
    stage.fact(format!("the second says: {}", reason.trim()));
    let mut notifier = stage.notifier().await?;
    let bodies: Vec<_> = (0..200).map(numbered).collect();
    for body in &bodies {
        notifier.notify_user(42, body).await?;
    }
    let sentinel = notifier.sentinel().await?;
    received(&mut player, &sentinel, &bodies.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    first.stop().await?;
    second.ready().await.context("the second takes over")?;
    notifier.notify_user(42, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut elsewhere, &sentinel, &[&numbered(1)]).await?;
    stage.leaves_nothing(second).await
}
