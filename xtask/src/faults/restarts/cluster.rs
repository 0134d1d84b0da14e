//! A cluster of three nodes, of which the one that the lobby is connected to is cut off.

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::time::{Duration, Instant};

use crate::broker::Cluster;
use crate::e2e::cluster as nodes;
use crate::faults::scene::Scene;
use crate::faults::traffic::reconnects;
use crate::stage::flood::Flood;
use crate::stage::notifier::Notifier;

/// How the lobby's node is cut off from the others.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// It stands still: the lobby misses its heartbeats, and the others declare it dead.
    Hung,
    /// It runs, and neither side reaches the other. It pauses, as the smaller side.
    Paused,
    /// The same, and it serves on: whoever is connected to it has a connection, a channel and a consumer to which nothing
    /// comes.
    Ignored,
}

impl Cut {
    /// Cuts; when.
    async fn make(self, cluster: &Cluster) -> anyhow::Result<Instant> {
        match self {
            Self::Hung => {
                cluster.node(nodes::CONNECTED).signal(Signal::STOP)?;
                Ok(Instant::now())
            }
            Self::Paused => cluster.part(nodes::CONNECTED, "pause_minority").await,
            Self::Ignored => cluster.part(nodes::CONNECTED, "ignore").await,
        }
    }
}

/// One cut after the other; between them the node is killed and started anew, as by somebody who finds it so.
pub(super) async fn cluster(scene: &Scene) -> anyhow::Result<()> {
    if let Some(reason) = Cluster::impossible() {
        scene.skip(reason);
        return Ok(());
    }
    let cluster = Cluster::start().await.context("start a cluster")?;
    for cut in scene.pick(&[Cut::Paused][..], &[Cut::Paused, Cut::Ignored, Cut::Hung]) {
        cut_off(scene, &cluster, *cut).await.with_context(|| format!("{cut:?}"))?;
        cluster.node(nodes::CONNECTED).kill();
        if scene.pick(true, false) {
            return Ok(());
        }
        cluster.node(nodes::CONNECTED).launch().await.context("start the node again")?;
        cluster.formed().await?;
    }
    if scene.pick(false, true) {
        let (tally, redelivered) = nodes::nodes_killed(scene, &cluster).await?;
        scene.count_after_kill(&tally, tally.unmarked_of(redelivered))?;
    }
    Ok(())
}

async fn cut_off(scene: &Scene, cluster: &Cluster, cut: Cut) -> anyhow::Result<()> {
    const HEARTBEAT: Duration = Duration::from_secs(2);
    let url = nodes::lasting(cluster)?;
    let mut side =
        nodes::Side::start(scene, cluster, "quorum", |setup| setup.set("LOBBY_BROKER__HEARTBEAT", "2s"))
            .await?;
    scene.watch(&side.lobby).await?;
    let mut flood = Flood::start(scene, &side.lobby).await?;
    let mut source = side.source(&url);
    source.reached(500).await?;
    let before = reconnects(&side.lobby.metrics().await?);
    let fault = cut.make(cluster).await?;
    let outcome = async {
        let again = |metrics: &crate::lobby::Metrics| reconnects(metrics) > before;
        side.lobby.metrics_until("a reconnect", again).await?;
        flood.reaches(source.next()).await?;
        // Two heartbeats, and until the other nodes miss the one: before that a declaration hangs, at most so long as
        // `broker.call_timeout` says, and is tried again.
        scene.recovered(fault.elapsed(), HEARTBEAT * 2 + Duration::from_secs(16))
    };
    outcome.await?;
    source.reached(source.confirmed() + 500).await?;
    let outcomes = source.finish().await?;
    let mut notifier = Notifier::open(&url, &side.exchange).await?;
    let tally = flood.tally(&mut notifier, &outcomes).await?.in_any_order();
    let redelivered = side.lobby.metrics().await?.count("lobby_redelivered_total", &[]);
    scene.fact(format!(
        "lobby's node cut off ({cut:?}), quorum queue: {} confirmed, {} unknown or nacked, {redelivered} redelivered, {} behind later ones",
        tally.confirmed, tally.unknown, tally.reordered
    ));
    scene.count(&tally, tally.unmarked_of(redelivered))?;
    side.lobby.ready().await?;
    scene.stop(side.lobby).await
}
