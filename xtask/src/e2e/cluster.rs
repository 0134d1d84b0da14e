//! A cluster of three nodes whose members are killed: the one that the lobbies are connected to, and the one that
//! holds their queues. What a quorum queue keeps, and what does not reach a classic one.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use super::flood::{Flood, Source};
use super::notifier::{Notifier, numbered, unique};
use super::stage::Stage;
use super::stage::tally::Tally;
use crate::PATIENCE;
use crate::amqp_wire::{AmqpUrl, Outcome, percent_encode};
use crate::broker::Cluster;
use crate::client::Transport;
use crate::late::Late;
use crate::lobby::{Lobby, Setup};

/// What the lobbies connect to first.
pub(crate) const CONNECTED: usize = 0;
/// What the publishers use, and where the lobbies go when the first is gone.
const LASTING: usize = 1;
/// What holds the queues.
const HOLDING: usize = 2;

const BEFORE: u64 = 1_000;
/// Numbers every 20 ms.
const BATCH: u64 = 5;
/// A node needs some seconds to start.
const NODE_PATIENCE: Duration = Duration::from_secs(60);

/// One lobby with its queue on one node and a stream of its own.
#[derive(Debug)]
pub(crate) struct Side {
    kind: &'static str,
    pub(crate) exchange: String,
    pub(crate) lobby: Lobby,
}

impl Side {
    /// Declares the queue on the holding node, as the lobby will, and starts the lobby.
    /// What is out of the ordinary about the lobby comes from `tweak`.
    pub(crate) async fn start(
        stage: &Stage,
        cluster: &Cluster,
        kind: &'static str,
        tweak: impl FnOnce(Setup) -> Setup,
    ) -> anyhow::Result<Self> {
        let exchange = unique(&format!("{}-{kind}", stage.exchange()));
        let queue = format!("{exchange}.lobby.client.notify.{kind}");
        let body = json!({
            "durable": true,
            "node": cluster.name(HOLDING),
            "arguments": { "x-expires": 600_000, "x-queue-type": kind },
        });
        let path = format!("/queues/%2f/{}", percent_encode(&queue));
        cluster.management(HOLDING).put(&path, &body).await.context("the queue on its node")?;
        let start = Instant::now();
        // A quorum queue's node, its leader's, is told after a moment.
        while cluster.management(HOLDING).get(&path).await?["node"] != cluster.name(HOLDING) {
            ensure!(start.elapsed() < PATIENCE, Late(format!("the {kind} queue is not on its node")));
            sleep(Duration::from_millis(100)).await;
        }
        let setup = setup(stage, cluster).set("LOBBY_BROKER__EXCHANGE", &exchange);
        let setup = setup.set("LOBBY_INSTANCE__NAME", kind).set("LOBBY_QUEUE__TYPE", kind);
        let lobby = stage.start(&tweak(setup)).await?;
        let side = Self { kind, exchange, lobby };
        side.connected_to(&cluster.address(CONNECTED)).await?;
        Ok(side)
    }

    async fn connected_to(&self, address: &str) -> anyhow::Result<()> {
        let ready = self.lobby.admin("/ready").await?.body;
        ensure!(ready.contains(address), "{}: not connected to {address}: {ready}", self.kind);
        Ok(())
    }

    pub(crate) fn source(&self, url: &AmqpUrl) -> Source {
        Source::at(url.clone(), self.exchange.clone(), BEFORE, BATCH)
    }

    /// Waits for readiness; how long after `start`.
    async fn ready_since(&mut self, start: Instant) -> anyhow::Result<Duration> {
        loop {
            match self.lobby.ready().await {
                Ok(_) => return Ok(start.elapsed()),
                Err(error) if start.elapsed() > NODE_PATIENCE => return Err(error.context(self.kind)),
                Err(_) => {}
            }
        }
    }
}

fn setup(stage: &Stage, cluster: &Cluster) -> Setup {
    let hosts = [CONNECTED, LASTING, HOLDING].map(|number| cluster.address(number)).join(",");
    stage
        .setup()
        .set("LOBBY_BROKER__URL", "amqp://guest:guest@127.0.0.1/%2f")
        .set("LOBBY_BROKER__HOSTS", hosts)
}

/// Kills one node after the other under a stream of numbers, and reports how long the lobbies needed and what was
/// lost.
pub(super) async fn cluster(stage: &Stage) -> anyhow::Result<()> {
    if let Some(reason) = Cluster::impossible() {
        stage.skip(reason);
        return Ok(());
    }
    let begin = Instant::now();
    let cluster = Cluster::start().await.context("start a cluster")?;
    stage.fact(format!("three nodes formed a cluster in {:.1} s", begin.elapsed().as_secs_f64()));
    let (tally, _) = nodes_killed(stage, &cluster).await?;
    tally.faultless()
}

/// Where publishers reach a node that lives all the while.
pub(crate) fn lasting(cluster: &Cluster) -> anyhow::Result<AmqpUrl> {
    AmqpUrl::parse(&format!("amqp://guest:guest@{}/%2f", cluster.address(LASTING)))
}

/// The same on a cluster that stands; what became of all numbers but those of the classic queue whose node was away,
/// and how many were redelivered.
pub(crate) async fn nodes_killed(stage: &Stage, cluster: &Cluster) -> anyhow::Result<(Tally, u64)> {
    let url = lasting(cluster)?;
    let mut classic = Side::start(stage, cluster, "classic", |setup| setup).await?;
    let mut quorum = Side::start(stage, cluster, "quorum", |setup| setup).await?;

    let mut tally = connected_node_killed(stage, cluster, &url, [&mut classic, &mut quorum]).await?;
    cluster.node(CONNECTED).launch().await.context("start the killed node again")?;
    cluster.formed().await?;
    tally.merge(holding_node_killed(stage, cluster, &url, &mut classic, &mut quorum).await?);

    let mut redelivered = 0;
    for mut side in [classic, quorum] {
        redelivered += side.lobby.metrics().await?.count("lobby_redelivered_total", &[]);
        side.lobby.stop().await?;
    }
    Ok((tally, redelivered))
}

