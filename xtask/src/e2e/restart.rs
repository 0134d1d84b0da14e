//! Ten thousand notifications across a broker that goes away and comes back.

use anyhow::ensure;
use tokio::time::Instant;

use super::flood::{self, Flood, Source};
use super::stage::tally::Tally;
use super::stage::{Going, Stage};
use crate::amqp_wire::Outcome;
use crate::lobby::Lobby;

const COUNT: u64 = 10_000;

/// Clients are connected all along, publishers go on while the broker is away: nothing that was confirmed is lost,
/// nothing is out of order, and what comes twice is counted as redelivered.
pub(super) async fn broker_restart(stage: &Stage) -> anyhow::Result<()> {
    let (lobby, judged) = survive(stage, Going::Stopped).await?;
    let redelivered = flood::duplicates_are_marked(&lobby, &judged).await?;
    stage.fact(format!(
        "{redelivered} redelivered, at most {} duplicates for a client",
        judged.most_duplicates
    ));
    stage.leaves_nothing(lobby).await
}

/// The same when the broker is killed. It may have forgotten acks, and that it delivered those messages at all: there
/// may be duplicates without the mark, and still no loss.
pub(super) async fn broker_killed(stage: &Stage) -> anyhow::Result<()> {
    let (lobby, judged) = survive(stage, Going::Killed).await?;
    let redelivered = lobby.metrics().await?.count("lobby_redelivered_total", &[]);
    stage.fact(format!(
        "{redelivered} redelivered, at most {} duplicates for a client",
        judged.most_duplicates
    ));
    stage.leaves_nothing(lobby).await
}

async fn survive(stage: &Stage, going: Going) -> anyhow::Result<(Lobby, Tally)> {
    let mut lobby = stage.lobby().await?;
    let flood = Flood::start(stage, &lobby).await?;
    let mut source = Source::start(stage, COUNT);
    source.reached(COUNT / 2).await?;
    let away = Instant::now();
    stage.restart_broker(going).await?;
    let back = Instant::now();
    let outcomes = source.finish().await?;
    let recovered = lobby.ready().await?;
    let judged = flood.judge(stage, &outcomes).await?;
    let metrics = lobby.metrics().await?;
    let reconnects = metrics.count("lobby_broker_reconnects_total", &[]);
    ensure!(reconnects >= 1, "no reconnect is counted:\n{metrics}");
    let returned = outcomes.values().filter(|outcome| **outcome == Outcome::Returned).count();
    ensure!(returned == 0, "{returned} messages found no queue: it did not survive the restart");
    stage.fact(format!(
        "{} confirmed, 0 lost, 0 out of order; {} unknown to the publisher; broker away {:.1} s, lobby ready {:.1} s after",
        judged.confirmed,
        judged.unknown,
        (back - away).as_secs_f64(),
        recovered.as_secs_f64(),
    ));
    Ok((lobby, judged))
}