/// The lobbies go to the next host, and nothing is lost of either queue.
async fn connected_node_killed(
    stage: &Stage,
    cluster: &Cluster,
    url: &AmqpUrl,
    sides: [&mut Side; 2],
) -> anyhow::Result<Tally> {
    let mut sum = Tally::default();
    let mut streams = Vec::new();
    for side in &sides {
        streams.push((Flood::start(stage, &side.lobby).await?, side.source(url)));
    }
    for (_, source) in &mut streams {
        source.reached(BEFORE / 2).await?;
    }
    let mut before = Vec::new();
    for side in &sides {
        before.push(side.lobby.metrics().await?.count("lobby_broker_reconnects_total", &[]));
    }
    let killed = Instant::now();
    cluster.node(CONNECTED).kill();
    for (side, before) in sides.iter().zip(before) {
        side.lobby
            .metrics_until("a reconnect", |metrics| {
                metrics.count("lobby_broker_reconnects_total", &[]) > before
            })
            .await
            .context(side.kind)?;
    }
    for (side, (flood, source)) in sides.into_iter().zip(streams) {
        let took = side.ready_since(killed).await?;
        let outcomes = source.finish().await?;
        let mut notifier = Notifier::open(url, &side.exchange).await?;
        let judged = flood.judge_through(&mut notifier, &outcomes).await.context(side.kind)?;
        stage.fact(format!(
            "connected node killed, {} queue elsewhere: consuming again after at most {:.1} s; {} confirmed, 0 lost",
            side.kind,
            took.as_secs_f64(),
            judged.confirmed
        ));
        sum.merge(judged);
    }
    Ok(sum)
}

/// The quorum queue goes on elsewhere and loses nothing. The classic one is away with its node, its lobby says so, and
/// is back with the node; what is published meanwhile does not reach the queue.
async fn holding_node_killed(
    stage: &Stage,
    cluster: &Cluster,
    url: &AmqpUrl,
    classic: &mut Side,
    quorum: &mut Side,
) -> anyhow::Result<Tally> {
    let flood = Flood::start(stage, &quorum.lobby).await?;
    let mut source = quorum.source(url);
    source.reached(BEFORE / 2).await?;
    let mut player = stage.client(&classic.lobby, Transport::Tcp, 42).await?;
    player.patient(NODE_PATIENCE);
    let mut notifier = Notifier::open(url, &classic.exchange).await?;
    for number in 0..100 {
        notifier.notify_user(42, &numbered(number)).await?;
    }
    let killed = Instant::now();
    cluster.node(HOLDING).kill();
    let reason = classic.lobby.unready_with("down or inaccessible").await?;
    stage.fact(format!(
        "the classic queue's lobby says after {:.1} s: {}",
        killed.elapsed().as_secs_f64(),
        reason.trim()
    ));
    let (mut confirmed, mut returned) = (BTreeSet::new(), 0);
    let headers = json!([["user-id", "l", 42]]);
    for number in 100..200 {
        let body = numbered(number);
        let outcome = notifier.publish(&headers, &json!({ "delivery_mode": 2 }), body.as_bytes()).await?;
        match outcome {
            Outcome::Confirmed => drop(confirmed.insert(number)),
            Outcome::Returned => returned += 1,
            Outcome::Nacked | Outcome::Unknown => {}
        }
    }

    let took = quorum.ready_since(killed).await?;
    source.reached(source.confirmed() + BEFORE / 2).await?;
    let outcomes = source.finish().await?;
    let mut to_quorum = Notifier::open(url, &quorum.exchange).await?;
    let judged = flood.judge_through(&mut to_quorum, &outcomes).await.context("quorum")?;
    stage.fact(format!(
        "holding node killed, quorum queue: ready after {:.1} s; {} confirmed, {} unknown or nacked, 0 lost",
        took.as_secs_f64(),
        judged.confirmed,
        judged.unknown
    ));

    let launched = Instant::now();
    cluster.node(HOLDING).launch().await.context("start the holding node again")?;
    let started = launched.elapsed();
    classic.ready_since(launched).await?;
    let took = launched.elapsed() - started;
    let sentinel = routed_sentinel(url, &classic.exchange).await?;
    let received: BTreeSet<u64> =
        player.expect_until(&sentinel).await?.iter().filter_map(crate::client::Line::seq).collect();
    let early: Vec<u64> = (0..100).filter(|number| !received.contains(number)).collect();
    ensure!(early.is_empty(), "confirmed before the kill and lost: {early:?}");
    let lost = confirmed.difference(&received).count();
    stage.fact(format!(
        "holding node killed, classic queue: of 100 published while it was down {returned} were returned to the publisher \
         and {} confirmed, {lost} of these lost; ready {:.1} s after the node was back",
        confirmed.len(),
        took.as_secs_f64()
    ));
    Ok(judged)
}

/// A sentinel, once the exchange leads to the queue again.
async fn routed_sentinel(url: &AmqpUrl, exchange: &str) -> anyhow::Result<String> {
    let start = Instant::now();
    loop {
        let mut notifier = Notifier::open(url, exchange).await?;
        match notifier.sentinel().await {
            Ok(sentinel) => return Ok(sentinel),
            Err(error) if start.elapsed() > PATIENCE => return Err(error),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}
